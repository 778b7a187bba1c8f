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
    struct ds_device *device;
    unsigned queue;
};

struct ds_device {
    const struct ds_backend *backend;
    struct ds_stream *stream; /* of queue 0 */
    struct ds_probe *probe;   /* that watches it now (probe.h), or NULL */
    struct ds_device_wait wait[DS_DEVICE_WAITS];
    char description[192];
};

struct ds_backend {
    const char *name;
    int (*open)(struct ds_device **, const struct ds_device_args *, struct ds_error *);
    void (*close)(struct ds_device *);
    int (*alloc)(struct ds_device *, size_t bytes, void **out, struct ds_error *);
    void (*free)(struct ds_device *, void *memory, size_t bytes);
    double (*peak)(struct ds_device *, enum ds_dtype type); /* FLOP/s */
    /* (optional) NULL: all queues are one stream, operations are done when they return, and memory
     * is the host's. */
    const struct ds_backend_queues *queues;
};

/* Of a device that works while the host goes on. */
struct ds_backend_queues {
    struct ds_stream *(*stream)(struct ds_device *, unsigned queue);
    int (*events)(struct ds_device *, unsigned count, struct ds_error *);
    int (*host_alloc)(struct ds_device *, size_t bytes, void **out, struct ds_error *);
    void (*host_free)(struct ds_device *, void *memory, size_t bytes);
    int (*copy)(struct ds_stream *, enum ds_copy_way, void *to, const void *from, size_t bytes,
                struct ds_error *);
    int (*clear)(struct ds_stream *, void *to, size_t bytes, struct ds_error *);
    int (*signal)(struct ds_stream *, unsigned event, struct ds_error *);
    int (*await)(struct ds_stream *, unsigned event, struct ds_error *);
    int (*finish)(struct ds_stream *, struct ds_error *);
    int (*await_event)(struct ds_device *, unsigned event, struct ds_error *);
    int (*enter)(struct ds_device *, struct ds_error *);
    void *(*handle)(struct ds_stream *);
    int (*memory)(struct ds_device *, uint64_t *left, uint64_t *all, struct ds_error *);
    int (*record)(struct ds_stream *, struct ds_error *);
    int (*record_end)(struct ds_stream *, struct ds_recording **, struct ds_error *);
    int (*play)(struct ds_stream *, const struct ds_recording *, struct ds_error *);
    void (*record_drop)(struct ds_recording *);
    const char *(*note)(struct ds_device *);
    /* Times: room for marks 0 .. count - 1; all that is queued so far is a mark's, and it is passed
     * when that is done; seconds since mark 0, which must have been passed, as must the other. */
    int (*marks)(struct ds_device *, unsigned count, struct ds_error *);
    int (*mark)(struct ds_stream *, unsigned mark, struct ds_error *);
    int (*mark_time)(struct ds_device *, unsigned mark, double *seconds, struct ds_error *);
};

extern const struct ds_backend ds_backend_cpu;

#endif
