/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cpu.h - the CPU backend's stream: a pool of threads and a scratch area.
 *
 * Private to kernels/cpu.
 */
#ifndef DS_KERNELS_CPU_CPU_H
#define DS_KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/pool.h"

struct ds_gemm;

struct ds_cpu_stream {
    struct ds_stream stream; /* first */
    struct ds_pool *pool;
    struct ds_gemm *gemm;                 /* matrix products of oneDNN */
    double (*multiply_add)(size_t turns); /* peak.c */
    char *scratch;                        /* page-aligned */
    size_t scratch_bytes;
};

static inline struct ds_cpu_stream *ds__cpu_stream(struct ds_stream *stream)
{
    return (struct ds_cpu_stream *)(void *)stream;
}

static inline unsigned ds__cpu_threads(struct ds_stream *stream)
{
    return ds__pool_threads(ds__cpu_stream(stream)->pool);
}

/* The first `bytes` of the stream's scratch area; -ENOMEM when it was made too small. */
int ds__cpu_scratch(struct ds_stream *stream, size_t bytes, void *out, struct ds_error *err)
    DS_NODISCARD;

static inline void ds__cpu_run(struct ds_stream *stream, size_t tasks, ds_task_fn *fn, void *arg)
{
    ds__pool_run(ds__cpu_stream(stream)->pool, tasks, fn, arg);
}

static inline size_t ds__div_up(size_t n, size_t by)
{
    return n / by + (n % by != 0);
}

static inline size_t ds__min(size_t a, size_t b)
{
    return a < b ? a : b;
}

#endif
