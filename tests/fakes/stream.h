/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * stream.h - streams of the fake runtime as its own files see them.
 */
#ifndef DS_TESTS_FAKES_STREAM_H
#define DS_TESTS_FAKES_STREAM_H

#include <pthread.h>
#include <stdint.h>

#include "tests/fakes/fake.h"

struct fake_task {
    void (*run)(void *arg);
    void *arg;
    bool lazy; /* starts when somebody waits for it, or for what is behind it */
    struct fake_task *next;
};

struct fake_graph { /* of a capture, and of what was instantiated from it */
    struct fake_task *first, **last;
    unsigned users;
};

struct fake_graph_exec {
    struct fake_graph *graph;
};

struct fake_stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fake_task *first, **last;
    uint64_t pushed, done, wanted;
    bool over, threaded;
    struct fake_graph *capture; /* under way; NULL: none */
    bool broken;                /* that capture */
    pthread_t thread;
};

extern _Thread_local struct fake_stream *fake_capturing; /* what this thread captures */

/* What cannot be asked for while this thread captures a stream. */
#define NOT_CAPTURED()                                                                             \
    do {                                                                                           \
        if (fake_capturing != NULL) {                                                              \
            fake_capturing->broken = true;                                                         \
            return cudaErrorStreamCaptureUnsupported;                                              \
        }                                                                                          \
    } while (0)

struct fake_task *fake_task(void (*run)(void *arg), void *arg, bool lazy);
/* Wait for all that the stream holds. */
void fake_drain(struct fake_stream *stream);

#endif
