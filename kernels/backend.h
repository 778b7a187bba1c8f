/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * backend.h - what a backend gives to device.c; nobody else includes this.
 *
 * A backend embeds struct ds_device and struct ds_stream as the first member
 * of its own structs.
 */
#ifndef DS_KERNELS_BACKEND_H
#define DS_KERNELS_BACKEND_H

#include "kernels/device.h"

struct ds_stream {
    const struct ds_kernels *kernels;
};

struct ds_device {
    const struct ds_backend *backend;
    struct ds_stream *stream;
    char description[128];
};

struct ds_backend {
    const char *name;
    int (*open)(struct ds_device **, const struct ds_device_args *, struct ds_error *);
    void (*close)(struct ds_device *);
    int (*alloc)(struct ds_device *, size_t bytes, void **out, struct ds_error *);
    void (*free)(struct ds_device *, void *memory, size_t bytes);
    double (*peak)(struct ds_device *); /* FLOP/s */
};

extern const struct ds_backend ds_backend_cpu;

#endif
