/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - what an open device is asked for; the contract is in device.h.  Nothing here names a
 * backend, so the plug-in of one can use it, too.
 */
#include <errno.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/probe.h"

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

const char *ds_device_note(struct ds_device *device)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    return queues == NULL ? NULL : queues->note(device);
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

/* --- queues ----------------------------------------------------------------------------------- */

struct ds_stream *ds_device_queue(struct ds_device *device, unsigned queue)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    return queues == NULL ? device->stream : queues->stream(device, queue);
}

bool ds_device_is_apart(const struct ds_device *device)
{
    return device->backend->queues != NULL;
}

int ds_device_events(struct ds_device *device, unsigned count, struct ds_error *err)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    return queues == NULL ? 0 : queues->events(device, count, err);
}

int ds_device_host_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    return queues == NULL ? device->backend->alloc(device, bytes, out, err)
                          : queues->host_alloc(device, bytes, out, err);
}

void ds_device_host_free(struct ds_device *device, void *memory, size_t bytes)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    if (memory != NULL && queues != NULL)
        queues->host_free(device, memory, bytes);
    else if (memory != NULL)
        device->backend->free(device, memory, bytes);
}

static const struct ds_backend_queues *queues_of(const struct ds_stream *stream)
{
    return stream->device->backend->queues;
}

int ds_stream_copy(struct ds_stream *stream, enum ds_copy_way way, void *to, const void *from,
                   size_t bytes, struct ds_error *err)
{
    static const char *const names[] = {
        [DS_COPY_UP] = "copy up", [DS_COPY_DOWN] = "copy down", [DS_COPY_ASIDE] = "copy"};
    size_t at;
    int rc;

    if (bytes == 0)
        return 0;
    rc = ds__probe_begin(stream, &at, err);
    if (rc == 0 && queues_of(stream) != NULL)
        rc = queues_of(stream)->copy(stream, way, to, from, bytes, err);
    else if (rc == 0)
        memcpy(to, from, bytes);
    return rc != 0 ? rc
                   : ds__probe_end_bytes(stream, at, names[way],
                                         way == DS_COPY_ASIDE ? 2 * bytes : bytes, err);
}

int ds_stream_clear(struct ds_stream *stream, void *to, size_t bytes, struct ds_error *err)
{
    size_t at;
    int rc = ds__probe_begin(stream, &at, err);

    if (rc == 0 && queues_of(stream) != NULL)
        rc = queues_of(stream)->clear(stream, to, bytes, err);
    else if (rc == 0)
        memset(to, 0, bytes);
    return rc != 0 ? rc : ds__probe_end_bytes(stream, at, "clear", bytes, err);
}

int ds_stream_signal(struct ds_stream *stream, unsigned event, struct ds_error *err)
{
    return queues_of(stream) == NULL ? 0 : queues_of(stream)->signal(stream, event, err);
}

int ds_stream_await(struct ds_stream *stream, unsigned event, struct ds_error *err)
{
    return queues_of(stream) == NULL ? 0 : queues_of(stream)->await(stream, event, err);
}

int ds_stream_finish(struct ds_stream *stream, struct ds_error *err)
{
    return queues_of(stream) == NULL ? 0 : queues_of(stream)->finish(stream, err);
}

int ds_device_await(struct ds_device *device, unsigned event, struct ds_error *err)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    return queues == NULL ? 0 : queues->await_event(device, event, err);
}

int ds_device_enter(struct ds_device *device, struct ds_error *err)
{
    const struct ds_backend_queues *queues = device->backend->queues;

    return queues == NULL ? 0 : queues->enter(device, err);
}

void *ds_stream_handle(struct ds_stream *stream)
{
    return queues_of(stream) == NULL ? NULL : queues_of(stream)->handle(stream);
}

int ds_device_memory(struct ds_device *device, uint64_t *left, uint64_t *all, struct ds_error *err)
{
    *left = *all = 0;
    return device->backend->queues == NULL
               ? 0
               : device->backend->queues->memory(device, left, all, err);
}

/* --- recordings ------------------------------------------------------------------------------- */

int ds_stream_record(struct ds_stream *stream, struct ds_error *err)
{
    return queues_of(stream) != NULL ? queues_of(stream)->record(stream, err)
                                     : ds_fail(err, ENOTSUP, "this device records nothing");
}

int ds_stream_record_end(struct ds_stream *stream, struct ds_recording **out, struct ds_error *err)
{
    *out = NULL;
    return queues_of(stream) != NULL ? queues_of(stream)->record_end(stream, out, err)
                                     : ds_fail(err, ENOTSUP, "this device records nothing");
}

int ds_stream_play(struct ds_stream *stream, const struct ds_recording *recording,
                   struct ds_error *err)
{
    return queues_of(stream)->play(stream, recording, err);
}

void ds_recording_free(struct ds_device *device, struct ds_recording *recording)
{
    if (recording != NULL)
        device->backend->queues->record_drop(recording);
}

double ds_device_peak(struct ds_device *device, enum ds_dtype type)
{
    return device->backend->peak(device, type);
}

const struct ds_kernels *ds_stream_kernels(const struct ds_stream *stream)
{
    return stream->kernels;
}
