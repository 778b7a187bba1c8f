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

/* The last place is a plug-in's. */
static const struct ds_backend *backends[] = {&ds_backend_cpu, NULL};

void ds_device_add(const struct ds_backend *backend)
{
    backends[sizeof(backends) / sizeof(backends[0]) - 1] = backend;
}

int ds_device_open(struct ds_device **device, const struct ds_device_args *args,
                   struct ds_error *err)
{
    if (args->threads < 1 || args->threads > DS_MAX_THREADS)
        return ds_fail(err, EINVAL, "cannot use %u threads, 1 to %d would do", args->threads,
                       DS_MAX_THREADS);
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        if (backends[i] != NULL && strcmp(backends[i]->name, args->name) == 0)
            return backends[i]->open(device, args, err);
    }
    return ds_fail(err, ENOTSUP, "device '%s' is not part of this program", args->name);
}
