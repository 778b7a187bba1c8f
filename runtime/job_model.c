/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_model.c - the model's shape: from the keys of the job, or from config.json of weights.
 *
 * Tests   tests/job/test_wrong.c, tests/job/test_job.c
 */
#include "runtime/job_model.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/job_blame.h"
#include "runtime/job_data.h"
#include "runtime/job_table.h"

/* Keys that config.json decides when weights come from a folder. */
static const char *const shape_keys[] = {
    "model.arch",
    "model.layers",
    "model.hidden",
    "model.heads",
    "model.ffn",
    "model.kv_heads",
    "model.head_size",
    "model.vocab",
    "model.context",
    "model.norm_eps",
    "model.tie_embeddings",
    "model.rope_theta",
    "model.rope_dims",
    "model.nope_every",
    "model.rope_scaling.type",
    "model.rope_scaling.factor",
    "model.rope_scaling.low_freq_factor",
    "model.rope_scaling.high_freq_factor",
    "model.rope_scaling.beta_slow",
    "model.rope_scaling.beta_fast",
    "model.rope_scaling.attention_factor",
    "model.rope_scaling.short_factor",
    "model.rope_scaling.long_factor",
    "model.rope_scaling.original_context",
    "model.window",
    "model.full_every",
    "model.rope_local_theta",
    "model.query_scalar",
    "model.parallel_residual",
    "model.embedding_multiplier",
    "model.residual_multiplier",
    "model.attention_multiplier",
    "model.logits_scaling",
    "model.experts",
    "model.experts_per_token",
};

/* A key that was given must say what config.json says.  Both are compared as text. */
static int check_same(const struct ds_job *job, const struct ds_job *config,
                      const struct ds_keys *keys, const char *path, struct ds_error *err)
{
    const struct ds_key *key = &keys->key[ds_keys_find(keys, path)];
    struct ds_buf mine, theirs;
    int rc = 0;

    ds_buf_init(&mine, 256);
    ds_buf_init(&theirs, 256);
    ds_key_print(key, job, &mine);
    ds_key_print(key, config, &theirs);
    if (mine.failed || theirs.failed)
        rc = ds_fail(err, ENOMEM, "out of memory");
    else if (strcmp(ds_buf_text(&mine), ds_buf_text(&theirs)) != 0)
        rc = FAIL_AT(keys, path, EINVAL,
                     "'%s' is %s, but config.json of 'model.init.from' says %s; leave the key out",
                     path, ds_buf_text(&mine), ds_buf_text(&theirs));
    ds_buf_release(&mine);
    ds_buf_release(&theirs);
    return rc;
}

static int shape_from_config(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const double balance = job->model.shape.balance;
    struct ds_job config = {.name = NULL};
    int rc;

    if (ds_keys_given(keys, "model.init.std"))
        return FAIL_AT(keys, "model.init.std", EINVAL,
                       "'model.init.std' and 'model.init.from' exclude each other; keep one");
    rc = ds_hf_read_config(job->model.init_from, &config.model.shape, err);
    if (rc != 0)
        return ds_keys_place(keys, "model.init.from", rc, err);
    for (size_t i = 0; i < sizeof(shape_keys) / sizeof(shape_keys[0]); i++) {
        if (ds_keys_given(keys, shape_keys[i]))
            rc = check_same(job, &config, keys, shape_keys[i], err);
        if (rc != 0)
            return rc;
    }
    job->model.shape = config.model.shape;
    if (job->model.shape.experts > 0 && ds_keys_given(keys, "model.expert_balance"))
        job->model.shape.balance = balance;
    return 0;
}

enum { USUAL_EXPERTS = 8, USUAL_EXPERTS_EACH = 2, USUAL_FULL_EVERY = 6, USUAL_NOPE_EVERY = 4 };
#define USUAL_LOCAL_THETA 10000.0
#define USUAL_BALANCE     0.01

/* Of a family without experts the keys are 0, as it is written out. */
static int no_experts(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const struct {
        const char *path;
        bool given;
    } table[] = {
        {"model.experts", shape->experts > 0},
        {"model.experts_per_token", shape->experts_each > 0},
        {"model.expert_balance", shape->balance > 0.0},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (ds_keys_given(keys, table[i].path) && table[i].given)
            return FAIL_AT(keys, ds__job_blame(keys, table[i].path, "model.arch"), EINVAL,
                           "'%s' is for mixtral and qwen3_moe, not for %s; leave it out",
                           table[i].path, ds_arch_name(shape->arch));
    return 0;
}

static int experts_from_keys(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    struct ds_model_shape *shape = &job->model.shape;

    if (!ds_arch_has_experts(shape->arch)) {
        int rc = no_experts(job, keys, err);

        shape->experts = shape->experts_each = 0;
        shape->balance = 0.0;
        return rc;
    }
    if (!ds_keys_given(keys, "model.experts"))
        shape->experts = USUAL_EXPERTS;
    if (!ds_keys_given(keys, "model.experts_per_token"))
        shape->experts_each =
            shape->experts < USUAL_EXPERTS_EACH ? shape->experts : USUAL_EXPERTS_EACH;
    if (!ds_keys_given(keys, "model.expert_balance"))
        shape->balance = USUAL_BALANCE;
    if (shape->experts == 0)
        return FAIL_AT(keys, "model.experts", EINVAL,
                       "'model.experts' must be at least 1 for %s; a model without experts is a "
                       "%s",
                       ds_arch_name(shape->arch),
                       shape->arch == DS_ARCH_MIXTRAL ? "llama" : "qwen3");
    if (shape->experts_each == 0 || shape->experts_each > shape->experts)
        return FAIL_AT(keys, ds__job_blame(keys, "model.experts_per_token", "model.experts"),
                       EINVAL,
                       "'model.experts_per_token' must be between 1 and 'model.experts' %" PRIu64
                       ", not %" PRIu64,
                       shape->experts, shape->experts_each);
    return 0;
}

/* Factors are 1 where the job is silent. */
static void scales_from_keys(struct ds_job *job, const struct ds_keys *keys)
{
    struct ds_model_shape *shape = &job->model.shape;

    if (!ds_arch_traits(shape->arch)->scaled)
        return;
    if (!ds_keys_given(keys, "model.embedding_multiplier"))
        shape->embed_scale = 1.0;
    if (!ds_keys_given(keys, "model.residual_multiplier"))
        shape->residual_scale = 1.0;
    if (!ds_keys_given(keys, "model.logits_scaling"))
        shape->logits_scale = 1.0;
}

static int shape_from_keys(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    static const char *const needed[] = {"model.arch", "model.layers", "model.hidden",
                                         "model.heads", "model.context"};
    struct ds_model_shape *shape = &job->model.shape;
    const struct ds_arch_traits *traits = ds_arch_traits(shape->arch);

    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (!ds_keys_given(keys, needed[i]))
            return FAIL_AT(keys, needed[i], EINVAL, "'%s' is required without 'model.init.from'",
                           needed[i]);
    }
    if (!traits->classic && !ds_keys_given(keys, "model.ffn"))
        return FAIL_AT(keys, "model.ffn", EINVAL,
                       "'model.ffn' is required for %s; %" PRIu64 " is usual",
                       ds_arch_name(shape->arch), (shape->hidden * 8 / 3 + 63) / 64 * 64);
    if (!ds_keys_given(keys, "model.ffn"))
        shape->ffn = 4 * shape->hidden;
    if (!ds_keys_given(keys, "model.kv_heads"))
        shape->kv_heads = shape->heads;
    if (!ds_keys_given(keys, "model.vocab")) {
        int rc = ds__job_default_vocab(job, keys, err);

        if (rc != 0)
            return rc;
    }
    if (!ds_keys_given(keys, "model.tie_embeddings"))
        shape->tie_embeddings = traits->tied;
    if (!ds_keys_given(keys, "model.full_every") && traits->mixed)
        shape->full_every = USUAL_FULL_EVERY;
    if (!ds_keys_given(keys, "model.rope_local_theta") && traits->mixed)
        shape->local_theta = USUAL_LOCAL_THETA;
    if (!ds_keys_given(keys, "model.nope_every") && traits->some_still)
        shape->nope_every = USUAL_NOPE_EVERY;
    if (!ds_keys_given(keys, "model.parallel_residual"))
        shape->parallel_residual = traits->parallel;
    scales_from_keys(job, keys);
    return experts_from_keys(job, keys, err);
}

/* The size of heads where the job leaves it open, or where they are as wide as the stream
 * together. */
static int size_heads(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    struct ds_model_shape *shape = &job->model.shape;
    const bool given = ds_keys_given(keys, "model.head_size") || job->model.init_from != NULL;
    char fit[64];

    if (given && !ds_arch_traits(shape->arch)->classic)
        return 0;
    if (shape->hidden % shape->heads != 0) {
        ds__job_near_divisors(shape->hidden, shape->heads, DS_MAX_HEADS, fit, sizeof(fit));
        return FAIL_AT(keys, ds__job_blame(keys, "model.heads", "model.hidden"), EINVAL,
                       "'model.heads' %" PRIu64 " must divide 'model.hidden' %" PRIu64
                       "; %s would do",
                       shape->heads, shape->hidden, fit);
    }
    if (given && shape->head_size != shape->hidden / shape->heads)
        return FAIL_AT(keys, "model.head_size", EINVAL,
                       "'model.head_size' must be 'model.hidden' / 'model.heads', %" PRIu64
                       ", for %s, not %" PRIu64,
                       shape->hidden / shape->heads, ds_arch_name(shape->arch), shape->head_size);
    shape->head_size = shape->hidden / shape->heads;
    return 0;
}

static int check_heads(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    struct ds_model_shape *shape = &job->model.shape;
    char fit[64];
    int rc = size_heads(job, keys, err);

    if (rc != 0)
        return rc;
    if (ds_arch_traits(shape->arch)->classic && shape->kv_heads != shape->heads)
        return FAIL_AT(keys, "model.kv_heads", EINVAL,
                       "'model.kv_heads' must be 'model.heads' %" PRIu64 " for %s, not %" PRIu64,
                       shape->heads, ds_arch_name(shape->arch), shape->kv_heads);
    if (shape->heads % shape->kv_heads != 0) {
        ds__job_near_divisors(shape->heads, shape->kv_heads, shape->heads, fit, sizeof(fit));
        return FAIL_AT(keys, "model.kv_heads", EINVAL,
                       "'model.kv_heads' %" PRIu64 " must divide 'model.heads' %" PRIu64
                       "; %s would do",
                       shape->kv_heads, shape->heads, fit);
    }
    if (ds_arch_traits(shape->arch)->learned || shape->head_size % 2 == 0)
        return 0;
    if (ds_keys_given(keys, "model.head_size"))
        return FAIL_AT(keys, "model.head_size", EINVAL,
                       "'model.head_size' must be even for %s, not %" PRIu64,
                       ds_arch_name(shape->arch), shape->head_size);
    return FAIL_AT(keys, "model.heads", EINVAL,
                   "'model.hidden' / 'model.heads' must be even for %s, not %" PRIu64 " / %" PRIu64
                   " = %" PRIu64,
                   ds_arch_name(shape->arch), shape->hidden, shape->heads, shape->head_size);
}

/* Keys that say nothing beside the type must be as they are without them. */
static int check_rope_silent(const struct ds_job *job, const struct ds_keys *keys,
                             struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const struct ds_rope_scale *scale = &shape->rope_scale, usual = ds_rope_plain();
    const bool plain = scale->kind == DS_ROPE_PLAIN, llama3 = scale->kind == DS_ROPE_LLAMA3;
    const bool yarn = scale->kind == DS_ROPE_YARN, each = scale->kind == DS_ROPE_LONGROPE;
    const struct {
        const char *path;
        bool wrong;
    } table[] = {
        {"model.rope_scaling.factor", (plain || each) && scale->factor > usual.factor},
        {"model.rope_scaling.short_factor", !each && shape->rope_short.count > 0},
        {"model.rope_scaling.long_factor", !each && shape->rope_long.count > 0},
        {"model.rope_scaling.low_freq_factor", !llama3 && scale->low != usual.low},
        {"model.rope_scaling.high_freq_factor", !llama3 && scale->high != usual.high},
        {"model.rope_scaling.beta_slow", !yarn && scale->slow != usual.slow},
        {"model.rope_scaling.beta_fast", !yarn && scale->fast != usual.fast},
        {"model.rope_scaling.attention_factor",
         !yarn && !each && scale->attention != usual.attention},
        {"model.rope_scaling.original_context",
         !llama3 && !yarn && !each && scale->original != usual.original},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (ds_keys_given(keys, table[i].path) && table[i].wrong)
            return FAIL_AT(keys, ds__job_blame(keys, table[i].path, "model.rope_scaling.type"),
                           EINVAL, "'%s' says nothing to 'model.rope_scaling.type' %s; %s",
                           table[i].path, ds_rope_name(scale->kind),
                           plain ? "set that to linear, llama3, yarn or longrope" : "leave it out");
    return 0;
}

/* What the type needs, where the job alone says it. */
static int check_rope_needs(const struct ds_job *job, const struct ds_keys *keys,
                            struct ds_error *err)
{
    static const struct {
        const char *path, *what;
        unsigned kinds; /* 1 << enum ds_rope_kind */
    } table[] = {
        {"model.rope_scaling.factor", "how many times as long the context has become",
         1U << DS_ROPE_LINEAR | 1U << DS_ROPE_LLAMA3 | 1U << DS_ROPE_YARN},
        {"model.rope_scaling.original_context", "the context that the model was made for first",
         1U << DS_ROPE_YARN | 1U << DS_ROPE_LONGROPE},
        {"model.rope_scaling.short_factor", "a list of what each frequency is divided by",
         1U << DS_ROPE_LONGROPE},
        {"model.rope_scaling.long_factor", "a list of what each frequency is divided by",
         1U << DS_ROPE_LONGROPE},
    };
    const enum ds_rope_kind kind = job->model.shape.rope_scale.kind;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (job->model.init_from == NULL && (table[i].kinds & 1U << kind) != 0 &&
            !ds_keys_given(keys, table[i].path))
            return FAIL_AT(keys, "model.rope_scaling.type", EINVAL,
                           "'model.rope_scaling.type' %s needs '%s'; set it to %s",
                           ds_rope_name(kind), table[i].path, table[i].what);
    return 0;
}

/* The factors of each frequency: one for each pair of a head that is turned. */
static int check_rope_each(const struct ds_job *job, const struct ds_keys *keys,
                           struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const uint64_t pairs = ds_rope_width(shape->rope_dims, shape->head_size) / 2;
    const struct {
        const char *path;
        uint64_t count;
    } table[] = {
        {"model.rope_scaling.short_factor", shape->rope_short.count},
        {"model.rope_scaling.long_factor", shape->rope_long.count},
    };

    if (shape->rope_scale.original < 2)
        return FAIL_AT(keys, "model.rope_scaling.original_context", EINVAL,
                       "'model.rope_scaling.original_context' must be at least 2 for longrope");
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].count != pairs)
            return FAIL_AT(keys, table[i].path, EINVAL,
                           "'%s' has %" PRIu64 " numbers, and a head turns %" PRIu64 " pairs",
                           table[i].path, table[i].count, pairs);
    return 0;
}

/* How many times as long the context has become. */
static double stretch_of(const struct ds_model_shape *shape)
{
    return shape->rope_scale.kind == DS_ROPE_LONGROPE
               ? (double)shape->context / (double)shape->rope_scale.original
               : shape->rope_scale.factor;
}

/* Both in waves, the first below the second. */
static int check_rope_ends(const struct ds_keys *keys, const char *first, double low,
                           const char *second, double high, struct ds_error *err)
{
    if (high > low)
        return 0;
    return FAIL_AT(keys, ds__job_blame(keys, first, second), EINVAL,
                   "'%s' %g must be below '%s' %g", first, low, second, high);
}

static int check_rope(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    struct ds_rope_scale *scale = &job->model.shape.rope_scale;
    int rc;

    if (job->model.init_from == NULL && !ds_keys_given(keys, "model.rope_scaling.attention_factor"))
        scale->attention = ds_rope_usual_attention(scale, stretch_of(&job->model.shape));
    if (scale->kind != DS_ROPE_PLAIN && ds_arch_traits(job->model.shape.arch)->learned)
        return FAIL_AT(keys, ds__job_blame(keys, "model.rope_scaling.type", "model.arch"), EINVAL,
                       "'model.rope_scaling.type' is not for gpt2, which has learned positions; "
                       "leave it out");
    rc = check_rope_silent(job, keys, err);
    if (rc == 0)
        rc = check_rope_needs(job, keys, err);
    if (rc == 0 && scale->kind == DS_ROPE_LLAMA3)
        rc = check_rope_ends(keys, "model.rope_scaling.low_freq_factor", scale->low,
                             "model.rope_scaling.high_freq_factor", scale->high, err);
    if (rc == 0 && scale->kind == DS_ROPE_YARN)
        rc = check_rope_ends(keys, "model.rope_scaling.beta_slow", scale->slow,
                             "model.rope_scaling.beta_fast", scale->fast, err);
    if (rc == 0 && scale->kind == DS_ROPE_LONGROPE)
        rc = check_rope_each(job, keys, err);
    if (rc == 0 && scale->kind == DS_ROPE_YARN && !(job->model.shape.rope_theta > 1.0))
        rc = FAIL_AT(keys, ds__job_blame(keys, "model.rope_theta", "model.rope_scaling.type"),
                     EINVAL, "'model.rope_theta' must be above 1 for yarn");
    return rc;
}

/* Factors that a family has. */
static int check_scales(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const struct {
        const char *path;
        double value;
    } table[] = {
        {"model.embedding_multiplier", shape->embed_scale},
        {"model.residual_multiplier", shape->residual_scale},
        {"model.logits_scaling", shape->logits_scale},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (ds_arch_traits(shape->arch)->scaled && !(table[i].value > 0.0))
            return FAIL_AT(keys, table[i].path, EINVAL, "'%s' must be above 0 for %s",
                           table[i].path, ds_arch_name(shape->arch));
    return 0;
}

static int check_rope_dims(const struct ds_job *job, const struct ds_keys *keys,
                           struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;

    if (shape->rope_dims % 2 != 0 || shape->rope_dims > shape->head_size)
        return FAIL_AT(keys, ds__job_blame(keys, "model.rope_dims", "model.head_size"), EINVAL,
                       "'model.rope_dims' %" PRIu64 " must be even, and at most the head size "
                       "%" PRIu64,
                       shape->rope_dims, shape->head_size);
    return 0;
}

/* What is of some families only. */
static int check_owners(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const struct ds_arch_traits *traits = ds_arch_traits(shape->arch);
    const struct {
        const char *path, *owners;
        bool given, owner;
    } table[] = {
        {"model.rope_dims", "phi3 and gpt_neox", shape->rope_dims > 0, traits->part_turn},
        {"model.nope_every", "smollm3", shape->nope_every > 0, traits->some_still},
        {"model.full_every", "gemma3", shape->full_every > 0, traits->mixed},
        {"model.rope_local_theta", "gemma3", shape->local_theta > 0.0, traits->mixed},
        {"model.query_scalar", "gemma3", shape->query_scalar > 0.0, traits->mixed},
        {"model.parallel_residual", "gpt_neox", shape->parallel_residual, traits->parallel},
        {"model.embedding_multiplier", "granite", shape->embed_scale > 0.0, traits->scaled},
        {"model.residual_multiplier", "granite", shape->residual_scale > 0.0, traits->scaled},
        {"model.attention_multiplier", "granite", shape->attention_scale > 0.0, traits->scaled},
        {"model.logits_scaling", "granite", shape->logits_scale > 0.0, traits->scaled},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].given && !table[i].owner)
            return FAIL_AT(keys, ds__job_blame(keys, table[i].path, "model.arch"), EINVAL,
                           "'%s' is for %s, not for %s; leave it out", table[i].path,
                           table[i].owners, traits->name);
    return 0;
}

/* Layers of two sorts. */
static int check_mixed(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const bool mixed = ds_arch_traits(shape->arch)->mixed;

    if (mixed && shape->full_every == 0)
        return FAIL_AT(keys, "model.full_every", EINVAL,
                       "'model.full_every' must be at least 1 for gemma3");
    if (ds_arch_traits(shape->arch)->some_still && shape->nope_every == 0)
        return FAIL_AT(keys, "model.nope_every", EINVAL,
                       "'model.nope_every' must be at least 1 for smollm3; a model all of whose "
                       "layers have positions is a llama");
    if (mixed && !(shape->local_theta > 0.0))
        return FAIL_AT(keys, "model.rope_local_theta", EINVAL,
                       "'model.rope_local_theta' must be above 0 for gemma3");
    return 0;
}

int ds__job_check_model(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    int rc = job->model.init_from != NULL ? shape_from_config(job, keys, err)
                                          : shape_from_keys(job, keys, err);

    if (rc == 0)
        rc = check_heads(job, keys, err);
    if (rc == 0)
        rc = check_owners(job, keys, err);
    if (rc == 0)
        rc = check_scales(job, keys, err);
    if (rc == 0)
        rc = check_rope_dims(job, keys, err);
    if (rc == 0)
        rc = check_rope(job, keys, err);
    if (rc == 0)
        rc = check_mixed(job, keys, err);
    if (rc == 0 && shape->window > 0 && ds_arch_traits(shape->arch)->sees_all)
        rc = FAIL_AT(keys, ds__job_blame(keys, "model.window", "model.arch"), EINVAL,
                     "'model.window' is not for %s, whose published models have none; leave it "
                     "out",
                     ds_arch_name(shape->arch));
    if (rc == 0 && ds__job_reads_bytes(job) && shape->vocab < 256)
        rc = FAIL_AT(keys, "model.vocab", EINVAL,
                     "'model.vocab' must be at least 256 for text, not %" PRIu64, shape->vocab);
    return rc;
}
