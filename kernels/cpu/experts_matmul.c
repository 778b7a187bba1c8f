/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts_matmul.c - the products of experts, each a matrix product of some rows.
 *
 * A task is a tile of what is written: some rows of one expert by some columns, or a part of one
 * expert's gradient, for which it goes through all its rows.  Tiles follow from shapes and offsets
 * alone, so that the number of threads does not show in the bits.
 *
 * Of BF16 a compiled product is kept for each number of rows: it is given multiples of UNIT, of
 * which there are few, and what is left is multiplied here.
 */
#include "kernels/cpu/alone.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/row.h"

#include <stdatomic.h>

/* clang-format off */
enum {
    ROWS    = 256, /* of a tile, at most */
    COLUMNS = 512,
    DEEP    = 512, /* rows that a gradient is summed over at a time, at most */
    UNIT    = 64,
};
/* clang-format on */

struct experts {
    const struct ds_experts_matmul_args *a;
    struct ds_gemm *gemm;
    size_t end[DS_MAX_EXPERTS + 1];   /* expert e has rows end[e] .. end[e + 1] - 1 */
    size_t tiles[DS_MAX_EXPERTS + 1]; /* of the experts before e */
    size_t columns;                   /* tiles side by side */
    size_t unit;                      /* of rows that a compiled product is given */
    float *scratch;
    size_t scratch_floats; /* of a thread */
    _Atomic int rc;        /* of the first tile that failed */
};

static const void *element(const struct ds_experts_matmul_args *a, const void *base, size_t at)
{
    return (const char *)base + at * ds_dtype_bytes(a->act);
}

/* Rows that no compiled product has: it is a plain one of one row, or of what is left. */
static int multiply(const struct ds_matmul_args *args, const struct ds_alone *alone)
{
    if (ds__is_row(args)) {
        DS_ISA(ds__row_alone)(args);
        return 0;
    }
    return DS_ISA(ds__product)(args, alone);
}

/* `n` columns from `column` on of rows begin .. begin + rows - 1 of expert e. */
static int rows_tile(const struct experts *x, struct ds_alone alone, size_t e, size_t begin,
                     size_t rows, size_t column, size_t n)
{
    const struct ds_experts_matmul_args *a = x->a;
    bool fwd = a->product == DS_EXPERTS_FWD;
    size_t in = fwd ? a->in : a->out, out = fwd ? a->out : a->in;
    size_t weights = e * a->in * a->out + column * (fwd ? a->in : 1);
    size_t whole = rows / x->unit * x->unit;
    struct ds_matmul_args args = {.m = whole,
                                  .n = n,
                                  .k = in,
                                  .trans_b = fwd,
                                  .in_type = a->act,
                                  .out_type = a->act,
                                  .a = element(a, fwd ? a->x : a->y, begin * in),
                                  .b = element(a, a->weight, weights),
                                  .d = (char *)a->to +
                                       (begin * out + column) * ds_dtype_bytes(a->act),
                                  .lda = in,
                                  .ldb = a->in,
                                  .ldd = out};
    int rc = whole == 0 ? 0 : multiply(&args, &alone);

    if (rc != 0 || whole == rows)
        return rc;
    alone.gemm = NULL;
    args.a = element(a, args.a, whole * in);
    args.d = (char *)args.d + whole * out * ds_dtype_bytes(a->act);
    args.m = rows - whole;
    return multiply(&args, &alone);
}

/* Rows `row` .. row + m - 1 and n columns from `column` on of an expert's gradient. */
static int weight_tile(const struct experts *x, struct ds_alone alone, size_t e, size_t row,
                       size_t m, size_t column, size_t n)
{
    const struct ds_experts_matmul_args *a = x->a;
    float *to = (float *)a->to + (e * a->out + row) * a->in + column;
    struct ds_matmul_args args = {.m = m,
                                  .n = n,
                                  .trans_a = true,
                                  .in_type = a->act,
                                  .out_type = DS_F32,
                                  .c = a->accumulate ? to : NULL,
                                  .d = to,
                                  .lda = a->out,
                                  .ldb = a->in,
                                  .ldc = a->in,
                                  .ldd = a->in};
    int rc = 0;

    for (size_t begin = x->end[e]; rc == 0 && begin < x->end[e + 1]; begin += args.k) {
        args.k = ds__min(DEEP, x->end[e + 1] - begin);
        if (args.k >= x->unit)
            args.k = args.k / x->unit * x->unit;
        else
            alone.gemm = NULL;
        args.a = element(a, a->y, begin * a->out + row);
        args.b = element(a, a->x, begin * a->in + column);
        rc = multiply(&args, &alone);
        args.c = to;
    }
    for (size_t i = 0; args.c == NULL && i < m; i++)
        memset(to + i * a->in, 0, n * sizeof(*to));
    return rc;
}

static void tile_task(void *arg, size_t task, unsigned thread)
{
    struct experts *x = arg;
    const struct ds_experts_matmul_args *a = x->a;
    const struct ds_alone alone = {
        .gemm = x->gemm, .thread = thread, .scratch = x->scratch + thread * x->scratch_floats};
    size_t e = 0, down, column, n;
    int rc, none = 0;

    while (x->tiles[e + 1] <= task)
        e++;
    down = (x->tiles[e + 1] - x->tiles[e]) / x->columns; /* tiles below each other */
    task -= x->tiles[e];
    column = task / down * COLUMNS;
    n = ds__min(COLUMNS, (a->product == DS_EXPERTS_FWD ? a->out : a->in) - column);
    down = task % down * ROWS;
    if (a->product == DS_EXPERTS_BWD_W)
        rc = weight_tile(x, alone, e, down, ds__min(ROWS, a->out - down), column, n);
    else
        rc = rows_tile(x, alone, e, x->end[e] + down,
                       ds__min(ROWS, x->end[e + 1] - x->end[e] - down), column, n);
    if (rc != 0)
        atomic_compare_exchange_strong(&x->rc, &none, rc);
}

/* Whatever the offsets are, experts have rows of their own. */
static void lay_out(struct experts *x)
{
    const struct ds_experts_matmul_args *a = x->a;
    bool weights = a->product == DS_EXPERTS_BWD_W;

    x->columns = ds__div_up(a->product == DS_EXPERTS_FWD ? a->out : a->in, COLUMNS);
    for (size_t e = 0; e < a->experts; e++) {
        size_t end = ds__min(a->offset[e + 1], a->rows);

        x->end[e + 1] = end > x->end[e] ? end : x->end[e];
        x->tiles[e + 1] =
            x->tiles[e] +
            x->columns * ds__div_up(weights ? a->out : x->end[e + 1] - x->end[e], ROWS);
    }
}

int DS_ISA(ds__cpu_experts_matmul)(const struct ds_experts_matmul_args *args,
                                   struct ds_stream *stream, struct ds_error *err)
{
    unsigned threads = ds__cpu_threads(stream);
    bool low = args->act != DS_F32;
    struct experts x = {.a = args,
                        .gemm = ds__cpu_stream(stream)->gemm,
                        .unit = args->act == DS_BF16 && ds__gemm_has_bf16() ? UNIT : 1,
                        .scratch_floats = ds__need_matmul(1, low) / sizeof(float)};
    int rc = ds__cpu_scratch(stream, ds__need_matmul(threads, low), &x.scratch, err);

    if (rc != 0)
        return rc;
    lay_out(&x);
    ds__cpu_run(stream, x.tiles[args->experts], tile_task, &x);
    rc = atomic_load(&x.rc);
    if (rc != 0)
        return ds_fail(err, -rc, "oneDNN cannot multiply the rows of experts of %zux%zu", args->out,
                       args->in);
    return 0;
}
