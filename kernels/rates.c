/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rates.c - the contract is in rates.h.
 */
#include "kernels/rates.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/amount.h"
#include "kernels/scratch.h"

/* clang-format off */
enum {
    RUNS = 5, ROUNDS = 15, LAYERS = 4,
    ROWS = 512, SMALL = 128, LARGE = 768, HEAD_SIZE = 64, /* a layer's width is its extent */
    SHORT = 64, LONG = 256, /* sequences of the small and of the large layer */
    DRAWN = 1 << 16, /* elements of a dropout that stays in a cache */
    COPY_ELEMS = 32 << 20, /* 256 MiB pass through memory */
    ADAMW_ELEMS = 16 << 20,
    RUN_NS = 20 * 1000 * 1000 /* of one timed run, at least */
};
/* clang-format on */

static_assert(ROUNDS * LAYERS == DS_RATES_ROUNDS, "a round of each layer");

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
                                           .seq = LONG,
                                           .hidden = LARGE,
                                           .heads = LARGE / HEAD_SIZE,
                                           .kv_heads = LARGE / HEAD_SIZE,
                                           .head_size = HEAD_SIZE,
                                           .ffn_in = 4 * LARGE};

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
    if (!(*flops > 0.0 && *flops <= DS_RATES_FIT_MOST * rate_large)) /* one was disturbed */
        *flops = DS_RATES_FIT_MOST * rate_large;
    *half = large * (*flops / rate_large - 1.0);
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

static int copy(const struct bench *bench, const void *args, struct ds_error *err)
{
    return ds_cast(args, bench->stream, err);
}

static int adamw(const struct bench *bench, const void *args, struct ds_error *err)
{
    return ds_adamw(args, bench->stream, err);
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

    rates->bandwidth = ds_op_amount(DS_OP_CAST, &large).bytes / seconds;
    if (rc == 0)
        rc = time_of(bench, adamw, &update, &seconds, err);
    rates->update = ds_op_amount(DS_OP_ADAMW, &update).bytes / seconds;
    if (rc == 0)
        rc = time_of(bench, dropout, &drawn, &seconds, err);
    rates->random = DRAWN / seconds;
    if (rc == 0)
        rc = time_of(bench, copy, &least, &seconds, err);
    rates->launch_us = seconds * 1e6;
    return rc;
}

/* --- a layer ----------------------------------------------------------------------------------
 *
 * Norm, product, GELU and attention forward, then the same backward, as a step runs them: what one
 * operation has written is in a cache for the next one, and weights and activations of the pass
 * before are not.  So that it is true, every pass works in the next set of tensors, and the sets of
 * all layers fill the memory. */

enum part { PRODUCT, ATTENTION, POINTWISE, PARTS };

struct layer {
    enum ds_dtype type;
    size_t width, seq;
    char *memory; /* its own: what another layer leaves would be numbers as small as denormals */
    size_t bytes; /* of it */
    unsigned passes;
    uint64_t at_ns;               /* when the last operation has ended */
    double spent[PARTS];          /* seconds of the passes of a round */
    double sample[PARTS][ROUNDS]; /* seconds of one pass */
};

struct tensors { /* one set */
    char *x, *n, *w, *u, *v, *qkv, *out, *dout, *dqkv;
    float *dw, *lse, *rstd, *weight, *dweight;
};

/* Bytes of `n` elements of the type, rounded up to a line of the cache. */
static size_t room(size_t n, enum ds_dtype type)
{
    return (n * ds_dtype_bytes(type) + 63) / 64 * 64;
}

static char *take(char **at, size_t n, enum ds_dtype type)
{
    char *tensor = *at;

    *at += room(n, type);
    return tensor;
}

/* Lay a set out from `at` on; returns its end. */
static char *lay(const struct layer *layer, char *at, struct tensors *t)
{
    enum ds_dtype type = layer->type;
    size_t narrow = ROWS * layer->width, wide = 4 * narrow;

    t->x = take(&at, narrow, type);
    t->n = take(&at, narrow, type);
    t->w = take(&at, 4 * layer->width * layer->width, type);
    t->u = take(&at, wide, type);
    t->v = take(&at, wide, type);
    t->qkv = take(&at, 3 * narrow, type);
    t->out = take(&at, narrow, type);
    t->dout = take(&at, narrow, type);
    t->dqkv = take(&at, 3 * narrow, type);
    t->dw = (float *)(void *)take(&at, 4 * layer->width * layer->width, DS_F32);
    t->lse = (float *)(void *)take(&at, ROWS * layer->width / HEAD_SIZE, DS_F32);
    t->rstd = (float *)(void *)take(&at, ROWS, DS_F32);
    t->weight = (float *)(void *)take(&at, layer->width, type);
    t->dweight = (float *)(void *)take(&at, layer->width, DS_F32);
    return at;
}

static int lap(struct layer *layer, enum part part, int rc)
{
    uint64_t now = ds_clock_mono_ns();

    layer->spent[part] += (double)(now - layer->at_ns) * 1e-9;
    layer->at_ns = now;
    return rc;
}

static int multiply(const struct bench *bench, struct layer *layer, struct ds_matmul_args product,
                    struct ds_error *err)
{
    product.in_type = layer->type;
    product.lda = product.trans_a ? product.m : product.k;
    product.ldb = product.trans_b ? product.k : product.n;
    product.ldd = product.n;
    return lap(layer, PRODUCT, ds_matmul(&product, bench->stream, err));
}

static int attend(const struct bench *bench, struct layer *layer, const struct tensors *t,
                  bool backward, struct ds_error *err)
{
    const struct ds_attention_bwd_args back = {.batch = ROWS / layer->seq,
                                               .seq = layer->seq,
                                               .heads = layer->width / HEAD_SIZE,
                                               .kv_heads = layer->width / HEAD_SIZE,
                                               .head_size = HEAD_SIZE,
                                               .act = layer->type,
                                               .scale = 0.125f, /* 1 / sqrt(HEAD_SIZE) */
                                               .qkv = t->qkv,
                                               .out = t->out,
                                               .dout = t->dout,
                                               .lse = t->lse,
                                               .dqkv = t->dqkv};
    const struct ds_attention_fwd_args args = {.batch = back.batch,
                                               .seq = back.seq,
                                               .heads = back.heads,
                                               .kv_heads = back.kv_heads,
                                               .head_size = back.head_size,
                                               .act = back.act,
                                               .scale = back.scale,
                                               .qkv = t->qkv,
                                               .out = t->out,
                                               .lse = t->lse};

    return lap(layer, ATTENTION,
               backward ? ds_attention_bwd(&back, bench->stream, err)
                        : ds_attention_fwd(&args, bench->stream, err));
}

static int normalize(const struct bench *bench, struct layer *layer, const struct tensors *t,
                     bool backward, struct ds_error *err)
{
    const struct ds_norm_bwd_args back = {.rows = ROWS,
                                          .channels = layer->width,
                                          .kind = DS_NORM_RMS,
                                          .act = layer->type,
                                          .param = layer->type,
                                          .dy = t->n,
                                          .x = t->x,
                                          .weight = t->weight,
                                          .rstd = t->rstd,
                                          .dx = t->n,
                                          .dweight = t->dweight};
    const struct ds_norm_fwd_args args = {.rows = ROWS,
                                          .channels = layer->width,
                                          .kind = DS_NORM_RMS,
                                          .eps = 1e-5f,
                                          .act = layer->type,
                                          .param = layer->type,
                                          .x = t->x,
                                          .weight = t->weight,
                                          .y = t->n,
                                          .rstd = t->rstd};

    return lap(layer, POINTWISE,
               backward ? ds_norm_bwd(&back, bench->stream, err)
                        : ds_norm_fwd(&args, bench->stream, err));
}

static int activate(const struct bench *bench, struct layer *layer, const struct tensors *t,
                    bool backward, struct ds_error *err)
{
    size_t n = 4 * ROWS * layer->width;
    const struct ds_gelu_fwd_args args = {.n = n, .act = layer->type, .x = t->u, .y = t->v};
    const struct ds_gelu_bwd_args back = {
        .n = n, .act = layer->type, .x = t->u, .dy = t->v, .dx = t->v};

    return lap(layer, POINTWISE,
               backward ? ds_gelu_bwd(&back, bench->stream, err)
                        : ds_gelu_fwd(&args, bench->stream, err));
}

/* One pass; u, v and n are made anew from x and w, so that no number grows from pass to pass. */
static int run_layer(const struct bench *bench, struct layer *layer, const struct tensors *t,
                     struct ds_error *err)
{
    size_t in = layer->width, out = 4 * in;
    const struct ds_matmul_args forward = {
        .m = ROWS, .n = out, .k = in, .out_type = layer->type, .a = t->n, .b = t->w, .d = t->u};
    const struct ds_matmul_args weight = {.m = in,
                                          .n = out,
                                          .k = ROWS,
                                          .trans_a = true,
                                          .out_type = DS_F32,
                                          .a = t->n,
                                          .b = t->v,
                                          .d = t->dw};
    const struct ds_matmul_args input = {.m = ROWS,
                                         .n = in,
                                         .k = out,
                                         .trans_b = true,
                                         .out_type = layer->type,
                                         .a = t->v,
                                         .b = t->w,
                                         .d = t->n};
    int rc;

    layer->at_ns = ds_clock_mono_ns();
    if ((rc = normalize(bench, layer, t, false, err)) != 0 ||
        (rc = multiply(bench, layer, forward, err)) != 0 ||
        (rc = attend(bench, layer, t, false, err)) != 0 ||
        (rc = activate(bench, layer, t, false, err)) != 0 ||
        (rc = activate(bench, layer, t, true, err)) != 0 ||
        (rc = multiply(bench, layer, weight, err)) != 0 ||
        (rc = multiply(bench, layer, input, err)) != 0 ||
        (rc = attend(bench, layer, t, true, err)) != 0)
        return rc;
    return normalize(bench, layer, t, true, err);
}

/* Passes for a while; `round` ROUNDS: only to have run once. */
static int run_round(const struct bench *bench, struct layer *layer, unsigned round,
                     struct ds_error *err)
{
    uint64_t start = ds_clock_mono_ns();
    struct tensors t;
    size_t set = (size_t)(lay(layer, layer->memory, &t) - layer->memory);
    unsigned sets = (unsigned)(layer->bytes / set), passes = 0;
    int rc = 0;

    memset(layer->spent, 0, sizeof(layer->spent));
    while (rc == 0 && (passes == 0 || ds_clock_mono_ns() - start < RUN_NS)) {
        (void)lay(layer, layer->memory + layer->passes % sets * set, &t);
        rc = run_layer(bench, layer, &t, err);
        layer->passes++;
        passes++;
    }
    for (unsigned i = 0; round < ROUNDS && i < PARTS; i++)
        layer->sample[i][round] = layer->spent[i] / passes;
    return rc;
}

/* Mean of all but the least and the most: what disturbs a round now and then disturbs a step, too,
 * and a median would not know of it; a round that was stopped for long says nothing of others. */
static double usual(double *sample, size_t n)
{
    double sum = 0.0;

    qsort(sample, n, sizeof(sample[0]), compare);
    for (size_t i = 1; i + 1 < n; i++)
        sum += sample[i];
    return sum / (double)(n - 2);
}

/* As the cost model counts: a layer's norm adds the stream's gradient in its backward pass. */
static double layer_rate(struct layer *layer, enum part part)
{
    enum ds_dtype act = layer->type;
    size_t width = layer->width, n = 4 * ROWS * width, heads = width / HEAD_SIZE;
    const struct ds_matmul_args product = {.m = ROWS, .n = 4 * width, .k = width, .in_type = act};
    const struct ds_attention_fwd_args fwd = {
        .batch = ROWS / layer->seq, .seq = layer->seq, .heads = heads, .head_size = HEAD_SIZE};
    const struct ds_attention_bwd_args bwd = {
        .batch = fwd.batch, .seq = fwd.seq, .heads = heads, .head_size = HEAD_SIZE};
    const struct ds_norm_fwd_args norm = {.rows = ROWS, .channels = width, .act = act};
    const struct ds_norm_bwd_args back = {
        .rows = ROWS, .channels = width, .act = act, .dres = layer};
    const struct ds_gelu_fwd_args gelu = {.n = n, .act = act};
    const struct ds_gelu_bwd_args dgelu = {.n = n, .act = act};
    const double work[PARTS] = {
        [PRODUCT] = 3.0 * ds_op_amount(DS_OP_MATMUL, &product).flops,
        [ATTENTION] = ds_op_amount(DS_OP_ATTENTION_FWD, &fwd).flops +
                      ds_op_amount(DS_OP_ATTENTION_BWD, &bwd).flops,
        [POINTWISE] =
            ds_op_amount(DS_OP_NORM_FWD, &norm).bytes + ds_op_amount(DS_OP_NORM_BWD, &back).bytes +
            ds_op_amount(DS_OP_GELU_FWD, &gelu).bytes + ds_op_amount(DS_OP_GELU_BWD, &dgelu).bytes,
    };

    return work[part] / usual(layer->sample[part], ROUNDS);
}

static void fit_layers(struct layer *small, struct layer *large, struct ds_layer_rates *rates)
{
    ds_rates_fit((double)small->width, layer_rate(small, PRODUCT), (double)large->width,
                 layer_rate(large, PRODUCT), &rates->flops, &rates->matmul_half);
    ds_rates_fit((double)small->seq, layer_rate(small, ATTENTION), (double)large->seq,
                 layer_rate(large, ATTENTION), &rates->attention, &rates->attention_half);
    rates->pointwise = layer_rate(large, POINTWISE);
}

/* Numbers of the type that is read: two BF16 read as one F32 can be a denormal. */
static void fill(char *memory, size_t bytes, enum ds_dtype type)
{
    for (size_t i = 0; i < bytes / ds_dtype_bytes(type); i++) {
        float value = 0.01f * (float)(1 + i % 13);

        if (type == DS_F32)
            ((float *)(void *)memory)[i] = value;
        else
            ((ds_bf16 *)(void *)memory)[i] = ds_bf16_from_f32(value);
    }
}

static double pass_s(const struct layer *layer, unsigned round)
{
    double seconds = 0.0;

    for (unsigned i = 0; i < PARTS; i++)
        seconds += layer->sample[i][round];
    return seconds;
}

/* Divide the memory: half for each type, a quarter of that for the small layer. */
static void give_memory(const struct bench *bench, struct layer layer[LAYERS])
{
    size_t bytes = bench->elems * sizeof(float) / 2;
    char *at = (char *)bench->memory;

    for (unsigned i = 0; i < LAYERS; i++) {
        layer[i].memory = at;
        layer[i].bytes = layer[i].width == SMALL ? bytes / 4 : bytes / 4 * 3;
        fill(at, layer[i].bytes, layer[i].type);
        at += layer[i].bytes;
    }
}

/* All of them in every round: a slow moment of the machine hits all alike. */
static int layer_rates(const struct bench *bench, struct ds_rates_peers *peers,
                       struct ds_rates *rates, struct ds_error *err)
{
    struct layer layer[LAYERS] = {
        {.type = DS_F32, .width = SMALL, .seq = SHORT},
        {.type = DS_F32, .width = LARGE, .seq = LONG},
        {.type = DS_BF16, .width = SMALL, .seq = SHORT},
        {.type = DS_BF16, .width = LARGE, .seq = LONG},
    };
    uint64_t began = 0;
    int rc = 0;

    give_memory(bench, layer);
    for (unsigned round = 0; rc == 0 && round <= ROUNDS; round++) {
        if (round == 1)
            began = ds_clock_mono_ns();
        for (unsigned i = 0; rc == 0 && i < LAYERS; i++) {
            rc = peers != NULL ? peers->meet(peers->user, err) : 0;
            if (rc == 0)
                rc = run_round(bench, &layer[i], round == 0 ? ROUNDS : round - 1, err);
            if (rc == 0 && round > 0 && peers != NULL)
                peers->pass_s[(round - 1) * LAYERS + i] = pass_s(&layer[i], round - 1);
        }
    }
    if (rc != 0)
        return rc;
    if (peers != NULL)
        peers->round_s = (double)(ds_clock_mono_ns() - began) * 1e-9 / DS_RATES_ROUNDS;
    fit_layers(&layer[0], &layer[1], &rates->fp32);
    fit_layers(&layer[2], &layer[3], &rates->bf16);
    return 0;
}

int ds_rates_measure(struct ds_device *device, struct ds_rates_peers *peers, struct ds_rates *rates,
                     struct ds_error *err)
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
    fill(memory, bench.elems * sizeof(float), DS_F32);
    rc = memory_rates(&bench, rates, err);
    if (rc == 0)
        rc = layer_rates(&bench, peers, rates, err);
    ds_device_free(device, memory, bench.elems * sizeof(float));
    return rc;
}
