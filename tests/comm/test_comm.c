/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_comm - the collectives between real processes: right to the bit, wherever buffers lie.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include "tests/comm/collectives.h"

enum { BIG = 1000003 / RANKS_LESS, ROUNDS = 300 / RANKS_LESS };

static const unsigned worlds[] = {1, 2, 3, 4, 5, 8};
static const size_t sizes[] = {1, 15, 16, 17, BIG};

static int rank_row(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    return check_row(setup->user, rank, comm);
}

/* `task.check` in every world, with every size and place; sizes times the world where `multiple`. */
static void for_every(struct task task, bool multiple)
{
    for (unsigned w = 0; w < sizeof(worlds) / sizeof(worlds[0]); w++) {
        struct row row = {.task = task,
                          .sizes = sizes,
                          .n_sizes = sizeof(sizes) / sizeof(sizes[0]),
                          .n_places = PLACES,
                          .multiple = multiple,
                          .begin = w * 7};
        struct ranks setup = {.timeout_ms = 60000, .user = &row, .world = worlds[w]};
        int line;

        row.task.world = row.task.roots = worlds[w];
        setup.arena_bytes = row_arena_bytes(&row);
        setup.spin = worlds[w] <= 2 ? 100 : 0;
        line = ranks_run(setup, rank_row);
        cr_assert(line == 0, "world %u: line %d", worlds[w], line);
    }
}

/* --- one operation, checked everywhere ------------------------------------------------------- */

Test(comm, all_reduce_is_the_tree_sum)
{
    for_every((struct task){.check = check_all_reduce}, false);
}

Test(comm, reduce_scatter_leaves_each_rank_its_shard)
{
    for_every((struct task){.check = check_reduce_scatter}, true);
}

Test(comm, all_gather_gives_everyone_the_whole)
{
    for_every((struct task){.check = check_all_gather}, false);
}

Test(comm, all_to_all_gives_each_its_part)
{
    for_every((struct task){.check = check_all_to_all}, false);
}

Test(comm, pass_gives_the_other_what_it_takes)
{
    for_every((struct task){.check = check_pass}, false);
}

Test(comm, broadcast_from_every_root)
{
    for_every((struct task){.check = check_broadcast}, false);
}

/* --- many operations in a row: nobody may run ahead ------------------------------------------ */

static int small_round(const struct ranks *setup, unsigned rank, struct ds_comm *comm, size_t k)
{
    double flags[64], sum = 0.0;
    struct ds_error err = {0};

    for (size_t i = 0; i < 64; i++)
        flags[i] = (double)(rank + k + i);
    for (unsigned r = 0; r < setup->world; r++)
        sum += (double)(r + k);
    EXPECT_OK(ds_comm_all_reduce_f64(comm, flags, 1 + k % 64, &err), &err);
    for (size_t i = 0; i < 1 + k % 64; i++)
        EXPECT(flags[i] == sum + (double)(i * setup->world));
    return 0;
}

/* From the arena and from elsewhere in turn; what was given is overwritten at once. */
static int swap_round(const struct ranks *setup, unsigned rank, struct ds_comm *comm, size_t k)
{
    uint32_t own[8], take[8], *give = k % 2 == 0 ? ds_comm_arena(comm) : own;
    struct ds_error err = {0};

    for (uint32_t peer = 0; peer < setup->world; peer++)
        give[peer] = (uint32_t)k << 8 | rank << 4 | peer;
    EXPECT_OK(ds_comm_all_to_all(comm, give, take, setup->world * sizeof(*give), &err), &err);
    memset(give, 0xff, setup->world * sizeof(*give));
    for (uint32_t peer = 0; peer < setup->world; peer++)
        EXPECT(take[peer] == ((uint32_t)k << 8 | peer << 4 | rank));
    EXPECT_OK(ds_comm_all_to_all(comm, give, take, 0, &err), &err);
    return 0;
}

static int rank_rounds(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    float *inside = ds_comm_arena(comm), outside[600];
    struct ds_error err = {0};

    for (size_t k = 0; k < ROUNDS; k++) {
        size_t n = 1 + k * 2 % 600;
        int line = small_round(setup, rank, comm, k);

        EXPECT(line == 0 && swap_round(setup, rank, comm, k) == 0);
        for (size_t i = 0; i < n; i++)
            inside[i] = outside[i] = ranks_value(rank, i + k);
        EXPECT_OK(ds_comm_all_reduce_f32(comm, inside, n, &err), &err);
        EXPECT_OK(ds_comm_all_reduce_f32(comm, outside, n, &err), &err);
        for (size_t i = 0; i < n; i++)
            EXPECT(same(inside[i], ranks_tree(0, setup->world, i + k)) &&
                   same(outside[i], inside[i]));
        outside[0] = (float)rank;
        EXPECT_OK(ds_comm_broadcast(comm, outside, sizeof(float), (unsigned)k % setup->world, &err),
                  &err);
        EXPECT(outside[0] == (float)(k % setup->world));
        if (k % 3 == 0)
            EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    }
    return 0;
}

Test(comm, operations_follow_each_other)
{
    static const struct {
        unsigned world, spin;
    } cases[] = {{1, 0}, {2, 0}, {2, 5000}, {3, 0}, {4, 50}, {8, 0}};

    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct ranks setup = {.world = cases[c].world,
                              .arena_bytes = 600 * sizeof(float),
                              .timeout_ms = 60000,
                              .spin = cases[c].spin};
        int line = ranks_run(setup, rank_rounds);

        cr_assert(line == 0, "world %u, spin %u: line %d", cases[c].world, cases[c].spin, line);
    }
}

/* Shards too large for a cache, which begin and end within a line: all of them, and no byte more. */
static int rank_large(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const size_t shard = *(const size_t *)setup->user, bytes = shard * setup->world;
    unsigned char *arena = ds_comm_arena(comm), *buf = arena + 5;
    struct ds_error err = {0};

    memset(buf + rank * shard, (int)rank + 1, shard);
    buf[rank * shard] = 101;
    buf[(rank + 1) * shard - 1] = 102;
    EXPECT_OK(ds_comm_all_gather(comm, buf, bytes, &err), &err);
    for (unsigned r = 0; r < setup->world; r++) {
        const unsigned char *its = buf + r * shard;

        EXPECT(its[0] == 101 && its[shard - 1] == 102 && its[1] == r + 1);
        EXPECT(memcmp(its + 1, its + 2, shard - 3) == 0);
    }
    EXPECT(arena[4] == 0 && buf[bytes] == 0);
    return 0;
}

/* The same of parts. */
static int rank_large_swap(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const size_t part = *(const size_t *)setup->user, bytes = part * setup->world;
    unsigned char *from = (unsigned char *)ds_comm_arena(comm) + 5, *to = malloc(bytes + 2);
    struct ds_error err = {0};

    EXPECT(to != NULL);
    memset(to, 0xee, bytes + 2);
    for (unsigned peer = 0; peer < setup->world; peer++) {
        memset(from + peer * part, (int)(rank * 16 + peer), part);
        from[peer * part] = 101;
        from[(peer + 1) * part - 1] = 102;
    }
    EXPECT_OK(ds_comm_all_to_all(comm, from, to + 1, bytes, &err), &err);
    for (unsigned peer = 0; peer < setup->world; peer++) {
        const unsigned char *its = to + 1 + peer * part;

        EXPECT(its[0] == 101 && its[part - 1] == 102 && its[1] == peer * 16 + rank);
        EXPECT(memcmp(its + 1, its + 2, part - 3) == 0);
    }
    EXPECT(to[0] == 0xee && to[bytes + 1] == 0xee);
    free(to);
    return 0;
}

Test(comm, what_is_too_much_for_caches_is_whole)
{
    static const size_t shards[] = {(8 << 20) + 1, (8 << 20) + 4096, (9 << 20) - 77};

    for (unsigned i = 0; i < 3; i++) {
        struct ranks setup = {.world = 2 + i % 2,
                              .arena_bytes = (2 + i % 2) * shards[i] + 64,
                              .timeout_ms = 60000,
                              .user = &shards[i]};

        cr_assert(ranks_run(setup, rank_large) == 0, "shards of %zu bytes", shards[i]);
        cr_assert(ranks_run(setup, rank_large_swap) == 0, "parts of %zu bytes", shards[i]);
    }
}

/* --- the smaller promises -------------------------------------------------------------------- */

static int rank_stats(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    float *buf = ds_comm_arena(comm);
    double small[3] = {0};
    char parts[1200];
    struct ds_comm_stats stats;
    struct ds_error err = {0};

    EXPECT_OK(ds_comm_all_reduce_f32(comm, buf, 1200, &err), &err);
    ds_comm_stats(comm, &stats);
    EXPECT(stats.calls == 1 && stats.bytes == 2 * 4800 * (setup->world - 1) / setup->world);
    EXPECT_OK(ds_comm_reduce_scatter_f32(comm, buf, 1200, &err), &err);
    EXPECT_OK(ds_comm_all_gather(comm, buf, 4800, &err), &err);
    ds_comm_stats(comm, &stats);
    EXPECT(stats.calls == 3 && stats.bytes == 4 * 4800 * (setup->world - 1) / setup->world);
    EXPECT_OK(ds_comm_all_reduce_f64(comm, small, 3, &err), &err);
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    EXPECT_OK(ds_comm_broadcast(comm, buf, 1200, 0, &err), &err);
    EXPECT_OK(ds_comm_all_to_all(comm, buf, parts, 1200, &err), &err);
    ds_comm_stats(comm, &stats);
    EXPECT(stats.calls == 7 &&
           stats.bytes == (4 * 4800 + 2 * 24 + 2 * 1200) * (setup->world - 1) / setup->world);
    EXPECT(stats.work_ns > 0);
    EXPECT(ds_comm_broadcast(comm, buf, 4, setup->world, &err) == -EINVAL); /* not counted */
    ds_comm_stats(comm, &stats);
    EXPECT(stats.calls == 7);
    return 0;
}

Test(comm, stats_count_what_a_wire_would_carry)
{
    static const unsigned even[] = {1, 2, 3, 4};

    for (size_t w = 0; w < sizeof(even) / sizeof(even[0]); w++) {
        struct ranks setup = {.world = even[w], .arena_bytes = 4800, .timeout_ms = 60000};

        cr_assert(ranks_run(setup, rank_stats) == 0, "world %u", even[w]);
    }
}

static int rank_arena(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    unsigned char *arena = ds_comm_arena(comm);
    struct ds_error err = {0};

    EXPECT((uintptr_t)arena % (uintptr_t)sysconf(_SC_PAGESIZE) == 0);
    for (size_t i = 0; i < setup->arena_bytes; i++)
        EXPECT(arena[i] == 0);
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    memset(arena, (int)rank + 1, setup->arena_bytes);
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    for (size_t i = 0; i < setup->arena_bytes; i++)
        EXPECT(arena[i] == rank + 1);
    return 0;
}

Test(comm, arenas_are_zero_aligned_and_apart)
{
    struct ranks setup = {.world = 3, .arena_bytes = 70001, .timeout_ms = 60000};

    cr_assert(ranks_run(setup, rank_arena) == 0);
    setup.arena_bytes = 0;
    cr_assert(ranks_run(setup, rank_arena) == 0);
}

Test(comm, one_rank_needs_no_shared_memory)
{
    struct ds_comm_args args = {.backend = "host", .world = 1, .shm_fd = -1, .arena_bytes = 4096};
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    float *buf, x[3] = {1, 2, 3}, y[3] = {0};
    double d = 4.0;

    cr_assert(ds_comm_open(&comm, &args, &err) == 0, "%s", err.text);
    buf = ds_comm_arena(comm);
    buf[1023] = 5.0f;
    cr_assert(ds_comm_all_reduce_f32(comm, buf, 1024, &err) == 0 && buf[1023] == 5.0f);
    cr_assert(ds_comm_all_reduce_f32(comm, x, 3, &err) == 0 && x[2] == 3.0f);
    cr_assert(ds_comm_reduce_scatter_f32(comm, x, 3, &err) == 0 && x[0] == 1.0f);
    cr_assert(ds_comm_all_reduce_f64(comm, &d, 1, &err) == 0 && d == 4.0);
    cr_assert(ds_comm_all_gather(comm, x, sizeof(x), &err) == 0 && x[1] == 2.0f);
    cr_assert(ds_comm_broadcast(comm, x, sizeof(x), 0, &err) == 0 && x[1] == 2.0f);
    cr_assert(ds_comm_all_to_all(comm, x, y, sizeof(x), &err) == 0 && y[0] == 1.0f && y[2] == 3.0f);
    ds_comm_close(comm);
    ds_comm_close(NULL);
}

Test(comm, overhead_covers_control_and_staging)
{
    size_t alone = ds_comm_overhead_bytes(1, 1), apart = ds_comm_overhead_bytes(1, 2);

    cr_assert(alone > 0 && alone <= 3 << 16);
    for (unsigned world = 2; world <= 1024; world *= 2)
        cr_assert(ds_comm_overhead_bytes(world, world) > alone &&
                  ds_comm_overhead_bytes(world, world) < 2 * 1024 * 1024);
    cr_assert(apart > alone && apart < 2 * 1024 * 1024);
}
