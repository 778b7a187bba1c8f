/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * machine.c - the contract is in machine.h.
 *
 * Ranks are processes of this machine, each on its share of the cores, and all measure at the same
 * time, because that is how they will run: they share memory bandwidth and heat.  What is printed
 * is the mean over the ranks.
 */
#include "runtime/cost/machine.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "kernels/rates.h"
#include "runtime/comm/comm.h"
#include "runtime/cost/cluster.h"

enum { MOST_RANKS = DS_COMM_MAX_F64, WAIT_MS = 600000, TEXT_BYTES = 1 << 16 };
enum { REPEATS = 24, SMALL_REPEATS = 200 };
enum { SPIN = 4000 }; /* polls before a sleep, as many as those of a job's ranks */
enum { RATES = sizeof(struct ds_rates) / sizeof(double) };
#define AREA_BYTES   ((size_t)64 << 20)
#define BUCKET_BYTES ((size_t)8 << 20)

struct machine {
    unsigned world, rank, threads;
    int fd;
    cpu_set_t cores; /* of all ranks */
    struct ds_comm *comm;
    struct ds_rates rates; /* mean of all ranks */
    struct ds_spread spread;
    double bandwidth, latency_us; /* between ranks, as cluster.h counts them */
};

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Stay on the share of the cores that a rank of a job would have. */
static void take_cores(const struct machine *machine)
{
    unsigned skip = machine->rank * machine->threads, take = machine->threads;
    cpu_set_t mine;

    CPU_ZERO(&mine);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && take > 0; cpu++) {
        if (!CPU_ISSET(cpu, &machine->cores))
            continue;
        if (skip > 0) {
            skip--;
            continue;
        }
        CPU_SET(cpu, &mine);
        take--;
    }
    if (CPU_COUNT(&mine) > 0)
        (void)sched_setaffinity(0, sizeof(mine), &mine);
}

static int open_comm(struct machine *machine, struct ds_error *err)
{
    const struct ds_comm_args args = {.backend = "host",
                                      .rank = machine->rank,
                                      .world = machine->world,
                                      .shm_fd = machine->world > 1 ? machine->fd : -1,
                                      .arena_bytes = AREA_BYTES,
                                      .timeout_ms = WAIT_MS,
                                      .spin = SPIN};

    return ds_comm_open(&machine->comm, &args, err);
}

static int meet(void *comm, struct ds_error *err)
{
    return ds_comm_barrier(comm, err);
}

/* From what every rank took in each round, which all begin together. */
static int measure_spread(struct machine *machine, const struct ds_rates_peers *peers,
                          struct ds_error *err)
{
    size_t count = (size_t)DS_RATES_ROUNDS * machine->world;
    double *pass_s = calloc(count, sizeof(*pass_s)), *row = pass_s;
    int rc = 0;

    if (pass_s == NULL)
        return ds_fail(err, ENOMEM, "no memory for what %u ranks took", machine->world);
    for (unsigned i = 0; rc == 0 && i < DS_RATES_ROUNDS; i++, row += machine->world) {
        row[machine->rank] = peers->pass_s[i];
        rc = ds_comm_all_reduce_f64(machine->comm, row, machine->world, err);
    }
    if (rc == 0)
        machine->spread = ds_spread_fit(pass_s, DS_RATES_ROUNDS, machine->world, peers->round_s);
    free(pass_s);
    return rc;
}

static int measure_rates(struct machine *machine, struct ds_error *err)
{
    struct ds_rates_peers peers = {.meet = meet, .user = machine->comm};

    const struct ds_device_args args = {.name = "cpu",
                                        .threads = machine->threads,
                                        .scratch_bytes = ds_rates_scratch_bytes(machine->threads)};
    struct ds_device *device = NULL;
    double mean[RATES];
    int rc = ds_device_open(&device, &args, err);

    if (rc == 0)
        rc = ds_comm_barrier(machine->comm, err);
    if (rc == 0)
        rc = ds_rates_measure(device, &peers, &machine->rates, err);
    ds_device_close(device);
    if (rc == 0)
        rc = measure_spread(machine, &peers, err);
    if (rc != 0)
        return rc;
    memcpy(mean, &machine->rates, sizeof(mean));
    rc = ds_comm_all_reduce_f64(machine->comm, mean, RATES, err);
    for (size_t i = 0; i < RATES; i++)
        mean[i] /= machine->world;
    memcpy(&machine->rates, mean, sizeof(mean));
    return rc;
}

typedef int collective(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err);

/* Median seconds of a collective of `elems` numbers, from a barrier on.  As in a step, each rank
 * has just written what it brings, and buckets follow one another through memory. */
static int time_collective(struct machine *machine, collective *run, size_t elems, int repeats,
                           double *seconds, struct ds_error *err)
{
    size_t buckets = AREA_BYTES / BUCKET_BYTES;
    double sample[SMALL_REPEATS];
    int rc = 0;

    for (int i = 0; rc == 0 && i < repeats; i++) {
        float *bucket = (float *)(void *)((unsigned char *)ds_comm_arena(machine->comm) +
                                          (size_t)i % buckets * BUCKET_BYTES);
        uint64_t began;

        for (size_t k = 0; k < elems; k++)
            bucket[k] = 1.0f;
        rc = ds_comm_barrier(machine->comm, err);
        began = ds_clock_mono_ns();
        if (rc == 0)
            rc = run(machine->comm, bucket, elems, err);
        sample[i] = (double)(ds_clock_mono_ns() - began) * 1e-9;
    }
    qsort(sample, (size_t)repeats, sizeof(sample[0]), by_value);
    *seconds = sample[repeats / 2];
    return rc;
}

/* What makes ds_work_collective() say what was measured, of a sum for all and one for each its
 * part together: in memory the second is not half of the first. */
static int measure_links(struct machine *machine, struct ds_error *err)
{
    double w = machine->world, doublings = 0, small = 0, whole = 0, part = 0;
    size_t elems = BUCKET_BYTES / sizeof(float) / machine->world * machine->world;
    int rc;

    if (machine->world < 2)
        return 0;
    for (unsigned ranks = 1; ranks < machine->world; ranks *= 2)
        doublings++;
    rc = time_collective(machine, ds_comm_all_reduce_f32, machine->world, SMALL_REPEATS, &small,
                         err);
    if (rc == 0)
        rc = time_collective(machine, ds_comm_all_reduce_f32, elems, REPEATS, &whole, err);
    if (rc == 0)
        rc = time_collective(machine, ds_comm_reduce_scatter_f32, elems, REPEATS, &part, err);
    machine->latency_us = small / (2.0 * doublings) * 1e6;
    machine->bandwidth = 3.0 * (double)(elems * sizeof(float)) * (w - 1) / w / (whole + part);
    return rc;
}

static int run_rank(struct machine *machine, struct ds_error *err)
{
    int rc;

    take_cores(machine);
    rc = open_comm(machine, err);
    if (rc == 0)
        rc = measure_rates(machine, err);
    if (rc == 0)
        rc = measure_links(machine, err);
    if (rc != 0 && machine->comm != NULL)
        ds_comm_abort(machine->comm);
    ds_comm_close(machine->comm);
    return rc;
}

static int run_child(struct machine machine, unsigned rank)
{
    struct ds_error err = {0};
    int rc;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    machine.rank = rank;
    rc = run_rank(&machine, &err);
    if (rc != 0 && rc != -ECANCELED)
        ds_log(DS_LOG_ERROR, "rank %u: %s", rank, ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

static int run_all(struct machine *machine, struct ds_error *err)
{
    int status, failed = 0, rc;

    machine->fd = memfd_create("dsrun-machine", MFD_CLOEXEC);
    if (machine->fd < 0)
        return ds_fail(err, errno, "no shared memory: %s", strerror(errno));
    for (unsigned rank = 1; failed == 0 && rank < machine->world; rank++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(run_child(*machine, rank));
        failed = pid < 0 ? errno : 0;
    }
    rc = failed != 0 ? ds_fail(err, failed, "cannot start %u ranks", machine->world)
                     : run_rank(machine, err);
    while (wait(&status) > 0)
        if (status != 0 && rc == 0)
            rc = ds_fail(err, EIO, "a rank has failed");
    (void)close(machine->fd);
    return rc;
}

/* Four digits: more would be noise. */
static double rounded(double value)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "%.4g", value);
    return strtod(text, NULL);
}

static struct ds_rate rate_of(double fp32, double bf16)
{
    return (struct ds_rate){rounded(fp32), rounded(bf16)};
}

static int print(const struct machine *machine, struct ds_error *err)
{
    const struct ds_rates *rates = &machine->rates;
    struct ds_cluster cluster;
    struct ds_buf out;
    int rc;

    ds_cluster_init(&cluster);
    cluster.hosts = 1;
    cluster.ranks = machine->world;
    cluster.device.name = "this machine";
    cluster.device.flops = rate_of(rates->fp32.flops, rates->bf16.flops);
    cluster.device.peak = cluster.device.flops;
    cluster.device.matmul_half = rate_of(rates->fp32.matmul_half, rates->bf16.matmul_half);
    cluster.device.fp8.flops = cluster.device.fp8.peak =
        cluster.device.flops.bf16; /* so multiplied */
    cluster.device.fp8.matmul_half = cluster.device.matmul_half.bf16;
    cluster.device.attention = rate_of(rates->fp32.attention, rates->bf16.attention);
    cluster.device.attention_half = rate_of(rates->fp32.attention_half, rates->bf16.attention_half);
    cluster.device.pointwise = rate_of(rates->fp32.pointwise, rates->bf16.pointwise);
    cluster.device.bandwidth = rounded(rates->bandwidth);
    cluster.device.update = rounded(rates->update);
    cluster.device.random = rounded(rates->random);
    cluster.device.launch_us = rounded(rates->launch_us);
    cluster.host = (struct ds_link_rate){rounded(machine->bandwidth), rounded(machine->latency_us)};
    cluster.device.spread.share = rounded(machine->spread.share);
    cluster.device.spread.evens_s = rounded(machine->spread.evens_s);
    cluster.overlap = 0.0; /* every core computes */
    ds_buf_init(&out, TEXT_BYTES);
    rc = ds_cluster_write(&cluster, &out, err);
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, out.data, out.len, err);
    ds_buf_release(&out);
    ds_cluster_release(&cluster);
    return rc;
}

static bool read_ranks(const char *text, unsigned most, unsigned *ranks)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    *ranks = (unsigned)value;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value >= 1 &&
           value <= most;
}

int ds_machine_main(int argc, char **argv)
{
    struct machine machine = {.world = 1};
    struct ds_error err = {0};
    unsigned cores, most;
    int rc;

    if (sched_getaffinity(0, sizeof(machine.cores), &machine.cores) != 0)
        CPU_ZERO(&machine.cores);
    cores = CPU_COUNT(&machine.cores) > 0 ? (unsigned)CPU_COUNT(&machine.cores) : 1;
    most = cores < MOST_RANKS ? cores : MOST_RANKS;
    if (argc > 2 || (argc == 2 && !read_ranks(argv[1], most, &machine.world))) {
        ds_log(DS_LOG_ERROR, "bench machine: ranks are '%.32s', must be 1 to %u, the cores here",
               argc > 1 ? argv[1] : "", most);
        return DS_EXIT_USAGE;
    }
    machine.threads = cores / machine.world;
    rc = run_all(&machine, &err);
    if (rc == 0)
        rc = print(&machine, &err);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "bench machine: %s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : ds_exit_from_errno(rc);
}
