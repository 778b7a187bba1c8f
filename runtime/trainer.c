/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trainer.c - the parts of a run opened and closed: line between the ranks, data, device, engine.
 */
#include "runtime/trainer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/scratch.h"
#include "runtime/peers.h"
#include "runtime/plan/away.h"

enum { COMM_TIMEOUT_MS = 30 * 60 * 1000, MAX_TIMEOUT_S = 7 * 86400, SPIN_POLLS = 4000 };

static void on_abort(void *user)
{
    ds_comm_abort(user);
}

/* No collective makes no progress for longer than this while all ranks live; DSRUN_COMM_TIMEOUT is
 * another number of seconds. */
static uint64_t timeout_ms(void)
{
    const char *text = getenv("DSRUN_COMM_TIMEOUT");
    unsigned long long seconds = text == NULL ? 0 : strtoull(text, NULL, 10);

    return seconds > 0 && seconds <= MAX_TIMEOUT_S ? seconds * 1000 : COMM_TIMEOUT_MS;
}

/* The ranks' comm of the host. */
static int open_host(struct ds_trainer *trainer, uint64_t shared_bytes, struct ds_comm **out,
                     struct ds_error *err)
{
    const struct ds_train_args *args = trainer->args;
    const bool far = args->local_world < args->world;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct ds_peers meet;
    struct ds_comm_args comm = {
        .backend = "host",
        .rank = args->rank,
        .world = args->world,
        .shm_fd = args->world > 1 ? args->shm_fd : -1,
        .arena_bytes = shared_bytes,
        .common_bytes = trainer->once.common,
        .beside_bytes = trainer->once.beside,
        .timeout_ms = timeout_ms(),
        .spin = cores >= (long)args->local_world * (long)args->threads ? SPIN_POLLS : 0,
    };
    int rc = 0;

    if (far) {
        comm.local_rank = args->local_rank;
        comm.local_world = args->local_world;
        comm.meet = &meet.comm;
        rc = ds_peers_init(&meet, args->link, args->rank, args->world, args->node,
                           args->job->launch.interface, err);
    }
    if (rc == 0)
        rc = ds_comm_open(out, &comm, err);
    if (far)
        ds_peers_release(&meet);
    return rc;
}

/* On a device with memory of its own: NCCL's, with the host's beside it.  It has a longer limit
 * than the watchdog of NCCL, which knows who did not come. */
static int open_device_comm(struct ds_trainer *trainer, uint64_t shared_bytes, struct ds_error *err)
{
    const struct ds_train_args *args = trainer->args;
    struct ds_comm_args comm = {
        .backend = "nccl",
        .rank = args->rank,
        .world = args->world,
        .arena_bytes = shared_bytes,
        .timeout_ms = timeout_ms(),
        .device = trainer->device,
        .board = &trainer->board.comm,
    };
    int rc = open_host(trainer, 0, &trainer->control, err);

    comm.control = trainer->control;
    ds_board_init(&trainer->board, args->link, args->rank);
    return rc == 0 ? ds_comm_open(&trainer->comm, &comm, err) : rc;
}

static void at_least(uint64_t *bytes, uint64_t more)
{
    *bytes = *bytes > more ? *bytes : more;
}

void ds__trainer_fit(struct ds_trainer *trainer, const struct ds_plan *plan)
{
    at_least(&trainer->once.common, plan->common_bytes);
    at_least(&trainer->once.beside, plan->beside_bytes);
}

int ds__trainer_comm(struct ds_trainer *trainer, uint64_t shared_bytes, struct ds_error *err)
{
    int rc = ds_device_is_apart(trainer->device)
                 ? open_device_comm(trainer, shared_bytes, err)
                 : open_host(trainer, shared_bytes, &trainer->comm, err);

    if (rc == 0)
        ds_link_on_abort(trainer->args->link, on_abort, trainer->comm);
    return rc;
}

int ds__trainer_device(struct ds_trainer *trainer, size_t scratch_bytes, struct ds_error *err)
{
    const struct ds_train_args *args = trainer->args;
    const struct ds_device_args device = {
        .name = args->job->launch.device == DS_DEVICE_CUDA ? "cuda" : "cpu",
        .index = args->device,
        .threads = args->threads,
        .scratch_bytes = scratch_bytes,
        .fp8 = args->job->precision.matmul == DS_MATMUL_FP8,
    };

    return ds_device_open(&trainer->device, &device, err);
}

/* Where what the plan leaves to the host of a device apart is done. */
static int open_updater(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_device_args host = {.name = "cpu",
                                        .threads = trainer->args->threads,
                                        .scratch_bytes = ds_scratch_beside_bytes()};

    return ds_plan_uses_host(&trainer->plan) ? ds_device_open(&trainer->host, &host, err) : 0;
}

int ds__trainer_check_memory(struct ds_trainer *trainer, struct ds_error *err)
{
    uint64_t left = 0, all = 0;
    int rc = ds_device_memory(trainer->device, &left, &all, err);

    if (rc != 0 || all == 0)
        return rc;
    trainer->device_left = left + trainer->plan.scratch_bytes;
    rc = ds_plan_check_fit(&trainer->plan, 1, trainer->device_left, err);
    return rc == 0 ? ds_plan_check_host(&trainer->plan, trainer->args->local_world,
                                        ds_mem_available(), err)
                   : rc;
}

static int open_train(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    const struct ds_data_args args = {
        .what = "data.train",
        .sets = &job->data.train,
        .format = job->data.format,
        .order = job->data.order,
        .sequence = job->train.sequence,
        .vocab = job->model.shape.vocab,
        .seed = job->seed,
    };

    if (strcmp(job->data.tokenizer, "bytes") != 0)
        return ds_fail(err, ENOTSUP,
                       "ranks read token ids, and data.tokenizer '%s' is for text; make the ids "
                       "with 'dsrun data tokenize'",
                       job->data.tokenizer);
    return ds_data_open(&trainer->train, &args, err);
}

/* Is there something to evaluate on? */
static bool evaluates(const struct ds_job *job)
{
    return job->eval.every > 0 && job->eval.batches > 0 && job->data.valid.count > 0;
}

int ds__trainer_open(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_train_args *args = trainer->args;
    const struct ds_job *job = trainer->job;
    const char *graphs = getenv("DSRUN_CUDA_GRAPHS");
    struct ds_engine_args engine = {
        .plan = &trainer->plan,
        .job = job,
        .device = trainer->device,
        .comm = trainer->comm,
        .overlap = args->cores > args->threads && !ds_device_is_apart(trainer->device),
        .no_graphs = graphs != NULL && strcmp(graphs, "0") == 0 ? "DSRUN_CUDA_GRAPHS is 0" : NULL,
    };
    int rc = open_updater(trainer, err);

    engine.host = trainer->host;
    if (rc == 0)
        rc = open_train(trainer, err);
    if (rc == 0 && evaluates(job))
        rc = ds_valid_open(&trainer->valid, job, err);
    if (rc == 0)
        rc = ds_engine_open(&trainer->engine, &engine, err);
    return rc;
}

void ds__trainer_close_parts(struct ds_trainer *trainer)
{
    ds_engine_close(trainer->engine);
    ds_device_close(trainer->host);
    ds_data_close(trainer->train);
    ds_valid_close(&trainer->valid);
}

void ds__trainer_close(struct ds_trainer *trainer, bool failed)
{
    if (failed && trainer->comm == NULL && trainer->control != NULL)
        ds_comm_abort(trainer->control);
    if (failed && trainer->comm != NULL)
        ds_comm_abort(trainer->comm); /* no thread of ours waits for a peer any longer */
    ds_link_on_abort(trainer->args->link, NULL, NULL);
    ds_link_on_where(trainer->args->link, NULL, NULL);
    ds_saver_close(trainer->saver);
    ds__trainer_close_parts(trainer);
    ds_comm_close(trainer->comm);
    ds_comm_close(trainer->control);
    ds_probe_close(trainer->probe);
    ds_device_close(trainer->device);
    ds_plan_release(&trainer->plan);
    ds_monitor_release(&trainer->monitor);
    free(trainer->weights);
    free(trainer->moments);
}
