/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tree.c - the contract is in tree.h.
 *
 * Sixteen bytes at a time with the compiler's vector type: large vectors are bound by memory, and
 * four lanes per instruction already reach that bound, on every x86-64 and aarch64.
 */
#include "runtime/comm/tree.h"

#include <string.h>

typedef float vec4 __attribute__((vector_size(16)));

/* Long vectors are worked on in four places at once, for a core's prefetchers stop at the end of
 * each page and more pages keep them busy; and lines are asked for 1 KiB before they are needed. */
enum { LANES = 4, STEP = 16, PLACES = 4, AHEAD = 256 };

static inline vec4 load(const float *p)
{
    vec4 v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void store(float *p, vec4 v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void add2_step(float *out, const float *a, const float *b)
{
    for (size_t k = 0; k < STEP; k += LANES)
        store(out + k, load(a + k) + load(b + k));
}

static void add2(float *out, const float *a, const float *b, size_t n)
{
    size_t i = 0;

    for (; i + STEP <= n; i += STEP)
        add2_step(out + i, a + i, b + i);
    for (; i < n; i++)
        out[i] = a[i] + b[i];
}

/* The same of a long vector, from memory. */
static void add2_long(float *out, const float *a, const float *b, size_t n)
{
    const size_t quarter = n / PLACES / STEP * STEP;

    for (size_t i = 0; i < quarter; i += STEP) {
        size_t ahead = i + AHEAD < quarter ? AHEAD : 0;

        for (size_t at = i; at < PLACES * quarter; at += quarter) {
            __builtin_prefetch(a + at + ahead);
            __builtin_prefetch(b + at + ahead);
            add2_step(out + at, a + at, b + at);
        }
    }
    add2(out + PLACES * quarter, a + PLACES * quarter, b + PLACES * quarter, n - PLACES * quarter);
}

static void add3(float *out, const float *const *s, size_t at, size_t n)
{
    const float *a = s[0] + at, *b = s[1] + at, *c = s[2] + at;
    size_t i = 0;

    for (; i + STEP <= n; i += STEP)
        for (size_t k = i; k < i + STEP; k += LANES)
            store(out + k, (load(a + k) + load(b + k)) + load(c + k));
    for (; i < n; i++)
        out[i] = (a[i] + b[i]) + c[i];
}

static void add4(float *out, const float *const *s, size_t at, size_t n)
{
    const float *a = s[0] + at, *b = s[1] + at, *c = s[2] + at, *d = s[3] + at;
    size_t i = 0;

    for (; i + STEP <= n; i += STEP)
        for (size_t k = i; k < i + STEP; k += LANES)
            store(out + k, (load(a + k) + load(b + k)) + (load(c + k) + load(d + k)));
    for (; i < n; i++)
        out[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

static inline void add_pair_step(float *a, float *b)
{
    for (size_t k = 0; k < STEP; k += LANES) {
        vec4 sum = load(a + k) + load(b + k);
        store(a + k, sum);
        store(b + k, sum);
    }
}

/* Both become their sum: the case of two ranks, one pass without a block buffer, as add2_long(). */
static void add_pair(float *a, float *b, size_t n)
{
    const size_t quarter = n / PLACES / STEP * STEP;

    for (size_t i = 0; i < quarter; i += STEP) {
        size_t ahead = i + AHEAD < quarter ? AHEAD : 0;

        for (size_t at = i; at < PLACES * quarter; at += quarter) {
            __builtin_prefetch(a + at + ahead, 1);
            __builtin_prefetch(b + at + ahead, 1);
            add_pair_step(a + at, b + at);
        }
    }
    for (size_t i = PLACES * quarter; i < n; i++)
        a[i] = b[i] = a[i] + b[i];
}

unsigned ds__tree_left(unsigned count)
{
    unsigned half = 1;

    while (half * 2 < count)
        half *= 2;
    return half;
}

/* One block, n <= DS_TREE_BLOCK.  The left half lands in `out`, the right one in scratch. */
static void sum_block(float *out, const float *const *src, unsigned count, size_t at, size_t n,
                      float *scratch)
{
    unsigned left;

    switch (count) {
    case 1: memmove(out, src[0] + at, n * sizeof(*out)); return;
    case 2: add2(out, src[0] + at, src[1] + at, n); return;
    case 3: add3(out, src, at, n); return;
    case 4: add4(out, src, at, n); return;
    default: break;
    }
    left = ds__tree_left(count);
    sum_block(out, src, left, at, n, scratch);
    if (count - left == 1) {
        add2(out, out, src[left] + at, n);
        return;
    }
    sum_block(scratch, src + left, count - left, at, n, scratch + DS_TREE_BLOCK);
    add2(out, out, scratch, n);
}

void ds__tree_sum_f32(float *out, const float *const *src, unsigned count, size_t n, float *scratch)
{
    if (count == 2) {
        add2_long(out, src[0], src[1], n);
        return;
    }
    for (size_t at = 0; at < n; at += DS_TREE_BLOCK) {
        size_t len = n - at < DS_TREE_BLOCK ? n - at : DS_TREE_BLOCK;

        sum_block(scratch, src, count, at, len, scratch + DS_TREE_BLOCK);
        memcpy(out + at, scratch, len * sizeof(*out));
    }
}

void ds__tree_sum_all_f32(float *const *vec, unsigned count, size_t n, float *scratch)
{
    if (count == 2) {
        add_pair(vec[0], vec[1], n);
        return;
    }
    for (size_t at = 0; at < n; at += DS_TREE_BLOCK) {
        size_t len = n - at < DS_TREE_BLOCK ? n - at : DS_TREE_BLOCK;

        sum_block(scratch, (const float *const *)vec, count, at, len, scratch + DS_TREE_BLOCK);
        for (unsigned k = 0; k < count; k++)
            memcpy(vec[k] + at, scratch, len * sizeof(**vec));
    }
}

double ds__tree_sum_f64(const double *x, unsigned count)
{
    unsigned left;

    if (count == 1)
        return x[0];
    left = ds__tree_left(count);
    return ds__tree_sum_f64(x, left) + ds__tree_sum_f64(x + left, count - left);
}

void ds__tree_run_f32(float *out, const int *program, unsigned steps, const float *const *src,
                      size_t n, float *scratch)
{
    const float *stack[DS_TREE_LEVELS + 1];

    for (size_t at = 0; at < n; at += DS_TREE_BLOCK) {
        size_t len = n - at < DS_TREE_BLOCK ? n - at : DS_TREE_BLOCK;
        unsigned top = 0;

        for (unsigned step = 0; step < steps; step++) {
            float *sum = out + at;

            if (program[step] >= 0) {
                stack[top++] = src[program[step]] + at;
                continue;
            }
            top -= 2;
            if (step + 1 < steps)
                sum = scratch + (size_t)top * DS_TREE_BLOCK;
            add2(sum, stack[top], stack[top + 1], len);
            stack[top++] = sum;
        }
        if (stack[0] != out + at)
            memmove(out + at, stack[0], len * sizeof(*out));
    }
}

double ds__tree_run_f64(const int *program, unsigned steps, const double *src)
{
    double stack[DS_TREE_LEVELS + 1] = {0};
    unsigned top = 0;

    for (unsigned step = 0; step < steps; step++) {
        if (program[step] >= 0) {
            stack[top++] = src[program[step]];
            continue;
        }
        top--;
        stack[top - 1] += stack[top];
    }
    return stack[0];
}
