/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.c - which devices the fake runtime has, and its errors in words; see fake.h.
 */
#include <stdatomic.h>

#include "tests/fakes/fake.h"

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)fake_number("FAKE_CUDA_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    FAKE_FAULT();
    if (fake_number("FAKE_CUDA_DRIVER", 13000) < 13000)
        return cudaErrorInsufficientDriver;
    *count = (int)fake_number("FAKE_CUDA_DEVICES", 1);
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

static atomic_int current; /* of the process; CUDA has one for each thread */

cudaError_t cudaGetDevice(int *device)
{
    *device = atomic_load(&current);
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    FAKE_FAULT();
    if (device < 0 || device >= (int)fake_number("FAKE_CUDA_DEVICES", 1))
        return cudaErrorInvalidDevice;
    atomic_store(&current, device);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    (void)device;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = (int)fake_number("FAKE_CUDA_MAJOR", 9); break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrClockRate: *value = 1000000; break;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation:
        return "dependency created on uncaptured work in another stream";
    }
    return "unrecognized error code";
}

const char *fake_error_string(int error)
{
    return cudaGetErrorString((cudaError_t)error);
}
