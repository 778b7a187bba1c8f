/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * op.h - the one list of operations that a backend computes.
 *
 * Everything a training step does to numbers is one of these.  The list gives
 * the enum, the names, the vtable and the loop of the backend tests; adding an
 * operation is one line here, one args struct below, in optim.h or in experts.h, one function per
 * backend.  ds_<op>() in op.c checks the arguments once, then calls the backend's slot
 * or fails with ENOTSUP; backends may therefore assume validity.
 *
 * Letters   B batch, T sequence, N = B*T tokens, C hidden size, V vocabulary,
 *           NH query heads, NK key/value heads, HS head size, F ffn size.
 * Layout    row-major, last dimension contiguous.  Rows of activations are
 *           dense unless a leading dimension (`ld*`, in elements) is given.
 * Types     `act` is the type of activations (F32, BF16 or F16); `param` that of
 *           parameters as the step reads them (the same three; equal to `act` in
 *           this version).  Gradients of parameters, statistics, losses and
 *           optimizer state are always F32.  All arithmetic is in F32.
 * +=        An `accumulate` member of true adds to the output, false
 *           overwrites it (its old contents are not read).
 * Bits      A result depends on the arguments and the number of threads of the
 *           stream only, never on timing.  Everything except matmul is also
 *           independent of the number of threads.
 * Errors    0; -EINVAL (a shape or pointer that cannot be right: our bug),
 *           -ENOTSUP (the backend lacks it), -EIO (device failure).
 * Tests     tests/kernels/ (every operation, shapes with odd tails, against float64)
 */
#ifndef DS_KERNELS_OP_H
#define DS_KERNELS_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/dtype.h"
#include "kernels/experts.h"
#include "kernels/fp8.h"
#include "kernels/optim.h"
#include "kernels/rope.h"
#include "kernels/verdict.h"

/* clang-format off */
#define DS_OPS(X) \
    X(MATMUL,        matmul) \
    X(BIAS_BWD,      bias_bwd) \
    X(EMBED_FWD,     embed_fwd) \
    X(EMBED_BWD,     embed_bwd) \
    X(NORM_FWD,      norm_fwd) \
    X(NORM_BWD,      norm_bwd) \
    X(HEAD_NORM_FWD, head_norm_fwd) \
    X(HEAD_NORM_BWD, head_norm_bwd) \
    X(ROPE,          rope) \
    X(ATTENTION_FWD, attention_fwd) \
    X(ATTENTION_BWD, attention_bwd) \
    X(ATTENTION_CACHED, attention_cached) \
    X(GELU_FWD,      gelu_fwd) \
    X(GELU_BWD,      gelu_bwd) \
    X(SWIGLU_FWD,    swiglu_fwd) \
    X(SWIGLU_BWD,    swiglu_bwd) \
    X(SWIGLU_ROWS_FWD, swiglu_rows_fwd) \
    X(SWIGLU_ROWS_BWD, swiglu_rows_bwd) \
    X(ROUTE,         route) \
    X(LOAD_PEAK,     load_peak) \
    X(ROUTE_BWD,     route_bwd) \
    X(SORT_PAIRS,    sort_pairs) \
    X(ROWS_TAKE,     rows_take) \
    X(ROWS_SUM,      rows_sum) \
    X(EXPERTS_MATMUL, experts_matmul) \
    X(DROPOUT,       dropout) \
    X(XENT_PART,     xent_part) \
    X(XENT,          xent) \
    X(SUM,           sum) \
    X(ADD,           add) \
    X(SUMSQ,         sumsq) \
    X(TALLY,         tally) \
    X(VERDICT,       verdict) \
    X(RANK_SUM,      rank_sum) \
    X(ADAMW,         adamw) \
    X(SGD,           sgd) \
    X(LION,          lion) \
    X(ADAGRAD,       adagrad) \
    X(LAMB_MOMENTS,  lamb_moments) \
    X(LAMB,          lamb) \
    X(MUON_MOMENTS,  muon_moments) \
    X(MUON,          muon) \
    X(AFFINE,        affine) \
    X(CAST,          cast) \
    X(REORDER,       reorder) \
    X(LARGEST,       largest) \
    X(FP8_CAST,      fp8_cast)

enum ds_op {
#define X(id, fn) DS_OP_##id,
    DS_OPS(X)
#undef X
    DS_OP_COUNT
};
/* clang-format on */

/* D[m,n] = op(A)[m,k] op(B)[k,n] + (C ? C : 0) + (bias ? bias : 0).
 * op(A) is A stored [m,k], or with trans_a A stored [k,m]; likewise B [k,n] / [n,k].
 * C has D's type and may be D itself (accumulate) or another matrix (a residual).
 *
 * An epilogue works on that sum s before it is written, with the tanh form of ds_gelu_fwd():
 *   GELU      gelu_x = s, D = gelu(s): a layer's product and activation, without C
 *   GELU_BWD  D = s * gelu'(gelu_x): the way back, without C and bias
 * gelu_x [m,n] has D's type, is not D, and both are dense.  A backend may do it by a second
 * operation, which sees s rounded to out_type, or at once, which sees it in F32.
 *
 * With dbias it is the gradient of a weight and B that of the product's output, stored [k,n] dense:
 * dbias[n] (+)= sum over the rows of B, of F32 as D is; no epilogue beside it.
 *
 * Of in_type U8 A and B are codes of FP8 as ds_fp8_cast() makes them, and their product is
 * multiplied by both scales before anything is added.  Both have k last, [m,k] and [n,k], as matrix
 * units want them, and are dense; m, n and k are multiples of DS_FP8_UNIT, to which codes
 * and scales are aligned (cuBLASLt refuses a scale that is not); D is of BF16, as the bias then is,
 * or of F32 without one. */
enum ds_epilogue { DS_EPILOGUE_NONE, DS_EPILOGUE_GELU, DS_EPILOGUE_GELU_BWD };
struct ds_fp8_operands {
    enum ds_fp8 a_type, b_type; /* not both E5M2 */
    const float *a_scale, *b_scale;
    /* A device may keep a whole sum in fewer bits than F32 has, where that is faster; else only as
     * much of one as its matrix units do, and adds those in F32. */
    bool fast;
};
struct ds_matmul_args {
    size_t m, n, k;
    bool trans_a, trans_b;
    enum ds_dtype in_type;      /* of A and B */
    enum ds_dtype out_type;     /* of C and D: in_type or F32 */
    struct ds_fp8_operands fp8; /* with in_type U8 */
    const void *a, *b;
    size_t lda, ldb;
    const void *c;
    size_t ldc;
    void *d;
    size_t ldd;
    const void *bias; /* [n] of in_type, or NULL */
    enum ds_epilogue epilogue;
    void *gelu_x; /* of an epilogue */
    float *dbias; /* or NULL */
    bool accumulate_dbias;
};

/* dbias[n] (+)= sum over rows of dy[rows,n].  dbias F32. */
struct ds_bias_bwd_args {
    size_t rows, n;
    enum ds_dtype act;
    const void *dy;
    float *dbias;
    bool accumulate;
};

/* out[b,t,:] = scale * wte[ids[b,t],:] + (wpe ? wpe[t,:] : 0).  0 <= ids < vocab is the caller's
 * duty (the loader checks every token); a backend must not read outside wte even so.
 * A `partial` table has the rows of ids first_id .. first_id + vocab - 1: other ids have a row of
 * zeros.  first_id is 0 of one that is whole. */
struct ds_embed_fwd_args {
    size_t batch, seq, channels, vocab;
    size_t first_id;
    bool partial;
    enum ds_dtype act, param;
    float scale;        /* 0: 1 */
    const int32_t *ids; /* [B,T], stride `ids_ld` between sequences */
    size_t ids_ld;
    const void *wte; /* [V,C] */
    const void *wpe; /* [>=T,C], from the position of t = 0 on, or NULL */
    void *out;       /* [B,T,C] */
};

/* dwte[id,:] (+)= scale * dout, dwpe[first + t,:] (+)= sum over batch; tokens in order, or parts of
 * fixed length of that order in order, so the bits are fixed.
 * Without accumulate all of dwte [V,C] and of dwpe [positions,C] is written: rows of positions that
 * no token has are zeroed.  Tokens with ids that a `partial` table lacks add to dwpe alone. */
struct ds_embed_bwd_args {
    size_t batch, seq, channels, vocab, positions;
    size_t first; /* position of t = 0 */
    size_t first_id;
    bool partial;
    enum ds_dtype act;
    float scale; /* 0: 1 */
    const int32_t *ids;
    size_t ids_ld;
    const void *dout;
    float *dwte, *dwpe; /* dwpe NULL when there are no learned positions */
    bool accumulate_wte, accumulate_wpe;
};

/* kind LAYER: y = (x - mean) * rstd * weight + bias;  RMS: y = x * rstd * weight (+ residual).
 * rstd = 1 / sqrt(var + eps), var over the row (RMS: mean of squares).  y may be the residual.
 * Rows of x, y and residual lie `ld` elements apart: then a norm is of some columns of a row. */
enum ds_norm_kind { DS_NORM_LAYER, DS_NORM_RMS };
struct ds_norm_fwd_args {
    size_t rows, channels;
    size_t ld; /* 0: C */
    enum ds_norm_kind kind;
    float eps;
    enum ds_dtype act, param;
    const void *x;             /* [rows,C] */
    const void *weight, *bias; /* [C]; bias NULL for RMS */
    const void *residual;      /* (optional) [rows,C], of RMS */
    void *y;                   /* [rows,C] */
    float *mean, *rstd;        /* [rows]; mean NULL for RMS */
};

/* dx = (dres ? dres : 0) + gradient through the norm; dx may be dres or dy.  `ld` as above, of dy,
 * x, dres and dx. */
struct ds_norm_bwd_args {
    size_t rows, channels;
    size_t ld; /* 0: C */
    enum ds_norm_kind kind;
    enum ds_dtype act, param;
    const void *dy, *x, *weight;
    const float *mean, *rstd;
    const void *dres;
    void *dx;
    float *dweight, *dbias; /* dbias NULL for RMS */
    bool accumulate;        /* of dweight and dbias */
};

/* RMS norm of each query and key head in packed rows [NH*HS queries | NK*HS keys | NK*HS values]:
 *   y[r,h,:] = x[r,h,:] * rstd[r,h] * weight, of queries and of keys; values are copied
 *   rstd = 1 / sqrt(mean of squares of the head + eps) */
struct ds_head_norm_fwd_args {
    size_t rows, heads, kv_heads, head_size;
    float eps;
    enum ds_dtype act, param;
    const void *x;                   /* [rows, (NH + 2 NK) * HS] */
    const void *q_weight, *k_weight; /* [HS] */
    void *y;                         /* as x; not x */
    float *rstd;                     /* [rows, NH + NK] */
};

/* dx from dy, which it may be; values' gradients are copied (nothing to do where dx is dy).
 * dq_weight[HS] (+)= sum over rows and query heads of dy * x * rstd, dk_weight the same of key
 * heads. */
struct ds_head_norm_bwd_args {
    size_t rows, heads, kv_heads, head_size;
    enum ds_dtype act, param;
    const void *dy, *x;
    const void *q_weight, *k_weight;
    const float *rstd;
    void *dx; /* not x */
    float *dq_weight, *dk_weight;
    bool accumulate; /* of both */
};

/* Rotate pairs (i, i + D/2) of each head of x in place by position times frequency i, which is
 * theta^(-2i/D), stretched as `scale` says (rope.h), which may give cosines and sines a factor;
 * `inverse` rotates back, times the same factor (the backward pass); t = 0 has position `first`.
 * D is HS, or `turned`: what is behind the first so many elements of a head stays.
 * x is [B,T,heads,HS] inside rows of `ld` elements: for a packed qkv row, heads = NH + NK and
 * ld = (NH + 2 NK) * HS. */
struct ds_rope_args {
    size_t batch, seq, heads, head_size, ld;
    size_t turned; /* 0: HS */
    size_t first;
    enum ds_dtype act;
    float theta;
    struct ds_rope_scale scale;    /* zeroed: as they are */
    const struct ds_numbers *each; /* of LONGROPE: a factor for each pair; the host's */
    bool inverse;
    void *x;
};

/* Dropout of attention weights, after the softmax, as ds_dropout_args drops elements.  Of query t
 * of head h in sequence b the weight of key j has word j % 4 of the Philox block with counter
 * ((((first + b) NH + h) T + t) ceil(T / 4) + j / 4, stream), modulo 2^64: a row begins with a
 * block, and a weight has one number in both passes and in any tiling.  rate 0: none.
 * Where a call has some of an attention's heads only, NH is `heads` and h counts from `head`. */
struct ds_attention_drop {
    double rate; /* in [0, 1) */
    uint64_t seed, stream, first;
    size_t heads, head; /* 0, 0: the call has all */
};

/* Causal attention over packed rows qkv[b,t] = [NH*HS queries | NK*HS keys | NK*HS values],
 * query head h uses key/value head h / (NH/NK).  out [B,T,NH,HS]; lse[b,h,t] = log of the sum of
 * exp(scale * q k) over the visible keys, kept for the backward pass.  Never stores T x T.
 *
 * With `low` query t of a sequence sees keys low[b,t] .. t alone: low <= t, and no less than that
 * of the query before.  Where it is not so every query sees itself, and of the others any. */
struct ds_attention_fwd_args {
    size_t batch, seq, heads, kv_heads, head_size;
    enum ds_dtype act;
    float scale; /* 1 / sqrt(HS) */
    struct ds_attention_drop drop;
    const uint32_t *low; /* (optional) [B,T] */
    const void *qkv;
    void *out;
    float *lse; /* [B,NH,T] */
};

/* dqkv (all of it is written) from dout, and what the forward pass read and wrote. */
struct ds_attention_bwd_args {
    size_t batch, seq, heads, kv_heads, head_size;
    enum ds_dtype act;
    float scale;
    struct ds_attention_drop drop; /* that of the forward pass */
    const uint32_t *low;           /* (optional) so, too */
    const void *qkv, *out, *dout;
    const float *lse;
    void *dqkv;
};

/* The same for rows first .. first + T - 1 of one sequence against all rows so far: their keys and
 * values, of type act, are put into a cache that has those of the rows before, and each row sees
 * what is in it up to its own, or the last `window` of that.  The cache has room
 * for `room` rows, a multiple of DS_CACHE_TILE:
 *   keys     [NK, room / DS_CACHE_TILE, HS, DS_CACHE_TILE]: tiles whose columns are keys
 *   values   [NK, room, HS]
 * What is behind the last row is neither read as a number nor written. */
enum { DS_CACHE_TILE = 64 };
struct ds_attention_cached_args {
    size_t seq, first, room, heads, kv_heads, head_size;
    size_t window; /* keys that a row sees, its own among them; 0: all */
    enum ds_dtype act;
    float scale;
    const void *qkv; /* [T, (NH + 2 NK) * HS] */
    void *keys, *values;
    void *out; /* [T, NH, HS] */
};

/* y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), n elements; or 0.5 x (1 + erf(x / sqrt(2))),
 * of which that is nearly the same. */
enum ds_gelu { DS_GELU_TANH, DS_GELU_ERF };
struct ds_gelu_fwd_args {
    size_t n;
    enum ds_gelu kind;
    enum ds_dtype act;
    const void *x;
    void *y;
};
/* dx = dy * gelu'(x); dx may be dy. */
struct ds_gelu_bwd_args {
    size_t n;
    enum ds_gelu kind;
    enum ds_dtype act;
    const void *x, *dy;
    void *dx;
};

/* y[r,f] = silu(gate) * up with x[r] = [F gates | F ups]; or gelu(gate) * up, as ds_gelu_fwd() has
 * it.  With `largest` both find that of what they write, as ds_largest() does. */
enum ds_gate { DS_GATE_SILU, DS_GATE_GELU };
struct ds_swiglu_fwd_args {
    size_t rows, ffn;
    enum ds_gate gate;
    enum ds_dtype act;
    const void *x;     /* [rows,2F] */
    void *y;           /* [rows,F] */
    uint32_t *largest; /* (optional) */
};
struct ds_swiglu_bwd_args {
    size_t rows, ffn;
    enum ds_gate gate;
    enum ds_dtype act;
    const void *x, *dy;
    void *dx;          /* [rows,2F]; may be x */
    uint32_t *largest; /* (optional) */
};

/* y = (kept ? factor x / (1 - rate) : 0) + (residual ? residual : 0), n elements; y may be x or
 * residual.  With rate 0 no number is drawn.
 * Element i is kept unless word e % 4 of the Philox block with counter (e / 4, stream) and key
 * `seed`, e = first + i, is below rate * 2^32; base/rng.h.  So the same elements are kept wherever
 * and in whatever pieces they are computed, and the backward pass is the same call on gradients.
 * With `row` the elements are rows, parts of rows of `ld`: e = first + i / row * ld + i % row. */
struct ds_dropout_args {
    size_t n;
    size_t row, ld; /* ld >= row; 0, 0: one row */
    enum ds_dtype act;
    double rate;   /* in [0, 1) */
    double factor; /* 0: 1 */
    uint64_t seed, stream, first;
    const void *x, *residual;
    void *y;
};

/* Where ranks share the columns of logits, what one's columns say of a row: the largest logit; the
 * sum of exp(logit - most), 0 where all are -INFINITY; the target's logit, or NaN where it is not
 * among the columns.  A logit that is NaN or +INFINITY makes the sum NaN. */
struct ds_xent_row {
    float most, sum, wanted;
};
struct ds_xent_part_args {
    size_t rows, vocab; /* columns, which may be fewer than ld has room for */
    enum ds_dtype logits_type;
    const void *logits;
    size_t ld;
    const int32_t *targets;  /* [rows], of the whole */
    size_t first_id;         /* of the first column */
    struct ds_xent_row *out; /* [rows] */
};

/* In the place of a target: the row has none. */
enum { DS_NO_TARGET = -1 };

/* Softmax cross-entropy on a chunk of rows: losses[r] = log sum exp(logits[r]) - logits[r][target],
 * in nats.  With dlogits: (softmax - onehot) * grad_scale of type `act`; it may be the logits' own
 * memory when those are of that type.  logits are F32 or of type act, [rows, ld]; all between them
 * and the results is F32.
 *
 * A row whose target is DS_NO_TARGET has loss 0 and gradients 0, whatever its logits are.
 *
 * With `parts` the logits are columns first_id .. first_id + vocab - 1 of the whole, and losses are
 * those of the whole, with the same bits on every rank: parts are added in the order of ranks. */
struct ds_xent_args {
    size_t rows, vocab;
    enum ds_dtype act, logits_type;
    const void *logits;
    size_t ld;              /* of logits; dlogits has ld `dld` */
    const int32_t *targets; /* [rows] */
    float *losses;          /* [rows] */
    void *dlogits;          /* or NULL: loss only */
    size_t dld;
    float grad_scale;
    const float *grad_scale_at; /* (optional) where it is read instead, when the chunk is done */
    const struct ds_xent_row *parts; /* (optional) [ranks,rows]; without, what follows is 0 */
    size_t ranks, each;              /* column c of the whole is rank c / each's */
    size_t first_id;                 /* a multiple of each */
    size_t columns;                  /* of dlogits, >= vocab; those behind vocab are zeroed */
};

/* *sum (+)= sum of x[n], in double. */
struct ds_sum_args {
    size_t n;
    const float *x;
    double *sum;
    bool accumulate;
};

/* y[n] += x[n].  On the CPU by the calling thread alone, which need not be the stream's. */
struct ds_add_args {
    size_t n;
    const float *x;
    float *y;
};

/* *sum = sum of squares of x[n] in double over fixed chunks of DS_SUMSQ_CHUNK, chunk sums added in
 * an order that n gives; *nonfinite = how many elements are NaN or infinite (they do not enter the
 * sum); *place = base + the index of the first of them, DS_NOWHERE when there is none. */
enum { DS_SUMSQ_CHUNK = 16384 };
struct ds_sumsq_args {
    size_t n;
    const float *x;
    double *sum;
    uint64_t *nonfinite;
    uint64_t *place; /* or NULL */
    uint64_t base;
};

/* What a step came to on this rank, into *entry: sums of losses and of ds_load_peak(), and
 * part[parts] of what ds_sumsq() made, added in their order.  Places of the first `own` parts are
 * of kind 0, of the others of kind 1. */
struct ds_tally_args {
    size_t parts, own;
    const double *loss, *peaks;
    const struct ds_part *part;
    uint64_t hash;
    bool stop, writing;
    struct ds_entry *entry;
};

/* entry[ranks] becomes *verdict, by verdict.h; what is in entry after it is of no use.  *before is
 * the verdict of the step before. */
struct ds_verdict_args {
    size_t ranks;
    struct ds_entry *entry;
    const struct ds_verdict *before;
    struct ds_step_size size;
    double clip;
    struct ds_scale_rule rule;
    struct ds_verdict *verdict; /* not `before` */
    float *loss_factor; /* (optional) [DS_LOSS_FACTORS] get the next step's, if all are targets */
};

/* x[0][n] += all other rows of x[ranks][n], along the tree of verdict.h; what is in those after it
 * is of no use. */
struct ds_rank_sum_args {
    size_t ranks, n;
    double *x;
};

/* y = alpha * x, and beta added on the diagonal.  x, y [rows, cols] dense; y may be x.  With
 * `squares`, which ds_sumsq() has made, alpha is first divided by sqrt(*squares) + eps, in double:
 * a matrix is divided by its norm where it lies. */
struct ds_affine_args {
    size_t rows, cols;
    const float *x;
    float *y;
    double alpha, beta;
    const double *squares; /* or NULL */
    double eps;
};

/* n elements from one type to another of F32, BF16 and F16, or the same. */
struct ds_cast_args {
    size_t n;
    enum ds_dtype from, to;
    const void *x;
    void *y;
};

/* Runs of bytes in another order: run (i, j) of outer x inner goes from `from` + i from_outer +
 * j from_inner to `to` + i to_outer + j to_inner.  All are bytes; runs of `to` lie apart, and apart
 * from those of `from`. */
struct ds_reorder_args {
    size_t outer, inner, run;
    size_t from_outer, from_inner, to_outer, to_inner;
    const void *from;
    void *to;
};

/* *largest = the largest of the magnitudes of n elements, as the bits of an F32, by which numbers
 * are ordered: what is infinite, and then NaN, is above all others. */
struct ds_largest_args {
    size_t n;
    enum ds_dtype act; /* of x */
    const void *x;
    uint32_t *largest;
};

/* Codes of FP8 of x[rows,cols] times a power of two, and *scale, by which codes are multiplied to
 * have x back: x's largest element, which ds_largest() has found, decides both.  `turned` has the
 * rows as columns.  Where an element is not finite *scale is NaN.  Codes are aligned to
 * DS_FP8_UNIT. */
struct ds_fp8_cast_args {
    size_t rows, cols; /* multiples of DS_FP8_UNIT */
    enum ds_dtype act; /* of x */
    enum ds_fp8 type;
    const void *x;
    uint8_t *codes;  /* [rows,cols], or NULL */
    uint8_t *turned; /* [cols,rows], or NULL */
    const uint32_t *largest;
    float *scale;
};

struct ds_stream; /* where operations run; kernels/device.h */

/* One const instance per backend; a NULL slot means ENOTSUP. */
struct ds_kernels {
    const char *name;
#define X(id, fn) int (*fn)(const struct ds_##fn##_args *, struct ds_stream *, struct ds_error *);
    DS_OPS(X)
#undef X
};

/* The checked entries: int ds_matmul(const struct ds_matmul_args *, stream, err), ... */
#define X(id, fn)                                                                                  \
    int ds_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream, struct ds_error *err) \
        DS_NODISCARD;
DS_OPS(X)
#undef X

const char *ds_op_name(enum ds_op op);

#endif
