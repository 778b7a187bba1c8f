/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * graph.c - captures of the fake runtime, and what is launched of them; see fake.h.
 */
#include <stdlib.h>

#include "tests/fakes/stream.h"

bool fake_kept(void *stream, void (*run)(void *arg), void *arg)
{
    struct fake_graph *graph = ((struct fake_stream *)stream)->capture;

    if (graph == NULL)
        return false;
    *graph->last = fake_task(run, arg, false);
    graph->last = &(*graph->last)->next;
    return true;
}

static void let_go(struct fake_graph *graph)
{
    if (--graph->users > 0)
        return;
    while (graph->first != NULL) {
        struct fake_task *task = graph->first;

        graph->first = task->next;
        free(task->arg);
        free(task);
    }
    free(graph);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    FAKE_FAULT();
    NOT_CAPTURED();
    if (mode != cudaStreamCaptureModeThreadLocal)
        return cudaErrorInvalidValue; /* NCCL's threads do what breaks any other */
    stream->capture = calloc(1, sizeof(*stream->capture));
    if (stream->capture == NULL)
        abort();
    stream->capture->last = &stream->capture->first;
    stream->capture->users = 1;
    stream->broken = false;
    fake_capturing = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    int fault = fake_fault(__func__);

    *graph = stream->capture;
    stream->capture = NULL;
    fake_capturing = NULL;
    if (fault == 0 && stream->broken)
        fault = cudaErrorStreamCaptureInvalidated;
    if (fault == 0)
        return cudaSuccess;
    let_go(*graph);
    *graph = NULL;
    return (cudaError_t)fault;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    FAKE_FAULT();
    NOT_CAPTURED();
    *exec = malloc(sizeof(**exec));
    if (*exec == NULL)
        abort();
    (*exec)->graph = graph;
    graph->users++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    FAKE_FAULT();
    NOT_CAPTURED();
    fake_drain(stream);
    fake_open();
    for (struct fake_task *task = exec->graph->first; task != NULL; task = task->next)
        task->run(task->arg);
    fake_close();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    let_go(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    let_go(exec->graph);
    free(exec);
    return cudaSuccess;
}
