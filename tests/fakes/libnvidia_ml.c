/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * libnvidia_ml.c - a libnvidia-ml.so.1 without a device: what tests/gpu/machine.py and dsrun hosts
 * ask of it.  Each look at the memory finds a MiB more taken, up to half of it.
 *
 *     FAKE_NVML_PROCESSES=N   so many processes compute on it
 */
#include <stdio.h>
#include <stdlib.h>

/* Nobody has a header for them: they are looked up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define MIB (1ull << 20)
enum { ALL_MIB = 1024, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };

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

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = 1;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *list)
{
    const char *text = getenv("FAKE_NVML_PROCESSES");
    unsigned room = *count;

    *count = text != NULL ? (unsigned)strtoul(text, NULL, 10) : 0;
    if (device != &only || (list != NULL && room > 0))
        return INVALID_ARGUMENT; /* no list is made here */
    return room < *count ? INSUFFICIENT_SIZE : 0;
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
