/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * merge.c - the contract is in merge.h.
 */
#include "runtime/ckpt/merge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ckpt/gather.h"
#include "runtime/model/family.h"

#define MATRIX ".weight"

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

/* The folder of the base, whose weights must be those of then. */
static int open_base(struct ds__merge *merge, const char *base, struct ds_error *err)
{
    const struct ds_ckpt_base *of = &merge->store->manifest.state.base;
    uint64_t digest = 0;
    int rc = ds__hf_open(&merge->hf, base, &merge->shape, err);

    merge->based = rc == 0;
    if (rc == 0)
        rc = ds__hf_digest(&merge->hf, &digest, err);
    if (rc < 0)
        return ds_error_context(err, rc,
                                "checkpoint '%s' leaves out what is in '%s'; 'dsrun ckpt export "
                                "--base' takes another folder with the same weights",
                                merge->store->path, of->path);
    if (digest != of->digest)
        return ds_fail(err, EINVAL,
                       "'%s' has other weights than those that checkpoint '%s' was made on", base,
                       merge->store->path);
    return 0;
}

int ds__merge_open(struct ds__merge *merge, struct ds__store *store, const char *base,
                   struct ds_error *err)
{
    const struct ds_ckpt_state *state = &store->manifest.state;

    *merge = (struct ds__merge){.store = store, .shape = ds_model_base(&state->shape)};
    if (state->base.path[0] == '\0' && base != NULL)
        return ds_fail(err, EINVAL,
                       "checkpoint '%s' has all tensors, and needs nothing of '%s'; leave '--base' "
                       "out",
                       store->path, base);
    if (state->base.path[0] == '\0')
        return 0;
    return open_base(merge, base != NULL ? base : state->base.path, err);
}

static void forget(struct ds__merge_factors *factors)
{
    free(factors->left);
    free(factors->right);
    *factors = (struct ds__merge_factors){.left = NULL};
}

void ds__merge_close(struct ds__merge *merge)
{
    forget(&merge->factors);
    if (merge->based)
        ds__hf_close(&merge->hf);
    merge->based = false;
}

/* --- adapters --------------------------------------------------------------------------------- */

/* One of a matrix's adapter, or NULL: it has none. */
static const struct ds_manifest_tensor *find_adapter(const struct ds__merge *merge,
                                                     const char *matrix, char which)
{
    const size_t len = strlen(matrix), end = strlen(MATRIX);
    char name[DS_MAX_TENSOR_NAME + 1];
    int wanted;

    if (merge->store->manifest.state.shape.lora.rank == 0 || len < end ||
        strcmp(matrix + len - end, MATRIX) != 0)
        return NULL;
    wanted = snprintf(name, sizeof(name), "%.*s.lora_%c" MATRIX, (int)(len - end), matrix, which);
    return wanted < 0 || (size_t)wanted >= sizeof(name)
               ? NULL
               : ds_manifest_find(&merge->store->manifest, name);
}

/* A [rows, columns] matrix, or its transpose, in memory of its own. */
static int read_matrix(struct ds__merge *merge, const struct ds_manifest_tensor *tensor,
                       bool turned, float **out, struct ds_error *err)
{
    const uint64_t rows = tensor->shape[0], columns = tensor->shape[1];
    float *saved = malloc(tensor->elems * sizeof(*saved));
    int rc = 0;

    *out = malloc(tensor->elems * sizeof(**out));
    if (saved == NULL || *out == NULL)
        rc = out_of_memory(err);
    if (rc == 0)
        rc = ds__gather_whole(merge->store, tensor, saved, err);
    for (uint64_t i = 0; rc == 0 && i < rows; i++)
        for (uint64_t j = 0; j < columns; j++)
            (*out)[turned ? j * rows + i : i * columns + j] = saved[i * columns + j];
    free(saved);
    return rc;
}

static bool fits(const struct ds_manifest_tensor *tensor, uint64_t rows, uint64_t columns)
{
    return tensor->dtype == DS_F32 && tensor->ndim == 2 && tensor->shape[0] == rows &&
           tensor->shape[1] == columns;
}

/* The factors of a matrix that has an adapter; of matrices [in, out] they are turned.  1: there
 * are some. */
static int find_factors(struct ds__merge *merge, const struct ds_safetensor *param,
                        struct ds_error *err)
{
    const struct ds_manifest_tensor *a = find_adapter(merge, param->name, 'A');
    const struct ds_manifest_tensor *b = find_adapter(merge, param->name, 'B');
    const bool weight_out = ds_family_of(merge->shape.arch)->weight_out;
    const uint64_t rank = merge->store->manifest.state.shape.lora.rank;
    const uint64_t in = param->shape[weight_out ? 1 : 0], out = param->shape[weight_out ? 0 : 1];
    struct ds__merge_factors *factors = &merge->factors;
    int rc;

    if (a == NULL && b == NULL)
        return 0;
    if (strcmp(factors->name, param->name) == 0)
        return 1;
    forget(factors);
    if (a == NULL || b == NULL || param->ndim != 2 || !fits(a, rank, in) || !fits(b, out, rank))
        return ds_fail(err, EBADMSG, "checkpoint '%s': the adapter of '%s' does not fit it",
                       merge->store->path, param->name);
    rc = read_matrix(merge, weight_out ? b : a, !weight_out, &factors->left, err);
    if (rc == 0)
        rc = read_matrix(merge, weight_out ? a : b, !weight_out, &factors->right, err);
    if (rc < 0)
        return rc;
    factors->columns = param->shape[1];
    (void)snprintf(factors->name, sizeof(factors->name), "%s", param->name);
    return 1;
}

/* Elements first .. first + count of W += scale * left right. */
static void add_adapter(const struct ds__merge *merge, uint64_t first, uint64_t count, float *out)
{
    const struct ds_lora *lora = &merge->store->manifest.state.shape.lora;
    const struct ds__merge_factors *f = &merge->factors;
    const float scale = (float)ds_model_adapter_scale(lora);

    for (uint64_t at = first, n; at < first + count; at += n) {
        const uint64_t row = at / f->columns, column = at % f->columns;

        n = f->columns - column;
        n = n < first + count - at ? n : first + count - at;
        for (uint64_t k = 0; k < lora->rank; k++) {
            const float left = scale * f->left[row * lora->rank + k];
            const float *right = f->right + k * f->columns + column;

            for (uint64_t i = 0; i < n; i++)
                out[at - first + i] += left * right[i];
        }
    }
}

/* --- tensors ---------------------------------------------------------------------------------- */

static int read_saved(struct ds__merge *merge, const struct ds_manifest_tensor *saved,
                      const struct ds_safetensor *param, uint64_t first, uint64_t count, float *out,
                      struct ds_error *err)
{
    const struct ds_ckpt_view all = {.runs = 0};
    struct ds__gather gather;

    if (saved->dtype != DS_F32 || saved->elems != param->elems || saved->ndim != param->ndim ||
        memcmp(saved->shape, param->shape, param->ndim * sizeof(saved->shape[0])) != 0)
        return ds_fail(err, EBADMSG, "checkpoint '%s': tensor '%s' does not fit its own model",
                       merge->store->path, param->name);
    ds__gather_init(&gather, merge->store, saved, &all, first, count);
    return ds__gather_next(&gather, out, count, err);
}

static int read_based(struct ds__merge *merge, const struct ds_safetensor *param, uint64_t first,
                      uint64_t count, float *out, struct ds_error *err)
{
    struct ds__hf_tensor tensor = *ds__hf_find(&merge->hf, param->name);
    int rc;

    if (merge->folder) /* from one folder to the other, as it is there */
        tensor.one_more = false;
    rc = ds__hf_read(&merge->hf, &tensor, first, count, out, err);
    if (rc == 0)
        rc = find_factors(merge, param, err);
    if (rc > 0)
        add_adapter(merge, first, count, out);
    return rc < 0 ? rc : 0;
}

int ds__merge_read(struct ds__merge *merge, const struct ds_safetensor *param, uint64_t first,
                   uint64_t count, float *out, struct ds_error *err)
{
    const struct ds_manifest_tensor *saved = ds_manifest_find(&merge->store->manifest, param->name);
    const bool less = merge->folder && ds__hf_one_more(merge->shape.arch, param->name);
    int rc;

    if (saved == NULL && !merge->based)
        return ds_fail(err, EBADMSG, "checkpoint '%s' has no tensor '%s'", merge->store->path,
                       param->name);
    if (saved == NULL)
        return read_based(merge, param, first, count, out, err);
    rc = read_saved(merge, saved, param, first, count, out, err);
    for (uint64_t i = 0; rc == 0 && less && i < count; i++)
        out[i] -= 1.0f;
    return rc;
}

struct ds_ckpt_model {
    struct ds__store store;
    struct ds__merge merge;
};

int ds_ckpt_model_open(struct ds_ckpt_model **out, const char *path, struct ds_error *err)
{
    struct ds_ckpt_model *model = calloc(1, sizeof(*model));
    int rc = model == NULL ? out_of_memory(err) : ds__store_open(&model->store, path, err);

    *out = NULL;
    if (rc < 0) {
        free(model);
        return rc;
    }
    rc = ds__merge_open(&model->merge, &model->store, NULL, err);
    if (rc < 0) {
        ds_ckpt_model_close(model);
        return rc;
    }
    *out = model;
    return 0;
}

void ds_ckpt_model_close(struct ds_ckpt_model *model)
{
    if (model == NULL)
        return;
    ds__merge_close(&model->merge);
    ds__store_close(&model->store);
    free(model);
}

int ds_ckpt_model_read(struct ds_ckpt_model *model, const struct ds_ckpt_part *parts, size_t count,
                       struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct ds_param param;

        ds_model_param(&model->merge.shape, parts[i].param, &param);
        const struct ds_safetensor wanted = {.name = param.name,
                                             .ndim = param.ndim,
                                             .shape = {param.shape[0], param.shape[1]},
                                             .elems = param.elems};

        rc = ds__merge_read(&model->merge, &wanted, parts[i].first, parts[i].count, parts[i].data,
                            err);
    }
    return rc;
}
