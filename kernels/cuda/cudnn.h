/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.h - the part of cuDNN's C interface that attention uses, as a table of functions.
 *
 * The library is loaded at run time where there is one, so a build needs neither it nor its
 * headers; where there are headers, cudnn.cu compares every number and every type below with
 * theirs.  A test gives a table of its own.
 *
 * Source  NVIDIA, "cuDNN Backend API"
 * Tests   tests/cudaemu/test_cuda_sdpa.c
 */
#ifndef DS_KERNELS_CUDA_CUDNN_H
#define DS_KERNELS_CUDA_CUDNN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* clang-format off */
enum ds_cudnn_number {
    DS_CUDNN_SUCCESS               = 0,
    DS_CUDNN_NOT_SUPPORTED         = 3000, /* and the 999 behind it */
    DS_CUDNN_NO_HOST_MEMORY        = 4003,
    DS_CUDNN_NO_MEMORY             = 4004,

    DS_CUDNN_F32                   = 0,    /* types of elements */
    DS_CUDNN_F16                   = 2,
    DS_CUDNN_I32                   = 4,
    DS_CUDNN_BF16                  = 9,
    DS_CUDNN_BOOL                  = 11,

    DS_CUDNN_POINTWISE             = 0,    /* descriptors */
    DS_CUDNN_ENGINE                = 2,
    DS_CUDNN_CONFIG                = 3,
    DS_CUDNN_HEURISTIC             = 4,
    DS_CUDNN_PLAN                  = 5,
    DS_CUDNN_OP_POINTWISE          = 13,
    DS_CUDNN_GRAPH                 = 15,
    DS_CUDNN_PACK                  = 16,
    DS_CUDNN_TENSOR                = 17,
    DS_CUDNN_MATMUL                = 18,
    DS_CUDNN_OP_MATMUL             = 19,
    DS_CUDNN_REDUCTION             = 21,
    DS_CUDNN_OP_REDUCTION          = 22,
    DS_CUDNN_OP_RESHAPE            = 31,

    DS_CUDNN_TYPE_HANDLE           = 0,    /* types of attributes */
    DS_CUDNN_TYPE_DATA_TYPE        = 1,
    DS_CUDNN_TYPE_BOOLEAN          = 2,
    DS_CUDNN_TYPE_INT64            = 3,
    DS_CUDNN_TYPE_VOID_PTR         = 6,
    DS_CUDNN_TYPE_HEUR_MODE        = 8,
    DS_CUDNN_TYPE_NUMERICAL_NOTE   = 11,
    DS_CUDNN_TYPE_POINTWISE_MODE   = 14,
    DS_CUDNN_TYPE_DESCRIPTOR       = 15,
    DS_CUDNN_TYPE_REDUCTION        = 18,

    DS_CUDNN_POINTWISE_MODE        = 0,    /* attributes */
    DS_CUDNN_POINTWISE_MATH        = 1,
    DS_CUDNN_POINTWISE_AXIS        = 9,
    DS_CUDNN_HEURISTIC_MODE        = 200,
    DS_CUDNN_HEURISTIC_GRAPH       = 201,
    DS_CUDNN_HEURISTIC_RESULTS     = 202,
    DS_CUDNN_CONFIG_ENGINE         = 300,
    DS_CUDNN_PLAN_HANDLE           = 400,
    DS_CUDNN_PLAN_CONFIG           = 401,
    DS_CUDNN_PLAN_WORKSPACE        = 402,
    DS_CUDNN_OP_POINTWISE_HOW      = 750,
    DS_CUDNN_OP_POINTWISE_X        = 751,
    DS_CUDNN_OP_POINTWISE_B        = 752,
    DS_CUDNN_OP_POINTWISE_Y        = 753,
    DS_CUDNN_OP_POINTWISE_T        = 758,
    DS_CUDNN_GRAPH_HANDLE          = 800,
    DS_CUDNN_GRAPH_OPS             = 801,
    DS_CUDNN_TENSOR_ALIGNMENT      = 900,
    DS_CUDNN_TENSOR_TYPE           = 901,
    DS_CUDNN_TENSOR_DIMS           = 902,
    DS_CUDNN_TENSOR_STRIDES        = 903,
    DS_CUDNN_TENSOR_ID             = 906,
    DS_CUDNN_TENSOR_VIRTUAL        = 907,
    DS_CUDNN_TENSOR_BY_VALUE       = 908,
    DS_CUDNN_PACK_IDS              = 1000,
    DS_CUDNN_PACK_POINTERS         = 1001,
    DS_CUDNN_PACK_WORKSPACE        = 1003,
    DS_CUDNN_ENGINE_NOTES          = 1303,
    DS_CUDNN_MATMUL_MATH           = 1500,
    DS_CUDNN_OP_MATMUL_A           = 1520,
    DS_CUDNN_OP_MATMUL_B           = 1521,
    DS_CUDNN_OP_MATMUL_C           = 1522,
    DS_CUDNN_OP_MATMUL_HOW         = 1523,
    DS_CUDNN_REDUCTION_OPERATOR    = 1600,
    DS_CUDNN_REDUCTION_MATH        = 1601,
    DS_CUDNN_OP_REDUCTION_X        = 1610,
    DS_CUDNN_OP_REDUCTION_Y        = 1611,
    DS_CUDNN_OP_REDUCTION_HOW      = 1612,
    DS_CUDNN_OP_RESHAPE_X          = 2200,
    DS_CUDNN_OP_RESHAPE_Y          = 2201,

    DS_CUDNN_ADD                   = 0,    /* of elements */
    DS_CUDNN_MUL                   = 1,
    DS_CUDNN_DIV                   = 6,
    DS_CUDNN_SUB                   = 9,
    DS_CUDNN_EXP                   = 13,
    DS_CUDNN_LOG                   = 15,
    DS_CUDNN_NOT_BELOW             = 303,
    DS_CUDNN_INDEX                 = 501,
    DS_CUDNN_SELECT                = 601,
    DS_CUDNN_REDUCE_ADD            = 0,
    DS_CUDNN_REDUCE_MAX            = 3,

    DS_CUDNN_HEUR_MODE_A           = 3,
    DS_CUDNN_NOTE_NONDETERMINISTIC = 4,
    DS_CUDNN_NOTES                 = 10,
};

/* Statuses are ints; handles and descriptors are opaque. */
#define DS_CUDNN_CALLS(X) \
    X(int, Create, (void **handle)) \
    X(int, Destroy, (void *handle)) \
    X(size_t, GetVersion, (void)) \
    X(const char *, GetErrorString, (int status)) \
    X(void, GetLastErrorString, (char *text, size_t bytes)) \
    X(int, SetStream, (void *handle, void *stream)) \
    X(int, BackendCreateDescriptor, (int what, void **desc)) \
    X(int, BackendDestroyDescriptor, (void *desc)) \
    X(int, BackendFinalize, (void *desc)) \
    X(int, BackendSetAttribute, (void *desc, int what, int type, int64_t count, const void *values)) \
    X(int, BackendGetAttribute, (void *desc, int what, int type, int64_t room, int64_t *count, void *values)) \
    X(int, BackendExecute, (void *handle, void *plan, void *pack))
/* clang-format on */

struct ds_cudnn {
    void *library; /* of dlopen(), or NULL */
#define X(type, name, args) type(*name) args;
    DS_CUDNN_CALLS(X)
#undef X
};

/* Load the library of that file name, or with NULL the one that the loader finds.  -ENOENT when
 * there is none, -ENOTSUP when it does not load or lacks a function; `cudnn` is then empty. */
int ds__cudnn_load(struct ds_cudnn *cudnn, const char *file, struct ds_error *err) DS_NODISCARD;
void ds__cudnn_unload(struct ds_cudnn *cudnn);

#endif
