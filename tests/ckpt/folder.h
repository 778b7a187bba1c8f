/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * folder.h - Hugging Face folders that tests make, tensor by tensor, so that each can spoil one thing.
 */
#ifndef DS_TESTS_CKPT_FOLDER_H
#define DS_TESTS_CKPT_FOLDER_H

#include <errno.h>

#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/hf.h"
#include "tests/ckpt/support.h"

enum { MAX_TENSORS = 64 };

/* The tensors of a folder being made. */
struct folder {
    struct ds_safetensor tensor[MAX_TENSORS];
    char name[MAX_TENSORS][DS_MAX_TENSOR_NAME + 1];
    size_t count;
};

static inline void add(struct folder *f, const char *name, enum ds_dtype dtype, unsigned ndim,
                       const uint64_t *shape)
{
    struct ds_safetensor *t = &f->tensor[f->count];

    cr_assert(f->count < MAX_TENSORS);
    (void)snprintf(f->name[f->count], sizeof(f->name[0]), "%s", name);
    *t = (struct ds_safetensor){.name = f->name[f->count], .dtype = (int)dtype, .ndim = ndim};
    for (unsigned i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    f->count++;
}

static inline void fill(struct folder *f, const struct ds_model_shape *shape, enum ds_dtype dtype,
                        size_t skip_prefix)
{
    f->count = 0;
    for (size_t i = 0; i < ds_model_param_count(shape); i++) {
        struct ds_param p;

        ds_model_param(shape, i, &p);
        add(f, p.name + (strcmp(p.name, "lm_head.weight") == 0 ? 0 : skip_prefix), dtype, p.ndim,
            p.shape);
    }
}

/* Element i of any tensor; exact in all three types. */
static inline float value_at(uint64_t i)
{
    return (float)(i % 97) * 0.125f - 3.0f;
}

static inline uint16_t f16_bits(float value) /* of the values above: normal numbers and zero */
{
    uint32_t word;

    memcpy(&word, &value, sizeof(word));
    if ((word & 0x7fffffffu) == 0)
        return (uint16_t)(word >> 16);
    return (uint16_t)((word >> 16 & 0x8000u) | (((word >> 23 & 0xffu) - 112) << 10) |
                      (word >> 13 & 0x3ffu));
}

static inline void put_values(struct ds_buf *out, const struct ds_safetensor *t)
{
    for (uint64_t i = 0; i < t->elems; i++) {
        float value = value_at(i);
        uint16_t half = t->dtype == DS_BF16 ? ds_bf16_from_f32(value) : f16_bits(value);

        if (t->dtype == DS_F32)
            cr_assert(ds_buf_put(out, &value, sizeof(value)) == 0);
        else
            for (size_t b = 0; b < ds_dtype_bytes((enum ds_dtype)t->dtype); b += 2)
                cr_assert(ds_buf_put(out, &half, sizeof(half)) == 0);
    }
}

/* Write `count` tensors from `first` as a safetensors file; returns where its data starts. */
static inline size_t write_weights(struct folder *f, size_t first, size_t count, const char *path)
{
    struct ds_buf out;
    size_t data_at;

    ds_buf_init(&out, 1 << 24);
    cr_assert(ds_safetensors_build(f->tensor + first, count, NULL, &out, NULL) == 0);
    data_at = out.len;
    for (size_t i = first; i < first + count; i++)
        put_values(&out, &f->tensor[i]);
    spill(path, out.data, out.len);
    ds_buf_release(&out);
    return data_at;
}

static inline const char *make_dir(const char *name)
{
    const char *dir = tempdir_path(name);

    cr_assert(ds_fs_mkdirs(dir, NULL) == 0);
    return dir;
}

/* --- weights -------------------------------------------------------------------------------- */

/* The model's tensors in memory, to be filled. */
struct model {
    struct ds_ckpt_tensor weight[MAX_TENSORS];
    size_t count;
    enum ds_arch arch;
};

static inline void model_init(struct model *m, const struct ds_model_shape *shape)
{
    m->arch = shape->arch;
    m->count = ds_model_param_count(shape);
    cr_assert(m->count <= MAX_TENSORS);
    for (size_t i = 0; i < m->count; i++) {
        struct ds_param p;

        ds_model_param(shape, i, &p);
        init_tensor(&m->weight[i], "", p.name, (unsigned)p.shape[0],
                    p.ndim == 2 ? (unsigned)p.shape[1] : 0, -99.0f);
    }
}

static inline void model_release(struct model *m)
{
    for (size_t i = 0; i < m->count; i++)
        free(m->weight[i].data);
}

static inline void must_hold_values(const struct model *m)
{
    for (size_t i = 0; i < m->count; i++)
        for (size_t j = 0; j < tensor_elems(&m->weight[i]); j++)
            cr_assert(((float *)m->weight[i].data)[j] ==
                          value_at(j) + (ds__hf_one_more(m->arch, m->weight[i].name) ? 1.0f : 0.0f),
                      "%s element %zu is %g", m->weight[i].name, j,
                      (double)((float *)m->weight[i].data)[j]);
}

/* All but the first and the last element of each tensor, into a copy of what was loaded. */
static inline void must_load_ranges(const char *dir, const struct ds_model_shape *shape,
                                    const struct model *m)
{
    struct ds_ckpt_tensor range[MAX_TENSORS];
    struct ds_error err = {0};

    for (size_t i = 0; i < m->count; i++) {
        range[i] = m->weight[i];
        range[i].first = 1;
        range[i].count -= 2;
        range[i].data = calloc(range[i].count, sizeof(float));
    }
    cr_assert(hf_load(dir, shape, range, m->count, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < m->count; i++) {
        cr_assert(memcmp(range[i].data, (const float *)m->weight[i].data + 1,
                         range[i].count * sizeof(float)) == 0);
        range[i].count += 2; /* one more than there are */
    }
    cr_assert(hf_load(dir, shape, range, m->count, &err) == -EINVAL);
    for (size_t i = 0; i < m->count; i++)
        free(range[i].data);
}

/* Load must fail with `rc` and say so. */
static inline void must_fail(const char *dir, const struct ds_model_shape *shape, int rc,
                             const char *says)
{
    struct ds_error err = {0};
    struct model m;
    int got;

    model_init(&m, shape);
    got = hf_load(dir, shape, m.weight, m.count, &err);
    cr_assert(got == rc, "'%s': %d %s", says, got, err.text);
    cr_assert(strstr(err.text, says) != NULL, "'%s' not in '%s'", says, err.text);
    model_release(&m);
}

#endif
