/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts.h - arguments of the operations on layers whose feed-forward block is many experts, of
 * which each row is given to a few; the list of operations and what all have in common is op.h.
 *
 * Each of N rows is given to `each` of E experts.  So there are R = N * each pairs of a row and one
 * of its experts; pair p is of row p / each.  Experts work on pairs sorted by expert, and by p
 * where that is the same: what is sorted has R rows, whatever the router decides, and shapes never
 * depend on numbers.  Nothing is dropped.
 *
 *   source[R]    the pair that a sorted row is
 *   place[R]     the sorted row that a pair is; the inverse
 *   offset[E+1]  expert e has sorted rows offset[e] .. offset[e + 1] - 1, which may be none;
 *                offset[0] = 0, offset[E] = R
 *
 * They are in the device's memory and read when the operation runs.  A backend must not read or
 * write outside its arrays whatever is in them.
 *
 * Tests   tests/kernels/test_experts.c, test_route.c
 */
#ifndef DS_KERNELS_EXPERTS_H
#define DS_KERNELS_EXPERTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h" /* DS_MAX_EXPERTS, DS_MAX_EXPERTS_EACH */
#include "kernels/dtype.h"

/* probs[n,:] = softmax(logits[n,:]); a row is given to the `each` experts with the largest logits,
 * the largest first, of equal ones the lower number (NaN is below all others: what is given is
 * always `each` different experts).  weight of a pair = the softmax over the logits of its row's
 * experts alone, put at the pair's sorted row.
 * load[b,e] = pairs of expert e in rows b * seq .. (b + 1) * seq - 1. */
struct ds_route_args {
    size_t batch, seq; /* N = batch * seq */
    size_t experts, each;
    const float *logits; /* [N,E] */
    float *probs;        /* [N,E]; may be logits */
    uint32_t *chosen;    /* [R]: the expert of a pair */
    uint32_t *source, *place, *offset;
    float *weight; /* [R], of sorted rows */
    float *load;   /* [batch,E] */
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
    enum ds_dtype act;  /* of dlogits */
    const float *probs; /* [N,E] */
    const uint32_t *chosen, *place;
    const float *weight;  /* [R], of sorted rows */
    const float *dweight; /* [R], of sorted rows */
    const float *load;    /* [batch,E] */
    float balance;        /* 0: no such loss */
    float grad_scale;
    const float *grad_scale_at; /* (optional) where it is read instead */
    void *dlogits;              /* [N,E] of type act */
};

/* y[r,:] = x[source[r] / each,:] for R sorted rows. */
struct ds_rows_take_args {
    size_t rows, each, channels; /* N; R = N * each */
    enum ds_dtype act;
    const uint32_t *source; /* [R] */
    const void *x;          /* [N,C] */
    void *y;                /* [R,C] */
};

/* y[n,:] = (residual ? residual[n,:] : 0) + sum over j in order of x[place[n * each + j],:], in F32
 * and rounded once. */
struct ds_rows_sum_args {
    size_t rows, each, channels;
    enum ds_dtype act;
    const uint32_t *place; /* [R] */
    const void *x;         /* [R,C] */
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
    size_t rows, experts, in, out; /* rows: R */
    enum ds_experts_product product;
    enum ds_dtype act;          /* of x, y, and of the weights but with BWD_W */
    const uint32_t *offset;     /* [E+1] */
    const void *x, *y, *weight; /* what is read */
    void *to;                   /* what is written: y, x or the weights' gradient */
    bool accumulate;            /* BWD_W */
};

/* SwiGLU of rows that have a weight: y[r,f] = weight[r] * silu(gate) * up. */
struct ds_swiglu_rows_fwd_args {
    size_t rows, ffn;
    enum ds_dtype act;
    const void *x;       /* [rows,2F], as of ds_swiglu_fwd() */
    const float *weight; /* [rows] */
    void *y;             /* [rows,F] */
};
/* dweight[r] = sum over f of dy[r,f] * silu(gate) * up. */
struct ds_swiglu_rows_bwd_args {
    size_t rows, ffn;
    enum ds_dtype act;
    const void *x, *dy;
    const float *weight;
    void *dx;       /* [rows,2F]; may be x */
    float *dweight; /* [rows] */
};

#endif
