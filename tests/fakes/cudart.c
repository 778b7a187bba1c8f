/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudart.c - a CUDA runtime without a device; what it does is told in fake.h.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/fakes/stream.h"
#include "tests/support/mapped.h"

enum { STICKY = 700, PINNED = 256 };
#define REGION ((size_t)8 << 30)

struct fake_event {
    struct fake_stream *stream; /* NULL: never recorded */
    uint64_t ticket;
    uint64_t ns; /* when it was recorded */
};

static struct {
    pthread_mutex_t lock;
    char *memory; /* REGION bytes, PROT_NONE while nobody is inside */
    size_t used, live;
    unsigned inside;
    int sticky, last;
    struct {
        char *begin, *end;
    } pinned[PINNED];
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

_Thread_local struct fake_stream *fake_capturing;

int fake_fault(const char *name)
{
    const char *wish = getenv("FAKE_CUDA_FAIL"), *rank = getenv("FAKE_CUDA_RANK");
    unsigned long count = fake_count(name), at;
    size_t length = strlen(name);
    char *end;

    if (fake.sticky != 0)
        return fake.sticky;
    if (wish == NULL || strncmp(wish, name, length) != 0 || wish[length] != ':' ||
        (rank != NULL && (getenv("RANK") == NULL || strcmp(getenv("RANK"), rank) != 0)))
        return 0;
    at = strtoul(wish + length + 1, &end, 10);
    if (count != at || *end != ':')
        return 0;
    fake.last = (int)strtol(end + 1, NULL, 10);
    if (fake.last >= STICKY)
        fake.sticky = fake.last;
    return fake.last;
}

/* --- memory
 * ------------------------------------------------------------------------------------- */

static void protect(int rights)
{
    if (mprotect(fake.memory, fake.used, rights) != 0)
        abort();
}

/* Who gives kernels memory of the host alone has nothing to protect, and a launch is cheaper. */
static bool is_open(void)
{
    static int open = -1;

    if (open < 0)
        open = fake_number("FAKE_CUDA_OPEN", 0) != 0;
    return open > 0;
}

void fake_open(void)
{
    pthread_mutex_lock(&fake.lock);
    if (fake.inside++ == 0 && fake.used > 0 && !is_open())
        protect(PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&fake.lock);
}

void fake_close(void)
{
    pthread_mutex_lock(&fake.lock);
    if (--fake.inside == 0 && fake.used > 0 && !is_open())
        protect(PROT_NONE);
    pthread_mutex_unlock(&fake.lock);
}

static bool on_device(const void *p)
{
    return fake.memory != NULL && (const char *)p >= fake.memory &&
           (const char *)p < fake.memory + fake.used;
}

enum { PAGE = 4096, BEHIND = 64, FRESH = 0xff };

/* In large pages where there are: each launch changes the rights of all that is used, page by page. */
static char *reserve(void)
{
    const size_t large = (size_t)2 << 20;
    char *all =
        mmap(NULL, REGION + large, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (all == MAP_FAILED)
        abort();
    all += large - (uintptr_t)all % large;
    (void)madvise(all, REGION, MADV_HUGEPAGE);
    return all;
}

/* The pages of an allocation: its size in front, then its bytes, then some that nobody may write. */
static size_t pages(size_t bytes)
{
    return PAGE + (bytes + BEHIND + PAGE - 1) / PAGE * PAGE;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    size_t whole = pages(bytes);
    char *at;

    FAKE_FAULT();
    NOT_CAPTURED();
    pthread_mutex_lock(&fake.lock);
    if (fake.memory == NULL)
        fake.memory = reserve();
    if (fake.live + bytes > fake_number("FAKE_CUDA_MEMORY", 2ul << 30) ||
        fake.used + whole > REGION) {
        fake.last = cudaErrorMemoryAllocation;
        pthread_mutex_unlock(&fake.lock);
        return cudaErrorMemoryAllocation;
    }
    at = fake.memory + fake.used;
    fake.used += whole;
    fake.live += bytes;
    protect(PROT_READ | PROT_WRITE);
    memcpy(at, &bytes, sizeof(bytes));
    memset(at + PAGE, FRESH, bytes + BEHIND);
    if (fake.inside == 0 && !is_open())
        protect(PROT_NONE);
    pthread_mutex_unlock(&fake.lock);
    *memory = at + PAGE;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    size_t bytes;

    if (memory == NULL)
        return cudaSuccess;
    NOT_CAPTURED();
    fake_open();
    memcpy(&bytes, (char *)memory - PAGE, sizeof(bytes));
    for (size_t i = 0; i < BEHIND; i++)
        if (((unsigned char *)memory)[bytes + i] != FRESH) {
            fprintf(stderr, "fake CUDA: %zu bytes of memory were written past their end\n", bytes);
            abort();
        }
    fake_close();
    pthread_mutex_lock(&fake.lock);
    fake.live -= bytes;
    pthread_mutex_unlock(&fake.lock);
    (void)madvise(memory, bytes, MADV_DONTNEED);
    return cudaSuccess;
}

/* The place of memory that stays where it is; PINNED: of none that holds `p`. */
static unsigned pinned_at(const void *p)
{
    unsigned i = 0;

    while (i < PINNED &&
           !((const char *)p >= fake.pinned[i].begin && (const char *)p < fake.pinned[i].end))
        i++;
    return i;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    unsigned free_at = 0;

    (void)flags;
    FAKE_FAULT();
    NOT_CAPTURED();
    *memory = malloc(bytes);
    if (*memory == NULL)
        return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&fake.lock);
    while (free_at < PINNED && fake.pinned[free_at].begin != NULL)
        free_at++;
    if (free_at == PINNED)
        abort();
    fake.pinned[free_at].begin = *memory;
    fake.pinned[free_at].end = (char *)*memory + bytes;
    pthread_mutex_unlock(&fake.lock);
    return cudaSuccess;
}

static bool is_pinned(const void *p)
{
    bool yes;

    pthread_mutex_lock(&fake.lock);
    yes = pinned_at(p) < PINNED;
    pthread_mutex_unlock(&fake.lock);
    return yes;
}

cudaError_t cudaFreeHost(void *memory)
{
    unsigned at;

    NOT_CAPTURED();
    pthread_mutex_lock(&fake.lock);
    at = pinned_at(memory);
    if (at == PINNED)
        abort();
    fake.pinned[at].begin = fake.pinned[at].end = NULL;
    pthread_mutex_unlock(&fake.lock);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
    *all = fake_number("FAKE_CUDA_MEMORY", 2ul << 30);
    *left = fake_is_full() ? 1ul << 20 : *all - fake.live;
    return cudaSuccess;
}

static bool in_reach(const void *p)
{
    return on_device(p) || is_pinned(p);
}

void fake_given(const char *kernel, const void *arg, size_t bytes)
{
    uintptr_t stranger = is_open() ? 0 : mapped_stranger(arg, bytes, in_reach);

    if (stranger == 0)
        return;
    fprintf(stderr, "fake CUDA: kernel '%s' was given %#jx, which is memory of the host\n", kernel,
            (uintmax_t)stranger);
    abort();
}

/* --- streams and events
 * ------------------------------------------------------------------------- */

static void *serve(void *arg)
{
    struct fake_stream *stream = arg;

    pthread_mutex_lock(&stream->lock);
    for (;;) {
        struct fake_task *task = stream->first;

        if (task == NULL && stream->over)
            break;
        if (task == NULL || (task->lazy && stream->wanted <= stream->done && !stream->over)) {
            pthread_cond_wait(&stream->changed, &stream->lock);
            continue;
        }
        pthread_mutex_unlock(&stream->lock);
        task->run(task->arg);
        pthread_mutex_lock(&stream->lock);
        stream->first = task->next;
        if (stream->first == NULL)
            stream->last = &stream->first;
        stream->done++;
        pthread_cond_broadcast(&stream->changed);
        free(task);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

struct fake_task *fake_task(void (*run)(void *arg), void *arg, bool lazy)
{
    struct fake_task *task = calloc(1, sizeof(*task));

    if (task == NULL)
        abort();
    *task = (struct fake_task){.run = run, .arg = arg, .lazy = lazy};
    return task;
}

static void defer(cudaStream_t stream, void (*run)(void *arg), void *arg, bool lazy)
{
    struct fake_task *task = fake_task(run, arg, lazy);

    if (stream->capture != NULL)
        abort(); /* nothing of this is captured here */
    pthread_mutex_lock(&stream->lock);
    *stream->last = task;
    stream->last = &task->next;
    stream->pushed++;
    if (!lazy) /* it goes on by itself, and all in front of it */
        stream->wanted = stream->pushed;
    if (!stream->threaded && pthread_create(&stream->thread, NULL, serve, stream) != 0)
        abort();
    stream->threaded = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

void fake_defer(cudaStream_t stream, void (*run)(void *arg), void *arg)
{
    defer(stream, run, arg, false);
}

static void reach(struct fake_stream *stream, uint64_t ticket)
{
    pthread_mutex_lock(&stream->lock);
    if (stream->wanted < ticket)
        stream->wanted = ticket;
    pthread_cond_broadcast(&stream->changed);
    while (stream->done < ticket)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}

static uint64_t pushed(struct fake_stream *stream)
{
    uint64_t ticket;

    pthread_mutex_lock(&stream->lock);
    ticket = stream->pushed;
    pthread_mutex_unlock(&stream->lock);
    return ticket;
}

void fake_drain(struct fake_stream *stream)
{
    reach(stream, pushed(stream));
}

static bool happened(const struct fake_event *event)
{
    bool yes;

    if (event->stream == NULL)
        return true;
    pthread_mutex_lock(&event->stream->lock);
    yes = event->stream->done >= event->ticket;
    pthread_mutex_unlock(&event->stream->lock);
    return yes;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    (void)flags;
    (void)priority;
    FAKE_FAULT();
    *stream = calloc(1, sizeof(**stream));
    if (*stream == NULL)
        abort();
    pthread_mutex_init(&(*stream)->lock, NULL);
    pthread_cond_init(&(*stream)->changed, NULL);
    (*stream)->last = &(*stream)->first;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->over = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    if (stream->threaded)
        pthread_join(stream->thread, NULL);
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    FAKE_FAULT();
    NOT_CAPTURED();
    fake_drain(stream);
    return (cudaError_t)fake.sticky;
}

static void wait_event(void *arg)
{
    struct fake_event *copy = arg;

    reach(copy->stream, copy->ticket);
    free(copy);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    struct fake_event *copy;

    (void)flags;
    FAKE_FAULT();
    if (stream->capture != NULL) { /* the event is none of the capture */
        stream->broken = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (happened(event) || event->stream == stream)
        return cudaSuccess;
    copy = malloc(sizeof(*copy));
    if (copy == NULL)
        abort();
    *copy = *event;
    fake_defer(stream, wait_event, copy);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    FAKE_FAULT();
    *event = calloc(1, sizeof(**event));
    return *event == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    FAKE_FAULT();
    NOT_CAPTURED(); /* CUDA would take it into the graph; nobody is to want that here */
    *event = (struct fake_event){.stream = stream, .ticket = pushed(stream), .ns = now_ns()};
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return happened(event) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    FAKE_FAULT();
    if (event->stream != NULL)
        reach(event->stream, event->ticket);
    return (cudaError_t)fake.sticky;
}

/* Of what is in between: products are done when the call returns. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    FAKE_FAULT();
    *ms = (float)(end->ns - begin->ns) / 1e6f;
    return happened(end) ? cudaSuccess : cudaErrorNotReady;
}

/* --- work
 * --------------------------------------------------------------------------------------- */

int fake_launch(void *stream)
{
    int fault = fake_fault("launch");

    if (fault != 0)
        return fault;
    fake_drain(stream);
    fake_open();
    return 0;
}

void fake_launched(void)
{
    fake_close();
}

static bool right_sides(const void *to, const void *from, enum cudaMemcpyKind kind)
{
    bool up = kind == cudaMemcpyHostToDevice, down = kind == cudaMemcpyDeviceToHost;

    return on_device(to) == !down && on_device(from) == !up;
}

struct move { /* a copy, or with no source a memset */
    void *to;
    const void *from;
    size_t bytes;
    int value;
};

static void run_move(void *arg)
{
    const struct move *move = arg;

    if (move->from != NULL)
        memcpy(move->to, move->from, move->bytes);
    else
        memset(move->to, move->value, move->bytes);
}

static void run_late(void *arg)
{
    fake_open();
    run_move(arg);
    fake_close();
    free(arg);
}

static cudaError_t start(struct move wanted, bool late, cudaStream_t stream)
{
    struct move *move = malloc(sizeof(*move));

    if (move == NULL)
        abort();
    *move = wanted;
    if (fake_kept(stream, run_move, move))
        return cudaSuccess;
    if (late) {
        defer(stream, run_late, move, true);
        return cudaSuccess;
    }
    fake_drain(stream);
    run_late(move);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    bool late = (kind == cudaMemcpyHostToDevice && is_pinned(from)) ||
                (kind == cudaMemcpyDeviceToHost && is_pinned(to));

    FAKE_FAULT();
    if (!right_sides(to, from, kind))
        return cudaErrorInvalidValue;
    return start((struct move){.to = to, .from = from, .bytes = bytes}, late, stream);
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    FAKE_FAULT();
    NOT_CAPTURED();
    if (!on_device(memory))
        return cudaErrorInvalidValue;
    fake_open();
    memset(memory, value, bytes);
    fake_close();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    FAKE_FAULT();
    if (!on_device(memory))
        return cudaErrorInvalidValue;
    return start((struct move){.to = memory, .bytes = bytes, .value = value}, false, stream);
}

/* --- all of it
 * ------------------------------------------------------------------------------------ */

cudaError_t cudaDeviceSynchronize(void)
{
    FAKE_FAULT();
    NOT_CAPTURED();
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    int last = fake.sticky != 0 ? fake.sticky : fake.last;

    fake.last = 0;
    return (cudaError_t)last;
}
