/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rates.h - how fast a device computes and remembers: what the cost model of a plan needs to know.
 *
 * Measured on the shapes of small and middling models, each as the median of some runs; a rate of
 * a product is the one that it would have with endless extents, matmul_half the extent at which it
 * has half of that.
 *
 * Units   FLOP/s, bytes/s (read and written together), microseconds.
 * Tests   tests/kernels/test_rates.c
 */
#ifndef DS_KERNELS_RATES_H
#define DS_KERNELS_RATES_H

#include "base/error.h"
#include "kernels/device.h"

struct ds_rates {
    double flops_fp32, flops_bf16, matmul_half;
    double attention_fp32, attention_bf16; /* forward and backward together */
    double bandwidth;                      /* of a copy of memory that fits in no cache */
    double pointwise; /* norms and activations, forward and backward, as large as a step's */
    double update;    /* AdamW */
    double random;    /* words per second of dropout on what fits in a cache */
    double launch_us;
};

/* Scratch that the device must have been opened with. */
size_t ds_rates_scratch_bytes(unsigned threads);

/* Takes some seconds.  -ENOMEM, or what an operation returns. */
int ds_rates_measure(struct ds_device *device, struct ds_rates *rates, struct ds_error *err)
    DS_NODISCARD;

/* The two numbers that give products of extents `small` and `large` the rates measured: with
 * 1 / rate = (1 + half / extent) / flops.  Pure. */
void ds_rates_fit(double small, double rate_small, double large, double rate_large, double *flops,
                  double *half);

#endif
