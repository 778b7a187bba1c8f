/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * muon.c - the contract is in muon.h.
 */
#include "runtime/muon.h"

#include "runtime/optim.h"

static const double coefficient_a = 3.4445, coefficient_b = -4.7750, coefficient_c = 2.0315;
static const double norm_eps = 1e-7;

struct iteration {
    uint64_t rows, cols, side; /* side: the shorter one */
    float *x, *y;              /* [rows, cols]; y also holds [side, side] on the way */
    float *gram, *polynomial;  /* [side, side] */
    double *squares;           /* [2], of the stream's device as all of these */
    struct ds_stream *stream;
};

/* d[m,n] = op(a) op(b), all dense. */
static int product(const struct iteration *it, struct ds_matmul_args args, struct ds_error *err)
{
    args.in_type = args.out_type = DS_F32;
    args.lda = args.trans_a ? args.m : args.k;
    args.ldb = args.trans_b ? args.k : args.n;
    args.ldd = args.n;
    return ds_matmul(&args, it->stream, err);
}

/* A = X X', or X' X where that is the smaller. */
static int make_gram(const struct iteration *it, struct ds_error *err)
{
    bool wide = it->rows <= it->cols;
    const struct ds_matmul_args args = {
        .m = it->side,
        .n = it->side,
        .k = wide ? it->cols : it->rows,
        .trans_a = !wide,
        .trans_b = wide,
        .a = it->x,
        .b = it->x,
        .d = it->gram,
    };

    return product(it, args, err);
}

/* y = alpha x + beta 1, both [side, side]. */
static int affine(const struct iteration *it, const float *x, float *y, double alpha, double beta,
                  struct ds_error *err)
{
    const struct ds_affine_args args = {
        .rows = it->side, .cols = it->side, .x = x, .y = y, .alpha = alpha, .beta = beta};

    return ds_affine(&args, it->stream, err);
}

/* a + b A + c A A = a + A (b + c A) */
static int make_polynomial(const struct iteration *it, struct ds_error *err)
{
    const struct ds_matmul_args args = {.m = it->side,
                                        .n = it->side,
                                        .k = it->side,
                                        .a = it->gram,
                                        .b = it->polynomial,
                                        .d = it->y};
    int rc = affine(it, it->gram, it->polynomial, coefficient_c, coefficient_b, err);

    if (rc == 0)
        rc = product(it, args, err);
    return rc != 0 ? rc : affine(it, it->y, it->polynomial, 1.0, coefficient_a, err);
}

/* Y = polynomial X, or X polynomial. */
static int apply(const struct iteration *it, struct ds_error *err)
{
    bool wide = it->rows <= it->cols;
    const struct ds_matmul_args args = {
        .m = it->rows,
        .n = it->cols,
        .k = it->side,
        .a = wide ? it->polynomial : it->x,
        .b = wide ? it->x : it->polynomial,
        .d = it->y,
    };

    return product(it, args, err);
}

/* x / (|x| + norm_eps) */
static int normalize(const struct iteration *it, struct ds_error *err)
{
    const struct ds_sumsq_args sum = {
        .n = it->rows * it->cols,
        .x = it->x,
        .sum = &it->squares[0],
        .nonfinite = (uint64_t *)(void *)&it->squares[1],
    };
    const struct ds_affine_args scale = {.rows = it->rows,
                                         .cols = it->cols,
                                         .x = it->x,
                                         .y = it->x,
                                         .alpha = 1.0,
                                         .squares = &it->squares[0],
                                         .eps = norm_eps};
    int rc = ds_sumsq(&sum, it->stream, err);

    return rc == 0 ? ds_affine(&scale, it->stream, err) : rc;
}

int ds_muon_orthogonalize(uint64_t rows, uint64_t cols, float *work, float **out,
                          struct ds_stream *stream, struct ds_error *err)
{
    uint64_t side = rows < cols ? rows : cols;
    struct iteration it = {.rows = rows,
                           .cols = cols,
                           .side = side,
                           .squares = (double *)(void *)work + rows * cols + side * side,
                           .x = work,
                           .y = work + rows * cols,
                           .gram = work + 2 * rows * cols,
                           .polynomial = work + 2 * rows * cols + side * side,
                           .stream = stream};
    int rc = normalize(&it, err);

    for (unsigned i = 0; rc == 0 && i < DS_OPTIM_MUON_ITERATIONS; i++) {
        float *x = it.x;

        rc = make_gram(&it, err);
        if (rc == 0)
            rc = make_polynomial(&it, err);
        if (rc == 0)
            rc = apply(&it, err);
        it.x = it.y;
        it.y = x;
    }
    *out = it.x;
    return rc;
}

int ds_muon_update(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
                   struct ds_error *err)
{
    const struct ds_muon_moments_args moments = {
        .n = u->n,
        .m = u->state[0],
        .u = u->matrix != NULL ? ds_matrix_own(u->matrix) : u->work,
        .grad_type = DS_F32,
        .grad = u->grad,
        .momentum = job->optim.momentum,
        .grad_scale = u->grad_scale,
        .nesterov = job->optim.nesterov,
        .verdict = u->verdict,
    };
    struct ds_muon_args step = {
        .n = u->n,
        .p = u->p,
        .low_type = u->low_type,
        .p_low = u->low,
        .lr = u->lr,
        .weight_decay = u->weight_decay,
        .step = u->lr * u->scale,
        .verdict = u->verdict,
    };
    float *direction = NULL;
    int rc = ds_muon_moments(&moments, stream, err);

    if (rc == 0 && u->matrix != NULL)
        rc = ds_matrix_join(u->matrix, u->work, stream, err);
    if (rc == 0)
        rc = ds_muon_orthogonalize(u->rows, u->cols, u->work, &direction, stream, err);
    if (rc == 0 && u->matrix != NULL)
        rc = ds_matrix_part(u->matrix, direction, &direction, stream, err);
    step.x = direction;
    return rc != 0 ? rc : ds_muon(&step, stream, err);
}
