/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_sharers - ranks that share sequences train as ranks that have whole ones: the same losses,
 * gradients and weights but for the order of sums, over families, batches, types, dropout and
 * recomputation; the same bits at every ZeRO stage; the bytes that the plan said would be sent.
 */
#include "tests/engine/fixture.h"

enum { SEQUENCE = 32, IDS = 48 * SEQUENCE + 1 };

struct sharing {
    unsigned family, data, sharers; /* ranks of data; that share each one's sequences */
    uint64_t micro_batch, passes;
    enum ds_compute compute;
    enum ds_recompute recompute;
    bool dropout, fp8, offload;
    enum ds_optim_kind optim;
    unsigned kv;    /* six heads have so many of keys and values, and a sequence 24 tokens */
    bool node;      /* ranks of a host share apart from others */
    unsigned local; /* ranks of a host; 0: all */
    unsigned stage;
};

static struct test_run run_of(const struct sharing *s, const char *ids)
{
    struct ds_model_shape shape = s->kv > 0        ? test_llama(2, 48, 6, s->kv, 112, 257, 32)
                                  : s->family == 0 ? test_gpt2(3, 64, 4, 257, 32)
                                                   : test_llama(3, 64, 8, 4, 112, 257, 32);
    struct test_run run = {.world = s->data * s->sharers,
                           .local_world = s->local,
                           .threads = s->fp8 && s->sharers > 1 ? 2 : 1,
                           .steps = 3,
                           .poison_step = UINT64_MAX,
                           .overlap = s->stage % 2 == 1,
                           .tokens = ids};

    run.job = test_job(shape, s->data * s->passes * s->micro_batch, s->micro_batch,
                       s->kv == 0 ? SEQUENCE : 24);
    run.job.parallel.sequence = s->sharers;
    run.job.zero.stage = s->stage;
    run.job.zero.bucket_mb = 1;
    run.job.zero.shard_group = s->node ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.offload.optim = s->offload ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.optim.kind = s->optim;
    run.job.optim.momentum = s->optim == DS_OPTIM_MUON ? 0.95 : 0.0;
    run.job.precision.compute = s->compute;
    run.job.precision.matmul = s->fp8 ? DS_MATMUL_FP8 : DS_MATMUL_COMPUTE;
    run.job.activation.recompute = s->recompute;
    run.job.model.dropout = run.job.model.attention_dropout = s->dropout ? 0.2 : 0.0;
    return run;
}

/* Of a flat line each parameter, wherever it lies in the two plans. */
static double lines_l2(const struct test_run *a, const float *x, const struct test_run *b,
                       const float *y)
{
    double worst = 0.0;

    for (size_t i = 0; i < a->plan.params; i++) {
        const struct ds_plan_param *p = &a->plan.param[i], *q = &b->plan.param[i];
        double off = test_l2(x + p->offset, y + q->offset, p->param.elems);

        worst = off > worst ? off : worst;
    }
    return worst;
}

static void check_alike(const struct test_run *shared, const struct test_run *whole,
                        double tolerance, const char *what)
{
    for (unsigned i = 0; i < shared->steps; i++) {
        const struct ds_step_result *a = &shared->result[i], *b = &whole->result[i];

        cr_assert_float_eq(a->loss, b->loss, tolerance * b->loss, "%s: loss %.9g, not %.9g", what,
                           a->loss, b->loss);
        cr_assert_float_eq(a->grad_norm, b->grad_norm, 10.0 * tolerance * b->grad_norm,
                           "%s: norm %.9g, not %.9g", what, a->grad_norm, b->grad_norm);
    }
    cr_assert_float_eq(shared->eval, whole->eval, tolerance * whole->eval);
    cr_assert_lt(lines_l2(shared, shared->params, whole, whole->params), 10.0 * tolerance, "%s",
                 what);
    cr_assert_lt(lines_l2(shared, shared->exp_avg, whole, whole->exp_avg), 100.0 * tolerance, "%s",
                 what);
}

static void check_sharing(struct sharing s)
{
    const char *ids = test_ids_file(IDS);
    struct test_run shared = run_of(&s, ids), whole;
    char what[200];

    (void)snprintf(what, sizeof(what),
                   "family %u, %u x %u ranks, micro-batch %u of %u, type %d, recompute %d, dropout "
                   "%d, fp8 %d, offload %d, %s, stage %u",
                   s.family, s.data, s.sharers, (unsigned)s.micro_batch, (unsigned)s.passes,
                   (int)s.compute, (int)s.recompute, s.dropout, s.fp8, s.offload,
                   ds_optim_name(s.optim), s.stage);
    s.sharers = 1;
    s.local = 0;
    s.node = s.offload = false;
    s.stage = 0;
    whole = run_of(&s, ids);
    test_run(&shared);
    for (unsigned i = 0; i < shared.world; i++)
        cr_assert_eq(shared.rc[i], 0, "%s: rank %u: %s", what, i, shared.err[i].text);
    test_run_ok(&whole);
    check_alike(&shared, &whole, s.fp8 ? 2e-2 : s.compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3, what);
    test_traffic_planned(&shared, what);
    cr_assert_gt(shared.traffic[DS_COMM_ALL_TO_ALL].calls, 0);
    test_run_release(&shared);
    test_run_release(&whole);
    (void)unlink(ids);
}

Test(sharers, train_as_whole_sequences_do)
{
    static const struct sharing table[] = {
        {.family = 0, .data = 1, .sharers = 2, .micro_batch = 1, .passes = 1},
        {.family = 1, .data = 1, .sharers = 2, .micro_batch = 2, .passes = 1},
        {.family = 0, .data = 1, .sharers = 4, .micro_batch = 3, .passes = 1},
        {.family = 1, .data = 1, .sharers = 4, .micro_batch = 1, .passes = 2},
        {.family = 0, .data = 2, .sharers = 2, .micro_batch = 2, .passes = 2},
        {.family = 1, .data = 2, .sharers = 2, .micro_batch = 1, .passes = 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct sharing s = table[i];

        check_sharing(s);
        s.compute = DS_COMPUTE_BF16;
        check_sharing(s);
    }
}

/* As many ranks as no power of two have each head of keys and values. */
Test(sharers, three_have_the_same_keys_and_values)
{
    for (unsigned kv = 1; kv < 3; kv++) {
        struct sharing s = {.family = 1,
                            .data = 1,
                            .sharers = 3 * kv,
                            .micro_batch = 3 - kv,
                            .passes = 1,
                            .kv = kv};

        check_sharing(s);
        s.compute = DS_COMPUTE_BF16;
        check_sharing(s);
    }
}

/* The same elements and weights are dropped, whoever computes them. */
Test(sharers, drop_what_whole_sequences_drop)
{
    for (unsigned family = 0; family < 2; family++)
        for (uint64_t batch = 1; batch < 3; batch++)
            check_sharing((struct sharing){.family = family,
                                           .data = (unsigned)(3 - batch),
                                           .sharers = 2,
                                           .micro_batch = batch,
                                           .passes = 2,
                                           .dropout = true});
}

static void check_same_bits(struct sharing a, struct sharing b, const char *what)
{
    const char *ids = test_ids_file(IDS);
    struct test_run one = run_of(&a, ids), other = run_of(&b, ids);

    test_run_ok(&one);
    test_run_ok(&other);
    cr_assert(test_same(&one, &other), "%s", what);
    test_traffic_planned(&other, what);
    test_run_release(&one);
    test_run_release(&other);
    (void)unlink(ids);
}

Test(sharers, have_the_same_bits_at_every_stage)
{
    for (unsigned family = 0; family < 2; family++) {
        for (unsigned data = 1; data < 3; data++) {
            const struct sharing base = {
                .family = family, .data = data, .sharers = 2, .micro_batch = 2, .passes = 1};

            for (unsigned stage = 1; stage < 4; stage++) {
                struct sharing s = base;

                s.stage = stage;
                check_same_bits(base, s, "another stage");
            }
        }
    }
}

Test(sharers, have_the_same_bits_where_layers_are_computed_again)
{
    static const enum ds_recompute kinds[] = {DS_RECOMPUTE_FULL, DS_RECOMPUTE_SELECTIVE};

    for (unsigned i = 0; i < 4; i++) {
        const struct sharing kept = {
            .family = i % 2, .data = 1, .sharers = 2, .micro_batch = 1 + i / 2, .passes = 2};
        struct sharing again = kept;

        again.recompute = kinds[i / 2];
        check_same_bits(kept, again, "computed again");
        again.dropout = true;
        again.recompute = kinds[(i + 1) % 2];
        check_sharing(again);
    }
}

Test(sharers, go_with_everything_that_ranks_of_data_do)
{
    static const struct sharing table[] = {
        {.optim = DS_OPTIM_MUON, .stage = 2},
        {.optim = DS_OPTIM_LAMB, .stage = 3, .family = 1},
        {.optim = DS_OPTIM_LION, .offload = true, .stage = 1},
        {.compute = DS_COMPUTE_BF16, .fp8 = true, .stage = 2},
        {.compute = DS_COMPUTE_BF16, .fp8 = true, .family = 1, .recompute = DS_RECOMPUTE_FULL},
        {.compute = DS_COMPUTE_FP16, .stage = 3},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct sharing s = table[i];

        s.data = s.sharers = 2;
        s.micro_batch = 1 + i % 2;
        s.passes = 1;
        check_sharing(s);
    }
}

/* Hosts of two ranks, on which two share or of which all do; shards of a host, too. */
Test(sharers, of_several_hosts)
{
    static const struct sharing table[] = {
        {.data = 2, .sharers = 2, .stage = 0},
        {.data = 1, .sharers = 4, .stage = 1},
        {.data = 1, .sharers = 4, .stage = 3, .node = true, .compute = DS_COMPUTE_BF16},
        {.data = 2, .sharers = 2, .stage = 2, .node = true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct sharing s = table[i];

        s.family = i % 2;
        s.local = 2;
        s.micro_batch = 1 + i % 2;
        s.passes = 2;
        check_sharing(s);
    }
}

/* --- planted -------------------------------------------------------------------------------- */

static struct ds_comm_backend spoilt;

/* A rank keeps what it should have given away. */
static int swap_nothing(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    int rc = ds_comm_backend_host.run[DS_COMM_ALL_TO_ALL](comm, call, err);

    if (rc == 0 && comm->rank == 0)
        memcpy(call->buf, call->from, call->bytes);
    return rc;
}

static int split(struct ds_comm *comm, const struct ds_comm_group *group, struct ds_comm **out,
                 struct ds_error *err)
{
    int rc = ds_comm_backend_host.split(comm, group, out, err);

    if (rc == 0)
        (*out)->backend = &spoilt;
    return rc;
}

Test(sharers, a_swap_that_is_left_out_is_seen)
{
    const struct sharing s = {.data = 1, .sharers = 2, .micro_batch = 1, .passes = 1};
    const char *ids = test_ids_file(IDS);
    struct test_run good = run_of(&s, ids), bad = run_of(&s, ids);

    spoilt = ds_comm_backend_host;
    spoilt.split = split;
    spoilt.run[DS_COMM_ALL_TO_ALL] = swap_nothing;
    bad.backend = &spoilt;
    test_run_ok(&good);
    test_run_ok(&bad);
    cr_assert(!test_same(&good, &bad));
    test_run_release(&good);
    test_run_release(&bad);
    (void)unlink(ids);
}
