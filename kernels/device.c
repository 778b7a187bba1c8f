/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.c - finds the backend of a name; the contract is in device.h.
 */
#include "kernels/device.h"

#include <errno.h>
#include <string.h>

#include "base/limits.h"
#include "kernels/backend.h"

static const struct ds_backend *const backends[] = {&ds_backend_cpu};

int ds_device_open(struct ds_device **device, const struct ds_device_args *args,
                   struct ds_error *err)
{
    if (args->threads < 1 || args->threads > DS_MAX_THREADS)
        return ds_fail(err, EINVAL, "cannot use %u threads, 1 to %d would do", args->threads,
                       DS_MAX_THREADS);
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        if (strcmp(backends[i]->name, args->name) == 0)
            return backends[i]->open(device, args, err);
    }
    return ds_fail(err, ENOTSUP, "device '%s' is not part of this build", args->name);
}

void ds_device_close(struct ds_device *device)
{
    if (device != NULL)
        device->backend->close(device);
}

struct ds_stream *ds_device_stream(struct ds_device *device)
{
    return device->stream;
}

const char *ds_device_describe(const struct ds_device *device)
{
    return device->description;
}

int ds_device_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
{
    return device->backend->alloc(device, bytes, out, err);
}

void ds_device_free(struct ds_device *device, void *memory, size_t bytes)
{
    if (memory != NULL)
        device->backend->free(device, memory, bytes);
}

double ds_device_peak(struct ds_device *device)
{
    return device->backend->peak(device);
}

const struct ds_kernels *ds_stream_kernels(const struct ds_stream *stream)
{
    return stream->kernels;
}
