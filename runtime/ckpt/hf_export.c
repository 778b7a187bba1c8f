/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_export.c - a checkpoint as a Hugging Face folder, and the reverse.
 *
 * One tensor at a time goes through memory, so neither way needs more than the largest of them.
 * The file that makes the result whole (config.json; manifest.json) is written last, and on failure
 * every file made here is removed again: a folder that was empty is empty.
 */
#include "runtime/ckpt/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/json.h"
#include "runtime/ckpt/gather.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/hf_packed.h"
#include "runtime/ckpt/merge.h"
#include "runtime/ckpt/part.h"
#include "runtime/ckpt/store.h"

#define SPLIT_BYTES UINT64_C(5000000000) /* transformers' own default */
#define IMPORT_NAME "weights-00001-of-00001.safetensors"

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

/* --- the folder ----------------------------------------------------------------------------- */

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

int ds__folder_claim(const char *path, bool *made, struct ds_error *err)
{
    struct dirent *entry;
    DIR *dir = opendir(path);
    int rc = 0;

    *made = dir == NULL && errno == ENOENT;
    if (*made)
        return ds_fs_mkdirs(path, err);
    if (dir == NULL)
        return ds_fail(err, errno == ENOTDIR ? EEXIST : errno, "cannot write to '%s': %s", path,
                       strerror(errno));
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (!is_dots(entry->d_name))
            rc = ds_fail(err, EEXIST, "the folder '%s' is not empty, name a new one", path);
    (void)closedir(dir);
    return rc;
}

void ds__folder_unclaim(const char *path, bool made)
{
    struct dirent *entry;
    char file[DS_MAX_PATH];
    DIR *dir = opendir(path);

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (!is_dots(entry->d_name) && ds_path_join(file, path, entry->d_name, NULL) == 0)
            (void)unlink(file);
    if (dir != NULL)
        (void)closedir(dir);
    if (made)
        (void)rmdir(path);
}

int ds__folder_write(const char *dir, const char *name, struct ds_buf *text, int rc,
                     struct ds_error *err)
{
    char path[DS_MAX_PATH];

    if (rc == 0)
        rc = ds_path_join(path, dir, name, err);
    if (rc == 0)
        rc = ds_fs_replace(path, ds_buf_text(text), text->len, err);
    ds_buf_release(text);
    return rc;
}

/* --- the model's parameters as a table ------------------------------------------------------ */

/* All parameters of a shape in the order of the model, names in the arena. */
static struct ds_safetensor *param_table(struct ds_arena *arena, const struct ds_model_shape *shape,
                                         enum ds_dtype dtype, size_t *count)
{
    struct ds_safetensor *table;

    *count = ds_model_param_count(shape);
    table = ds_arena_alloc(arena, *count, sizeof(*table));
    for (size_t i = 0; table != NULL && i < *count; i++) {
        struct ds_param param;

        ds_model_param(shape, i, &param);
        table[i].name = ds_arena_strdup(arena, param.name);
        table[i].dtype = (int)dtype;
        table[i].ndim = param.ndim;
        table[i].elems = param.elems;
        memcpy(table[i].shape, param.shape, param.ndim * sizeof(param.shape[0]));
        if (table[i].name == NULL)
            return NULL;
    }
    return table;
}

/* The same as a folder has them: those that it packs are one. */
static int pack_table(struct ds_arena *arena, const struct ds_model_shape *shape,
                      struct ds_safetensor *table, size_t *count, struct ds_error *err)
{
    size_t packed = 0;

    for (size_t i = 0; i < *count; i++) {
        const struct ds__hf_pack *pack = ds__hf_packs(shape->arch, table[i].name);
        struct ds_safetensor *to = &table[packed++];

        *to = table[i];
        if (pack == NULL)
            continue;
        to->name = ds__hf_rename(arena, to->name, pack->part[0].name, pack->name);
        if (to->name == NULL)
            return out_of_memory(err);
        for (unsigned k = 1; k < pack->parts; k++) {
            to->shape[0] += table[++i].shape[0];
            to->elems += table[i].elems;
        }
    }
    *count = packed;
    return 0;
}

static uint64_t largest(const struct ds_safetensor *table, size_t count)
{
    uint64_t most = 0;

    for (size_t i = 0; i < count; i++)
        most = table[i].elems > most ? table[i].elems : most;
    return most;
}

/* --- export --------------------------------------------------------------------------------- */

struct export
{
    struct ds__store *store;
    struct ds__merge merge;
    const char *out_dir;
    const struct ds_hf_tokens *tokens; /* or NULL */
    enum ds_dtype dtype;
    struct ds_arena arena;
    struct ds_safetensor *table; /* in the order of the model */
    size_t count;
    size_t *first; /* shard i has the tensors first[i] to first[i + 1] */
    size_t shards;
    float *scratch; /* the largest tensor */
};

/* Cut the table into files of at most `max_bytes`. */
static int cut(struct export *x, uint64_t max_bytes, struct ds_error *err)
{
    uint64_t size = ds_dtype_bytes(x->dtype), bytes = 0;

    x->first = ds_arena_alloc(&x->arena, x->count + 1, sizeof(*x->first));
    if (x->first == NULL)
        return out_of_memory(err);
    x->shards = 1;
    for (size_t i = 0; i < x->count; i++) {
        uint64_t more = x->table[i].elems * size;

        if (bytes > 0 && more > max_bytes - (bytes < max_bytes ? bytes : max_bytes)) {
            x->first[x->shards++] = i;
            bytes = 0;
        }
        bytes += more;
    }
    x->first[x->shards] = x->count;
    return 0;
}

static void shard_name(const struct export *x, size_t shard, char out[64])
{
    if (x->shards == 1)
        (void)snprintf(out, 64, DS__HF_SINGLE);
    else
        (void)snprintf(out, 64, "model-%05zu-of-%05zu.safetensors", shard + 1, x->shards);
}

/* The i-th is read before anything that covers it is written. */
void ds__narrow(float *data, size_t n)
{
    char *to = (char *)data;

    for (size_t i = 0; i < n; i++) {
        ds_bf16 bits = ds_bf16_from_f32(data[i]);

        memcpy(to + i * sizeof(bits), &bits, sizeof(bits));
    }
}

/* A tensor of the folder to `to`, from the saved one that it is. */
static int gather_one(struct export *x, const struct ds_safetensor *tensor, float *to,
                      struct ds_error *err)
{
    return ds__merge_read(&x->merge, tensor, 0, tensor->elems, to, err);
}

/* Parts that lie one behind the other, to where each has its turns. */
static int deal(struct export *x, const struct ds__hf_pack *pack, size_t elems,
                struct ds_error *err)
{
    const struct ds_model_shape *shape = &x->merge.shape;
    const size_t run = ds__hf_part_run(shape, pack, 0) * ds__hf_part_width(shape, pack);
    const size_t turns = elems / run / pack->parts;
    float *dealt = calloc(elems, sizeof(*dealt));

    if (dealt == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < pack->parts * turns; i++)
        memcpy(dealt + (i % turns * pack->parts + i / turns) * run, x->scratch + i * run,
               run * sizeof(*dealt));
    memcpy(x->scratch, dealt, elems * sizeof(*dealt));
    free(dealt);
    return 0;
}

/* Or from those that it is made of, one behind the other. */
static int gather(struct export *x, const struct ds_safetensor *tensor, struct ds_error *err)
{
    const struct ds_model_shape *shape = &x->merge.shape;
    const struct ds__hf_pack *pack = ds__hf_unpacks(shape->arch, tensor->name);
    struct ds_safetensor part = *tensor;
    float *to = x->scratch;
    int rc = 0;

    if (pack == NULL)
        return gather_one(x, tensor, to, err);
    for (unsigned i = 0; rc == 0 && i < pack->parts; i++, to += part.elems) {
        part.name = ds__hf_rename(&x->arena, tensor->name, pack->name, pack->part[i].name);
        part.shape[0] = ds__hf_part_rows(shape, pack, i);
        part.elems = part.shape[0] * ds__hf_part_width(shape, pack);
        rc = part.name != NULL ? gather_one(x, &part, to, err) : out_of_memory(err);
    }
    return rc == 0 && pack->by_heads ? deal(x, pack, (size_t)tensor->elems, err) : rc;
}

static int export_shard(struct export *x, size_t shard, struct ds_error *err)
{
    struct ds_safetensor *table = x->table + x->first[shard];
    size_t count = x->first[shard + 1] - x->first[shard];
    struct ds__part part;
    char name[64];
    int rc;

    shard_name(x, shard, name);
    rc = ds__part_create(&part, x->out_dir, name, table, count, NULL, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = gather(x, &table[i], err);
        if (rc == 0 && x->dtype == DS_BF16)
            ds__narrow(x->scratch, (size_t)table[i].elems);
        if (rc == 0)
            rc = ds__part_write(&part, &table[i], NULL, (struct ds__source){.data = x->scratch},
                                err);
    }
    return ds__part_close(&part, rc, err);
}

static int write_index(const struct export *x, struct ds_error *err)
{
    struct ds_json json;
    struct ds_buf text;
    uint64_t total = 0;
    char name[64];

    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    ds_json_init(&json, &text);
    for (size_t i = 0; i < x->count; i++)
        total += x->table[i].elems * ds_dtype_bytes(x->dtype);
    ds_json_object(&json, NULL);
    ds_json_object(&json, "metadata");
    ds_json_u64(&json, "total_size", total);
    ds_json_end_object(&json);
    ds_json_object(&json, "weight_map");
    for (size_t s = 0; s < x->shards; s++) {
        shard_name(x, s, name);
        for (size_t i = x->first[s]; i < x->first[s + 1]; i++)
            ds_json_string(&json, x->table[i].name, name);
    }
    ds_json_end_object(&json);
    ds_json_end_object(&json);
    return ds__folder_write(x->out_dir, DS__HF_INDEX, &text, text.failed ? out_of_memory(err) : 0,
                            err);
}

/* generation_config.json, where there is something to say, and then config.json. */
static int write_configs(const struct export *x, struct ds_error *err)
{
    const struct ds_model_shape *shape = &x->merge.shape;
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds__hf_write_generation(shape, x->tokens, &text, err);
    if (rc < 0 || text.len > 0)
        rc = ds__folder_write(x->out_dir, DS__HF_GENERATION, &text, rc, err);
    if (rc < 0)
        return rc;
    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds__hf_write_config(shape, x->dtype, x->tokens, &text, err);
    return ds__folder_write(x->out_dir, DS__HF_CONFIG, &text, rc, err);
}

static int export_all(struct export *x, uint64_t max_bytes, struct ds_error *err)
{
    const struct ds_model_shape *shape = &x->merge.shape;
    int rc;

    x->table = param_table(&x->arena, shape, x->dtype, &x->count);
    if (x->table == NULL)
        return out_of_memory(err);
    if ((rc = pack_table(&x->arena, shape, x->table, &x->count, err)) < 0 ||
        (rc = cut(x, max_bytes, err)) < 0)
        return rc;
    x->scratch = calloc((size_t)largest(x->table, x->count), sizeof(float));
    if (x->scratch == NULL)
        return out_of_memory(err);
    for (size_t i = 0; rc == 0 && i < x->shards; i++)
        rc = export_shard(x, i, err);
    if (rc == 0 && x->shards > 1)
        rc = write_index(x, err);
    return rc == 0 ? write_configs(x, err) : rc;
}

int ds__hf_export_split(const char *ckpt, const char *out_dir, enum ds_dtype dtype,
                        const struct ds_hf_tokens *tokens, const char *base, uint64_t max_bytes,
                        struct ds_error *err)
{
    struct ds__store store;
    struct export x = {.store = &store, .out_dir = out_dir, .tokens = tokens, .dtype = dtype};
    bool made = false;
    int rc;

    if (dtype != DS_F32 && dtype != DS_BF16)
        return ds_fail(err, ENOTSUP, "cannot export weights as %s, only as F32 or BF16",
                       ds_dtype_name(dtype));
    if ((rc = ds__store_open(&store, ckpt, err)) < 0)
        return rc;
    rc = ds_error_context(err, ds_model_check(&store.manifest.state.shape, err), "checkpoint '%s'",
                          ckpt);
    if (rc == 0)
        rc = ds__merge_open(&x.merge, &store, base, err);
    x.merge.folder = true;
    if (rc == 0)
        rc = ds__folder_claim(out_dir, &made, err);
    if (rc == 0) {
        ds_arena_init(&x.arena);
        rc = export_all(&x, max_bytes, err);
        free(x.scratch);
        ds_arena_release(&x.arena);
        if (rc < 0)
            ds__folder_unclaim(out_dir, made);
    }
    ds__merge_close(&x.merge);
    ds__store_close(&store);
    return rc;
}

int ds_hf_export(const char *ckpt, const char *out_dir, enum ds_dtype dtype,
                 const struct ds_hf_tokens *tokens, const char *base, struct ds_error *err)
{
    return ds__hf_export_split(ckpt, out_dir, dtype, tokens, base, SPLIT_BYTES, err);
}

/* --- import --------------------------------------------------------------------------------- */

/* The tensors of `hf` as one part in `dir`, noted in `m`. */
static int import_weights(const struct ds__hf *hf, const char *dir, struct ds_manifest *m,
                          struct ds_error *err)
{
    size_t count = 0;
    struct ds_safetensor *table = param_table(&m->arena, &m->state.shape, DS_F32, &count);
    float *scratch = table != NULL ? calloc((size_t)largest(table, count), sizeof(float)) : NULL;
    struct ds__part part = {.fd = -1};
    int rc;

    if (scratch == NULL)
        return out_of_memory(err);
    rc = ds__manifest_reserve(m, 1, count, err);
    if (rc == 0)
        rc = ds__part_create(&part, dir, IMPORT_NAME, table, count, m, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = ds__hf_read(hf, ds__hf_find(hf, table[i].name), 0, table[i].elems, scratch, err);
        if (rc == 0)
            rc = ds__part_write(&part, &table[i], NULL, (struct ds__source){.data = scratch}, err);
    }
    rc = ds__part_close(&part, rc, err);
    free(scratch);
    return rc;
}

static int import_to(const struct ds__hf *hf, const struct ds_model_shape *shape, const char *ckpt,
                     struct ds_error *err)
{
    struct ds_manifest manifest;
    struct ds_buf text;
    int rc;

    ds_manifest_init(&manifest);
    manifest.state.shape = *shape;
    manifest.state.world = 1;
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    rc = import_weights(hf, ckpt, &manifest, err);
    if (rc == 0)
        rc = ds_manifest_write(&manifest, &text, err);
    rc = ds__folder_write(ckpt, DS_MANIFEST_NAME, &text, rc, err);
    ds_manifest_release(&manifest);
    return rc;
}

int ds_hf_import(const char *hf_dir, const char *ckpt, struct ds_error *err)
{
    struct ds_model_shape shape;
    struct ds__hf hf;
    bool made = false;
    int rc;

    if ((rc = ds_hf_read_config(hf_dir, &shape, err)) < 0 ||
        (rc = ds__hf_open(&hf, hf_dir, &shape, err)) < 0)
        return rc;
    rc = ds__folder_claim(ckpt, &made, err);
    if (rc == 0) {
        rc = import_to(&hf, &shape, ckpt, err);
        if (rc < 0)
            ds__folder_unclaim(ckpt, made);
    }
    ds__hf_close(&hf);
    return rc;
}
