/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake_cudnn.h - a stand-in for cuDNN's C interface that computes what a graph of operations says.
 *
 * It knows no attention: it goes through the operations in double, one after the other, and rounds
 * what a tensor keeps to the type that it was given.  So a graph that is not attention computes
 * something else.  It dies of what the library refuses or would not survive: attributes that a
 * descriptor has not, of another type or number; parts that are not final; tensors that are read
 * before an operation has written them, or written twice; shapes that do not fit together; a run
 * that lacks a tensor, or has one that is aligned worse than was said; too small a workspace.  A run
 * writes all of its workspace.
 */
#ifndef DS_TESTS_CUDAEMU_FAKE_CUDNN_H
#define DS_TESTS_CUDAEMU_FAKE_CUDNN_H

#include "kernels/cuda/cudnn.h"

struct fake_cudnn {
    unsigned calls;    /* that can fail, so far */
    unsigned fail_at;  /* the call of that number, from 1; 0: none */
    int fail_with;     /* status */
    int live;          /* handles and descriptors that are not given back */
    size_t version;    /* 0: 91900 */
    unsigned configs;  /* that the heuristic names; 0: 2 */
    unsigned unfit;    /* bits: configurations that have no plan */
    unsigned wavering; /* bits: engines that say that they are not deterministic */
    size_t more;       /* bytes of workspace for each sequence and head, beside what is natural */
    unsigned plans, runs, ran; /* how many; the configuration that ran last */
};

extern struct fake_cudnn fake_cudnn;

/* The functions, without loading a library. */
extern const struct ds_cudnn fake_cudnn_calls;

/* A run with all that it was given, as it was then: from malloc(). */
struct fake_cudnn_run;
struct fake_cudnn_run *fake_cudnn_prepare(void *plan, void *pack);
void fake_cudnn_do(void *run);
void *fake_cudnn_stream(void *handle);

#endif
