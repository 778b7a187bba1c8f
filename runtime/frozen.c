/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * frozen.c - parameters that stay as model.init.from has them.
 *
 * They are read whenever a run starts, a piece at a time, and go to where kernels read them;
 * checkpoints leave them out, and name the folder and what it held.
 *
 * Tests   tests/plan/test_held.c, tests/e2e/lora.py
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "runtime/agree.h"
#include "runtime/optim.h"
#include "runtime/trainer.h"

enum { PIECE_ELEMS = 4 << 20 };

/* What is read together: parts of parameters, one behind the other in `piece`. */
struct freezing {
    struct ds_trainer *trainer;
    struct ds_hf_folder *folder;
    struct ds_ckpt_tensor *tensor; /* [params] */
    size_t *param;                 /* of each */
    uint64_t *first;               /* its first element there, as the plan counts them */
    size_t tensors;
    float *piece;
    uint64_t used;
};

static int flush(struct freezing *f, struct ds_error *err)
{
    const char *from = f->trainer->job->model.init_from;
    int rc = ds_error_context(err, ds_hf_read(f->folder, f->tensor, f->tensors, err),
                              "model.init.from '%s'", from);

    for (size_t i = 0; rc == 0 && i < f->tensors; i++)
        rc = ds_engine_freeze(f->trainer->engine, f->param[i], f->first[i], f->tensor[i].count,
                              f->tensor[i].data, err);
    f->tensors = 0;
    f->used = 0;
    return rc;
}

/* All that this rank holds of a parameter; what a team's cut pads it with stays zero. */
static int add(struct freezing *f, size_t param, struct ds_error *err)
{
    const struct ds_plan *plan = &f->trainer->plan;
    const enum ds_arena_kind own = plan->copies ? DS_ARENA_PARAMS_LOW : DS_ARENA_PARAMS;
    struct ds_ckpt_tensor all;
    int rc = 0;

    ds__trainer_view(&all, "", plan, param, own);
    for (uint64_t done = 0; rc == 0 && done < all.count;) {
        uint64_t left = PIECE_ELEMS - f->used, count = all.count - done;
        struct ds_ckpt_tensor *tensor = &f->tensor[f->tensors];

        count = count < left ? count : left;
        *tensor = all;
        tensor->first = all.first + done;
        tensor->count = count;
        tensor->data = f->piece + f->used;
        f->param[f->tensors] = param;
        f->first[f->tensors] = ds_plan_held_param(plan, own, param).first + done;
        f->tensors++;
        f->used += count;
        done += count;
        if (f->used == PIECE_ELEMS)
            rc = flush(f, err);
    }
    return rc;
}

static int read_all(struct freezing *f, struct ds_error *err)
{
    const struct ds_plan *plan = &f->trainer->plan;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < plan->params; i++)
        if (plan->tensor[plan->param[i].tensor].frozen)
            rc = add(f, i, err);
    return rc == 0 && f->tensors > 0 ? flush(f, err) : rc;
}

/* The folder, and what it is told from another by: its weights, and which of them are frozen. */
static int describe(struct ds_trainer *trainer, const struct ds_hf_folder *folder,
                    struct ds_error *err)
{
    const struct ds_plan *plan = &trainer->plan;
    const char *from = trainer->job->model.init_from;
    uint64_t frozen = 0;
    int rc = ds_hf_digest(folder, &trainer->base.digest, err);

    if (rc == 0)
        rc = ds__trainer_agree_on_weights(trainer, trainer->base.digest, err);
    if (rc != 0)
        return ds_error_context(err, rc, "model.init.from '%s'", from);
    for (size_t i = 0; i < plan->tensors; i++)
        frozen = (frozen ^ (plan->tensor[i].frozen ? i + 1 : 0)) * UINT64_C(0x9e3779b97f4a7c15);
    trainer->base.frozen = frozen;
    if (realpath(from, trainer->base.path) == NULL)
        return ds_fail(err, errno, "model.init.from '%s': %s", from, strerror(errno));
    return 0;
}

int ds__trainer_freeze(struct ds_trainer *trainer, struct ds_error *err)
{
    const size_t params = trainer->plan.params;
    const struct ds_model_shape base = ds_model_base(&trainer->plan.model);
    const char *from = trainer->job->model.init_from;
    struct freezing f = {.trainer = trainer};
    int rc;

    if (!ds_optim_freezes(trainer->job))
        return 0;
    f.tensor = calloc(params, sizeof(*f.tensor));
    f.param = calloc(params, sizeof(*f.param));
    f.first = calloc(params, sizeof(*f.first));
    f.piece = malloc(PIECE_ELEMS * sizeof(*f.piece));
    if (f.tensor == NULL || f.param == NULL || f.first == NULL || f.piece == NULL)
        rc = ds_fail(err, ENOMEM, "no memory to read %zu tensors", params);
    else
        rc = ds_error_context(err, ds_hf_open(&f.folder, from, &base, err), "model.init.from '%s'",
                              from);
    if (rc == 0)
        rc = read_all(&f, err);
    if (rc == 0)
        rc = describe(trainer, f.folder, err);
    ds_hf_close(f.folder);
    free(f.tensor);
    free(f.param);
    free(f.first);
    free(f.piece);
    return rc;
}

int ds__trainer_check_base(const struct ds_trainer *trainer, const char *ckpt,
                           const struct ds_ckpt_state *state, struct ds_error *err)
{
    const struct ds_lora *was = &state->shape.lora, *is = &trainer->plan.model.lora;
    const bool saved = state->base.path[0] != '\0', freezes = trainer->base.path[0] != '\0';

    if (freezes && !saved)
        return ds_fail(err, EINVAL,
                       "checkpoint '%s' has all tensors, and the job keeps some as "
                       "'model.init.from' has them: 'dsrun ckpt export' the checkpoint, and start "
                       "from that folder with a new 'run_dir'",
                       ckpt);
    if (saved && !freezes)
        return ds_fail(err, EINVAL,
                       "checkpoint '%s' leaves out what was frozen or adapted, the weights of "
                       "'%s': keep 'lora' and 'train.freeze' as they were, or 'dsrun ckpt export' "
                       "it and start from that folder",
                       ckpt, state->base.path);
    if (saved && (was->rank != is->rank || was->targets != is->targets || was->alpha < is->alpha ||
                  was->alpha > is->alpha || was->by_root != is->by_root))
        return ds_fail(err, EINVAL, "checkpoint '%s' was made with another '%s'; keep it as it was",
                       ckpt,
                       was->rank != is->rank         ? "lora.rank"
                       : was->targets != is->targets ? "lora.targets"
                       : was->by_root != is->by_root ? "lora.rslora"
                                                     : "lora.alpha");
    if (saved &&
        (state->base.digest != trainer->base.digest || state->base.frozen != trainer->base.frozen))
        return ds_fail(err, EINVAL,
                       "checkpoint '%s' was made on other weights than those of 'model.init.from' "
                       "'%s', or with other tensors frozen; it was made on '%s'",
                       ckpt, trainer->job->model.init_from, state->base.path);
    return 0;
}
