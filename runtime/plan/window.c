/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * window.c - which buckets lie gathered at a point of the step, and rooms that buckets share in
 * turn.
 *
 * The compute instructions of a micro-batch read buckets in a known order; one use of one bucket is
 * a reference, and references are numbered through all micro-batches.  A bucket is gathered for a
 * stay: from its first reference to the last before more than `depth` other buckets come in
 * between, those of the instruction that reads it next not counted.  So what the turn from forward
 * to backward needs at once is not gathered twice.  The GATHER stands `depth` buckets ahead of the
 * first use, which is then behind the end of its last stay.
 *
 * A room is the memory of all gathered buckets, or of all gradients on their way.  Buckets that are
 * ever in it at one time get places apart.
 *
 * Tests   tests/plan/test_plan.c, tests/plan/test_stages.c
 */
#include <string.h>

#include "runtime/plan/schedule.h"

int ds__window_init(struct ds__window *window, struct ds_arena *arena, uint32_t positions)
{
    *window = (struct ds__window){.positions = positions};
    window->ref = ds_arena_alloc(arena, DS__USES * (size_t)positions, sizeof(*window->ref));
    return window->ref == NULL ? -ENOMEM : 0;
}

void ds__window_read(struct ds__window *window, uint32_t position, uint32_t bucket)
{
    unsigned wide = 1;

    while (wide <= window->refs && window->ref[window->refs - wide].position == position)
        wide++;
    window->widest = wide > window->widest ? wide : window->widest;
    window->ref[window->refs++] = (struct ds__ref){.position = position, .bucket = bucket};
}

/* What one position reads is there at once, and stays from one to the next. */
static unsigned depth_of(const struct ds__window *window)
{
    return window->depth + 1 < window->widest ? window->widest - 1 : window->depth;
}

static struct ds__ref ref_at(const struct ds__window *window, uint64_t ref)
{
    return window->ref[ref % window->refs];
}

uint32_t ds__window_bucket(const struct ds__window *window, uint64_t ref)
{
    return ref_at(window, ref).bucket;
}

uint64_t ds__window_position(const struct ds__window *window, uint64_t ref)
{
    return ref / window->refs * window->positions + ref_at(window, ref).position;
}

/* A few different buckets. */
struct few {
    uint32_t bucket[DS_MAX_PREFETCH + 1];
    unsigned count;
};

/* Count it; false when there are more than `most` now. */
static bool count(struct few *few, uint32_t bucket, unsigned most)
{
    for (unsigned i = 0; i < few->count; i++)
        if (few->bucket[i] == bucket)
            return true;
    if (few->count == most)
        return false;
    few->bucket[few->count++] = bucket;
    return true;
}

bool ds__window_arrives(const struct ds__window *window, uint64_t ref)
{
    uint64_t own = ds__window_position(window, ref);
    uint32_t bucket = ds__window_bucket(window, ref);
    struct few between = {.count = 0};

    while (ref-- > 0) {
        if (ds__window_position(window, ref) == own)
            continue;
        if (ds__window_bucket(window, ref) == bucket)
            return false;
        if (!count(&between, ds__window_bucket(window, ref), depth_of(window)))
            break;
    }
    return true;
}

/* Does the instruction of a reference read the bucket there or later? */
static bool reads(const struct ds__window *window, uint64_t ref, uint32_t bucket)
{
    const uint64_t end = window->rounds * window->refs;
    const uint64_t position = ds__window_position(window, ref);

    for (; ref < end && ds__window_position(window, ref) == position; ref++)
        if (ds__window_bucket(window, ref) == bucket)
            return true;
    return false;
}

bool ds__window_leaves(const struct ds__window *window, uint64_t ref)
{
    uint32_t bucket = ds__window_bucket(window, ref);
    struct few between = {.count = 0};

    while (++ref < window->rounds * window->refs) {
        if (reads(window, ref, bucket))
            return false;
        if (!count(&between, ds__window_bucket(window, ref), depth_of(window)))
            break;
    }
    return true;
}

uint64_t ds__window_issue(const struct ds__window *window, uint64_t ref)
{
    uint64_t own = ds__window_position(window, ref), at = own;
    struct few passed = {.count = 0};

    while (ref-- > 0) {
        uint64_t position = ds__window_position(window, ref);

        if (position == own)
            continue;
        if (!count(&passed, ds__window_bucket(window, ref), depth_of(window)))
            return at;
        at = position;
    }
    return 0;
}

/* --- rooms ----------------------------------------------------------------------------------- */

int ds__room_init(struct ds__room *room, struct ds_arena *arena, size_t buckets)
{
    *room = (struct ds__room){.buckets = buckets};
    room->inside = ds_arena_alloc(arena, buckets, sizeof(*room->inside));
    room->met = ds_arena_alloc(arena, buckets * buckets, sizeof(*room->met));
    room->at = ds_arena_alloc(arena, buckets, sizeof(*room->at));
    room->order = ds_arena_alloc(arena, buckets, sizeof(*room->order));
    return room->inside == NULL || room->met == NULL || room->at == NULL || room->order == NULL
               ? -ENOMEM
               : 0;
}

void ds__room_clear(struct ds__room *room)
{
    memset(room->inside, 0, room->buckets * sizeof(*room->inside));
    memset(room->met, 0, room->buckets * room->buckets * sizeof(*room->met));
    memset(room->at, 0, room->buckets * sizeof(*room->at));
}

void ds__room_enter(struct ds__room *room, uint32_t bucket)
{
    for (size_t i = 0; i < room->buckets; i++)
        if (room->inside[i] > 0 || i == bucket)
            room->met[i * room->buckets + bucket] = room->met[bucket * room->buckets + i] = 1;
    room->inside[bucket] = 1;
}

void ds__room_leave(struct ds__room *room, uint32_t bucket)
{
    room->inside[bucket] = 0;
}

/* The lowest place for `wanted` that no bucket of order[0 .. n), sorted by place, has met it at. */
static uint64_t lowest(const struct ds__room *room, const struct ds_bucket *bucket, size_t n,
                       uint32_t wanted)
{
    uint64_t at = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t other = room->order[i];

        if (!room->met[other * room->buckets + wanted] ||
            room->at[other] + bucket[other].padded_elems <= at)
            continue;
        if (room->at[other] >= at + bucket[wanted].padded_elems)
            break;
        at = room->at[other] + bucket[other].padded_elems;
    }
    return at;
}

/* Largest first, as they stand where equal: the same on every rank. */
static uint32_t largest_left(const struct ds__room *room, const struct ds_bucket *bucket)
{
    uint32_t best = UINT32_MAX;

    for (uint32_t i = 0; i < room->buckets; i++)
        if (room->met[i * room->buckets + i] == 1 &&
            (best == UINT32_MAX || bucket[i].padded_elems > bucket[best].padded_elems))
            best = i;
    return best;
}

uint64_t ds__room_pack(struct ds__room *room, const struct ds_bucket *bucket)
{
    uint64_t end = 0;
    uint32_t next;

    for (size_t n = 0; (next = largest_left(room, bucket)) != UINT32_MAX; n++) {
        size_t i = n;

        room->met[next * room->buckets + next] = 2; /* placed */
        room->at[next] = lowest(room, bucket, n, next);
        if (room->at[next] + bucket[next].padded_elems > end)
            end = room->at[next] + bucket[next].padded_elems;
        for (; i > 0 && room->at[room->order[i - 1]] > room->at[next]; i--)
            room->order[i] = room->order[i - 1];
        room->order[i] = next;
    }
    return end;
}
