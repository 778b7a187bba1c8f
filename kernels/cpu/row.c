/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * row.c - the contract is in row.h.
 */
#include "kernels/cpu/row.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

/* clang-format off */
enum {
    AT_ONCE  = 4,    /* columns that share A */
    DEEP     = 8,    /* rows of B that share a pass over the sums */
    COLUMNS  = DS_ROW_COLUMNS, /* of a task: their sums stay in the first cache */
    UNIT     = 64,
    TASKS    = 4,    /* for each thread, so that nobody waits long for the last one */
    SPAN     = 8192, /* columns that are summed over rows at a time */
    PIECES   = 32,   /* of the rows, at most, */
    PIECE    = 64,   /* each of that many, at least */
};
/* clang-format on */

struct row {
    const struct ds_matmul_args *a;
    size_t columns;     /* of a task */
    size_t first, span; /* of D, at a time */
    size_t piece, pieces;
    float *sums; /* [pieces][span] */
};

/* `many` columns of B, whose elements follow each other, from B[at] on. */
DS_INLINE void dots(const struct ds_matmul_args *a, enum ds_dtype type, size_t at, size_t many,
                    float *sums)
{
    ds_vec sum[AT_ONCE] = {0};
    size_t k = 0;

    for (; k + DS_LANES <= a->k; k += DS_LANES) {
        ds_vec x = ds_load(type, a->a, k);

        for (size_t c = 0; c < many; c++)
            sum[c] += x * ds_load(type, a->b, at + c * a->ldb + k);
    }
    if (k < a->k) {
        ds_vec x = ds_load_part(type, a->a, k, a->k - k);

        for (size_t c = 0; c < many; c++)
            sum[c] += x * ds_load_part(type, a->b, at + c * a->ldb + k, a->k - k);
    }
    for (size_t c = 0; c < many; c++)
        sums[c] = ds_vec_sum(sum[c]);
}

DS_INLINE void by_columns(const struct ds_matmul_args *a, enum ds_dtype type, size_t n0, size_t n,
                          float *sums)
{
    size_t j = 0;

    for (; j + AT_ONCE <= n; j += AT_ONCE)
        dots(a, type, (n0 + j) * a->ldb, AT_ONCE, sums + j);
    for (; j < n; j++)
        dots(a, type, (n0 + j) * a->ldb, 1, sums + j);
}

static void columns_task(void *arg, size_t task, unsigned thread)
{
    const struct row *r = arg;
    float sums[COLUMNS] DS_UNINITIALIZED;
    size_t n0 = task * r->columns, n = ds__min(r->columns, r->a->n - n0);

    (void)thread;
    DS_TYPED(r->a->in_type, by_columns(r->a, T, n0, n, sums));
    DS_ISA(ds__finish_row)(r->a, n0, n, sums);
}

/* sums += rows k .. k + deep - 1 of B times their elements of A. */
DS_INLINE void add_rows(const struct ds_matmul_args *a, enum ds_dtype type, size_t k, size_t deep,
                        size_t n0, size_t n, float *sums)
{
    size_t at = k * a->ldb + n0, j = 0;
    ds_vec x[DEEP];

    for (size_t d = 0; d < deep; d++)
        x[d] = ds_vec_set(ds_load_one(type, a->a, k + d));
    for (; j + DS_LANES <= n; j += DS_LANES) {
        ds_vec sum = ds_vec_load(sums + j);

        for (size_t d = 0; d < deep; d++)
            sum += x[d] * ds_load(type, a->b, at + d * a->ldb + j);
        ds_vec_store(sums + j, sum);
    }
    if (j < n) {
        ds_vec sum = ds_load_part(DS_F32, sums, j, n - j);

        for (size_t d = 0; d < deep; d++)
            sum += x[d] * ds_load_part(type, a->b, at + d * a->ldb + j, n - j);
        ds_store_part(DS_F32, sums, j, n - j, sum);
    }
}

/* Rows k .. end - 1 of B, of their columns n0 .. n0 + n - 1. */
DS_INLINE void by_rows(const struct ds_matmul_args *a, enum ds_dtype type, size_t k, size_t end,
                       size_t n0, size_t n, float *sums)
{
    memset(sums, 0, n * sizeof(*sums));
    for (; k + DEEP <= end; k += DEEP)
        add_rows(a, type, k, DEEP, n0, n, sums);
    for (; k < end; k++)
        add_rows(a, type, k, 1, n0, n, sums);
}

static void rows_task(void *arg, size_t task, unsigned thread)
{
    const struct row *r = arg;
    size_t k = task * r->piece, end = ds__min(k + r->piece, r->a->k);

    (void)thread;
    DS_TYPED(r->a->in_type, by_rows(r->a, T, k, end, r->first, r->span, r->sums + task * r->span));
}

static void add_up_task(void *arg, size_t task, unsigned thread)
{
    const struct row *r = arg;
    size_t begin = task * COLUMNS, n = ds__min(COLUMNS, r->span - begin);
    float *sums = r->sums + begin;

    (void)thread;
    for (size_t piece = 1; piece < r->pieces; piece++) {
        const float *more = sums + piece * r->span;

        for (size_t j = 0; j < n; j++)
            sums[j] += more[j];
    }
    DS_ISA(ds__finish_row)(r->a, r->first + begin, n, sums);
}

static int multiply_rows(struct row *r, struct ds_stream *stream, struct ds_error *err)
{
    size_t rows = ds__div_up(r->a->k, PIECES);
    int rc;

    r->piece = rows < PIECE ? PIECE : ds__div_up(rows, DEEP) * DEEP;
    r->pieces = ds__div_up(r->a->k, r->piece);
    rc = ds__cpu_scratch(stream, r->pieces * ds__min(SPAN, r->a->n) * sizeof(float), &r->sums, err);
    for (; rc == 0 && r->first < r->a->n; r->first += r->span) {
        r->span = ds__min(SPAN, r->a->n - r->first);
        ds__cpu_run(stream, r->pieces, rows_task, r);
        ds__cpu_run(stream, ds__div_up(r->span, COLUMNS), add_up_task, r);
    }
    return rc;
}

int DS_ISA(ds__row)(const struct ds_matmul_args *args, struct ds_stream *stream,
                    struct ds_error *err)
{
    size_t share = ds__div_up(args->n, (size_t)TASKS * ds__cpu_threads(stream));
    struct row r = {.a = args, .columns = ds__min(ds__div_up(share, UNIT) * UNIT, COLUMNS)};

    if (!args->trans_b)
        return multiply_rows(&r, stream, err);
    ds__cpu_run(stream, ds__div_up(args->n, r.columns), columns_task, &r);
    return 0;
}

void DS_ISA(ds__row_alone)(const struct ds_matmul_args *args)
{
    float sums[COLUMNS] DS_UNINITIALIZED;

    if (args->trans_b)
        DS_TYPED(args->in_type, by_columns(args, T, 0, args->n, sums));
    else
        DS_TYPED(args->in_type, by_rows(args, T, 0, args->k, 0, args->n, sums));
    DS_ISA(ds__finish_row)(args, 0, args->n, sums);
}
