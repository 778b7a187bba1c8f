/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matmul.c - matrix products divided among threads, and what is added to them.
 *
 * The longer side of D is cut into one piece per thread; each thread runs
 * oneDNN on its piece.  C and bias are written into D first and the product is
 * added, which costs less than a pass over D afterwards.
 *
 * BF16 on a processor that cannot multiply it: tiles of A and B are widened to
 * F32 in scratch memory, multiplied there, and rounded once at the end.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

enum { PIECE = 16 }; /* pieces are multiples of this, so that vectors stay whole */

struct matmul {
    const struct ds_matmul_args *a;
    struct ds_gemm *gemm;
    size_t piece_m, piece_n, columns; /* pieces of D, `columns` of them side by side */
    float *scratch;                   /* per thread: tiles of A, B and D */
    _Atomic int rc;                   /* of the first piece that failed */
};

/* Rows [m0, m0 + m) and columns [n0, n0 + n) of D. */
struct block {
    size_t m0, n0, m, n;
};

static const void *element(const void *base, enum ds_dtype type, size_t row, size_t ld, size_t col)
{
    return (const char *)base + (row * ld + col) * ds_dtype_bytes(type);
}

static void *target(const struct ds_matmul_args *a, size_t row, size_t col)
{
    return (char *)a->d + (row * a->ldd + col) * ds_dtype_bytes(a->out_type);
}

static const void *a_at(const struct ds_matmul_args *a, size_t row, size_t k)
{
    return a->trans_a ? element(a->a, a->in_type, k, a->lda, row)
                      : element(a->a, a->in_type, row, a->lda, k);
}

static const void *b_at(const struct ds_matmul_args *a, size_t k, size_t col)
{
    return a->trans_b ? element(a->b, a->in_type, col, a->ldb, k)
                      : element(a->b, a->in_type, k, a->ldb, col);
}

/* out = w + c + bias for `n` elements of a row; NULL counts as zeros. */
DS_INLINE void add_span(enum ds_dtype out_type, enum ds_dtype bias_type, size_t n, const float *w,
                        const void *c, const void *bias, void *out)
{
    size_t i = 0;

    for (; i < n; i += DS_LANES) {
        size_t part = ds__min(DS_LANES, n - i);
        bool whole = part == DS_LANES;
        ds_vec x = {0};

        if (w != NULL)
            x = whole ? ds_vec_load(w + i) : ds_load_part(DS_F32, w, i, part);
        if (c != NULL)
            x += whole ? ds_load(out_type, c, i) : ds_load_part(out_type, c, i, part);
        if (bias != NULL)
            x += whole ? ds_load(bias_type, bias, i) : ds_load_part(bias_type, bias, i, part);
        if (whole)
            ds_store(out_type, out, i, x);
        else
            ds_store_part(out_type, out, i, part, x);
    }
}

/* D = W + C + bias over a block; W [m, n] may be NULL. */
static void finish(const struct ds_matmul_args *a, struct block b, const float *w, bool with_bias)
{
    const void *bias = with_bias ? element(a->bias, a->in_type, 0, 0, b.n0) : NULL;

    for (size_t row = 0; row < b.m; row++) {
        const float *from = w == NULL ? NULL : w + row * b.n;
        const void *c =
            a->c == NULL ? NULL : element(a->c, a->out_type, b.m0 + row, a->ldc, b.n0);
        void *out = target(a, b.m0 + row, b.n0);

        if (a->out_type == DS_BF16)
            add_span(DS_BF16, DS_BF16, b.n, from, c, bias, out);
        else if (a->in_type == DS_BF16)
            add_span(DS_F32, DS_BF16, b.n, from, c, bias, out);
        else
            add_span(DS_F32, DS_F32, b.n, from, c, bias, out);
    }
}

static int plain(const struct ds_matmul_args *a, struct block b)
{
    struct ds_gemm_f32 g = {.trans_a = a->trans_a,
                            .trans_b = a->trans_b,
                            .add = a->c != NULL || a->bias != NULL,
                            .m = b.m,
                            .n = b.n,
                            .k = a->k,
                            .a = a_at(a, b.m0, 0),
                            .b = b_at(a, 0, b.n0),
                            .lda = a->lda,
                            .ldb = a->ldb,
                            .c = target(a, b.m0, b.n0),
                            .ldc = a->ldd};

    if (a->bias != NULL || (a->c != NULL && a->c != a->d))
        finish(a, b, NULL, a->bias != NULL);
    return ds__gemm_f32(&g);
}

static int compiled(const struct matmul *mm, unsigned thread, struct block b)
{
    const struct ds_matmul_args *a = mm->a;
    struct ds_gemm_shape shape = {.m = b.m,
                                  .n = b.n,
                                  .k = a->k,
                                  .lda = a->lda,
                                  .ldb = a->ldb,
                                  .ldd = a->ldd,
                                  .in_type = a->in_type,
                                  .out_type = a->out_type,
                                  .trans_a = a->trans_a,
                                  .trans_b = a->trans_b,
                                  .add = a->c != NULL,
                                  .bias = a->bias != NULL};

    if (a->c != NULL && a->c != a->d)
        finish(a, b, NULL, false);
    return ds__gemm_run(mm->gemm, thread, &shape, a_at(a, b.m0, 0), b_at(a, 0, b.n0),
                        a->bias == NULL ? NULL : element(a->bias, a->in_type, 0, 0, b.n0),
                        target(a, b.m0, b.n0));
}

/* Copy a tile of BF16, rows x n, as F32 without gaps. */
static void widen(const void *from, size_t ld, size_t rows, size_t n, float *to)
{
    for (size_t row = 0; row < rows; row++) {
        const ds_bf16 *x = (const ds_bf16 *)from + row * ld;
        float *y = to + row * n;
        size_t i = 0;

        for (; i + DS_LANES <= n; i += DS_LANES)
            ds_vec_store(y + i, ds_load(DS_BF16, x, i));
        for (; i < n; i++)
            y[i] = ds_bf16_to_f32(x[i]);
    }
}

/* One tile of D, over all of k.  `b_ready`: its part of B lies in scratch already. */
static int wide_tile(const struct ds_matmul_args *a, struct block b, float *scratch, bool b_ready)
{
    float *wa = scratch, *wb = wa + (size_t)DS_WIDE_M * DS_WIDE_K;
    float *wd = wb + (size_t)DS_WIDE_K * DS_WIDE_N;

    for (size_t k0 = 0; k0 < a->k; k0 += DS_WIDE_K) {
        size_t k = ds__min(DS_WIDE_K, a->k - k0);
        struct ds_gemm_f32 g = {.trans_a = a->trans_a,
                                .trans_b = a->trans_b,
                                .add = k0 != 0,
                                .m = b.m,
                                .n = b.n,
                                .k = k,
                                .a = wa,
                                .b = wb,
                                .lda = a->trans_a ? b.m : k,
                                .ldb = a->trans_b ? k : b.n,
                                .c = wd,
                                .ldc = b.n};
        int rc;

        widen(a_at(a, b.m0, k0), a->lda, a->trans_a ? k : b.m, a->trans_a ? b.m : k, wa);
        if (!b_ready)
            widen(b_at(a, k0, b.n0), a->ldb, a->trans_b ? b.n : k, a->trans_b ? k : b.n, wb);
        rc = ds__gemm_f32(&g);
        if (rc != 0)
            return rc;
    }
    finish(a, b, wd, a->bias != NULL);
    return 0;
}

static int wide(const struct ds_matmul_args *a, struct block b, float *scratch)
{
    for (size_t n = 0; n < b.n; n += DS_WIDE_N) {
        for (size_t m = 0; m < b.m; m += DS_WIDE_M) {
            struct block tile = {.m0 = b.m0 + m,
                                 .n0 = b.n0 + n,
                                 .m = ds__min(DS_WIDE_M, b.m - m),
                                 .n = ds__min(DS_WIDE_N, b.n - n)};
            int rc = wide_tile(a, tile, scratch, m != 0 && a->k <= DS_WIDE_K);

            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

static void piece_task(void *arg, size_t task, unsigned thread)
{
    struct matmul *mm = arg;
    const struct ds_matmul_args *a = mm->a;
    struct block b = {.m0 = task / mm->columns * mm->piece_m,
                      .n0 = task % mm->columns * mm->piece_n};
    int rc, none = 0;

    b.m = ds__min(mm->piece_m, a->m - b.m0);
    b.n = ds__min(mm->piece_n, a->n - b.n0);
    if (a->in_type == DS_F32)
        rc = plain(a, b);
    else if (ds__gemm_has_bf16())
        rc = compiled(mm, thread, b);
    else
        rc = wide(a, b, mm->scratch + thread * (ds__need_matmul(1) / sizeof(float)));
    if (rc != 0)
        atomic_compare_exchange_strong(&mm->rc, &none, rc);
}

static size_t piece(size_t side, unsigned threads)
{
    return ds__div_up(ds__div_up(side, threads), PIECE) * PIECE;
}

int DS_ISA(ds__cpu_matmul)(const struct ds_matmul_args *args, struct ds_stream *stream,
                           struct ds_error *err)
{
    unsigned threads = ds__cpu_threads(stream);
    struct matmul mm = {.a = args,
                        .gemm = ds__cpu_stream(stream)->gemm,
                        .piece_m = args->m,
                        .piece_n = args->n};
    int rc = 0;

    if (args->m >= args->n)
        mm.piece_m = piece(args->m, threads);
    else
        mm.piece_n = piece(args->n, threads);
    mm.columns = ds__div_up(args->n, mm.piece_n);
    if (args->in_type == DS_BF16 && !ds__gemm_has_bf16())
        rc = ds__cpu_scratch(stream, ds__need_matmul(threads), &mm.scratch, err);
    if (rc != 0)
        return rc;
    ds__cpu_run(stream, ds__div_up(args->m, mm.piece_m) * mm.columns, piece_task, &mm);
    rc = atomic_load(&mm.rc);
    if (rc != 0)
        return ds_fail(err, -rc, "oneDNN cannot multiply %zux%zu by %zux%zu", args->m, args->k,
                       args->k, args->n);
    return 0;
}
