/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cuda.c - the CUDA device: memory, a stream for each queue, events, what is wrong in one sentence.
 *
 * Streams do not wait for the default stream, nor it for them.  Reduce and gather have the highest
 * priority, so that what they need of the device's processors is not behind a long product.  Events
 * carry no times.  A failure of the device is for good: CUDA answers every later call with it.
 *
 * Tests   tests/e2e/cuda.py (with a runtime that stands in for CUDA's)
 */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/cuda.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/marks.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/sdpa.h"
#include "kernels/probe.h"
#include "kernels/scratch.h"

struct cuda_device {
    struct ds_device device; /* first */
    struct ds_cuda_stream stream[DS_DEVICE_QUEUES];
    unsigned made; /* streams */
    struct ds_blaslt blaslt;
    struct ds_cudnn cudnn;
    cudaEvent_t *event;
    unsigned events;
    struct ds_cuda_marks marks;
    struct pinned {
        const unsigned char *begin, *end;
    } * pinned; /* memory of the host that was asked for here */
    size_t pinneds;
    int index, major, minor, processors, clock_khz;
    char kind[48];                     /* of devices that compute alike */
    char attention[48];                /* by whom */
    char note[DS_MAX_ERROR_TEXT + 64]; /* to be told once */
    bool told;
};

static struct cuda_device *cuda_of(struct ds_device *device)
{
    return (struct cuda_device *)(void *)device;
}

static struct cuda_device *device_of(const struct ds_stream *stream)
{
    return cuda_of(stream->device);
}

static cudaStream_t handle_of(struct ds_stream *stream)
{
    return (cudaStream_t)((struct ds_cuda_stream *)(void *)stream)->stream;
}

static int fail(const struct cuda_device *cuda, cudaError_t error, const char *what,
                struct ds_error *err)
{
    (void)cudaGetLastError(); /* else the next launch would be told of it again */
    return ds_fail(err, EIO, "CUDA device %d cannot %s: %s", cuda->index, what,
                   cudaGetErrorString(error));
}

/* --- is there a device?
 * ------------------------------------------------------------------------- */

/* Why there is none, from what the runtime answered. */
static int no_device(cudaError_t error, struct ds_error *err)
{
    int driver = 0, runtime = 0;

    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (error == cudaErrorInsufficientDriver && driver == 0)
        return ds_fail(err, ENODEV,
                       "this host has no NVIDIA driver, install it or set 'launch.device' to cpu");
    if (error == cudaErrorInsufficientDriver)
        return ds_fail(err, ENODEV,
                       "the NVIDIA driver of this host is for CUDA %d.%d and %d.%d is needed, "
                       "update it or set 'launch.device' to cpu",
                       driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (error == cudaErrorNoDevice || error == cudaSuccess)
        return ds_fail(err, ENODEV,
                       "this host has an NVIDIA driver and no GPU that this process may use, is "
                       "CUDA_VISIBLE_DEVICES right? Or set 'launch.device' to cpu");
    return ds_fail(err, EIO, "CUDA does not start: %s", cudaGetErrorString(error));
}

int ds_cuda_count(unsigned *count, struct ds_error *err)
{
    int found = 0;
    cudaError_t error = cudaGetDeviceCount(&found);

    *count = 0;
    if (error != cudaSuccess || found <= 0)
        return no_device(error, err);
    *count = (unsigned)found;
    return 0;
}

int ds_cuda_memory(unsigned index, uint64_t *left, uint64_t *all, struct ds_error *err)
{
    size_t now = 0, most = 0;
    cudaError_t error = cudaSetDevice((int)index);

    if (error == cudaSuccess)
        error = cudaMemGetInfo(&now, &most);
    *left = now;
    *all = most;
    return error == cudaSuccess ? 0 : no_device(error, err);
}

/* --- open and close
 * ----------------------------------------------------------------------------- */

static void cuda_close(struct ds_device *device)
{
    struct cuda_device *cuda = cuda_of(device);

    ds__cuda_matmul_close(cuda->stream[0].matmul);
    ds__cuda_sdpa_close(cuda->stream[0].sdpa);
    ds__cuda_timer_of(NULL);
    ds__cuda_marks_close(&cuda->marks);
    for (unsigned i = 0; i < cuda->events; i++)
        (void)cudaEventDestroy(cuda->event[i]);
    for (unsigned i = 0; i < cuda->made; i++) {
        (void)cudaStreamDestroy((cudaStream_t)cuda->stream[i].stream);
        if (cuda->stream[i].scratch != NULL)
            (void)cudaFree(cuda->stream[i].scratch);
    }
    free(cuda->pinned);
    free(cuda->event);
    free(cuda);
}

static int read_attributes(struct cuda_device *cuda, struct ds_error *err)
{
    const struct {
        enum cudaDeviceAttr attribute;
        int *to;
    } wanted[] = {
        {cudaDevAttrComputeCapabilityMajor, &cuda->major},
        {cudaDevAttrComputeCapabilityMinor, &cuda->minor},
        {cudaDevAttrMultiProcessorCount, &cuda->processors},
        {cudaDevAttrClockRate, &cuda->clock_khz},
    };

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        cudaError_t error = cudaDeviceGetAttribute(wanted[i].to, wanted[i].attribute, cuda->index);

        if (error != cudaSuccess)
            return fail(cuda, error, "be asked what it is", err);
    }
    if (cuda->major < 8)
        return ds_fail(err, ENOTSUP,
                       "CUDA device %d has compute capability %d.%d, and 8.0 or later is needed",
                       cuda->index, cuda->major, cuda->minor);
    return 0;
}

static int check_fp8(const struct cuda_device *cuda, struct ds_error *err)
{
    if (cuda->major * 10 + cuda->minor >= 89)
        return 0;
    return ds_fail(
        err, ENOTSUP,
        "CUDA device %d has compute capability %d.%d and multiplies no FP8, 8.9 or later "
        "does; set 'precision.matmul' to compute",
        cuda->index, cuda->major, cuda->minor);
}

static int cuda_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
{
    struct cuda_device *cuda = cuda_of(device);
    size_t left = 0, all = 0;
    uint64_t began = ds_clock_mono_ns();
    cudaError_t error;

    if (bytes == 0 || bytes > PTRDIFF_MAX)
        return ds_fail(err, EINVAL, "cannot allocate %zu bytes", bytes);
    error = cudaMalloc(out, bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&left, &all);
        return ds_fail(err, ENOMEM,
                       "CUDA device %d has %zu of %zu bytes free and %zu are needed, is another "
                       "process on it",
                       cuda->index, left, all, bytes);
    }
    if (error != cudaSuccess)
        return fail(cuda, error, "allocate memory", err);
    error = cudaMemset(*out, 0, bytes);
    if (error == cudaSuccess)
        error = cudaDeviceSynchronize();
    ds__device_waited(device, "cudaMalloc", began);
    if (error == cudaSuccess)
        return 0;
    (void)cudaFree(*out);
    *out = NULL;
    return fail(cuda, error, "clear memory", err);
}

static int make_stream(struct cuda_device *cuda, unsigned queue, struct ds_error *err)
{
    struct ds_cuda_stream *stream = &cuda->stream[queue];
    int least = 0, most = 0;
    bool urgent = queue == 1 || queue == 2; /* reduce, gather */
    cudaStream_t made = NULL;
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &most);

    if (error == cudaSuccess)
        error = cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, urgent ? most : least);
    if (error != cudaSuccess)
        return fail(cuda, error, "make a stream", err);
    stream->base =
        (struct ds_stream){.kernels = &ds__cuda_kernels, .device = &cuda->device, .queue = queue};
    stream->stream = made;
    stream->capability = cuda->major * 10 + cuda->minor;
    cuda->made++;
    return 0;
}

/* Before Hopper cuBLASLt was seen to do GELU of BF16 in a second pass, slower than our kernel
 * (karpathy/llm.c, pull request 338); with DSRUN_CUDA_PRODUCTS it is measured. */
enum { EPILOGUES_FROM = 9 };

/* Results of so many elements take long enough to be worth a choice, and are enough to compare. */
enum { ALIKE_FROM = 1 << 20 };

/* The fastest of the proposals that give the bits of the first, for large shapes, or of all where
 * DSRUN_CUDA_PRODUCTS names a file that remembers it: measured anew it would be another one, and
 * with it the last bits. */
static int open_products(struct cuda_device *cuda, struct ds_error *err)
{
    const char *file = getenv("DSRUN_CUDA_PRODUCTS");
    const struct ds_cuda_matmul_args args = {
        .blaslt = &cuda->blaslt,
        .timer = ds__cuda_timer,
        .choices = file != NULL && file[0] != '\0' ? file : NULL,
        .alike_from = ALIKE_FROM,
        .device = cuda->kind,
        .epilogues = cuda->major >= EPILOGUES_FROM,
    };
    int rc = ds__blaslt_load(&cuda->blaslt, NULL, err);

    (void)snprintf(cuda->kind, sizeof(cuda->kind), "sm_%d%d-%d", cuda->major, cuda->minor,
                   cuda->processors);

    if (rc != 0)
        return ds_error_context(err, -ENOTSUP,
                                "matrix products on GPUs need cuBLASLt, install it or name its "
                                "folder in LD_LIBRARY_PATH");
    ds__cuda_timer_of(&cuda->device);
    return ds__cuda_matmul_open(&cuda->stream[0].matmul, &args, err);
}

/* By cuDNN where there is one that serves, else by our own kernels; DSRUN_CUDA_ATTENTION asks for
 * one of the two. */
static int open_attention(struct cuda_device *cuda, struct ds_error *err)
{
    const char *wish = getenv("DSRUN_CUDA_ATTENTION");
    const struct ds_cuda_sdpa_args args = {
        .cudnn = &cuda->cudnn,
        .stream = cuda->stream[0].stream,
        .capability = cuda->major * 10 + cuda->minor,
        .must = wish != NULL && strcmp(wish, "cudnn") == 0,
    };
    bool own = wish != NULL && strcmp(wish, "own") == 0;
    struct ds_error why = {0};
    size_t version;
    int rc;

    (void)snprintf(cuda->attention, sizeof(cuda->attention), "own attention");
    if (own)
        return 0;
    if (wish != NULL && wish[0] != '\0' && !args.must)
        return ds_fail(err, EINVAL, "DSRUN_CUDA_ATTENTION is '%s', own or cudnn would do", wish);
    rc = ds__cudnn_load(&cuda->cudnn, NULL, &why);
    if (rc == 0)
        rc = ds__cuda_sdpa_open(&cuda->stream[0].sdpa, &args, &why);
    if (rc != 0 && args.must)
        return ds_fail(err, ENOTSUP,
                       "DSRUN_CUDA_ATTENTION asks for cuDNN, which cannot be used: %s", why.text);
    if (rc == -ENOENT)
        return 0;
    if (rc != 0) {
        (void)snprintf(cuda->note, sizeof(cuda->note), "attention is done without cuDNN: %s",
                       why.text);
        return 0;
    }
    version = ds__cuda_sdpa_version(cuda->stream[0].sdpa);
    (void)snprintf(cuda->attention, sizeof(cuda->attention), "attention by cuDNN %zu.%zu.%zu",
                   version / 10000, version / 100 % 100, version % 100);
    return 0;
}

static const char *note(struct ds_device *device)
{
    struct cuda_device *cuda = cuda_of(device);
    const char *said = cuda->told ? NULL : cuda->note;

    cuda->told = true;
    return said != NULL && said[0] != '\0' ? said : ds__cuda_sdpa_note(cuda->stream[0].sdpa);
}

static int fill(struct cuda_device *cuda, const struct ds_device_args *args, struct ds_error *err)
{
    size_t bytes = args->scratch_bytes > DS_DEVICE_SCRATCH_BYTES ? args->scratch_bytes
                                                                 : DS_DEVICE_SCRATCH_BYTES;
    unsigned count = 0;
    cudaError_t error;
    int rc = ds_cuda_count(&count, err);

    if (rc == 0 && args->index >= count)
        rc = ds_fail(err, ENODEV, "there is no CUDA device %u, this process may use %u",
                     args->index, count);
    if (rc != 0)
        return rc;
    cuda->index = (int)args->index;
    error = cudaSetDevice(cuda->index);
    if (error != cudaSuccess)
        return fail(cuda, error, "be used", err);
    rc = read_attributes(cuda, err);
    if (rc == 0 && args->fp8)
        rc = check_fp8(cuda, err);
    for (unsigned i = 0; rc == 0 && i < DS_DEVICE_QUEUES; i++)
        rc = make_stream(cuda, i, err);
    if (rc == 0)
        rc = cuda_alloc(&cuda->device, bytes, &cuda->stream[0].scratch, err);
    cuda->stream[0].scratch_bytes = rc == 0 ? bytes : 0;
    if (rc == 0)
        rc = open_products(cuda, err);
    return rc == 0 ? open_attention(cuda, err) : rc;
}

static int cuda_open(struct ds_device **device, const struct ds_device_args *args,
                     struct ds_error *err)
{
    struct cuda_device *cuda = calloc(1, sizeof(*cuda));
    int rc, runtime = 0;

    if (cuda == NULL)
        return ds_fail(err, ENOMEM, "no memory for a device");
    cuda->device.backend = &ds_backend_cuda;
    cuda->device.stream = &cuda->stream[0].base;
    rc = fill(cuda, args, err);
    if (rc != 0) {
        cuda_close(&cuda->device);
        return rc;
    }
    (void)cudaRuntimeGetVersion(&runtime);
    (void)snprintf(cuda->device.description, sizeof(cuda->device.description),
                   "cuda device %d, sm_%d%d, %d multiprocessors, CUDA %d.%d, %s", cuda->index,
                   cuda->major, cuda->minor, cuda->processors, runtime / 1000, runtime % 1000 / 10,
                   cuda->attention);
    *device = &cuda->device;
    return 0;
}

static int memory(struct ds_device *device, uint64_t *left, uint64_t *all, struct ds_error *err)
{
    size_t now = 0, most = 0;
    cudaError_t error = cudaMemGetInfo(&now, &most);

    *left = now;
    *all = most;
    return error == cudaSuccess ? 0 : fail(cuda_of(device), error, "tell its memory", err);
}

static void cuda_free(struct ds_device *device, void *memory, size_t bytes)
{
    uint64_t began = ds_clock_mono_ns();

    (void)bytes;
    (void)cudaFree(memory);
    ds__device_waited(device, "cudaFree", began);
}

/* What matrix units do on 16-bit types without sparsity, on FP8 twice of that, and the other cores
 * in F32 (TF32 is off), in FLOP per clock and multiprocessor, by compute capability: from NVIDIA's
 * tables of arithmetic throughput. */
static double cuda_peak(struct ds_device *device, enum ds_dtype type)
{
    const struct cuda_device *cuda = cuda_of(device);
    double per_clock = cuda->major >= 10 ? 8192.0 : cuda->major == 9 ? 4096.0 : 2048.0;

    if (type == DS_F32)
        per_clock = cuda->major == 8 && cuda->minor == 0 ? 128.0 : 256.0;
    if (type == DS_U8)
        per_clock *= 2.0;
    return per_clock * cuda->processors * cuda->clock_khz * 1e3;
}

/* --- queues
 * ------------------------------------------------------------------------------------- */

static struct ds_stream *stream(struct ds_device *device, unsigned queue)
{
    return &cuda_of(device)->stream[queue].base;
}

static int events(struct ds_device *device, unsigned count, struct ds_error *err)
{
    struct cuda_device *cuda = cuda_of(device);
    cudaEvent_t *more;

    if (count <= cuda->events)
        return 0;
    more = realloc(cuda->event, count * sizeof(*more));
    if (more == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u events", count);
    cuda->event = more;
    for (; cuda->events < count; cuda->events++) {
        cudaError_t error =
            cudaEventCreateWithFlags(&cuda->event[cuda->events], cudaEventDisableTiming);

        if (error != cudaSuccess)
            return fail(cuda, error, "make an event", err);
    }
    return 0;
}

static int host_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
{
    struct cuda_device *cuda = cuda_of(device);
    struct pinned *more = realloc(cuda->pinned, (cuda->pinneds + 1) * sizeof(*more));
    uint64_t began = ds_clock_mono_ns();
    cudaError_t error;

    if (more == NULL)
        return ds_fail(err, ENOMEM, "no memory to note memory of the host in");
    cuda->pinned = more;
    error = cudaHostAlloc(out, bytes, cudaHostAllocDefault);
    ds__device_waited(device, "cudaHostAlloc", began);
    if (error != cudaSuccess)
        return fail(cuda, error, "get memory of the host that stays where it is", err);
    memset(*out, 0, bytes);
    cuda->pinned[cuda->pinneds++] = (struct pinned){*out, (unsigned char *)*out + bytes};
    return 0;
}

/* The place in the list of what holds all of this memory; its length: none does. */
static size_t pinned_at(const struct cuda_device *cuda, const void *memory, size_t bytes)
{
    const unsigned char *at = memory;
    size_t i = 0;

    while (i < cuda->pinneds && (at < cuda->pinned[i].begin || at >= cuda->pinned[i].end ||
                                 bytes > (size_t)(cuda->pinned[i].end - at)))
        i++;
    return i;
}

static void host_free(struct ds_device *device, void *memory, size_t bytes)
{
    struct cuda_device *cuda = cuda_of(device);
    uint64_t began = ds_clock_mono_ns();
    size_t at = pinned_at(cuda, memory, bytes);

    if (at < cuda->pinneds)
        cuda->pinned[at] = cuda->pinned[--cuda->pinneds];
    (void)cudaFreeHost(memory);
    ds__device_waited(device, "cudaFreeHost", began);
}

static int copy(struct ds_stream *stream, enum ds_copy_way way, void *to, const void *from,
                size_t bytes, struct ds_error *err)
{
    static const enum cudaMemcpyKind kinds[] = {
        [DS_COPY_UP] = cudaMemcpyHostToDevice,
        [DS_COPY_DOWN] = cudaMemcpyDeviceToHost,
        [DS_COPY_ASIDE] = cudaMemcpyDeviceToDevice,
    };
    const struct cuda_device *cuda = device_of(stream);
    const void *host = way == DS_COPY_UP ? from : to;
    uint64_t began = ds_clock_mono_ns();
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kinds[way], handle_of(stream));

    if (way != DS_COPY_ASIDE && pinned_at(cuda, host, bytes) == cuda->pinneds)
        ds__device_waited(stream->device, "cudaMemcpyAsync of memory that may move", began);
    return error == cudaSuccess ? 0 : fail(cuda, error, "copy", err);
}

static int clear(struct ds_stream *stream, void *to, size_t bytes, struct ds_error *err)
{
    cudaError_t error = cudaMemsetAsync(to, 0, bytes, handle_of(stream));

    return error == cudaSuccess ? 0 : fail(device_of(stream), error, "clear memory", err);
}

static int signal_event(struct ds_stream *stream, unsigned event, struct ds_error *err)
{
    cudaError_t error = cudaEventRecord(device_of(stream)->event[event], handle_of(stream));

    return error == cudaSuccess ? 0 : fail(device_of(stream), error, "record an event", err);
}

static int await_event(struct ds_stream *stream, unsigned event, struct ds_error *err)
{
    cudaError_t error = cudaStreamWaitEvent(handle_of(stream), device_of(stream)->event[event], 0);

    return error == cudaSuccess ? 0 : fail(device_of(stream), error, "wait for an event", err);
}

static int finish(struct ds_stream *stream, struct ds_error *err)
{
    uint64_t began = ds_clock_mono_ns();
    cudaError_t error = cudaStreamSynchronize(handle_of(stream));

    ds__device_waited(stream->device, "cudaStreamSynchronize", began);
    return error == cudaSuccess ? 0 : fail(device_of(stream), error, "go on", err);
}

static int host_await(struct ds_device *device, unsigned event, struct ds_error *err)
{
    struct cuda_device *cuda = cuda_of(device);
    uint64_t began = ds_clock_mono_ns();
    cudaError_t error = cudaEventSynchronize(cuda->event[event]);

    ds__device_waited(device, "cudaEventSynchronize", began);
    return error == cudaSuccess ? 0 : fail(cuda, error, "come to an event", err);
}

static int enter(struct ds_device *device, struct ds_error *err)
{
    struct cuda_device *cuda = cuda_of(device);
    cudaError_t error = cudaSetDevice(cuda->index); /* each thread has one of its own */

    return error == cudaSuccess ? 0 : fail(cuda, error, "be used by another thread", err);
}

static void *handle(struct ds_stream *stream)
{
    return handle_of(stream);
}

static int marks(struct ds_device *device, unsigned count, struct ds_error *err)
{
    return ds__cuda_marks_room(&cuda_of(device)->marks, count, err);
}

static int mark(struct ds_stream *stream, unsigned number, struct ds_error *err)
{
    return ds__cuda_mark(&device_of(stream)->marks, number, handle_of(stream), err);
}

static int mark_time(struct ds_device *device, unsigned number, double *seconds,
                     struct ds_error *err)
{
    return ds__cuda_mark_time(&cuda_of(device)->marks, number, seconds, err);
}

static const struct ds_backend_queues queues = {
    .stream = stream,
    .events = events,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .copy = copy,
    .clear = clear,
    .signal = signal_event,
    .await = await_event,
    .finish = finish,
    .await_event = host_await,
    .enter = enter,
    .handle = handle,
    .memory = memory,
    .record = ds__cuda_record,
    .record_end = ds__cuda_record_end,
    .play = ds__cuda_play,
    .record_drop = ds__cuda_record_drop,
    .note = note,
    .marks = marks,
    .mark = mark,
    .mark_time = mark_time,
};

const struct ds_backend ds_backend_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .peak = cuda_peak,
    .queues = &queues,
};
