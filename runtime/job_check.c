/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_check.c - what several keys say together; the contract is in job.h.
 *
 * Each check completes what follows from other keys and refuses what cannot
 * be, at the place of the key that should change, with values that would do.
 */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/fp8.h"
#include "runtime/job.h"
#include "runtime/job_blame.h"
#include "runtime/job_data.h"
#include "runtime/job_model.h"
#include "runtime/job_ranks.h"
#include "runtime/job_table.h"

/* --- name and places -----------------------------------------------------------------------------
 */

static int check_name(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const char *s = job->name;

    while (isalnum((unsigned char)*s) || (*s != '\0' && strchr("._-", *s) != NULL))
        s++;
    if (*s != '\0' || job->name[0] == '.')
        return FAIL_AT(keys, "name", EINVAL,
                       "'name' must be of letters, digits, '.', '_' and '-' and not start with "
                       "'.', not '%s'",
                       job->name);
    if (!ds_keys_given(keys, "run_dir"))
        job->run_dir = ds_arena_printf(&job->arena, "runs/%s", job->name);
    return job->run_dir == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

static int check_env(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    static const char *const taken[] = {
        "RANK=", "WORLD_SIZE=", "LOCAL_RANK=", "LOCAL_WORLD_SIZE=", "NODE_RANK=", "DSRUN_"};

    for (size_t i = 0; i < job->launch.env.count; i++) {
        const char *word = job->launch.env.item[i];

        for (size_t t = 0; t < sizeof(taken) / sizeof(taken[0]); t++) {
            if (strncmp(word, taken[t], strlen(taken[t])) == 0)
                return FAIL_AT(keys, "launch.env", EINVAL,
                               "'%.*s' in 'launch.env' is set by dsrun itself; leave it out",
                               (int)strcspn(word, "="), word);
        }
    }
    return 0;
}

/* --- data, batch and schedule
 * ---------------------------------------------------------------------- */

/* As if the key had not been given. */
static void forget(const struct ds_keys *keys, const char *path)
{
    keys->origin[ds_keys_find(keys, path)] = (struct ds_keys_origin){0};
}

/* One of two keys says how long the run is; one on the command line counts for more. */
static int check_length(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    bool steps = ds_keys_given(keys, "train.steps"), epochs = ds_keys_given(keys, "train.epochs");
    bool over = ds_keys_overridden(keys, "train.steps");

    if (!steps && !epochs)
        return FAIL_AT(keys, "train.steps", EINVAL, "'train.steps' or 'train.epochs' is required");
    if (steps && epochs && over == ds_keys_overridden(keys, "train.epochs"))
        return FAIL_AT(keys, "train.epochs", EINVAL,
                       "'train.steps' and 'train.epochs' both say how long the run is; leave one "
                       "out");
    if (steps && epochs)
        forget(keys, over ? "train.epochs" : "train.steps");
    if (over)
        job->train.epochs = 0.0;
    else if (epochs)
        job->train.steps = 0;
    return 0;
}

static int check_batch(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    uint64_t global = job->train.global_batch, micro = job->train.micro_batch;
    char fit[64], other[64];

    if (!ds_keys_given(keys, "train.sequence"))
        job->train.sequence = job->model.shape.context;
    if (job->train.sequence > job->model.shape.context)
        return FAIL_AT(keys, ds__job_blame(keys, "train.sequence", "model.context"), EINVAL,
                       "'train.sequence' must be at most 'model.context' %" PRIu64 ", not %" PRIu64,
                       job->model.shape.context, job->train.sequence);
    if (global % micro != 0) {
        ds__job_near_multiples(micro, global, fit, sizeof(fit));
        ds__job_near_divisors(global, micro, global, other, sizeof(other));
        return FAIL_AT(keys, ds__job_blame(keys, "train.global_batch", "train.micro_batch"), EINVAL,
                       "'train.global_batch' %" PRIu64
                       " must be a multiple of 'train.micro_batch' %" PRIu64
                       "; %s would do, or a micro_batch of %s",
                       global, micro, fit, other);
    }
    return 0;
}

/* What an optimizer takes where the job says nothing, and which keys mean something to it. */
static const struct optim_rule {
    const char *name;
    double beta1, beta2, eps, weight_decay;
    bool betas, has_eps, has_momentum;
    double momentum;
} optim_rules[] = {
    [DS_OPTIM_ADAMW] = {"adamw", 0.9, 0.95, 1e-8, 0.1, true, true, false, 0.0},
    [DS_OPTIM_ADAM] = {"adam", 0.9, 0.999, 1e-8, 0.0, true, true, false, 0.0},
    [DS_OPTIM_SGD] = {"sgd", 0.9, 0.95, 1e-8, 0.0, false, false, true, 0.0},
    [DS_OPTIM_LION] = {"lion", 0.9, 0.99, 1e-8, 0.1, true, false, false, 0.0},
    [DS_OPTIM_ADAGRAD] = {"adagrad", 0.9, 0.95, 1e-10, 0.0, false, true, false, 0.0},
    [DS_OPTIM_LAMB] = {"lamb", 0.9, 0.999, 1e-6, 0.01, true, true, false, 0.0},
    [DS_OPTIM_MUON] = {"muon", 0.9, 0.95, 1e-8, 0.1, true, true, true, 0.95},
};

static void default_optim(struct ds_job *job, const struct ds_keys *keys)
{
    const struct optim_rule *rule = &optim_rules[job->optim.kind];

    if (!ds_keys_given(keys, "optim.betas")) {
        job->optim.beta1 = rule->beta1;
        job->optim.beta2 = rule->beta2;
    }
    if (!ds_keys_given(keys, "optim.eps"))
        job->optim.eps = rule->eps;
    if (!ds_keys_given(keys, "optim.weight_decay"))
        job->optim.weight_decay = rule->weight_decay;
    if (!ds_keys_given(keys, "optim.momentum"))
        job->optim.momentum = rule->momentum;
    if (!ds_keys_given(keys, "optim.adamw_lr"))
        job->optim.adamw_lr = job->optim.lr;
    if (!ds_keys_given(keys, "optim.nesterov"))
        job->optim.nesterov = job->optim.kind == DS_OPTIM_MUON && job->optim.momentum > 0.0;
}

/* A key that says nothing to the optimizer must be as it would be without it. */
static int check_optim(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct optim_rule *rule = &optim_rules[job->optim.kind];
    const struct {
        const char *path;
        bool wrong;
    } table[] = {
        {"optim.betas",
         !rule->betas && (job->optim.beta1 != rule->beta1 || job->optim.beta2 != rule->beta2)},
        {"optim.eps", !rule->has_eps && job->optim.eps != rule->eps},
        {"optim.momentum", !rule->has_momentum && job->optim.momentum != 0.0},
        {"optim.nesterov", !rule->has_momentum && job->optim.nesterov},
        {"optim.muon_scale",
         job->optim.kind != DS_OPTIM_MUON && job->optim.muon_scale != DS_MUON_SCALE_SHAPE},
        {"optim.adamw_lr",
         job->optim.kind != DS_OPTIM_MUON && job->optim.adamw_lr != job->optim.lr},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].wrong)
            return FAIL_AT(keys, ds__job_blame(keys, table[i].path, "optim.name"), EINVAL,
                           "'%s' means nothing to %s; leave it out", table[i].path, rule->name);
    if (job->optim.nesterov && job->optim.momentum == 0.0)
        return FAIL_AT(keys, "optim.nesterov", EINVAL,
                       "'optim.nesterov' needs 'optim.momentum' above 0; 0.9 is usual");
    if (job->optim.adamw_lr > 0.0 && job->optim.lr == 0.0)
        return FAIL_AT(
            keys, "optim.adamw_lr", EINVAL,
            "'optim.adamw_lr' follows the schedule of 'optim.lr', which must be above 0");
    return 0;
}

static int default_and_check_optim(struct ds_job *job, const struct ds_keys *keys,
                                   struct ds_error *err)
{
    default_optim(job, keys);
    return check_optim(job, keys, err);
}

/* The key that says how long the schedule is, and what else could. */
static const char *steps_key(const struct ds_keys *keys)
{
    return ds_keys_given(keys, "schedule.steps") ? "schedule.steps" : "train.steps";
}

static const char *steps_hint(const struct ds_keys *keys)
{
    return ds_keys_given(keys, "schedule.steps") ? "" : ", unless 'schedule.steps' is given";
}

static int check_decay(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    uint64_t most = job->schedule.steps - job->schedule.warmup;

    if (!ds_keys_given(keys, "schedule.decay")) {
        job->schedule.decay = job->schedule.steps / 10 > 0 ? job->schedule.steps / 10 : 1;
        if (job->schedule.decay > most && most > 0)
            job->schedule.decay = most;
    }
    if (job->schedule.kind == DS_SCHEDULE_WSD && job->schedule.decay > most)
        return FAIL_AT(keys, ds__job_blame(keys, "schedule.decay", steps_key(keys)), EINVAL,
                       "'schedule.decay' %" PRIu64 " must fit after 'schedule.warmup' %" PRIu64
                       " in '%s' %" PRIu64 "%s",
                       job->schedule.decay, job->schedule.warmup, steps_key(keys),
                       job->schedule.steps, steps_hint(keys));
    return 0;
}

enum { USUAL_TIMESCALE = 10000 };

/* A key that another kind of schedule reads must be as it would be without it. */
static int check_schedule_keys(const struct ds_job *job, const struct ds_keys *keys,
                               struct ds_error *err)
{
    bool cycle = job->schedule.kind == DS_SCHEDULE_ONE_CYCLE;

    if (cycle && job->schedule.warmup_kind != DS_WARMUP_LINEAR)
        return FAIL_AT(keys, "schedule.warmup_kind", EINVAL,
                       "'schedule.warmup_kind' log is not for one_cycle; use 'schedule.anneal'");
    if (!cycle && job->schedule.anneal != DS_ANNEAL_COSINE)
        return FAIL_AT(keys, "schedule.anneal", EINVAL,
                       "'schedule.anneal' linear is for one_cycle only; leave it out");
    if (job->schedule.kind != DS_SCHEDULE_POLYNOMIAL && job->schedule.power != 1.0)
        return FAIL_AT(keys, ds__job_blame(keys, "schedule.power", "schedule.kind"), EINVAL,
                       "'schedule.power' is for polynomial only; leave it out");
    return 0;
}

/* What a kind of schedule takes where the job says nothing. */
static void default_rates(struct ds_job *job, const struct ds_keys *keys)
{
    bool cycle = job->schedule.kind == DS_SCHEDULE_ONE_CYCLE;
    bool named = job->schedule.kind == DS_SCHEDULE_WARMUP_LR ||
                 job->schedule.kind == DS_SCHEDULE_WARMUP_DECAY_LR;

    if (!ds_keys_given(keys, "schedule.warmup"))
        job->schedule.warmup = cycle ? job->schedule.steps * 3 / 10 : 0;
    if (!ds_keys_given(keys, "schedule.warmup_kind"))
        job->schedule.warmup_kind = named ? DS_WARMUP_LOG : DS_WARMUP_LINEAR;
    if (!ds_keys_given(keys, "schedule.timescale")) /* as transformers has it */
        job->schedule.timescale = job->schedule.warmup > 0 ? job->schedule.warmup : USUAL_TIMESCALE;
    if (cycle && !ds_keys_given(keys, "schedule.start_lr"))
        job->schedule.start_lr = job->optim.lr / 25.0;
    if (cycle && !ds_keys_given(keys, "schedule.min_lr"))
        job->schedule.min_lr = job->schedule.start_lr / 1e4;
    if (named && !ds_keys_given(keys, "schedule.start_lr"))
        job->schedule.start_lr = job->schedule.min_lr;
}

static int check_rate(const struct ds_job *job, const struct ds_keys *keys, const char *path,
                      double rate, struct ds_error *err)
{
    if (rate <= job->optim.lr)
        return 0;
    return FAIL_AT(keys, ds__job_blame(keys, path, "optim.lr"), EINVAL,
                   "'%s' must be at most 'optim.lr' %g, not %g", path, job->optim.lr, rate);
}

/* Steps that are not known yet are taken for as many as there can be. */
static int check_schedule(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = check_schedule_keys(job, keys, err);

    if (rc != 0)
        return rc;
    if (!ds_keys_given(keys, "schedule.steps"))
        job->schedule.steps = job->train.steps > 0 ? job->train.steps : DS_MAX_STEPS;
    default_rates(job, keys);
    if (job->schedule.warmup > job->schedule.steps)
        return FAIL_AT(keys, ds__job_blame(keys, "schedule.warmup", steps_key(keys)), EINVAL,
                       "'schedule.warmup' must be at most '%s' %" PRIu64 ", not %" PRIu64 "%s",
                       steps_key(keys), job->schedule.steps, job->schedule.warmup,
                       steps_hint(keys));
    rc = check_rate(job, keys, "schedule.min_lr", job->schedule.min_lr, err);
    if (rc == 0)
        rc = check_rate(job, keys, "schedule.start_lr", job->schedule.start_lr, err);
    return rc != 0 ? rc : check_decay(job, keys, err);
}

static int check_scale(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    bool fp16 = job->precision.compute == DS_COMPUTE_FP16;

    if (!fp16 && job->precision.loss_scale != 0)
        return FAIL_AT(keys, ds__job_blame(keys, "precision.loss_scale", "precision.compute"),
                       EINVAL,
                       "'precision.loss_scale' is for 'precision.compute' fp16; leave it out");
    if (fp16 && job->precision.loss_scale == 0 &&
        job->precision.scaler.min > (uint64_t)1 << job->precision.scaler.init_power)
        return FAIL_AT(keys,
                       ds__job_blame(keys, "precision.scaler.min", "precision.scaler.init_power"),
                       EINVAL,
                       "'precision.scaler.min' %" PRIu64
                       " must be at most 2 to the 'precision.scaler.init_power' %" PRIu64,
                       job->precision.scaler.min, job->precision.scaler.init_power);
    return 0;
}

/* What all heads come to, of queries, and of keys and values together, for a rank of a team. */
static int check_fp8_heads(const struct ds_job *job, const struct ds_keys *keys,
                           struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const uint64_t team = job->parallel.tensor;
    const uint64_t parts = team < shape->kv_heads ? team : shape->kv_heads; /* of keys, values */
    const struct {
        const char *path;
        uint64_t heads, unit;
    } table[] = {{"model.kv_heads", shape->kv_heads, DS_FP8_UNIT / 2 * parts},
                 {"model.heads", shape->heads, DS_FP8_UNIT * team}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].heads * shape->head_size % table[i].unit != 0)
            return FAIL_AT(keys, ds__job_blame(keys, table[i].path, "precision.matmul"), EINVAL,
                           "'%s' %" PRIu64 " x %" PRIu64 ", the size of a head, must be a "
                           "multiple of %" PRIu64 " for 'precision.matmul' fp8",
                           table[i].path, table[i].heads, shape->head_size, table[i].unit);
    return 0;
}

/* Extents of products of FP8 are multiples of 16: of layers, or a team's parts of them, and of
 * tokens. */
static int check_fp8(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const uint64_t team = job->parallel.tensor;
    const struct {
        const char *path;
        uint64_t value, parts;
    } widths[] = {{"model.hidden", shape->hidden, 1}, {"model.ffn", shape->ffn, team}};
    uint64_t part = job->train.sequence / job->parallel.sequence, unit = DS_FP8_UNIT;
    char fit[64];
    int rc;

    if (job->precision.matmul != DS_MATMUL_FP8)
        return 0;
    if (shape->experts > 0)
        return FAIL_AT(keys, ds__job_blame(keys, "precision.matmul", "model.arch"), ENOTSUP,
                       "'precision.matmul' fp8 is not supported for models with experts, which "
                       "have products of their own; use compute");
    if (job->precision.compute != DS_COMPUTE_BF16)
        return FAIL_AT(keys, ds__job_blame(keys, "precision.matmul", "precision.compute"), EINVAL,
                       "'precision.matmul' fp8 needs 'precision.compute' bf16; set it");
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        if (widths[i].value % (unit * widths[i].parts) == 0)
            continue;
        ds__job_near_multiples(unit * widths[i].parts, widths[i].value, fit, sizeof(fit));
        return FAIL_AT(keys, ds__job_blame(keys, widths[i].path, "precision.matmul"), EINVAL,
                       "'%s' must be a multiple of %" PRIu64 " for 'precision.matmul' fp8, not "
                       "%" PRIu64 "; %s would do",
                       widths[i].path, unit * widths[i].parts, widths[i].value, fit);
    }
    rc = check_fp8_heads(job, keys, err);
    if (rc != 0)
        return rc;
    while (unit > 1 && part * (unit / 2) % DS_FP8_UNIT == 0)
        unit /= 2;
    if (job->train.micro_batch * part % DS_FP8_UNIT == 0)
        return 0;
    ds__job_near_multiples(unit, job->train.micro_batch, fit, sizeof(fit));
    return FAIL_AT(keys, ds__job_blame(keys, "train.micro_batch", "train.sequence"), EINVAL,
                   "'train.micro_batch' %" PRIu64 " x %s %" PRIu64
                   " tokens must be a multiple of %d for 'precision.matmul' fp8; a micro_batch of "
                   "%s would do",
                   job->train.micro_batch,
                   job->parallel.sequence == 1 ? "'train.sequence'"
                                               : "'train.sequence' / 'parallel.sequence'",
                   part, DS_FP8_UNIT, fit);
}

static int check_recompute(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    uint64_t layers = job->activation.layers;

    if (layers > job->model.shape.layers)
        return FAIL_AT(keys, ds__job_blame(keys, "activation.layers", "model.layers"), EINVAL,
                       "'activation.layers' must be at most 'model.layers' %" PRIu64
                       ", not %" PRIu64,
                       job->model.shape.layers, layers);
    if (layers > 0 && job->activation.recompute != DS_RECOMPUTE_SELECTIVE &&
        job->activation.recompute != DS_RECOMPUTE_FULL)
        return FAIL_AT(keys, ds__job_blame(keys, "activation.layers", "activation.recompute"),
                       EINVAL,
                       "'activation.layers' is for 'activation.recompute' selective or full; leave "
                       "it out");
    if (job->activation.offload != DS_OFFLOAD_NONE &&
        job->activation.recompute != DS_RECOMPUTE_FULL)
        return FAIL_AT(keys, ds__job_blame(keys, "activation.offload", "activation.recompute"),
                       EINVAL,
                       "'activation.offload' cpu needs 'activation.recompute' full, with which "
                       "layers keep their inputs alone");
    return 0;
}

/* What is to stay must be saved. */
static int check_keep(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    uint64_t every = job->checkpoint.every, stay = job->checkpoint.keep_every;
    char fit[64];

    if (every == 0 || stay % every == 0)
        return 0;
    ds__job_near_multiples(every, stay, fit, sizeof(fit));
    return FAIL_AT(keys, ds__job_blame(keys, "checkpoint.keep_every", "checkpoint.every"), EINVAL,
                   "'checkpoint.keep_every' %" PRIu64 " must be a multiple of 'checkpoint.every' "
                   "%" PRIu64 "; %s would do",
                   stay, every, fit);
}

int ds__job_check(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    static int (*const checks[])(struct ds_job *, const struct ds_keys *, struct ds_error *) = {
        check_length,
        check_name,
        check_env,
        ds__job_check_model,
        ds__job_check_data,
        ds__job_check_documents,
        check_batch,
        ds__job_check_parallel,
        ds__job_check_frozen,
        default_and_check_optim,
        ds__job_check_offload,
        check_schedule,
        check_recompute,
        check_keep,
        check_scale,
        check_fp8,
    };
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(checks) / sizeof(checks[0]); i++)
        rc = checks[i](job, keys, err);
    return rc;
}

/* --- how many steps epochs are --------------------------------------------------------------- */

/* ceil(epochs x sequences / batch), where epochs are counted in millionths; UINT64_MAX: more than a
 * run may have. */
static uint64_t steps_of(double epochs, uint64_t sequences, uint64_t batch)
{
    const uint64_t unit = 1000000, most = (uint64_t)DS_MAX_STEPS * batch;
    uint64_t parts = (uint64_t)(epochs * (double)unit + 0.5), whole = parts / unit, all;

    parts %= unit;
    if (whole > 0 && sequences > most / whole)
        return UINT64_MAX;
    all =
        whole * sequences + sequences / unit * parts + (sequences % unit * parts + unit - 1) / unit;
    return all > most ? UINT64_MAX : (all + batch - 1) / batch;
}

int ds_job_settle_epochs(struct ds_job *job, uint64_t sequences, struct ds_error *err)
{
    const struct ds_keys *keys = &job->source->keys;
    const uint64_t batch = job->train.global_batch;
    uint64_t steps = steps_of(job->train.epochs, sequences, batch);

    assert(job->train.steps == 0);
    if (steps > DS_MAX_STEPS)
        return FAIL_AT(keys, "train.epochs", EINVAL,
                       "'train.epochs' %g of %" PRIu64 " sequences, %" PRIu64
                       " per update, are more than %d updates",
                       job->train.epochs, sequences, batch, DS_MAX_STEPS);
    job->train.steps = steps;
    return check_schedule(job, keys, err);
}
