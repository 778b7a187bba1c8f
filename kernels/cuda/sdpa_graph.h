/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sdpa_graph.h - causal attention, forward or backward, as a graph of cuDNN's operations.
 *
 * cuDNN has kernels for exactly these chains of operations and refuses others, so their order is
 * its own.  Scores exist inside its kernels only.  Keys go in as their transpose, and values too in
 * the backward pass.  The gradient of queries comes out of one product and not of sums in memory,
 * which is how cuDNN is asked for the same bits every time.
 *
 * Source  NVIDIA, "cuDNN Backend API", "Attention"
 * Tests   tests/cudaemu/test_cuda_sdpa.c (computes the graphs), test_cudnn_plans.c
 */
#ifndef DS_KERNELS_CUDA_SDPA_GRAPH_H
#define DS_KERNELS_CUDA_SDPA_GRAPH_H

#include "kernels/cuda/cudnn.h"

/* Tensors that a run is given, by the numbers that the graph knows them by. */
enum ds_sdpa_id {
    DS_SDPA_NONE,
    DS_SDPA_Q,
    DS_SDPA_K,
    DS_SDPA_V,
    DS_SDPA_OUT,
    DS_SDPA_LSE,  /* logarithms of the sums: forward's result, backward's operand */
    DS_SDPA_DOUT, /* from here on of backward only */
    DS_SDPA_DQ,
    DS_SDPA_DK,
    DS_SDPA_DV,
    DS_SDPA_SUMS,   /* sums of out * dout, F32 [batch,heads,seq]; memory for the run */
    DS_SDPA_SCALE,  /* numbers of the host, F32: what scores are multiplied with */
    DS_SDPA_HIDDEN, /* what a score is that is not seen */
    DS_SDPA_ONE,
    DS_SDPA_IDS
};

/* All that a graph depends on.  No padding: compared as bytes. */
struct ds_sdpa_shape {
    int64_t backward;                /* 0 or 1 */
    int64_t type;                    /* DS_CUDNN_BF16 or DS_CUDNN_F16 */
    int64_t batch, heads, kv_heads;  /* that one run computes */
    int64_t all_heads, all_kv_heads; /* that rows have room for */
    int64_t seq, size;
};

/* Descriptors, to be destroyed together. */
enum { DS_SDPA_PARTS = 192, DS_SDPA_OPS = 24 };
struct ds_sdpa_graph {
    void *part[DS_SDPA_PARTS];
    size_t parts;
    void *op[DS_SDPA_OPS];
    size_t ops;
};

/* All operations, final.  0 or a status of the library; ds__sdpa_forget() is due either way. */
int ds__sdpa_describe(struct ds_sdpa_graph *graph, const struct ds_cudnn *cudnn,
                      const struct ds_sdpa_shape *shape) DS_NODISCARD;
void ds__sdpa_forget(struct ds_sdpa_graph *graph, const struct ds_cudnn *cudnn);

/* A descriptor that goes with the graph; 0 or a status. */
int ds__sdpa_make(struct ds_sdpa_graph *graph, const struct ds_cudnn *cudnn, int what, void **out)
    DS_NODISCARD;

#endif
