/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * adamw - the optimizer's pass over memory against a plain copy loop, one thread.
 *
 *     adamw MPARAMS REPS
 *
 * AdamW reads and writes p, m and v and reads the gradient: 28 bytes a parameter.  The copy loop
 * is `for (i) y[i] = x[i]` over as many bytes read and written.  Both run in turn, REPS times after
 * one unmeasured round; prints one JSON line with the medians in bytes per second.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "kernels/device.h"
#include "kernels/op.h"

enum { MAX_REPS = 1000, BYTES_PER_PARAM = 28, SCRATCH_BYTES = 1 << 20 };

struct arrays {
    size_t n;
    float *p, *m, *v, *grad;
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

/* The barrier keeps the compiler from making a call of memcpy() out of the loop. */
static void copy_loop(float *restrict to, const float *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i += 1024) {
        for (size_t k = i; k < i + 1024; k++)
            to[k] = from[k];
        __asm__ volatile("" ::: "memory");
    }
}

/* As many bytes as one AdamW pass: 3.5 copies of n floats at 8 bytes each. */
static uint64_t time_copy(const struct arrays *a)
{
    uint64_t began = ds_clock_mono_ns();

    copy_loop(a->p, a->m, a->n);
    copy_loop(a->v, a->grad, a->n);
    copy_loop(a->m, a->p, a->n);
    copy_loop(a->grad, a->v, a->n / 2);
    return ds_clock_mono_ns() - began;
}

static int time_adamw(const struct arrays *a, struct ds_stream *stream, uint64_t *ns,
                      struct ds_error *err)
{
    struct ds_adamw_args args = {
        .n = a->n,
        .p = a->p,
        .m = a->m,
        .v = a->v,
        .grad_type = DS_F32,
        .grad = a->grad,
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
    }
}

static int measure(const struct arrays *a, struct ds_stream *stream, size_t reps,
                   struct ds_error *err)
{
    static uint64_t ours[MAX_REPS + 1], copy[MAX_REPS + 1];
    double bytes = (double)a->n * BYTES_PER_PARAM, us, them;

    for (size_t k = 0; k <= reps; k++) {
        int rc;

        copy[k] = time_copy(a);
        fill(a); /* or the copies would feed the square roots nonsense */
        rc = time_adamw(a, stream, &ours[k], err);
        if (rc < 0)
            return rc;
    }
    us = rate(ours + 1, reps, bytes);
    them = rate(copy + 1, reps, bytes);
    printf("{\"what\":\"adamw\",\"params\":%zu,\"reps\":%zu,\"adamw_gb_s\":%.2f,"
           "\"copy_gb_s\":%.2f}\n",
           a->n, reps, us, them);
    return 0;
}

static int run(size_t n, size_t reps, struct ds_error *err)
{
    struct ds_device_args args = {.name = "cpu", .threads = 1, .scratch_bytes = SCRATCH_BYTES};
    struct ds_device *device = NULL;
    struct arrays a = {.n = n};
    size_t bytes = 4 * n * sizeof(float);
    void *memory = NULL;
    int rc = ds_device_open(&device, &args, err);

    if (rc == 0)
        rc = ds_device_alloc(device, bytes, &memory, err);
    if (rc == 0) {
        a.p = memory;
        a.m = a.p + n;
        a.v = a.m + n;
        a.grad = a.v + n;
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
    size_t mega = 32, reps = 9;
    struct ds_error err = {0};
    int rc;

    if (argc > 3 || (argc > 1 && !read_number(argv[1], 1024, &mega)) ||
        (argc > 2 && !read_number(argv[2], MAX_REPS, &reps))) {
        fprintf(stderr, "usage: adamw [MPARAMS [REPS]]\n");
        return 2;
    }
    rc = run(mega << 20, reps, &err);
    if (rc < 0)
        fprintf(stderr, "adamw: %s\n", ds_error_text(&err, rc));
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
