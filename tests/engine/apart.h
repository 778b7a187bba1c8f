/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * apart.h - a device that breaks: the CPU's, opened as ever, with every call counted.
 *
 * With `apart` it is one with memory and queues of its own as well, so that all that the engine does
 * for such a device is done without one: copies, events, recordings.  Operations are done when they
 * are asked for, in order, which such a device may do; one that is given an address of the host's
 * memory ends the test.  A recording keeps operations and copies with their arguments, as device.h
 * says, and each play does them again; it is the thread's that began it.
 */
#ifndef DS_TESTS_ENGINE_APART_H
#define DS_TESTS_ENGINE_APART_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "tests/support/mapped.h"

enum apart_breaks { APART_NEVER, APART_ONCE, APART_FOR_GOOD };
enum { APART_RECORDED = 512, APART_ALIGNMENT = 64 };

/* One thing that was recorded. */
struct apart_done {
    enum { APART_OP, APART_COPY, APART_CLEAR } what;
    enum ds_op op;
    union {
#define X(id, fn) struct ds_##fn##_args fn;
        DS_OPS(X)
#undef X
        struct {
            void *to;
            const void *from;
            size_t bytes;
        } copy;
    } args;
};

struct ds_recording {
    size_t count;
    struct apart_done done[APART_RECORDED];
};

static struct {
    const struct ds_kernels *inside;
    enum apart_breaks breaks;
    unsigned nth; /* the call that breaks it, 0: none does */
    atomic_uint calls;
    atomic_bool broken; /* it did */
    atomic_size_t held; /* pieces of memory and recordings that were not given back */
    atomic_size_t played;
    struct ds_backend backend;
} apart;

static _Thread_local struct ds_recording *apart_recording;

/* Does this call fail? */
static inline int apart_call(struct ds_error *err)
{
    if (apart.broken && apart.breaks == APART_FOR_GOOD)
        return ds_fail(err, EIO, "the device is broken");
    if (apart.nth == 0 || atomic_fetch_add(&apart.calls, 1) + 1 != apart.nth)
        return 0;
    apart.broken = true;
    return ds_fail(err, EIO, "the device breaks");
}

/* Recorded: true. */
static inline bool apart_keep(struct apart_done done)
{
    if (apart_recording == NULL)
        return false;
    if (apart_recording->count == APART_RECORDED)
        abort();
    apart_recording->done[apart_recording->count++] = done;
    return true;
}

/* This thread's stack has memory of the device for a neighbour: where it ends has to be asked. */
static inline bool apart_on_stack(uintptr_t at)
{
    static _Thread_local uintptr_t begin, bytes;

    if (bytes == 0) {
        pthread_attr_t attributes;
        void *lowest = NULL;
        size_t size = 0;

        if (pthread_getattr_np(pthread_self(), &attributes) != 0 ||
            pthread_attr_getstack(&attributes, &lowest, &size) != 0)
            abort();
        (void)pthread_attr_destroy(&attributes);
        begin = (uintptr_t)lowest;
        bytes = size;
    }
    return at >= begin && at - begin < bytes;
}

/* What lies neither in the program, nor in the heap behind it, nor on this thread's stack: memory
 * of the device, or of a comm whose backend is the host's. */
static inline bool apart_reaches(const void *p)
{
    extern char __executable_start[];
    uintptr_t at = (uintptr_t)p, begin = (uintptr_t)__executable_start;

    return !(at >= begin && at < (uintptr_t)sbrk(0)) && !apart_on_stack(at);
}

/* Nothing that an operation is given is an address of the host's. */
static inline void apart_given(const char *op, const void *args, size_t bytes)
{
    uintptr_t stranger = mapped_stranger(args, bytes, apart_reaches);

    if (stranger == 0)
        return;
    fprintf(stderr, "%s was given %#jx, which is memory of the host\n", op, (uintmax_t)stranger);
    abort();
}

#define X(id, fn)                                                                                  \
    static inline int apart_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream,      \
                                 struct ds_error *err)                                             \
    {                                                                                              \
        int rc = apart_call(err);                                                                  \
        struct apart_done done = {.what = APART_OP, .op = DS_OP_##id, .args.fn = *args};           \
                                                                                                   \
        apart_given(#fn, &done.args.fn, MAPPED_CLEAN(&done.args.fn));                              \
        return rc != 0 || apart_keep(done) ? rc : apart.inside->fn(args, stream, err);             \
    }
DS_OPS(X)
#undef X

static const struct ds_kernels apart_kernels = {.name = "apart",
#define X(id, fn) .fn = apart_##fn,
                                                DS_OPS(X)
#undef X
};

static inline size_t apart_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static inline size_t apart_used(size_t bytes)
{
    return apart_up(bytes, APART_ALIGNMENT);
}

static inline size_t apart_page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Memory ends before a page that cannot be touched: a copy that is too long does not go unseen. */
static inline int apart_alloc(struct ds_device *device, size_t bytes, void **out,
                              struct ds_error *err)
{
    const size_t used = apart_used(bytes), page = apart_page(), pages = apart_up(used, page);
    void *base;
    int rc = apart_call(err);

    if (rc == 0)
        rc = ds_backend_cpu.alloc(device, pages + page, &base, err);
    if (rc != 0)
        return rc;
    if (mprotect((char *)base + pages, page, PROT_NONE) != 0)
        abort();
    *out = (char *)base + pages - used;
    apart.held++;
    return 0;
}

static inline void apart_free(struct ds_device *device, void *memory, size_t bytes)
{
    const size_t used = apart_used(bytes), page = apart_page(), pages = apart_up(used, page);

    apart.held--;
    ds_backend_cpu.free(device, (char *)memory + used - pages, pages + page);
}

static inline struct ds_stream *apart_stream(struct ds_device *device, unsigned queue)
{
    (void)queue;
    return device->stream;
}

static inline int apart_events(struct ds_device *device, unsigned count, struct ds_error *err)
{
    (void)device;
    (void)count;
    return apart_call(err);
}

static inline int apart_copy(struct ds_stream *stream, enum ds_copy_way way, void *to,
                             const void *from, size_t bytes, struct ds_error *err)
{
    int rc = apart_call(err);

    (void)stream;
    (void)way;
    if (rc == 0 && !apart_keep((struct apart_done){APART_COPY, .args.copy = {to, from, bytes}}))
        memcpy(to, from, bytes);
    return rc;
}

static inline int apart_clear(struct ds_stream *stream, void *to, size_t bytes,
                              struct ds_error *err)
{
    int rc = apart_call(err);

    (void)stream;
    if (rc == 0 && !apart_keep((struct apart_done){APART_CLEAR, .args.copy = {to, NULL, bytes}}))
        memset(to, 0, bytes);
    return rc;
}

static inline int apart_event(struct ds_stream *stream, unsigned event, struct ds_error *err)
{
    (void)stream;
    (void)event;
    return apart_call(err);
}

static inline int apart_finish(struct ds_stream *stream, struct ds_error *err)
{
    (void)stream;
    return apart_call(err);
}

static inline int apart_await(struct ds_device *device, unsigned event, struct ds_error *err)
{
    (void)device;
    (void)event;
    return apart_call(err);
}

static inline int apart_enter(struct ds_device *device, struct ds_error *err)
{
    (void)device;
    return apart_call(err);
}

static inline void *apart_handle(struct ds_stream *stream)
{
    return stream;
}

static inline int apart_memory(struct ds_device *device, uint64_t *left, uint64_t *all,
                               struct ds_error *err)
{
    (void)device;
    *left = *all = 1u << 30;
    return apart_call(err);
}

static inline int apart_record(struct ds_stream *stream, struct ds_error *err)
{
    int rc = apart_call(err);

    (void)stream;
    if (rc != 0)
        return rc;
    apart_recording = calloc(1, sizeof(*apart_recording));
    if (apart_recording == NULL)
        abort();
    apart.held++;
    return 0;
}

static inline void apart_drop(struct ds_recording *recording)
{
    apart.held--;
    free(recording);
}

/* Whatever it says, the stream goes on. */
static inline int apart_record_end(struct ds_stream *stream, struct ds_recording **out,
                                   struct ds_error *err)
{
    int rc = apart_call(err);

    (void)stream;
    if (rc == 0)
        *out = apart_recording;
    else
        apart_drop(apart_recording);
    apart_recording = NULL;
    return rc;
}

static inline int apart_again(const struct apart_done *done, struct ds_stream *stream,
                              struct ds_error *err)
{
    if (done->what == APART_COPY)
        memcpy(done->args.copy.to, done->args.copy.from, done->args.copy.bytes);
    if (done->what == APART_CLEAR)
        memset(done->args.copy.to, 0, done->args.copy.bytes);
    if (done->what != APART_OP)
        return 0;
    switch (done->op) {
#define X(id, fn)                                                                                  \
    case DS_OP_##id: return apart.inside->fn(&done->args.fn, stream, err);
        DS_OPS(X)
#undef X
    case DS_OP_COUNT: break;
    }
    abort();
}

static inline int apart_play(struct ds_stream *stream, const struct ds_recording *recording,
                             struct ds_error *err)
{
    int rc = apart_call(err);

    for (size_t i = 0; rc == 0 && i < recording->count; i++)
        rc = apart_again(&recording->done[i], stream, err);
    apart.played++;
    return rc;
}

static inline const char *apart_note(struct ds_device *device)
{
    (void)device;
    return NULL;
}

static const struct ds_backend_queues apart_queues = {
    .stream = apart_stream,
    .events = apart_events,
    .host_alloc = apart_alloc,
    .host_free = apart_free,
    .copy = apart_copy,
    .clear = apart_clear,
    .signal = apart_event,
    .await = apart_event,
    .finish = apart_finish,
    .await_event = apart_await,
    .enter = apart_enter,
    .handle = apart_handle,
    .memory = apart_memory,
    .record = apart_record,
    .record_end = apart_record_end,
    .play = apart_play,
    .record_drop = apart_drop,
    .note = apart_note,
};

/* From now on devices can be this one, whose call number `nth` fails; 0: none. */
static inline void apart_prepare(const struct ds_kernels *inside, bool with_queues,
                                 enum apart_breaks breaks, unsigned nth)
{
    memset(&apart, 0, sizeof(apart));
    apart.backend = ds_backend_cpu;
    apart.backend.alloc = apart_alloc;
    apart.backend.free = apart_free;
    apart.backend.queues = with_queues ? &apart_queues : NULL;
    apart.inside = inside;
    apart.breaks = breaks;
    apart.nth = nth;
}

static inline void apart_take(struct ds_device *device)
{
    device->backend = &apart.backend;
    device->stream->kernels = &apart_kernels;
}

static inline void apart_begin(struct ds_device *device, bool with_queues, enum apart_breaks breaks,
                               unsigned nth)
{
    apart_prepare(device->stream->kernels, with_queues, breaks, nth);
    apart_take(device);
}

#endif
