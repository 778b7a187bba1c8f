/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_window.c - the contract is in hf_window.h.
 *
 * Source  Hugging Face transformers: configuration_mistral.py, _mixtral.py, _qwen2.py, _qwen3.py,
 *         _phi3.py, _gemma3.py; a token at t sees keys t - W + 1 .. t (masking_utils.py)
 */
#include "runtime/ckpt/hf_window.h"

#include <errno.h>
#include <string.h>

#include "runtime/ckpt/hf_config.h"

/* What Qwen means where it says nothing. */
enum { USUAL_FULL_LAYERS = 28 };

/* `sliding_window` as a number of tokens; 0: it is null. */
static int read_number(const json_t *root, uint64_t otherwise, uint64_t *window,
                       struct ds_error *err)
{
    const json_t *value = json_object_get(root, "sliding_window");

    *window = value == NULL ? otherwise : 0;
    if (value == NULL || json_is_null(value))
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 1)
        return ds__hf_not_supported("sliding_window", value, err);
    *window = (uint64_t)json_integer_value(value);
    return 0;
}

/* Of so many layers, how many have the window, as transformers 5 writes it; -1: it does not say. */
static int64_t listed(const json_t *root)
{
    const json_t *types = json_object_get(root, "layer_types");
    json_t *type;
    int64_t count = 0;
    size_t i;

    if (!json_is_array(types))
        return -1;
    json_array_foreach(types, i, type)
    {
        count += json_is_string(type) && strcmp(json_string_value(type), "sliding_attention") == 0;
    }
    return count;
}

/* Qwen's layers from max_window_layers on have the window, if any has. */
static int read_from(const json_t *root, uint64_t otherwise, struct ds_model_shape *shape,
                     struct ds_error *err)
{
    const json_t *from = json_object_get(root, "max_window_layers");
    const int64_t layers = (int64_t)shape->layers, list = listed(root);
    int64_t full = json_is_integer(from) ? json_integer_value(from) : USUAL_FULL_LAYERS;
    uint64_t window = 0;
    int rc;

    if (list >= 0)
        full = layers - list;
    else if (!json_is_true(json_object_get(root, "use_sliding_window")))
        full = layers;
    if (full >= layers)
        return 0;
    rc = read_number(root, otherwise, &window, err);
    if (rc != 0 || window == 0 || window >= shape->context)
        return rc;
    if (full > 0)
        return ds_fail(err, ENOTSUP,
                       "'sliding_window' is of some layers only, and a window must be of all or "
                       "none");
    shape->window = window;
    return 0;
}

/* Of how many layers the last sees all, by the list of them all, which must go by that. */
static int read_list(const json_t *types, struct ds_model_shape *shape, struct ds_error *err)
{
    uint64_t every = shape->layers + 1; /* none does */
    const json_t *type;
    size_t i;

    json_array_foreach(types, i, type)
    {
        const bool full =
            json_is_string(type) && strcmp(json_string_value(type), "full_attention") == 0;

        if (full && every > shape->layers)
            every = i + 1;
        if (full != ((i + 1) % every == 0))
            return ds_fail(err, ENOTSUP, "'layer_types' is no pattern of which the last sees all");
    }
    shape->full_every = every;
    return json_array_size(types) == shape->layers
               ? 0
               : ds_fail(err, EBADMSG, "'layer_types' does not have a member for each layer");
}

enum { USUAL_PATTERN = 6 };

static int read_mixed(const json_t *root, uint64_t otherwise, struct ds_model_shape *shape,
                      struct ds_error *err)
{
    const json_t *types = json_object_get(root, "layer_types");
    uint64_t window = 0;
    int rc = read_number(root, otherwise, &window, err);

    shape->full_every = USUAL_PATTERN;
    if (rc == 0 && json_is_array(types))
        rc = read_list(types, shape, err);
    else if (rc == 0 && ds__hf_member(root, "sliding_window_pattern") != NULL)
        rc = ds_json_get_u64(root, "sliding_window_pattern", DS_MAX_LAYERS + 1, &shape->full_every,
                             err);
    if (rc == 0 && window < shape->context)
        shape->window = window;
    return rc;
}

int ds__hf_read_window(const json_t *root, enum ds__hf_window how, uint64_t otherwise,
                       struct ds_model_shape *shape, struct ds_error *err)
{
    uint64_t window = 0;
    int rc = 0;

    if (how == DS__HF_WINDOW_FROM)
        return read_from(root, otherwise, shape, err);
    if (how == DS__HF_WINDOW_MIXED)
        return read_mixed(root, otherwise, shape, err);
    if (how == DS__HF_WINDOW)
        rc = read_number(root, otherwise, &window, err);
    if (rc == 0 && window < shape->context)
        shape->window = window;
    return rc;
}

void ds__hf_put_window(enum ds__hf_window how, const struct ds_model_shape *shape,
                       struct ds_json *json)
{
    if (how == DS__HF_WINDOW_FROM) {
        ds_json_bool(json, "use_sliding_window", shape->window > 0);
        if (shape->window > 0)
            ds_json_u64(json, "max_window_layers", 0);
    }
    if (how == DS__HF_WINDOW_MIXED)
        ds_json_u64(json, "sliding_window_pattern", shape->full_every);
    if (shape->window > 0)
        ds_json_u64(json, "sliding_window", shape->window);
    else if (how == DS__HF_WINDOW_MIXED) /* a number of tokens it must be */
        ds_json_u64(json, "sliding_window", shape->context);
    else if (how == DS__HF_WINDOW || shape->experts > 0)
        ds_json_null(json, "sliding_window");
}
