/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_attention.c - causal attention, forward and backward, against the T x T form in double; with
 * dropout, against the mask that Philox gives one number at a time.
 */
#include "base/rng.h"
#include "tests/kernels/harness.h"

struct attention {
    size_t batch, seq, heads, kv_heads, size, ld;
    enum ds_dtype act;
    double scale;
    struct ds_attention_drop drop;
    struct nums qkv, dout, out, lse; /* out and lse: given to the backward pass */
    double *want_out, *want_lse, *want_dqkv;
};

/* Element of query (part 0), key (1) or value (2) of a head. */
static size_t at(const struct attention *x, size_t b, size_t t, int part, size_t head)
{
    size_t first = part == 0 ? 0 : part == 1 ? x->heads : x->heads + x->kv_heads;

    return (b * x->seq + t) * x->ld + (first + head) * x->size;
}

static double dot(const double *x, const double *y, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Weights of one query over the keys before it; returns the log of the sum. */
static double weights(const struct attention *x, size_t b, size_t h, size_t t, double *p)
{
    size_t kv = h / (x->heads / x->kv_heads);
    const double *q = x->qkv.d + at(x, b, t, 0, h);
    double sum = 0.0, max = (double)-INFINITY;

    for (size_t s = 0; s <= t; s++) {
        p[s] = x->scale * dot(q, x->qkv.d + at(x, b, s, 1, kv), x->size);
        max = fmax(max, p[s]);
    }
    for (size_t s = 0; s <= t; s++)
        sum += exp(p[s] - max);
    for (size_t s = 0; s <= t; s++)
        p[s] = exp(p[s] - max) / sum;
    return max + log(sum);
}

/* What the weight of key `s` is multiplied with. */
static double keep(const struct attention *x, size_t b, size_t h, size_t t, size_t s)
{
    uint64_t heads = x->drop.heads != 0 ? x->drop.heads : x->heads;
    uint64_t row = ((x->drop.first + b) * heads + x->drop.head + h) * x->seq + t;
    uint64_t block = row * ((x->seq + 3) / 4) + s / 4, stream = x->drop.stream;
    const uint32_t ctr[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                             (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)x->drop.seed, (uint32_t)(x->drop.seed >> 32)};
    uint32_t word[4];

    ds_philox(ctr, key, word);
    return word[s % 4] >= floor(x->drop.rate * 4294967296.0) ? 1.0 / (1.0 - x->drop.rate) : 0.0;
}

static void reference_query(struct attention *x, size_t b, size_t h, size_t t, double *p)
{
    size_t kv = h / (x->heads / x->kv_heads), row = ((b * x->seq + t) * x->heads + h) * x->size;
    const double *q = x->qkv.d + at(x, b, t, 0, h), *dout = x->dout.d + row;
    double *out = x->want_out + row, mean;

    x->want_lse[(b * x->heads + h) * x->seq + t] = weights(x, b, h, t, p);
    for (size_t s = 0; s <= t; s++) {
        double kept = keep(x, b, h, t, s) * p[s];

        for (size_t i = 0; i < x->size; i++)
            out[i] += kept * x->qkv.d[at(x, b, s, 2, kv) + i];
    }
    mean = dot(out, dout, x->size);
    for (size_t s = 0; s <= t; s++) {
        double dp = dot(dout, x->qkv.d + at(x, b, s, 2, kv), x->size);
        double kept = keep(x, b, h, t, s), ds = p[s] * (kept * dp - mean) * x->scale;

        for (size_t i = 0; i < x->size; i++) {
            x->want_dqkv[at(x, b, s, 2, kv) + i] += kept * p[s] * dout[i];
            x->want_dqkv[at(x, b, s, 1, kv) + i] += ds * q[i];
            x->want_dqkv[at(x, b, t, 0, h) + i] += ds * x->qkv.d[at(x, b, s, 1, kv) + i];
        }
    }
}

static void reference(struct attention *x)
{
    double *p = calloc(x->seq, sizeof(double));

    for (size_t b = 0; b < x->batch; b++) {
        for (size_t h = 0; h < x->heads; h++) {
            for (size_t t = 0; t < x->seq; t++)
                reference_query(x, b, h, t, p);
        }
    }
    free(p);
}

static int run_fwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct attention *x = ctx;
    struct ds_attention_fwd_args args = {.batch = x->batch,
                                         .seq = x->seq,
                                         .heads = x->heads,
                                         .kv_heads = x->kv_heads,
                                         .head_size = x->size,
                                         .act = x->act,
                                         .scale = (float)x->scale,
                                         .drop = x->drop,
                                         .qkv = x->qkv.data,
                                         .out = out[0],
                                         .lse = out[1]};

    return ds_attention_fwd(&args, stream, err);
}

static int run_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct attention *x = ctx;
    struct ds_attention_bwd_args args = {.batch = x->batch,
                                         .seq = x->seq,
                                         .heads = x->heads,
                                         .kv_heads = x->kv_heads,
                                         .head_size = x->size,
                                         .act = x->act,
                                         .scale = (float)x->scale,
                                         .drop = x->drop,
                                         .qkv = x->qkv.data,
                                         .out = x->out.data,
                                         .dout = x->dout.data,
                                         .dqkv = out[0],
                                         .lse = (const float *)(void *)x->lse.data};

    return ds_attention_bwd(&args, stream, err);
}

static void try_both(struct attention *x, const char *what)
{
    size_t tokens = x->batch * x->seq, out = tokens * x->heads * x->size;
    struct trial t = {
        .what = what,
        .out = {{x->act, out, x->want_out, NULL}, {DS_F32, tokens * x->heads, x->want_lse, NULL}},
        .outs = 2,
        .run = run_fwd,
        .ctx = x,
        .query = {.act = x->act, .seq = x->seq, .head_size = x->size},
        .low = x->act != DS_F32};

    try_all(&t);
    for (size_t i = 0; i < out; i++)
        nums_set(&x->out, i, x->want_out[i]);
    for (size_t i = 0; i < tokens * x->heads; i++)
        nums_set(&x->lse, i, x->want_lse[i]);
    t.out[0] = (struct out){x->act, tokens * x->ld, x->want_dqkv, NULL};
    t.outs = 1;
    t.run = run_bwd;
    try_all(&t);
}

static void check_dropped(size_t batch, size_t seq, size_t kv_heads, size_t group, size_t size,
                          enum ds_dtype act, double sharp, struct ds_attention_drop drop)
{
    struct attention x = {.batch = batch,
                          .seq = seq,
                          .heads = kv_heads * group,
                          .kv_heads = kv_heads,
                          .size = size,
                          .act = act,
                          .scale = (double)(float)(1.0 / sqrt((double)size)),
                          .drop = drop};
    size_t tokens = batch * seq;
    char what[128];

    x.ld = (x.heads + 2 * kv_heads) * size;
    snprintf(what, sizeof(what), "B %zu T %zu NK %zu group %zu HS %zu %s sharp %g drop %g", batch,
             seq, kv_heads, group, size, ds_dtype_name(act), sharp, drop.rate);
    x.qkv = nums_random(act, tokens * x.ld, sharp, 0.0);
    x.dout = nums_random(act, tokens * x.heads * size, 1.0, 0.0);
    x.out = nums_blank(act, tokens * x.heads * size);
    x.lse = nums_blank(DS_F32, tokens * x.heads);
    x.want_out = calloc(tokens * x.heads * size, sizeof(double));
    x.want_lse = calloc(tokens * x.heads, sizeof(double));
    x.want_dqkv = calloc(tokens * x.ld, sizeof(double));
    reference(&x);
    try_both(&x, what);
    nums_free(&x.qkv);
    nums_free(&x.dout);
    nums_free(&x.out);
    nums_free(&x.lse);
    free(x.want_out);
    free(x.want_lse);
    free(x.want_dqkv);
}

/* `sharp` multiplies the queries: weights near 0 and 1, scores in the hundreds. */
static void check(size_t batch, size_t seq, size_t kv_heads, size_t group, size_t size,
                  enum ds_dtype act, double sharp)
{
    check_dropped(batch, seq, kv_heads, group, size, act, sharp, (struct ds_attention_drop){0});
}

#ifndef DS_TESTS_CUDNN /* else tests/cudaemu/test_cuda_sdpa.c has its own */
Test(attention, lengths_and_head_sizes)
{
#if defined(DS_TESTS_FEW)
    static const size_t seqs[] = {1, 70}, sizes[] = {20, 64, 128};
#elif defined(DS_TESTS_EMULATED) /* where every number takes its time */
    static const size_t seqs[] = {1, 17, 64, 141}, sizes[] = {20, 64, 72, 128};
#else
    static const size_t seqs[] = {1, 2, 17, 64, 65, 100, 257}, sizes[] = {16, 20, 32, 64, 80, 128};
#endif

    for (size_t i = 0; i < sizeof(seqs) / sizeof(seqs[0]); i++) {
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            check(seqs[i] < 100 ? 2 : 1, seqs[i], 1 + (i + j) % 2, 1, sizes[j], DS_F32, 1.0);
            check(1, seqs[i], 1, 2, sizes[j], DS_BF16, 1.0);
            check(1, seqs[i], 1, 2, sizes[j], DS_F16, 1.0);
        }
    }
}

Test(attention, groups_of_query_heads)
{
    check(2, 33, 2, 1, 16, DS_F32, 1.0);
    check(2, 33, 2, 2, 16, DS_F32, 1.0);
    check(1, 130, 2, 4, 32, DS_F32, 1.0);
    check(1, 70, 1, 4, 64, DS_BF16, 1.0);
    check(1, 70, 1, 4, 64, DS_F16, 1.0);
}

Test(attention, wide_heads)
{
    check(1, 40, 1, 2, 200, DS_F32, 1.0);
    check(1, 40, 1, 2, 136, DS_BF16, 1.0);
    check(2, 33, 2, 1, 160, DS_F16, 1.0);
}

Test(attention, sharp_weights)
{
    check(1, 100, 1, 1, 32, DS_F32, 5.0);
    check(1, 300, 1, 2, 16, DS_F32, 4.0);
}

#ifndef DS_TESTS_FEW
Test(attention, several_key_tiles)
{
    check(1, 600, 1, 1, 16, DS_F32, 1.0);
    check(1, 515, 1, 2, 32, DS_BF16, 1.0);
    check(1, 515, 1, 2, 32, DS_F16, 1.0);
}
#endif

Test(attention, dropped_weights)
{
    static const size_t seqs[] = {1, 3, 17, 64, 101, 259, 530};
    static const double rates[] = {0.1, 0.5, 0.9};
    static const uint64_t firsts[] = {0, 1, 12345, (UINT64_C(1) << 33) - 1, UINT64_MAX - 1};

#if defined(DS_TESTS_FEW)
    const size_t step = 8; /* each type once */
#elif defined(DS_TESTS_EMULATED)
    const size_t step = 2; /* all types and groups, half of the lengths */
#else
    const size_t step = 1;
#endif

    for (size_t i = 0; i < 7 * 3; i += step) {
        struct ds_attention_drop drop = {.rate = rates[i % 3],
                                         .seed = UINT64_C(0x123456789abcdef) * i,
                                         .stream = (UINT64_C(0x64726f70) << 32) + i,
                                         .first = firsts[i % 5]};
        size_t seq = seqs[i % 7];

        if (i % 4 == 0) { /* a part of the heads */
            drop.heads = 12;
            drop.head = i % 6;
        }
        check_dropped(seq < 100 ? 3 : 1, seq, 1 + i % 2, 1 + i % 3, i % 2 == 0 ? 16 : 40,
                      act_types[i / 7], 1.0, drop);
    }
}
#endif
