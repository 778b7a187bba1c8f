/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bench.c - the contract is in bench.h.
 *
 * Ranks are processes of this machine.  Each operation is timed twice: where ranks share memory,
 * and over TCP on loopback with every rank a host of its own.  Rank 0's time from a barrier to the
 * end of the operation, in place in the arena, all-to-all from there to behind it; medians.
 *
 * `of copy` is against memcpy() of the same bytes by all ranks at once: those that the operation
 * must read and write on a rank (all-reduce n, reduce-scatter n (1 + 1/w) / 2, all-gather n
 * (w-1)/w, all-to-all n).  Over TCP every byte sent or received is copied once, by the kernel; an
 * all-to-all copies besides what a rank has for itself, n / w.  A buffer that the ranks hold once
 * is gathered without a copy, so the time of that does not grow with it; its GB/s are bytes that
 * are there for everybody, none of which was moved.
 */
#include "runtime/comm/bench.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/log.h"
#include "runtime/comm/comm.h"

enum { MOST_RANKS = 64, MOST_REPS = 200, WARM = 2, SPIN = 2000, RECORD = 64, WAIT_MS = 60000 };
#define LARGEST  ((size_t)64 << 20)
#define SPEND_NS UINT64_C(150000000) /* of repetitions of one case */

enum { SIZES = 5, COPIES = 7 };
static const size_t sizes[SIZES] = {4096, 65536, (size_t)1 << 20, (size_t)8 << 20, LARGEST};

struct page { /* what stands for the control channel */
    _Atomic unsigned told;
    uint8_t record[MOST_RANKS][RECORD];
    uint8_t key[DS_COMM_KEY_BYTES];
};

struct bench {
    unsigned world, rank;
    bool tcp, as_json, first, once;
    int fd;
    struct page *page;
    struct ds_comm *comm;
    double copy_rate[SIZES]; /* bytes per second and rank, by size */
    double lent;             /* share of what rank 0 sent without a copy */
};

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* --- meeting ---------------------------------------------------------------------------------- */

static int gather(void *user, const void *mine, size_t bytes, void *all, struct ds_error *err)
{
    const struct bench *bench = user;
    const struct timespec nap = {.tv_nsec = 1000000};

    if (bytes > RECORD)
        return ds_fail(err, EINVAL, "a record of %zu bytes", bytes);
    memcpy((uint8_t *)bench->page->record + bench->rank * bytes, mine, bytes);
    atomic_fetch_add(&bench->page->told, 1);
    while (atomic_load(&bench->page->told) < bench->world)
        (void)nanosleep(&nap, NULL);
    memcpy(all, bench->page->record, bench->world * bytes);
    return 0;
}

static int open_comm(struct bench *bench, struct ds_error *err)
{
    const struct ds_comm_meet meet = {.host = "this machine",
                                      .address = "127.0.0.1",
                                      .node = bench->rank,
                                      .key = bench->page->key,
                                      .timeout_ms = WAIT_MS,
                                      .gather = gather,
                                      .user = bench};
    const struct ds_comm_args args = {
        .backend = "host",
        .rank = bench->rank,
        .world = bench->world,
        .local_world = bench->tcp ? 1 : 0,
        .meet = bench->tcp ? &meet : NULL,
        .shm_fd = bench->fd,
        .arena_bytes = 2 * LARGEST,
        .common_bytes = bench->tcp ? 0 : LARGEST,
        .timeout_ms = WAIT_MS,
        .spin = sysconf(_SC_NPROCESSORS_ONLN) >= (long)bench->world ? SPIN : 0,
    };

    return ds_comm_open(&bench->comm, &args, err);
}

/* --- one case --------------------------------------------------------------------------------- */

/* Of case `size`, so that shards are equal. */
static size_t bytes_of(const struct bench *bench, size_t size)
{
    size_t unit = bench->world * sizeof(float);

    return sizes[size] / unit * unit;
}

static int run_op(struct bench *bench, enum ds_comm_op op, size_t bytes, struct ds_error *err)
{
    float *buf = ds_comm_arena(bench->comm);

    if (bench->once)
        return ds_comm_all_gather(bench->comm, (char *)ds_comm_border(bench->comm) - LARGEST, bytes,
                                  err);
    switch (op) {
    case DS_COMM_ALL_REDUCE_F32:
        return ds_comm_all_reduce_f32(bench->comm, buf, bytes / sizeof(*buf), err);
    case DS_COMM_REDUCE_SCATTER:
        return ds_comm_reduce_scatter_f32(bench->comm, buf, bytes / sizeof(*buf), err);
    case DS_COMM_ALL_TO_ALL:
        return ds_comm_all_to_all(bench->comm, buf, (char *)buf + LARGEST, bytes, err);
    default: return ds_comm_all_gather(bench->comm, buf, bytes, err);
    }
}

/* Bytes that a rank must copy. */
static double copied(const struct bench *bench, enum ds_comm_op op, double bytes)
{
    double w = bench->world, wire = bytes * (w - 1) / w;

    if (bench->once)
        return 0.0;
    if (bench->tcp && op == DS_COMM_ALL_TO_ALL)
        return 2 * wire + bytes / w;
    if (bench->tcp)
        return op == DS_COMM_ALL_REDUCE_F32 ? 4 * wire : 2 * wire;
    if (op == DS_COMM_ALL_REDUCE_F32 || op == DS_COMM_ALL_TO_ALL)
        return bytes;
    return op == DS_COMM_REDUCE_SCATTER ? bytes * (1 + 1 / w) / 2 : wire;
}

static void report(struct bench *bench, enum ds_comm_op op, size_t size, double ns)
{
    size_t bytes = bytes_of(bench, size);
    double n = (double)bytes, w = bench->world, trips = op == DS_COMM_ALL_REDUCE_F32 ? 2 : 1;
    double share = copied(bench, op, n) / bench->copy_rate[size] * 1e9 / ns;
    const char *how = bench->once ? "once" : bench->tcp ? "tcp" : "memory";

    if (bench->as_json)
        printf("%s\n  {\"op\": \"%s\", \"over\": \"%s\", \"ranks\": %u, \"bytes\": %zu, "
               "\"median_ms\": %.5g, \"gb_s\": %.4g, \"bus_gb_s\": %.4g, \"of_copy\": %.4g}",
               bench->first ? "" : ",", ds_comm_op_name(op), how, bench->world, bytes, ns / 1e6,
               n / ns, n / ns * trips * (w - 1) / w, share);
    else if (bench->once)
        printf("%-15s %-7s %9zu KiB %10.3f ms  nothing is copied\n", ds_comm_op_name(op), how,
               bytes / 1024, ns / 1e6);
    else
        printf("%-15s %-7s %9zu KiB %10.3f ms %8.2f GB/s %8.2f GB/s bus %5.0f%% of copy\n",
               ds_comm_op_name(op), how, bytes / 1024, ns / 1e6, n / ns,
               n / ns * trips * (w - 1) / w, 100 * share);
    (void)fflush(stdout);
    bench->first = false;
}

static int time_case(struct bench *bench, enum ds_comm_op op, size_t size, struct ds_error *err)
{
    uint64_t ns[MOST_REPS];
    unsigned reps = 0;
    double more = 1;
    int rc = 0;

    for (uint64_t spent = 0; rc == 0 && more > 0 && reps < MOST_REPS;) {
        uint64_t began;

        rc = ds_comm_barrier(bench->comm, err);
        began = ds_clock_mono_ns();
        if (rc == 0)
            rc = run_op(bench, op, bytes_of(bench, size), err);
        ns[reps] = ds_clock_mono_ns() - began;
        spent += reps++ >= WARM ? ns[reps - 1] : 0;
        more = bench->rank == 0 && (spent < SPEND_NS || reps < WARM + 5) ? 1 : 0;
        if (rc == 0) /* rank 0 says whether to go on */
            rc = ds_comm_all_reduce_f64(bench->comm, &more, 1, err);
    }
    if (rc != 0)
        return rc;
    qsort(ns + WARM, reps - WARM, sizeof(*ns), by_value);
    if (bench->rank == 0)
        report(bench, op, size, (double)ns[WARM + (reps - WARM) / 2]);
    return 0;
}

/* The rate at which this rank copies while the others do the same. */
static int time_copy(struct bench *bench, size_t size, struct ds_error *err)
{
    char *from = ds_comm_arena(bench->comm), *to = from + LARGEST;
    const size_t bytes = sizes[size], times = LARGEST / 4 / bytes + 1;
    uint64_t ns[COPIES];
    int rc = 0;

    memset(to, 2, bytes);
    for (unsigned i = 0; rc == 0 && i < COPIES; i++) {
        uint64_t began;

        rc = ds_comm_barrier(bench->comm, err);
        began = ds_clock_mono_ns();
        for (size_t k = 0; k < times; k++) {
            memcpy(to, from, bytes);
            from[k % bytes] = to[bytes - 1]; /* it is needed */
        }
        ns[i] = ds_clock_mono_ns() - began;
    }
    memset(from, 0, LARGEST);
    qsort(ns, COPIES, sizeof(*ns), by_value);
    bench->copy_rate[size] = (double)(bytes * times) * 1e9 / (double)ns[COPIES / 2];
    return rc;
}

static int run_rank(struct bench *bench, struct ds_error *err)
{
    static const enum ds_comm_op ops[] = {DS_COMM_ALL_REDUCE_F32, DS_COMM_REDUCE_SCATTER,
                                          DS_COMM_ALL_GATHER, DS_COMM_ALL_TO_ALL};
    struct ds_comm_stats stats = {0};
    int rc = open_comm(bench, err);

    for (size_t size = 0; rc == 0 && size < SIZES; size++)
        rc = time_copy(bench, size, err);
    for (size_t op = 0; op < sizeof(ops) / sizeof(ops[0]); op++)
        for (size_t size = 0; rc == 0 && size < SIZES; size++)
            rc = time_case(bench, ops[op], size, err);
    bench->once = !bench->tcp;
    for (size_t size = 0; rc == 0 && bench->once && size < SIZES; size++)
        rc = time_case(bench, DS_COMM_ALL_GATHER, size, err);
    bench->once = false;
    if (rc != 0 && bench->comm != NULL)
        ds_comm_abort(bench->comm);
    if (rc == 0)
        ds_comm_stats(bench->comm, &stats);
    bench->lent = stats.sent > 0 ? (double)stats.lent / (double)stats.sent : 0;
    ds_comm_close(bench->comm);
    bench->comm = NULL;
    return rc;
}

/* --- all ranks -------------------------------------------------------------------------------- */

static int run_child(struct bench bench, unsigned rank)
{
    struct ds_error err = {0};
    int rc;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    bench.rank = rank;
    rc = run_rank(&bench, &err);
    if (rc != 0 && rc != -ECANCELED)
        ds_log(DS_LOG_ERROR, "rank %u: %s", rank, ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

static int run_all(struct bench *bench, bool tcp, struct ds_error *err)
{
    int status, worst = 0, rc;

    bench->tcp = tcp;
    bench->fd = memfd_create("dsrun-bench", MFD_CLOEXEC);
    if (bench->fd < 0)
        return ds_fail(err, errno, "no shared memory: %s", strerror(errno));
    atomic_store(&bench->page->told, 0);
    for (unsigned rank = 1; rank < bench->world; rank++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(run_child(*bench, rank));
        if (pid < 0)
            worst = errno;
    }
    bench->rank = 0;
    rc = worst != 0 ? ds_fail(err, worst, "cannot start %u ranks", bench->world)
                    : run_rank(bench, err);
    while (wait(&status) > 0)
        if (status != 0 && rc == 0)
            rc = ds_fail(err, EIO, "a rank has failed");
    (void)close(bench->fd);
    return rc;
}

static bool read_ranks(const char *text, unsigned *ranks)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    *ranks = (unsigned)value;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value >= 2 &&
           value <= MOST_RANKS;
}

int ds_comm_bench_main(int argc, char **argv)
{
    struct bench bench = {.world = 2, .first = true};
    struct ds_error err = {0};
    int rc;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            bench.as_json = true;
        } else if (!read_ranks(argv[i], &bench.world)) {
            ds_log(DS_LOG_ERROR, "bench comm: ranks are '%.32s', must be 2 to %d", argv[i],
                   MOST_RANKS);
            return DS_EXIT_USAGE;
        }
    }
    bench.page =
        mmap(NULL, sizeof(*bench.page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench.page == MAP_FAILED || getrandom(bench.page->key, DS_COMM_KEY_BYTES, 0) < 0) {
        ds_log(DS_LOG_ERROR, "bench comm: no memory or no random bytes");
        return DS_EXIT_FAILURE;
    }
    if (bench.as_json)
        printf("{\"ranks\": %u, \"cases\": [", bench.world);
    rc = run_all(&bench, false, &err);
    if (rc == 0)
        rc = run_all(&bench, true, &err);
    if (bench.as_json)
        printf("\n], \"copy_gb_s\": %.3f, \"lent\": %.3f}\n", bench.copy_rate[SIZES - 1] / 1e9,
               bench.lent);
    else
        printf(
            "memory copy of 64 MiB, all ranks at once: %.2f GB/s a rank\n"
            "sent over TCP without a copy: %.0f%%\n"
            "all_gather once is of what the ranks of a host hold once: parameters in training on\n"
            "CPUs at zero.stage 1 to 3; memory and tcp are of a buffer on every rank: of groups\n"
            "over several hosts at stages 1 and 2, and with zero.once_per_host false\n",
            bench.copy_rate[SIZES - 1] / 1e9, 100 * bench.lent);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "bench comm: %s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : ds_exit_from_errno(rc);
}
