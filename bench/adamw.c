/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * adamw - the optimizer's pass over memory against STREAM's triad and a plain copy loop.
 *
 *     adamw [MPARAMS [REPS [THREADS]]]
 *
 * AdamW reads and writes p, m and v in fp32 and reads a gradient: 28 bytes a parameter with one in
 * fp32, and again 28 with one in bf16 when a bf16 copy of p is written.  The triad is STREAM's,
 * a[i] = b[i] + s * c[i], counted as three arrays (McCalpin; what the cache reads of `a` before it
 * writes is not counted), the copy loop `y[i] = x[i]`.  All run in turn, REPS times after one
 * unmeasured round, on the same threads; prints one JSON line with the medians in bytes per second.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "kernels/device.h"
#include "kernels/op.h"

enum { MAX_REPS = 1000, MAX_THREADS = 256, BYTES_PER_PARAM = 28, SCRATCH_BYTES = 1 << 20 };

struct arrays {
    size_t n;
    float *p, *m, *v, *grad;
    ds_bf16 *grad_low, *p_low;
    unsigned threads;
};

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static double rate(uint64_t *ns, size_t reps, double bytes)
{
    qsort(ns, reps, sizeof(*ns), by_value);
    return bytes / (double)ns[reps / 2];
}

/* A loop over elements [begin, end), for one thread.  The barrier keeps the compiler from making a
 * call of memcpy() out of it. */
typedef void loop_fn(const struct arrays *a, size_t begin, size_t end);

static void copy_loop(float *restrict to, const float *restrict from, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i += 1024) {
        for (size_t k = i; k < i + 1024; k++)
            to[k] = from[k];
        __asm__ volatile("" ::: "memory");
    }
}

/* As many bytes as one AdamW pass: 3.5 copies of n floats at 8 bytes each. */
static void copies(const struct arrays *a, size_t begin, size_t end)
{
    copy_loop(a->p, a->m, begin, end);
    copy_loop(a->v, a->grad, begin, end);
    copy_loop(a->m, a->p, begin, end);
    copy_loop(a->grad, a->v, begin / 2, end / 2);
}

static void triad(const struct arrays *a, size_t begin, size_t end)
{
    float *restrict to = a->p;
    const float *restrict x = a->m, *restrict y = a->v;

    for (size_t i = begin; i < end; i++)
        to[i] = x[i] + 3.0f * y[i];
}

struct share {
    const struct arrays *a;
    loop_fn *loop;
    size_t begin, end;
};

static void *run_share(void *arg)
{
    const struct share *share = arg;

    share->loop(share->a, share->begin, share->end);
    return NULL;
}

/* One thread a share; the first is this one. */
static int time_loop(const struct arrays *a, loop_fn *loop, uint64_t *ns, struct ds_error *err)
{
    struct share share[MAX_THREADS];
    pthread_t thread[MAX_THREADS];
    uint64_t began = ds_clock_mono_ns();
    unsigned started = 1;

    for (unsigned i = 0; i < a->threads; i++)
        share[i] = (struct share){
            .a = a,
            .loop = loop,
            .begin = a->n / a->threads / 2048 * 2048 * i,
            .end = i + 1 == a->threads ? a->n : a->n / a->threads / 2048 * 2048 * (i + 1)};
    while (started < a->threads &&
           pthread_create(&thread[started], NULL, run_share, &share[started]) == 0)
        started++;
    (void)run_share(&share[0]);
    for (unsigned i = 1; i < started; i++)
        (void)pthread_join(thread[i], NULL);
    *ns = ds_clock_mono_ns() - began;
    return started == a->threads ? 0 : ds_fail(err, EAGAIN, "cannot start a thread");
}

static int time_adamw(const struct arrays *a, bool low, struct ds_stream *stream, uint64_t *ns,
                      struct ds_error *err)
{
    struct ds_adamw_args args = {
        .n = a->n,
        .p = a->p,
        .m = a->m,
        .v = a->v,
        .grad_type = low ? DS_BF16 : DS_F32,
        .grad = low ? (const void *)a->grad_low : a->grad,
        .low_type = DS_BF16,
        .p_low = low ? a->p_low : NULL,
        .lr = 1e-4,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .weight_decay = 0.1,
        .grad_scale = 0.5,
        .bias1 = 0.1,
        .bias2 = 0.05,
    };
    uint64_t began = ds_clock_mono_ns();
    int rc = ds_adamw(&args, stream, err);

    *ns = ds_clock_mono_ns() - began;
    return rc;
}

static void fill(const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i++) {
        a->p[i] = (float)(i % 97) * 0.01f;
        a->m[i] = (float)(i % 31) * 0.001f;
        a->v[i] = (float)(i % 61) * 0.0001f + 1e-6f;
        a->grad[i] = (float)(i % 43) * 0.01f - 0.2f;
        a->grad_low[i] = ds_bf16_from_f32(a->grad[i]);
    }
}

enum what { COPY, TRIAD, ADAMW, ADAMW_LOW, WHATS };

static int measure_round(const struct arrays *a, struct ds_stream *stream, uint64_t ns[WHATS],
                         struct ds_error *err)
{
    int rc = time_loop(a, copies, &ns[COPY], err);

    if (rc == 0)
        rc = time_loop(a, triad, &ns[TRIAD], err);
    fill(a); /* or the loops would feed the square roots nonsense */
    if (rc == 0)
        rc = time_adamw(a, false, stream, &ns[ADAMW], err);
    if (rc == 0)
        rc = time_adamw(a, true, stream, &ns[ADAMW_LOW], err);
    return rc;
}

static int measure(const struct arrays *a, struct ds_stream *stream, size_t reps,
                   struct ds_error *err)
{
    static uint64_t ns[WHATS][MAX_REPS + 1];
    double n = (double)a->n, bytes = n * BYTES_PER_PARAM;

    for (size_t k = 0; k <= reps; k++) {
        uint64_t round[WHATS];
        int rc = measure_round(a, stream, round, err);

        if (rc < 0)
            return rc;
        for (int i = 0; i < WHATS; i++)
            ns[i][k] = round[i];
    }
    printf("{\"what\":\"adamw\",\"params\":%zu,\"reps\":%zu,\"threads\":%u,"
           "\"adamw_gb_s\":%.2f,\"adamw_bf16_gb_s\":%.2f,\"copy_gb_s\":%.2f,"
           "\"triad_gb_s\":%.2f}\n",
           a->n, reps, a->threads, rate(ns[ADAMW] + 1, reps, bytes),
           rate(ns[ADAMW_LOW] + 1, reps, bytes), rate(ns[COPY] + 1, reps, bytes),
           rate(ns[TRIAD] + 1, reps, n * 3 * sizeof(float)));
    return 0;
}

static int run(size_t n, size_t reps, unsigned threads, struct ds_error *err)
{
    struct ds_device_args args = {
        .name = "cpu", .threads = threads, .scratch_bytes = SCRATCH_BYTES};
    struct ds_device *device = NULL;
    struct arrays a = {.n = n, .threads = threads};
    size_t bytes = 5 * n * sizeof(float);
    void *memory = NULL;
    int rc = ds_device_open(&device, &args, err);

    if (rc == 0)
        rc = ds_device_alloc(device, bytes, &memory, err);
    if (rc == 0) {
        a.p = memory;
        a.m = a.p + n;
        a.v = a.m + n;
        a.grad = a.v + n;
        a.grad_low = (ds_bf16 *)(void *)(a.grad + n);
        a.p_low = a.grad_low + n;
        rc = measure(&a, ds_device_stream(device), reps, err);
        ds_device_free(device, memory, bytes);
    }
    if (device != NULL)
        ds_device_close(device);
    return rc;
}

static bool read_number(const char *text, unsigned long most, size_t *out)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    *out = value;
    return errno == 0 && end != text && *end == '\0' && value >= 1 && value <= most;
}

int main(int argc, char **argv)
{
    size_t mega = 32, reps = 9, threads = 1;
    struct ds_error err = {0};
    int rc;

    if (argc > 4 || (argc > 1 && !read_number(argv[1], 1024, &mega)) ||
        (argc > 2 && !read_number(argv[2], MAX_REPS, &reps)) ||
        (argc > 3 && !read_number(argv[3], MAX_THREADS, &threads))) {
        fprintf(stderr, "usage: adamw [MPARAMS [REPS [THREADS]]]\n");
        return 2;
    }
    rc = run(mega << 20, reps, (unsigned)threads, &err);
    if (rc < 0)
        fprintf(stderr, "adamw: %s\n", ds_error_text(&err, rc));
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
