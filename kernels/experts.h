/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts.h - arguments of the operations on layers whose feed-forward block is many experts, of
 * which each row is given to a few; the list of operations and what all have in common is op.h.
 *
 * Each of N rows is given to `each` of E experts.  So there are R = N * each pairs of a row and one
 * of its experts; pair p is of row p / each.  H of the experts are here, those from `first` on, and
 * work on the pairs that are theirs, sorted by expert, and by p where that is the same.
 *
 * Sorted rows have room for S, and shapes never depend on numbers: how many there are only the
 * device knows.  With S = N * min(each, H) nothing is dropped, whatever the router decides, as the
 * experts of a row differ; where all experts are here all R pairs have a sorted row.
 *
 *   source[S]    the pair that a sorted row is
 *   place[R]     the sorted row that a pair is; DS_NO_ROW of one whose expert is not here
 *   offset[H+1]  expert first + i has sorted rows offset[i] .. offset[i + 1] - 1, maybe none;
 *                offset[0] = 0, offset[H] <= S is the number of all
 *
 * They are in the device's memory and read when the operation runs.  A backend must not read or
 * write outside its arrays whatever is in them.  Sorted rows behind the last are neither read nor
 * written.
 *
 * Tests   tests/kernels/test_experts.c, test_pairs.c, test_route.c
 */
#ifndef DS_KERNELS_EXPERTS_H
#define DS_KERNELS_EXPERTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h" /* DS_MAX_EXPERTS, DS_MAX_EXPERTS_EACH */
#include "kernels/dtype.h"

#define DS_NO_ROW UINT32_MAX

/* probs[n,:] = softmax(logits[n,:]); a row is given to the `each` experts with the largest logits,
 * the largest first, of equal ones the lower number (NaN is below all others: what is given is
 * always `each` different experts).  weight of a pair = the softmax over the logits of its row's
 * experts alone.
 * load[b,e] = pairs of expert e in rows b * seq .. (b + 1) * seq - 1. */
struct ds_route_args {
    size_t batch, seq; /* N = batch * seq */
    size_t experts, each;
    const float *logits; /* [N,E] */
    float *probs;        /* [N,E]; may be logits */
    uint32_t *chosen;    /* [R]: the expert of a pair */
    float *weight;       /* [R]: of a pair */
    float *load;         /* [batch,E] */
};

/* The order of the pairs whose experts are here; others, and those of experts that there are not,
 * have no row.  `chosen` may come from other ranks and say anything: where more than S pairs are
 * here, the last ones in their order have no row either, and offsets end at S. */
struct ds_sort_pairs_args {
    size_t rows, each;           /* R = rows * each */
    size_t experts, first, held; /* E; H of them are here */
    size_t sorted;               /* S */
    const uint32_t *chosen;      /* [R], as of ds_route() */
    uint32_t *source;            /* [S]; as far as there are rows */
    uint32_t *place;             /* [R] */
    uint32_t *offset;            /* [H+1] */
};

/* *sum += for each sequence, how many times its part the expert with the most pairs has: the
 * largest of load[b,.] times E over the sum of load[b,.].  1 where all have the same number. */
struct ds_load_peak_args {
    size_t batch, experts;
    const float *load; /* [batch,E], some of each row above 0 */
    double *sum;
};

/* dlogits from the gradient of the weights, and from a loss that asks for balance.
 *   of row n's experts c_0 .. c_each-1 with weights w_j and their gradients d_j:
 *     dlogits[n,c_j] = w_j (d_j - sum_i w_i d_i); 0 of all others
 *   and, with share[e] = load[b,e] / (sequence * each) of the row's b:
 *     dlogits[n,e] += balance * grad_scale * E * probs[n,e] (share[e] - sum_i share[i] probs[n,i])
 * which is the gradient of  balance * grad_scale * sequence * (sum over b of
 * E * sum over e of share[b,e] * mean over a sequence's rows of probs[.,e]), shares being taken as
 * constants (Fedus et al. 2021, "Switch Transformers", of each sequence by itself). */
struct ds_route_bwd_args {
    size_t batch, seq; /* rows of a sequence that are here */
    size_t sequence;   /* rows of it that load has counted, >= seq */
    size_t experts, each;
    enum ds_dtype act;      /* of dlogits */
    const float *probs;     /* [N,E] */
    const uint32_t *chosen; /* [R] */
    const float *weight;    /* [R] */
    const float *dweight;   /* [R] */
    const float *load;      /* [batch,E] */
    float balance;          /* 0: no such loss */
    float grad_scale;
    const float *grad_scale_at; /* (optional) where it is read instead */
    void *dlogits;              /* [N,E] of type act */
};

/* y[r,:] = x[source[r] / each,:] for the sorted rows that there are, min(*count, S). */
struct ds_rows_take_args {
    size_t rows, each, channels; /* N; R = N * each */
    size_t sorted;               /* S */
    enum ds_dtype act;
    const uint32_t *source; /* [S] */
    const uint32_t *count;  /* as offset[H] is */
    const void *x;          /* [N,C] */
    void *y;                /* [S,C] */
};

/* y[n,:] = (residual ? residual[n,:] : 0) + sum over j in order of x[place[n * each + j],:], in F32
 * and rounded once; of pairs without a row nothing is added.
 * Without `place` x has parts of `each` ranks, at most DS_MAX_RANKS, one behind another, and that
 * of row n are x[j * N + n,:]. */
struct ds_rows_sum_args {
    size_t rows, each, channels;
    size_t sorted; /* S; with place */
    enum ds_dtype act;
    const uint32_t *place; /* [R], or NULL */
    const void *x;         /* [S,C]; without place [each,N,C] */
    const void *residual;  /* [N,C], or NULL; may be y */
    void *y;               /* [N,C] */
};

/* The products of sorted rows with their expert's matrix W_e [out,in], at `weight` + e * out * in:
 *   FWD    y[r,:] = W_e x[r,:]
 *   BWD_X  x[r,:] = W_e^T y[r,:]          (x and y are gradients here)
 *   BWD_W  W_e (+)= sum over the expert's rows of y[r,:] x[r,:]^T; y a gradient, W_e one, of F32
 * An expert without rows has zeros for BWD_W, or nothing added. */
enum ds_experts_product { DS_EXPERTS_FWD, DS_EXPERTS_BWD_X, DS_EXPERTS_BWD_W };
struct ds_experts_matmul_args {
    size_t rows, experts, in, out; /* S; H, those that are here */
    enum ds_experts_product product;
    enum ds_dtype act;          /* of x, y, and of the weights but with BWD_W */
    const uint32_t *offset;     /* [H+1] */
    const void *x, *y, *weight; /* what is read */
    void *to;                   /* what is written: y, x or the weights' gradient */
    bool accumulate;            /* BWD_W */
};

/* SwiGLU of sorted rows, which have the weight of their pair:
 * y[r,f] = weight[source[r]] * silu(gate) * up, for min(*count, S) rows. */
struct ds_swiglu_rows_fwd_args {
    size_t rows, pairs, ffn; /* S, R */
    enum ds_dtype act;
    const uint32_t *source; /* [S] */
    const uint32_t *count;  /* as offset[H] is */
    const void *x;          /* [S,2F], as of ds_swiglu_fwd() */
    const float *weight;    /* [R] */
    void *y;                /* [S,F] */
};
/* dweight[source[r]] = sum over f of dy[r,f] * silu(gate) * up; that of pairs without a row stays
 * as it is. */
struct ds_swiglu_rows_bwd_args {
    size_t rows, pairs, ffn;
    enum ds_dtype act;
    const uint32_t *source, *count;
    const void *x, *dy;
    const float *weight;
    void *dx;       /* [S,2F]; may be x */
    float *dweight; /* [R] */
};

#endif
