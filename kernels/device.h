/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.h - a backend opened for use: its streams, its memory, its events.
 *
 * The CPU device owns a pool of `threads` threads (the caller of an operation
 * is one of them) and one scratch area per stream, whose size the caller has
 * computed with ds_scratch_bytes() (kernels/scratch.h), so that no operation
 * allocates.  A stream is used by one thread at a time.
 *
 * Queues  A device has DS_DEVICE_QUEUES queues, each with a stream.  On the CPU they are one stream
 *         and an operation is done when it returns; on CUDA each has a stream of its own,
 *         operations are queued, and only ds_stream_finish() waits.  Order between streams comes
 *         from events. What of copies and events is said below does nothing, or the plain thing,
 *         on the CPU, so that users need not ask what they run on.
 */
#ifndef DS_KERNELS_DEVICE_H
#define DS_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/op.h"

struct ds_device;

enum { DS_DEVICE_QUEUES = 6 };

struct ds_device_args {
    const char *name;     /* "cpu"; "cuda" once its plug-in is loaded (ds_device_add()) */
    unsigned index;       /* of the devices that this process sees; the CPU is one */
    unsigned threads;     /* >= 1 */
    const int *cores;     /* [threads] to pin to, or NULL: inherit the process' affinity */
    size_t scratch_bytes; /* per stream */
    bool fp8;             /* products of FP8 will be asked for */
};

/* -ENOTSUP unknown or absent device, or one without what will be asked for; -ENOMEM, -EINVAL. */
int ds_device_open(struct ds_device **device, const struct ds_device_args *args,
                   struct ds_error *err) DS_NODISCARD;
void ds_device_close(struct ds_device *device);

/* A backend that a plug-in brought, for ds_device_open(); before any thread opens a device. */
struct ds_backend;
void ds_device_add(const struct ds_backend *backend);

/* The stream of queue 0, which computes.  Owned by the device. */
struct ds_stream *ds_device_stream(struct ds_device *device);
struct ds_stream *ds_device_queue(struct ds_device *device, unsigned queue);

/* Are operations queued, and is memory the device's own?  Else both are the host's. */
bool ds_device_is_apart(const struct ds_device *device);

/* Room for events 0 .. count - 1, at least. */
int ds_device_events(struct ds_device *device, unsigned count, struct ds_error *err) DS_NODISCARD;

/* "cpu, AVX-512, 2 threads, oneDNN 2.6.3": for headers and events.  Owned by the device. */
const char *ds_device_describe(const struct ds_device *device);

/* Each thing once: what the device does otherwise than it could, and why; NULL: nothing more.
 * Owned by the device. */
const char *ds_device_note(struct ds_device *device);

/* Zeroed, page-aligned memory for an arena; huge pages asked for where it is large. */
int ds_device_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
    DS_NODISCARD;
void ds_device_free(struct ds_device *device, void *memory, size_t bytes);

/* Bytes of the device's memory that are free, and all there are; 0 and 0 where that is the host's.
 * What others on the device take and give back counts, too. */
int ds_device_memory(struct ds_device *device, uint64_t *left, uint64_t *all, struct ds_error *err)
    DS_NODISCARD;

/* Zeroed memory of the host that copies to and from the device are fast with; operations of the
 * device reach it, too, as fast as the link between them lets. */
int ds_device_host_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
    DS_NODISCARD;
void ds_device_host_free(struct ds_device *device, void *memory, size_t bytes);

/* Queued on the stream: `from` of an upload must stay as it is until the stream has come so far. */
enum ds_copy_way { DS_COPY_UP, DS_COPY_DOWN, DS_COPY_ASIDE }; /* to, from, within the device */
int ds_stream_copy(struct ds_stream *stream, enum ds_copy_way way, void *to, const void *from,
                   size_t bytes, struct ds_error *err) DS_NODISCARD;
int ds_stream_clear(struct ds_stream *stream, void *to, size_t bytes, struct ds_error *err)
    DS_NODISCARD;

/* The event happens once all that was queued on the stream so far is done; what is queued on a
 * stream behind an await starts after its latest signal.  One that never was does not hold it. */
int ds_stream_signal(struct ds_stream *stream, unsigned event, struct ds_error *err) DS_NODISCARD;
int ds_stream_await(struct ds_stream *stream, unsigned event, struct ds_error *err) DS_NODISCARD;

/* Wait until all that was queued is done.  -EIO: the device failed, for good. */
int ds_stream_finish(struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;
/* The host itself waits for the event.  As above. */
int ds_device_await(struct ds_device *device, unsigned event, struct ds_error *err) DS_NODISCARD;

/* A thread that did not open the device asks for this before anything else of it. */
int ds_device_enter(struct ds_device *device, struct ds_error *err) DS_NODISCARD;

/* Calls in which the host has waited for the device, or may have, since it was opened: which of the
 * library's, how often, how long.  Returns how many kinds there are; none on the CPU.  Of any
 * thread, from any thread. */
enum { DS_DEVICE_WAITS = 12 };
struct ds_device_wait {
    const char *name; /* static */
    uint64_t count, ns;
};
unsigned ds_device_waits(const struct ds_device *device,
                         struct ds_device_wait out[DS_DEVICE_WAITS]);

/* A recording: what is queued between ds_stream_record() and its end is kept with all its arguments
 * and not done; each play queues all of it.  Nothing but operations, copies and clears may be asked
 * for meanwhile, and the end must be, whatever failed: only it lets the stream go on.  What is
 * played must have been done on the stream before, once, without being recorded.
 * -ENOTSUP  the device keeps none: the CPU */
struct ds_recording;
int ds_stream_record(struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;
int ds_stream_record_end(struct ds_stream *stream, struct ds_recording **out, struct ds_error *err)
    DS_NODISCARD;
int ds_stream_play(struct ds_stream *stream, const struct ds_recording *recording,
                   struct ds_error *err) DS_NODISCARD;
void ds_recording_free(struct ds_device *device, struct ds_recording *recording);

/* What the library of the device calls it (a cudaStream_t); NULL on the CPU. */
void *ds_stream_handle(struct ds_stream *stream);

/* The most arithmetic the device does in products of this type, in FLOP/s.  On the CPU: F32
 * multiply-adds in registers by all threads, the best of some runs of a fraction of a millisecond;
 * of a 16-bit type that, or a product of 512 x 512 if it is faster, as with matrix units.  U8 is
 * FP8, which is BF16 on the CPU.  For utilisation figures, never for decisions. */
double ds_device_peak(struct ds_device *device, enum ds_dtype type);

const struct ds_kernels *ds_stream_kernels(const struct ds_stream *stream);

#endif
