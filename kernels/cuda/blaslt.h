/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * blaslt.h - the part of cuBLASLt that matrix products use, as a table of functions.
 *
 * The library is loaded at run time, so a build needs neither it nor its headers; where there are
 * headers, blaslt.cu compares every number and every type below with theirs.  A test gives a table
 * of its own.
 *
 * Source  NVIDIA, "cuBLAS Library", chapter "Using the cuBLASLt API"
 * Tests   tests/cudaemu/test_cuda_matmul.c
 */
#ifndef DS_KERNELS_CUDA_BLASLT_H
#define DS_KERNELS_CUDA_BLASLT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* clang-format off */
enum ds_blaslt_number {
    DS_BLASLT_SUCCESS             = 0,
    DS_BLASLT_ALLOC_FAILED        = 3,
    DS_BLASLT_NOT_SUPPORTED       = 15,
    DS_BLASLT_R_32F               = 0,
    DS_BLASLT_R_16F               = 2,
    DS_BLASLT_R_16BF              = 14,
    DS_BLASLT_R_8F_E4M3           = 28,
    DS_BLASLT_R_8F_E5M2           = 29,
    DS_BLASLT_COMPUTE_32F         = 68,
    DS_BLASLT_COMPUTE_TF32        = 77,
    DS_BLASLT_OP_N                = 0,
    DS_BLASLT_OP_T                = 1,
    DS_BLASLT_DESC_TRANSA         = 3,
    DS_BLASLT_DESC_TRANSB         = 4,
    DS_BLASLT_DESC_EPILOGUE       = 7,
    DS_BLASLT_DESC_BIAS_POINTER   = 8,
    DS_BLASLT_DESC_AUX_POINTER    = 11,
    DS_BLASLT_DESC_AUX_LD         = 12,
    DS_BLASLT_DESC_A_SCALE        = 17,
    DS_BLASLT_DESC_B_SCALE        = 18,
    DS_BLASLT_DESC_FAST_ACCUM     = 25,
    DS_BLASLT_EPILOGUE_DEFAULT    = 1,
    DS_BLASLT_EPILOGUE_BIAS       = 4,
    DS_BLASLT_EPILOGUE_GELU_AUX   = 160,
    DS_BLASLT_EPILOGUE_GELU_AUX_BIAS = 164,
    DS_BLASLT_EPILOGUE_DGELU      = 192,
    DS_BLASLT_EPILOGUE_BGRADA     = 256,
    DS_BLASLT_PREF_WORKSPACE      = 1,
    DS_BLASLT_PREF_ALIGNMENT_A    = 5,
    DS_BLASLT_PREF_ALIGNMENT_B    = 6,
    DS_BLASLT_PREF_ALIGNMENT_C    = 7,
    DS_BLASLT_PREF_ALIGNMENT_D    = 8,
};
/* clang-format on */

struct ds_blaslt_algo {
    uint64_t data[8];
};

/* A proposal of the library for a product. */
struct ds_blaslt_result {
    struct ds_blaslt_algo algo;
    size_t workspace;
    int status; /* of this proposal */
    float waves;
    int reserved[4];
};

/* clang-format off */
/* Statuses are ints; handles and descriptors are opaque. */
#define DS_BLASLT_CALLS(X) \
    X(int, Create, (void **handle)) \
    X(int, Destroy, (void *handle)) \
    X(size_t, GetVersion, (void)) \
    X(const char *, GetStatusName, (int status)) \
    X(int, MatmulDescCreate, (void **desc, int compute, int scale_type)) \
    X(int, MatmulDescDestroy, (void *desc)) \
    X(int, MatmulDescSetAttribute, (void *desc, int what, const void *value, size_t bytes)) \
    X(int, MatrixLayoutCreate, (void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld)) \
    X(int, MatrixLayoutDestroy, (void *layout)) \
    X(int, MatmulPreferenceCreate, (void **pref)) \
    X(int, MatmulPreferenceDestroy, (void *pref)) \
    X(int, MatmulPreferenceSetAttribute, (void *pref, int what, const void *value, size_t bytes)) \
    X(int, MatmulAlgoGetHeuristic, (void *handle, void *desc, void *a, void *b, void *c, void *d, \
                                    void *pref, int wanted, struct ds_blaslt_result *results, int *found)) \
    X(int, MatmulAlgoCheck, (void *handle, void *desc, void *a, void *b, void *c, void *d, \
                             const struct ds_blaslt_algo *algo, struct ds_blaslt_result *result)) \
    X(int, Matmul, (void *handle, void *desc, const void *alpha, const void *a, void *a_layout, \
                    const void *b, void *b_layout, const void *beta, const void *c, void *c_layout, \
                    void *d, void *d_layout, const struct ds_blaslt_algo *algo, void *workspace, \
                    size_t workspace_bytes, void *stream))
/* clang-format on */

struct ds_blaslt {
    void *library; /* of dlopen(), or NULL */
#define X(type, name, args) type(*name) args;
    DS_BLASLT_CALLS(X)
#undef X
};

/* Load the library of that file name, or with NULL the one that the loader finds.  -ENOENT when
 * there is none, -ENOTSUP when it lacks a function; `blaslt` is then empty. */
int ds__blaslt_load(struct ds_blaslt *blaslt, const char *file, struct ds_error *err) DS_NODISCARD;
void ds__blaslt_unload(struct ds_blaslt *blaslt);

#endif
