/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_fp8 - layers whose products are of FP8: losses and gradients near those of bf16, the same
 * bits at every stage and however much is computed again, and what is not finite is not hidden.
 */
#include "tests/engine/fixture.h"

enum { GPT2, LLAMA };

/* 16 sequences of 17 tokens are a multiple of 16. */
static struct test_run fp8_run(unsigned model, unsigned world, bool fp8)
{
    struct test_run run = test_reference_run(model, world, 16);

    run.job.train.global_batch = 32;
    run.job.precision.compute = DS_COMPUTE_BF16;
    run.job.precision.matmul = fp8 ? DS_MATMUL_FP8 : DS_MATMUL_COMPUTE;
    run.steps = 4;
    return run;
}

/* Gradients of E5M2 have two bits of mantissa, so each is off by up to an eighth, and again in every
 * layer behind; what is wired wrongly is off by one and more. */
Test(fp8, trains_as_bf16_does_nearly)
{
    for (unsigned model = GPT2; model <= LLAMA; model++) {
        struct test_run low = fp8_run(model, 1, true), plain = fp8_run(model, 1, false);
        double off;

        test_run_ok(&low);
        test_run_ok(&plain);
        off = test_l2(low.first_grads, plain.first_grads, low.elems);
        cr_assert(off > 1e-3 && off < 0.25, "model %u: gradients are off by %g", model, off);
        for (unsigned i = 0; i < low.steps; i++) {
            double by = fabs(low.result[i].loss / plain.result[i].loss - 1.0);

            cr_assert_lt(by, 0.01, "model %u, step %u: %g and %g", model, i, low.result[i].loss,
                         plain.result[i].loss);
            cr_assert_eq(low.result[i].nonfinite, 0);
        }
        cr_assert(low.result[0].loss != plain.result[0].loss, "it was bf16");
        cr_assert_lt(low.result[3].loss, low.result[0].loss);
        cr_assert_lt(fabs(low.eval / plain.eval - 1.0), 0.01, "%g and %g", low.eval, plain.eval);
        test_run_release(&low);
        test_run_release(&plain);
    }
}

static void expect_same(const struct test_run *a, const struct test_run *b, const char *what)
{
    cr_assert(test_same(a, b), "%s: other bits", what);
}

Test(fp8, has_the_same_bits_whatever_is_shared_or_computed_again)
{
    static const enum ds_recompute recompute[] = {DS_RECOMPUTE_SELECTIVE, DS_RECOMPUTE_FULL};

    for (unsigned model = GPT2; model <= LLAMA; model++) {
        struct test_run first = fp8_run(model, 2, true);

        test_run_ok(&first);
        for (unsigned i = 0; i < 5; i++) {
            struct test_run other = fp8_run(model, 2, true);
            char what[64];

            if (i < 3)
                other.job.zero.stage = i + 1;
            else
                other.job.activation.recompute = recompute[i - 3];
            (void)snprintf(what, sizeof(what), "model %u, stage %u, recompute %u", model,
                           (unsigned)other.job.zero.stage,
                           (unsigned)other.job.activation.recompute);
            test_run_ok(&other);
            expect_same(&first, &other, what);
            test_run_release(&other);
        }
        test_run_release(&first);
    }
}

/* NaN goes through every cast: the step is counted as not finite and changes nothing. */
Test(fp8, a_nan_is_not_saturated)
{
    struct test_run run = fp8_run(GPT2, 1, true), before = run;

    run.steps = 2;
    run.poison_step = 1;
    before.steps = 1;
    test_run_ok(&run);
    test_run_ok(&before);
    cr_assert_eq(run.result[0].nonfinite, 0);
    cr_assert_gt(run.result[1].nonfinite, 0);
    cr_assert(isnan(run.result[1].grad_norm));
    cr_assert_eq(memcmp(run.params + 1, before.params + 1, (run.elems - 1) * sizeof(float)), 0,
                 "a skipped update changed a weight");
    test_run_release(&run);
    test_run_release(&before);
}
