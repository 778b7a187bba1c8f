/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * marks.c - the contract is in marks.h.
 *
 * CUDA tells the time between two events in milliseconds, in F32: of a step that takes a second to
 * a tenth of a microsecond, of ten to one.
 *
 * Tests   tests/e2e/cuda.py
 */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/cuda/marks.h"

static int fail(cudaError_t error, const char *what, struct ds_error *err)
{
    (void)cudaGetLastError(); /* else the next launch would be told of it again */
    return ds_fail(err, EIO, "CUDA cannot %s: %s", what, cudaGetErrorString(error));
}

void ds__cuda_marks_close(struct ds_cuda_marks *marks)
{
    for (unsigned i = 0; i < marks->count; i++)
        (void)cudaEventDestroy((cudaEvent_t)marks->event[i]);
    free(marks->event);
    *marks = (struct ds_cuda_marks){0};
}

int ds__cuda_marks_room(struct ds_cuda_marks *marks, unsigned count, struct ds_error *err)
{
    void **more;

    if (count <= marks->count)
        return 0;
    more = realloc(marks->event, count * sizeof(*more));
    if (more == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u marks", count);
    marks->event = more;
    for (; marks->count < count; marks->count++) {
        cudaEvent_t made = NULL;
        cudaError_t error = cudaEventCreateWithFlags(&made, 0);

        if (error != cudaSuccess)
            return fail(error, "make an event that carries its time", err);
        marks->event[marks->count] = made;
    }
    return 0;
}

int ds__cuda_mark(const struct ds_cuda_marks *marks, unsigned number, void *stream,
                  struct ds_error *err)
{
    cudaError_t error = cudaEventRecord((cudaEvent_t)marks->event[number], (cudaStream_t)stream);

    return error == cudaSuccess ? 0 : fail(error, "record an event that carries its time", err);
}

int ds__cuda_mark_time(const struct ds_cuda_marks *marks, unsigned number, double *seconds,
                       struct ds_error *err)
{
    float ms = 0.0f;
    cudaError_t error =
        cudaEventElapsedTime(&ms, (cudaEvent_t)marks->event[0], (cudaEvent_t)marks->event[number]);

    *seconds = (double)ms * 1e-3;
    return error == cudaSuccess ? 0 : fail(error, "tell the time of an event", err);
}
