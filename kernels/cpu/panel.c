/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * panel.c - the contract is in panel.h.
 */
#include "kernels/cpu/panel.h"

enum { ROWS = DS_PANEL_ROWS, COLUMNS = DS_PANEL_COLUMNS, DEAL = 16 };

#if DS_LANES == 16
#define UNROLL_ROWS _Pragma("GCC unroll 12")
#else
#define UNROLL_ROWS _Pragma("GCC unroll 6")
#endif

/* The first `n` columns of a row of sums, which come by value: an array whose address is known to
 * another function is no register. */
static __attribute__((noinline)) void store_row_part(float *to, ds_vec left, ds_vec right, size_t n,
                                                     bool add)
{
    float row[COLUMNS];

    ds_vec_store(row, left);
    ds_vec_store(row + DS_LANES, right);
    for (size_t j = 0; j < n; j++)
        to[j] = add ? to[j] + row[j] : row[j];
}

/* `rows` is a constant where this is inlined: the sums are registers. */
DS_INLINE void group(const size_t rows, size_t k, const float *a, size_t a_row, size_t a_col,
                     const float *b, size_t b_row, float *c, const struct ds_panel *panel)
{
    ds_vec sum[ROWS][2] DS_UNINITIALIZED;
    size_t ldc = panel->ldc, n = panel->n;

    UNROLL_ROWS
    for (size_t i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = (ds_vec){0};
    UNROLL_ROWS
    for (size_t i = 0; i < rows; i++)
        __builtin_prefetch(c + i * ldc, 1);
    for (size_t p = 0; p < k; p++) {
        ds_vec b0 = ds_vec_load(b), b1 = ds_vec_load(b + DS_LANES);

        UNROLL_ROWS
        for (size_t i = 0; i < rows; i++) {
            float x = a[i * a_row];

            sum[i][0] += x * b0;
            sum[i][1] += x * b1;
        }
        a += a_col;
        b += b_row;
    }
    UNROLL_ROWS
    for (size_t i = 0; i < rows; i++) {
        float *to = c + i * ldc;

        if (n == COLUMNS) {
            if (panel->add) {
                sum[i][0] += ds_vec_load(to);
                sum[i][1] += ds_vec_load(to + DS_LANES);
            }
            ds_vec_store(to, sum[i][0]);
            ds_vec_store(to + DS_LANES, sum[i][1]);
        } else {
            store_row_part(to, sum[i][0], sum[i][1], n, panel->add);
        }
    }
}

/* One group of up to ROWS rows, its strides constant where they can be. */
DS_INLINE void any_rows(size_t rows, size_t k, const float *a, size_t a_row, size_t a_col,
                        const float *b, size_t b_row, float *c, const struct ds_panel *panel)
{
    switch (rows) {
#define CASE(count)                                                                                \
    case count: group(count, k, a, a_row, a_col, b, b_row, c, panel); break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
#if DS_LANES == 16
        CASE(6)
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
#endif
#undef CASE
    default: group(ROWS, k, a, a_row, a_col, b, b_row, c, panel); break;
    }
}

/* The columns of A that the mask leaves to `rows` rows from `i`. */
static void masked(const struct ds_panel *p, size_t i, size_t rows, size_t *begin, size_t *end)
{
    *begin = 0;
    *end = p->k;
    if (p->part == DS_PANEL_BELOW && i + rows + p->diagonal < p->k)
        *end = i + rows + p->diagonal;
    if (p->part == DS_PANEL_ABOVE && i > p->diagonal)
        *begin = i - p->diagonal < p->k ? i - p->diagonal : p->k;
}

DS_INLINE void all_groups(const struct ds_panel *p, bool unit_row, bool unit_column)
{
    const float *a = p->a;

    for (size_t i = 0; i < p->m; i += ROWS, a += p->a_group) {
        size_t rows = p->m - i < ROWS ? p->m - i : ROWS, begin, end;

        masked(p, i, rows, &begin, &end);
        any_rows(rows, end - begin, a + begin * p->a_col, unit_row ? 1 : p->a_row,
                 unit_column ? 1 : p->a_col, p->b + begin * p->b_row, p->b_row, p->c + i * p->ldc,
                 p);
    }
}

void DS_ISA(ds__panel)(const struct ds_panel *panel)
{
    if (panel->a_row == 1)
        all_groups(panel, true, false);
    else
        all_groups(panel, false, true);
}

/* clang-format off */
typedef float    quad      __attribute__((vector_size(16)));
typedef uint32_t quad_bits __attribute__((vector_size(16)));
typedef uint16_t quad_half __attribute__((vector_size(8)));
/* clang-format on */

/* Four elements by one load: under a sanitizer one access is looked at instead of four. */
DS_INLINE quad load_quad(enum ds_dtype type, const void *from, size_t at)
{
    quad_half half;
    quad x;

    if (type == DS_F32) {
        memcpy(&x, (const float *)from + at, sizeof(x));
        return x;
    }
    memcpy(&half, (const uint16_t *)from + at, sizeof(half));
    if (type == DS_BF16)
        return (quad)(__builtin_convertvector(half, quad_bits) << 16);
#if defined(__F16C__)
    return (quad)_mm_cvtph_ps((__m128i){(int64_t)half});
#else
    for (size_t i = 0; i < 4; i++)
        x[i] = ds_f16_to_f32(half[i]);
    return x;
#endif
}

DS_INLINE void prefetch(enum ds_dtype type, const void *from, size_t at)
{
    if (type == DS_F32)
        __builtin_prefetch((const float *)from + at);
    else
        __builtin_prefetch((const uint16_t *)from + at);
}

/* `rows` stored rows of k elements become k rows of `width`. */
DS_INLINE void transpose(enum ds_dtype type, const void *from, size_t at, size_t ld, size_t rows,
                         size_t k, float *to, size_t width)
{
    size_t r = 0, p;

    for (; r + 4 <= rows; r += 4) {
        for (p = 0; p + 4 <= k; p += 4) {
            size_t here = at + r * ld + p;
            quad x0 = load_quad(type, from, here), x1 = load_quad(type, from, here + ld);
            quad x2 = load_quad(type, from, here + 2 * ld);
            quad x3 = load_quad(type, from, here + 3 * ld);
            quad low01 = __builtin_shufflevector(x0, x1, 0, 4, 1, 5);
            quad low23 = __builtin_shufflevector(x2, x3, 0, 4, 1, 5);
            quad high01 = __builtin_shufflevector(x0, x1, 2, 6, 3, 7);
            quad high23 = __builtin_shufflevector(x2, x3, 2, 6, 3, 7);
            quad y0 = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
            quad y1 = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
            quad y2 = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
            quad y3 = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);

            memcpy(to + p * width + r, &y0, sizeof(y0));
            memcpy(to + (p + 1) * width + r, &y1, sizeof(y1));
            memcpy(to + (p + 2) * width + r, &y2, sizeof(y2));
            memcpy(to + (p + 3) * width + r, &y3, sizeof(y3));
        }
        for (; p < k; p++) {
            for (size_t i = r; i < r + 4; i++)
                to[p * width + i] = ds_load_one(type, from, at + i * ld + p);
        }
    }
    for (; r < rows; r++) {
        for (p = 0; p < k; p++)
            to[p * width + r] = ds_load_one(type, from, at + r * ld + p);
    }
}

/* Stored rows are dealt out to the panels, a few at a time: reading them one by one would write to
 * as many places as there are panels, which often share a set of the cache. */
DS_INLINE void deal(const struct ds_pack *pack, enum ds_dtype type, const size_t width)
{
    for (size_t p0 = 0; p0 < pack->k; p0 += DEAL) {
        size_t rows = pack->k - p0 < DEAL ? pack->k - p0 : DEAL;

        for (size_t i = 0; i < pack->m; i += width) {
            size_t at = pack->at + p0 * pack->ld + i, count = pack->m - i;
            float *to = pack->to + i * pack->k + p0 * width;

            for (size_t p = 0; p < rows; p++, at += pack->ld, to += width) {
                if (p0 + p + DEAL < pack->k)
                    prefetch(type, pack->from, at + DEAL * pack->ld);
                if (count >= width) {
                    size_t j = 0;

                    for (; j + DS_LANES <= width; j += DS_LANES)
                        ds_vec_store(to + j, ds_load(type, pack->from, at + j));
                    for (; j + 4 <= width; j += 4) {
                        quad x = load_quad(type, pack->from, at + j);

                        memcpy(to + j, &x, sizeof(x));
                    }
                    for (; j < width; j++)
                        to[j] = ds_load_one(type, pack->from, at + j);
                } else {
                    for (size_t j = 0; j < count; j++)
                        to[j] = ds_load_one(type, pack->from, at + j);
                }
            }
        }
    }
}

DS_INLINE void pack(const struct ds_pack *p, enum ds_dtype type, bool along_k, const size_t width,
                    bool fill)
{
    size_t whole = p->m / width * width;

    if (fill && whole < p->m)
        memset(p->to + whole * p->k, 0, p->k * width * sizeof(float));
    if (!along_k) {
        deal(p, type, width);
        return;
    }
    for (size_t i = 0; i < p->m; i += width)
        transpose(type, p->from, p->at + i * p->ld, p->ld, i < whole ? width : p->m - whole, p->k,
                  p->to + i * p->k, width);
}

void DS_ISA(ds__pack_a)(const struct ds_pack *p)
{
    if (p->trans)
        DS_TYPED(p->type, pack(p, T, false, ROWS, false));
    else
        DS_TYPED(p->type, pack(p, T, true, ROWS, false));
}

void DS_ISA(ds__pack_b)(const struct ds_pack *p)
{
    if (p->trans)
        DS_TYPED(p->type, pack(p, T, true, COLUMNS, true));
    else
        DS_TYPED(p->type, pack(p, T, false, COLUMNS, true));
}
