/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_net - the collectives between hosts: every operation, however the ranks are placed, wherever
 * buffers lie, to the bit; and the bytes on the wire are those of the formulas.
 */
#include <criterion/criterion.h>

#include "runtime/comm/host.h"
#include "tests/comm/collectives.h"
#include "tests/comm/hosts.h"

enum { BIG = 300007 / RANKS_LESS, ROUNDS = 100 / RANKS_LESS };

/* Worlds of 2, 3, 4, 5, 6 and 8 ranks on hosts of all kinds. */
static const unsigned placements[][RANKS_MAX + 1] = {
    {1, 1},
    {1, 1, 1},
    {2, 1},
    {1, 2},
    {4},
    {1, 1, 1, 1},
    {2, 2},
    {3, 1},
    {1, 3},
    {2, 1, 1},
    {1, 2, 1},
    {3, 2},
    {1, 1, 2, 1},
    {4, 2},
    {3, 3},
    {2, 4},
    {1, 5},
    {4, 4},
    {5, 3},
    {1, 6, 1},
    {2, 2, 2, 2},
    {3, 2, 3},
    {1, 1, 1, 1, 1, 1, 1, 1},
};

enum { PLACEMENTS = sizeof(placements) / sizeof(placements[0]) };

static const size_t sizes[] = {1, 15, 17, 4099, BIG};

static struct hosts setup_of(const unsigned *count, const void *task, size_t n)
{
    struct hosts setup = {
        .arena_bytes = (n + TASK_MARGIN) * sizeof(float), .timeout_ms = 60000, .user = task};

    memcpy(setup.count, count, sizeof(setup.count));
    return setup;
}

static unsigned world_of(const unsigned *count)
{
    unsigned world = 0;

    while (*count > 0)
        world += *count++;
    return world;
}

static int rank_row(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    return check_row(setup->user, rank, comm);
}

/* `task.check` wherever ranks are, with every size and place; sizes times the world where `multiple`. */
static void for_every(struct task task, bool multiple)
{
    for (unsigned p = 0; p < PLACEMENTS; p++) {
        struct row row = {.task = task,
                          .sizes = sizes,
                          .n_sizes = sizeof(sizes) / sizeof(sizes[0]),
                          .n_places = SHIFTED,
                          .multiple = multiple,
                          .largest_inside = p % 3 != 0, /* enough of the slow ones */
                          .begin = p};
        struct hosts setup = {.timeout_ms = 60000, .user = &row};
        int line;

        row.task.world = world_of(placements[p]);
        row.task.roots = 1;
        memcpy(setup.count, placements[p], sizeof(setup.count));
        setup.arena_bytes = row_arena_bytes(&row);
        line = hosts_run(setup, rank_row);
        cr_assert(line == 0, "placement %u: line %d", p, line);
    }
}

/* --- every operation, to the bit -------------------------------------------------------------- */

Test(net, all_reduce_is_the_one_tree_wherever_ranks_are)
{
    for_every((struct task){.check = check_all_reduce}, false);
}

Test(net, reduce_scatter_leaves_each_rank_its_shard)
{
    for_every((struct task){.check = check_reduce_scatter}, true);
}

Test(net, all_gather_gives_everyone_everything)
{
    for_every((struct task){.check = check_all_gather}, false);
}

Test(net, all_to_all_gives_each_its_part)
{
    for_every((struct task){.check = check_all_to_all}, false);
}

Test(net, pass_gives_the_other_what_it_takes)
{
    for_every((struct task){.check = check_pass}, false);
}

Test(net, broadcast_from_any_rank)
{
    for_every((struct task){.check = check_broadcast}, false);
}

static double tree_f64(unsigned lo, unsigned hi, size_t i)
{
    unsigned left = 1;

    if (hi - lo == 1)
        return (double)ranks_value(lo, i) * 1.0000000001;
    while (left * 2 < hi - lo)
        left *= 2;
    return tree_f64(lo, lo + left, i) + tree_f64(lo + left, hi, i);
}

static int rank_small(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};
    double x[DS_COMM_MAX_F64];

    for (size_t round = 0; round < ROUNDS; round++) {
        size_t n = round % (DS_COMM_MAX_F64 + 1);

        for (size_t i = 0; i < n; i++)
            x[i] = (double)ranks_value(rank, i + round) * 1.0000000001;
        EXPECT_OK(ds_comm_all_reduce_f64(comm, x, n, &err), &err);
        for (size_t i = 0; i < n; i++)
            EXPECT(x[i] == tree_f64(0, setup->world, i + round));
        EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    }
    return 0;
}

Test(net, small_sums_and_barriers)
{
    for (size_t p = 0; p < PLACEMENTS; p++)
        cr_assert(hosts_run(setup_of(placements[p], NULL, 0), rank_small) == 0, "placement %zu", p);
}

/* --- groups ----------------------------------------------------------------------------------- */

enum { MESH_ELEMS = 12 * 1001 };

/* What goes across, now from the arena and now from elsewhere, between the other collectives of the
 * same connections. */
static int swap_in(const struct hosts *setup, unsigned rank, struct ds_comm *group, unsigned round)
{
    const unsigned world = ds_comm_world(group), me = ds_comm_rank(group);
    uint32_t heap[RANKS_MAX], take[RANKS_MAX];
    uint32_t *give = round % 2 == 0 ? ds_comm_arena(group) : heap;
    struct ds_error err = {0};

    for (uint32_t i = 0; i < world; i++)
        give[i] = rank << 16 | i << 8 | round;
    EXPECT_OK(ds_comm_all_to_all(group, give, take, world * sizeof(*give), &err), &err);
    for (uint32_t i = 0; i < world; i++)
        EXPECT((take[i] & 0xffff) == (me << 8 | round));
    for (uint32_t i = 1; i < world; i++)
        EXPECT(take[i] >> 16 > take[i - 1] >> 16);
    EXPECT(take[me] >> 16 == rank);
    return 0;
}

/* Groups of `inside` consecutive ranks and those across, whatever the hosts. */
static int rank_hybrid(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const unsigned inside = *(const unsigned *)setup->user, world = setup->world;
    const struct ds_comm_group in_group = {
        .first = rank - rank % inside, .stride = 1, .count = inside};
    const struct ds_comm_group out_group = {
        .first = rank % inside, .stride = inside, .count = world / inside};
    const size_t shard = MESH_ELEMS / inside;
    struct ds_comm *in = NULL, *across = NULL;
    float *buf = ds_comm_arena(comm);
    struct ds_error err = {0};

    EXPECT_OK(ds_comm_split(comm, &in_group, &in, &err), &err);
    EXPECT_OK(ds_comm_split(comm, &out_group, &across, &err), &err);
    for (unsigned round = 0; round < 5; round++) {
        double flag = 1;

        EXPECT(swap_in(setup, rank, in, round) == 0);
        EXPECT(swap_in(setup, rank, across, round + 1) == 0);
        EXPECT(swap_in(setup, rank, comm, round) == 0);
        for (size_t i = 0; i < MESH_ELEMS; i++)
            buf[i] = ranks_value(rank, i + round);
        EXPECT_OK(ds_comm_reduce_scatter_f32(in, buf, MESH_ELEMS, &err), &err);
        EXPECT_OK(ds_comm_all_reduce_f32(across, buf + (rank % inside) * shard, shard, &err), &err);
        EXPECT_OK(ds_comm_all_gather(in, buf, MESH_ELEMS * sizeof(*buf), &err), &err);
        for (size_t i = 0; i < MESH_ELEMS; i++)
            EXPECT(same(buf[i], ranks_tree(0, world, i + round))); /* powers of two */
        EXPECT_OK(ds_comm_all_reduce_f64(comm, &flag, 1, &err), &err);
        EXPECT(flag == world);
    }
    ds_comm_close(in);
    ds_comm_close(across);
    return 0;
}

Test(net, hybrid_shards_across_hosts)
{
    static const struct {
        unsigned count[RANKS_MAX + 1], inside;
    } cases[] = {{{2, 2}, 2}, {{1, 1, 1, 1}, 2}, {{3, 1}, 2}, {{2, 2, 2}, 2},
                 {{4, 4}, 4}, {{2, 4, 2}, 2},    {{1, 3}, 1}, {{5, 3}, 4}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert(hosts_run(setup_of(cases[i].count, &cases[i].inside, MESH_ELEMS), rank_hybrid) ==
                      0,
                  "case %zu", i);
}

/* --- bytes on the wire ------------------------------------------------------------------------ */

/* One rank a host: what is sent is what the formulas say, to the byte where shards are equal. */
static int rank_wire(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const size_t n = 16 * 1024 * setup->world;
    const uint64_t once = n * sizeof(float) / setup->world * (setup->world - 1);
    float *buf = ds_comm_arena(comm), *to = malloc(n * sizeof(*buf));
    struct ds_comm_stats stats;

    memset(buf, 0, n * sizeof(*buf));
    EXPECT(ds_comm_all_to_all(comm, buf, to, n * sizeof(*buf), NULL) == 0);
    free(to);
    ds_comm_op_stats(comm, DS_COMM_ALL_TO_ALL, &stats);
    EXPECT(stats.sent == once && stats.bytes == stats.sent);
    EXPECT(ds_comm_all_reduce_f32(comm, buf, n, NULL) == 0);
    EXPECT(ds_comm_reduce_scatter_f32(comm, buf, n, NULL) == 0);
    EXPECT(ds_comm_all_gather(comm, buf, n * sizeof(*buf), NULL) == 0);
    ds_comm_op_stats(comm, DS_COMM_ALL_REDUCE_F32, &stats);
    EXPECT(stats.sent == 2 * once && stats.bytes == stats.sent);
    ds_comm_op_stats(comm, DS_COMM_REDUCE_SCATTER, &stats);
    EXPECT(stats.sent == once && stats.bytes == stats.sent);
    ds_comm_op_stats(comm, DS_COMM_ALL_GATHER, &stats);
    EXPECT(stats.sent == once && stats.bytes == stats.sent);
    return 0;
}

Test(net, bytes_sent_are_two_one_one)
{
    static const unsigned counts[][RANKS_MAX + 1] = {
        {1, 1}, {1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1, 1}};

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        cr_assert(hosts_run(setup_of(counts[i], NULL, 5 * 16 * 1024), rank_wire) == 0, "%zu", i);
}

/* Two ranks on each of two hosts: a host sends its sums once, not its ranks' numbers. */
static int rank_wire_shared(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const size_t n = 64 * 1024;
    float *buf = ds_comm_arena(comm), *to = malloc(n * sizeof(*buf));
    struct ds_comm_stats stats;

    memset(buf, 0, n * sizeof(*buf));
    EXPECT(ds_comm_reduce_scatter_f32(comm, buf, n, NULL) == 0);
    ds_comm_op_stats(comm, DS_COMM_REDUCE_SCATTER, &stats);
    EXPECT(stats.sent >= n * sizeof(float) / 4 && stats.sent < n * sizeof(float) / 4 + 64);
    EXPECT(ds_comm_all_to_all(comm, buf, to, n * sizeof(*buf), NULL) == 0);
    free(to);
    ds_comm_op_stats(comm, DS_COMM_ALL_TO_ALL, &stats);
    EXPECT(stats.sent == n * sizeof(float) / 2); /* its own part and its neighbour's stay */
    return 0;
}

Test(net, a_host_sends_its_sum_once_and_parts_where_they_go)
{
    static const unsigned count[RANKS_MAX + 1] = {2, 2};

    cr_assert(hosts_run(setup_of(count, NULL, 64 * 1024), rank_wire_shared) == 0);
}

/* --- memory ----------------------------------------------------------------------------------- */

/* What a plan counts is what a rank has: of all ranks, and of the groups of hybrid shards. */
static int rank_staging(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    unsigned local = setup->count[0];
    const struct ds_comm_group group[] = {
        {.first = 0, .stride = 1, .count = setup->world},
        {.first = rank / local * local, .stride = 1, .count = local},
        {.first = rank % local, .stride = local, .count = setup->world / local},
    };
    struct ds_error err = {0};

    for (unsigned i = 0; i < 3; i++) {
        struct ds_comm *of = comm;
        size_t bytes;

        if (i > 0)
            EXPECT_OK(ds_comm_split(comm, &group[i], &of, &err), &err);
        EXPECT_OK(ds_comm_staging_bytes(&group[i], rank, local, &bytes, &err), &err);
        EXPECT(bytes == ((struct ds__host *)of)->net.stage_bytes);
        EXPECT((i == 1) == (bytes == 0));
        EXPECT(bytes <= DS_NET_STAGE_BYTES + DS_NET_CHUNK_MAX);
        if (i > 0)
            ds_comm_close(of);
    }
    return 0;
}

Test(net, staging_is_known_before)
{
    static const unsigned counts[][RANKS_MAX + 1] = {{2, 2}, {3, 3}, {1, 1, 1}, {4, 4}, {2, 2, 2}};

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        cr_assert(hosts_run(setup_of(counts[i], NULL, 1024), rank_staging) == 0, "%zu", i);
}

/* Every plan asks, the largest ones too. */
Test(net, staging_of_the_largest_jobs)
{
    const struct ds_comm_group all = {.first = 0, .stride = 1, .count = DS_MAX_RANKS};
    size_t eight, one, none;

    cr_assert_eq(ds_comm_staging_bytes(&all, 5, 8, &eight, NULL), 0);
    cr_assert_eq(ds_comm_staging_bytes(&all, 5, 1, &one, NULL), 0);
    cr_assert_eq(ds_comm_staging_bytes(&all, 5, DS_MAX_RANKS, &none, NULL), 0);
    cr_assert(none == 0 && eight > 0 && one > eight);
}
