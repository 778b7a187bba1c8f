/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * worker.c - main of dsrun-worker: one rank of a training job, a benchmark of this machine, or
 * who samples from a checkpoint.
 *
 *   dsrun-worker                   started by an agent; environment as runtime/link.h says
 *   dsrun-worker bench ARGS...     started by dsrun bench
 *   dsrun-worker device            asked by dsrun: how many GPUs, and the bytes that one has free
 *   dsrun-worker generate          started by dsrun generate; runtime/generate/request.h
 *
 * The only place below dsrun that prints: "dsrun-worker: error: ..." on stderr, once.  A rank that
 * merely learns that another has failed says nothing and ends after it, so that the first failure
 * is the one that is seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/log.h"
#include "kernels/bench.h"
#include "launcher/spec.h"
#include "runtime/comm/bench.h"
#include "runtime/cost/machine.h"
#include "runtime/disk_bench.h"
#include "runtime/generate/serve.h"
#include "runtime/plugin.h"
#include "runtime/spec.h"
#include "runtime/train.h"
#include "runtime/trial.h"

enum { VICTIM_WAIT_MS = 5000 };

static int env_number(const char *name, uint64_t max, uint64_t *out, struct ds_error *err)
{
    const char *text = getenv(name);
    char *end = NULL;
    unsigned long long value;

    if (text == NULL)
        return ds_fail(err, EINVAL, "'%s' is not set, dsrun-worker is started by dsrun", name);
    errno = 0;
    value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > max)
        return ds_fail(err, EINVAL, "'%s' is '%.64s', must be a number up to %llu", name, text,
                       (unsigned long long)max);
    *out = value;
    return 0;
}

/* "0-3,8" into a set; the number of cores, or 0 when it is malformed or empty. */
static unsigned parse_cores(const char *text, cpu_set_t *set)
{
    CPU_ZERO(set);
    while (*text >= '0' && *text <= '9') {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;

        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        if (first > last || last >= CPU_SETSIZE)
            return 0;
        for (unsigned long core = first; core <= last; core++)
            CPU_SET(core, set);
        text = *end == ',' ? end + 1 : end;
    }
    return *text == '\0' ? (unsigned)CPU_COUNT(set) : 0;
}

/* Keep to DSRUN_CORES where it is given; the number of cores this rank may use. */
static unsigned take_cores(unsigned local_world)
{
    const char *text = getenv("DSRUN_CORES");
    cpu_set_t set;
    unsigned cores = 0;

    if (text != NULL)
        cores = parse_cores(text, &set);
    if (cores > 0 && sched_setaffinity(0, sizeof(set), &set) == 0)
        return cores;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        cores = (unsigned)CPU_COUNT(&set) / local_world;
    return cores > 0 ? cores : 1;
}

static int read_env(struct ds_train_args *args, int *link_fd, struct ds_error *err)
{
    uint64_t rank = 0, world = 0, local = 0, local_rank = 0, node = 0, fd = 0;
    int rc = env_number("WORLD_SIZE", DS_MAX_RANKS, &world, err);

    if (rc == 0)
        rc = env_number("RANK", DS_MAX_RANKS, &rank, err);
    if (rc == 0)
        rc = env_number("LOCAL_WORLD_SIZE", DS_MAX_SLOTS, &local, err);
    if (rc == 0)
        rc = env_number("LOCAL_RANK", DS_MAX_SLOTS, &local_rank, err);
    if (rc == 0)
        rc = env_number("NODE_RANK", DS_MAX_HOSTS, &node, err);
    if (rc == 0)
        rc = env_number("DSRUN_LINK_FD", 1 << 20, &fd, err);
    *link_fd = (int)fd;
    args->shm_fd = -1;
    if (rc == 0 && world > 1) {
        rc = env_number("DSRUN_SHM_FD", 1 << 20, &fd, err);
        args->shm_fd = (int)fd;
    }
    if (rc == 0 && (rank >= world || local < 1 || local > world || local_rank >= local))
        rc = ds_fail(err, EINVAL, "'RANK' and 'WORLD_SIZE' do not fit together");
    args->rank = (unsigned)rank;
    args->world = (unsigned)world;
    args->local_world = (unsigned)local;
    args->local_rank = (unsigned)local_rank;
    args->node = (unsigned)node;
    return rc;
}

/* A machine that has a GPU and whose job may do without it is told why it does. */
static int choose_device(struct ds_job *job, struct ds_train_args *args, struct ds_error *err)
{
    const struct ds_seat seat = {.rank = args->rank,
                                 .world = args->world,
                                 .local_rank = args->local_rank,
                                 .local_world = args->local_world};
    struct ds_error why = {0};
    int rc = ds_plugin_seat(job, &seat, &args->device, &why, err);

    if (rc == 0 && why.text[0] != '\0' && access("/dev/nvidiactl", F_OK) == 0)
        ds_log(DS_LOG_WARNING, "this rank computes on the CPU: %s", why.text);
    return rc;
}

static int run_job(const struct ds_train_args *started, struct ds_buf *text, int *code,
                   struct ds_error *err)
{
    struct ds_train_args args = *started; /* what the job adds lives as long as the job */
    struct ds_run_spec spec;
    struct ds_job job;
    int rc = ds_run_spec_parse(&spec, text->data, text->len, err);

    if (rc != 0)
        return rc;
    if (chdir(spec.cwd) != 0)
        return ds_fail(err, errno, "cannot enter the working directory '%s': %s", spec.cwd,
                       strerror(errno));
    ds_job_init(&job);
    rc = ds_job_parse(&job, "job", spec.job_text, spec.job_bytes, NULL, 0, err);
    if (rc == 0)
        rc =
            spec.trials > 0 ? 0 : ds_job_check_world(&job, args.world, err); /* each says its own */
    if (rc == 0)
        rc = choose_device(&job, &args, err);
    args.cores = take_cores(args.local_world);
    args.threads = job.launch.threads > 0 ? (unsigned)job.launch.threads : args.cores;
    args.job = &job;
    args.run_dir = spec.run_dir;
    args.attempt = spec.attempt;
    args.saved = spec.saved;
    args.evaluate = spec.evaluate;
    if (rc == 0)
        rc = spec.trials > 0 ? ds_trials(&args, &spec, err) : ds_train(&args, code, err);
    ds_job_release(&job);
    return rc;
}

/* What it ends for, where the launcher may treat that apart. */
static enum ds_wire_phase end_phase(int rc)
{
    switch (rc) {
    case -ENOSPC:
    case -EDQUOT: return DS_PHASE_DISK_FULL;
    case -ENOMEM: return DS_PHASE_NO_MEMORY;
    case -ETIMEDOUT:
    case -ECONNRESET:
    case -EREMOTEIO: return DS_PHASE_COMM;
    default: return DS_PHASE_STEP;
    }
}

static int run_worker(int *code, struct ds_error *err)
{
    struct ds_train_args args = {.shm_fd = -1};
    struct ds_buf text;
    int link_fd = -1, rc = read_env(&args, &link_fd, err);

    if (rc != 0) {
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(err, rc));
        return rc;
    }
    ds_buf_init(&text, DS_MAX_FRAME_BYTES);
    rc = ds_link_open(&args.link, link_fd, args.rank, &text, err);
    if (rc == 0)
        rc = run_job(&args, &text, code, err);
    if ((rc == -ECANCELED || rc == -ECONNRESET) && args.link != NULL &&
        ds_link_wait_over(args.link, VICTIM_WAIT_MS))
        rc = -ECANCELED; /* a peer that hung up has failed; a network that did is ours to report */
    else if (rc != 0 && rc != -ECANCELED)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(err, rc));
    if (end_phase(rc) != DS_PHASE_STEP && args.link != NULL &&
        ds_link_phase(args.link, end_phase(rc), NULL) != 0)
        ds_log(DS_LOG_ERROR, "the line to the agent has ended");
    ds_link_close(args.link);
    ds_buf_release(&text);
    return rc;
}

/* None where none can be used: of several hosts that are asked this is no failure of one. */
static int tell_device(void)
{
    struct ds_error err = {0};
    unsigned devices = 0;
    uint64_t left = 0;
    int rc = ds_plugin_memory(&devices, &left, &err);

    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    (void)printf("%u %" PRIu64 "\n", rc == 0 ? devices : 0, rc == 0 ? left : 0);
    return DS_EXIT_OK;
}

/* Its user sees dsrun alone.  Events go where standard output was, which is for messages now. */
static int generate(void)
{
    int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), rc;
    struct ds_error err = {0};

    ds_log_init("dsrun", DS_LOG_WARNING);
    if (out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        ds_log(DS_LOG_ERROR, "cannot keep standard output: %s", strerror(errno));
        return DS_EXIT_FAILURE;
    }
    rc = ds_generate_serve(STDIN_FILENO, out, take_cores(1), &err);
    if (rc == -ECANCELED)
        return DS_EXIT_FAILURE; /* nobody is there to be told */
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return ds_exit_from_errno(rc);
}

enum { MAPPED_BYTES = 128 << 10 };

int main(int argc, char **argv)
{
    struct ds_error err = {0};
    int code = DS_EXIT_OK, rc;

    /* What is as large as this is given back when it is freed.  glibc raises its own limit with
     * each that is, and what is freed then stays or not as small things lie: the length of a path
     * decided about megabytes that no plan knew of. */
    (void)mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
    ds_log_init("dsrun-worker", DS_LOG_WARNING);
    if (argc > 2 && strcmp(argv[1], "bench") == 0 && strcmp(argv[2], "machine") == 0)
        return ds_machine_main(argc - 2, argv + 2);
    if (argc > 2 && strcmp(argv[1], "bench") == 0 && strcmp(argv[2], "io") == 0)
        return ds_disk_bench_main(argc - 2, argv + 2);
    if (argc > 1 && strcmp(argv[1], "bench") == 0)
        return argc > 2 && strcmp(argv[2], "comm") == 0 ? ds_comm_bench_main(argc - 2, argv + 2)
                                                        : ds_bench_main(argc - 2, argv + 2);
    if (argc == 2 && strcmp(argv[1], "device") == 0)
        return tell_device();
    if (argc == 2 && strcmp(argv[1], "generate") == 0)
        return generate();
    if (argc > 1) {
        ds_log(DS_LOG_ERROR, "unknown word '%s', dsrun-worker is started by dsrun", argv[1]);
        return DS_EXIT_USAGE;
    }
    rc = run_worker(&code, &err);
    if (rc == -ECANCELED)
        return DS_RANK_VICTIM_EXIT;
    return rc == 0 ? code : ds_exit_from_errno(rc);
}
