/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * optim.h - arguments of the operations that update parameters; a part of op.h.
 *
 * One pass over n elements, LAMB and Muon in two.
 *
 * In all of them g = grad * grad_scale, grad is F32, BF16 or F16, and when p_low is given the new p
 * is also written there, rounded to `low_type` (BF16 or F16).  An element's new value depends on
 * nothing but that element, so a range may be cut into any pieces.  Constants are worked out in
 * double and rounded to F32 once.
 *
 * With `verdict`, which is read when the operation is done and not before, grad_scale is the
 * verdict's, nothing is touched where it says skip, and where it says behind the biases are those
 * behind.
 */
#ifndef DS_KERNELS_OPTIM_H
#define DS_KERNELS_OPTIM_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/dtype.h"
#include "kernels/verdict.h"

/* Adam: m, v updated; then, with bias1 = 1 - beta1^t and bias2 = 1 - beta2^t for the t-th update, t
 * from 1 (given by the caller in double),
 *   AdamW     p = p - lr * weight_decay * p - lr * (m / bias1) / (sqrt(v / bias2) + eps)
 *   l2: Adam  the same without decay of p; g = g + weight_decay * p comes first. */
struct ds_adamw_args {
    size_t n;
    float *p, *m, *v;
    enum ds_dtype grad_type;
    const void *grad;
    enum ds_dtype low_type;
    void *p_low; /* or NULL */
    double lr, beta1, beta2, eps, weight_decay, grad_scale;
    bool l2;
    double bias1, bias2;
    const struct ds_verdict *verdict;  /* (optional) */
    double behind_bias1, behind_bias2; /* with it: of the update before */
};

/* g = g + weight_decay * p; m = momentum * m + g; p = p - lr * (nesterov ? g + momentum * m : m).
 * m NULL: p = p - lr * g.  PyTorch's SGD without dampening. */
struct ds_sgd_args {
    size_t n;
    float *p, *m;
    enum ds_dtype grad_type;
    const void *grad;
    enum ds_dtype low_type;
    void *p_low;
    double lr, momentum, weight_decay, grad_scale;
    bool nesterov;
    const struct ds_verdict *verdict;
};

/* p = p - lr * weight_decay * p - lr * sign(beta1 * m + (1 - beta1) * g), where sign(0) is 0;
 * m = beta2 * m + (1 - beta2) * g. */
struct ds_lion_args {
    size_t n;
    float *p, *m;
    enum ds_dtype grad_type;
    const void *grad;
    enum ds_dtype low_type;
    void *p_low;
    double lr, beta1, beta2, weight_decay, grad_scale;
    const struct ds_verdict *verdict;
};

/* g = g + weight_decay * p; v = v + g^2; p = p - lr * g / (sqrt(v) + eps). */
struct ds_adagrad_args {
    size_t n;
    float *p, *v;
    enum ds_dtype grad_type;
    const void *grad;
    enum ds_dtype low_type;
    void *p_low;
    double lr, eps, weight_decay, grad_scale;
    const struct ds_verdict *verdict;
};

/* LAMB, first pass: m, v as in Adam, and with
 *   u = (m / bias1) / (sqrt(v / bias2) + eps) + weight_decay * p
 * sums of the squares of p and u, made as ds_sumsq() makes them; 0 where a verdict says skip. */
struct ds_lamb_moments_args {
    size_t n;
    const float *p;
    float *m, *v;
    enum ds_dtype grad_type;
    const void *grad;
    double beta1, beta2, eps, weight_decay, grad_scale;
    double bias1, bias2;
    double *p_sumsq, *u_sumsq;
    const struct ds_verdict *verdict;
    double behind_bias1, behind_bias2;
};

/* Second pass: p = p - lr * ratio * u.  The ratio is ||p|| / ||u|| of the whole tensor, from the
 * squares of both, which are read when the operation is done; it is 1 where one of them is 0. */
struct ds_lamb_args {
    size_t n;
    float *p;
    const float *m, *v;
    enum ds_dtype low_type;
    void *p_low;
    double lr, eps, weight_decay;
    double bias1, bias2;
    const double *p_sumsq, *u_sumsq;
    const struct ds_verdict *verdict; /* of which grad_scale is not used */
    double behind_bias1, behind_bias2;
};

/* Muon, before its direction is made orthogonal:
 *   m = momentum * m + (1 - momentum) * g
 *   u = nesterov ? (1 - momentum) * g + momentum * m : m      what u held before is not used */
struct ds_muon_moments_args {
    size_t n;
    float *m, *u;
    enum ds_dtype grad_type;
    const void *grad;
    double momentum, grad_scale;
    bool nesterov;
    const struct ds_verdict *verdict;
};

/* And after: p = p - lr * weight_decay * p - step * x, element by element. */
struct ds_muon_args {
    size_t n;
    float *p;
    const float *x;
    enum ds_dtype low_type;
    void *p_low; /* or NULL */
    double lr, weight_decay, step;
    const struct ds_verdict *verdict; /* of which nothing but skip is used */
};

#endif
