/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * snapshot.c - the engine's lines as named tensors, and a checkpoint of them.
 *
 * Tests   tests/engine/test_worker.c
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "runtime/trainer.h"

/* `state` is "" for the weights. */
static void view(struct ds_ckpt_tensor *tensor, const char *state,
                 const struct ds_plan_param *param, float *line)
{
    *tensor = (struct ds_ckpt_tensor){
        .dtype = DS_F32,
        .ndim = param->param.ndim,
        .shape = {param->param.shape[0], param->param.ndim > 1 ? param->param.shape[1] : 0},
        .count = param->param.elems,
        .data = line + param->offset,
    };
    (void)snprintf(tensor->name, sizeof(tensor->name), "%s%s%.200s", state,
                   state[0] != '\0' ? "." : "", param->param.name);
}

int ds__trainer_tensors(struct ds_trainer *trainer, struct ds_error *err)
{
    struct ds_engine_lines lines = ds_engine_lines(trainer->engine);
    size_t count = trainer->plan.params;
    unsigned states = trainer->plan.optim_states;

    trainer->weights = calloc(count, sizeof(*trainer->weights));
    trainer->moments = calloc(count, (states + 1) * sizeof(*trainer->moments));
    if (trainer->weights == NULL || trainer->moments == NULL)
        return ds_fail(err, ENOMEM, "no memory for the names of %zu tensors", count);
    trainer->n_weights = count;
    trainer->n_moments = states * count;
    for (size_t i = 0; i < count; i++) {
        const struct ds_plan_param *param = &trainer->plan.param[i];

        view(&trainer->weights[i], "", param, lines.params);
        for (unsigned k = 0; k < states; k++)
            view(&trainer->moments[k * count + i], ds_optim_state_name(trainer->job, k), param,
                 lines.state[k]);
    }
    return 0;
}

static int barrier(void *user, struct ds_error *err)
{
    struct ds_trainer *trainer = user;

    return ds_comm_barrier(trainer->comm, err);
}

static int before_commit(void *user, struct ds_error *err)
{
    struct ds_trainer *trainer = user;

    return ds_link_flush(trainer->args->link, err);
}

int ds__trainer_save(struct ds_trainer *trainer, struct ds_error *err)
{
    uint64_t began = ds_clock_mono_ns();
    const struct ds_ckpt_save_args args = {
        .run_dir = trainer->args->run_dir,
        .state = trainer->state,
        .weights = trainer->weights,
        .moments = trainer->moments,
        .n_weights = trainer->n_weights,
        .n_moments = trainer->n_moments,
        .rank = trainer->args->rank,
        .world = trainer->args->world,
        .keep = trainer->job->checkpoint.keep,
        .barrier = barrier,
        .before_commit = before_commit,
        .user = trainer,
    };
    uint64_t bytes =
        (1 + trainer->plan.optim_states) * ds_model_elems(&trainer->plan.shape) * sizeof(float);
    char path[DS_MAX_PATH];
    int rc = ds_ckpt_save(&args, err);

    if (rc != 0)
        return ds_error_context(err, rc, "checkpoint of step %" PRIu64, trainer->state.step);
    (void)snprintf(path, sizeof(path), "checkpoints/step-%08" PRIu64, trainer->state.step);
    return ds_monitor_checkpoint(&trainer->monitor, trainer->state.step, path,
                                 (double)(ds_clock_mono_ns() - began) / 1e6, bytes, err);
}
