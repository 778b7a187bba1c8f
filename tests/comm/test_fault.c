/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_fault - ranks that stop, die, disagree or never come: an error, never a hang.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "tests/comm/ranks.h"
#include "tests/comm/signalled.h"

/* SHORT_MS is longer than a busy machine takes to start all ranks. */
enum { SHORT_MS = 1500, LONG_MS = 60000, NAP_NS = 50 * 1000 * 1000 };

static void nap(void)
{
    struct timespec t = {.tv_nsec = NAP_NS};

    (void)nanosleep(&t, NULL);
}

static struct ranks setup_of(unsigned world, uint64_t timeout_ms, unsigned spin)
{
    return (struct ranks){
        .world = world, .arena_bytes = 4096, .timeout_ms = timeout_ms, .spin = spin};
}

/* --- abort ----------------------------------------------------------------------------------- */

static int rank_abort(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const bool swaps = setup->user != NULL;
    float *buf = ds_comm_arena(comm), own[64] = {0};
    struct ds_error err = {0};
    int rc;

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 1) {
        nap(); /* the others are asleep in the kernel by now, or come later: both must end */
        errno = 77;
        ds_comm_abort(comm);
        EXPECT(errno == 77);
    }
    rc = swaps ? ds_comm_all_to_all(comm, own, buf, setup->world * sizeof(*own), &err)
               : ds_comm_all_reduce_f32(comm, buf, 16, &err);
    EXPECT(rc == -ECANCELED && err.code == ECANCELED);
    EXPECT(rank == 1 || strstr(err.text, "rank 1") != NULL);
    EXPECT(ds_comm_barrier(comm, &err) == -ECANCELED); /* for good */
    EXPECT(ds_comm_barrier(comm, NULL) == -ECANCELED);
    return 0;
}

Test(fault, abort_wakes_every_waiter)
{
    cr_assert(ranks_run(setup_of(2, 0, 0), rank_abort) == 0);
    cr_assert(ranks_run(setup_of(5, 0, 0), rank_abort) == 0);
    cr_assert(ranks_run(setup_of(3, LONG_MS, 1000), rank_abort) == 0);
}

Test(fault, abort_wakes_who_waits_for_parts)
{
    struct ranks setup = setup_of(4, 0, 0);

    setup.user = &setup;
    cr_assert(ranks_run(setup, rank_abort) == 0);
}

static int rank_signal(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};

    if (rank == 0)
        EXPECT(signalled_barrier(comm, &err) == -ECANCELED);
    return 0;
}

Test(fault, abort_from_a_signal_handler)
{
    cr_assert(ranks_run(setup_of(2, 0, 0), rank_signal) == 0);
}

Test(fault, abort_of_a_lone_rank)
{
    struct ds_comm_args args = {.backend = "host", .world = 1, .shm_fd = -1};
    struct ds_comm *comm = NULL;

    cr_assert(ds_comm_open(&comm, &args, NULL) == 0);
    ds_comm_abort(comm);
    cr_assert(ds_comm_barrier(comm, NULL) == -ECANCELED);
    ds_comm_close(comm);
}

/* --- ranks that do not come ------------------------------------------------------------------ */

/* Rank 2 stays away.  One rank sees the deadline first and names it; it tells the others. */
static int rank_timeout(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const bool swaps = setup->user != NULL;
    float buf[99] = {0}, parts[99];
    struct ds_error err = {0};
    int rc;

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 2)
        return 0;
    rc = swaps ? ds_comm_all_to_all(comm, buf, parts, sizeof(buf), &err)
               : ds_comm_all_reduce_f32(comm, buf, 99, &err);
    EXPECT(rc == -ETIMEDOUT || rc == -ECANCELED);
    if (rc == -ETIMEDOUT)
        EXPECT(strstr(err.text, swaps ? "rank 2 did not come to all_to_all of 396 bytes"
                                      : "rank 2 did not come to all_reduce_f32 of 396 bytes") !=
               NULL);
    EXPECT(ds_comm_barrier(comm, &err) == -ECANCELED);
    return 0;
}

Test(fault, a_missing_rank_is_named)
{
    struct ranks setup = setup_of(3, SHORT_MS, 0);

    cr_assert(ranks_run(setup, rank_timeout) == 0);
    cr_assert(ranks_run(setup_of(3, SHORT_MS, 100), rank_timeout) == 0);
    setup.user = &setup;
    cr_assert(ranks_run(setup, rank_timeout) == 0);
}

#ifndef RANKS_AS_THREADS
/* Rank 0 dies between two operations. */
static int rank_death(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};
    int rc;

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 0)
        (void)raise(SIGKILL);
    rc = ds_comm_barrier(comm, &err);
    EXPECT(rc == -ETIMEDOUT || rc == -ECANCELED);
    return 0;
}

Test(fault, a_dead_peer_is_a_timeout)
{
    cr_assert(ranks_run_dying(setup_of(3, SHORT_MS, 0), rank_death, SIGKILL) == 0);
}
#endif

/* --- ranks that disagree --------------------------------------------------------------------- */

static int call_of(unsigned kind, struct ds_comm *comm, struct ds_error *err)
{
    float *buf = ds_comm_arena(comm);
    double d[2] = {0};

    switch (kind) {
    case 0: return ds_comm_all_reduce_f32(comm, buf, 100, err);
    case 1: return ds_comm_all_reduce_f32(comm, buf, 101, err);
    case 2: return ds_comm_barrier(comm, err);
    case 3: return ds_comm_all_reduce_f64(comm, d, 2, err);
    case 4: return ds_comm_broadcast(comm, buf, 400, 0, err);
    case 5: return ds_comm_broadcast(comm, buf, 400, 1, err);
    case 6: return ds_comm_all_gather(comm, buf, 402, err);
    case 7: return ds_comm_all_to_all(comm, buf, buf + 101, 404, err);
    case 8: return ds_comm_all_to_all(comm, d, buf, 4, err);
    case 9: return ds_comm_pass(comm, buf, buf + 101, 404, err);
    case 10:
        return ds_comm_pass(comm, ds_comm_rank(comm) == 0 ? buf : NULL,
                            ds_comm_rank(comm) == 0 ? NULL : buf, 404, err);
    default: return ds_comm_reduce_scatter_f32(comm, buf, 100, err);
    }
}

static const char *const call_texts[] = {
    "all_reduce_f32 of 400 bytes", "all_reduce_f32 of 404 bytes", "barrier of 0 bytes",
    "all_reduce_f64 of 16 bytes",  "broadcast of 400 bytes",      "broadcast of 400 bytes (root 1)",
    "all_gather of 402 bytes",     "all_to_all of 404 bytes",     "all_to_all of 4 bytes",
    "pass of 404 bytes (root 3)",  "pass of 404 bytes (root 1)",  "reduce_scatter of 400 bytes",
};

enum { KINDS = sizeof(call_texts) / sizeof(call_texts[0]) };

/* Every pair of different calls; the group stays usable, for nothing was touched. */
static int rank_clash(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};

    for (unsigned a = 0; a < KINDS; a++)
        for (unsigned b = 0; b < KINDS; b++) {
            int rc = call_of(rank == 0 ? a : b, comm, &err);

            EXPECT(rc == (a == b ? 0 : -EPROTO));
            if (a == b)
                continue;
            EXPECT(strstr(err.text, call_texts[a]) != NULL);
            EXPECT(strstr(err.text, call_texts[b]) != NULL);
            EXPECT(strstr(err.text, rank == 0 ? "rank 0 calls" : "rank 1 calls") == err.text);
        }
    return 0;
}

Test(fault, different_calls_are_named)
{
    cr_assert(ranks_run(setup_of(2, LONG_MS, 0), rank_clash) == 0);
}

struct opened {
    const char *what, *text;
    unsigned world;
    size_t arena_bytes, common_bytes;
    unsigned rank;
    int rc;
};

/* clang-format off */
static const struct opened second_opens[] = {
    {"same again, other rank", "",                                       2, 4096, 64, 1, 0},
    {"other world", "3 ranks share this host for rank 1 and 2",          3, 4096, 64, 1, -EPROTO},
    {"other arena", "has 8192 bytes on rank 1 and 4096 on",              2, 8192, 64, 1, -EPROTO},
    {"other common memory", "65 bytes are held once on rank 1 and 64 on", 2, 4096, 65, 1, -EPROTO},
    {"same rank", "two processes are rank 0",                            2, 4096, 64, 0, -EPROTO},
};
/* clang-format on */

Test(fault, ranks_must_agree_on_the_memory)
{
    for (size_t i = 0; i < sizeof(second_opens) / sizeof(second_opens[0]); i++) {
        const struct opened *c = &second_opens[i];
        struct ranks first = setup_of(2, LONG_MS, 0);
        struct ds_comm *one = NULL, *two = NULL;
        struct ds_comm_args args;
        struct ds_error err = {0};
        int rc;

        first.fd = memfd_create("ranks", MFD_CLOEXEC);
        first.common_bytes = 64;
        args = ranks_args(&first, 0);
        cr_assert(ds_comm_open(&one, &args, &err) == 0, "%s: %s", c->what, err.text);
        args.world = c->world;
        args.arena_bytes = c->arena_bytes;
        args.common_bytes = c->common_bytes;
        args.rank = c->rank;
        rc = ds_comm_open(&two, &args, &err);
        cr_assert(rc == c->rc, "%s: %d %s", c->what, rc, err.text);
        cr_assert(strstr(err.text, c->text) != NULL, "%s: %s", c->what, err.text);
        if (rc == -EPROTO && c->rank == 1) /* the first need not wait for it */
            cr_assert(ds_comm_barrier(one, &err) == -ECANCELED);
        ds_comm_close(one);
        if (rc == 0)
            ds_comm_close(two);
        (void)close(first.fd);
    }
}

Test(fault, foreign_memory_is_refused)
{
    struct ranks setup = setup_of(2, LONG_MS, 0);
    struct ds_comm *comm = NULL;
    struct ds_comm_args args;
    struct ds_error err = {0};

    setup.fd = memfd_create("ranks", MFD_CLOEXEC);
    cr_assert(write(setup.fd, "something else", 14) == 14);
    args = ranks_args(&setup, 0);
    cr_assert(ds_comm_open(&comm, &args, &err) == -EPROTO);
    cr_assert(strstr(err.text, "holds something else") != NULL, "%s", err.text);
    (void)close(setup.fd);
}

/* clang-format off */
static const struct {
    const char *text;
    struct ds_comm_args args;
    int rc;
} bad_args[] = {
    {"world size 0",        {.backend = "host", .world = 0, .shm_fd = -1}, -EINVAL},
    {"world size 1025",     {.backend = "host", .world = 1025, .shm_fd = 0}, -EINVAL},
    {"rank 2 is not below", {.backend = "host", .rank = 2, .world = 2, .shm_fd = 0}, -EINVAL},
    {"need shared memory",  {.backend = "host", .world = 2, .shm_fd = -1}, -EINVAL},
    {"use 'host'",          {.backend = "nccl", .world = 1, .shm_fd = -1}, -ENOTSUP},
    {"do not fit",          {.backend = "host", .world = 1, .shm_fd = -1,
                             .arena_bytes = SIZE_MAX - 4096}, -EOVERFLOW},
    {"cannot map",          {.backend = "host", .world = 1, .shm_fd = -1,
                             .arena_bytes = SIZE_MAX / 4}, -ENOMEM},
    {"cannot size",         {.backend = "host", .world = 2, .shm_fd = 1000000}, -EIO},
};
/* clang-format on */

Test(fault, bad_arguments_say_why)
{
    for (size_t i = 0; i < sizeof(bad_args) / sizeof(bad_args[0]); i++) {
        struct ds_comm *comm = NULL;
        struct ds_error err = {0};
        int rc = ds_comm_open(&comm, &bad_args[i].args, &err);

        cr_assert(rc == bad_args[i].rc, "%s: %d %s", bad_args[i].text, rc, err.text);
        cr_assert(strstr(err.text, bad_args[i].text) != NULL, "%s", err.text);
    }
}

static int rank_bad_calls(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    float *buf = ds_comm_arena(comm);
    double d[65] = {0};
    struct ds_error err = {0};

    EXPECT(ds_comm_reduce_scatter_f32(comm, buf, 7, &err) == -EINVAL);
    EXPECT(ds_comm_all_gather(comm, buf, 7, &err) == -EINVAL);
    EXPECT(ds_comm_all_reduce_f64(comm, d, 65, &err) == -EINVAL);
    EXPECT(ds_comm_all_reduce_f32(comm, buf, SIZE_MAX / 4, &err) == -EINVAL);
    EXPECT(ds_comm_broadcast(comm, buf, 4, 2, &err) == -EINVAL);
    EXPECT(ds_comm_all_to_all(comm, buf, d, 7, &err) == -EINVAL);
    EXPECT(strstr(err.text, "all_to_all of 7 elements cannot be cut into 2 equal shards") != NULL);
    EXPECT(ds_comm_all_to_all(comm, buf, d, SIZE_MAX - 1, &err) == -EINVAL);
    EXPECT(ds_comm_all_to_all(comm, buf, buf, 4, &err) == -EINVAL);
    EXPECT(ds_comm_all_to_all(comm, buf + 9, buf, 40, &err) == -EINVAL);
    EXPECT(strstr(err.text, "give it two buffers") != NULL);
    EXPECT_OK(ds_comm_all_to_all(comm, buf + 10, buf, 40, &err), &err);
    EXPECT_OK(ds_comm_all_to_all(comm, buf, buf + 10, 40, &err), &err);
    EXPECT_OK(ds_comm_all_to_all(comm, NULL, NULL, 0, &err), &err);
    EXPECT_OK(ds_comm_barrier(comm, &err), &err); /* nothing was sent, all goes on */
    EXPECT_OK(ds_comm_all_reduce_f32(comm, buf, 0, &err), &err);
    EXPECT_OK(ds_comm_all_reduce_f32(comm, NULL, 0, &err), &err);
    EXPECT_OK(ds_comm_all_reduce_f64(comm, NULL, 0, &err), &err);
    return 0;
}

Test(fault, calls_that_no_rank_could_make)
{
    cr_assert(ranks_run(setup_of(2, LONG_MS, 0), rank_bad_calls) == 0);
}
