/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * abi.cc - that what is written down here of CUDA's runtime (tests/fakes/include/) and of NCCL
 * (runtime/comm/nccl_lib.h) says what their own headers say.  Compiled where the headers are, never
 * linked.  The order matters: CUDA's header makes macros of names that ours has as enumerators, and
 * nccl.h brings in overloads of the runtime's functions.
 */
#include <stddef.h>

#include "kernels/cuda/alike.cuh"

namespace ours
{
#include "tests/fakes/include/cuda_runtime_api.h"
enum {
    streams = cudaStreamNonBlocking,
    events = cudaEventDisableTiming,
    pages = cudaHostAllocDefault
};
} // namespace ours

#include <cuda_runtime_api.h>

#define SAME(a, b) static_assert((long long)(a) == (long long)(b), #b)
SAME(ours::streams, cudaStreamNonBlocking);
SAME(ours::events, cudaEventDisableTiming);
SAME(ours::pages, cudaHostAllocDefault);
#define NUMBER(name) SAME(ours::name, ::name)
NUMBER(cudaSuccess);
NUMBER(cudaErrorInvalidValue);
NUMBER(cudaErrorMemoryAllocation);
NUMBER(cudaErrorInvalidConfiguration);
NUMBER(cudaErrorInsufficientDriver);
NUMBER(cudaErrorNoDevice);
NUMBER(cudaErrorInvalidDevice);
NUMBER(cudaErrorNotReady);
NUMBER(cudaErrorIllegalAddress);
NUMBER(cudaErrorStreamCaptureUnsupported);
NUMBER(cudaErrorStreamCaptureInvalidated);
NUMBER(cudaErrorStreamCaptureUnjoined);
NUMBER(cudaErrorStreamCaptureIsolation);
NUMBER(cudaStreamCaptureModeGlobal);
NUMBER(cudaStreamCaptureModeThreadLocal);
NUMBER(cudaStreamCaptureModeRelaxed);
NUMBER(cudaMemcpyHostToHost);
NUMBER(cudaMemcpyHostToDevice);
NUMBER(cudaMemcpyDeviceToHost);
NUMBER(cudaMemcpyDeviceToDevice);
NUMBER(cudaDevAttrClockRate);
NUMBER(cudaDevAttrMultiProcessorCount);
NUMBER(cudaDevAttrComputeCapabilityMajor);
NUMBER(cudaDevAttrComputeCapabilityMinor);

#define CALL(name) static_assert(same_call<decltype(&ours::name), decltype(&::name)>::value, #name)
CALL(cudaDriverGetVersion);
CALL(cudaRuntimeGetVersion);
CALL(cudaGetDeviceCount);
CALL(cudaGetDevice);
CALL(cudaSetDevice);
CALL(cudaDeviceGetAttribute);
CALL(cudaDeviceGetStreamPriorityRange);
CALL(cudaDeviceSynchronize);
CALL(cudaGetLastError);
CALL(cudaGetErrorString);
CALL(cudaMalloc);
CALL(cudaFree);
CALL(cudaHostAlloc);
CALL(cudaFreeHost);
CALL(cudaMemGetInfo);
CALL(cudaMemset);
CALL(cudaMemsetAsync);
CALL(cudaMemcpyAsync);
CALL(cudaStreamCreateWithPriority);
CALL(cudaStreamDestroy);
CALL(cudaStreamSynchronize);
CALL(cudaStreamWaitEvent);
CALL(cudaEventCreateWithFlags);
CALL(cudaEventDestroy);
CALL(cudaEventRecord);
CALL(cudaEventQuery);
CALL(cudaStreamBeginCapture);
CALL(cudaStreamEndCapture);
CALL(cudaGraphInstantiate);
CALL(cudaGraphLaunch);
CALL(cudaGraphDestroy);
CALL(cudaGraphExecDestroy);
CALL(cudaEventSynchronize);
CALL(cudaEventElapsedTime);

#if __has_include(<nccl.h>)
#include <nccl.h>

extern "C" {
#include "runtime/comm/nccl_lib.h"
}

SAME(DS_NCCL_OK, ncclSuccess);
SAME(DS_NCCL_IN_PROGRESS, ncclInProgress);
SAME(DS_NCCL_SUM, ncclSum);
SAME(DS_NCCL_BYTE, ncclUint8);
SAME(DS_NCCL_F16, ncclFloat16);
SAME(DS_NCCL_F32, ncclFloat32);
SAME(DS_NCCL_BF16, ncclBfloat16);
SAME(DS_NCCL_ID_BYTES, NCCL_UNIQUE_ID_BYTES);
SAME(DS_NCCL_MIN_VERSION, NCCL_VERSION(2, 19, 0));
SAME(sizeof(struct ds_nccl_id), sizeof(ncclUniqueId));
SAME(alignof(struct ds_nccl_id), alignof(ncclUniqueId));
static constexpr ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER;
SAME(DS_NCCL_CONFIG_MAGIC, fresh.magic);

/* A later NCCL's has more at its end; it goes by the size and the version that it is told. */
static_assert(sizeof(struct ds_nccl_config) <= sizeof(ncclConfig_t), "size");
#define PLACED(a, b)                                                                               \
    static_assert(offsetof(struct ds_nccl_config, a) == offsetof(ncclConfig_t, b) &&               \
                      sizeof(ds_nccl_config::a) == sizeof(ncclConfig_t::b),                        \
                  #b)
PLACED(size, size);
PLACED(magic, magic);
PLACED(version, version);
PLACED(blocking, blocking);
PLACED(cga_cluster_size, cgaClusterSize);
PLACED(min_ctas, minCTAs);
PLACED(max_ctas, maxCTAs);
PLACED(net_name, netName);
PLACED(split_share, splitShare);
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 26, 2)
PLACED(traffic_class, trafficClass);
#endif

#define X(member, name, args)                                                                      \
    static_assert(same_call<decltype(ds__nccl_lib::member), decltype(&nccl##name)>::value, #name);
DS_NCCL_CALLS(X)
#undef X
static_assert(same_call<decltype(ds__nccl_lib::error_string), decltype(&ncclGetErrorString)>::value,
              "GetErrorString");
#else
#pragma message "there is no nccl.h: the declarations of NCCL were not compared"
#endif
