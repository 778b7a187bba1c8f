/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * parts.h - runs whose ranks have parts of the layers, or of each, against runs whose ranks have all.
 */
#ifndef DS_TESTS_ENGINE_PARTS_H
#define DS_TESTS_ENGINE_PARTS_H

#include "tests/engine/fixture.h"

/* The tensors of a run whose ranks have all, one behind the other as the model has them. */
static inline float *test_in_order(const struct test_run *run, const float *line)
{
    float *out = calloc(ds_model_elems(&run->plan.model), sizeof(*out));
    uint64_t at = 0;

    cr_assert_not_null(out);
    for (size_t i = 0; i < run->plan.params; i++) {
        const struct ds_plan_param *param = &run->plan.param[i];

        memcpy(out + at, line + param->offset, param->param.elems * sizeof(*out));
        at += param->param.elems;
    }
    return out;
}

/* By how much a line differs; 0.0: not in one bit. */
static inline double test_off_by(const struct test_run *parts, const float *x,
                                 const struct test_run *whole, const float *y)
{
    float *want = test_in_order(whole, y);
    double off =
        memcmp(x, want, parts->elems * sizeof(*x)) == 0 ? 0.0 : test_l2(x, want, parts->elems);

    free(want);
    return off;
}

static inline void test_compare(const struct test_run *parts, const struct test_run *whole,
                                double tolerance, const char *what)
{
    for (unsigned i = 0; i < parts->steps; i++) {
        const struct ds_step_result *a = &parts->result[i], *b = &whole->result[i];

        cr_assert_float_eq(a->loss, b->loss, tolerance * b->loss, "%s: loss %.17g, not %.17g", what,
                           a->loss, b->loss);
        cr_assert_float_eq(a->grad_norm, b->grad_norm, (1e-12 + 10.0 * tolerance) * b->grad_norm,
                           "%s: norm %.17g, not %.17g", what, a->grad_norm, b->grad_norm);
    }
    cr_assert_float_eq(parts->eval, whole->eval, tolerance * whole->eval, "%s: %.17g, not %.17g",
                       what, parts->eval, whole->eval);
    cr_assert_leq(test_off_by(parts, parts->params, whole, whole->params), 10.0 * tolerance, "%s",
                  what);
    cr_assert_leq(test_off_by(parts, parts->exp_avg, whole, whole->exp_avg), 100.0 * tolerance,
                  "%s", what);
}

#endif
