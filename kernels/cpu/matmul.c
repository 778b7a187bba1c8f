/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matmul.c - matrix products divided among threads, and what is added to them.
 *
 * The longer side of D is cut into one piece per thread.  A piece is computed
 * by oneDNN where that is the best there is (AVX-512, BF16 instructions), else
 * here: B is packed in tiles that stay in the second cache, A as well unless
 * its rows are used too seldom to pay for it, both widened to F32 on the way.
 * C and bias are written into D first and the product is added, which costs
 * less than a pass over D afterwards; BF16 and F16 are rounded once, at the end.
 * A product of one row is row.c's.
 */
#include "kernels/cpu/alone.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/row.h"
#include "kernels/cpu/vec.h"
#include "kernels/epilogue.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

enum { PIECE = 16 }; /* pieces are multiples of this, so that vectors stay whole */

struct matmul {
    const struct ds_matmul_args *a;
    struct ds_gemm *gemm;
    size_t piece_m, piece_n, columns; /* pieces of D, `columns` of them side by side */
    float *scratch;                   /* per thread: struct own */
    size_t scratch_floats;            /* of one thread */
    _Atomic int rc;                   /* of the first piece that failed */
};

/* A thread's scratch: packed A, packed B, sums of a tile of BF16 or F16. */
struct own {
    float *a, *b, *c;
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
        const void *c = a->c == NULL ? NULL : element(a->c, a->out_type, b.m0 + row, a->ldc, b.n0);
        void *out = target(a, b.m0 + row, b.n0);

        if (a->out_type == a->in_type)
            DS_TYPED(a->in_type, add_span(T, T, b.n, from, c, bias, out));
        else
            DS_TYPED(a->in_type, add_span(DS_F32, T, b.n, from, c, bias, out));
    }
}

void DS_ISA(ds__finish_row)(const struct ds_matmul_args *args, size_t n0, size_t n,
                            const float *sums)
{
    finish(args, (struct block){.n0 = n0, .m = 1, .n = n}, sums, args->bias != NULL);
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

static int compiled(const struct ds_matmul_args *a, const struct ds_alone *alone, struct block b)
{
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
    return ds__gemm_run(alone->gemm, alone->thread, &shape, a_at(a, b.m0, 0), b_at(a, 0, b.n0),
                        a->bias == NULL ? NULL : element(a->bias, a->in_type, 0, 0, b.n0),
                        target(a, b.m0, b.n0));
}

/* Rows [m0, m0 + m) of a tile by all its columns, over k0 ... k0 + k; B is packed. */
static void own_rows(const struct ds_matmul_args *a, struct block b, size_t k0, size_t k,
                     const struct own *own, float *c, size_t ldc, bool add)
{
    bool pack = a->trans_a || a->in_type != DS_F32 || b.n > DS_UNPACKED_N;
    struct ds_pack rows = {.type = a->in_type,
                           .trans = a->trans_a,
                           .from = a_at(a, b.m0, k0),
                           .ld = a->lda,
                           .m = b.m,
                           .k = k,
                           .to = own->a};
    struct ds_panel panel = {.m = b.m, .k = k, .b_row = DS_PANEL_COLUMNS, .ldc = ldc, .add = add};

    if (pack) {
        DS_ISA(ds__pack_a)(&rows);
        panel.a = own->a;
        panel.a_row = 1;
        panel.a_col = DS_PANEL_ROWS;
        panel.a_group = k * DS_PANEL_ROWS;
    } else {
        panel.a = a_at(a, b.m0, k0);
        panel.a_row = a->lda;
        panel.a_col = 1;
        panel.a_group = DS_PANEL_ROWS * a->lda;
    }
    for (size_t n = 0; n < b.n; n += DS_PANEL_COLUMNS) {
        panel.n = ds__min(DS_PANEL_COLUMNS, b.n - n);
        panel.b = own->b + n * k;
        panel.c = c + n;
        DS_ISA(ds__panel)(&panel);
    }
}

/* One tile: at most DS_TILE_N columns; and, when it is summed in scratch, DS_TILE_M rows. */
static void own_tile(const struct ds_matmul_args *a, struct block tile, const struct own *own)
{
    bool in_place = a->out_type == DS_F32;
    bool first = a->bias != NULL || (a->c != NULL && a->c != a->d);
    float *c = in_place ? target(a, tile.m0, tile.n0) : own->c;
    size_t ldc = in_place ? a->ldd : tile.n;

    for (size_t k0 = 0; k0 < a->k; k0 += DS_TILE_K) {
        size_t k = ds__min(DS_TILE_K, a->k - k0);
        struct ds_pack columns = {.type = a->in_type,
                                  .trans = a->trans_b,
                                  .from = b_at(a, k0, tile.n0),
                                  .ld = a->ldb,
                                  .m = tile.n,
                                  .k = k,
                                  .to = own->b};

        DS_ISA(ds__pack_b)(&columns);
        for (size_t m = 0; m < tile.m; m += DS_TILE_ROWS) {
            struct block rows = tile;

            rows.m0 += m;
            rows.m = ds__min(DS_TILE_ROWS, tile.m - m);
            if (k0 == 0 && in_place && first)
                finish(a, rows, NULL, a->bias != NULL);
            own_rows(a, rows, k0, k, own, c + m * ldc, ldc,
                     k0 != 0 || (in_place && (first || a->c != NULL)));
        }
    }
    if (!in_place)
        finish(a, tile, c, a->bias != NULL);
}

static void own_product(const struct ds_matmul_args *a, struct block b, float *scratch)
{
    struct own own = {.a = scratch};
    size_t rows = a->out_type == DS_F32 ? b.m : DS_TILE_M;

    own.b = own.a + (size_t)DS_TILE_ROWS * DS_TILE_K;
    own.c = own.b + (size_t)DS_TILE_N * DS_TILE_K;
    for (size_t n = 0; n < b.n; n += DS_TILE_N) {
        for (size_t m = 0; m < b.m; m += rows) {
            struct block tile = {.m0 = b.m0 + m,
                                 .n0 = b.n0 + n,
                                 .m = ds__min(rows, b.m - m),
                                 .n = ds__min(DS_TILE_N, b.n - n)};

            own_tile(a, tile, &own);
        }
    }
}

/* oneDNN has the better kernels where vectors are of 512 bits or BF16 is multiplied directly; with
 * AVX2 it loses a third of its rate on small gradients of weights summed over many tokens. */
static bool uses_onednn(const struct ds_matmul_args *a)
{
    if (a->in_type == DS_F16)
        return false; /* oneDNN 2.6 multiplies halves on no CPU */
    if (a->in_type == DS_BF16)
        return ds__gemm_has_bf16();
    if (DS_LANES == 8)
        return !a->trans_a || a->m > DS_SMALL_GRADIENT / a->n;
    return DS_LANES == 16;
}

static int block_product(const struct ds_matmul_args *a, const struct ds_alone *alone,
                         struct block b)
{
    if (uses_onednn(a) && a->in_type == DS_F32)
        return plain(a, b);
    if (uses_onednn(a) && alone->gemm != NULL)
        return compiled(a, alone, b);
    own_product(a, b, alone->scratch);
    return 0;
}

int DS_ISA(ds__product)(const struct ds_matmul_args *args, const struct ds_alone *alone)
{
    return block_product(args, alone, (struct block){.m = args->m, .n = args->n});
}

static void piece_task(void *arg, size_t task, unsigned thread)
{
    struct matmul *mm = arg;
    const struct ds_matmul_args *a = mm->a;
    const struct ds_alone alone = {
        .gemm = mm->gemm,
        .thread = thread,
        .scratch = mm->scratch == NULL ? NULL : mm->scratch + thread * mm->scratch_floats};
    struct block b = {.m0 = task / mm->columns * mm->piece_m,
                      .n0 = task % mm->columns * mm->piece_n};
    int rc, none = 0;

    b.m = ds__min(mm->piece_m, a->m - b.m0);
    b.n = ds__min(mm->piece_n, a->n - b.n0);
    rc = block_product(a, &alone, b);
    if (rc != 0)
        atomic_compare_exchange_strong(&mm->rc, &none, rc);
}

static size_t piece(size_t side, unsigned threads)
{
    return ds__div_up(ds__div_up(side, threads), PIECE) * PIECE;
}

static int multiply(const struct ds_matmul_args *args, struct ds_stream *stream,
                    struct ds_error *err)
{
    unsigned threads = ds__cpu_threads(stream);
    struct matmul mm = {
        .a = args, .gemm = ds__cpu_stream(stream)->gemm, .piece_m = args->m, .piece_n = args->n};
    bool low = args->in_type != DS_F32;
    int rc = 0;

    if (args->in_type == DS_U8)
        return DS_ISA(ds__cpu_fp8_matmul)(args, stream, err);
    if (ds__is_row(args))
        return DS_ISA(ds__row)(args, stream, err);
    mm.scratch_floats = ds__need_matmul(1, low) / sizeof(float);
    if (args->m >= args->n)
        mm.piece_m = piece(args->m, threads);
    else
        mm.piece_n = piece(args->n, threads);
    mm.columns = ds__div_up(args->n, mm.piece_n);
    if (!uses_onednn(args))
        rc = ds__cpu_scratch(stream, ds__need_matmul(threads, low), &mm.scratch, err);
    if (rc != 0)
        return rc;
    ds__cpu_run(stream, ds__div_up(args->m, mm.piece_m) * mm.columns, piece_task, &mm);
    rc = atomic_load(&mm.rc);
    if (rc != 0)
        return ds_fail(err, -rc, "oneDNN cannot multiply %zux%zu by %zux%zu", args->m, args->k,
                       args->k, args->n);
    return 0;
}

int DS_ISA(ds__cpu_matmul)(const struct ds_matmul_args *args, struct ds_stream *stream,
                           struct ds_error *err)
{
    const struct ds_matmul_args product = ds__epilogue_product(args);
    int rc = multiply(&product, stream, err);

    return rc != 0 ? rc : ds__epilogue_apply(args, stream, err);
}
