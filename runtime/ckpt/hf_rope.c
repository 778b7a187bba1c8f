/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_rope.c - rotary positions in config.json, read and written; the contract is in hf_config.h.
 *
 * How they are stretched is in "rope_scaling", with rope_theta beside it, or both are in
 * "rope_parameters" (transformers 5).  Of YaRN all numbers are written, the factor of cosines and
 * sines, too, so that whoever reads them works out none.  Of longrope that factor is left out where
 * it is the usual one, as readers of Phi-3 know three members only; the context that the model was
 * made for first is a member of the whole, as there.
 *
 * Source  transformers: modeling_rope_utils.py.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/json_read.h"
#include "runtime/ckpt/hf_config.h"
#include "runtime/ckpt/hf_families.h"
#include "runtime/ckpt/manifest_format.h"

static int read_llama3(const json_t *rope, struct ds_rope_scale *scale, struct ds_error *err)
{
    int rc = ds_json_get_f64(rope, "low_freq_factor", &scale->low, err);

    if (rc == 0)
        rc = ds_json_get_f64(rope, "high_freq_factor", &scale->high, err);
    return rc == 0 ? ds_json_get_u64(rope, "original_max_position_embeddings", DS_MAX_CONTEXT,
                                     &scale->original, err)
                   : rc;
}

/* The factor of cosines and sines: said, or of one or two weights that the logarithm has. */
static int read_attention(const json_t *rope, struct ds_rope_scale *scale, struct ds_error *err)
{
    const double usual = ds_rope_usual_attention(scale, scale->factor) - 1.0;
    double weight = 0.0, all = 0.0;
    int rc = ds__hf_may_get_f64(rope, "mscale", &weight, err);

    if (rc == 0)
        rc = ds__hf_may_get_f64(rope, "mscale_all_dim", &all, err);
    scale->attention =
        weight != 0.0 && all != 0.0 ? (weight * usual + 1.0) / (all * usual + 1.0) : usual + 1.0;
    return rc == 0 ? ds__hf_may_get_f64(rope, "attention_factor", &scale->attention, err) : rc;
}

/* What it was made for first is the context where it does not say, and a factor that is missing
 * is what the context has become of that. */
static int read_yarn(const json_t *rope, uint64_t context, struct ds_rope_scale *scale,
                     struct ds_error *err)
{
    const json_t *truncate = ds__hf_member(rope, "truncate");
    const bool says = ds__hf_member(rope, "original_max_position_embeddings") != NULL;
    int rc = 0;

    if (truncate != NULL && !json_is_true(truncate))
        return ds__hf_not_supported("truncate", truncate, err);
    scale->original = context;
    if (says)
        rc = ds_json_get_u64(rope, "original_max_position_embeddings", DS_MAX_CONTEXT,
                             &scale->original, err);
    if (rc == 0 && says && scale->original > 0 && ds__hf_member(rope, "factor") == NULL)
        scale->factor = (double)context / (double)scale->original;
    else if (rc == 0)
        rc = ds_json_get_f64(rope, "factor", &scale->factor, err);
    if (rc == 0)
        rc = ds__hf_may_get_f64(rope, "beta_slow", &scale->slow, err);
    if (rc == 0)
        rc = ds__hf_may_get_f64(rope, "beta_fast", &scale->fast, err);
    return rc == 0 ? read_attention(rope, scale, err) : rc;
}

#define ORIGINAL "original_max_position_embeddings"

/* As read_yarn() of what it was made for first, which may be said beside `rope`. */
static int read_longrope(const json_t *root, const json_t *rope, struct ds_model_shape *shape,
                         struct ds_error *err)
{
    static const char *const strange[] = {"short_mscale", "long_mscale"};
    struct ds_rope_scale *scale = &shape->rope_scale;
    const json_t *from = ds__hf_member(rope, ORIGINAL) != NULL ? rope : root;
    double factor = 1.0;
    int rc;

    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++)
        if (ds__hf_member(rope, strange[i]) != NULL)
            return ds__hf_not_supported(strange[i], ds__hf_member(rope, strange[i]), err);
    if ((rc = ds_json_get_numbers(rope, "short_factor", &shape->rope_short, err)) < 0 ||
        (rc = ds_json_get_numbers(rope, "long_factor", &shape->rope_long, err)) < 0)
        return rc;
    scale->original = shape->context;
    if (ds__hf_member(from, ORIGINAL) != NULL)
        rc = ds_json_get_u64(from, ORIGINAL, DS_MAX_CONTEXT, &scale->original, err);
    else
        rc = ds__hf_may_get_f64(rope, "factor", &factor, err);
    if (rc != 0)
        return rc;
    if (scale->original < 2)
        return ds_fail(err, EBADMSG, "'%s' is below 2", ORIGINAL);
    if (scale->original < shape->context)
        factor = (double)shape->context / (double)scale->original;
    scale->attention = ds_rope_usual_attention(scale, factor);
    return ds__hf_may_get_f64(rope, "attention_factor", &scale->attention, err);
}

/* "su" is what longrope was called first. */
static enum ds_rope_kind kind_of(const char *type)
{
    return strcmp(type, "su") == 0 ? DS_ROPE_LONGROPE : ds__rope_kind(type);
}

/* How positions are stretched; "default" is the word for not at all. */
static int read_rope_scale(const json_t *root, const char *key, const json_t *rope,
                           struct ds_model_shape *shape, struct ds_error *err)
{
    struct ds_rope_scale *scale = &shape->rope_scale;
    const json_t *type = ds__hf_member(rope, "rope_type");
    int rc;

    if (type == NULL)
        type = ds__hf_member(rope, "type");
    if (!json_is_object(rope))
        return ds__hf_not_supported(key, rope, err);
    if (type == NULL || (json_is_string(type) && strcmp(json_string_value(type), "default") == 0))
        return 0;
    if (json_is_string(type))
        scale->kind = kind_of(json_string_value(type));
    if (scale->kind == DS_ROPE_PLAIN || scale->kind == DS_ROPE_KINDS)
        return ds_error_context(err, ds__hf_not_supported("rope_type", type, err), "'%s'", key);
    if (scale->kind == DS_ROPE_YARN)
        return ds_error_context(err, read_yarn(rope, shape->context, scale, err), "'%s'", key);
    if (scale->kind == DS_ROPE_LONGROPE)
        return ds_error_context(err, read_longrope(root, rope, shape, err), "'%s'", key);
    rc = ds_json_get_f64(rope, "factor", &scale->factor, err);
    if (rc == 0 && scale->kind == DS_ROPE_LLAMA3)
        rc = read_llama3(rope, scale, err);
    return ds_error_context(err, rc, "'%s'", key);
}

static const char *const nested[] = {"rope_scaling", "rope_parameters"};

int ds__hf_read_rope(const json_t *root, double theta, struct ds_model_shape *shape,
                     struct ds_error *err)
{
    const char *own = ds__hf_family_of(shape->arch)->theta_key;
    int rc;

    shape->rope_scale = ds_rope_plain();
    shape->rope_theta = theta;
    rc = ds__hf_may_get_f64(root, "rope_theta", &shape->rope_theta, err);
    if (rc == 0 && own != NULL)
        rc = ds__hf_may_get_f64(root, own, &shape->rope_theta, err);
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        const json_t *rope = ds__hf_member(root, nested[i]);
        const json_t *full = ds__hf_member(rope, "full_attention");

        if (rope == NULL)
            continue;
        if (full != NULL && ds_arch_traits(shape->arch)->mixed) /* each sort of layer has its own */
            rope = full;
        else if (full != NULL)
            return ds__hf_not_supported(nested[i], rope, err);
        rc = read_rope_scale(root, nested[i], rope, shape, err);
        if (rc == 0)
            rc = ds__hf_may_get_f64(rope, "rope_theta", &shape->rope_theta, err);
    }
    return rc;
}

/* Some of a head, as whole elements below its share; all of them are not said. */
static int take_share(const json_t *share, struct ds_model_shape *shape, struct ds_error *err)
{
    const double part = json_number_value(share);

    if (part == 1.0) {
        shape->rope_dims = 0; /* whatever is usual */
        return 0;
    }
    if (!ds_arch_traits(shape->arch)->part_turn || !(part > 0.0 && part < 1.0))
        return ds__hf_not_supported("partial_rotary_factor", share, err);
    shape->rope_dims = (uint64_t)((double)shape->head_size * part);
    return shape->rope_dims > 0 ? 0 : ds__hf_not_supported("partial_rotary_factor", share, err);
}

#define USUAL_LOCAL_THETA 10000.0

int ds__hf_read_local_theta(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const json_t *rope = ds__hf_member(root, "rope_parameters");
    int rc;

    shape->local_theta = USUAL_LOCAL_THETA;
    rc = ds__hf_may_get_f64(root, "rope_local_base_freq", &shape->local_theta, err);
    rope = ds__hf_member(rope, "sliding_attention");
    if (rc != 0 || rope == NULL)
        return rc;
    if (ds__hf_member(rope, "factor") != NULL)
        return ds__hf_not_supported("sliding_attention", rope, err);
    return ds__hf_may_get_f64(rope, "rope_theta", &shape->local_theta, err);
}

int ds__hf_read_rope_dims(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds__hf_family *family = ds__hf_family_of(shape->arch);
    const json_t *share = ds__hf_member(root, "partial_rotary_factor");
    int rc;

    if (family->share_key != NULL && ds__hf_member(root, family->share_key) != NULL)
        share = ds__hf_member(root, family->share_key);
    if (share == NULL)
        shape->rope_dims = (uint64_t)((double)shape->head_size * family->share_default);
    rc = share != NULL ? take_share(share, shape, err) : 0;
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        share = ds__hf_member(ds__hf_member(root, nested[i]), "partial_rotary_factor");
        if (share != NULL)
            rc = ds_error_context(err, take_share(share, shape, err), "'%s'", nested[i]);
    }
    return rc;
}

/* A number of which the head has no less than so many elements, whatever rounding does. */
void ds__hf_put_rope_dims(struct ds_json *json, const struct ds_model_shape *shape)
{
    const char *own = ds__hf_family_of(shape->arch)->share_key;
    const double head = (double)shape->head_size;
    const double turned = (double)ds_rope_width(shape->rope_dims, shape->head_size);
    double share = turned / head;

    if (head * share < turned)
        share = nextafter(share, 2.0);
    ds_json_f64(json, own != NULL ? own : "partial_rotary_factor", share, 17);
}

void ds__hf_put_theta(struct ds_json *json, const struct ds_model_shape *shape)
{
    const char *own = ds__hf_family_of(shape->arch)->theta_key;

    ds_json_f64(json, own != NULL ? own : "rope_theta", shape->rope_theta, 17);
}

static void put_longrope(struct ds_json *json, const struct ds_model_shape *shape)
{
    const struct ds_rope_scale *scale = &shape->rope_scale;
    const double factor = (double)shape->context / (double)scale->original;

    ds_json_u64(json, ORIGINAL, scale->original);
    ds_json_object(json, "rope_scaling");
    ds_json_string(json, "type", ds_rope_name(scale->kind));
    ds_json_numbers(json, "short_factor", &shape->rope_short);
    ds_json_numbers(json, "long_factor", &shape->rope_long);
    if (scale->attention != ds_rope_usual_attention(scale, factor))
        ds_json_real(json, "attention_factor", scale->attention);
    ds_json_end_object(json);
}

void ds__hf_put_rope_scale(struct ds_json *json, const struct ds_model_shape *shape)
{
    const struct ds_rope_scale *scale = &shape->rope_scale;

    if (scale->kind == DS_ROPE_PLAIN) {
        ds_json_null(json, "rope_scaling");
        return;
    }
    if (scale->kind == DS_ROPE_LONGROPE) {
        put_longrope(json, shape);
        return;
    }
    ds_json_object(json, "rope_scaling");
    ds_json_string(json, "rope_type", ds_rope_name(scale->kind));
    ds_json_real(json, "factor", scale->factor);
    if (scale->kind == DS_ROPE_LLAMA3) {
        ds_json_real(json, "low_freq_factor", scale->low);
        ds_json_real(json, "high_freq_factor", scale->high);
    } else if (scale->kind == DS_ROPE_YARN) {
        ds_json_real(json, "beta_slow", scale->slow);
        ds_json_real(json, "beta_fast", scale->fast);
        ds_json_real(json, "attention_factor", scale->attention);
    }
    if (scale->kind != DS_ROPE_LINEAR)
        ds_json_u64(json, "original_max_position_embeddings", scale->original);
    ds_json_end_object(json);
}
