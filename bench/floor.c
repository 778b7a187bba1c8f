/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * floor - the time that the matrix products of one training step take by themselves (OpenBLAS).
 *
 *     floor LAYERS HIDDEN HEADS SEQUENCE VOCAB BATCH REPS
 *
 * A GPT-2 step multiplies, per linear layer, once forward and twice backward (by the weights for
 * the input's gradient, by the input for the weights'); attention multiplies Q by K and P by V in
 * full, T x T, and four products of that size backward.  No step that uses this library and dense
 * attention can be faster, so tokens per second of it are the floor of the time, the ceiling of
 * the speed.  Threads are what OPENBLAS_NUM_THREADS says.  Prints one JSON line, median of REPS.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

/* The Fortran interface, which every BLAS has; column-major. */
void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc);

enum { MAX_REPS = 100 };

struct shape {
    int layers, hidden, heads, seq, vocab, batch;
};

struct matrices {
    float *a, *b, *c;
    size_t floats; /* in each */
};

static void multiply(const struct matrices *x, bool ta, bool tb, int m, int n, int k)
{
    const float one = 1.0f, zero = 0.0f;
    int lda = ta ? k : m, ldb = tb ? n : k;

    sgemm_(ta ? "T" : "N", tb ? "T" : "N", &m, &n, &k, &one, x->a, &lda, x->b, &ldb, &zero, x->c,
           &m);
}

/* rows x in times in x out, and its two gradients. */
static void linear(const struct matrices *x, int rows, int in, int out)
{
    multiply(x, true, false, out, rows, in);
    multiply(x, false, false, in, rows, out);
    multiply(x, false, true, in, out, rows);
}

static void all_linear(const struct matrices *x, const struct shape *s)
{
    int rows = s->batch * s->seq;

    for (int layer = 0; layer < s->layers; layer++) {
        linear(x, rows, s->hidden, 3 * s->hidden);
        linear(x, rows, s->hidden, s->hidden);
        linear(x, rows, s->hidden, 4 * s->hidden);
        linear(x, rows, 4 * s->hidden, s->hidden);
    }
    linear(x, rows, s->hidden, s->vocab);
}

static void all_attention(const struct matrices *x, const struct shape *s)
{
    int size = s->hidden / s->heads, times = s->layers * s->batch * s->heads;

    for (int i = 0; i < times; i++) {
        multiply(x, true, false, s->seq, s->seq, size);  /* scores */
        multiply(x, false, false, size, s->seq, s->seq); /* values */
        multiply(x, true, false, s->seq, s->seq, size);  /* d probabilities */
        multiply(x, false, true, size, s->seq, s->seq);  /* d values */
        multiply(x, false, false, size, s->seq, s->seq); /* d queries */
        multiply(x, false, true, size, s->seq, s->seq);  /* d keys */
    }
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void measure(const struct matrices *x, const struct shape *s, int reps)
{
    static double lin[MAX_REPS], att[MAX_REPS], sum[MAX_REPS];
    double d = s->hidden, tokens = (double)s->batch * s->seq;
    double flop = 6.0 * tokens * (s->layers * 12.0 * d * d + s->vocab * d);

    all_linear(x, s); /* touch everything once */
    for (int k = 0; k < reps; k++) {
        uint64_t began = ds_clock_mono_ns(), middle;

        all_linear(x, s);
        middle = ds_clock_mono_ns();
        all_attention(x, s);
        lin[k] = (double)(middle - began) / 1e6;
        att[k] = (double)(ds_clock_mono_ns() - middle) / 1e6;
        sum[k] = lin[k] + att[k];
    }
    qsort(lin, (size_t)reps, sizeof(*lin), by_value);
    qsort(att, (size_t)reps, sizeof(*att), by_value);
    qsort(sum, (size_t)reps, sizeof(*sum), by_value);
    printf("{\"what\":\"floor\",\"reps\":%d,\"linear_ms\":%.2f,\"attention_ms\":%.2f,"
           "\"step_ms\":%.2f,\"linear_gflop_s\":%.1f,\"tokens_per_s\":%.1f}\n",
           reps, lin[reps / 2], att[reps / 2], sum[reps / 2], flop / lin[reps / 2] / 1e6,
           tokens / sum[reps / 2] * 1e3);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Floats of the largest matrix: a weight, an output, or T x T scores. */
static size_t largest(const struct shape *s)
{
    size_t hidden = (size_t)s->hidden, rows = (size_t)s->batch * (size_t)s->seq;
    size_t widest = larger(4 * hidden, (size_t)s->vocab);

    return larger(widest * larger(hidden, rows), (size_t)s->seq * (size_t)s->seq);
}

static void fill(const struct matrices *x)
{
    for (size_t i = 0; i < x->floats; i++) {
        x->a[i] = (float)(i % 13) * 0.01f;
        x->b[i] = (float)(i % 7) * 0.02f;
        x->c[i] = 0.0f;
    }
}

static int run(const struct shape *s, int reps)
{
    struct matrices x = {.floats = largest(s)};
    bool fits;

    x.a = malloc(x.floats * sizeof(*x.a));
    x.b = malloc(x.floats * sizeof(*x.b));
    x.c = malloc(x.floats * sizeof(*x.c));
    fits = x.a != NULL && x.b != NULL && x.c != NULL;
    if (fits) {
        fill(&x);
        measure(&x, s, reps);
    } else {
        fprintf(stderr, "floor: no memory for three matrices of %zu floats\n", x.floats);
    }
    free(x.a);
    free(x.b);
    free(x.c);
    return fits ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    int value[7];

    for (int i = 0; i < 7; i++) {
        char *end = NULL;
        long number = argc == 8 ? strtol(argv[i + 1], &end, 10) : 0;

        if (end == NULL || *end != '\0' || number < 1 || number > (i == 6 ? MAX_REPS : 100000)) {
            fprintf(stderr, "usage: floor LAYERS HIDDEN HEADS SEQUENCE VOCAB BATCH REPS\n");
            return 2;
        }
        value[i] = (int)number;
    }
    return run(&(struct shape){value[0], value[1], value[2], value[3], value[4], value[5]},
               value[6]);
}
