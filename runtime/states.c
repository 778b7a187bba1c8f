/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * states.c - the contract is in states.h.
 */
#include "runtime/states.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/disk.h"

_Static_assert((int)DS_PIECE_ALIGN == (int)DS_DISK_ALIGN, "a piece is a transfer");

struct room {
    struct ds_disk_io load, store;
};

struct ds_states {
    const struct ds_plan *plan;
    struct ds_disk *disk;
    char *memory;
    struct room room[DS_PIECE_ROOMS];
    char what[64];
    char note[DS_MAX_ERROR_TEXT];
};

int ds_states_open(struct ds_states **out, const struct ds_plan *plan, const char *dir, void *rooms,
                   struct ds_error *err)
{
    struct ds_states *states = calloc(1, sizeof(*states));
    struct ds_disk_args args = {
        .dir = dir,
        .remedy = "set 'offload.optim' to cpu or none",
        .bytes = plan->disk_bytes,
        .block_bytes = DS_DISK_BLOCK_BYTES,
        .threads = DS_DISK_THREADS,
    };
    int rc;

    *out = NULL;
    if (states == NULL)
        return ds_fail(err, ENOMEM, "no memory for the file of the optimizer's states");
    states->plan = plan;
    states->memory = (char *)rooms + (DS_PIECE_ALIGN - (uintptr_t)rooms % DS_PIECE_ALIGN);
    (void)snprintf(states->what, sizeof(states->what), "the optimizer's states of rank %u",
                   plan->rank);
    args.what = states->what;
    rc = ds_disk_open(&states->disk, &args, err);
    if (rc != 0) {
        free(states);
        return ds_error_context(err, rc, "offload.path");
    }
    if (!ds_disk_is_direct(states->disk))
        (void)snprintf(states->note, sizeof(states->note),
                       "the file system of offload.path '%.200s' has no direct I/O: the "
                       "optimizer's states go through the page cache, which takes memory",
                       dir);
    *out = states;
    return 0;
}

void ds_states_close(struct ds_states *states)
{
    if (states == NULL)
        return;
    ds_disk_close(states->disk);
    free(states);
}

const char *ds_states_note(const struct ds_states *states)
{
    return states->note[0] != '\0' ? states->note : NULL;
}

/* --- a step ----------------------------------------------------------------------------------- */

static unsigned room_of(const struct ds_states *states, uint32_t piece)
{
    return piece % states->plan->piece_rooms;
}

static char *memory_of(const struct ds_states *states, uint32_t piece)
{
    return states->memory + room_of(states, piece) * states->plan->piece_room_bytes;
}

static void start(struct ds_states *states, uint32_t piece, bool write)
{
    const struct ds_plan_piece *of = &states->plan->piece[piece];
    struct room *room = &states->room[room_of(states, piece)];
    struct ds_disk_io *io = write ? &room->store : &room->load;

    io->write = write;
    io->at = of->at;
    io->bytes = of->bytes;
    io->memory = memory_of(states, piece);
    io->behind = write ? NULL : &room->store;
    ds_disk_start(states->disk, io);
}

void ds_states_load(struct ds_states *states, uint32_t piece)
{
    start(states, piece, false);
}

void ds_states_store(struct ds_states *states, uint32_t piece)
{
    start(states, piece, true);
}

int ds_states_use(struct ds_states *states, uint32_t piece, float *state[DS_OPTIM_STATES],
                  struct ds_error *err)
{
    float *memory = (float *)(void *)memory_of(states, piece);

    for (unsigned i = 0; i < states->plan->optim_states; i++)
        state[i] = memory + ds_plan_piece_state(states->plan, piece, i).at;
    return ds_disk_wait(states->disk, &states->room[room_of(states, piece)].load, err);
}

int ds_states_settle(struct ds_states *states, struct ds_error *err)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < states->plan->piece_rooms; i++) {
        rc = ds_disk_wait(states->disk, &states->room[i].load, err);
        if (rc == 0)
            rc = ds_disk_wait(states->disk, &states->room[i].store, err);
    }
    return rc;
}

/* --- between steps ---------------------------------------------------------------------------- */

/* Elements of the file that are `count` of a piece's, from `at` of it: a transfer of them through
 * the first room. */
struct window {
    uint64_t at, bytes; /* in the file, whole blocks */
    uint64_t skip;      /* bytes in front of what is asked for */
};

static struct window window_of(const struct ds_plan_piece *piece, uint64_t at, uint64_t count)
{
    uint64_t from = at * sizeof(float), to = from + count * sizeof(float);
    uint64_t first = from / DS_DISK_ALIGN * DS_DISK_ALIGN;
    uint64_t end = (to + DS_DISK_ALIGN - 1) / DS_DISK_ALIGN * DS_DISK_ALIGN;

    return (struct window){.at = piece->at + first, .bytes = end - first, .skip = from - first};
}

static int transfer(struct ds_states *states, const struct window *window, bool write,
                    struct ds_error *err)
{
    struct ds_disk_io io = {
        .write = write, .at = window->at, .bytes = window->bytes, .memory = states->memory};

    ds_disk_start(states->disk, &io);
    return ds_disk_wait(states->disk, &io, err);
}

/* Read `to`, or write `from`, which is not NULL then: `count` floats from `at` of a piece. */
static int move(struct ds_states *states, const struct ds_plan_piece *piece, uint64_t at,
                uint64_t count, float *to, const float *from, struct ds_error *err)
{
    struct window window = window_of(piece, at, count);
    int rc = transfer(states, &window, false, err);

    if (rc != 0)
        return rc;
    if (from == NULL) {
        memcpy(to, states->memory + window.skip, count * sizeof(*to));
        return 0;
    }
    memcpy(states->memory + window.skip, from, count * sizeof(*from));
    return transfer(states, &window, true, err);
}

static uint64_t line_begin(const struct ds_plan *plan, unsigned state)
{
    return state == 0 ? 0 : ds_plan_state_elems(plan, 0);
}

/* Every piece of every state that has some of first .. first + count. */
static int move_all(struct ds_states *states, uint64_t first, uint64_t count, float *to,
                    const float *from, struct ds_error *err)
{
    const struct ds_plan *plan = states->plan;
    int rc = ds_states_settle(states, err);

    for (unsigned state = 0; state < plan->optim_states; state++)
        for (uint32_t i = 0; rc == 0 && i < plan->pieces; i++) {
            struct ds_held has = ds_plan_piece_state(plan, i, state), part;

            has.first += line_begin(plan, state);
            part = ds_held_within(has, first, count);
            if (part.count > 0)
                rc = move(states, &plan->piece[i], part.at, part.count,
                          to != NULL ? to + part.first : NULL,
                          from != NULL ? from + part.first : NULL, err);
        }
    return rc;
}

int ds_states_read(struct ds_states *states, uint64_t first, float *to, uint64_t count,
                   struct ds_error *err)
{
    return move_all(states, first, count, to, NULL, err);
}

int ds_states_write(struct ds_states *states, uint64_t first, const float *from, uint64_t count,
                    struct ds_error *err)
{
    return move_all(states, first, count, NULL, from, err);
}

int ds_states_clear(struct ds_states *states, struct ds_error *err)
{
    int rc = ds_states_settle(states, err);

    memset(states->memory, 0, states->plan->piece_room_bytes);
    for (uint32_t i = 0; rc == 0 && i < states->plan->pieces; i++) {
        const struct ds_plan_piece *piece = &states->plan->piece[i];
        const struct window all = {.at = piece->at, .bytes = piece->bytes};

        rc = transfer(states, &all, true, err);
    }
    return rc;
}
