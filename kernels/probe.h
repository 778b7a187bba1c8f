/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * probe.h - when what a device is asked for runs: operations, parts of the caller's own, and waits
 * of the host.
 *
 * Between start and stop every ds_<op>(), copy and clear of the device is a span, if operations are
 * wanted, and so is every call in which the host waits for the device.  Spans of the device's work
 * are on its own clock: on CUDA two events that carry times around each call, so an operation that
 * the host was late to ask for has that in its time; on the CPU the host's clock.  Calls must be
 * done as they come: what is recorded (ds_stream_record()) cannot be watched.
 *
 * Threads  Those that use the device, between start and stop; the others from the one that opened.
 * Tests    tests/kernels/test_probe.c, tests/e2e/cuda.py
 */
#ifndef DS_KERNELS_PROBE_H
#define DS_KERNELS_PROBE_H

#include "kernels/amount.h"
#include "kernels/device.h"

enum ds_probe_kind { DS_PROBE_OP, DS_PROBE_PART, DS_PROBE_WAIT };

struct ds_probe_span {
    enum ds_probe_kind kind;
    const char *name;              /* of the operation, or of the call that waits; static */
    char shape[DS_OP_SHAPE_BYTES]; /* of an operation */
    struct ds_amount amount;
    size_t part;             /* the caller's number of it */
    unsigned queue;          /* where it ran */
    bool beside;             /* not in line with what computes: another queue, or another thread */
    double begin_s, end_s;   /* by the device, since start */
    double called_s, back_s; /* the host's call, since start */
};

struct ds_probe;

/* -ENOMEM, or what the device says. */
int ds_probe_open(struct ds_probe **probe, struct ds_device *device, struct ds_error *err)
    DS_NODISCARD;
void ds_probe_close(struct ds_probe *probe);

/* The device has nothing to do.  What an earlier start has seen is forgotten. */
int ds_probe_start(struct ds_probe *probe, bool ops, struct ds_error *err) DS_NODISCARD;
/* All is done.  -EIO: the device does not tell its times. */
int ds_probe_stop(struct ds_probe *probe, struct ds_error *err) DS_NODISCARD;

/* Until the next start; and the seconds from start to stop. */
const struct ds_probe_span *ds_probe_spans(const struct ds_probe *probe, size_t *count,
                                           double *seconds);

/* A part of the caller's: what `stream` is given in between.  On the CPU its queue is `queue`. */
int ds_probe_part(struct ds_probe *probe, struct ds_stream *stream, size_t part, unsigned queue,
                  size_t *at, struct ds_error *err) DS_NODISCARD;
int ds_probe_part_end(struct ds_probe *probe, struct ds_stream *stream, size_t at,
                      struct ds_error *err) DS_NODISCARD;

/* For op.c, queue.c and what ranks swap in a pass (runtime/model/heads.c): *at is SIZE_MAX where
 * nobody watches, and then the end is nothing. */
int ds__probe_begin(struct ds_stream *stream, size_t *at, struct ds_error *err);
int ds__probe_end_op(struct ds_stream *stream, size_t at, const char *name, enum ds_op op,
                     const void *args, struct ds_error *err);
int ds__probe_end_bytes(struct ds_stream *stream, size_t at, const char *name, size_t bytes,
                        struct ds_error *err);

/* For backends: the host has waited for the device, or may have, since began_ns (base/clock.h), in
 * the call `name`.  Watched or not it is counted (ds_device_waits()). */
void ds__device_waited(struct ds_device *device, const char *name, uint64_t began_ns);

#endif
