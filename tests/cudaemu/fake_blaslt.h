/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake_blaslt.h - a stand-in for cuBLASLt that computes on the CPU, and a clock for it.
 *
 * It dies of what the library would not survive or would quietly do wrong: matrices that do not fit
 * together, leading dimensions that are too short, operands aligned worse than was said when the
 * algorithm was chosen, too small a workspace, a sum in place with two layouts, an epilogue without
 * its pointers or with an algorithm for another.  A product writes all of its workspace.  It
 * proposes FAKE_PROPOSALS algorithms, of which the last but one is the fastest on the clock; each
 * needs a workspace of its own size.  It refuses what the library's headers rule out: GELU's matrix
 * with rows that are no multiple of 8 or too short, GELU of a D that is not of A's type; the
 * gradient of a bias from a transposed A; and FP8 as Hopper has not.
 */
#ifndef DS_TESTS_CUDAEMU_FAKE_BLASLT_H
#define DS_TESTS_CUDAEMU_FAKE_BLASLT_H

#include "kernels/cuda/matmul.h"

enum { FAKE_PROPOSALS = 4, FAKE_FASTEST = 2 };

struct fake_blaslt {
    unsigned calls;     /* that can fail, so far */
    unsigned fail_at;   /* the call of that number, from 1; 0: none */
    int fail_with;      /* status, or CUDA error */
    int live;           /* handles, descriptors, events and memory that are not given back */
    unsigned proposals; /* at most; 0: all */
    unsigned unfit;     /* bits: proposals with a bad status */
    unsigned broken;    /* bits: algorithms that do not run */
    unsigned strays;    /* bits: algorithms whose results have other last bits */
    unsigned products, ran[FAKE_PROPOSALS];
    unsigned epilogues; /* products with GELU or the gradient of a bias */
    float epilogue_ms;  /* how much longer they take on the clock */
    uint32_t lacks;     /* an epilogue that is not supported */
    int compute;        /* type of the last product */
    int fast;           /* did it allow short sums? */
};

extern struct fake_blaslt fake_blaslt;

/* The functions, without loading a library. */
extern const struct ds_blaslt fake_blaslt_calls;
extern const struct ds_cuda_timer fake_timer;

#endif
