/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_probe.c - what a probe sees of a device, on the CPU and on one whose clock the test holds.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/backend.h"
#include "kernels/probe.h"

static struct ds_error err;

static struct ds_device *open_device(void)
{
    const struct ds_device_args args = {.name = "cpu", .threads = 1};
    struct ds_device *device = NULL;

    cr_assert(ds_device_open(&device, &args, &err) == 0, "%s", err.text);
    return device;
}

static void *add_apart(void *stream)
{
    static float x[8], y[8];
    const struct ds_add_args args = {.n = 8, .x = x, .y = y};
    struct ds_error lost = {0};

    return ds_add(&args, stream, &lost) == 0 ? stream : NULL;
}

Test(probe, operations_copies_parts_and_threads)
{
    static float x[64], y[64];
    const struct ds_cast_args cast = {.n = 64, .x = x, .y = y};
    struct ds_device *device = open_device();
    struct ds_stream *stream = ds_device_stream(device);
    const struct ds_probe_span *span;
    struct ds_probe *probe;
    double seconds;
    size_t count, at;
    pthread_t thread;
    void *done = NULL;

    cr_assert(ds_probe_open(&probe, device, &err) == 0);
    cr_assert(ds_cast(&cast, stream, &err) == 0); /* nobody watches yet */
    cr_assert(ds_probe_start(probe, true, &err) == 0);
    cr_assert(ds_probe_part(probe, stream, 7, 1, &at, &err) == 0);
    cr_assert(ds_cast(&cast, stream, &err) == 0);
    cr_assert(ds_stream_copy(stream, DS_COPY_ASIDE, y, x, 100, &err) == 0);
    cr_assert(ds_stream_copy(stream, DS_COPY_UP, y, x, 100, &err) == 0);
    cr_assert(ds_stream_clear(stream, y, 12, &err) == 0);
    cr_assert(ds_probe_part_end(probe, stream, at, &err) == 0);
    cr_assert(pthread_create(&thread, NULL, add_apart, stream) == 0);
    cr_assert(pthread_join(thread, &done) == 0 && done != NULL);
    cr_assert(ds_probe_stop(probe, &err) == 0);
    cr_assert(ds_cast(&cast, stream, &err) == 0); /* nor any more */
    span = ds_probe_spans(probe, &count, &seconds);
    cr_assert(count == 6, "%zu", count);
    cr_assert(span[0].kind == DS_PROBE_PART && span[0].part == 7 && span[0].queue == 1 &&
              span[0].beside);
    cr_assert(strcmp(span[1].name, "cast") == 0 && strcmp(span[1].shape, "64 F32 to F32") == 0);
    cr_assert(span[1].amount.bytes == 512 && !span[1].beside);
    cr_assert(strcmp(span[2].name, "copy") == 0 && span[2].amount.bytes == 200);
    cr_assert(strcmp(span[3].name, "copy up") == 0 && span[3].amount.bytes == 100);
    cr_assert(strcmp(span[4].name, "clear") == 0 && span[4].amount.bytes == 12);
    cr_assert(strcmp(span[5].name, "add") == 0 && span[5].beside);
    for (size_t i = 0; i < count; i++)
        cr_assert(span[i].begin_s >= 0.0 && span[i].end_s >= span[i].begin_s &&
                  span[i].end_s <= seconds);
    cr_assert(span[0].end_s >= span[4].end_s && span[0].begin_s <= span[1].begin_s);
    ds_probe_close(probe);
    ds_device_close(device);
}

Test(probe, instructions_alone_and_more_than_there_is_room_for)
{
    static float x[1], y[1];
    const struct ds_cast_args cast = {.n = 1, .x = x, .y = y};
    struct ds_device *device = open_device();
    struct ds_stream *stream = ds_device_stream(device);
    struct ds_probe *probe;
    double seconds;
    size_t count, at;

    cr_assert(ds_probe_open(&probe, device, &err) == 0);
    cr_assert(ds_probe_start(probe, false, &err) == 0);
    cr_assert(ds_probe_part(probe, stream, 0, 0, &at, &err) == 0);
    cr_assert(ds_cast(&cast, stream, &err) == 0);
    cr_assert(ds_probe_part_end(probe, stream, at, &err) == 0);
    cr_assert(ds_probe_stop(probe, &err) == 0);
    (void)ds_probe_spans(probe, &count, &seconds);
    cr_assert(count == 1, "%zu", count);
    cr_assert(ds_probe_start(probe, true, &err) == 0);
    for (int i = 0; i < 20000; i++)
        cr_assert(ds_cast(&cast, stream, &err) == 0);
    cr_assert(ds_probe_stop(probe, &err) == 0);
    (void)ds_probe_spans(probe, &count, &seconds);
    cr_assert(count == 20000, "%zu", count);
    ds_probe_close(probe);
    ds_device_close(device);
}

/* --- a device that is apart: its clock shows the number of the mark --------------------------- */

static unsigned room, refused = UINT32_MAX;
static size_t marked;

static int marks(struct ds_device *device, unsigned count, struct ds_error *e)
{
    (void)device, (void)e;
    room = count > room ? count : room;
    return 0;
}

static int mark(struct ds_stream *stream, unsigned number, struct ds_error *e)
{
    (void)stream;
    if (number == refused)
        return ds_fail(e, EIO, "no mark");
    cr_assert(number < room);
    marked++;
    return 0;
}

static int mark_time(struct ds_device *device, unsigned number, double *seconds, struct ds_error *e)
{
    (void)device, (void)e;
    *seconds = number;
    return 0;
}

static int copy(struct ds_stream *stream, enum ds_copy_way way, void *to, const void *from,
                size_t bytes, struct ds_error *e)
{
    (void)stream, (void)way, (void)to, (void)from, (void)bytes, (void)e;
    return 0;
}

static const struct ds_backend_queues queues = {
    .marks = marks, .mark = mark, .mark_time = mark_time, .copy = copy};
static const struct ds_backend backend = {.name = "apart", .queues = &queues};

Test(probe, times_of_a_device_apart_and_waits)
{
    struct ds_device device = {.backend = &backend};
    struct ds_stream compute = {.device = &device}, copies = {.device = &device, .queue = 3};
    struct ds_device_wait wait[DS_DEVICE_WAITS];
    const struct ds_probe_span *span;
    struct ds_probe *probe;
    double seconds;
    size_t count;
    char byte;

    device.stream = &compute;
    ds__device_waited(&device, "first", ds_clock_mono_ns()); /* counted, and not watched */
    cr_assert(ds_probe_open(&probe, &device, &err) == 0);
    cr_assert(ds_probe_start(probe, true, &err) == 0);
    cr_assert(ds_stream_copy(&compute, DS_COPY_ASIDE, &byte, &byte, 1, &err) == 0);
    ds__device_waited(&device, "second", ds_clock_mono_ns());
    ds__device_waited(&device, "first", ds_clock_mono_ns());
    cr_assert(ds_stream_copy(&copies, DS_COPY_UP, &byte, &byte, 1, &err) == 0);
    cr_assert(ds_probe_stop(probe, &err) == 0);
    span = ds_probe_spans(probe, &count, &seconds);
    cr_assert(count == 4 && marked == 5);
    cr_assert(span[0].begin_s == 1.0 && span[0].end_s == 2.0 && !span[0].beside);
    cr_assert(span[1].kind == DS_PROBE_WAIT && strcmp(span[1].name, "second") == 0 &&
              span[1].end_s < 1.0);
    cr_assert(span[2].kind == DS_PROBE_WAIT && strcmp(span[2].name, "first") == 0);
    cr_assert(span[3].begin_s == 7.0 && span[3].end_s == 8.0 && span[3].beside &&
              span[3].queue == 3);
    cr_assert(ds_device_waits(&device, wait) == 2);
    cr_assert(strcmp(wait[0].name, "first") == 0 && wait[0].count == 2 && wait[1].count == 1);
    refused = 0;
    cr_assert(ds_probe_start(probe, true, &err) == -EIO && device.probe == NULL);
    refused = 1;
    cr_assert(ds_probe_start(probe, true, &err) == 0);
    cr_assert(ds_stream_copy(&compute, DS_COPY_ASIDE, &byte, &byte, 1, &err) == -EIO);
    ds_probe_close(probe);
}
