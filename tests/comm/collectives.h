/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * collectives.h - one collective, checked to the bit on every rank, wherever buffers lie: for tests
 * of one host and of several.
 */
#ifndef DS_TESTS_COMM_COLLECTIVES_H
#define DS_TESTS_COMM_COLLECTIVES_H

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/comm/ranks.h"

/* Where a buffer is: in the arena, on the heap, rank 0's alone on the heap, or in the arena at an
 * offset of its own on each rank. */
enum place { INSIDE, OUTSIDE, MIXED, SHIFTED, PLACES };

enum { TASK_MARGIN = 64 }; /* elements of the arena beyond `n` */

struct task {
    unsigned world;
    size_t n; /* elements of fp32; for a reduce-scatter a multiple of the world */
    enum place place;
    unsigned root, roots; /* of a broadcast: how many ranks in turn, from which on */
    unsigned turn; /* in a row: moves the numbers, so that what one before left behind is seen */
    int (*check)(const struct task *setup, unsigned rank, struct ds_comm *comm);
};

static inline size_t task_arena_bytes(const struct task *task)
{
    return (task->n + TASK_MARGIN) * sizeof(float);
}

static inline bool task_outside(const struct task *task, unsigned rank)
{
    return task->place == OUTSIDE || (task->place == MIXED && rank == 0);
}

static inline void *task_buffer(const struct task *task, unsigned rank, struct ds_comm *comm)
{
    size_t offset = task->place == SHIFTED ? (rank + 1) * sizeof(float) : 0;

    if (task_outside(task, rank))
        return malloc(task_arena_bytes(task));
    return (char *)ds_comm_arena(comm) + offset;
}

static inline void task_drop(const struct task *task, unsigned rank, void *buf)
{
    if (task_outside(task, rank))
        free(buf);
}

static inline bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) == 0;
}

static inline int check_all_reduce(const struct task *setup, unsigned rank, struct ds_comm *comm)
{
    float *buf = task_buffer(setup, rank, comm);
    struct ds_error err = {0};

    for (size_t i = 0; i < setup->n; i++)
        buf[i] = ranks_value(rank, i + setup->turn);
    EXPECT_OK(ds_comm_all_reduce_f32(comm, buf, setup->n, &err), &err);
    for (size_t i = 0; i < setup->n; i++)
        EXPECT(same(buf[i], ranks_tree(0, setup->world, i + setup->turn)));
    task_drop(setup, rank, buf);
    return 0;
}

static inline int check_reduce_scatter(const struct task *setup, unsigned rank,
                                       struct ds_comm *comm)
{
    float *buf = task_buffer(setup, rank, comm);
    size_t shard = setup->n / setup->world;
    struct ds_error err = {0};

    for (size_t i = 0; i < setup->n; i++)
        buf[i] = ranks_value(rank, i + setup->turn);
    EXPECT_OK(ds_comm_reduce_scatter_f32(comm, buf, setup->n, &err), &err);
    for (size_t i = rank * shard; i < (rank + 1) * shard; i++)
        EXPECT(same(buf[i], ranks_tree(0, setup->world, i + setup->turn)));
    task_drop(setup, rank, buf);
    return 0;
}

/* Shards are bytes and need not be aligned: as many as elements where that many fit. */
static inline int check_all_gather(const struct task *setup, unsigned rank, struct ds_comm *comm)
{
    unsigned char *buf = task_buffer(setup, rank, comm);
    size_t room = task_arena_bytes(setup) - RANKS_MAX * sizeof(float), shard = setup->n;
    struct ds_error err = {0};

    if (shard * setup->world > room)
        shard = room / setup->world;
    memset(buf, 0xee, shard * setup->world);
    for (size_t i = 0; i < shard; i++)
        buf[rank * shard + i] = (unsigned char)(rank * 7 + i + setup->turn);
    EXPECT_OK(ds_comm_all_gather(comm, buf, shard * setup->world, &err), &err);
    for (unsigned peer = 0; peer < setup->world; peer++)
        for (size_t i = 0; i < shard; i++)
            EXPECT(buf[peer * shard + i] == (unsigned char)(peer * 7 + i + setup->turn));
    task_drop(setup, rank, buf);
    return 0;
}

static inline unsigned char swap_value(unsigned from, unsigned to, size_t i)
{
    return (unsigned char)(i * 131 + i / 255 + from * 17 + to * 59 + 1);
}

/* Parts are bytes, too; what is taken lies behind what is given on ranks of even number, elsewhere
 * on others.  Twice, for what is given may change as soon as a call returns. */
static inline int check_all_to_all(const struct task *setup, unsigned rank, struct ds_comm *comm)
{
    unsigned char *from = task_buffer(setup, rank, comm), *own, *to;
    size_t room = (task_arena_bytes(setup) - RANKS_MAX * sizeof(float)) / 2;
    size_t part = setup->n < room / setup->world ? setup->n : room / setup->world;
    size_t bytes = part * setup->world;
    struct ds_error err = {0};

    own = malloc(bytes + 1);
    to = rank % 2 == 0 ? from + bytes : own;
    for (size_t round = setup->turn; round < setup->turn + 2U; round++) {
        for (unsigned peer = 0; peer < setup->world; peer++)
            for (size_t i = 0; i < part; i++)
                from[peer * part + i] = swap_value(rank, peer, i + round);
        memset(to, 0xee, bytes + 1);
        EXPECT_OK(ds_comm_all_to_all(comm, from, to, bytes, &err), &err);
        for (unsigned peer = 0; peer < setup->world; peer++)
            for (size_t i = 0; i < part; i++)
                EXPECT(to[peer * part + i] == swap_value(peer, rank, i + round) &&
                       from[peer * part + i] == swap_value(rank, peer, i + round));
        EXPECT(to[bytes] == 0xee);
    }
    free(own);
    task_drop(setup, rank, from);
    return 0;
}

/* One way, both ways, the other way; what was given may change as soon as a call returns. */
static inline int pass_all_ways(const struct task *setup, unsigned rank, unsigned other,
                                struct ds_comm *pair, unsigned char *from, unsigned char *to)
{
    const size_t bytes = setup->n * sizeof(float) - 1;
    struct ds_error err = {0};

    for (unsigned round = 0; round < 4; round++) {
        bool gives = round != (ds_comm_rank(pair) == 0 ? 2 : 0);
        bool takes = round != (ds_comm_rank(pair) == 0 ? 0 : 2);

        for (size_t i = 0; i < bytes; i++)
            from[i] = swap_value(rank, other, i + round + setup->turn);
        memset(to, 0xee, bytes + 1);
        EXPECT_OK(ds_comm_pass(pair, gives ? from : NULL, takes ? to : NULL, bytes, &err), &err);
        for (size_t i = 0; i < bytes; i++)
            EXPECT(to[i] == (takes ? swap_value(other, rank, i + round + setup->turn) : 0xee));
        EXPECT(to[bytes] == 0xee);
    }
    return 0;
}

/* Between neighbours in a line of all ranks: those from even ones on, then the others.  Whoever is
 * alone makes a group of itself. */
static inline int check_pass(const struct task *setup, unsigned rank, struct ds_comm *comm)
{
    unsigned char *from = task_buffer(setup, rank, comm), *to;
    size_t bytes = setup->n * sizeof(float) - 1;
    struct ds_error err = {0};

    to = malloc(bytes + 1);
    for (unsigned odd = 0; odd < 2; odd++) {
        unsigned first = rank % 2 == odd ? rank : rank - 1, count = 2;
        struct ds_comm *pair = NULL;
        int line = 0;

        if (first > rank || first + 1 >= setup->world) {
            first = rank;
            count = 1;
        }
        const struct ds_comm_group group = {.first = first, .stride = 1, .count = count};

        EXPECT_OK(ds_comm_split(comm, &group, &pair, &err), &err);
        if (count == 2)
            line = pass_all_ways(setup, rank, rank == first ? rank + 1 : first, pair, from, to);
        else
            EXPECT(ds_comm_pass(pair, from, to, bytes, &err) == -EINVAL);
        EXPECT(line == 0);
        ds_comm_close(pair);
    }
    free(to);
    task_drop(setup, rank, from);
    return 0;
}

static inline int check_broadcast(const struct task *setup, unsigned rank, struct ds_comm *comm)
{
    size_t bytes = setup->n * sizeof(float) - 1; /* any number of bytes */
    unsigned char *buf = task_buffer(setup, rank, comm);
    struct ds_error err = {0};

    for (unsigned turn = 0; turn < setup->roots; turn++) {
        unsigned root = (setup->root + turn) % setup->world;

        for (size_t i = 0; i < bytes; i++)
            buf[i] = (unsigned char)(i * 7 + rank * 31 + setup->turn);
        EXPECT_OK(ds_comm_broadcast(comm, buf, bytes, root, &err), &err);
        for (size_t i = 0; i < bytes; i++)
            EXPECT(buf[i] == (unsigned char)(i * 7 + root * 31 + setup->turn));
    }
    task_drop(setup, rank, buf);
    return 0;
}

/* --- many on one communicator: to start processes for each costs more than to check it --------- */

/* Every size with every place in a row. */
struct row {
    struct task task; /* what all have */
    const size_t *sizes;
    unsigned n_sizes, n_places;
    unsigned begin; /* which comes first: another one in each row, so that each does somewhere */
    bool multiple;  /* sizes are times the world */
    bool largest_inside; /* the last size is in the arena only */
};

static inline size_t row_arena_bytes(const struct row *row)
{
    struct task task = row->task;

    for (unsigned i = 0; i < row->n_sizes; i++)
        if (row->sizes[i] > task.n)
            task.n = row->sizes[i];
    task.n *= row->multiple ? task.world : 1;
    return task_arena_bytes(&task);
}

static inline int check_row(const struct row *row, unsigned rank, struct ds_comm *comm)
{
    const unsigned tasks = row->n_sizes * row->n_places;

    for (unsigned turn = 0; turn < tasks; turn++) {
        const unsigned which = (row->begin + turn) % tasks, size = which / row->n_places;
        struct task task = row->task;
        int line;

        task.turn = turn;
        task.n = row->sizes[size] * (row->multiple ? task.world : 1);
        task.place = (enum place)(which % row->n_places);
        task.root = which % task.world;
        if (row->largest_inside && size == row->n_sizes - 1 && task.place != INSIDE)
            continue;
        line = task.check(&task, rank, comm);
        if (line != 0) {
            fprintf(stderr, "    %zu elements, place %d, turn %u\n", task.n, (int)task.place, turn);
            return line;
        }
    }
    return 0;
}

#endif
