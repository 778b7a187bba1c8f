/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * manifest.c - reading a manifest; the format is drawn in manifest.h.
 *
 * The seal finds accidents: every byte of the file is under it.  It is no signature, so the reader
 * still believes nothing: sizes are added checked, names are plain, indices are bounded.
 */
#include "runtime/ckpt/manifest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/fsio.h"
#include "base/json_read.h"
#include "runtime/ckpt/manifest_format.h"
#include "runtime/ckpt/safetensors.h"
#include "runtime/model/model.h"

/* clang-format off */
const struct ds__manifest_key ds__shape_keys[DS__SHAPE_KEYS] = {
#define KEY(name, max) {#name, offsetof(struct ds_model_shape, name), (max)}
    KEY(layers,    DS_MAX_LAYERS),
    KEY(hidden,    DS_MAX_HIDDEN),
    KEY(heads,     DS_MAX_HEADS),
    KEY(kv_heads,  DS_MAX_HEADS),
    KEY(head_size, DS_MAX_HIDDEN),
    KEY(ffn,       DS_MAX_FFN),
    KEY(vocab,     DS_MAX_VOCAB),
    KEY(context,   DS_MAX_CONTEXT),
#undef KEY
};

const struct ds__manifest_key ds__state_keys[DS__STATE_KEYS] = {
#define KEY(name, max) {#name, offsetof(struct ds_ckpt_state, name), (max)}
    KEY(step,    DS_MAX_STEPS),
    KEY(samples, INT64_MAX),
    KEY(tokens,  INT64_MAX),
    KEY(skipped, INT64_MAX),
#undef KEY
};

const struct ds__manifest_key ds__layout_keys[DS__LAYOUT_KEYS] = {
#define KEY(name) {#name, offsetof(struct ds_ckpt_state, name), DS_MAX_RANKS}
    KEY(world),
    KEY(stage),
    KEY(shard_ranks),
    KEY(tensor_ranks),
    KEY(sequence_ranks),
    KEY(pipeline_ranks),
    KEY(expert_ranks),
#undef KEY
};
/* clang-format on */

enum ds_rope_kind ds__rope_kind(const char *name)
{
    enum ds_rope_kind kind = DS_ROPE_PLAIN;

    while (kind < DS_ROPE_KINDS && strcmp(ds_rope_name(kind), name) != 0)
        kind++;
    return kind;
}

void ds__seal_text(const void *bytes, size_t len, char out[DS__SEAL_BYTES + 1])
{
    (void)snprintf(out, DS__SEAL_BYTES + 1, "\n,\"xxh3\":\"%016jx\"}\n",
                   (uintmax_t)XXH3_64bits(bytes, len));
}

bool ds_plain_file_name(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= DS_MAX_FILE_NAME && name[0] != '.' && strchr(name, '/') == NULL;
}

void ds_manifest_init(struct ds_manifest *manifest)
{
    memset(manifest, 0, sizeof(*manifest));
    ds_arena_init(&manifest->arena);
}

void ds_manifest_release(struct ds_manifest *manifest)
{
    ds_arena_release(&manifest->arena);
    memset(manifest, 0, sizeof(*manifest));
}

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

int ds__get_list(const json_t *object, const char *key, size_t max, const json_t **out,
                 struct ds_error *err)
{
    const json_t *list = json_object_get(object, key);

    if (!json_is_array(list))
        return ds_fail(err, EBADMSG, "'%s' is not a list", key);
    if (json_array_size(list) > max)
        return ds_fail(err, EBADMSG, "'%s' has %zu elements, at most %zu are read", key,
                       json_array_size(list), max);
    *out = list;
    return 0;
}

static int get_object(const json_t *object, const char *key, const json_t **out,
                      struct ds_error *err)
{
    *out = json_object_get(object, key);
    if (!json_is_object(*out))
        return ds_fail(err, EBADMSG, "'%s' is not an object", key);
    return 0;
}

/* A 64-bit number written as a string, all of it digits of `base`. */
static int get_number_text(const json_t *object, const char *key, int base, uint64_t *out,
                           struct ds_error *err)
{
    const char *text = "";
    char *end = NULL;
    int rc = ds_json_get_string(object, key, &text, err);

    if (rc < 0)
        return rc;
    errno = 0;
    *out = strtoull(text, &end, base);
    if (errno != 0 || *end != '\0' || strspn(text, "0123456789abcdef") != strlen(text) ||
        text[0] == '\0')
        return ds_fail(err, EBADMSG, "'%s' is not a number in base %d", key, base);
    return 0;
}

static int get_bool(const json_t *object, const char *key, bool *out, struct ds_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_boolean(value))
        return ds_fail(err, EBADMSG, "'%s' is not true or false", key);
    *out = json_is_true(value);
    return 0;
}

/* A member that may be missing: then *out stays as it is. */
static int get_optional(const json_t *object, const char *key, uint64_t max, uint64_t *out,
                        struct ds_error *err)
{
    return json_object_get(object, key) != NULL ? ds_json_get_u64(object, key, max, out, err) : 0;
}

static int read_scalars(const json_t *object, struct ds_ckpt_state *state, struct ds_error *err)
{
    json_t *scalars = json_object_get(object, "scalars");
    int rc = 0;

    if (scalars == NULL)
        return 0;
    if (!json_is_object(scalars))
        return ds_fail(err, EBADMSG, "'scalars' is not an object");
    for (void *at = json_object_iter(scalars); rc == 0 && at != NULL;
         at = json_object_iter_next(scalars, at)) {
        const char *name = json_object_iter_key(at);
        double value = 0.0;

        rc = ds_json_get_f64(scalars, name, &value, err);
        if (rc == 0 && ds_ckpt_set_scalar(state, name, value, err) < 0)
            rc = -EBADMSG;
    }
    return rc;
}

/* Which layout the run had that saved. */
static int read_layout_of_run(const json_t *object, struct ds_ckpt_state *state,
                              struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < DS__LAYOUT_KEYS; i++) {
        const struct ds__manifest_key *key = &ds__layout_keys[i];
        uint64_t value = 0;
        unsigned ranks;

        rc = i == 0 ? ds_json_get_u64(object, key->name, key->max, &value, err)
                    : get_optional(object, key->name, key->max, &value, err);
        ranks = (unsigned)value;
        memcpy((char *)state + key->offset, &ranks, sizeof(ranks));
    }
    return rc;
}

static int read_state(const json_t *root, struct ds_ckpt_state *state, struct ds_error *err)
{
    const json_t *object;
    int rc = get_object(root, "state", &object, err);

    for (size_t i = 0; rc == 0 && i < DS__STATE_KEYS; i++) {
        uint64_t value = 0;

        rc = ds_json_get_u64(object, ds__state_keys[i].name, ds__state_keys[i].max, &value, err);
        memcpy((char *)state + ds__state_keys[i].offset, &value, sizeof(value));
    }
    if (rc < 0 || (rc = read_layout_of_run(object, state, err)) < 0 ||
        (rc = get_number_text(object, "seed", 10, &state->seed, err)) < 0 ||
        (rc = read_scalars(object, state, err)) < 0)
        return rc;
    return get_number_text(object, "job_digest", 16, &state->job_digest, err);
}

static int read_arch(const json_t *object, enum ds_arch *out, struct ds_error *err)
{
    const char *name = "";
    int rc = ds_json_get_string(object, "arch", &name, err);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < DS_ARCH_COUNT; i++)
        if (strcmp(ds_arch_name((enum ds_arch)i), name) == 0) {
            *out = (enum ds_arch)i;
            return 0;
        }
    return ds_fail(err, ENOTSUP, "the model's family '%s' is not supported", name);
}

/* What only a family with experts has. */
static int read_experts(const json_t *object, struct ds_model_shape *shape, struct ds_error *err)
{
    int rc = 0;

    if (!ds_arch_has_experts(shape->arch))
        return 0;
    rc = ds_json_get_u64(object, "experts", DS_MAX_EXPERTS, &shape->experts, err);
    if (rc == 0)
        rc = ds_json_get_u64(object, "experts_per_token", DS_MAX_EXPERTS_EACH, &shape->experts_each,
                             err);
    return rc == 0 ? ds_json_get_f64(object, "expert_balance", &shape->balance, err) : rc;
}

static int read_llama3(const json_t *rope, struct ds_rope_scale *scale, struct ds_error *err)
{
    int rc = ds_json_get_f64(rope, "low_freq_factor", &scale->low, err);

    return rc == 0 ? ds_json_get_f64(rope, "high_freq_factor", &scale->high, err) : rc;
}

static int read_yarn(const json_t *rope, struct ds_rope_scale *scale, struct ds_error *err)
{
    int rc = ds_json_get_f64(rope, "beta_slow", &scale->slow, err);

    if (rc == 0)
        rc = ds_json_get_f64(rope, "beta_fast", &scale->fast, err);
    return rc == 0 ? ds_json_get_f64(rope, "attention_factor", &scale->attention, err) : rc;
}

static int read_longrope(const json_t *rope, struct ds_model_shape *shape, struct ds_error *err)
{
    int rc = ds_json_get_f64(rope, "attention_factor", &shape->rope_scale.attention, err);

    if (rc == 0)
        rc = ds_json_get_numbers(rope, "short_factor", &shape->rope_short, err);
    return rc == 0 ? ds_json_get_numbers(rope, "long_factor", &shape->rope_long, err) : rc;
}

/* What is there only where rotary positions are stretched. */
static int read_rope_scale(const json_t *object, struct ds_model_shape *shape, struct ds_error *err)
{
    struct ds_rope_scale *scale = &shape->rope_scale;
    const json_t *rope = json_object_get(object, "rope_scaling");
    const char *type = "";
    int rc;

    *scale = ds_rope_plain();
    if (rope == NULL)
        return 0;
    if (!json_is_object(rope))
        return ds_fail(err, EBADMSG, "'rope_scaling' is not an object");
    if ((rc = ds_json_get_string(rope, "type", &type, err)) < 0 ||
        (rc = ds_json_get_f64(rope, "factor", &scale->factor, err)) < 0)
        return rc;
    scale->kind = ds__rope_kind(type);
    if (scale->kind == DS_ROPE_LINEAR)
        return 0;
    if (scale->kind == DS_ROPE_PLAIN || scale->kind == DS_ROPE_KINDS)
        return ds_fail(err, ENOTSUP, "the model's 'rope_scaling' is '%.40s', not supported", type);
    rc = scale->kind == DS_ROPE_YARN       ? read_yarn(rope, scale, err)
         : scale->kind == DS_ROPE_LONGROPE ? read_longrope(rope, shape, err)
                                           : read_llama3(rope, scale, err);
    return rc == 0
               ? ds_json_get_u64(rope, "original_context", DS_MAX_CONTEXT, &scale->original, err)
               : rc;
}

/* What is there only where a token does not see all before it, or positions turn not all of a head.
 */
static int read_less(const json_t *object, struct ds_model_shape *shape, struct ds_error *err)
{
    int rc = get_optional(object, "window", DS_MAX_CONTEXT, &shape->window, err);

    if (rc == 0)
        rc = get_optional(object, "rope_dims", DS_MAX_HIDDEN, &shape->rope_dims, err);
    if (rc == 0)
        rc = get_optional(object, "nope_every", DS_MAX_LAYERS + 1, &shape->nope_every, err);
    return rc == 0 ? get_optional(object, "full_every", DS_MAX_LAYERS + 1, &shape->full_every, err)
                   : rc;
}

/* What a family of layers of two sorts has. */
static int read_mixed(const json_t *object, struct ds_model_shape *shape, struct ds_error *err)
{
    int rc = 0;

    if (!ds_arch_traits(shape->arch)->mixed)
        return 0;
    rc = ds_json_get_f64(object, "rope_local_theta", &shape->local_theta, err);
    return rc == 0 ? ds_json_get_f64(object, "query_scalar", &shape->query_scalar, err) : rc;
}

/* What a family of factors has. */
static int read_scales(const json_t *object, struct ds_model_shape *shape, struct ds_error *err)
{
    int rc = 0;

    if (!ds_arch_traits(shape->arch)->scaled)
        return 0;
    rc = ds_json_get_f64(object, "embedding_multiplier", &shape->embed_scale, err);
    if (rc == 0)
        rc = ds_json_get_f64(object, "residual_multiplier", &shape->residual_scale, err);
    if (rc == 0)
        rc = ds_json_get_f64(object, "attention_multiplier", &shape->attention_scale, err);
    return rc == 0 ? ds_json_get_f64(object, "logits_scaling", &shape->logits_scale, err) : rc;
}

/* What is there only with adapters. */
static int read_lora(const json_t *object, struct ds_model_shape *shape, struct ds_error *err)
{
    const json_t *lora = json_object_get(object, "lora"), *targets;
    int rc;

    shape->lora = (struct ds_lora){0};
    if (lora == NULL)
        return 0;
    if (!json_is_object(lora))
        return ds_fail(err, EBADMSG, "'lora' is not an object");
    rc = ds_json_get_u64(lora, "rank", DS_MAX_LORA_RANK, &shape->lora.rank, err);
    if (rc == 0)
        rc = ds_json_get_f64(lora, "alpha", &shape->lora.alpha, err);
    if (rc == 0 && json_object_get(lora, "rslora") != NULL)
        rc = get_bool(lora, "rslora", &shape->lora.by_root, err);
    if (rc == 0 && json_object_get(lora, "dropout") != NULL)
        rc = ds_json_get_f64(lora, "dropout", &shape->lora.dropout, err);
    if (rc == 0)
        rc = ds__get_list(lora, "targets", DS_ADAPTED_COUNT, &targets, err);
    for (size_t i = 0; rc == 0 && i < json_array_size(targets); i++) {
        const char *name = json_string_value(json_array_get(targets, i));
        unsigned target = name == NULL ? 0 : ds_model_targets(shape, name);

        shape->lora.targets |= target;
        if (target == 0)
            rc = ds_fail(err, EBADMSG, "the model has no matrix for a target of its 'lora'");
    }
    return rc;
}

/* What is there only where tensors are left out. */
static int read_base(const json_t *root, struct ds_ckpt_base *base, struct ds_error *err)
{
    const json_t *object = json_object_get(root, "base");
    const char *path = "";
    int rc;

    *base = (struct ds_ckpt_base){.digest = 0};
    if (object == NULL)
        return 0;
    if (!json_is_object(object))
        return ds_fail(err, EBADMSG, "'base' is not an object");
    rc = ds_json_get_string(object, "path", &path, err);
    if (rc == 0 && (path[0] != '/' || strlen(path) >= sizeof(base->path)))
        rc = ds_fail(err, EBADMSG, "the path of 'base' is not an absolute path");
    if (rc < 0)
        return rc;
    (void)snprintf(base->path, sizeof(base->path), "%s", path);
    rc = get_number_text(object, "digest", 16, &base->digest, err);
    return rc == 0 ? get_number_text(object, "frozen", 16, &base->frozen, err) : rc;
}

static int read_model(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const json_t *object;
    int rc = get_object(root, "model", &object, err);

    if (rc == 0)
        rc = read_arch(object, &shape->arch, err);
    for (size_t i = 0; rc == 0 && i < DS__SHAPE_KEYS; i++) {
        uint64_t value = 0;

        rc = ds_json_get_u64(object, ds__shape_keys[i].name, ds__shape_keys[i].max, &value, err);
        memcpy((char *)shape + ds__shape_keys[i].offset, &value, sizeof(value));
    }
    if (rc < 0 || (rc = read_experts(object, shape, err)) < 0 ||
        (rc = read_rope_scale(object, shape, err)) < 0 ||
        (rc = read_less(object, shape, err)) < 0 || (rc = read_mixed(object, shape, err)) < 0 ||
        (rc = read_scales(object, shape, err)) < 0 ||
        (ds_arch_traits(shape->arch)->parallel &&
         (rc = get_bool(object, "parallel_residual", &shape->parallel_residual, err)) < 0) ||
        (rc = read_lora(object, shape, err)) < 0 ||
        (rc = get_bool(object, "tie_embeddings", &shape->tie_embeddings, err)) < 0 ||
        (rc = ds_json_get_f64(object, "norm_eps", &shape->norm_eps, err)) < 0)
        return rc;
    return ds_json_get_f64(object, "rope_theta", &shape->rope_theta, err);
}

static int read_file(struct ds_manifest *m, const json_t *entry, struct ds_manifest_file *file,
                     struct ds_error *err)
{
    const char *name = "";
    int rc = ds_json_get_string(entry, "name", &name, err);

    if (rc < 0)
        return rc;
    if (!ds_plain_file_name(name))
        return ds_fail(err, EBADMSG, "'%.40s' is not a plain file name", name);
    file->name = ds_arena_strdup(&m->arena, name);
    if (file->name == NULL)
        return out_of_memory(err);
    if ((rc = ds_json_get_u64(entry, "bytes", INT64_MAX, &file->bytes, err)) < 0 ||
        (rc = ds_json_get_u64(entry, "header_bytes", file->bytes, &file->header_bytes, err)) < 0)
        return ds_error_context(err, rc, "file '%s'", name);
    rc = get_number_text(entry, "header_xxh3", 16, &file->header_xxh3, err);
    return ds_error_context(err, rc, "file '%s'", name);
}

static int read_files(struct ds_manifest *m, const json_t *root, struct ds_error *err)
{
    const json_t *list;
    int rc = ds__get_list(root, "files", (size_t)DS_MAX_RANKS * 2, &list, err);

    if (rc < 0)
        return rc;
    m->files = json_array_size(list);
    m->file = ds_arena_alloc(&m->arena, m->files + 1, sizeof(*m->file));
    if (m->file == NULL)
        return out_of_memory(err);
    for (size_t i = 0; rc == 0 && i < m->files; i++)
        rc = read_file(m, json_array_get(list, i), &m->file[i], err);
    return rc;
}

uint64_t ds_manifest_sums(const struct ds_manifest *manifest, uint64_t bytes)
{
    uint64_t block = manifest->block_bytes;

    return block == 0 ? 1 : bytes / block + (bytes % block != 0);
}

/* What the manifest is, and how it sums. */
static int read_format(struct ds_manifest *m, const json_t *root, uint64_t *version,
                       struct ds_error *err)
{
    const char *format = "";
    int rc;

    if ((rc = ds_json_get_string(root, "format", &format, err)) < 0 ||
        (rc = ds_json_get_u64(root, "version", INT64_MAX, version, err)) < 0)
        return rc;
    m->part = strcmp(format, DS__PART_FORMAT) == 0;
    if (!m->part && strcmp(format, DS__MANIFEST_FORMAT) != 0)
        return ds_fail(err, EBADMSG, "its format is '%.40s', not '" DS__MANIFEST_FORMAT "'",
                       format);
    if (*version < 1 || *version > DS_MANIFEST_VERSION)
        return ds_fail(err, ENOTSUP,
                       "its format has version %ju, this program reads versions 1 to %d",
                       (uintmax_t)*version, DS_MANIFEST_VERSION);
    if (*version == 1)
        return 0;
    rc = ds_json_get_u64(root, "block_bytes", DS_CKPT_MAX_BLOCK_BYTES, &m->block_bytes, err);
    if (rc == 0 && (m->block_bytes == 0 || m->block_bytes % 8 != 0))
        rc = ds_fail(err, EBADMSG, "'block_bytes' is not a multiple of 8 above 0");
    return rc;
}

static int read_root(struct ds_manifest *m, const json_t *root, struct ds_error *err)
{
    uint64_t version = 0;
    int rc;

    if (!json_is_object(root))
        return ds_fail(err, EBADMSG, "it is not an object");
    if ((rc = read_format(m, root, &version, err)) < 0 ||
        (rc = read_state(root, &m->state, err)) < 0 ||
        (rc = read_model(root, &m->state.shape, err)) < 0 ||
        (rc = read_base(root, &m->state.base, err)) < 0 || (rc = read_files(m, root, err)) < 0)
        return rc;
    return ds__manifest_read_tensors(m, root, version >= DS__VIEWS_VERSION, err);
}

static int check_seal(const char *bytes, size_t len, struct ds_error *err)
{
    char seal[DS__SEAL_BYTES + 1];

    if (len < DS__SEAL_BYTES)
        return ds_fail(err, EBADMSG, "cut off after %zu bytes", len);
    ds__seal_text(bytes, len - DS__SEAL_BYTES, seal);
    if (memcmp(bytes + len - DS__SEAL_BYTES, seal, DS__SEAL_BYTES) != 0)
        return ds_fail(err, EBADMSG, "its %zu bytes do not match the checksum at their end", len);
    return 0;
}

int ds_manifest_parse(struct ds_manifest *manifest, const void *bytes, size_t len,
                      struct ds_error *err)
{
    json_t *root;
    int rc;

    ds_manifest_init(manifest);
    if ((rc = check_seal(bytes, len, err)) < 0)
        return rc;
    root = ds_json_parse(bytes, len, err);
    if (root == NULL)
        return -EBADMSG;
    rc = read_root(manifest, root, err);
    json_decref(root);
    if (rc < 0)
        ds_manifest_release(manifest);
    return rc;
}

int ds_manifest_load(struct ds_manifest *manifest, const char *path, struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    ds_manifest_init(manifest);
    ds_buf_init(&text, (size_t)DS_MAX_JSON_BYTES + 65536);
    rc = ds_fs_read(path, DS_MAX_JSON_BYTES, &text, err);
    if (rc == 0) {
        rc = ds_manifest_parse(manifest, text.data, text.len, err);
        rc = ds_error_context(err, rc, "%s '%s'", rc == -ENOTSUP ? "file" : "damaged file", path);
    } else if (rc == -EINVAL || rc == -EFBIG) {
        rc = ds_fail(err, EBADMSG, "damaged: '%s' is not a regular file of at most %d bytes", path,
                     DS_MAX_JSON_BYTES);
    }
    ds_buf_release(&text);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct ds_manifest_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

const struct ds_manifest_tensor *ds_manifest_find(const struct ds_manifest *manifest,
                                                  const char *name)
{
    const struct ds_manifest_tensor key = {.name = name};

    if (manifest->tensors == 0)
        return NULL;
    return bsearch(&key, manifest->tensor, manifest->tensors, sizeof(key), by_name);
}
