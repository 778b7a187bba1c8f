/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_attention.c - causal attention, forward and backward, against the T x T form in double; with
 * dropout, against the mask that Philox gives one number at a time.  Queries that see keys from one
 * on: windows, documents one after the other, and numbers that cannot be.
 */
#include "base/rng.h"
#include "tests/kernels/harness.h"

struct attention {
    size_t batch, seq, heads, kv_heads, size, ld;
    enum ds_dtype act;
    double scale;
    struct ds_attention_drop drop;
    uint32_t *low;                   /* [batch][seq], or NULL */
    struct nums qkv, dout, out, lse; /* out and lse: given to the backward pass */
    double *want_out, *want_lse, *want_dqkv;
};

/* Element of query (part 0), key (1) or value (2) of a head. */
static size_t at(const struct attention *x, size_t b, size_t t, int part, size_t head)
{
    size_t first = part == 0 ? 0 : part == 1 ? x->heads : x->heads + x->kv_heads;

    return (b * x->seq + t) * x->ld + (first + head) * x->size;
}

/* The first key that a query sees. */
static size_t first_key(const struct attention *x, size_t b, size_t t)
{
    size_t low = x->low != NULL ? x->low[b * x->seq + t] : 0;

    return low < t ? low : t;
}

static double dot(const double *x, const double *y, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Weights of one query over the keys that it sees; returns the log of the sum. */
static double weights(const struct attention *x, size_t b, size_t h, size_t t, double *p)
{
    size_t kv = h / (x->heads / x->kv_heads);
    const double *q = x->qkv.d + at(x, b, t, 0, h);
    double sum = 0.0, max = (double)-INFINITY;
    size_t low = first_key(x, b, t);

    for (size_t s = low; s <= t; s++) {
        p[s] = x->scale * dot(q, x->qkv.d + at(x, b, s, 1, kv), x->size);
        max = fmax(max, p[s]);
    }
    for (size_t s = low; s <= t; s++)
        sum += exp(p[s] - max);
    for (size_t s = low; s <= t; s++)
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
    for (size_t s = first_key(x, b, t); s <= t; s++) {
        double kept = keep(x, b, h, t, s) * p[s];

        for (size_t i = 0; i < x->size; i++)
            out[i] += kept * x->qkv.d[at(x, b, s, 2, kv) + i];
    }
    mean = dot(out, dout, x->size);
    for (size_t s = first_key(x, b, t); s <= t; s++) {
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
                                         .low = x->low,
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
                                         .low = x->low,
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

/* Of `x` the shape is given, what is dropped and what is seen. */
static void make(struct attention *x, double sharp)
{
    size_t tokens = x->batch * x->seq;

    x->scale = (double)(float)(1.0 / sqrt((double)x->size));
    x->ld = (x->heads + 2 * x->kv_heads) * x->size;
    x->qkv = nums_random(x->act, tokens * x->ld, sharp, 0.0);
    x->dout = nums_random(x->act, tokens * x->heads * x->size, 1.0, 0.0);
    x->out = nums_blank(x->act, tokens * x->heads * x->size);
    x->lse = nums_blank(DS_F32, tokens * x->heads);
    x->want_out = calloc(tokens * x->heads * x->size, sizeof(double));
    x->want_lse = calloc(tokens * x->heads, sizeof(double));
    x->want_dqkv = calloc(tokens * x->ld, sizeof(double));
}

static void release(struct attention *x)
{
    nums_free(&x->qkv);
    nums_free(&x->dout);
    nums_free(&x->out);
    nums_free(&x->lse);
    free(x->want_out);
    free(x->want_lse);
    free(x->want_dqkv);
}

static void check_seen(struct attention x, double sharp, const char *seen)
{
    char what[160];

    snprintf(what, sizeof(what), "B %zu T %zu NK %zu group %zu HS %zu %s sharp %g drop %g%s",
             x.batch, x.seq, x.kv_heads, x.heads / x.kv_heads, x.size, ds_dtype_name(x.act), sharp,
             x.drop.rate, seen);
    make(&x, sharp);
    reference(&x);
    try_both(&x, what);
    release(&x);
}

static void check_dropped(size_t batch, size_t seq, size_t kv_heads, size_t group, size_t size,
                          enum ds_dtype act, double sharp, struct ds_attention_drop drop)
{
    const struct attention x = {.batch = batch,
                                .seq = seq,
                                .heads = kv_heads * group,
                                .kv_heads = kv_heads,
                                .size = size,
                                .act = act,
                                .drop = drop};

    check_seen(x, sharp, "");
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

/* A window, 0: none, over documents of about `length` tokens, 0: one. */
static uint32_t *make_low(size_t batch, size_t seq, size_t window, size_t length)
{
    uint32_t *low = malloc(batch * seq * sizeof(*low));
    uint64_t state = seq + window + length;

    cr_assert(low != NULL);
    for (size_t i = 0; i < batch * seq; i++) {
        size_t t = i % seq, cut = window != 0 && t >= window ? t + 1 - window : 0;
        size_t old = t == 0 ? 0 : low[i - 1];

        (void)noise(&state);
        if (length != 0 && (state >> 33) % length == 0)
            old = t;
        low[i] = (uint32_t)(cut > old ? cut : old);
    }
    return low;
}

static void check_cut(struct attention x, size_t window, size_t length)
{
    char seen[64];

    snprintf(seen, sizeof(seen), " window %zu documents of %zu", window, length);
    x.low = make_low(x.batch, x.seq, window, length);
    check_seen(x, 1.0, seen);
    free(x.low);
}

#if defined(DS_TESTS_FEW)
static const size_t cut_seqs[] = {130}, cut_sizes[] = {40, 128};
static const size_t cuts[][2] = {{7, 0}, {0, 40}};
enum { EVERY = 5 }; /* of the cases below, those with numbers divided by it */
#elif defined(DS_TESTS_EMULATED)
static const size_t cut_seqs[] = {197}, cut_sizes[] = {64, 72};
static const size_t cuts[][2] = {{1, 0}, {2, 0}, {127, 0}, {1000, 0}, {0, 5}, {0, 90}, {33, 60}};
#else
static const size_t cut_seqs[] = {1, 70, 259, 700}, cut_sizes[] = {16, 72};
static const size_t cuts[][2] = {{1, 0},   {2, 0}, {17, 0}, {64, 0},  {300, 0},
                                 {513, 0}, {0, 5}, {0, 90}, {0, 400}, {33, 60}};
#endif
#ifndef DS_TESTS_FEW
enum { EVERY = 1 };
#endif

/* Batches, sizes and groups in turn. */
Test(attention, keys_from_one_on)
{
    size_t turn = 0;

    for (size_t i = 0; i < sizeof(cut_seqs) / sizeof(cut_seqs[0]); i++) {
        for (size_t j = 0; j < 3 * sizeof(cuts) / sizeof(cuts[0]); j++, turn++) {
            struct attention x = {.batch = 1 + turn % 2,
                                  .seq = cut_seqs[i],
                                  .kv_heads = 1 + turn / 2 % 2,
                                  .size = cut_sizes[turn / 3 % 2],
                                  .act = act_types[j % 3]};

            x.heads = x.kv_heads * (1 + turn / 4 % 2);
            check_cut(x, cuts[j / 3][0], cuts[j / 3][1]);
        }
    }
}

Test(attention, keys_from_one_on_and_dropped_weights)
{
    for (size_t i = 0; i < 3; i++) {
        struct attention x = {.batch = 2,
                              .seq = 133,
                              .heads = 2,
                              .kv_heads = 1,
                              .size = 20,
                              .act = act_types[i],
                              .drop = {.rate = 0.3, .seed = i, .stream = 77, .first = 5}};

        check_cut(x, 50, 30);
    }
}

/* Both passes, on what the processor has, into outputs that stay. */
struct passes {
    struct nums out, lse, dqkv;
};

static struct passes run_passes(struct attention *x)
{
    size_t tokens = x->batch * x->seq;
    struct passes p = {.out = nums_blank(x->act, tokens * x->heads * x->size),
                       .lse = nums_blank(DS_F32, tokens * x->heads),
                       .dqkv = nums_blank(x->act, tokens * x->ld)};
    struct ds_scratch_query query = {
        .threads = 2, .act = x->act, .seq = x->seq, .head_size = x->size};
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&query));
    struct attention back = *x;
    void *fwd[2] = {p.out.data, p.lse.data}, *bwd[1] = {p.dqkv.data};

    back.out = p.out;
    back.lse = p.lse;
    cr_assert(device != NULL);
    cr_expect(run_fwd(x, fwd, ds_device_stream(device), NULL) == 0);
    cr_expect(run_bwd(&back, bwd, ds_device_stream(device), NULL) == 0);
    ds_device_close(device);
    return p;
}

static void free_passes(struct passes *p)
{
    nums_free(&p->out);
    nums_free(&p->lse);
    nums_free(&p->dqkv);
}

static bool same_numbers(const struct nums *x, const struct nums *y)
{
    for (size_t i = 0; i < x->n; i++)
        if (nums_get(x, i) != nums_get(y, i))
            return false;
    return true;
}

static struct attention make_cut(size_t seq, size_t size, enum ds_dtype act)
{
    struct attention x = {
        .batch = 2, .seq = seq, .heads = 2, .kv_heads = 1, .size = size, .act = act};

    make(&x, 1.0);
    return x;
}

/* All keys from the first on are what is seen without it. */
Test(attention, from_the_first_key_on_is_all)
{
    for (size_t i = 0; i < 2 * 3; i += EVERY) {
        struct attention x = make_cut(150, i < 3 ? 64 : 128, act_types[i % 3]);
        struct passes all = run_passes(&x), low;

        x.low = calloc(x.batch * x.seq, sizeof(*x.low));
        low = run_passes(&x);
        cr_expect(same_numbers(&all.out, &low.out), "out of %zu", i);
        cr_expect(same_numbers(&all.lse, &low.lse), "lse of %zu", i);
        cr_expect(same_numbers(&all.dqkv, &low.dqkv), "dqkv of %zu", i);
        free_passes(&all);
        free_passes(&low);
        free(x.low);
        release(&x);
    }
}

/* Of queries from `t` on nothing in front of the first key that they see has a gradient, to the last
 * bit, and whatever is there, they come out the same. */
static void check_front(struct attention *x, size_t t, const char *what)
{
    size_t low = x->low[t], row = x->heads * x->size, reached = 0, own = 0, other = 0;
    struct passes before, after;

    for (size_t i = 0; i < t * row; i++)
        nums_set(&x->dout, i, 0.0);
    before = run_passes(x);
    for (size_t i = 0; i < (low + 1) * x->ld; i++) {
        if (i % x->ld < row)
            continue; /* of a query */
        *(i < low * x->ld ? &reached : &own) += nums_get(&before.dqkv, i) != 0.0;
        if (i < low * x->ld)
            nums_set(&x->qkv, i, 100.0);
    }
    after = run_passes(x);
    for (size_t i = t * row; i < x->seq * row; i++)
        other += nums_get(&before.out, i) != nums_get(&after.out, i);
    cr_expect(reached == 0, "%s: %zu gradients in front of key %zu", what, reached, low);
    cr_expect(own > 0, "%s: none of key %zu", what, low);
    cr_expect(other == 0, "%s: %zu outputs from query %zu on", what, other, t);
    free_passes(&before);
    free_passes(&after);
}

/* First keys, and the first queries that do not see one, at all places in a tile. */
Test(attention, nothing_in_front_matters)
{
    static const size_t cases[][2] = {
        {191, 127}, {192, 65}, {127, 63}, {130, 1}, {129, 66}}; /* t, W */

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i += EVERY) {
        for (size_t j = 0; j < 3; j++) {
            struct attention x = {.batch = 1,
                                  .seq = 197,
                                  .heads = 1 + j % 2,
                                  .kv_heads = 1,
                                  .size = (i + j) % 2 == 0 ? 64 : 72,
                                  .act = act_types[j]};
            char what[64];

            snprintf(what, sizeof(what), "window %zu HS %zu %s", cases[i][1], x.size,
                     ds_dtype_name(x.act));
            make(&x, 1.0);
            x.low = make_low(1, x.seq, cases[i][1], 0);
            check_front(&x, cases[i][0], what);
            free(x.low);
            release(&x);
        }
    }
}

static bool all_finite(const struct nums *x)
{
    for (size_t i = 0; i < x->n; i++)
        if (!isfinite(nums_get(x, i)))
            return false;
    return true;
}

/* Whatever the numbers are, every query sees itself: its sum has its own weight. */
static void check_itself(const struct attention *x, const struct nums *lse)
{
    for (size_t i = 0; i < x->batch * x->heads * x->seq; i++) {
        size_t t = i % x->seq, h = i / x->seq % x->heads, b = i / x->seq / x->heads;
        const double *q = x->qkv.d + at(x, b, t, 0, h), *k = x->qkv.d + at(x, b, t, 1, 0);
        double own = x->scale * dot(q, k, x->size);

        cr_expect(nums_get(lse, i) > own - 0.01, "row %zu: %g, itself %g", i, nums_get(lse, i),
                  own);
    }
}

Test(attention, first_keys_that_cannot_be)
{
    for (size_t i = 0; i < 4 * 3; i += EVERY) {
        struct attention x = make_cut(i % 2 == 0 ? 150 : 201, i < 6 ? 64 : 72, act_types[i % 3]);
        struct passes p;

        x.low = malloc(x.batch * x.seq * sizeof(*x.low));
        for (size_t t = 0; t < x.batch * x.seq; t++) {
            size_t turn = (uint32_t)(t * 2654435761u) % 400; /* above, and back again */

            x.low[t] = (uint32_t)(i / 3 == 0 ? x.seq - t % x.seq : i / 3 == 1 ? UINT32_MAX : turn);
            if (i / 3 == 3 && t % 7 == 0)
                x.low[t] = UINT32_MAX - (uint32_t)turn;
        }
        p = run_passes(&x);
        cr_expect(all_finite(&p.out) && all_finite(&p.lse) && all_finite(&p.dqkv), "%zu", i);
        check_itself(&x, &p.lse);
        free_passes(&p);
        free(x.low);
        release(&x);
    }
}
#endif
