/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_half - bf16: roundings, sums by the tree, and the two collectives inside a host and between
 * hosts, to the bit, where every hop rounds.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "kernels/dtype.h"
#include "runtime/comm/half.h"
#include "runtime/comm/tree.h"
#include "tests/comm/hosts.h"

enum { MOST = 16 };

/* --- what is right ---------------------------------------------------------------------------- */

static float rounded(float x)
{
    return ds_bf16_to_f32(ds_bf16_from_f32(x));
}

/* The sum of ranks [lo, hi) in fp32. */
static float plain_sum(unsigned lo, unsigned hi, size_t i)
{
    unsigned left = hi - lo > 1 ? ds__tree_left(hi - lo) : 0;

    if (hi - lo == 1)
        return rounded(ranks_value(lo, i));
    return plain_sum(lo, lo + left, i) + plain_sum(lo + left, hi, i);
}

/* The same where what leaves a host is rounded; `host` is that of each rank. */
static float hop_sum(unsigned lo, unsigned hi, size_t i, const unsigned *host)
{
    unsigned left, here = lo;

    while (here < hi && host[here] == host[lo])
        here++;
    if (here == hi)
        return rounded(plain_sum(lo, hi, i));
    left = ds__tree_left(hi - lo);
    return hop_sum(lo, lo + left, i, host) + hop_sum(lo + left, hi, i, host);
}

/* --- numbers ---------------------------------------------------------------------------------- */

Test(half, rounds_to_nearest_even)
{
    static const struct {
        uint32_t bits;
        uint16_t want;
    } cases[] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
        {0x3f807fff, 0x3f80}, {0x80000000, 0x8000}, {0xbf818000, 0xbf82}, {0x7f7fffff, 0x7f80},
        {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f800001, 0x7fc0}, {0xffc00000, 0xffc0},
        {0x7fffffff, 0x7fff}, {0x00000001, 0x0000}, {0x00018000, 0x0002}, {0x00008001, 0x0001},
    };
    float x[sizeof(cases) / sizeof(cases[0])], back;
    uint16_t half[sizeof(cases) / sizeof(cases[0])];
    size_t n = sizeof(cases) / sizeof(cases[0]);

    for (size_t i = 0; i < n; i++)
        memcpy(&x[i], &cases[i].bits, sizeof(x[i]));
    for (size_t skip = 0; skip < 5; skip++) { /* in a vector and in what is left of one */
        ds_bf16_pack(half + skip, x + skip, n - skip);
        for (size_t i = skip; i < n; i++) {
            cr_assert_eq(half[i], cases[i].want, "%08x became %04x", cases[i].bits, half[i]);
            ds_bf16_unpack(&back, &half[i], 1);
            cr_assert_eq(ds_bf16_from_f32(x[i]), half[i]);
            cr_assert(isnan(back) ? isnan(x[i]) : rounded(x[i]) == back);
        }
    }
}

static uint16_t *values_of(unsigned rank, size_t n)
{
    uint16_t *values = malloc((n + 1) * sizeof(*values));

    cr_assert_not_null(values);
    for (size_t i = 0; i < n; i++)
        values[i] = ds_bf16_from_f32(ranks_value(rank, i));
    values[n] = 42;
    return values;
}

static void check_sums(unsigned count, size_t n)
{
    float *scratch = calloc(DS_TREE_SCRATCH, sizeof(*scratch));
    uint16_t *vectors[MOST], *out = malloc((n + 1) * sizeof(*out));

    cr_assert(scratch != NULL && out != NULL);
    for (unsigned k = 0; k < count; k++)
        vectors[k] = values_of(k, n);
    ds__tree_sum_bf16(out, (const uint16_t *const *)vectors, count, n, scratch);
    ds__tree_sum_all_bf16(vectors, count, n, scratch);
    for (size_t i = 0; i < n; i++) {
        uint16_t want = ds_bf16_from_f32(plain_sum(0, count, i));

        cr_assert_eq(out[i], want, "%u ranks, element %zu of %zu", count, i, n);
        for (unsigned k = 0; k < count; k++)
            cr_assert_eq(vectors[k][i], want);
    }
    for (unsigned k = 0; k < count; k++) {
        cr_assert_eq(vectors[k][n], 42);
        free(vectors[k]);
    }
    free(out);
    free(scratch);
}

Test(half, sums_are_the_tree_rounded_once)
{
    static const size_t sizes[] = {0, 1, 3, 1023, 1024, 1025, 5000};

    for (unsigned count = 1; count <= MOST; count++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
            check_sums(count, sizes[s]);
}

/* --- inside a host ---------------------------------------------------------------------------- */

struct task {
    size_t n;
    bool outside; /* the arena */
    unsigned host[MOST];
};

static uint16_t *buffer(const struct task *task, unsigned rank, struct ds_comm *comm)
{
    uint16_t *buf = task->outside ? malloc(task->n * sizeof(*buf) + 1) : ds_comm_arena(comm);

    for (size_t i = 0; buf != NULL && i < task->n; i++)
        buf[i] = ds_bf16_from_f32(ranks_value(rank, i));
    return buf;
}

static bool is_sum(const struct task *task, unsigned world, const uint16_t *buf, size_t from,
                   size_t to)
{
    for (size_t i = from; i < to; i++)
        if (buf[i] != ds_bf16_from_f32(hop_sum(0, world, i, task->host)))
            return false;
    return true;
}

/* Both, one after the other, and what they count. */
static int both(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct task *task = setup->user;
    unsigned world = setup->world;
    size_t shard = task->n / world, bytes = task->n * sizeof(uint16_t);
    uint16_t *buf = buffer(task, rank, comm);
    struct ds_comm_stats stats;
    struct ds_error err = {0};

    EXPECT(buf != NULL);
    EXPECT_OK(ds_comm_all_reduce_bf16(comm, buf, task->n, &err), &err);
    EXPECT(is_sum(task, world, buf, 0, task->n));
    EXPECT_OK(ds_comm_barrier(comm, &err), &err); /* before the arena is written again */
    if (task->outside)
        free(buf);
    buf = buffer(task, rank, comm);
    EXPECT(buf != NULL);
    EXPECT_OK(ds_comm_reduce_scatter_bf16(comm, buf, task->n, &err), &err);
    EXPECT(is_sum(task, world, buf, rank * shard, (rank + 1) * shard));
    if (task->outside)
        free(buf);
    ds_comm_op_stats(comm, DS_COMM_ALL_REDUCE_BF16, &stats);
    EXPECT(stats.calls == 1 && stats.bytes == 2 * (bytes / world) * (world - 1));
    ds_comm_op_stats(comm, DS_COMM_REDUCE_SCATTER_BF16, &stats);
    EXPECT(stats.calls == 1 && stats.bytes == bytes / world * (world - 1));
    EXPECT(world == 1 || ds_comm_reduce_scatter_bf16(comm, buf, 1, NULL) == -EINVAL);
    return 0;
}

static const size_t lengths[] = {1, 17, 1025, 40001};

Test(half, collectives_of_one_host)
{
    static const unsigned worlds[] = {1, 2, 3, 4, 5, 8};

    for (size_t w = 0; w < sizeof(worlds) / sizeof(worlds[0]); w++)
        for (size_t i = 0; i < 2 * sizeof(lengths) / sizeof(lengths[0]); i++) {
            const struct task task = {.n = lengths[i / 2] * worlds[w], .outside = i % 2 == 1};
            int line = ranks_run((struct ranks){.world = worlds[w],
                                                .arena_bytes = (task.n + 64) * sizeof(float),
                                                .timeout_ms = 60000,
                                                .user = &task},
                                 both);

            cr_assert(line == 0, "world %u, %zu elements: line %d", worlds[w], task.n, line);
        }
}

/* --- between hosts ---------------------------------------------------------------------------- */

static int rank_apart(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    return both(&(struct ranks){.world = setup->world, .user = setup->user}, rank, comm);
}

Test(half, collectives_of_several_hosts_round_at_every_hop)
{
    static const unsigned placements[][5] = {{1, 1}, {2, 1}, {2, 2}, {1, 2, 1},
                                             {3, 2}, {4, 2}, {2, 4}};

    for (size_t p = 0; p < sizeof(placements) / sizeof(placements[0]); p++)
        for (size_t i = 0; i < 2 * sizeof(lengths) / sizeof(lengths[0]); i++) {
            struct hosts setup = {.timeout_ms = 60000};
            struct task task = {.outside = i % 2 == 1};
            unsigned world = 0;
            int line;

            for (unsigned host = 0; placements[p][host] > 0; host++) {
                setup.count[host] = placements[p][host];
                for (unsigned k = 0; k < placements[p][host]; k++)
                    task.host[world++] = host;
            }
            task.n = lengths[i / 2] * world;
            setup.arena_bytes = (task.n + 64) * sizeof(float);
            setup.user = &task;
            line = hosts_run(setup, rank_apart);
            cr_assert(line == 0, "placement %zu, %zu elements: line %d", p, task.n, line);
        }
}
