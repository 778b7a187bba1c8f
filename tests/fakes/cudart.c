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

#include "tests/fakes/fake.h"

enum { CALLS = 32, NAME = 40, STICKY = 700 };
#define REGION ((size_t)8 << 30)

struct task {
    void (*run)(void *arg);
    void *arg;
    struct task *next;
};

struct fake_stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct task *first, **last;
    uint64_t pushed, done;
    bool over, threaded;
    pthread_t thread;
};

struct fake_event {
    struct fake_stream *stream; /* NULL: never recorded */
    uint64_t ticket;
};

static struct {
    pthread_mutex_t lock;
    char *memory; /* REGION bytes, PROT_NONE while nobody is inside */
    size_t used, live;
    unsigned inside;
    struct {
        char name[NAME];
        unsigned long count;
    } call[CALLS];
    int sticky, last;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned long number(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);

    return text == NULL ? otherwise : strtoul(text, NULL, 10);
}

/* How often this was called, this time included. */
static unsigned long count_call(const char *name)
{
    unsigned long count = 0;

    pthread_mutex_lock(&fake.lock);
    for (unsigned i = 0; i < CALLS && count == 0; i++) {
        if (fake.call[i].name[0] == '\0')
            snprintf(fake.call[i].name, NAME, "%s", name);
        if (strcmp(fake.call[i].name, name) == 0)
            count = ++fake.call[i].count;
    }
    pthread_mutex_unlock(&fake.lock);
    return count;
}

__attribute__((destructor)) static void tell_counts(void)
{
    const char *path = getenv("FAKE_CUDA_COUNT");
    FILE *file = path == NULL ? NULL : fopen(path, "we");

    for (unsigned i = 0; file != NULL && i < CALLS && fake.call[i].name[0] != '\0'; i++)
        fprintf(file, "%s %lu\n", fake.call[i].name, fake.call[i].count);
    if (file != NULL)
        fclose(file);
}

int fake_fault(const char *name)
{
    const char *wish = getenv("FAKE_CUDA_FAIL"), *rank = getenv("FAKE_CUDA_RANK");
    unsigned long count = count_call(name), at;
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

#define FAULT()                                                                                    \
    do {                                                                                           \
        int fault = fake_fault(__func__);                                                          \
        if (fault != 0)                                                                            \
            return (cudaError_t)fault;                                                             \
    } while (0)

/* --- memory
 * ------------------------------------------------------------------------------------- */

static void protect(int rights)
{
    if (mprotect(fake.memory, fake.used, rights) != 0)
        abort();
}

void fake_open(void)
{
    pthread_mutex_lock(&fake.lock);
    if (fake.inside++ == 0 && fake.used > 0)
        protect(PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&fake.lock);
}

void fake_close(void)
{
    pthread_mutex_lock(&fake.lock);
    if (--fake.inside == 0 && fake.used > 0)
        protect(PROT_NONE);
    pthread_mutex_unlock(&fake.lock);
}

static bool on_device(const void *p)
{
    return fake.memory != NULL && (const char *)p >= fake.memory &&
           (const char *)p < fake.memory + fake.used;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    size_t whole = (bytes + 4095) / 4096 * 4096 + 4096; /* room for its size in front */
    char *at;

    FAULT();
    pthread_mutex_lock(&fake.lock);
    if (fake.memory == NULL)
        fake.memory =
            mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fake.memory == MAP_FAILED)
        abort();
    if (fake.live + bytes > number("FAKE_CUDA_MEMORY", 1ul << 30) || fake.used + whole > REGION) {
        fake.last = cudaErrorMemoryAllocation;
        pthread_mutex_unlock(&fake.lock);
        return cudaErrorMemoryAllocation;
    }
    at = fake.memory + fake.used;
    fake.used += whole;
    fake.live += bytes;
    protect(PROT_READ | PROT_WRITE);
    memcpy(at, &bytes, sizeof(bytes));
    memset(at + 4096, 0xff, bytes);
    if (fake.inside == 0)
        protect(PROT_NONE);
    pthread_mutex_unlock(&fake.lock);
    *memory = at + 4096;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    size_t bytes;

    if (memory == NULL)
        return cudaSuccess;
    fake_open();
    memcpy(&bytes, (char *)memory - 4096, sizeof(bytes));
    fake_close();
    pthread_mutex_lock(&fake.lock);
    fake.live -= bytes;
    pthread_mutex_unlock(&fake.lock);
    (void)madvise(memory, bytes, MADV_DONTNEED);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    (void)flags;
    FAULT();
    *memory = malloc(bytes);
    return *memory == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
    *all = number("FAKE_CUDA_MEMORY", 1ul << 30);
    *left = *all - fake.live;
    return cudaSuccess;
}

/* --- streams and events
 * ------------------------------------------------------------------------- */

static void *serve(void *arg)
{
    struct fake_stream *stream = arg;

    pthread_mutex_lock(&stream->lock);
    for (;;) {
        struct task *task = stream->first;

        if (task == NULL && stream->over)
            break;
        if (task == NULL) {
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

void fake_defer(cudaStream_t stream, void (*run)(void *arg), void *arg)
{
    struct task *task = calloc(1, sizeof(*task));

    if (task == NULL)
        abort();
    *task = (struct task){.run = run, .arg = arg};
    pthread_mutex_lock(&stream->lock);
    *stream->last = task;
    stream->last = &task->next;
    stream->pushed++;
    if (!stream->threaded && pthread_create(&stream->thread, NULL, serve, stream) != 0)
        abort();
    stream->threaded = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

static void reach(struct fake_stream *stream, uint64_t ticket)
{
    pthread_mutex_lock(&stream->lock);
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

static void drain(struct fake_stream *stream)
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
    FAULT();
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
    FAULT();
    drain(stream);
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
    FAULT();
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
    FAULT();
    *event = calloc(1, sizeof(**event));
    return *event == NULL ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    FAULT();
    *event = (struct fake_event){.stream = stream, .ticket = pushed(stream)};
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return happened(event) ? cudaSuccess : cudaErrorNotReady;
}

/* --- work
 * --------------------------------------------------------------------------------------- */

int fake_launch(void *stream)
{
    int fault = fake_fault("launch");

    if (fault != 0)
        return fault;
    drain(stream);
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

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    FAULT();
    if (!right_sides(to, from, kind))
        return cudaErrorInvalidValue;
    drain(stream);
    fake_open();
    memcpy(to, from, bytes);
    fake_close();
    return cudaSuccess;
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    FAULT();
    if (!on_device(memory))
        return cudaErrorInvalidValue;
    fake_open();
    memset(memory, value, bytes);
    fake_close();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    FAULT();
    drain(stream);
    return cudaMemset(memory, value, bytes);
}

/* --- the device
 * --------------------------------------------------------------------------------- */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)number("FAKE_CUDA_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    FAULT();
    if (number("FAKE_CUDA_DRIVER", 13000) < 13000)
        return cudaErrorInsufficientDriver;
    *count = (int)number("FAKE_CUDA_DEVICES", 1);
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

static int current;

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    FAULT();
    if (device < 0 || device >= (int)number("FAKE_CUDA_DEVICES", 1))
        return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    (void)device;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = (int)number("FAKE_CUDA_MAJOR", 9); break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrClockRate: *value = 1000000; break;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    FAULT();
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    int last = fake.sticky != 0 ? fake.sticky : fake.last;

    fake.last = 0;
    return (cudaError_t)last;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    }
    return "unrecognized error code";
}

const char *fake_error_string(int error)
{
    return cudaGetErrorString((cudaError_t)error);
}
