/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.c - which devices the fake runtime has, and its errors in words; see fake.h.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "tests/fakes/fake.h"

/* Which device the process sees as number `device`; -1: none.  CUDA_VISIBLE_DEVICES counts up to its
 * first entry that is no device. */
static int visible(int device)
{
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    int devices = (int)fake_number("FAKE_CUDA_DEVICES", 1);

    for (int i = 0; text != NULL; i++) {
        char *end;
        long number = strtol(text, &end, 10);

        if (end == text || number < 0 || number >= devices)
            return -1;
        if (i == device)
            return (int)number;
        text = *end == ',' ? end + 1 : "";
    }
    return device >= 0 && device < devices ? device : -1;
}

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
    for (*count = 0; visible(*count) >= 0;)
        ++*count;
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

static atomic_int current; /* of the process; CUDA has one for each thread */

cudaError_t cudaGetDevice(int *device)
{
    *device = atomic_load(&current);
    return cudaSuccess;
}

bool fake_is_full(void)
{
    return getenv("FAKE_CUDA_FULL") != NULL &&
           visible(atomic_load(&current)) == (int)fake_number("FAKE_CUDA_FULL", 0);
}

cudaError_t cudaSetDevice(int device)
{
    FAKE_FAULT();
    if (visible(device) < 0)
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
