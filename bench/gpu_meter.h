/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpu_meter.h - what gpu_kernels.c measures with: memory of the device, numbers in it, time.
 *
 * For that program alone, whose one device, stream and block of memory are here.
 */
#ifndef DS_BENCH_GPU_METER_H
#define DS_BENCH_GPU_METER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/amount.h"
#include "kernels/backend.h"
#include "kernels/op.h"

enum { SAMPLES = 7, ROUND_US = 15000, LIMIT_ROUNDS = 200 };

static const size_t ROOM = (size_t)4 << 30;    /* of the largest operands */
static const size_t SCRATCH = (size_t)1 << 30; /* cuDNN's attention takes most */
static size_t shrink = 1;
static struct ds_device *device;
static struct ds_stream *stream;
static struct ds_error err;
static unsigned char *memory;
static size_t taken;

/* A number of rows, sequences or kinds. */
static inline size_t many(size_t n)
{
    return n / shrink > 0 ? n / shrink : 1;
}

static inline size_t units(size_t n)
{
    return (many(n) + DS_FP8_UNIT - 1) / DS_FP8_UNIT * DS_FP8_UNIT;
}

static inline void must(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "gpu_kernels: %s\n", err.text);
    exit(1);
}

/* --- memory ------------------------------------------------------------------------------------*/

static inline void *take(size_t bytes)
{
    void *at = memory + taken;

    taken += (bytes + 255) / 256 * 256;
    if (taken <= ROOM / shrink)
        return at;
    fprintf(stderr, "gpu_kernels: more memory than there is\n");
    exit(1);
}

/* Random numbers around 0, from a block of them that is copied over and over: zeros would be fast
 * without reason. */
static inline void *take_numbers(enum ds_dtype type, size_t n)
{
    enum { BLOCK = 1 << 20 };
    static float f32[BLOCK];
    static uint16_t low[BLOCK];
    size_t each = ds_dtype_bytes(type), bytes = n * each;
    unsigned char *at = take(bytes);
    uint32_t x = 1;

    for (size_t i = 0; i < BLOCK; i++) {
        x = x * 1664525u + 1013904223u;
        f32[i] = (float)(x >> 8) / 8388608.0f - 1.0f;
        low[i] = ds_bf16_from_f32(f32[i]);
    }
    for (size_t done = 0; done < bytes; done += BLOCK * each) {
        size_t left = bytes - done, part = left < BLOCK * each ? left : BLOCK * each;
        const void *from = type == DS_F32 ? (const void *)f32 : (const void *)low;

        must(ds_stream_copy(stream, DS_COPY_UP, at + done, from, part, &err));
    }
    must(ds_stream_finish(stream, &err));
    return at;
}

/* Ids as text has them: some come often, most seldom. */
static inline int32_t *take_ids(size_t n, size_t vocab)
{
    int32_t *ids = malloc(n * sizeof(*ids)), *at = take(n * sizeof(*ids));
    uint32_t x = 7;

    if (ids == NULL)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        double u;

        x = x * 1664525u + 1013904223u;
        u = (double)(x >> 8) / 16777216.0;
        ids[i] = (int32_t)((double)(vocab - 1) * u * u * u * u);
    }
    must(ds_stream_copy(stream, DS_COPY_UP, at, ids, n * sizeof(*ids), &err));
    must(ds_stream_finish(stream, &err));
    free(ids);
    return at;
}

/* --- time --------------------------------------------------------------------------------------*/

typedef void launch(void *arg);

/* An operation as what is measured. */
/* clang-format off */
#define X(id, fn) \
    static inline void run_##fn(void *arg) \
    { \
        must(ds_##fn(arg, stream, &err)); \
    }
DS_OPS(X)
#undef X
/* clang-format on */

static inline double time_of(launch *run, void *arg, size_t rounds)
{
    uint64_t began = ds_clock_mono_ns();

    for (size_t i = 0; i < rounds; i++)
        run(arg);
    must(ds_stream_finish(stream, &err));
    return (double)(ds_clock_mono_ns() - began) / 1e3 / (double)rounds;
}

static inline void measure(const char *what, const char *unit, double amount, launch *run,
                           void *arg)
{
    double once;
    size_t rounds;

    (void)time_of(run, arg, 1); /* loads what is loaded at the first use */
    once = time_of(run, arg, 2);
    rounds = once > 0.0 ? (size_t)(ROUND_US / once) + 1 : LIMIT_ROUNDS;
    rounds = rounds < LIMIT_ROUNDS ? rounds : LIMIT_ROUNDS;
    printf("{\"what\": \"%s\", \"%s\": %.0f, \"us\": [", what, unit, amount);
    for (int i = 0; i < (shrink > 1 ? 1 : SAMPLES); i++)
        printf("%s%.2f", i == 0 ? "" : ", ", time_of(run, arg, rounds));
    printf("]}\n");
    fflush(stdout);
}

/* One operation, bound by memory. */
static inline void moves(const char *what, enum ds_op op, launch *run, void *args)
{
    measure(what, "bytes", ds_op_amount(op, args).bytes, run, args);
}

/* And by arithmetic. */
static inline void computes(const char *what, enum ds_op op, launch *run, void *args)
{
    measure(what, "flops", ds_op_amount(op, args).flops, run, args);
}

#endif
