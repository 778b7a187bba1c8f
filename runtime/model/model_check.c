/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * model_check.c - shapes that cannot be; the contract is in model.h.
 *
 * Tests   tests/plan/test_model.c
 */
#include <errno.h>
#include <math.h>

#include "runtime/model/family.h"

struct bound {
    const char *key;
    uint64_t value, max;
};

static int check_bounds(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct bound bounds[] = {
        {"model.layers", shape->layers, DS_MAX_LAYERS},
        {"model.hidden", shape->hidden, DS_MAX_HIDDEN},
        {"model.heads", shape->heads, DS_MAX_HEADS},
        {"model.kv_heads", shape->kv_heads, DS_MAX_HEADS},
        {"model.head_size", shape->head_size, DS_MAX_HIDDEN},
        {"model.ffn", shape->ffn, DS_MAX_FFN},
        {"model.vocab", shape->vocab, DS_MAX_VOCAB},
        {"model.context", shape->context, DS_MAX_CONTEXT},
    };

    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++)
        if (bounds[i].value < 1 || bounds[i].value > bounds[i].max)
            return ds_fail(err, EINVAL, "'%s' is %llu, must be between 1 and %llu", bounds[i].key,
                           (unsigned long long)bounds[i].value, (unsigned long long)bounds[i].max);
    return 0;
}

static int check_experts(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds_family *family = ds_family_of(shape->arch);
    const uint64_t least = ds_arch_has_experts(shape->arch) ? 1 : 0;
    const uint64_t most = least * DS_MAX_EXPERTS, each = shape->experts_each;

    if (shape->experts < least || shape->experts > most)
        return ds_fail(err, EINVAL,
                       "'model.experts' is %llu, must be between %llu and %llu for "
                       "arch '%s'",
                       (unsigned long long)shape->experts, (unsigned long long)least,
                       (unsigned long long)most, family->name);
    if (each < least || each > least * DS_MAX_EXPERTS_EACH || each > shape->experts)
        return ds_fail(err, EINVAL,
                       "'model.experts_per_token' is %llu, must be between %llu and %d and at most "
                       "'model.experts' %llu",
                       (unsigned long long)each, (unsigned long long)least,
                       least > 0 ? DS_MAX_EXPERTS_EACH : 0, (unsigned long long)shape->experts);
    if (!(shape->balance >= 0.0) || !isfinite(shape->balance))
        return ds_fail(err, EINVAL, "'model.expert_balance' must be at least 0");
    return 0;
}

static int check_yarn(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds_rope_scale *scale = &shape->rope_scale;

    if (!(shape->rope_theta > 1.0))
        return ds_fail(err, EINVAL, "'model.rope_theta' must be above 1 for yarn");
    if (!(scale->slow > 0.0) || !(scale->fast > scale->slow) || !isfinite(scale->fast))
        return ds_fail(err, EINVAL,
                       "'model.rope_scaling.beta_fast' must be above "
                       "'model.rope_scaling.beta_slow', and that above 0");
    if (scale->original < 1)
        return ds_fail(err, EINVAL, "'model.rope_scaling.original_context' must be at least 1");
    return 0;
}

static int check_longrope(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds_numbers *const lists[] = {&shape->rope_short, &shape->rope_long};
    const uint64_t pairs = ds_rope_width(shape->rope_dims, shape->head_size) / 2;

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        if (lists[i]->count != pairs)
            return ds_fail(err, EINVAL,
                           "'model.rope_scaling.%s_factor' has %llu numbers, must have %llu, one "
                           "for each pair of a head",
                           i == 0 ? "short" : "long", (unsigned long long)lists[i]->count,
                           (unsigned long long)pairs);
        for (uint64_t k = 0; k < pairs; k++)
            if (!(lists[i]->item[k] > 0.0) || !isfinite(lists[i]->item[k]))
                return ds_fail(err, EINVAL, "'model.rope_scaling.%s_factor' must be above 0",
                               i == 0 ? "short" : "long");
    }
    if (shape->rope_scale.original < 2)
        return ds_fail(err, EINVAL, "'model.rope_scaling.original_context' must be at least 2");
    return 0;
}

static int check_rope(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds_rope_scale *scale = &shape->rope_scale;

    if (!(shape->rope_theta > 0.0) || !isfinite(shape->rope_theta))
        return ds_fail(err, EINVAL, "'model.rope_theta' must be above 0");
    if (scale->kind == DS_ROPE_PLAIN)
        return 0;
    if (!(scale->factor >= 1.0) || !isfinite(scale->factor))
        return ds_fail(err, EINVAL, "'model.rope_scaling.factor' must be at least 1");
    if (scale->kind == DS_ROPE_LLAMA3 &&
        (!(scale->low > 0.0) || !(scale->high > scale->low) || !isfinite(scale->high)))
        return ds_fail(err, EINVAL,
                       "'model.rope_scaling.high_freq_factor' must be above "
                       "'model.rope_scaling.low_freq_factor', and that above 0");
    if (ds_rope_gain(scale) <= 0.0 || !isfinite(ds_rope_gain(scale)))
        return ds_fail(err, EINVAL, "'model.rope_scaling.attention_factor' must be above 0");
    if (scale->kind == DS_ROPE_YARN)
        return check_yarn(shape, err);
    if (scale->kind == DS_ROPE_LONGROPE)
        return check_longrope(shape, err);
    if (scale->kind == DS_ROPE_LLAMA3 && scale->original < 1)
        return ds_fail(err, EINVAL, "'model.rope_scaling.original_context' must be at least 1");
    return 0;
}

/* What gemma3 alone has, and smollm3. */
static int check_mixed(const struct ds_model_shape *shape, struct ds_error *err)
{
    const bool mixed = ds_arch_traits(shape->arch)->mixed;
    const bool still = ds_arch_traits(shape->arch)->some_still;

    if (still != (shape->nope_every > 0) || shape->nope_every > DS_MAX_LAYERS + 1)
        return ds_fail(err, EINVAL, "'model.nope_every' is %llu, must be %s for arch '%s'",
                       (unsigned long long)shape->nope_every, still ? "at least 1" : "0",
                       ds_arch_name(shape->arch));

    if (mixed != (shape->full_every > 0) || shape->full_every > DS_MAX_LAYERS + 1)
        return ds_fail(err, EINVAL, "'model.full_every' is %llu, must be %s for arch '%s'",
                       (unsigned long long)shape->full_every, mixed ? "at least 1" : "0",
                       ds_arch_name(shape->arch));
    if (mixed ? !(shape->local_theta > 0.0) || !isfinite(shape->local_theta)
              : shape->local_theta != 0.0)
        return ds_fail(err, EINVAL, "'model.rope_local_theta' must be %s for arch '%s'",
                       mixed ? "above 0" : "0", ds_arch_name(shape->arch));
    if (!(shape->query_scalar >= 0.0) || !isfinite(shape->query_scalar) ||
        (!mixed && shape->query_scalar > 0.0))
        return ds_fail(err, EINVAL,
                       "'model.query_scalar' must be at least 0, and 0 but for gemma3");
    return 0;
}

/* What granite alone has. */
static int check_scales(const struct ds_model_shape *shape, struct ds_error *err)
{
    const bool scaled = ds_arch_traits(shape->arch)->scaled;
    const struct {
        const char *key;
        double value, least;
    } table[] = {
        {"model.embedding_multiplier", shape->embed_scale, 1e-30},
        {"model.residual_multiplier", shape->residual_scale, 1e-30},
        {"model.logits_scaling", shape->logits_scale, 1e-30},
        {"model.attention_multiplier", shape->attention_scale, 0.0},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (scaled ? !(table[i].value >= table[i].least) || !isfinite(table[i].value)
                   : table[i].value != 0.0)
            return ds_fail(err, EINVAL, "'%s' must be %s for arch '%s'", table[i].key,
                           !scaled                 ? "0"
                           : table[i].least == 0.0 ? "at least 0"
                                                   : "above 0",
                           ds_arch_name(shape->arch));
    return 0;
}

int ds_model_check(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds_family *family = ds_family_of(shape->arch);
    const struct ds_arch_traits *traits = ds_arch_traits(shape->arch);
    int rc = check_bounds(shape, err);

    if (rc == 0)
        rc = check_experts(shape, err);
    if (rc == 0)
        rc = check_mixed(shape, err);
    if (rc == 0)
        rc = check_scales(shape, err);
    if (rc == 0)
        rc = ds__adapters_check(shape, err);
    if (rc != 0)
        return rc;
    if (traits->classic && shape->hidden != shape->heads * shape->head_size)
        return ds_fail(err, EINVAL,
                       "'model.hidden' %llu must be 'model.heads' %llu x the head size",
                       (unsigned long long)shape->hidden, (unsigned long long)shape->heads);
    if (shape->heads % shape->kv_heads != 0)
        return ds_fail(err, EINVAL, "'model.kv_heads' %llu must divide 'model.heads' %llu",
                       (unsigned long long)shape->kv_heads, (unsigned long long)shape->heads);
    if (traits->classic && shape->kv_heads != shape->heads)
        return ds_fail(err, EINVAL, "'model.kv_heads' must equal 'model.heads' for arch '%s'",
                       family->name);
    if (shape->parallel_residual && !traits->parallel)
        return ds_fail(err, EINVAL, "'model.parallel_residual' must be false for arch '%s'",
                       family->name);
    if (shape->rope_dims > 0 && !traits->part_turn)
        return ds_fail(err, EINVAL, "'model.rope_dims' must be 0 for arch '%s'", family->name);
    if (shape->rope_dims % 2 != 0 || shape->rope_dims > shape->head_size)
        return ds_fail(err, EINVAL,
                       "'model.rope_dims' %llu must be even, and at most the head size %llu",
                       (unsigned long long)shape->rope_dims, (unsigned long long)shape->head_size);
    if (family->rope && shape->head_size % 2 != 0)
        return ds_fail(err, EINVAL,
                       "head size %llu must be even for rotary positions, change 'model.heads'",
                       (unsigned long long)shape->head_size);
    if (!(shape->norm_eps > 0.0) || !isfinite(shape->norm_eps))
        return ds_fail(err, EINVAL, "'model.norm_eps' must be above 0");
    return family->rope ? check_rope(shape, err) : 0;
}
