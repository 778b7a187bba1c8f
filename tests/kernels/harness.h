/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * harness.h - run an operation on every instruction set and several numbers of threads.
 *
 * A test gives the inputs, the wanted outputs in double and a function that
 * calls the operation; ds_try() poisons the outputs, runs it, compares, and
 * demands equal bits from 1, 2 and 3 threads.
 */
#ifndef DS_TESTS_KERNELS_HARNESS_H
#define DS_TESTS_KERNELS_HARNESS_H

#include <errno.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/device.h"
#include "kernels/op.h"
#include "kernels/scratch.h"

enum { GUARD = 64, MAX_OUTS = 4 };

/* Emulated and under instruments every number takes very long: one order of threads, few shapes.
 * So it does under ThreadSanitizer, where numbers of threads are what matters.  To AddressSanitizer two threads
 * touch nothing that one and three do not; and who takes which part is the same code whatever the instruction set,
 * so then, after the first of them, three are enough. */
#if defined(DS_TESTS_EMULATED) && (defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__))
#define DS_TESTS_FEW 1
enum { TRIALS = 1, TRIALS_STEP = 1, TRIALS_THEN = 1 };
#else
#ifdef __SANITIZE_ADDRESS__
enum { TRIALS = 3, TRIALS_STEP = 2, TRIALS_THEN = 3 };
#else
enum { TRIALS = 3, TRIALS_STEP = 1, TRIALS_THEN = 1 };
#endif
#ifdef __SANITIZE_THREAD__
#define DS_TESTS_FEW 1
#endif
#endif

/* Numbers of one type, and the same in double. */
struct nums {
    enum ds_dtype type;
    size_t n;
    char *data; /* n elements, then GUARD bytes of 0xa5 */
    double *d;
};

static inline struct nums nums_blank(enum ds_dtype type, size_t n)
{
    struct nums x = {.type = type, .n = n};
    size_t bytes = n * ds_dtype_bytes(type);

    x.data = malloc(bytes + GUARD);
    x.d = calloc(n + 1, sizeof(double));
    cr_assert(x.data != NULL && x.d != NULL);
    memset(x.data, 0xff, bytes); /* NaN in every type */
    memset(x.data + bytes, 0xa5, GUARD);
    return x;
}

static inline double nums_get(const struct nums *x, size_t i)
{
    switch (x->type) {
    case DS_F32: return (double)((float *)(void *)x->data)[i];
    case DS_BF16: return (double)ds_bf16_to_f32(((ds_bf16 *)(void *)x->data)[i]);
    default: return (double)ds_f16_to_f32(((ds_f16 *)(void *)x->data)[i]);
    }
}

static inline void nums_set(struct nums *x, size_t i, double value)
{
    if (x->type == DS_F32)
        ((float *)(void *)x->data)[i] = (float)value;
    else if (x->type == DS_BF16)
        ((ds_bf16 *)(void *)x->data)[i] = ds_bf16_from_f32((float)value);
    else
        ((ds_f16 *)(void *)x->data)[i] = ds_f16_from_f32((float)value);
    x->d[i] = nums_get(x, i);
}

static inline double noise(uint64_t *state)
{
    double sum = 0.0;

    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 40) / (double)(1 << 24) - 0.5;
    }
    return sum * 1.7; /* about normal, of variance 1 */
}

static inline struct nums nums_random(enum ds_dtype type, size_t n, double scale, double shift)
{
    static uint64_t state = 1;
    struct nums x = nums_blank(type, n);

    for (size_t i = 0; i < n; i++)
        nums_set(&x, i, noise(&state) * scale + shift);
    return x;
}

static inline void nums_free(struct nums *x)
{
    const char *end = x->data + x->n * ds_dtype_bytes(x->type);

    for (int i = 0; i < GUARD; i++)
        cr_assert(end[i] == (char)0xa5, "written past the end");
    free(x->data);
    free(x->d);
    *x = (struct nums){0};
}

#ifndef DS_TESTS_EMULATED /* else tests/cudaemu/emulated.h has one */
static inline struct ds_device *open_cpu(const char *isa, unsigned threads, size_t scratch_bytes)
{
    struct ds_device *device = NULL;
    struct ds_error err = {0};
    struct ds_device_args args = {
        .name = "cpu", .threads = threads, .scratch_bytes = scratch_bytes};

    if (isa == NULL)
        unsetenv("DSRUN_CPU_ISA");
    else
        setenv("DSRUN_CPU_ISA", isa, 1);
    if (ds_device_open(&device, &args, &err) != 0)
        return NULL; /* the processor lacks it */
    return device;
}
#endif

/* An output: wanted values, and what it holds before (`before` NULL: poison). */
struct out {
    enum ds_dtype type;
    size_t n;
    const double *want;
    const struct nums *before;
};

typedef int run_fn(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err);

struct trial {
    const char *what;
    struct out out[MAX_OUTS];
    size_t outs;
    run_fn *run;
    void *ctx;
    struct ds_scratch_query query;
    double f32, bf16; /* tolerated relative L2 error; 0: 1e-5 and 1e-2 */
    bool bits_vary;   /* with the number of threads */
    bool low;         /* inputs are BF16: the wider tolerance for all outputs */
};

static inline double relative_l2(const struct nums *x, const double *want)
{
    double error = 0.0, norm = 0.0;

    for (size_t i = 0; i < x->n; i++) {
        double e = nums_get(x, i) - want[i];

        error += e * e;
        norm += want[i] * want[i];
    }
    return norm > 0.0 ? sqrt(error / norm) : sqrt(error);
}

/* Where it is worst, and how much of it is no number: what to look for in a kernel. */
static inline void describe(const struct nums *x, const double *want, double limit, char *text,
                            size_t cap)
{
    size_t worst = 0, far = 0, nan = 0;

    for (size_t i = 0; i < x->n; i++) {
        double off = fabs(nums_get(x, i) - want[i]), most = fabs(nums_get(x, worst) - want[worst]);

        nan += isnan(nums_get(x, i)) != 0;
        far += !(off <= limit * (1.0 + fabs(want[i])));
        if (!isnan(most) && !(off <= most))
            worst = i;
    }
    (void)snprintf(text, cap, "element %zu of %zu is %g, not %g; %zu are far off, %zu NaN", worst,
                   x->n, nums_get(x, worst), want[worst], far, nan);
}

static inline void fill_outs(const struct trial *t, struct nums *out, void **data)
{
    for (size_t i = 0; i < t->outs; i++) {
        out[i] = nums_blank(t->out[i].type, t->out[i].n);
        if (t->out[i].before != NULL)
            memcpy(out[i].data, t->out[i].before->data, out[i].n * ds_dtype_bytes(t->out[i].type));
        data[i] = out[i].data;
    }
}

static inline void compare(const struct trial *t, const struct nums *out, const char *isa,
                           unsigned threads)
{
    for (size_t i = 0; i < t->outs; i++) {
        bool low = t->low || out[i].type != DS_F32;
        double limit = low ? (t->bf16 > 0.0 ? t->bf16 : 1e-2) : (t->f32 > 0.0 ? t->f32 : 1e-5);
        double error = relative_l2(&out[i], t->out[i].want);
        char text[192] = "";

        if (!(error <= limit))
            describe(&out[i], t->out[i].want, limit, text, sizeof(text));
        cr_expect(error <= limit, "%s: output %zu, isa %s, %u threads: error %g over %g: %s",
                  t->what, i, isa, threads, error, limit, text);
    }
}

/* On one instruction set, by `least` threads and more; false when the processor lacks it. */
static inline bool try_isa(const struct trial *t, const char *isa, unsigned least)
{
    struct nums first[MAX_OUTS] = {0};

    for (unsigned threads = least; threads <= TRIALS; threads += TRIALS_STEP) {
        struct ds_scratch_query query = t->query;
        struct ds_device *device;
        struct ds_error err = {0};
        struct nums out[MAX_OUTS];
        void *data[MAX_OUTS];
        int rc;

        query.threads = threads;
        device = open_cpu(isa, threads, ds_scratch_bytes(&query));
        if (device == NULL)
            return false;
        fill_outs(t, out, data);
        rc = t->run(t->ctx, data, ds_device_stream(device), &err);
        cr_expect(rc == 0, "%s: %s", t->what, ds_error_text(&err, rc));
        if (rc == 0)
            compare(t, out, isa, threads);
        for (size_t i = 0; i < t->outs; i++) {
            if (threads == least) {
                first[i] = out[i];
                continue;
            }
            cr_expect(t->bits_vary || memcmp(first[i].data, out[i].data,
                                             out[i].n * ds_dtype_bytes(out[i].type)) == 0,
                      "%s: output %zu, isa %s: other bits with %u threads", t->what, i, isa,
                      threads);
            nums_free(&out[i]);
        }
        ds_device_close(device);
    }
    for (size_t i = 0; i < t->outs; i++)
        nums_free(&first[i]);
    return true;
}

static inline void try_all(const struct trial *t)
{
    static const char *const isas[] = {"v4", "v3", "base"};
    unsigned least = 1;
    size_t tried = 0;

    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        if (!try_isa(t, isas[i], least))
            continue;
        least = TRIALS_THEN;
        tried++;
    }
    cr_assert(tried > 0, "%s: no instruction set to test", t->what);
}

/* The tanh form, as op.h has it, and its derivative. */
static inline double gelu(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

static inline double gelu_slope(double x)
{
    double t = tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x));

    return 0.5 * (1.0 + t) +
           0.5 * x * (1.0 - t * t) * sqrt(2.0 / M_PI) * (1.0 + 3.0 * 0.044715 * x * x);
}

static const enum ds_dtype act_types[] = {DS_F32, DS_BF16, DS_F16};

/* Call with good arguments after one change; both must be as said.  On `stream`. */
#define REFUSES(fn, good, change)                                                                  \
    do {                                                                                           \
        struct ds_##fn##_args a = good;                                                            \
        struct ds_error err = {0};                                                                 \
        change;                                                                                    \
        cr_assert(ds_##fn(&a, stream, &err) == -EINVAL, "%s: %s", #fn, #change);                   \
        cr_assert(strstr(err.text, "'" #fn "'") != NULL, "%s", err.text);                          \
    } while (0)

#define ACCEPTS(fn, good)                                                                          \
    do {                                                                                           \
        struct ds_##fn##_args a = good;                                                            \
        struct ds_error err = {0};                                                                 \
        cr_assert(ds_##fn(&a, stream, &err) == 0, "%s: %s", #fn, err.text);                        \
    } while (0)

#endif
