/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_common - memory that the ranks of a host hold once: where it lies, that a gather of it waits
 * for who is late, what may not be called on it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/comm/hosts.h"
#include "tests/comm/ranks.h"

enum { SHARD = 20000, ROUNDS = 12 };

static void nap(unsigned ms)
{
    const struct timespec time = {.tv_nsec = ms * 1000000L};

    (void)nanosleep(&time, NULL);
}

static float *common_of(const struct ranks *setup, struct ds_comm *comm)
{
    return (float *)(void *)((unsigned char *)ds_comm_border(comm) - setup->common_bytes);
}

static struct ranks setup_of(unsigned world, size_t beside)
{
    return (struct ranks){.world = world,
                          .arena_bytes = 4096,
                          .common_bytes = (size_t)world * SHARD * sizeof(float),
                          .beside_bytes = beside,
                          .timeout_ms = 60000};
}

static void fill(float *shard, float value)
{
    for (unsigned i = 0; i < SHARD; i++)
        shard[i] = value;
}

static bool holds(const float *shard, float value)
{
    for (unsigned i = 0; i < SHARD; i++)
        if (shard[i] != value)
            return false;
    return true;
}

/* --- who comes late ---------------------------------------------------------------------------- */

/* Each writes its shard, gathers, reads all; a small all-reduce stands between reading and writing
 * again.  In every round another rank writes late and another one reads late. */
static int rank_late(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    float *all = common_of(setup, comm);
    size_t bytes = (size_t)setup->world * SHARD * sizeof(float);
    struct ds_comm_stats stats;
    struct ds_error err = {0};
    double one = 1.0;

    for (unsigned r = 0; r < setup->world; r++)
        EXPECT(holds(all + (size_t)r * SHARD, 0.0f));
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    for (unsigned round = 0; round < ROUNDS; round++) {
        if (rank == round % setup->world)
            nap(10);
        fill(all + (size_t)rank * SHARD, (float)(100 * round + rank + 1));
        EXPECT_OK(ds_comm_all_gather(comm, all, bytes, &err), &err);
        if (rank == (round + 1) % setup->world)
            nap(10);
        for (unsigned r = 0; r < setup->world; r++)
            EXPECT(holds(all + (size_t)r * SHARD, (float)(100 * round + r + 1)));
        EXPECT_OK(ds_comm_all_reduce_f64(comm, &one, 1, &err), &err);
        one = 1.0;
    }
    ds_comm_op_stats(comm, DS_COMM_ALL_GATHER, &stats);
    EXPECT(stats.calls == ROUNDS && stats.sent == 0);
    EXPECT(stats.bytes == ROUNDS * ds_comm_wire_bytes(DS_COMM_ALL_GATHER, bytes, setup->world));
    return 0;
}

Test(common, a_gather_waits_for_who_is_late)
{
    for (unsigned world = 1; world <= 4; world++)
        cr_assert(ranks_run(setup_of(world, 0), rank_late) == 0, "%u ranks", world);
}

/* --- a room that is filled --------------------------------------------------------------------- */

/* Shards come from memory of each rank's own.  In every round another rank comes late and another
 * one still reads when the others are at the next gather. */
static int fill_rooms(unsigned world, unsigned rank, float *room, struct ds_comm *comm)
{
    const unsigned LINE = __LINE__;
    float *own = calloc(SHARD, sizeof(*own));
    size_t bytes = (size_t)world * SHARD * sizeof(float);
    struct ds_comm_stats stats;
    struct ds_error err = {0};
    int rc = own == NULL ? -ENOMEM : 0;

    for (unsigned round = 0; rc == 0 && round < ROUNDS; round++) {
        fill(own, (float)(100 * round + rank + 1));
        if (rank == round % world)
            nap(10);
        rc = ds_comm_all_gather_from(comm, own, room, bytes, &err);
        if (rank == (round + 1) % world)
            nap(10);
        for (unsigned r = 0; rc == 0 && r < world; r++)
            rc = holds(room + (size_t)r * SHARD, (float)(100 * round + r + 1)) ? 0 : -EBADMSG;
    }
    ds_comm_op_stats(comm, DS_COMM_ALL_GATHER, &stats);
    if (rc == 0 && stats.bytes != ROUNDS * ds_comm_wire_bytes(DS_COMM_ALL_GATHER, bytes, world))
        rc = -EIO;
    if (rc != 0)
        fprintf(stderr, "rank %u of %u: %s\n", rank, world, ds_error_text(&err, rc));
    free(own);
    return rc == 0 ? 0 : (int)LINE;
}

static int fill_outside(unsigned world, unsigned rank, struct ds_comm *comm)
{
    float *room = calloc(world, SHARD * sizeof(*room));
    int line = room != NULL ? fill_rooms(world, rank, room, comm) : __LINE__;

    free(room);
    return line;
}

static int rank_room(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    return fill_rooms(setup->world, rank, common_of(setup, comm), comm);
}

static int rank_room_of_its_own(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    return fill_rooms(setup->world, rank, ds_comm_arena(comm), comm);
}

static int rank_room_outside(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    return fill_outside(setup->world, rank, comm);
}

Test(common, a_room_is_filled_when_all_have_left_it)
{
    for (unsigned world = 1; world <= 4; world++) {
        struct ranks setup = setup_of(world, 0);

        cr_assert(ranks_run(setup, rank_room) == 0, "%u ranks", world);
        setup.arena_bytes = setup.common_bytes;
        cr_assert(ranks_run(setup, rank_room_of_its_own) == 0, "%u ranks", world);
        cr_assert(ranks_run(setup, rank_room_outside) == 0, "%u ranks", world);
    }
}

static int host_room(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    float *room = (float *)(void *)((unsigned char *)ds_comm_border(comm) - setup->common_bytes);

    return fill_rooms(setup->world, rank, room, comm);
}

static int host_room_outside(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    return fill_outside(setup->world, rank, comm);
}

Test(common, every_host_has_a_room_for_shards_of_all)
{
    static const struct hosts setups[] = {
        {.count = {2, 2}}, {.count = {3, 1}}, {.count = {1, 1, 1}}, {.count = {1, 2, 2}}};

    for (size_t i = 0; i < sizeof(setups) / sizeof(setups[0]); i++) {
        struct hosts setup = setups[i];

        setup.arena_bytes = 4096;
        setup.timeout_ms = 60000;
        setup.common_bytes = 5 * SHARD * sizeof(float);
        cr_assert(hosts_run(setup, host_room) == 0, "setup %zu", i);
        cr_assert(hosts_run(setup, host_room_outside) == 0, "setup %zu", i);
    }
}

#ifndef RANKS_AS_THREADS
/* Rank 2 dies while the others are on their way to a gather, or are at one: nobody waits for ever. */
static int host_death(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    float *room = (float *)(void *)((unsigned char *)ds_comm_border(comm) - setup->common_bytes);
    float own[64] = {0};
    struct ds_error err = {0};
    int rc = 0;

    for (unsigned i = 0; i < 100 && rc == 0; i++) {
        if (rank == 2 && i == 5)
            (void)raise(SIGKILL);
        rc = ds_comm_all_gather_from(comm, own, room, setup->world * sizeof(own), &err);
    }
    EXPECT(rc == -ECONNRESET || rc == -ECANCELED || rc == -ETIMEDOUT);
    return 0;
}

Test(common, a_death_ends_a_gather_on_every_host)
{
    const struct hosts setup = {
        .count = {2, 2}, .arena_bytes = 4096, .common_bytes = 4096, .timeout_ms = 1000};

    cr_assert(hosts_run_dying(setup, host_death, SIGKILL) == 0);
}
#endif

/* --- where it lies ----------------------------------------------------------------------------- */

/* One array: held once up to the border, by each rank behind it. */
static int rank_border(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    unsigned char *border = ds_comm_border(comm);
    struct ds_error err = {0};

    EXPECT((uintptr_t)border % (uintptr_t)sysconf(_SC_PAGESIZE) == 0);
    EXPECT(border[-1] == 0 && border[0] == 0 && border[setup->beside_bytes - 1] == 0);
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    memset(border, (int)rank + 1, setup->beside_bytes);
    if (rank == 0)
        memset(border - setup->common_bytes, 77, setup->common_bytes);
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    for (size_t i = 0; i < setup->common_bytes; i++)
        EXPECT(border[-1 - (ptrdiff_t)i] == 77);
    for (size_t i = 0; i < setup->beside_bytes; i++)
        EXPECT(border[i] == rank + 1);
    for (size_t i = 0; i < setup->arena_bytes; i++)
        EXPECT(((unsigned char *)ds_comm_arena(comm))[i] == 0);
    return 0;
}

Test(common, what_each_rank_has_of_its_own_begins_at_the_border)
{
    static const size_t beside[] = {1, 65536, 300001};

    for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
        struct ranks setup = setup_of(3, beside[i]);

        setup.common_bytes -= 64 * i; /* not whole pages */
        cr_assert(ranks_run(setup, rank_border) == 0, "%zu bytes beside", beside[i]);
    }
}

Test(common, one_rank_has_it_without_shared_memory)
{
    const struct ds_comm_args args = {.backend = "host",
                                      .world = 1,
                                      .shm_fd = -1,
                                      .arena_bytes = 64,
                                      .common_bytes = 100,
                                      .beside_bytes = 200};
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    unsigned char *border;

    cr_assert(ds_comm_open(&comm, &args, &err) == 0, "%s", err.text);
    border = ds_comm_border(comm);
    border[-100] = border[199] = 1;
    cr_assert(ds_comm_all_gather(comm, border - 100, 100, &err) == 0, "%s", err.text);
    ds_comm_close(comm);
}

/* --- what is refused --------------------------------------------------------------------------- */

/* Every rank is told, and the comm goes on. */
static int rank_misuse(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    float *all = common_of(setup, comm), *own = ds_comm_arena(comm);
    const struct ds_comm_group half = {.first = rank / 2 * 2, .stride = 1, .count = 2};
    struct ds_comm *group = NULL;
    struct ds_error err = {0};
    double small[2] = {1.0, 2.0};

    EXPECT(ds_comm_all_reduce_f32(comm, all, 64, &err) == -EINVAL);
    EXPECT(strstr(err.text, "hold once") != NULL);
    EXPECT(ds_comm_all_reduce_bf16(comm, (uint16_t *)(void *)all, 64, &err) == -EINVAL);
    EXPECT(ds_comm_reduce_scatter_f32(comm, all, 64, &err) == -EINVAL);
    EXPECT(ds_comm_broadcast(comm, all, 64, 0, &err) == -EINVAL);
    EXPECT(ds_comm_all_to_all(comm, all, own, 64, &err) == -EINVAL);
    EXPECT(ds_comm_all_to_all(comm, own, all, 64, &err) == -EINVAL);
    EXPECT(ds_comm_all_to_all(comm, own, rank == 1 ? own + 64 : all, 64, &err) < 0);
    EXPECT(ds_comm_all_reduce_f64(comm, (double *)(void *)all, 2, &err) == -EINVAL);
    EXPECT(ds_comm_all_gather(comm, rank == 1 ? own : all, 64, &err) == -EPROTO);
    EXPECT(strstr(err.text, "other on rank 1") != NULL || rank == 1);
    EXPECT(ds_comm_all_gather(comm, all + 64 * (rank == 2), 64, &err) == -EPROTO);
    if (rank == 3)
        EXPECT(ds_comm_all_gather_from(comm, own, all, 64, &err) == -EPROTO);
    else
        EXPECT(ds_comm_all_gather(comm, all, 64, &err) == -EPROTO);
    EXPECT(strstr(err.text, "there and elsewhere") != NULL);
    EXPECT(ds_comm_all_gather_from(comm, own, all, SIZE_MAX - 3, &err) == -EINVAL);
    EXPECT(ds_comm_all_gather_from(comm, own, all, 63, &err) == -EINVAL);
    EXPECT_OK(ds_comm_split(comm, &half, &group, &err), &err);
    EXPECT(ds_comm_all_gather(group, all, 64, &err) == -EINVAL);
    EXPECT(ds_comm_all_gather_from(group, own, all, 64, &err) == -EINVAL);
    EXPECT_OK(ds_comm_all_gather(group, own, 64, &err), &err);
    EXPECT_OK(ds_comm_all_gather(comm, all, 64, &err), &err);
    EXPECT_OK(ds_comm_all_reduce_f64(comm, small, 2, &err), &err);
    EXPECT(small[0] == 4.0 && small[1] == 8.0);
    EXPECT_OK(ds_comm_all_reduce_f32(comm, all, 0, &err), &err);
    ds_comm_close(group);
    return 0;
}

Test(common, nothing_but_a_gather_by_all_is_called_on_it)
{
    cr_assert(ranks_run(setup_of(4, 0), rank_misuse) == 0);
}

/* Two hosts of two: the ranks of one gather, all together cannot. */
static int rank_of_hosts(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const struct ds_comm_group node = {.first = rank / 2 * 2, .stride = 1, .count = 2};
    float *all = (float *)(void *)((unsigned char *)ds_comm_border(comm) - setup->common_bytes);
    struct ds_comm *inside = NULL;
    struct ds_error err = {0};
    float small[16] = {0};

    EXPECT(ds_comm_all_gather(comm, all, 64, &err) == -EINVAL);
    EXPECT(ds_comm_all_gather_from(comm, ds_comm_arena(comm), rank < 2 ? all : small, 64, &err) ==
           -EPROTO);
    EXPECT(strstr(err.text, "on some hosts only") != NULL);
    EXPECT_OK(ds_comm_split(comm, &node, &inside, &err), &err);
    if (rank % 2 == 1)
        nap(20);
    fill(all + (size_t)(rank % 2) * SHARD, (float)rank + 1.0f);
    EXPECT_OK(ds_comm_all_gather(inside, all, 2 * SHARD * sizeof(float), &err), &err);
    EXPECT(holds(all, (float)(rank / 2 * 2) + 1.0f) &&
           holds(all + SHARD, (float)(rank / 2 * 2) + 2.0f));
    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    ds_comm_close(inside);
    return 0;
}

Test(common, every_host_has_its_own)
{
    const struct hosts setup = {.count = {2, 2},
                                .arena_bytes = 4096,
                                .common_bytes = 2 * SHARD * sizeof(float),
                                .timeout_ms = 60000};

    cr_assert(hosts_run(setup, rank_of_hosts) == 0);
}

Test(common, too_much_is_refused)
{
    static const struct ds_comm_args args[] = {
        {.backend = "host", .world = 1, .shm_fd = -1, .common_bytes = SIZE_MAX - 70000},
        {.backend = "host", .world = 1, .shm_fd = -1, .beside_bytes = SIZE_MAX - 70000},
        {.backend = "host",
         .world = 1,
         .shm_fd = -1,
         .common_bytes = SIZE_MAX / 4,
         .beside_bytes = SIZE_MAX / 4},
    };

    for (size_t i = 0; i < sizeof(args) / sizeof(args[0]); i++) {
        struct ds_comm *comm = NULL;
        struct ds_error err = {0};

        cr_assert(ds_comm_open(&comm, &args[i], &err) == -EOVERFLOW, "%zu: %s", i, err.text);
    }
}
