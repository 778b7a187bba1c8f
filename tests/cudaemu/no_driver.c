/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * no_driver.c - a libcuda.so.1 that has no device, and as much else as cuDNN needs to make plans
 * for a device that it is told of.
 */
#include <stddef.h>

/* Nobody has a header for them: they are looked up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

enum { NO_DEVICE = 100, VERSION = 13000 };

int cuDriverGetVersion(int *version)
{
    *version = VERSION;
    return 0;
}

int cuGetErrorName(int error, const char **name)
{
    (void)error;
    *name = "no device";
    return 0;
}

int cuGetErrorString(int error, const char **text)
{
    return cuGetErrorName(error, text);
}

/* Code is loaded by plans, to ask what it takes; handles are not looked into. */
int cuLibraryLoadData(void **library)
{
    *library = (void *)library;
    return 0;
}

int cuLibraryGetKernel(void **kernel)
{
    *kernel = (void *)kernel;
    return 0;
}

#define ABSENT(name)                                                                               \
    int name(void)                                                                                 \
    {                                                                                              \
        return NO_DEVICE;                                                                          \
    }
ABSENT(cuInit)
ABSENT(cuDeviceGetCount)
ABSENT(cuDeviceGet)
ABSENT(cuCtxGetCurrent)
ABSENT(cuCtxGetLimit)
ABSENT(cuCtxPopCurrent)
ABSENT(cuCtxPushCurrent)
ABSENT(cuStreamGetCtx)
ABSENT(cuLinkCreate)
ABSENT(cuLinkAddData)
ABSENT(cuLinkComplete)
ABSENT(cuLinkDestroy)
ABSENT(cuLaunchKernel)
ABSENT(cuLaunchCooperativeKernel)
ABSENT(cuLaunchKernelEx)
ABSENT(cuLibraryLoadFromFile)
ABSENT(cuLibraryUnload)
ABSENT(cuKernelSetAttribute)
ABSENT(cuKernelGetAttribute)
ABSENT(cuOccupancyMaxPotentialClusterSize)
