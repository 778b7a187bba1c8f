/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_group - groups split off a comm: their own ranks, their own tree, the same deadline and end.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "tests/comm/ranks.h"

enum { ELEMS = 12 * 1001, ROUNDS = 50, AGAIN = 10 };

struct mesh { /* nodes of `inside` consecutive ranks */
    unsigned world, inside;
};

static struct ranks setup_of(const struct mesh *mesh)
{
    return (struct ranks){.world = mesh->world,
                          .arena_bytes = ELEMS * sizeof(float),
                          .timeout_ms = 60000,
                          .user = mesh};
}

static struct ds_comm_group inside_of(const struct mesh *mesh, unsigned rank)
{
    return (struct ds_comm_group){
        .first = rank - rank % mesh->inside, .stride = 1, .count = mesh->inside};
}

static struct ds_comm_group across_of(const struct mesh *mesh, unsigned rank)
{
    return (struct ds_comm_group){
        .first = rank % mesh->inside, .stride = mesh->inside, .count = mesh->world / mesh->inside};
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) == 0;
}

/* Tree over the ranks of a node, then tree over nodes. */
static float nested(const struct mesh *mesh, unsigned lo, unsigned hi, size_t i)
{
    unsigned left = 1;

    if (hi - lo == 1)
        return ranks_tree(lo * mesh->inside, (lo + 1) * mesh->inside, i);
    while (left * 2 < hi - lo)
        left *= 2;
    return nested(mesh, lo, lo + left, i) + nested(mesh, lo + left, hi, i);
}

/* --- two axes -------------------------------------------------------------------------------- */

/* What a hybrid shard does each step: scatter inside, reduce across, gather inside. */
static int rank_hybrid(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct mesh *mesh = setup->user;
    const struct ds_comm_group in_group = inside_of(mesh, rank), out_group = across_of(mesh, rank);
    const size_t shard = ELEMS / mesh->inside, mine = (rank % mesh->inside) * shard;
    struct ds_comm *inside = NULL, *across = NULL;
    float *buf = ds_comm_arena(comm);
    struct ds_comm_stats stats;
    uint64_t split_ns = 0;
    struct ds_error err = {0};

    for (unsigned round = 0; round < ROUNDS; round++) {
        double flag = rank;

        if (round % AGAIN == 0) { /* more often than there may be groups */
            split_ns = ds_clock_mono_ns();
            ds_comm_close(inside);
            ds_comm_close(across);
            EXPECT_OK(ds_comm_split(comm, &in_group, &inside, &err), &err);
            EXPECT_OK(ds_comm_split(comm, &out_group, &across, &err), &err);
            EXPECT(ds_comm_rank(inside) == rank % mesh->inside);
            EXPECT(ds_comm_world(inside) == mesh->inside);
            EXPECT(ds_comm_rank(across) == rank / mesh->inside);
            EXPECT(ds_comm_arena(across) == ds_comm_arena(comm));
            ds_comm_stats(inside, &stats);
            EXPECT(stats.calls == 0 && stats.bytes == 0);
        }
        for (size_t i = 0; i < ELEMS; i++)
            buf[i] = ranks_value(rank, i + round);
        EXPECT_OK(ds_comm_reduce_scatter_f32(inside, buf, ELEMS, &err), &err);
        EXPECT_OK(ds_comm_all_reduce_f32(across, buf + mine, shard, &err), &err);
        EXPECT_OK(ds_comm_all_gather(inside, buf, ELEMS * sizeof(*buf), &err), &err);
        for (size_t i = 0; i < ELEMS; i++)
            EXPECT(same(buf[i], nested(mesh, 0, mesh->world / mesh->inside, i + round)));
        EXPECT_OK(ds_comm_all_reduce_f64(comm, &flag, 1, &err), &err);
        EXPECT(flag == (double)(mesh->world * (mesh->world - 1)) / 2);
        ds_comm_stats(inside, &stats); /* of this user of the group alone */
        EXPECT(stats.wait_ns <= ds_clock_mono_ns() - split_ns);
        EXPECT(stats.work_ns <= ds_clock_mono_ns() - split_ns);
    }
    ds_comm_close(inside);
    ds_comm_close(across);
    return 0;
}

Test(group, hybrid_shards_sum_inside_then_across)
{
    static const struct mesh meshes[] = {{4, 2}, {4, 1}, {4, 4}, {6, 2}, {6, 3}, {8, 4}, {1, 1}};

    for (size_t i = 0; i < sizeof(meshes) / sizeof(meshes[0]); i++)
        cr_assert(ranks_run(setup_of(&meshes[i]), rank_hybrid) == 0, "mesh %zu", i);
}

Test(group, nodes_of_a_power_of_two_are_the_one_tree)
{
    static const struct mesh meshes[] = {{4, 2}, {6, 2}, {8, 4}, {7, 1}, {12, 4}};

    for (size_t m = 0; m < sizeof(meshes) / sizeof(meshes[0]); m++)
        for (size_t i = 0; i < 1000; i++)
            cr_assert(same(nested(&meshes[m], 0, meshes[m].world / meshes[m].inside, i),
                           ranks_tree(0, meshes[m].world, i)));
}

/* Buffers outside the arena, in groups that share windows. */
static int rank_staged(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct mesh *mesh = setup->user;
    const struct ds_comm_group group[] = {inside_of(mesh, rank), across_of(mesh, rank)};
    struct ds_comm *sub[2] = {NULL, NULL};
    float *buf = malloc(ELEMS * sizeof(*buf));
    struct ds_error err = {0};

    for (size_t g = 0; g < 2; g++)
        EXPECT_OK(ds_comm_split(comm, &group[g], &sub[g], &err), &err);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (size_t g = 0; g < 2; g++) {
            float sum = 0;

            for (size_t i = 0; i < ELEMS; i++)
                buf[i] = (float)(rank + 1);
            for (unsigned i = 0; i < group[g].count; i++)
                sum += (float)(group[g].first + i * group[g].stride + 1);
            EXPECT_OK(ds_comm_all_reduce_f32(sub[g], buf, ELEMS, &err), &err);
            for (size_t i = 0; i < ELEMS; i++)
                EXPECT(buf[i] == sum);
            EXPECT_OK(ds_comm_broadcast(sub[g], buf, 4, group[g].count - 1, &err), &err);
        }
    free(buf);
    ds_comm_close(sub[0]);
    ds_comm_close(sub[1]);
    return 0;
}

Test(group, buffers_anywhere)
{
    static const struct mesh mesh = {4, 2};

    cr_assert(ranks_run(setup_of(&mesh), rank_staged) == 0);
}

enum { PART_MAX = 12007 };

/* All groups of a kind at the same time, each at its own pace: from the arena and from elsewhere, of
 * any number of bytes. */
static int rank_swaps(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct mesh *mesh = setup->user;
    const struct ds_comm_group group[] = {inside_of(mesh, rank), across_of(mesh, rank)};
    unsigned char *heap = malloc(RANKS_MAX * PART_MAX), *to = malloc(RANKS_MAX * PART_MAX);
    struct ds_comm *sub[2] = {NULL, NULL};
    struct ds_error err = {0};

    for (size_t g = 0; g < 2; g++)
        EXPECT_OK(ds_comm_split(comm, &group[g], &sub[g], &err), &err);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (size_t g = 0; g < 2; g++) {
            unsigned char *from = (round + g) % 2 == 0 ? ds_comm_arena(comm) : heap;
            size_t part = round * 241 % PART_MAX;

            if (group[g].count * part > setup->arena_bytes)
                part = setup->arena_bytes / group[g].count;
            for (unsigned i = 0; i < group[g].count; i++)
                memset(from + i * part, (int)(rank * 8 + i + round), part);
            EXPECT_OK(ds_comm_all_to_all(sub[g], from, to, group[g].count * part, &err), &err);
            for (unsigned i = 0; i < group[g].count; i++) {
                unsigned its = group[g].first + i * group[g].stride;
                unsigned char want = (unsigned char)(its * 8 + ds_comm_rank(sub[g]) + round);

                for (size_t at = i * part; at < (i + 1) * part; at++)
                    EXPECT(to[at] == want);
            }
        }
    ds_comm_close(sub[0]);
    ds_comm_close(sub[1]);
    free(heap);
    free(to);
    return 0;
}

Test(group, groups_swap_beside_each_other)
{
    static const struct mesh meshes[] = {{4, 2}, {4, 4}, {6, 3}, {6, 2}, {8, 4}, {8, 2}, {3, 1}};

    for (size_t i = 0; i < sizeof(meshes) / sizeof(meshes[0]); i++)
        cr_assert(ranks_run(setup_of(&meshes[i]), rank_swaps) == 0, "mesh %zu", i);
}

/* --- what is refused ------------------------------------------------------------------------- */

static int rank_wrong(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    static const struct ds_comm_group wrong[] = {
        {.first = 0, .stride = 1, .count = 0},          {.first = 0, .stride = 0, .count = 1},
        {.first = 2, .stride = 1, .count = 1},          {.first = 0, .stride = 2, .count = 2},
        {.first = 1, .stride = UINT32_MAX, .count = 2},
    };
    struct ds_comm_group other = {.first = 1 - rank, .stride = 1, .count = 1};
    struct ds_comm_group alone = {.first = rank, .stride = 1, .count = 1};
    struct ds_comm *sub = NULL, *again = NULL, *more[DS_COMM_MAX_GROUPS];
    struct ds_error err = {0};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        EXPECT(ds_comm_split(comm, &wrong[i], &sub, &err) == -EINVAL);
    EXPECT(ds_comm_split(comm, &other, &sub, &err) == -EINVAL);
    EXPECT(strstr(err.text, "is not in the group of 1 ranks") != NULL);
    EXPECT_OK(ds_comm_split(comm, &alone, &sub, &err), &err);
    EXPECT(ds_comm_split(sub, &(struct ds_comm_group){0, 1, 1}, &again, &err) == -EINVAL);
    for (unsigned i = 1; i < DS_COMM_MAX_GROUPS; i++)
        EXPECT_OK(ds_comm_split(comm, &alone, &more[i], &err), &err);
    EXPECT(ds_comm_split(comm, &alone, &again, &err) == -EINVAL);
    ds_comm_close(sub);
    for (unsigned i = 1; i < DS_COMM_MAX_GROUPS; i++)
        ds_comm_close(more[i]);
    EXPECT_OK(ds_comm_split(comm, &alone, &sub, &err), &err); /* one of those */
    ds_comm_close(sub);
    return 0;
}

Test(group, wrong_groups_are_refused)
{
    static const struct mesh mesh = {2, 1};

    cr_assert(ranks_run(setup_of(&mesh), rank_wrong) == 0);
}

static int rank_disagree(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_comm_group group = {.first = 0, .stride = 1, .count = rank == 2 ? 3 : 2};
    struct ds_comm *sub = NULL;
    struct ds_error err = {0};

    EXPECT(ds_comm_split(comm, &group, &sub, &err) == -EPROTO);
    EXPECT(strstr(err.text, "rank 2 splits off 3 ranks from 0 by 1, rank 0 2 from 0 by 1") != NULL);
    return 0;
}

Test(group, members_that_disagree_are_told)
{
    static const struct mesh mesh = {3, 1};

    cr_assert(ranks_run(setup_of(&mesh), rank_disagree) == 0);
}

/* --- the end --------------------------------------------------------------------------------- */

/* Ranks 0 and 1 wait for each other's node in vain; rank 3, in another group, ends the job. */
static int rank_abort(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct mesh *mesh = setup->user;
    const struct ds_comm_group group = inside_of(mesh, rank);
    const struct timespec nap = {.tv_nsec = 50 * 1000 * 1000};
    struct ds_comm *sub = NULL;
    struct ds_error err = {0};

    EXPECT_OK(ds_comm_split(comm, &group, &sub, &err), &err);
    if (rank == 3) {
        (void)nanosleep(&nap, NULL);
        ds_comm_abort(sub);
    }
    if (rank != 1)
        EXPECT(ds_comm_barrier(sub, &err) == -ECANCELED);
    if (rank == 0)
        EXPECT(strstr(err.text, "rank 3") != NULL);
    EXPECT(ds_comm_barrier(comm, &err) == -ECANCELED);
    ds_comm_close(sub);
    return 0;
}

Test(group, abort_of_a_group_ends_every_wait_of_the_job)
{
    static const struct mesh mesh = {4, 2};
    struct ranks setup = setup_of(&mesh);

    setup.timeout_ms = 0;
    cr_assert(ranks_run(setup, rank_abort) == 0);
}

static int rank_missing(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct mesh *mesh = setup->user;
    const struct ds_comm_group group = across_of(mesh, rank);
    struct ds_comm *sub = NULL;
    struct ds_error err = {0};

    EXPECT_OK(ds_comm_split(comm, &group, &sub, &err), &err);
    if (rank == 1) {
        EXPECT(ds_comm_barrier(sub, &err) == -ETIMEDOUT);
        EXPECT(strstr(err.text, "rank 3 did not come to barrier") != NULL);
    }
    ds_comm_close(sub);
    return 0;
}

Test(group, a_member_that_stays_away_is_named_by_its_rank_in_the_job)
{
    static const struct mesh mesh = {4, 2};
    struct ranks setup = setup_of(&mesh);

    setup.timeout_ms = 300;
    cr_assert(ranks_run(setup, rank_missing) == 0);
}

/* --- counters -------------------------------------------------------------------------------- */

static int rank_stats(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct mesh *mesh = setup->user;
    const struct ds_comm_group group = inside_of(mesh, rank);
    struct ds_comm_stats stats, all;
    struct ds_comm *sub = NULL;
    float *buf = ds_comm_arena(comm);

    EXPECT(ds_comm_split(comm, &group, &sub, NULL) == 0);
    EXPECT(ds_comm_reduce_scatter_f32(sub, buf, 1000, NULL) == 0);
    EXPECT(ds_comm_reduce_scatter_f32(sub, buf, 2000, NULL) == 0);
    EXPECT(ds_comm_all_reduce_f32(sub, buf, 100, NULL) == 0);
    ds_comm_op_stats(sub, DS_COMM_REDUCE_SCATTER, &stats);
    EXPECT(stats.calls == 2 && stats.bytes == 3000 * sizeof(float) / 2);
    ds_comm_op_stats(sub, DS_COMM_ALL_REDUCE_F32, &stats);
    EXPECT(stats.calls == 1 && stats.bytes == 2 * 100 * sizeof(float) / 2);
    ds_comm_op_stats(sub, DS_COMM_BROADCAST, &stats);
    EXPECT(stats.calls == 0 && stats.bytes == 0 && stats.wait_ns == 0);
    ds_comm_stats(sub, &all);
    EXPECT(all.calls == 3 && all.bytes == 1500 * sizeof(float) + 100 * sizeof(float));
    ds_comm_close(sub);
    return 0;
}

Test(group, counted_by_operation_with_the_size_of_the_group)
{
    static const struct mesh mesh = {4, 2};

    cr_assert(ranks_run(setup_of(&mesh), rank_stats) == 0);
}
