/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * allreduce - time the in-place all-reduce of runtime/comm.h between processes of one host.
 *
 *     allreduce MIB REPS [RANKS]
 *
 * Prints one JSON line: the time of rank 0 from a barrier to the end of the operation, median and
 * least of REPS after three unmeasured ones.  The result is checked; a wrong sum is exit 1.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "runtime/comm/comm.h"

enum { WARM = 3, MAX_REPS = 1000, SPIN = 2000 };

struct setup {
    size_t n; /* floats */
    unsigned reps, world;
    int fd;
};

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void report(const struct setup *setup, uint64_t *ns)
{
    double bytes = (double)setup->n * sizeof(float);

    qsort(ns, setup->reps, sizeof(*ns), by_value);
    printf("{\"what\":\"all_reduce\",\"peer\":\"dsrun\",\"ranks\":%u,\"bytes\":%.0f,\"reps\":%u,"
           "\"median_ms\":%.3f,\"min_ms\":%.3f,\"gb_s\":%.3f}\n",
           setup->world, bytes, setup->reps, (double)ns[setup->reps / 2] / 1e6, (double)ns[0] / 1e6,
           bytes / (double)ns[setup->reps / 2]);
}

/* The ranks hold 1, 2, ...; after rep k every element is (sum of all) x world^k. */
static int run_reps(struct ds_comm *comm, const struct setup *setup, unsigned rank,
                    struct ds_error *err)
{
    static uint64_t ns[MAX_REPS];
    float *buf = ds_comm_arena(comm);
    float expected = (float)(setup->world * (setup->world + 1) / 2);

    for (unsigned k = 0; k < setup->reps + WARM; k++) {
        uint64_t began;
        int rc;

        for (size_t i = 0; i < setup->n; i++)
            buf[i] = (float)(rank + 1);
        rc = ds_comm_barrier(comm, err);
        began = ds_clock_mono_ns();
        if (rc == 0)
            rc = ds_comm_all_reduce_f32(comm, buf, setup->n, err);
        if (k >= WARM)
            ns[k - WARM] = ds_clock_mono_ns() - began;
        if (rc < 0)
            return rc;
        for (size_t i = 0; i < setup->n; i++)
            if (buf[i] != expected)
                return ds_fail(err, EIO, "element %zu is %g instead of %g", i, (double)buf[i],
                               (double)expected);
    }
    if (rank == 0)
        report(setup, ns);
    return 0;
}

static int run_rank(const struct setup *setup, unsigned rank)
{
    struct ds_error err = {0};
    struct ds_comm *comm = NULL;
    struct ds_comm_args args = {
        .backend = "host",
        .rank = rank,
        .world = setup->world,
        .shm_fd = setup->fd,
        .arena_bytes = setup->n * sizeof(float),
        .timeout_ms = 60000,
        .spin = sysconf(_SC_NPROCESSORS_ONLN) >= (long)setup->world ? SPIN : 0,
    };
    int rc = ds_comm_open(&comm, &args, &err);

    if (rc == 0)
        rc = run_reps(comm, setup, rank, &err);
    if (rc < 0)
        fprintf(stderr, "allreduce: rank %u: %s\n", rank, ds_error_text(&err, rc));
    ds_comm_close(comm);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_all(const struct setup *setup)
{
    int status, worst = EXIT_SUCCESS;

    for (unsigned rank = 1; rank < setup->world; rank++) {
        pid_t pid = fork();

        if (pid < 0)
            return EXIT_FAILURE;
        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(run_rank(setup, rank));
        }
    }
    worst = run_rank(setup, 0);
    while (wait(&status) > 0)
        if (status != 0)
            worst = EXIT_FAILURE;
    return worst;
}

static bool read_number(const char *text, unsigned long least, unsigned long most, size_t *out)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    *out = value;
    return errno == 0 && end != text && *end == '\0' && value >= least && value <= most;
}

int main(int argc, char **argv)
{
    size_t mib = 64, reps = 15, world = 2;
    struct setup setup;

    if (argc > 4 || (argc > 1 && !read_number(argv[1], 1, 16384, &mib)) ||
        (argc > 2 && !read_number(argv[2], 1, MAX_REPS, &reps)) ||
        (argc > 3 && !read_number(argv[3], 1, 64, &world))) {
        fprintf(stderr, "usage: allreduce [MIB [REPS [RANKS]]]\n");
        return 2;
    }
    setup = (struct setup){.n = (mib << 20) / sizeof(float),
                           .reps = (unsigned)reps,
                           .world = (unsigned)world,
                           .fd = memfd_create("allreduce", MFD_CLOEXEC)};
    if (setup.fd < 0) {
        fprintf(stderr, "allreduce: no shared memory: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    return run_all(&setup);
}
