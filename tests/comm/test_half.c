/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_half - bf16 and fp16: roundings, sums by the tree, and the collectives inside a host and
 * between hosts, to the bit, where every hop rounds.
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

static uint16_t narrow(enum ds_dtype type, float x)
{
    return type == DS_F16 ? ds_f16_from_f32(x) : ds_bf16_from_f32(x);
}

static float rounded(enum ds_dtype type, float x)
{
    return type == DS_F16 ? ds_f16_to_f32(ds_f16_from_f32(x)) : ds_bf16_to_f32(ds_bf16_from_f32(x));
}

/* What a rank gives: of fp16 every 97th is near its largest, so that sums of some are infinite. */
static float value_of(enum ds_dtype type, unsigned rank, size_t i)
{
    return type == DS_F16 && i % 97 == 5 ? 25000.0f : ranks_value(rank, i);
}

/* The sum of ranks [lo, hi) in fp32. */
static float plain_sum(enum ds_dtype type, unsigned lo, unsigned hi, size_t i)
{
    unsigned left = hi - lo > 1 ? ds__tree_left(hi - lo) : 0;

    if (hi - lo == 1)
        return rounded(type, value_of(type, lo, i));
    return plain_sum(type, lo, lo + left, i) + plain_sum(type, lo + left, hi, i);
}

/* The same where what leaves a host is rounded; `host` is that of each rank. */
static float hop_sum(enum ds_dtype type, unsigned lo, unsigned hi, size_t i, const unsigned *host)
{
    unsigned left, here = lo;

    while (here < hi && host[here] == host[lo])
        here++;
    if (here == hi)
        return rounded(type, plain_sum(type, lo, hi, i));
    left = ds__tree_left(hi - lo);
    return hop_sum(type, lo, lo + left, i, host) + hop_sum(type, lo + left, hi, i, host);
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
            cr_assert(isnan(back) ? isnan(x[i]) : rounded(DS_BF16, x[i]) == back);
        }
    }
}

/* In words of eight and in what is left of them: the same. */
Test(half, fp16_is_rounded_to_nearest_even)
{
    static const struct {
        uint32_t bits;
        uint16_t want;
    } cases[] = {
        {0x3f800000, 0x3c00}, {0x3f801000, 0x3c00}, {0x3f803000, 0x3c02}, {0x3f801001, 0x3c01},
        {0x80000000, 0x8000}, {0x477fe000, 0x7bff}, {0x477fefff, 0x7bff}, {0x477ff000, 0x7c00},
        {0xc77ff000, 0xfc00}, {0x7f7fffff, 0x7c00}, {0x7f800000, 0x7c00}, {0xff800000, 0xfc00},
        {0x7f800001, 0x7e00}, {0xffc00000, 0xfe00}, {0x7fffffff, 0x7fff}, {0x33800000, 0x0001},
        {0x33000000, 0x0000}, {0x33000001, 0x0001}, {0x387fc000, 0x03ff}, {0x00000001, 0x0000},
    };
    enum { CASES = sizeof(cases) / sizeof(cases[0]) };
    float x[CASES + 1] = {0}, back[CASES + 1] = {0}, one;
    uint16_t half[CASES + 1] = {[CASES] = 42};
    size_t n = CASES;

    back[CASES] = 42.0f;
    for (size_t i = 0; i < n; i++)
        memcpy(&x[i], &cases[i].bits, sizeof(x[i]));
    for (size_t skip = 0; skip < n; skip++) {
        ds_f16_pack(half + skip, x + skip, n - skip);
        ds_f16_unpack(back + skip, half + skip, n - skip);
        for (size_t i = skip; i < n; i++) {
            cr_assert_eq(half[i], cases[i].want, "%08x became %04x", cases[i].bits, half[i]);
            one = ds_f16_to_f32(half[i]);
            cr_assert(memcmp(&one, &back[i], sizeof(one)) == 0, "%04x became %g", half[i],
                      (double)back[i]);
        }
        cr_assert(half[n] == 42 && back[n] == 42.0f, "written past the end");
    }
}

static uint16_t *values_of(enum ds_dtype type, unsigned rank, size_t n)
{
    uint16_t *values = malloc((n + 1) * sizeof(*values));

    cr_assert_not_null(values);
    for (size_t i = 0; i < n; i++)
        values[i] = narrow(type, value_of(type, rank, i));
    values[n] = 42;
    return values;
}

static void check_sums(enum ds_dtype type, unsigned count, size_t n)
{
    float *scratch = calloc(DS_TREE_SCRATCH, sizeof(*scratch));
    uint16_t *vectors[MOST], *out = malloc((n + 1) * sizeof(*out));

    cr_assert(scratch != NULL && out != NULL);
    for (unsigned k = 0; k < count; k++)
        vectors[k] = values_of(type, k, n);
    ds__tree_sum_half(type, out, (const uint16_t *const *)vectors, count, n, scratch);
    ds__tree_sum_all_half(type, vectors, count, n, scratch);
    for (size_t i = 0; i < n; i++) {
        uint16_t want = narrow(type, plain_sum(type, 0, count, i));

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

static const enum ds_dtype types[] = {DS_BF16, DS_F16};

Test(half, sums_are_the_tree_rounded_once)
{
    static const size_t sizes[] = {0, 1, 3, 1023, 1024, 1025, 5000};

    for (unsigned count = 1; count <= MOST; count++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
            for (size_t type = 0; type < 2; type++)
                check_sums(types[type], count, sizes[s]);
}

/* --- inside a host ---------------------------------------------------------------------------- */

struct task {
    enum ds_dtype type;
    size_t n;
    bool outside; /* the arena */
    unsigned host[MOST];
};

static uint16_t *buffer(const struct task *task, unsigned rank, struct ds_comm *comm)
{
    uint16_t *buf = task->outside ? malloc(task->n * sizeof(*buf) + 1) : ds_comm_arena(comm);

    for (size_t i = 0; buf != NULL && i < task->n; i++)
        buf[i] = narrow(task->type, value_of(task->type, rank, i));
    return buf;
}

static bool is_sum(const struct task *task, unsigned world, const uint16_t *buf, size_t from,
                   size_t to)
{
    for (size_t i = from; i < to; i++)
        if (buf[i] != narrow(task->type, hop_sum(task->type, 0, world, i, task->host)))
            return false;
    return true;
}

/* The sum of all, and what is counted of it. */
static int all_reduce(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct task *task = setup->user;
    const bool f16 = task->type == DS_F16;
    unsigned world = setup->world;
    size_t bytes = task->n * sizeof(uint16_t);
    uint16_t *buf = buffer(task, rank, comm);
    struct ds_comm_stats stats;
    struct ds_error err = {0};

    EXPECT(buf != NULL);
    EXPECT_OK((f16 ? ds_comm_all_reduce_f16 : ds_comm_all_reduce_bf16)(comm, buf, task->n, &err),
              &err);
    EXPECT(is_sum(task, world, buf, 0, task->n));
    EXPECT_OK(ds_comm_barrier(comm, &err), &err); /* before the arena is written again */
    if (task->outside)
        free(buf);
    ds_comm_op_stats(comm, f16 ? DS_COMM_ALL_REDUCE_F16 : DS_COMM_ALL_REDUCE_BF16, &stats);
    EXPECT(stats.calls == 1 && stats.bytes == 2 * (bytes / world) * (world - 1));
    return 0;
}

/* All collectives of the type, one after the other. */
static int all_of_them(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const struct task *task = setup->user;
    unsigned world = setup->world;
    size_t shard = task->n / world, bytes = task->n * sizeof(uint16_t);
    int line = all_reduce(setup, rank, comm);
    struct ds_comm_stats stats;
    struct ds_error err = {0};
    uint16_t *buf;

    if (line != 0 || task->type == DS_F16)
        return line;
    buf = buffer(task, rank, comm);
    EXPECT(buf != NULL);
    EXPECT_OK(ds_comm_reduce_scatter_bf16(comm, buf, task->n, &err), &err);
    EXPECT(is_sum(task, world, buf, rank * shard, (rank + 1) * shard));
    if (task->outside)
        free(buf);
    ds_comm_op_stats(comm, DS_COMM_REDUCE_SCATTER_BF16, &stats);
    EXPECT(stats.calls == 1 && stats.bytes == bytes / world * (world - 1));
    EXPECT(world == 1 || ds_comm_reduce_scatter_bf16(comm, buf, 1, NULL) == -EINVAL);
    return 0;
}

static const size_t lengths[] = {1, 17, 1025, 40001 / RANKS_LESS};

Test(half, collectives_of_one_host)
{
    static const unsigned worlds[] = {1, 2, 3, 4, 5, 8};

    for (size_t w = 0; w < sizeof(worlds) / sizeof(worlds[0]); w++)
        for (size_t i = 0; i < 4 * sizeof(lengths) / sizeof(lengths[0]); i++) {
            const struct task task = {
                .type = types[i % 2], .n = lengths[i / 4] * worlds[w], .outside = i / 2 % 2 == 1};
            int line = ranks_run((struct ranks){.world = worlds[w],
                                                .arena_bytes = (task.n + 64) * sizeof(float),
                                                .timeout_ms = 60000,
                                                .user = &task},
                                 all_of_them);

            cr_assert(line == 0, "world %u, %zu of %s: line %d", worlds[w], task.n,
                      task.type == DS_F16 ? "fp16" : "bf16", line);
        }
}

/* --- between hosts ---------------------------------------------------------------------------- */

static int rank_apart(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    return all_of_them(&(struct ranks){.world = setup->world, .user = setup->user}, rank, comm);
}

Test(half, collectives_of_several_hosts_round_at_every_hop)
{
    static const unsigned placements[][5] = {{1, 1}, {2, 1}, {2, 2}, {1, 2, 1},
                                             {3, 2}, {4, 2}, {2, 4}};

    for (size_t p = 0; p < sizeof(placements) / sizeof(placements[0]); p++)
        for (size_t i = 0; i < 4 * sizeof(lengths) / sizeof(lengths[0]); i++) {
            struct hosts setup = {.timeout_ms = 60000};
            struct task task = {.type = types[i % 2], .outside = i / 2 % 2 == 1};
            unsigned world = 0;
            int line;

            for (unsigned host = 0; placements[p][host] > 0; host++) {
                setup.count[host] = placements[p][host];
                for (unsigned k = 0; k < placements[p][host]; k++)
                    task.host[world++] = host;
            }
            task.n = lengths[i / 4] * world;
            setup.arena_bytes = (task.n + 64) * sizeof(float);
            setup.user = &task;
            line = hosts_run(setup, rank_apart);
            cr_assert(line == 0, "placement %zu, %zu of %s: line %d", p, task.n,
                      task.type == DS_F16 ? "fp16" : "bf16", line);
        }
}
