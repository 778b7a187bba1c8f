/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * graph.c - recordings of what is queued on a stream: CUDA graphs.
 *
 * Only this thread's calls count as made during the capture: NCCL's threads and the watchdog go on
 * as they like.  An instance keeps no reference to the graph that it was made of.
 *
 * Tests   tests/e2e/cuda.py
 */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/cuda/graph.h"

struct ds_recording {
    cudaGraphExec_t exec;
};

static cudaStream_t handle_of(struct ds_stream *stream)
{
    return (cudaStream_t)((struct ds_cuda_stream *)(void *)stream)->stream;
}

static int fail(cudaError_t error, const char *what, struct ds_error *err)
{
    (void)cudaGetLastError(); /* else the next launch would be told of it again */
    return ds_fail(err, EIO, "CUDA cannot %s: %s", what, cudaGetErrorString(error));
}

int ds__cuda_record(struct ds_stream *stream, struct ds_error *err)
{
    cudaError_t error = cudaStreamBeginCapture(handle_of(stream), cudaStreamCaptureModeThreadLocal);

    return error == cudaSuccess ? 0 : fail(error, "capture a stream", err);
}

int ds__cuda_record_end(struct ds_stream *stream, struct ds_recording **out, struct ds_error *err)
{
    struct ds_recording *recording = calloc(1, sizeof(*recording));
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamEndCapture(handle_of(stream), &graph);
    int rc = 0;

    *out = NULL;
    if (recording == NULL)
        rc = ds_fail(err, ENOMEM, "no memory for a graph");
    else if (error != cudaSuccess || graph == NULL)
        rc = fail(error, "capture what was queued", err);
    if (rc == 0) {
        error = cudaGraphInstantiate(&recording->exec, graph, 0);
        rc = error == cudaSuccess ? 0 : fail(error, "make a graph ready", err);
    }
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    if (rc == 0)
        *out = recording;
    else
        free(recording);
    return rc;
}

int ds__cuda_play(struct ds_stream *stream, const struct ds_recording *recording,
                  struct ds_error *err)
{
    cudaError_t error = cudaGraphLaunch(recording->exec, handle_of(stream));

    return error == cudaSuccess ? 0 : fail(error, "launch a graph", err);
}

void ds__cuda_record_drop(struct ds_recording *recording)
{
    if (recording != NULL)
        (void)cudaGraphExecDestroy(recording->exec);
    free(recording);
}
