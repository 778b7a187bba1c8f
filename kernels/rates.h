/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rates.h - how fast a device computes and remembers: what the cost model of a plan needs to know.
 *
 * Measured on a small and a middling layer, run as a step runs them, each as the mean of some
 * rounds without their least and their most; a rate of a product is the one that it would have with
 * endless extents, matmul_half the extent at which it has half of that, attention_half the length
 * of a sequence.
 *
 * Units   FLOP/s, bytes/s (read and written together), microseconds.
 * Tests   tests/kernels/test_rates.c
 */
#ifndef DS_KERNELS_RATES_H
#define DS_KERNELS_RATES_H

#include "base/error.h"
#include "kernels/device.h"

struct ds_layer_rates { /* in one type */
    double flops, matmul_half;
    double attention, attention_half; /* forward and backward together */
    double pointwise;                 /* norms and activations, forward and backward */
};

struct ds_rates {
    struct ds_layer_rates fp32, bf16;
    double bandwidth; /* of a copy of memory that fits in no cache */
    double update;    /* AdamW */
    double random;    /* words per second of dropout on what fits in a cache */
    double launch_us;
};

/* Ranks that measure at the same time.  How long the slowest of them takes says what a step loses
 * where they wait for each other. */
enum { DS_RATES_ROUNDS = 60 };
struct ds_rates_peers {
    int (*meet)(void *user, struct ds_error *err); /* called before each round by all of them */
    void *user;
    double pass_s[DS_RATES_ROUNDS]; /* of this rank, one pass of a layer in each round; written */
    double round_s;                 /* the time of a round; written */
};

/* Scratch that the device must have been opened with. */
size_t ds_rates_scratch_bytes(unsigned threads);

/* Takes some seconds.  -ENOMEM, or what an operation or meet() returns.  peers NULL: alone. */
int ds_rates_measure(struct ds_device *device, struct ds_rates_peers *peers, struct ds_rates *rates,
                     struct ds_error *err) DS_NODISCARD;

/* The two numbers that give work of extents `small` and `large` the rates measured: with
 * 1 / rate = (1 + half / extent) / flops.  Where a disturbed measurement leaves none, or `flops`
 * beyond DS_RATES_FIT_MOST times the large one's rate, that and the `half` that keeps the large
 * one's rate.  Pure. */
#define DS_RATES_FIT_MOST 4.0
void ds_rates_fit(double small, double rate_small, double large, double rate_large, double *flops,
                  double *half);

#endif
