/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rates.c - the contract is in rates.h.
 */
#include "kernels/rates.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/scratch.h"

/* clang-format off */
enum {
    RUNS = 5,
    ROWS = 512, SEQ = 256, SMALL = 128, LARGE = 768, WIDE = 3072, HEAD_SIZE = 64,
    DRAWN = 1 << 16, /* elements of a dropout that stays in a cache */
    COPY_ELEMS = 32 << 20, /* 256 MiB pass through memory */
    ADAMW_ELEMS = 16 << 20,
    RUN_NS = 20 * 1000 * 1000 /* of one timed run, at least */
};
/* clang-format on */

struct bench {
    struct ds_device *device;
    struct ds_stream *stream;
    float *memory; /* [elems], five lines of it for the optimizer */
    size_t elems;
};

size_t ds_rates_scratch_bytes(unsigned threads)
{
    const struct ds_scratch_query query = {.threads = threads,
                                           .act = DS_BF16,
                                           .rows = ROWS,
                                           .seq = SEQ,
                                           .hidden = LARGE,
                                           .heads = LARGE / HEAD_SIZE,
                                           .kv_heads = LARGE / HEAD_SIZE,
                                           .head_size = HEAD_SIZE,
                                           .ffn_in = WIDE};

    return ds_scratch_bytes(&query);
}

void ds_rates_fit(double small, double rate_small, double large, double rate_large, double *flops,
                  double *half)
{
    double slope = (1.0 / rate_small - 1.0 / rate_large) / (1.0 / small - 1.0 / large);

    if (slope <= 0.0) { /* the small one is no slower */
        *flops = rate_large;
        *half = 0.0;
        return;
    }
    *flops = 1.0 / (1.0 / rate_large - slope / large);
    *half = slope * *flops;
}

/* --- one operation ---------------------------------------------------------------------------- */

typedef int operation(const struct bench *bench, const void *args, struct ds_error *err);

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;

    return (a > b) - (a < b);
}

/* Median seconds of one call. */
static int time_of(const struct bench *bench, operation *run, const void *args, double *seconds,
                   struct ds_error *err)
{
    double sample[RUNS];
    int rc = run(bench, args, err);

    for (int i = 0; rc == 0 && i < RUNS; i++) {
        uint64_t start = ds_clock_mono_ns(), ns = 0;
        unsigned calls = 0;

        while (rc == 0 && ns < RUN_NS) {
            rc = run(bench, args, err);
            calls++;
            ns = ds_clock_mono_ns() - start;
        }
        sample[i] = (double)ns * 1e-9 / calls;
    }
    qsort(sample, RUNS, sizeof(sample[0]), compare);
    *seconds = sample[RUNS / 2];
    return rc;
}

static int matmul(const struct bench *bench, const void *args, struct ds_error *err)
{
    return ds_matmul(args, bench->stream, err);
}

/* Bytes of `n` elements of the type, rounded up to a line of the cache. */
static size_t room(size_t n, enum ds_dtype type)
{
    return (n * ds_dtype_bytes(type) + 63) / 64 * 64;
}

/* The layer of width `extent`: a product, its input's gradient, its weight's gradient. */
static int layer_rate(const struct bench *bench, enum ds_dtype type, size_t extent, double *rate,
                      struct ds_error *err)
{
    size_t rows = ROWS, out = 4 * extent;
    char *at = (char *)bench->memory;
    char *x = at, *w = x + room(rows * extent, type), *y = w + room(extent * out, type);
    char *dw = y + room(rows * out, type);
    const struct ds_matmul_args forward = {.m = rows,
                                           .n = out,
                                           .k = extent,
                                           .in_type = type,
                                           .out_type = type,
                                           .a = x,
                                           .b = w,
                                           .d = y,
                                           .lda = extent,
                                           .ldb = out,
                                           .ldd = out};
    const struct ds_matmul_args input = {.m = rows,
                                         .n = extent,
                                         .k = out,
                                         .trans_b = true,
                                         .in_type = type,
                                         .out_type = type,
                                         .a = y,
                                         .b = w,
                                         .d = x,
                                         .lda = out,
                                         .ldb = out,
                                         .ldd = extent};
    const struct ds_matmul_args weight = {.m = extent,
                                          .n = out,
                                          .k = rows,
                                          .trans_a = true,
                                          .in_type = type,
                                          .out_type = DS_F32,
                                          .a = x,
                                          .b = y,
                                          .d = dw,
                                          .lda = extent,
                                          .ldb = out,
                                          .ldd = out};
    const struct ds_matmul_args *products[] = {&forward, &input, &weight};
    double sum = 0.0, seconds = 0.0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < 3; i++) {
        rc = time_of(bench, matmul, products[i], &seconds, err);
        sum += seconds;
    }
    *rate = 3.0 * 2.0 * (double)(rows * out * extent) / sum;
    return rc;
}

static int matmul_rates(const struct bench *bench, struct ds_rates *rates, struct ds_error *err)
{
    double small = 0.0, large = 0.0;
    int rc = layer_rate(bench, DS_F32, SMALL, &small, err);

    if (rc == 0)
        rc = layer_rate(bench, DS_F32, LARGE, &large, err);
    if (rc == 0)
        ds_rates_fit(SMALL, small, LARGE, large, &rates->flops_fp32, &rates->matmul_half);
    return rc;
}

/* The half extent is that of F32. */
static int bf16_rates(const struct bench *bench, struct ds_rates *rates, struct ds_error *err)
{
    double large = 0.0;
    int rc = layer_rate(bench, DS_BF16, LARGE, &large, err);

    rates->flops_bf16 = large * (1.0 + rates->matmul_half / LARGE);
    return rc;
}

struct attention {
    struct ds_attention_fwd_args forward;
    struct ds_attention_bwd_args backward;
};

static int attention(const struct bench *bench, const void *args, struct ds_error *err)
{
    const struct attention *a = args;
    int rc = ds_attention_fwd(&a->forward, bench->stream, err);

    return rc == 0 ? ds_attention_bwd(&a->backward, bench->stream, err) : rc;
}

static int attention_rate(const struct bench *bench, enum ds_dtype type, double *rate,
                          struct ds_error *err)
{
    size_t batch = ROWS / SEQ, heads = LARGE / HEAD_SIZE, row = (size_t)ROWS * LARGE;
    char *qkv = (char *)bench->memory, *out = qkv + room(3 * row, type);
    char *dout = out + room(row, type), *dqkv = dout + room(row, type);
    float *lse = (float *)(void *)(dqkv + room(3 * row, type));
    float scale = 0.125f; /* 1 / sqrt(HEAD_SIZE) */
    const struct attention args = {.forward = {.batch = batch,
                                               .seq = SEQ,
                                               .heads = heads,
                                               .kv_heads = heads,
                                               .head_size = HEAD_SIZE,
                                               .act = type,
                                               .scale = scale,
                                               .qkv = qkv,
                                               .out = out,
                                               .lse = lse},
                                   .backward = {.batch = batch,
                                                .seq = SEQ,
                                                .heads = heads,
                                                .kv_heads = heads,
                                                .head_size = HEAD_SIZE,
                                                .act = type,
                                                .scale = scale,
                                                .qkv = qkv,
                                                .out = out,
                                                .dout = dout,
                                                .lse = lse,
                                                .dqkv = dqkv}};
    double seconds = 0.0;
    int rc = time_of(bench, attention, &args, &seconds, err);

    *rate = 3.5 * 4.0 * (double)row * (SEQ + 1.0) / 2.0 / seconds;
    return rc;
}

static int copy(const struct bench *bench, const void *args, struct ds_error *err)
{
    return ds_cast(args, bench->stream, err);
}

static int adamw(const struct bench *bench, const void *args, struct ds_error *err)
{
    return ds_adamw(args, bench->stream, err);
}

struct pointwise {
    struct ds_norm_fwd_args norm;
    struct ds_norm_bwd_args norm_back;
    struct ds_gelu_fwd_args gelu;
    struct ds_gelu_bwd_args gelu_back;
};

static int pointwise(const struct bench *bench, const void *args, struct ds_error *err)
{
    const struct pointwise *p = args;
    int rc = ds_norm_fwd(&p->norm, bench->stream, err);

    if (rc == 0)
        rc = ds_gelu_fwd(&p->gelu, bench->stream, err);
    if (rc == 0)
        rc = ds_gelu_bwd(&p->gelu_back, bench->stream, err);
    return rc == 0 ? ds_norm_bwd(&p->norm_back, bench->stream, err) : rc;
}

static int pointwise_rate(const struct bench *bench, double *rate, struct ds_error *err)
{
    size_t narrow = (size_t)ROWS * LARGE, wide = (size_t)ROWS * WIDE;
    float *x = bench->memory, *y = x + narrow, *u = y + narrow, *v = u + wide;
    float *weight = v + wide, *dweight = weight + LARGE, *mean = dweight + LARGE;
    const struct pointwise args = {.norm = {.rows = ROWS,
                                            .channels = LARGE,
                                            .kind = DS_NORM_RMS,
                                            .eps = 1e-5f,
                                            .x = x,
                                            .weight = weight,
                                            .y = y,
                                            .rstd = mean},
                                   .norm_back = {.rows = ROWS,
                                                 .channels = LARGE,
                                                 .kind = DS_NORM_RMS,
                                                 .dy = y,
                                                 .x = x,
                                                 .weight = weight,
                                                 .rstd = mean,
                                                 .dx = y,
                                                 .dweight = dweight},
                                   .gelu = {.n = wide, .x = u, .y = v},
                                   .gelu_back = {.n = wide, .x = u, .dy = v, .dx = v}};
    double seconds = 0.0;
    int rc = time_of(bench, pointwise, &args, &seconds, err);

    /* As the cost model counts: the norm 2 + 4 of its rows, the activation 2 + 3. */
    *rate = sizeof(float) * (6.0 * (double)narrow + 5.0 * (double)wide) / seconds;
    return rc;
}

static int dropout(const struct bench *bench, const void *args, struct ds_error *err)
{
    return ds_dropout(args, bench->stream, err);
}

static int memory_rates(const struct bench *bench, struct ds_rates *rates, struct ds_error *err)
{
    float *m = bench->memory;
    const struct ds_cast_args large = {.n = COPY_ELEMS, .x = m, .y = m + COPY_ELEMS};
    const struct ds_dropout_args drawn = {.n = DRAWN, .rate = 0.1, .x = m, .y = m + DRAWN};
    const struct ds_cast_args least = {.n = 1, .x = m, .y = m + 64};
    const struct ds_adamw_args update = {.n = ADAMW_ELEMS,
                                         .p = m,
                                         .m = m + ADAMW_ELEMS,
                                         .v = m + (size_t)2 * ADAMW_ELEMS,
                                         .grad = m + (size_t)3 * ADAMW_ELEMS,
                                         .lr = 1e-4,
                                         .beta1 = 0.9,
                                         .beta2 = 0.95,
                                         .eps = 1e-8,
                                         .grad_scale = 1.0,
                                         .bias1 = 0.1,
                                         .bias2 = 0.05};
    double seconds = 0.0;
    int rc = time_of(bench, copy, &large, &seconds, err);

    rates->bandwidth = 2.0 * sizeof(float) * COPY_ELEMS / seconds;
    if (rc == 0)
        rc = time_of(bench, adamw, &update, &seconds, err);
    rates->update = 28.0 * ADAMW_ELEMS / seconds;
    if (rc == 0)
        rc = time_of(bench, dropout, &drawn, &seconds, err);
    rates->random = DRAWN / seconds;
    if (rc == 0)
        rc = time_of(bench, copy, &least, &seconds, err);
    rates->launch_us = seconds * 1e6;
    return rc;
}

/* Numbers of the type that is read: two BF16 read as one F32 can be a denormal. */
static void fill(const struct bench *bench, enum ds_dtype type)
{
    for (size_t i = 0; i < bench->elems; i++) {
        float value = 0.01f * (float)(1 + i % 13);
        const ds_bf16 low[2] = {ds_bf16_from_f32(value), ds_bf16_from_f32(value)};

        if (type == DS_F32)
            bench->memory[i] = value;
        else
            memcpy(&bench->memory[i], low, sizeof(low));
    }
}

static int measure(const struct bench *bench, struct ds_rates *rates, struct ds_error *err)
{
    int rc;

    fill(bench, DS_F32);
    rc = matmul_rates(bench, rates, err);
    fill(bench, DS_F32);
    if (rc == 0)
        rc = attention_rate(bench, DS_F32, &rates->attention_fp32, err);
    if (rc == 0)
        rc = pointwise_rate(bench, &rates->pointwise, err);
    if (rc == 0)
        rc = memory_rates(bench, rates, err);
    fill(bench, DS_BF16);
    if (rc == 0)
        rc = bf16_rates(bench, rates, err);
    fill(bench, DS_BF16);
    return rc == 0 ? attention_rate(bench, DS_BF16, &rates->attention_bf16, err) : rc;
}

int ds_rates_measure(struct ds_device *device, struct ds_rates *rates, struct ds_error *err)
{
    struct bench bench = {.device = device, .stream = ds_device_stream(device)};
    void *memory = NULL;
    int rc;

    memset(rates, 0, sizeof(*rates));
    bench.elems = (size_t)2 * COPY_ELEMS;
    rc = ds_device_alloc(device, bench.elems * sizeof(float), &memory, err);
    if (rc != 0)
        return rc;
    bench.memory = memory;
    rc = measure(&bench, rates, err);
    ds_device_free(device, memory, bench.elems * sizeof(float));
    return rc;
}
