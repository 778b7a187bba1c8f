/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_stages - ZeRO stages change who holds what and nothing else: the same bits over families,
 * worlds, shard groups, recomputation, dropout and precision; the reference answers; the bytes that the plan
 * said would be sent.  A changed order of one sum is seen.
 */
#include <errno.h>

#include "tests/engine/fixture.h"

struct setting {
    unsigned family, world, local;
    uint64_t passes;
    bool recompute, bf16, dropout, offload;
    enum ds_optim_kind optim;
    bool bf16_wire, params, outs; /* params: offload.params; outs: activation.offload */
};

static struct test_run setting_run(const struct setting *set, unsigned stage)
{
    struct ds_model_shape shape =
        set->family == 0 ? test_gpt2(3, 128, 4, 257, 32) : test_llama(3, 128, 4, 2, 344, 257, 32);
    struct test_run run = {.world = set->world,
                           .local_world = set->local,
                           .threads = 1,
                           .steps = 3,
                           .poison_step = UINT64_MAX,
                           .overlap = (stage + set->family + set->world) % 2 == 0,
                           .tokens = "tests/reference/gpt2-tiny/tokens.safetensors"};

    run.job = test_job(shape, set->world * set->passes, 1, 17);
    run.job.zero.stage = stage;
    run.job.zero.once_per_host = stage < 3; /* or it has the program of stage 2: test_common.c */
    run.job.zero.bucket_mb = 1;
    run.job.zero.replicate_below = set->world % 2 == 1 ? 300 : 0;
    run.job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.activation.recompute = !set->recompute       ? DS_RECOMPUTE_NONE
                                   : set->world % 2 == 1 ? DS_RECOMPUTE_SELECTIVE
                                                         : DS_RECOMPUTE_FULL;
    if (set->outs)
        run.job.activation.recompute = DS_RECOMPUTE_FULL;
    run.job.activation.offload = set->outs ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.model.dropout = run.job.model.attention_dropout = set->dropout ? 0.1 : 0.0;
    run.job.offload.optim = set->offload ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.offload.params = set->params ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.precision.compute = set->bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    run.job.precision.grad_wire = set->bf16_wire ? DS_GRAD_WIRE_BF16 : DS_GRAD_WIRE_FP32;
    run.job.optim.kind = set->optim;
    if (set->optim == DS_OPTIM_MUON) {
        run.job.optim.momentum = 0.95;
        run.job.optim.nesterov = true;
        run.job.optim.adamw_lr = 1e-3;
    }
    return run;
}

/* What differs first, or NULL. */
static const char *difference(const struct test_run *a, const struct test_run *b)
{
    for (unsigned i = 0; i < a->steps; i++) {
        if (memcmp(&a->result[i].loss, &b->result[i].loss, sizeof(double)) != 0)
            return "a loss";
        if (memcmp(&a->result[i].grad_norm, &b->result[i].grad_norm, sizeof(double)) != 0)
            return "a norm";
    }
    if (a->elems != b->elems || memcmp(a->params, b->params, a->elems * sizeof(float)) != 0)
        return "the weights";
    if (memcmp(a->exp_avg, b->exp_avg, a->elems * sizeof(float)) != 0)
        return "the moments";
    return memcmp(&a->eval, &b->eval, sizeof(double)) != 0 ? "the evaluation" : NULL;
}

static void check_setting(const struct setting *set)
{
    struct test_run run[4];
    char what[160];

    for (unsigned stage = 0; stage < 4; stage++) {
        run[stage] = setting_run(set, stage);
        (void)snprintf(what, sizeof(what),
                       "%s, family %u, world %u, groups of %u, %u passes, recompute %d, bf16 %d, "
                       "dropout %d, bf16 wire %d, stage %u",
                       ds_optim_name(set->optim), set->family, set->world, set->local,
                       (unsigned)set->passes, set->recompute, set->bf16, set->dropout,
                       set->bf16_wire, stage);
        test_run(&run[stage]);
        for (unsigned i = 0; i < set->world; i++)
            cr_assert_eq(run[stage].rc[i], 0, "%s: rank %u: %s", what, i, run[stage].err[i].text);
        test_traffic_planned(&run[stage], what);
        if (stage > 0) {
            unsigned like = set->passes > 1 && stage == 3 ? 2 : 0;
            const char *other = difference(&run[stage], &run[like]);

            if (set->passes == 1 || stage != 2) /* 2 sums in another order than 1, by design */
                cr_assert_null(other, "%s differs from stage %u in %s", what, like, other);
        }
    }
    for (unsigned stage = 0; stage < 4; stage++)
        test_run_release(&run[stage]);
}

/* Half of all settings, such that with any three values of family, type, group, passes, recomputation and dropout
 * there is one; of one family and type these.  Where not all of them are tried, families and types begin at different
 * ones: each is tried by some. */
static void check_all(enum ds_optim_kind optim, unsigned family, bool bf16)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 4}, {4, 2}};
    const unsigned begin = bf16 * (1U + family) % TEST_EVERY;
    unsigned chosen = 0;

    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]) * 4; i++) {
        const unsigned group = i / 4, several = i / 2 % 2, again = i % 2;
        const struct setting set = {.optim = optim,
                                    .family = family,
                                    .bf16 = bf16,
                                    .world = groups[group][0],
                                    .local = groups[group][1],
                                    .recompute = again,
                                    .dropout = (again + several + group / 4) % 2,
                                    .passes = several ? 3 : 1};

        if ((family + bf16 + group + several + again) % 2 == 0 && chosen++ % TEST_EVERY == begin)
            check_setting(&set);
    }
}

Test(stages, gpt2_has_the_same_bits_at_every_stage)
{
    check_all(DS_OPTIM_ADAMW, 0, false);
}

Test(stages, gpt2_in_bf16_has_the_same_bits_at_every_stage)
{
    check_all(DS_OPTIM_ADAMW, 0, true);
}

Test(stages, llama_has_the_same_bits_at_every_stage)
{
    check_all(DS_OPTIM_ADAMW, 1, false);
}

Test(stages, llama_in_bf16_has_the_same_bits_at_every_stage)
{
    check_all(DS_OPTIM_ADAMW, 1, true);
}

/* However far ahead stage 3 gathers, with and without a thread for it. */
Test(stages, every_prefetch_has_the_same_bits)
{
    for (unsigned family = 0; family < 2; family++) {
        const struct setting set = {
            .family = family, .world = 2, .local = 2, .passes = 2, .recompute = family == 1};
        struct test_run run[DS_MAX_PREFETCH + 1];

        for (unsigned i = 0; i <= DS_MAX_PREFETCH; i++) {
            const char *other;

            run[i] = setting_run(&set, i == 0 ? 2 : 3);
            run[i].job.model.shape = family == 0 ? test_gpt2(7, 128, 4, 257, 32)
                                                 : test_llama(7, 128, 4, 2, 344, 257, 32);
            run[i].job.zero.prefetch = i;
            run[i].overlap = (i + family) % 2 == 0;
            test_run_ok(&run[i]);
            test_traffic_planned(&run[i], "prefetch");
            cr_assert_eq(run[i].plan.prefetch, i);
            other = difference(&run[i], &run[0]);
            cr_assert_null(other, "%u buckets ahead differ in %s", i, other);
            if (i > 1)
                cr_assert_geq(run[i].plan.gathered_elems, run[i - 1].plan.gathered_elems);
        }
        cr_assert_gt(run[DS_MAX_PREFETCH].plan.gathered_elems, run[1].plan.gathered_elems);
        for (unsigned i = 0; i <= DS_MAX_PREFETCH; i++)
            test_run_release(&run[i]);
    }
}

/* Matrices that one rank owns, padding between them. */
Test(stages, muon_has_the_same_bits_at_every_stage)
{
    check_all(DS_OPTIM_MUON, 0, false);
    check_all(DS_OPTIM_MUON, 1, true);
}

static const unsigned groups[][2] = {{2, 2}, {3, 3}, {4, 4}, {4, 2}};

/* Gradients that are rounded before they are summed over ranks, and at every hop. */
Test(stages, a_wire_of_bf16_has_the_same_bits_at_every_stage)
{
    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]) * 4; i += TEST_EVERY) {
        const struct setting set = {.bf16_wire = true,
                                    .family = i / 2 % 2,
                                    .bf16 = i % 4 == 3,
                                    .world = groups[i / 4][0],
                                    .local = groups[i / 4][1],
                                    .passes = i % 2 == 0 ? 1 : 3};

        check_setting(&set);
    }
}

/* What that costs: gradients of rank sums off by about a rounding, 2^-9, and half the bytes. */
Test(stages, a_wire_of_bf16_is_off_by_a_rounding)
{
    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        const struct setting set = {.world = groups[i][0], .local = groups[i][1], .passes = 2};
        struct setting packed = set;
        struct test_run exact = setting_run(&set, i % 3 + 1), run;
        double error;

        packed.bf16_wire = true;
        run = setting_run(&packed, i % 3 + 1);
        test_run_ok(&exact);
        test_run_ok(&run);
        error = test_l2(run.first_grads, exact.first_grads, run.elems);
        cr_assert(error > 1e-4 && error < 4e-3, "world %u, groups of %u: %g", set.world, set.local,
                  error);
        cr_assert_lt(fabs(run.result[0].grad_norm / exact.result[0].grad_norm - 1.0), 1e-3);
        cr_assert_eq(run.traffic[DS_COMM_REDUCE_SCATTER].calls, 0);
        cr_assert_eq(2 * run.traffic[DS_COMM_REDUCE_SCATTER_BF16].bytes,
                     exact.traffic[DS_COMM_REDUCE_SCATTER].bytes);
        test_run_release(&exact);
        test_run_release(&run);
    }
}

/* Every stage, whose state is updated on the host, against a stage that has the same bits without that:
 * 0, but with several passes 2 and 3 sum in another order, by design.  Only of LAMB no test above compares
 * the stages, so each stands for itself. */
static void check_offload(const struct setting *set)
{
    unsigned alike = set->optim == DS_OPTIM_LAMB ? 1 : set->passes > 1 ? 2 : 4;
    struct test_run here[4];

    for (unsigned i = 0; i < 4 / alike; i++) {
        here[i] = setting_run(set, i * alike);
        test_run_ok(&here[i]);
    }
    for (unsigned stage = 0; stage < 4; stage++) {
        struct setting away = *set;
        struct test_run there;
        const char *other;

        away.offload = true;
        there = setting_run(&away, stage);
        there.overlap = set->recompute != (set->passes > 1);
        test_run_ok(&there);
        other = difference(&here[stage / alike], &there);
        cr_assert_null(other, "family %u, world %u of %u, %u passes, bf16 %d, stage %u: %s",
                       set->family, set->world, set->local, (unsigned)set->passes, set->bf16, stage,
                       other);
        test_traffic_planned(&there, "offload");
        test_run_release(&there);
    }
    for (unsigned i = 0; i < 4 / alike; i++)
        test_run_release(&here[i]);
}

Test(stages, offload_has_the_same_bits_at_every_stage)
{
    static const unsigned on[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 4}, {4, 2}};

    for (unsigned i = 0; i < 2 * 5 * 2; i += TEST_EVERY)
        check_offload(&(struct setting){.family = i % 2,
                                        .world = on[i / 2 % 5][0],
                                        .local = on[i / 2 % 5][1],
                                        .passes = i / 10 == 0 ? 1 : 3,
                                        .bf16 = (i / 2 + i / 10) % 2,
                                        .recompute = i / 3 % 3 == 0});
}

/* Norms of whole tensors before the update, and matrices that one rank owns with padding between. */
Test(stages, offload_of_whole_tensors_has_the_same_bits_at_every_stage)
{
    static const struct setting sets[] = {
        {.optim = DS_OPTIM_MUON, .world = 3, .local = 3, .passes = 1, .bf16 = true},
        {.optim = DS_OPTIM_LAMB, .family = 1, .world = 3, .local = 3, .passes = 3, .bf16 = true},
        {.optim = DS_OPTIM_MUON, .family = 1, .world = 4, .local = 2, .passes = 3},
        {.optim = DS_OPTIM_LAMB, .world = 4, .local = 2, .passes = 1, .recompute = true},
        {.optim = DS_OPTIM_MUON, .family = 1, .world = 1, .local = 1, .passes = 1, .bf16 = true},
        {.optim = DS_OPTIM_LAMB, .world = 1, .local = 1, .passes = 2},
    };

    for (unsigned i = 0; i < sizeof(sets) / sizeof(sets[0]); i += TEST_EVERY)
        check_offload(&sets[i]);
}

/* Parameters that come from the host for each use, with whoever updates them: those of stage 3.  Alone, a rank
 * has then the order of sums of that stage, which with one pass is stage 0's. */
static void check_params(const struct setting *set)
{
    struct test_run here = setting_run(set, 3);

    test_run_ok(&here);
    for (unsigned offload = set->bf16 ? 0 : 1; offload < 2; offload++) {
        struct setting away = *set;
        struct test_run there;
        const char *other;

        away.params = true;
        away.offload = offload;
        there = setting_run(&away, 3);
        there.overlap = offload != set->recompute;
        test_run_ok(&there);
        other = difference(&here, &there);
        cr_assert_null(other, "family %u, world %u of %u, %u passes, bf16 %d, offload %u: %s",
                       set->family, set->world, set->local, (unsigned)set->passes, set->bf16,
                       offload, other);
        test_traffic_planned(&there, "parameters of the host");
        test_run_release(&there);
    }
    test_run_release(&here);
}

Test(stages, parameters_of_the_host_have_the_same_bits)
{
    static const unsigned on[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 4}, {4, 2}, {2, 1}};

    for (unsigned i = 0; i < 2 * 6 * 2; i += TEST_EVERY)
        check_params(&(struct setting){
            .family = i % 2,
            .world = on[i / 2 % 6][0],
            .local = on[i / 2 % 6][1],
            .passes = i / 12 == 0 || on[i / 2 % 6][1] == 1 ? 1 : 3,
            .bf16 = (i / 2 + i / 12) % 2,
            .dropout = i % 5 == 0,
            .optim = i % 7 == 3   ? DS_OPTIM_MUON
                     : i % 7 == 5 ? DS_OPTIM_LAMB
                                  : DS_OPTIM_ADAMW,
            .bf16_wire = i % 11 == 4,
            .recompute = i / 3 % 3 == 0,
        });
}

/* Inputs of layers that wait on the host are the same ones. */
Test(stages, activations_of_the_host_have_the_same_bits)
{
    static const unsigned on[][2] = {{1, 1}, {2, 2}, {4, 2}};

    for (unsigned i = 0; i < 12; i += TEST_EVERY) {
        struct setting set = {.family = i % 2,
                              .world = on[i % 3][0],
                              .local = on[i % 3][1],
                              .passes = i / 6 == 0 ? 1 : 3,
                              .bf16 = i / 2 % 2,
                              .dropout = i % 5 == 0,
                              .recompute = true,
                              .params = i % 4 == 3,
                              .offload = i % 4 >= 2};
        const unsigned stage = set.params ? 3 : i % 4;
        struct test_run here = setting_run(&set, stage), there;

        here.job.activation.recompute = DS_RECOMPUTE_FULL;
        test_run_ok(&here);
        set.outs = true;
        there = setting_run(&set, stage);
        there.overlap = i % 3 != 0;
        test_run_ok(&there);
        cr_assert_eq(there.plan.arena_bytes[DS_ARENA_HOST_OUTS],
                     2 * there.plan.stash_bytes); /* of the embedding's and three layers' */
        cr_assert_null(difference(&here, &there), "%u", i);
        test_run_release(&here);
        test_run_release(&there);
    }
}

/* --- a planted change ------------------------------------------------------------------------- */

static struct ds_comm_backend mutant;

/* A reduce-scatter whose shard is summed from the first rank to the last, not by the tree. */
static int linear_reduce_scatter(struct ds_comm *comm, const struct ds_comm_call *call,
                                 struct ds_error *err)
{
    size_t n = call->bytes / sizeof(float), shard = n / comm->world;
    float *copy = calloc(n, sizeof(*copy)), *sum = calloc(shard, sizeof(*sum));
    struct ds_comm_call send = {.op = DS_COMM_BROADCAST, .buf = copy, .bytes = call->bytes};
    int rc = copy == NULL || sum == NULL ? -ENOMEM : 0;

    for (send.root = 0; rc == 0 && send.root < comm->world; send.root++) {
        if (send.root == comm->rank)
            memcpy(copy, call->buf, call->bytes);
        rc = mutant.run[DS_COMM_BROADCAST](comm, &send, err);
        for (size_t i = 0; i < shard; i++)
            sum[i] += copy[comm->rank * shard + i];
    }
    if (rc == 0)
        memcpy((float *)call->buf + comm->rank * shard, sum, shard * sizeof(*sum));
    free(copy);
    free(sum);
    return rc;
}

Test(stages, another_order_of_one_sum_is_seen)
{
    const struct setting set = {.world = 4, .local = 4, .passes = 1};
    struct test_run plain = setting_run(&set, 0), changed = setting_run(&set, 1);

    mutant = ds_comm_backend_host;
    mutant.run[DS_COMM_REDUCE_SCATTER] = linear_reduce_scatter;
    changed.backend = &mutant;
    test_run_ok(&plain);
    test_run_ok(&changed);
    cr_assert_not_null(difference(&plain, &changed));
    test_run_release(&plain);
    test_run_release(&changed);
}

/* --- the rest ----------------------------------------------------------------------------------*/

Test(stages, a_nan_is_found_by_its_owner_and_named_to_all)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned stage = i / 2;
        const struct setting set = {
            .world = 3, .local = 3, .passes = 1, .offload = i % 2, .bf16 = i / 4};
        struct test_run run = setting_run(&set, stage), before = setting_run(&set, stage);

        run.poison_step = before.steps = 2;
        test_run_ok(&run);
        test_run_ok(&before);
        cr_assert_gt(run.result[2].nonfinite, 0, "stage %u", stage);
        cr_assert_str_eq(run.result[2].bad, "transformer.wte.weight", "stage %u", stage);
        cr_assert_eq(memcmp(run.exp_avg, before.exp_avg, run.elems * sizeof(float)), 0,
                     "stage %u: a skipped update was made", stage);
        test_run_release(&run);
        test_run_release(&before);
    }
}

/* A loss scale that overflows in every step: parameters stay, and so does what kernels read. */
Test(stages, a_skipped_update_is_not_fetched)
{
    for (unsigned stage = 0; stage < 4; stage++) {
        const struct setting set = {.world = 2, .local = 2, .passes = 1, .offload = true};
        struct test_run run = setting_run(&set, stage), before = setting_run(&set, stage);

        run.job.precision.compute = before.job.precision.compute = DS_COMPUTE_FP16;
        run.loss_scale = 1e30;
        before.steps = 0;
        test_run_ok(&run);
        test_run_ok(&before);
        cr_assert_gt(run.result[2].nonfinite, 0, "stage %u", stage);
        cr_assert_eq(memcmp(&run.eval, &before.eval, sizeof(double)), 0, "stage %u", stage);
        test_run_release(&run);
        test_run_release(&before);
    }
}
