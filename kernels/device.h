/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.h - a backend opened for use: its streams and its memory.
 *
 * The CPU device owns a pool of `threads` threads (the caller of an operation
 * is one of them) and one scratch area per stream, whose size the caller has
 * computed with ds_scratch_bytes() (kernels/scratch.h), so that no operation
 * allocates.  A stream is used by one thread at a time.
 */
#ifndef DS_KERNELS_DEVICE_H
#define DS_KERNELS_DEVICE_H

#include <stddef.h>

#include "base/error.h"
#include "kernels/op.h"

struct ds_device;

struct ds_device_args {
    const char *name;     /* "cpu" */
    unsigned threads;     /* >= 1 */
    const int *cores;     /* [threads] to pin to, or NULL: inherit the process' affinity */
    size_t scratch_bytes; /* per stream */
};

/* -ENOTSUP unknown or absent device, -ENOMEM, -EINVAL. */
int ds_device_open(struct ds_device **device, const struct ds_device_args *args,
                   struct ds_error *err) DS_NODISCARD;
void ds_device_close(struct ds_device *device);

/* The compute stream.  Owned by the device. */
struct ds_stream *ds_device_stream(struct ds_device *device);

/* "cpu, AVX-512, 2 threads, oneDNN 2.6.3": for headers and events.  Owned by the device. */
const char *ds_device_describe(const struct ds_device *device);

/* Zeroed, page-aligned memory for an arena; huge pages asked for where it is large. */
int ds_device_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
    DS_NODISCARD;
void ds_device_free(struct ds_device *device, void *memory, size_t bytes);

/* The most arithmetic the device's threads do, in FLOP/s: on the CPU F32 multiply-adds in
 * registers, the best of some runs of a fraction of a millisecond.  For utilisation figures, never
 * for decisions. */
double ds_device_peak(struct ds_device *device);

const struct ds_kernels *ds_stream_kernels(const struct ds_stream *stream);

#endif
