/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * manifest_write.c - writing a manifest; the format is drawn in manifest.h.
 *
 * A line per file and per tensor, so that a person can read it and diff(1) can compare two.
 */
#include "runtime/ckpt/manifest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/ckpt/manifest_format.h"
#include "runtime/model/model.h"

static void put_hex(struct ds_json *json, const char *key, uint64_t value)
{
    char text[17];

    (void)snprintf(text, sizeof(text), "%016jx", (uintmax_t)value);
    ds_json_string(json, key, text);
}

static void put_keys(struct ds_json *json, const struct ds__manifest_key *keys, size_t count,
                     const void *base)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value;

        memcpy(&value, (const char *)base + keys[i].offset, sizeof(value));
        ds_json_u64(json, keys[i].name, value);
    }
}

static void put_layout(struct ds_json *json, const struct ds_ckpt_state *state)
{
    for (size_t i = 0; i < DS__LAYOUT_KEYS; i++) {
        unsigned ranks;

        memcpy(&ranks, (const char *)state + ds__layout_keys[i].offset, sizeof(ranks));
        ds_json_u64(json, ds__layout_keys[i].name, ranks);
    }
    ds_json_object(json, "scalars");
    for (unsigned i = 0; i < state->scalars; i++)
        ds_json_f64(json, state->scalar[i].name, state->scalar[i].value, 17);
    ds_json_end_object(json);
}

static void put_rope_scale(struct ds_json *json, const struct ds_model_shape *shape)
{
    const struct ds_rope_scale *scale = &shape->rope_scale;

    if (scale->kind == DS_ROPE_PLAIN)
        return;
    ds_json_object(json, "rope_scaling");
    ds_json_string(json, "type", ds_rope_name(scale->kind));
    ds_json_f64(json, "factor", scale->factor, 17);
    if (scale->kind == DS_ROPE_LLAMA3) {
        ds_json_f64(json, "low_freq_factor", scale->low, 17);
        ds_json_f64(json, "high_freq_factor", scale->high, 17);
    } else if (scale->kind == DS_ROPE_YARN) {
        ds_json_f64(json, "beta_slow", scale->slow, 17);
        ds_json_f64(json, "beta_fast", scale->fast, 17);
        ds_json_f64(json, "attention_factor", scale->attention, 17);
    } else if (scale->kind == DS_ROPE_LONGROPE) {
        ds_json_f64(json, "attention_factor", scale->attention, 17);
        ds_json_numbers(json, "short_factor", &shape->rope_short);
        ds_json_numbers(json, "long_factor", &shape->rope_long);
    }
    if (scale->kind != DS_ROPE_LINEAR)
        ds_json_u64(json, "original_context", scale->original);
    ds_json_end_object(json);
}

static void put_lora(struct ds_json *json, const struct ds_model_shape *shape)
{
    char name[DS_MAX_TENSOR_NAME + 1];

    if (shape->lora.rank == 0)
        return;
    ds_json_object(json, "lora");
    ds_json_u64(json, "rank", shape->lora.rank);
    ds_json_f64(json, "alpha", shape->lora.alpha, 17);
    if (shape->lora.by_root)
        ds_json_bool(json, "rslora", true);
    if (shape->lora.dropout > 0.0)
        ds_json_f64(json, "dropout", shape->lora.dropout, 17);
    ds_json_array(json, "targets");
    for (unsigned i = 0; i < DS_ADAPTED_COUNT; i++)
        if ((shape->lora.targets & 1U << i) != 0 &&
            ds_model_target_name(shape, (enum ds_adapted)i, name))
            ds_json_string(json, NULL, name);
    ds_json_end_array(json);
    ds_json_end_object(json);
}

static void put_base(struct ds_json *json, const struct ds_ckpt_base *base)
{
    if (base->path[0] == '\0')
        return;
    (void)ds_buf_puts(json->out, "\n");
    ds_json_object(json, "base");
    ds_json_string(json, "path", base->path);
    put_hex(json, "digest", base->digest);
    put_hex(json, "frozen", base->frozen);
    ds_json_end_object(json);
}

static void put_state(struct ds_json *json, const struct ds_ckpt_state *state)
{
    char seed[24];

    (void)ds_buf_puts(json->out, "\n");
    ds_json_object(json, "state");
    put_keys(json, ds__state_keys, DS__STATE_KEYS, state);
    (void)snprintf(seed, sizeof(seed), "%ju", (uintmax_t)state->seed);
    ds_json_string(json, "seed", seed);
    put_hex(json, "job_digest", state->job_digest);
    put_layout(json, state);
    ds_json_end_object(json);
    (void)ds_buf_puts(json->out, "\n");
    ds_json_object(json, "model");
    ds_json_string(json, "arch", ds_arch_name(state->shape.arch));
    put_keys(json, ds__shape_keys, DS__SHAPE_KEYS, &state->shape);
    if (ds_arch_has_experts(state->shape.arch)) {
        ds_json_u64(json, "experts", state->shape.experts);
        ds_json_u64(json, "experts_per_token", state->shape.experts_each);
        ds_json_f64(json, "expert_balance", state->shape.balance, 17);
    }
    put_rope_scale(json, &state->shape);
    if (state->shape.window > 0)
        ds_json_u64(json, "window", state->shape.window);
    if (state->shape.rope_dims > 0)
        ds_json_u64(json, "rope_dims", state->shape.rope_dims);
    if (state->shape.nope_every > 0)
        ds_json_u64(json, "nope_every", state->shape.nope_every);
    if (ds_arch_traits(state->shape.arch)->mixed) {
        ds_json_u64(json, "full_every", state->shape.full_every);
        ds_json_f64(json, "rope_local_theta", state->shape.local_theta, 17);
        ds_json_f64(json, "query_scalar", state->shape.query_scalar, 17);
    }
    if (ds_arch_traits(state->shape.arch)->parallel)
        ds_json_bool(json, "parallel_residual", state->shape.parallel_residual);
    if (ds_arch_traits(state->shape.arch)->scaled) {
        ds_json_f64(json, "embedding_multiplier", state->shape.embed_scale, 17);
        ds_json_f64(json, "residual_multiplier", state->shape.residual_scale, 17);
        ds_json_f64(json, "attention_multiplier", state->shape.attention_scale, 17);
        ds_json_f64(json, "logits_scaling", state->shape.logits_scale, 17);
    }
    put_lora(json, &state->shape);
    ds_json_bool(json, "tie_embeddings", state->shape.tie_embeddings);
    ds_json_f64(json, "norm_eps", state->shape.norm_eps, 17);
    ds_json_f64(json, "rope_theta", state->shape.rope_theta, 17);
    ds_json_end_object(json);
    put_base(json, &state->base);
}

static void put_files(struct ds_json *json, const struct ds_manifest *m)
{
    (void)ds_buf_puts(json->out, "\n");
    ds_json_array(json, "files");
    for (size_t i = 0; i < m->files; i++) {
        (void)ds_buf_puts(json->out, "\n");
        ds_json_object(json, NULL);
        ds_json_string(json, "name", m->file[i].name);
        ds_json_u64(json, "bytes", m->file[i].bytes);
        ds_json_u64(json, "header_bytes", m->file[i].header_bytes);
        put_hex(json, "header_xxh3", m->file[i].header_xxh3);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}

/* Straight into the buffer: there may be millions. */
static void put_sums(struct ds_json *json, const struct ds_manifest *m,
                     const struct ds_manifest_range *range)
{
    uint64_t sums = ds_manifest_sums(m, range->bytes);
    char text[DS__SUM_DIGITS + 1];

    (void)ds_buf_puts(json->out, ",\"xxh3\":\"");
    for (uint64_t i = 0; i < sums; i++) {
        (void)snprintf(text, sizeof(text), "%016jx", (uintmax_t)range->xxh3[i]);
        (void)ds_buf_puts(json->out, text);
    }
    (void)ds_buf_puts(json->out, "\"");
}

static void put_ranges(struct ds_json *json, const struct ds_manifest *m,
                       const struct ds_manifest_view *view)
{
    ds_json_array(json, "ranges");
    for (size_t i = 0; i < view->ranges; i++) {
        ds_json_object(json, NULL);
        ds_json_u64(json, "file", view->range[i].file);
        ds_json_u64(json, "offset", view->range[i].offset);
        ds_json_u64(json, "bytes", view->range[i].bytes);
        ds_json_u64(json, "begin", view->range[i].begin_elem);
        put_sums(json, m, &view->range[i]);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}

static void put_views(struct ds_json *json, const struct ds_manifest *m,
                      const struct ds_manifest_tensor *t)
{
    ds_json_array(json, "views");
    for (size_t i = 0; i < t->views; i++) {
        const struct ds_ckpt_view *columns = &t->view[i].columns;

        ds_json_object(json, NULL);
        ds_json_array(json, "columns");
        for (unsigned j = 0; j < columns->runs; j++) {
            ds_json_array(json, NULL);
            ds_json_u64(json, NULL, columns->run[j].first);
            ds_json_u64(json, NULL, columns->run[j].first + columns->run[j].count);
            ds_json_end_array(json);
        }
        ds_json_end_array(json);
        put_ranges(json, m, &t->view[i]);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}

/* Were its columns divided? */
static bool has_views(const struct ds_manifest_tensor *t)
{
    return t->view[0].columns.runs > 0;
}

static void put_tensor(struct ds_json *json, const struct ds_manifest *m,
                       const struct ds_manifest_tensor *t)
{
    (void)ds_buf_puts(json->out, "\n");
    ds_json_object(json, NULL);
    ds_json_string(json, "name", t->name);
    ds_json_string(json, "dtype", ds_dtype_name(t->dtype));
    ds_json_array(json, "shape");
    for (unsigned i = 0; i < t->ndim; i++)
        ds_json_u64(json, NULL, t->shape[i]);
    ds_json_end_array(json);
    if (has_views(t))
        put_views(json, m, t);
    else
        put_ranges(json, m, &t->view[0]);
    ds_json_end_object(json);
}

/* The lowest version that says all of it. */
static unsigned version_of(const struct ds_manifest *m)
{
    if (m->state.base.path[0] != '\0')
        return DS_MANIFEST_VERSION;
    for (size_t i = 0; i < m->tensors; i++)
        if (has_views(&m->tensor[i]))
            return DS__VIEWS_VERSION;
    return m->block_bytes > 0 ? DS__BLOCKS_VERSION : 1;
}

static int by_name(const void *a, const void *b)
{
    const struct ds_manifest_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

int ds_manifest_seal(struct ds_buf *out, struct ds_error *err)
{
    char seal[DS__SEAL_BYTES + 1];

    ds__seal_text(ds_buf_text(out), out->len, seal);
    (void)ds_buf_puts(out, seal);
    return out->failed ? ds_fail(err, ENOBUFS, "the manifest is too large") : 0;
}

int ds_manifest_write(struct ds_manifest *manifest, struct ds_buf *out, struct ds_error *err)
{
    struct ds_json json;

    if (manifest->tensors > 0)
        qsort(manifest->tensor, manifest->tensors, sizeof(*manifest->tensor), by_name);
    for (size_t i = 1; i < manifest->tensors; i++)
        if (strcmp(manifest->tensor[i - 1].name, manifest->tensor[i].name) == 0)
            return ds_fail(err, EINVAL, "two tensors are named '%s'", manifest->tensor[i].name);
    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "format", manifest->part ? DS__PART_FORMAT : DS__MANIFEST_FORMAT);
    ds_json_u64(&json, "version", version_of(manifest));
    if (manifest->block_bytes > 0)
        ds_json_u64(&json, "block_bytes", manifest->block_bytes);
    put_state(&json, &manifest->state);
    put_files(&json, manifest);
    (void)ds_buf_puts(out, "\n");
    ds_json_array(&json, "tensors");
    for (size_t i = 0; i < manifest->tensors; i++)
        put_tensor(&json, manifest, &manifest->tensor[i]);
    ds_json_end_array(&json);
    return ds_manifest_seal(out, err); /* which closes the object */
}
