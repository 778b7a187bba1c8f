/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * libcuda.c - a libcuda.so.1 without a device: what the tests for a GPU ask of the driver.
 *
 *     FAKE_CUDA_REGISTER=801   cuMemHostRegister() gives this error
 *     FAKE_CUDA_PAGEABLE=1     kernels reach all memory of the host
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* Nobody has a header for them: they are looked up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

enum { ANY_MEMORY = 88, SAME_POINTER = 91, INVALID_VALUE = 1 };

int cuInit(unsigned flags)
{
    return flags == 0 ? 0 : INVALID_VALUE;
}

int cuDeviceGetCount(int *count)
{
    *count = 1;
    return 0;
}

int cuDeviceGetName(char *name, int bytes, int device)
{
    (void)snprintf(name, (size_t)bytes, "no GPU, a double of %d", device);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == SAME_POINTER || getenv("FAKE_CUDA_PAGEABLE") != NULL;
    return (attribute == SAME_POINTER || attribute == ANY_MEMORY) && device == 0 ? 0
                                                                                 : INVALID_VALUE;
}

int cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags)
{
    const char *wish = getenv("FAKE_CUDA_REGISTER");

    if (memory == NULL || bytes == 0 || flags != 3)
        return INVALID_VALUE;
    return wish == NULL ? 0 : (int)strtol(wish, NULL, 10);
}
