/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - causal attention in tiles of queries x keys.
 *
 * Forward: a task is one block of queries of one head; it goes over the keys
 * it can see with a running maximum and sum.  Backward: a task is one
 * key/value head of one sequence with all its query heads, so that the
 * gradients of keys and values have one writer.  Tiles are F32 in scratch
 * memory; BF16 is widened on the way in and rounded on the way out.
 *
 * Source  Dao et al., "FlashAttention", NeurIPS 2022, algorithms 1 and 4
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>

enum { QB = DS_QUERY_BLOCK, KB = DS_KEY_BLOCK };

/* What both directions know of the shapes. */
struct shape {
    size_t batch, seq, heads, kv_heads, size; /* size: of a head */
    size_t group;                             /* query heads per key/value head */
    size_t ld;                                /* of a packed row */
    size_t blocks;                            /* of queries */
    enum ds_dtype act;
    float scale;
};

/* A thread's tiles. */
struct tiles {
    float *s, *p;             /* [QB][KB] */
    float *q, *o, *dout, *dq; /* [QB][size] */
    float *k, *v, *dk, *dv;   /* [seq][size] */
    float *max, *sum, *dot;   /* [QB] */
};

static struct tiles carve(float *scratch, unsigned thread, size_t seq, size_t size)
{
    size_t row = ds__round_line(QB * size), column = ds__round_line(seq * size);
    struct tiles t = {.s = scratch + thread * ds__attention_floats(seq, size)};

    t.p = t.s + (size_t)QB * KB;
    t.q = t.p + (size_t)QB * KB;
    t.o = t.q + row;
    t.dout = t.o + row;
    t.dq = t.dout + row;
    t.k = t.dq + row;
    t.v = t.k + column;
    t.dk = t.v + column;
    t.dv = t.dk + column;
    t.max = t.dv + column;
    t.sum = t.max + QB;
    t.dot = t.sum + QB;
    return t;
}

DS_INLINE void gather_rows(enum ds_dtype act, const void *x, size_t at, size_t ld, size_t rows,
                           size_t n, float *to)
{
    for (size_t r = 0; r < rows; r++) {
        size_t i = 0;

        for (; i + DS_LANES <= n; i += DS_LANES)
            ds_vec_store(to + r * n + i, ds_load(act, x, at + r * ld + i));
        if (i < n)
            ds_store_part(DS_F32, to + r * n, i, n - i,
                          ds_load_part(act, x, at + r * ld + i, n - i));
    }
}

/* rows x n elements at x[at], as F32 without gaps. */
static void gather(enum ds_dtype act, const void *x, size_t at, size_t ld, size_t rows, size_t n,
                   float *to)
{
    if (act == DS_F32)
        gather_rows(DS_F32, x, at, ld, rows, n, to);
    else
        gather_rows(DS_BF16, x, at, ld, rows, n, to);
}

DS_INLINE void scatter_rows(enum ds_dtype act, const float *from, size_t rows, size_t n, void *x,
                            size_t at, size_t ld)
{
    for (size_t r = 0; r < rows; r++) {
        size_t i = 0;

        for (; i + DS_LANES <= n; i += DS_LANES)
            ds_store(act, x, at + r * ld + i, ds_vec_load(from + r * n + i));
        if (i < n)
            ds_store_part(act, x, at + r * ld + i, n - i,
                          ds_load_part(DS_F32, from + r * n, i, n - i));
    }
}

static void scatter(enum ds_dtype act, const float *from, size_t rows, size_t n, void *x, size_t at,
                    size_t ld)
{
    if (act == DS_F32)
        scatter_rows(DS_F32, from, rows, n, x, at, ld);
    else
        scatter_rows(DS_BF16, from, rows, n, x, at, ld);
}

/* c[m,n] = op(a) op(b) (+ c); the tiles lie without gaps except scores, of row KB. */
static int product(bool trans_a, bool trans_b, bool add, size_t m, size_t n, size_t k,
                   const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc)
{
    struct ds_gemm_f32 g = {.trans_a = trans_a,
                            .trans_b = trans_b,
                            .add = add,
                            .m = m,
                            .n = n,
                            .k = k,
                            .a = a,
                            .b = b,
                            .lda = lda,
                            .ldb = ldb,
                            .c = c,
                            .ldc = ldc};

    return ds__gemm_f32(&g);
}

/* Keys that the query at `query` sees of a tile of `keys` from `first`. */
static size_t visible(size_t query, size_t first, size_t keys)
{
    return query < first ? 0 : ds__min(keys, query - first + 1);
}

/* s = exp(scale s - shift) over the `seen` first elements, 0 over the others; their sum. */
DS_INLINE float exp_row(float *s, size_t seen, size_t keys, float scale, float shift)
{
    ds_vec sum = {0};
    size_t i = 0;

    for (; i + DS_LANES <= seen; i += DS_LANES) {
        ds_vec e = ds_vec_exp(ds_vec_load(s + i) * scale - shift);

        ds_vec_store(s + i, e);
        sum += e;
    }
    if (i < seen) {
        ds_vec e = ds_vec_exp(ds_load_part(DS_F32, s, i, seen - i) * scale - shift), used = {0};

        ds_store_part(DS_F32, &used, 0, seen - i, e);
        ds_store_part(DS_F32, s, i, seen - i, used);
        sum += used;
    }
    if (seen < keys)
        memset(s + seen, 0, (keys - seen) * sizeof(float));
    return ds_vec_sum(sum);
}

static float largest(const float *s, size_t n)
{
    ds_vec max = ds_vec_set(s[0]);
    float found;
    size_t i = 0;

    for (; i + DS_LANES <= n; i += DS_LANES)
        max = ds_vec_max(max, ds_vec_load(s + i));
    found = ds_vec_largest(max);
    for (; i < n; i++)
        found = s[i] > found ? s[i] : found;
    return found;
}

DS_INLINE void scale_row(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

struct fwd {
    const struct ds_attention_fwd_args *a;
    struct shape shape;
    float *scratch;
    _Atomic int rc;
};

/* One tile of scores: turn them into weights, bring sums and outputs to the new maximum. */
static void fwd_softmax(const struct shape *sh, struct tiles *t, size_t query, size_t rows,
                        size_t first, size_t keys)
{
    for (size_t r = 0; r < rows; r++) {
        float *s = t->s + r * KB;
        size_t seen = visible(query + r, first, keys);
        float max, before = t->max[r], shrink;

        if (seen == 0) {
            memset(s, 0, keys * sizeof(float));
            continue;
        }
        max = largest(s, seen) * sh->scale;
        max = max > before ? max : before;
        shrink = first == 0 ? 0.0f : expf(before - max);
        t->max[r] = max;
        t->sum[r] = t->sum[r] * shrink + exp_row(s, seen, keys, sh->scale, max);
        if (first != 0 && shrink != 1.0f)
            scale_row(t->o + r * sh->size, sh->size, shrink);
    }
}

static int fwd_block(const struct fwd *f, struct tiles *t, size_t b, size_t h, size_t query)
{
    const struct ds_attention_fwd_args *a = f->a;
    const struct shape *sh = &f->shape;
    size_t rows = ds__min(QB, sh->seq - query), d = sh->size, base = b * sh->seq * sh->ld;
    size_t key_at = (sh->heads + h / sh->group) * d, value_at = key_at + sh->kv_heads * d;
    int rc = 0;

    gather(sh->act, a->qkv, base + query * sh->ld + h * d, sh->ld, rows, d, t->q);
    for (size_t r = 0; r < rows; r++) {
        t->max[r] = -INFINITY;
        t->sum[r] = 0.0f;
    }
    for (size_t first = 0; rc == 0 && first < query + rows; first += KB) {
        size_t keys = ds__min(KB, query + rows - first);
        size_t row = base + first * sh->ld;

        gather(sh->act, a->qkv, row + key_at, sh->ld, keys, d, t->k);
        gather(sh->act, a->qkv, row + value_at, sh->ld, keys, d, t->v);
        rc = product(false, true, false, rows, keys, d, t->q, d, t->k, d, t->s, KB);
        if (rc != 0)
            break;
        fwd_softmax(sh, t, query, rows, first, keys);
        rc = product(false, false, first != 0, rows, d, keys, t->s, KB, t->v, d, t->o, d);
    }
    for (size_t r = 0; r < rows; r++) {
        scale_row(t->o + r * d, d, 1.0f / t->sum[r]);
        a->lse[(b * sh->heads + h) * sh->seq + query + r] = t->max[r] + logf(t->sum[r]);
    }
    scatter(sh->act, t->o, rows, d, a->out, ((b * sh->seq + query) * sh->heads + h) * d,
            sh->heads * d);
    return rc;
}

static void note(_Atomic int *rc, int now)
{
    int none = 0;

    if (now != 0)
        atomic_compare_exchange_strong(rc, &none, now);
}

static void fwd_task(void *arg, size_t task, unsigned thread)
{
    struct fwd *f = arg;
    const struct shape *sh = &f->shape;
    struct tiles t = carve(f->scratch, thread, sh->seq, sh->size);
    size_t block = sh->blocks - 1 - task / (sh->batch * sh->heads); /* the longest first */
    size_t head = task % (sh->batch * sh->heads);

    note(&f->rc, fwd_block(f, &t, head / sh->heads, head % sh->heads, block * QB));
}

int DS_ISA(ds__cpu_attention_fwd)(const struct ds_attention_fwd_args *args,
                                  struct ds_stream *stream, struct ds_error *err)
{
    struct fwd f = {.a = args,
                    .shape = {.batch = args->batch,
                              .seq = args->seq,
                              .heads = args->heads,
                              .kv_heads = args->kv_heads,
                              .size = args->head_size,
                              .group = args->heads / args->kv_heads,
                              .ld = (args->heads + 2 * args->kv_heads) * args->head_size,
                              .blocks = ds__div_up(args->seq, QB),
                              .act = args->act,
                              .scale = args->scale}};
    size_t need = ds__need_attention(ds__cpu_threads(stream), args->seq, args->head_size);
    int rc = ds__cpu_scratch(stream, need, &f.scratch, err);

    if (rc != 0)
        return rc;
    ds__cpu_run(stream, f.shape.batch * f.shape.heads * f.shape.blocks, fwd_task, &f);
    rc = atomic_load(&f.rc);
    return rc == 0 ? 0 : ds_fail(err, -rc, "oneDNN failed in an attention head");
}

struct bwd {
    const struct ds_attention_bwd_args *a;
    struct shape shape;
    float *scratch;
    _Atomic int rc;
};

/* s: scores to weights; p: gradients of weights to gradients of scores. */
static void bwd_softmax(const struct shape *sh, struct tiles *t, const float *lse, size_t query,
                        size_t rows, size_t first, size_t keys)
{
    for (size_t r = 0; r < rows; r++) {
        float *s = t->s + r * KB, *p = t->p + r * KB, dot = t->dot[r];
        size_t seen = visible(query + r, first, keys), i = 0;

        (void)exp_row(s, seen, keys, sh->scale, lse[r]);
        for (; i + DS_LANES <= keys; i += DS_LANES)
            ds_vec_store(p + i,
                         ds_vec_load(s + i) * (ds_vec_load(p + i) - dot) * sh->scale);
        for (; i < keys; i++)
            p[i] = s[i] * (p[i] - dot) * sh->scale;
    }
}

/* A block of queries of one head against all the keys it sees. */
static int bwd_block(const struct bwd *w, struct tiles *t, size_t b, size_t h, size_t query)
{
    const struct ds_attention_bwd_args *a = w->a;
    const struct shape *sh = &w->shape;
    size_t rows = ds__min(QB, sh->seq - query), d = sh->size, out_ld = sh->heads * d;
    size_t row = (b * sh->seq + query) * sh->ld + h * d;
    size_t out_at = (b * sh->seq + query) * out_ld + h * d;
    const float *lse = a->lse + (b * sh->heads + h) * sh->seq + query;
    int rc = 0;

    gather(sh->act, a->qkv, row, sh->ld, rows, d, t->q);
    gather(sh->act, a->out, out_at, out_ld, rows, d, t->o);
    gather(sh->act, a->dout, out_at, out_ld, rows, d, t->dout);
    for (size_t r = 0; r < rows; r++) {
        float dot = 0.0f;

        for (size_t i = 0; i < d; i++)
            dot += t->o[r * d + i] * t->dout[r * d + i];
        t->dot[r] = dot;
    }
    for (size_t first = 0; rc == 0 && first < query + rows; first += KB) {
        size_t keys = ds__min(KB, query + rows - first);
        float *k = t->k + first * d, *v = t->v + first * d;

        rc = product(false, true, false, rows, keys, d, t->q, d, k, d, t->s, KB);
        if (rc == 0)
            rc = product(false, true, false, rows, keys, d, t->dout, d, v, d, t->p, KB);
        if (rc != 0)
            break;
        bwd_softmax(sh, t, lse, query, rows, first, keys);
        rc = product(true, false, true, keys, d, rows, t->s, KB, t->dout, d, t->dv + first * d, d);
        if (rc == 0)
            rc = product(true, false, true, keys, d, rows, t->p, KB, t->q, d, t->dk + first * d,
                         d);
        if (rc == 0)
            rc = product(false, false, first != 0, rows, d, keys, t->p, KB, k, d, t->dq, d);
    }
    scatter(sh->act, t->dq, rows, d, a->dqkv, row, sh->ld);
    return rc;
}

static void bwd_task(void *arg, size_t task, unsigned thread)
{
    struct bwd *w = arg;
    const struct ds_attention_bwd_args *a = w->a;
    const struct shape *sh = &w->shape;
    struct tiles t = carve(w->scratch, thread, sh->seq, sh->size);
    size_t b = task / sh->kv_heads, kv = task % sh->kv_heads, d = sh->size;
    size_t base = b * sh->seq * sh->ld, key_at = base + (sh->heads + kv) * d;
    size_t value_at = key_at + sh->kv_heads * d;

    gather(sh->act, a->qkv, key_at, sh->ld, sh->seq, d, t.k);
    gather(sh->act, a->qkv, value_at, sh->ld, sh->seq, d, t.v);
    memset(t.dk, 0, sh->seq * d * sizeof(float));
    memset(t.dv, 0, sh->seq * d * sizeof(float));
    for (size_t h = kv * sh->group; h < (kv + 1) * sh->group; h++) {
        for (size_t block = 0; block < sh->blocks; block++)
            note(&w->rc, bwd_block(w, &t, b, h, block * QB));
    }
    scatter(sh->act, t.dk, sh->seq, d, a->dqkv, key_at, sh->ld);
    scatter(sh->act, t.dv, sh->seq, d, a->dqkv, value_at, sh->ld);
}

int DS_ISA(ds__cpu_attention_bwd)(const struct ds_attention_bwd_args *args,
                                  struct ds_stream *stream, struct ds_error *err)
{
    struct bwd w = {.a = args,
                    .shape = {.batch = args->batch,
                              .seq = args->seq,
                              .heads = args->heads,
                              .kv_heads = args->kv_heads,
                              .size = args->head_size,
                              .group = args->heads / args->kv_heads,
                              .ld = (args->heads + 2 * args->kv_heads) * args->head_size,
                              .blocks = ds__div_up(args->seq, QB),
                              .act = args->act,
                              .scale = args->scale}};
    size_t need = ds__need_attention(ds__cpu_threads(stream), args->seq, args->head_size);
    int rc = ds__cpu_scratch(stream, need, &w.scratch, err);

    if (rc != 0)
        return rc;
    ds__cpu_run(stream, w.shape.batch * w.shape.kv_heads, bwd_task, &w);
    rc = atomic_load(&w.rc);
    return rc == 0 ? 0 : ds_fail(err, -rc, "oneDNN failed in an attention head");
}
