/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * libnvidia_ml.c - a libnvidia-ml.so.1 without a device: what tests/gpu/machine.py asks of it.  Each
 * look at the memory finds a MiB more taken, up to half of it.
 */
#include <stdio.h>

/* Nobody has a header for them: they are looked up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define MIB (1ull << 20)
enum { ALL_MIB = 1024, INVALID_ARGUMENT = 2 };

static struct device {
    unsigned long long used;
} only;

struct memory {
    unsigned long long total, free, used;
};

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = &only;
    return index == 0 ? 0 : INVALID_ARGUMENT;
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory)
{
    if (device != &only)
        return INVALID_ARGUMENT;
    only.used += only.used < ALL_MIB / 2 * MIB ? MIB : 0;
    *memory = (struct memory){
        .total = ALL_MIB * MIB, .free = ALL_MIB * MIB - only.used, .used = only.used};
    return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned bytes)
{
    (void)snprintf(name, bytes, "no GPU, a double of 0");
    return device == &only ? 0 : INVALID_ARGUMENT;
}

int nvmlSystemGetDriverVersion(char *version, unsigned bytes)
{
    (void)snprintf(version, bytes, "580.00.00");
    return 0;
}
