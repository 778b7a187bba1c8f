/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * probe.c - the contract is in probe.h.
 *
 * Span i of a device that is apart lies between its marks 2 i + 1 and 2 i + 2; mark 0 is the start.
 */
#include "kernels/probe.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/backend.h"

enum { FIRST_ROOM = 8192 }; /* spans; a step of some thousand operations needs no more */

struct ds_probe {
    struct ds_device *device;
    pthread_mutex_t lock; /* of all below */
    pthread_t thread;     /* that opened it, and computes */
    struct ds_probe_span *span;
    size_t count, room;
    uint64_t begin_ns;
    double seconds;
    bool ops;
};

static const struct ds_backend_queues *queues_of(const struct ds_device *device)
{
    return device->backend->queues;
}

static double since_s(const struct ds_probe *probe, uint64_t ns)
{
    return (double)(ns - probe->begin_ns) * 1e-9;
}

/* Room for twice as many. */
static int grow(struct ds_probe *probe, struct ds_error *err)
{
    size_t room = probe->room > 0 ? 2 * probe->room : FIRST_ROOM;
    struct ds_probe_span *more = realloc(probe->span, room * sizeof(*more));

    if (more == NULL)
        return ds_fail(err, ENOMEM, "no memory to watch %zu operations", room);
    probe->span = more;
    probe->room = room;
    return queues_of(probe->device) == NULL
               ? 0
               : queues_of(probe->device)->marks(probe->device, (unsigned)(2 * room + 1), err);
}

int ds_probe_open(struct ds_probe **out, struct ds_device *device, struct ds_error *err)
{
    struct ds_probe *probe = calloc(1, sizeof(*probe));
    int rc;

    *out = NULL;
    if (probe == NULL)
        return ds_fail(err, ENOMEM, "no memory to watch a step");
    probe->device = device;
    probe->thread = pthread_self();
    (void)pthread_mutex_init(&probe->lock, NULL);
    rc = grow(probe, err);
    if (rc != 0) {
        ds_probe_close(probe);
        return rc;
    }
    *out = probe;
    return 0;
}

void ds_probe_close(struct ds_probe *probe)
{
    if (probe == NULL)
        return;
    (void)pthread_mutex_destroy(&probe->lock);
    free(probe->span);
    free(probe);
}

static int mark(struct ds_stream *stream, size_t number, struct ds_error *err)
{
    const struct ds_backend_queues *queues = queues_of(stream->device);

    return queues == NULL ? 0 : queues->mark(stream, (unsigned)number, err);
}

int ds_probe_start(struct ds_probe *probe, bool ops, struct ds_error *err)
{
    int rc;

    probe->count = 0;
    probe->ops = ops;
    rc = mark(probe->device->stream, 0, err);
    probe->begin_ns = ds_clock_mono_ns();
    if (rc == 0)
        probe->device->probe = probe;
    return rc;
}

/* When the device did it, where it knows. */
static int read_times(struct ds_probe *probe, size_t i, struct ds_error *err)
{
    const struct ds_backend_queues *queues = queues_of(probe->device);
    struct ds_probe_span *span = &probe->span[i];
    int rc;

    span->begin_s = span->called_s;
    span->end_s = span->back_s;
    if (queues == NULL || span->kind == DS_PROBE_WAIT)
        return 0;
    rc = queues->mark_time(probe->device, (unsigned)(2 * i + 1), &span->begin_s, err);
    return rc != 0 ? rc
                   : queues->mark_time(probe->device, (unsigned)(2 * i + 2), &span->end_s, err);
}

int ds_probe_stop(struct ds_probe *probe, struct ds_error *err)
{
    int rc = 0;

    probe->seconds = since_s(probe, ds_clock_mono_ns());
    probe->device->probe = NULL;
    for (size_t i = 0; rc == 0 && i < probe->count; i++)
        rc = read_times(probe, i, err);
    return rc;
}

const struct ds_probe_span *ds_probe_spans(const struct ds_probe *probe, size_t *count,
                                           double *seconds)
{
    *count = probe->count;
    *seconds = probe->seconds;
    return probe->span;
}

/* --- spans ------------------------------------------------------------------------------------ */

/* Under the lock. */
static int add(struct ds_probe *probe, const struct ds_probe_span *span, size_t *at,
               struct ds_error *err)
{
    int rc = probe->count == probe->room ? grow(probe, err) : 0;

    if (rc != 0)
        return rc;
    *at = probe->count++;
    probe->span[*at] = *span;
    return 0;
}

static int begin(struct ds_probe *probe, struct ds_stream *stream, struct ds_probe_span span,
                 size_t *at, struct ds_error *err)
{
    int rc;

    (void)pthread_mutex_lock(&probe->lock);
    span.beside = span.queue != 0 || pthread_equal(pthread_self(), probe->thread) == 0;
    rc = add(probe, &span, at, err);
    if (rc == 0)
        rc = mark(stream, 2 * *at + 1, err);
    if (rc == 0)
        probe->span[*at].called_s = since_s(probe, ds_clock_mono_ns());
    (void)pthread_mutex_unlock(&probe->lock);
    return rc;
}

/* With what is known now. */
static int end(struct ds_probe *probe, struct ds_stream *stream, size_t at,
               const struct ds_probe_span *known, struct ds_error *err)
{
    uint64_t now = ds_clock_mono_ns();
    struct ds_probe_span *span;
    int rc;

    (void)pthread_mutex_lock(&probe->lock);
    span = &probe->span[at];
    span->back_s = since_s(probe, now);
    if (known != NULL) {
        span->name = known->name;
        span->amount = known->amount;
        memcpy(span->shape, known->shape, sizeof(span->shape));
    }
    rc = mark(stream, 2 * at + 2, err);
    (void)pthread_mutex_unlock(&probe->lock);
    return rc;
}

int ds_probe_part(struct ds_probe *probe, struct ds_stream *stream, size_t part, unsigned queue,
                  size_t *at, struct ds_error *err)
{
    const struct ds_probe_span span = {
        .kind = DS_PROBE_PART, .name = "part", .part = part, .queue = queue};

    return begin(probe, stream, span, at, err);
}

int ds_probe_part_end(struct ds_probe *probe, struct ds_stream *stream, size_t at,
                      struct ds_error *err)
{
    return end(probe, stream, at, NULL, err);
}

int ds__probe_begin(struct ds_stream *stream, size_t *at, struct ds_error *err)
{
    const struct ds_probe_span span = {.kind = DS_PROBE_OP, .name = "?", .queue = stream->queue};
    struct ds_probe *probe = stream->device->probe;

    *at = SIZE_MAX;
    return probe == NULL || !probe->ops ? 0 : begin(probe, stream, span, at, err);
}

int ds__probe_end_op(struct ds_stream *stream, size_t at, const char *name, enum ds_op op,
                     const void *args, struct ds_error *err)
{
    struct ds_probe_span known = {.name = name};

    if (at == SIZE_MAX)
        return 0;
    known.amount = ds_op_amount(op, args);
    ds_op_shape(op, args, known.shape);
    return end(stream->device->probe, stream, at, &known, err);
}

int ds__probe_end_bytes(struct ds_stream *stream, size_t at, const char *name, size_t bytes,
                        struct ds_error *err)
{
    struct ds_probe_span known = {.name = name, .amount = {.bytes = (double)bytes}};

    return at == SIZE_MAX ? 0 : end(stream->device->probe, stream, at, &known, err);
}

/* --- waits ------------------------------------------------------------------------------------ */

/* Threads may wait at one time: a place is taken by whoever writes its name first. */
static void count(struct ds_device *device, const char *name, uint64_t ns)
{
    for (unsigned i = 0; i < DS_DEVICE_WAITS; i++) {
        struct ds_device_wait *wait = &device->wait[i];
        const char *taken = NULL;

        if (!__atomic_compare_exchange_n(&wait->name, &taken, name, false, __ATOMIC_RELAXED,
                                         __ATOMIC_RELAXED) &&
            strcmp(taken, name) != 0)
            continue;
        (void)__atomic_fetch_add(&wait->count, 1, __ATOMIC_RELAXED);
        (void)__atomic_fetch_add(&wait->ns, ns, __ATOMIC_RELAXED);
        return;
    }
}

void ds__device_waited(struct ds_device *device, const char *name, uint64_t began_ns)
{
    struct ds_probe_span span = {.kind = DS_PROBE_WAIT, .name = name};
    struct ds_probe *probe = device->probe;
    uint64_t now = ds_clock_mono_ns();
    size_t at;

    count(device, name, now - began_ns);
    if (probe == NULL)
        return;
    (void)pthread_mutex_lock(&probe->lock);
    span.called_s = since_s(probe, began_ns);
    span.back_s = since_s(probe, now);
    (void)add(probe, &span, &at, NULL);
    (void)pthread_mutex_unlock(&probe->lock);
}

unsigned ds_device_waits(const struct ds_device *device, struct ds_device_wait out[DS_DEVICE_WAITS])
{
    unsigned kinds = 0;

    for (unsigned i = 0; i < DS_DEVICE_WAITS; i++) {
        const struct ds_device_wait *wait = &device->wait[i];

        out[i] = (struct ds_device_wait){
            .name = __atomic_load_n(&wait->name, __ATOMIC_RELAXED),
            .count = __atomic_load_n(&wait->count, __ATOMIC_RELAXED),
            .ns = __atomic_load_n(&wait->ns, __ATOMIC_RELAXED),
        };
        kinds += out[i].name != NULL;
    }
    return kinds;
}
