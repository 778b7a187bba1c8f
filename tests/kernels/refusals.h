/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * refusals.h - for tests of what operations refuse: a device, memory, and calls with good arguments
 * of which one is changed.
 */
#ifndef DS_TESTS_KERNELS_REFUSALS_H
#define DS_TESTS_KERNELS_REFUSALS_H

#include "tests/kernels/harness.h"

static struct ds_device *device;
static struct ds_stream *stream;

static void start(void)
{
    device = open_cpu(NULL, 1, ds_scratch_bytes(&(struct ds_scratch_query){.threads = 1}));
    cr_assert(device != NULL);
    stream = ds_device_stream(device);
}

static void stop(void)
{
    ds_device_close(device);
}

static float f[4096];
static int32_t ids[512];

#endif
