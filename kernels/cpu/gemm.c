/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gemm.c - the contract is in gemm.h.
 *
 * Primitives lie in one open-addressed table per thread, so no lock is needed.
 * A full table is emptied; a training step has far fewer shapes than it holds.
 */
#include "kernels/cpu/gemm.h"

#include <errno.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT2(x) #x
#define TEXT(x)  TEXT2(x)

/* Of the OpenMP runtime below oneDNN; declared here because the header belongs to the compiler. */
extern void omp_set_num_threads(int threads);

enum { SLOTS = 512, SLOTS_USED = 384, ARGS = 5 };

struct entry {
    struct ds_gemm_shape shape;
    dnnl_primitive_t primitive; /* NULL: free */
    dnnl_exec_arg_t arg[ARGS];  /* A, B, D, scratchpad, bias */
    int args;
    void *scratchpad;
};

struct lane {
    dnnl_stream_t stream;
    size_t used;
    struct entry *entry; /* [SLOTS] */
};

struct ds_gemm {
    dnnl_engine_t engine;
    unsigned threads;
    struct lane *lane; /* [threads] */
};

static int code(dnnl_status_t status)
{
    switch (status) {
    case dnnl_success: return 0;
    case dnnl_out_of_memory: return -ENOMEM;
    case dnnl_unimplemented: return -ENOTSUP;
    default: return -EIO;
    }
}

int ds__gemm_f32(const struct ds_gemm_f32 *g)
{
    omp_set_num_threads(1);
    return code(dnnl_sgemm(g->trans_a ? 'T' : 'N', g->trans_b ? 'T' : 'N', (dnnl_dim_t)g->m,
                           (dnnl_dim_t)g->n, (dnnl_dim_t)g->k, 1.0f, g->a, (dnnl_dim_t)g->lda, g->b,
                           (dnnl_dim_t)g->ldb, g->add ? 1.0f : 0.0f, g->c, (dnnl_dim_t)g->ldc));
}

bool ds__gemm_has_bf16(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

const char *ds__gemm_describe(void)
{
    return "oneDNN " TEXT(DNNL_VERSION_MAJOR) "." TEXT(DNNL_VERSION_MINOR) "." TEXT(
        DNNL_VERSION_PATCH);
}

static void release(struct entry *entry)
{
    for (int i = 0; i < ARGS; i++) {
        if (entry->arg[i].memory != NULL)
            dnnl_memory_destroy(entry->arg[i].memory);
    }
    if (entry->primitive != NULL)
        dnnl_primitive_destroy(entry->primitive);
    free(entry->scratchpad);
    memset(entry, 0, sizeof(*entry));
}

void ds__gemm_close(struct ds_gemm *gemm)
{
    if (gemm == NULL)
        return;
    for (unsigned i = 0; gemm->lane != NULL && i < gemm->threads; i++) {
        struct lane *lane = &gemm->lane[i];

        for (size_t j = 0; lane->entry != NULL && j < SLOTS; j++)
            release(&lane->entry[j]);
        free(lane->entry);
        if (lane->stream != NULL)
            dnnl_stream_destroy(lane->stream);
    }
    free(gemm->lane);
    if (gemm->engine != NULL)
        dnnl_engine_destroy(gemm->engine);
    free(gemm);
}

static int open_lanes(struct ds_gemm *gemm)
{
    int rc = code(dnnl_engine_create(&gemm->engine, dnnl_cpu, 0));

    gemm->lane = calloc(gemm->threads, sizeof(*gemm->lane));
    if (gemm->lane == NULL)
        return -ENOMEM;
    for (unsigned i = 0; rc == 0 && i < gemm->threads; i++) {
        gemm->lane[i].entry = calloc(SLOTS, sizeof(struct entry));
        if (gemm->lane[i].entry == NULL)
            return -ENOMEM;
        rc = code(
            dnnl_stream_create(&gemm->lane[i].stream, gemm->engine, dnnl_stream_default_flags));
    }
    return rc;
}

int ds__gemm_open(struct ds_gemm **out, unsigned threads, struct ds_error *err)
{
    struct ds_gemm *gemm = calloc(1, sizeof(*gemm));
    int rc;

    if (gemm == NULL)
        return ds_fail(err, ENOMEM, "no memory for matrix products");
    gemm->threads = threads;
    rc = open_lanes(gemm);
    if (rc != 0) {
        ds__gemm_close(gemm);
        return ds_fail(err, -rc, "cannot start oneDNN");
    }
    *out = gemm;
    return 0;
}

static bool equal(const struct ds_gemm_shape *x, const struct ds_gemm_shape *y)
{
    return x->m == y->m && x->n == y->n && x->k == y->k && x->lda == y->lda && x->ldb == y->ldb &&
           x->ldd == y->ldd && x->in_type == y->in_type && x->out_type == y->out_type &&
           x->trans_a == y->trans_a && x->trans_b == y->trans_b && x->add == y->add &&
           x->bias == y->bias;
}

static size_t hash(const struct ds_gemm_shape *s)
{
    uint64_t h = s->m;

    h = h * 0x9e3779b97f4a7c15u + s->n;
    h = h * 0x9e3779b97f4a7c15u + s->k;
    h = h * 0x9e3779b97f4a7c15u + s->lda;
    h = h * 0x9e3779b97f4a7c15u + s->ldb;
    h = h * 0x9e3779b97f4a7c15u + (size_t)s->trans_a * 8 + (size_t)s->trans_b * 4 +
        (size_t)s->add * 2 + s->bias;
    return (size_t)(h >> 32) % SLOTS;
}

static dnnl_data_type_t data_type(enum ds_dtype type)
{
    return type == DS_BF16 ? dnnl_bf16 : dnnl_f32;
}

static int describe_matrix(dnnl_memory_desc_t *md, size_t rows, size_t columns, size_t ld,
                           bool transposed, enum ds_dtype type)
{
    dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)columns};
    dnnl_dims_t strides = {(dnnl_dim_t)ld, 1};

    if (transposed) {
        strides[0] = 1;
        strides[1] = (dnnl_dim_t)ld;
    }
    return code(dnnl_memory_desc_init_by_strides(md, 2, dims, data_type(type), strides));
}

struct matrices {
    dnnl_memory_desc_t a, b, d, bias;
};

static int describe(struct matrices *md, const struct ds_gemm_shape *s)
{
    int rc = describe_matrix(&md->a, s->m, s->k, s->lda, s->trans_a, s->in_type);

    if (rc == 0)
        rc = describe_matrix(&md->b, s->k, s->n, s->ldb, s->trans_b, s->in_type);
    if (rc == 0)
        rc = describe_matrix(&md->d, s->m, s->n, s->ldd, false, s->out_type);
    if (rc == 0)
        rc = describe_matrix(&md->bias, 1, s->n, s->n, false, s->in_type);
    return rc;
}

/* The library's attributes for a product: our own scratchpad, and D += when asked for. */
static int make_attr(dnnl_primitive_attr_t *attr, bool add)
{
    dnnl_post_ops_t ops = NULL;
    int rc = code(dnnl_primitive_attr_create(attr));

    if (rc == 0)
        rc = code(dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user));
    if (rc == 0 && add) {
        rc = code(dnnl_post_ops_create(&ops));
        if (rc == 0)
            rc = code(dnnl_post_ops_append_sum(ops, 1.0f));
        if (rc == 0)
            rc = code(dnnl_primitive_attr_set_post_ops(*attr, ops));
        dnnl_post_ops_destroy(ops);
    }
    return rc;
}

static int add_arg(struct entry *entry, int name, const dnnl_memory_desc_t *md,
                   dnnl_engine_t engine, void *handle)
{
    dnnl_exec_arg_t *arg = &entry->arg[entry->args++];

    arg->arg = name;
    return code(dnnl_memory_create(&arg->memory, md, engine, handle));
}

static int make_args(struct entry *entry, struct ds_gemm *gemm, const struct matrices *md,
                     const_dnnl_primitive_desc_t pd)
{
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    size_t bytes = pad == NULL ? 0 : dnnl_memory_desc_get_size(pad);
    int rc = add_arg(entry, DNNL_ARG_SRC, &md->a, gemm->engine, DNNL_MEMORY_NONE);

    if (rc == 0)
        rc = add_arg(entry, DNNL_ARG_WEIGHTS, &md->b, gemm->engine, DNNL_MEMORY_NONE);
    if (rc == 0)
        rc = add_arg(entry, DNNL_ARG_DST, &md->d, gemm->engine, DNNL_MEMORY_NONE);
    if (rc == 0 && entry->shape.bias)
        rc = add_arg(entry, DNNL_ARG_BIAS, &md->bias, gemm->engine, DNNL_MEMORY_NONE);
    if (rc != 0 || bytes == 0)
        return rc;
    entry->scratchpad = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (entry->scratchpad == NULL)
        return -ENOMEM;
    return add_arg(entry, DNNL_ARG_SCRATCHPAD, pad, gemm->engine, entry->scratchpad);
}

static int make(struct entry *entry, struct ds_gemm *gemm, const struct ds_gemm_shape *shape)
{
    struct matrices md;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    int rc = describe(&md, shape);

    entry->shape = *shape;
    if (rc == 0)
        rc = code(dnnl_matmul_desc_init(&desc, &md.a, &md.b, shape->bias ? &md.bias : NULL, &md.d));
    if (rc == 0)
        rc = make_attr(&attr, shape->add);
    if (rc == 0)
        rc = code(dnnl_primitive_desc_create(&pd, &desc, attr, gemm->engine, NULL));
    if (rc == 0)
        rc = code(dnnl_primitive_create(&entry->primitive, pd));
    if (rc == 0)
        rc = make_args(entry, gemm, &md, pd);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    if (rc != 0)
        release(entry);
    return rc;
}

static int find(struct ds_gemm *gemm, struct lane *lane, const struct ds_gemm_shape *shape,
                struct entry **out)
{
    size_t slot = hash(shape);
    int rc;

    while (lane->entry[slot].primitive != NULL) {
        if (equal(&lane->entry[slot].shape, shape)) {
            *out = &lane->entry[slot];
            return 0;
        }
        slot = (slot + 1) % SLOTS;
    }
    if (lane->used == SLOTS_USED) {
        for (size_t i = 0; i < SLOTS; i++)
            release(&lane->entry[i]);
        lane->used = 0;
        slot = hash(shape);
    }
    rc = make(&lane->entry[slot], gemm, shape);
    if (rc != 0)
        return rc;
    lane->used++;
    *out = &lane->entry[slot];
    return 0;
}

/* The library's handles are not const; it writes to the destination only. */
static int set_handle(dnnl_exec_arg_t *arg, const void *memory)
{
    return code(dnnl_memory_set_data_handle(arg->memory, (void *)(uintptr_t)memory));
}

int ds__gemm_run(struct ds_gemm *gemm, unsigned thread, const struct ds_gemm_shape *shape,
                 const void *a, const void *b, const void *bias, void *d)
{
    struct lane *lane = &gemm->lane[thread];
    struct entry *entry = NULL;
    int rc;

    omp_set_num_threads(1);
    rc = find(gemm, lane, shape, &entry);
    if (rc == 0)
        rc = set_handle(&entry->arg[0], a);
    if (rc == 0)
        rc = set_handle(&entry->arg[1], b);
    if (rc == 0)
        rc = set_handle(&entry->arg[2], d);
    if (rc == 0 && shape->bias)
        rc = set_handle(&entry->arg[3], bias);
    if (rc == 0)
        rc = code(dnnl_primitive_execute(entry->primitive, lane->stream, entry->args, entry->arg));
    if (rc == 0)
        rc = code(dnnl_stream_wait(lane->stream));
    return rc;
}
