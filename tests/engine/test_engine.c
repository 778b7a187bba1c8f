/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_engine - a whole training step against float64 answers, and the same bits wherever the plan
 * only moves work around.
 */
#include "tests/engine/apart.h"
#include "tests/engine/fixture.h"

static void compare_trace(const struct test_run *run, const char *folder, double loss_tol,
                          double norm_tol)
{
    char path[128];
    json_t *trace;

    (void)snprintf(path, sizeof(path), "%s/expected.json", folder);
    cr_assert_eq(ds_json_load(path, 1 << 20, &trace, NULL), 0);
    for (unsigned i = 0; i < run->steps; i++) {
        const json_t *want = json_array_get(trace, i);
        double loss = json_real_value(json_object_get(want, "loss"));
        double norm = json_real_value(json_object_get(want, "grad_norm"));

        cr_assert(fabs(run->result[i].loss - loss) <= loss_tol * loss,
                  "%s step %u: loss %.9g, %.9g", folder, i, run->result[i].loss, loss);
        cr_assert(fabs(run->result[i].grad_norm - norm) <= norm_tol * norm,
                  "%s step %u: norm %.9g, %.9g", folder, i, run->result[i].grad_norm, norm);
        cr_assert_eq(run->result[i].nonfinite, 0);
    }
    json_decref(trace);
}

/* Tensors of a flat line against "<prefix><name>" of the expected file. */
static void compare_line(const struct test_run *run, const char *folder, const char *prefix,
                         const float *line, double tol)
{
    struct test_tensors file;
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/expected.safetensors", folder);
    test_tensors_open(&file, path);
    for (size_t i = 0; i < run->plan.params; i++) {
        const struct ds_plan_param *param = &run->plan.param[i];
        float *want = test_tensor(&file, prefix, param->param.name, param->param.elems);
        double l2;

        if (strcmp(prefix, "grad.") != 0)
            test_add_one(run->job.model.shape.arch, param->param.name, want, param->param.elems);
        l2 = test_l2(line + param->offset, want, param->param.elems);

        cr_assert_lt(l2, tol, "%s%s: relative L2 %.3g", prefix, param->param.name, l2);
        free(want);
    }
    test_tensors_close(&file);
}

static void check_reference(unsigned i, unsigned world, uint64_t micro_batch, bool recompute,
                            unsigned threads)
{
    struct test_run run = test_reference_run(i, world, micro_batch);
    struct test_case ref = test_reference(i);

    run.threads = threads;
    run.job.activation.recompute = recompute ? DS_RECOMPUTE_FULL : DS_RECOMPUTE_NONE;
    test_run_ok(&run);
    compare_trace(&run, ref.folder, 1e-5, 1e-4);
    compare_line(&run, ref.folder, "grad.", run.first_grads, 1e-4);
    compare_line(&run, ref.folder, "final.", run.params, 1e-4);
    test_run_release(&run);
}

Test(engine, gpt2_equals_the_reference)
{
    check_reference(0, 1, 4, false, 1);
}

Test(engine, llama_equals_the_reference)
{
    check_reference(1, 1, 4, false, 1);
}

Test(engine, any_split_over_ranks_and_passes_equals_the_reference)
{
    for (unsigned i = 0; i < TEST_CASES; i++) {
        check_reference(i, 2, 4, false, 1);
        check_reference(i, 4, 2, false, 1);
        check_reference(i, 2, 1, true, 2);
    }
}

/* Where rounding has turned a choice between experts, a token has another gradient. */
Test(engine, bf16_stays_near_the_reference)
{
    for (unsigned i = 0; i < TEST_CASES; i++) {
        struct test_run run = test_reference_run(i, 2, 4);
        double norm_tol = run.job.model.shape.experts > 0 ? 1e-1 : 5e-2;

        run.job.precision.compute = DS_COMPUTE_BF16;
        test_run_ok(&run);
        compare_trace(&run, test_reference(i).folder, 1e-2, norm_tol);
        test_run_release(&run);
    }
}

/* Small gradients are lost without a scale, none are with one. */
Test(engine, fp16_stays_near_the_reference)
{
    for (unsigned i = 0; i < TEST_CASES; i++) {
        struct test_run run = test_reference_run(i, 2, 4);

        run.job.precision.compute = DS_COMPUTE_FP16;
        run.loss_scale = 1024.0;
        test_run_ok(&run);
        compare_trace(&run, test_reference(i).folder, 2e-3, 1e-2);
        test_run_release(&run);
    }
}

/* The scale is a power of two: in fp32 nothing changes but the exponent of gradients. */
Test(engine, a_loss_scale_changes_nothing_but_gradients)
{
    struct test_run plain = test_reference_run(0, 2, 4), scaled = plain;

    scaled.loss_scale = 4096.0;
    test_run_ok(&plain);
    test_run_ok(&scaled);
    for (unsigned i = 0; i < plain.steps; i++)
        cr_assert_float_eq(scaled.result[i].grad_norm / plain.result[i].grad_norm, 1.0, 1e-6);
    for (uint64_t i = 0; i < plain.elems; i++)
        cr_assert_float_eq((double)scaled.params[i], (double)plain.params[i], 1e-5);
    cr_assert_eq(scaled.first_grads[0], 4096.0f * plain.first_grads[0]);
    test_run_release(&plain);
    test_run_release(&scaled);
}

Test(engine, fp16_that_overflows_is_counted_and_not_applied)
{
    struct test_run run = test_reference_run(0, 2, 4), before = run;

    run.job.precision.compute = before.job.precision.compute = DS_COMPUTE_FP16;
    run.loss_scale = 16777216.0 * 65536.0;
    run.steps = 1;
    before.steps = 0;
    test_run_ok(&run);
    test_run_ok(&before);
    cr_assert_gt(run.result[0].nonfinite, 0);
    cr_assert(isfinite(run.result[0].loss));
    cr_assert_eq(memcmp(run.params, before.params, run.elems * sizeof(float)), 0);
    test_run_release(&run);
    test_run_release(&before);
}

static void expect_same(const struct test_run *a, const struct test_run *b, const char *what)
{
    for (unsigned i = 0; i < a->steps; i++) {
        cr_assert_eq(memcmp(&a->result[i].loss, &b->result[i].loss, sizeof(double)), 0,
                     "%s: loss of step %u", what, i);
        cr_assert_eq(memcmp(&a->result[i].grad_norm, &b->result[i].grad_norm, sizeof(double)), 0,
                     "%s: norm of step %u", what, i);
    }
    cr_assert_eq(a->elems, b->elems);
    cr_assert_eq(memcmp(a->params, b->params, a->elems * sizeof(float)), 0, "%s: weights", what);
    cr_assert_eq(memcmp(a->exp_avg, b->exp_avg, a->elems * sizeof(float)), 0, "%s: moments", what);
    cr_assert_eq(memcmp(&a->eval, &b->eval, sizeof(double)), 0, "%s: evaluation", what);
}

Test(engine, bits_do_not_depend_on_where_or_when_work_is_done)
{
    for (unsigned i = 0; i < 4; i++) {
        struct test_run plain = test_reference_run(i % 2, 2, 2);
        struct test_run again, overlapped, recomputed;

        plain.job.precision.compute = i < 2 ? DS_COMPUTE_FP32 : DS_COMPUTE_BF16;
        again = overlapped = recomputed = plain;
        overlapped.overlap = true;
        recomputed.job.activation.recompute = DS_RECOMPUTE_FULL;
        test_run_ok(&plain);
        test_run_ok(&again);
        test_run_ok(&overlapped);
        test_run_ok(&recomputed);
        expect_same(&plain, &again, "the same again");
        expect_same(&plain, &overlapped, "reduce queue on a thread");
        expect_same(&plain, &recomputed, "recompute");
        test_run_release(&plain);
        test_run_release(&again);
        test_run_release(&overlapped);
        test_run_release(&recomputed);
    }
}

static void set_apart(void *user, struct ds_device *device)
{
    (void)user;
    apart_begin(device, true, APART_NEVER, 0);
}

/* The host of a device apart updates on a thread of its own, while the next step begins. */
Test(engine, bits_do_not_depend_on_who_updates)
{
    for (unsigned i = 0; i < 4; i++) {
        struct test_run plain = test_reference_run(i % 2, 1, 2), away;

        plain.job.precision.compute = i < 2 ? DS_COMPUTE_FP32 : DS_COMPUTE_BF16;
        away = plain;
        away.job.offload.optim = DS_OFFLOAD_CPU;
        away.opened = set_apart;
        test_run_ok(&plain);
        test_run_ok(&away);
        cr_assert(apart.played > 0 && apart.held == 0);
        expect_same(&plain, &away, "updated by the host");
        test_run_release(&plain);
        test_run_release(&away);
    }
}

/* Every way to recompute, in both families, both types, several passes. */
Test(engine, bits_do_not_depend_on_what_is_kept)
{
    static const struct {
        enum ds_recompute recompute;
        uint64_t layers;
    } ways[] = {{DS_RECOMPUTE_SELECTIVE, 0},
                {DS_RECOMPUTE_SELECTIVE, 1},
                {DS_RECOMPUTE_FULL, 0},
                {DS_RECOMPUTE_FULL, 1}};

    for (unsigned i = 0; i < 4; i++) {
        struct test_run plain = test_reference_run(i % 2, 2, 2);

        plain.job.precision.compute = i < 2 ? DS_COMPUTE_FP32 : DS_COMPUTE_BF16;
        for (size_t k = 0; k < sizeof(ways) / sizeof(ways[0]); k++) {
            struct test_run kept = plain, again = plain;

            again.job.activation.recompute = ways[k].recompute;
            again.job.activation.layers = ways[k].layers;
            test_run_ok(&kept);
            test_run_ok(&again);
            cr_assert_lt(again.plan.arena_bytes[DS_ARENA_ACTIVATIONS],
                         kept.plan.arena_bytes[DS_ARENA_ACTIVATIONS] + (ways[k].layers == 1));
            expect_same(&kept, &again, "recompute");
            test_run_release(&kept);
            test_run_release(&again);
        }
    }
}

Test(engine, a_stop_request_of_one_rank_reaches_all_in_the_same_step)
{
    struct test_run run = test_reference_run(0, 2, 4);

    test_run_ok(&run); /* rank 1 asks in step 3 */
    for (unsigned i = 0; i < run.steps; i++)
        cr_assert_eq(run.result[i].stop, i == 3, "step %u", i);
    test_run_release(&run);
}

Test(engine, a_nan_is_counted_named_and_not_applied)
{
    struct test_run run = test_reference_run(0, 2, 4), before = run;

    run.steps = 3;
    run.poison_step = 2;
    before.steps = 2;
    test_run_ok(&run);
    test_run_ok(&before);
    cr_assert_eq(run.result[1].nonfinite, 0);
    cr_assert_gt(run.result[2].nonfinite, 0);
    cr_assert_str_eq(run.result[2].bad, "transformer.wte.weight");
    cr_assert(isnan(run.result[2].grad_norm));
    cr_assert_eq(memcmp(run.params + 1, before.params + 1, (run.elems - 1) * sizeof(float)), 0,
                 "a skipped update changed a weight");
    cr_assert_eq(memcmp(run.exp_avg, before.exp_avg, run.elems * sizeof(float)), 0);
    test_run_release(&run);
    test_run_release(&before);
}

Test(engine, evaluation_is_the_loss_before_an_update)
{
    struct test_run one = test_reference_run(1, 1, 4), none = one;

    one.steps = 1;
    none.steps = 0;
    test_run_ok(&one);
    test_run_ok(&none);
    cr_assert_float_eq(none.eval, one.result[0].loss, 1e-12);
    cr_assert_lt(one.eval, none.eval);
    test_run_release(&one);
    test_run_release(&none);
}
