/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * timer.c - the device's clock, by which matrix products are measured: events that carry times.
 */
#include <cuda_runtime_api.h>
#include <stddef.h>

#include "base/clock.h"
#include "kernels/cuda/matmul.h"
#include "kernels/probe.h"

static struct ds_device *owner;

void ds__cuda_timer_of(struct ds_device *device)
{
    owner = device;
}

static int told(const char *name, uint64_t began_ns, cudaError_t error)
{
    if (owner != NULL)
        ds__device_waited(owner, name, began_ns);
    return (int)error;
}

static int create(void **event)
{
    cudaEvent_t made = NULL;
    cudaError_t error = cudaEventCreateWithFlags(&made, 0);

    *event = made;
    return (int)error;
}

static int record(void *event, void *stream)
{
    return (int)cudaEventRecord(event, stream);
}

static int wait(void *event)
{
    uint64_t began = ds_clock_mono_ns();

    return told("cudaEventSynchronize", began, cudaEventSynchronize(event));
}

static int elapsed(float *ms, void *begin, void *end)
{
    return (int)cudaEventElapsedTime(ms, begin, end);
}

static int destroy(void *event)
{
    return (int)cudaEventDestroy(event);
}

static int alloc(void **memory, size_t bytes)
{
    uint64_t began = ds_clock_mono_ns();

    return told("cudaMalloc", began, cudaMalloc(memory, bytes));
}

static int release(void *memory)
{
    uint64_t began = ds_clock_mono_ns();

    return told("cudaFree", began, cudaFree(memory));
}

static int read_back(void *to, const void *from, size_t bytes, void *stream)
{
    uint64_t began = ds_clock_mono_ns();
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream);

    if (error == cudaSuccess)
        error = cudaStreamSynchronize(stream);
    return told("cudaStreamSynchronize", began, error);
}

const struct ds_cuda_timer ds__cuda_timer = {.create = create,
                                             .record = record,
                                             .wait = wait,
                                             .elapsed = elapsed,
                                             .destroy = destroy,
                                             .alloc = alloc,
                                             .free = release,
                                             .read = read_back};
