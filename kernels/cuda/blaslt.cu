/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * blaslt.cu - that blaslt.h says what the library's header says.  Compiled, never linked.
 */
#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/cuda/alike.cuh"

extern "C" {
#include "kernels/cuda/blaslt.h"
}

#define SAME(ours, theirs) static_assert((int)(ours) == (int)(theirs), #ours)
SAME(DS_BLASLT_SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(DS_BLASLT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED);
SAME(DS_BLASLT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(DS_BLASLT_R_32F, CUDA_R_32F);
SAME(DS_BLASLT_R_16F, CUDA_R_16F);
SAME(DS_BLASLT_R_16BF, CUDA_R_16BF);
SAME(DS_BLASLT_R_8F_E4M3, CUDA_R_8F_E4M3);
SAME(DS_BLASLT_R_8F_E5M2, CUDA_R_8F_E5M2);
SAME(DS_BLASLT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(DS_BLASLT_COMPUTE_TF32, CUBLAS_COMPUTE_32F_FAST_TF32);
SAME(DS_BLASLT_OP_N, CUBLAS_OP_N);
SAME(DS_BLASLT_OP_T, CUBLAS_OP_T);
SAME(DS_BLASLT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(DS_BLASLT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(DS_BLASLT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(DS_BLASLT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(DS_BLASLT_DESC_AUX_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
SAME(DS_BLASLT_DESC_AUX_LD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
SAME(DS_BLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(DS_BLASLT_DESC_A_SCALE, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
SAME(DS_BLASLT_DESC_B_SCALE, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
SAME(DS_BLASLT_DESC_FAST_ACCUM, CUBLASLT_MATMUL_DESC_FAST_ACCUM);
SAME(DS_BLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(DS_BLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX);
SAME(DS_BLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
SAME(DS_BLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU);
SAME(DS_BLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADA);
SAME(DS_BLASLT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(DS_BLASLT_PREF_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(DS_BLASLT_PREF_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(DS_BLASLT_PREF_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(DS_BLASLT_PREF_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

static_assert(sizeof(struct ds_blaslt_algo) == sizeof(cublasLtMatmulAlgo_t), "algo");
static_assert(sizeof(struct ds_blaslt_result) == sizeof(cublasLtMatmulHeuristicResult_t), "size");
#define PLACED(ours, theirs)                                                                       \
    static_assert(offsetof(struct ds_blaslt_result, ours) ==                                       \
                      offsetof(cublasLtMatmulHeuristicResult_t, theirs),                           \
                  #ours)
PLACED(algo, algo);
PLACED(workspace, workspaceSize);
PLACED(status, state);

#define X(type, name, args)                                                                        \
    static_assert(same_call<decltype(ds_blaslt::name), decltype(&cublasLt##name)>::value, #name);
DS_BLASLT_CALLS(X)
#undef X
