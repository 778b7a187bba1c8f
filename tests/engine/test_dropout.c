/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_dropout - what is dropped depends on the seed and the sequence alone: not on what is
 * computed again, who shares what, or how the batch is cut; gradients are those of the loss.
 */
#include "tests/engine/fixture.h"

static struct test_run dropout_run(unsigned ref, unsigned world, uint64_t micro_batch, double rate)
{
    struct test_run run = test_reference_run(ref, world, micro_batch);

    run.job.model.dropout = run.job.model.attention_dropout = rate;
    run.job.seed = 7;
    run.steps = 3;
    return run;
}

Test(dropout, bits_do_not_depend_on_what_is_kept)
{
    static const enum ds_recompute ways[] = {DS_RECOMPUTE_NONE, DS_RECOMPUTE_SELECTIVE,
                                             DS_RECOMPUTE_FULL};
    static const enum ds_compute types[] = {DS_COMPUTE_FP32, DS_COMPUTE_BF16, DS_COMPUTE_FP16};

    for (unsigned i = 0; i < 6; i++) {
        struct test_run run[3];

        for (unsigned k = 0; k < 3; k++) {
            run[k] = dropout_run(i % 2, 2, 2, 0.2);
            run[k].job.precision.compute = types[i / 2];
            run[k].job.activation.recompute = ways[k];
            test_run_ok(&run[k]);
            cr_assert(test_same(&run[0], &run[k]), "case %u, way %u", i, k);
        }
        for (unsigned k = 0; k < 3; k++)
            test_run_release(&run[k]);
    }
}

/* One pass per step: the sums of all stages have one order. */
Test(dropout, bits_do_not_depend_on_the_stage)
{
    for (unsigned i = 0; i < 4; i++) {
        struct test_run run[4];

        for (unsigned stage = 0; stage < 4; stage++) {
            run[stage] = dropout_run(i % 2, i < 2 ? 2 : 4, i < 2 ? 4 : 2, 0.1);
            run[stage].job.zero.stage = stage;
            run[stage].overlap = stage % 2 == 0;
            test_run_ok(&run[stage]);
            cr_assert(test_same(&run[0], &run[stage]), "case %u, stage %u", i, stage);
        }
        for (unsigned stage = 0; stage < 4; stage++)
            test_run_release(&run[stage]);
    }
}

/* Sums are rounded in another order, and that is all: the same elements are dropped. */
Test(dropout, the_cut_of_the_batch_changes_rounding_only)
{
    static const unsigned cuts[][2] = {{1, 8}, {1, 4}, {1, 2}, {1, 1}, {2, 4}, {2, 1}, {4, 2}};
    enum { CUTS = sizeof(cuts) / sizeof(cuts[0]) };

    for (unsigned ref = 0; ref < 2; ref++) {
        struct test_run run[CUTS + 1];

        for (unsigned k = 0; k <= CUTS; k++) {
            run[k] = dropout_run(ref, cuts[k % CUTS][0], cuts[k % CUTS][1], 0.2);
            run[k].job.seed += k == CUTS; /* the last one is another run */
            test_run_ok(&run[k]);
            for (unsigned i = 0; i < run[k].steps; i++) {
                double off = fabs(run[k].result[i].loss / run[0].result[i].loss - 1.0);

                cr_assert(k == CUTS ? off > 1e-4 : off < 2e-6,
                          "case %u, cut %u, step %u: loss is off by %g", ref, k, i, off);
            }
        }
        for (unsigned k = 0; k <= CUTS; k++)
            test_run_release(&run[k]);
    }
}

/* Each of the two rates drops something, and something else. */
Test(dropout, rates_are_apart)
{
    for (unsigned ref = 0; ref < 2; ref++) {
        struct test_run none = dropout_run(ref, 1, 2, 0.0), stream = none, inside = none;

        stream.job.model.dropout = inside.job.model.attention_dropout = 0.2;
        test_run_ok(&none);
        test_run_ok(&stream);
        test_run_ok(&inside);
        cr_assert(!test_same(&none, &stream) && !test_same(&none, &inside) &&
                  !test_same(&stream, &inside));
        test_run_release(&none);
        test_run_release(&stream);
        test_run_release(&inside);
    }
}

Test(dropout, none_without_a_rate_and_none_in_evaluation)
{
    struct test_run off = dropout_run(0, 2, 2, 0.0), on = dropout_run(0, 2, 2, 0.3);
    struct test_run seeded = off, plain = off, before = on;

    seeded.job.seed = 8;
    plain.steps = before.steps = 0;
    test_run_ok(&off);
    test_run_ok(&on);
    test_run_ok(&seeded);
    test_run_ok(&plain);
    test_run_ok(&before);
    cr_assert(test_same(&off, &seeded));
    cr_assert(!test_same(&off, &on));
    cr_assert(test_same(&plain, &before)); /* the evaluation of the first weights */
    test_run_release(&off);
    test_run_release(&on);
    test_run_release(&seeded);
    test_run_release(&plain);
    test_run_release(&before);
}

/* Along the gradient the loss rises by its norm. */
Test(dropout, gradients_are_those_of_the_loss)
{
    for (unsigned ref = 0; ref < TEST_CASES; ref++) {
        struct test_run at = dropout_run(ref, 1, 4, 0.5), up, down;
        double slope, norm;

        at.steps = 1;
        at.job.model.shape.balance = 0.0; /* which is of the gradient, not of the loss */
        up = down = at;
        test_run_ok(&at);
        norm = at.result[0].grad_norm;
        up.nudge = down.nudge = at.first_grads;
        up.nudge_by = (float)(4e-4 / norm);
        down.nudge_by = -up.nudge_by;
        test_run_ok(&up);
        test_run_ok(&down);
        slope = (up.result[0].loss - down.result[0].loss) / 8e-4;
        cr_assert(fabs(slope / norm - 1.0) < 5e-3, "case %u: slope %g, norm of the gradient %g",
                  ref, slope, norm);
        test_run_release(&at);
        test_run_release(&up);
        test_run_release(&down);
    }
}
