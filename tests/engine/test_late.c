/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_late - a device that decides what becomes of a step, and a host that is told a step later: the
 * bits of hosts that decide, whatever is skipped on the way.
 */
#include "tests/engine/apart.h"
#include "tests/engine/fixture.h"

/* Small products of every shape: no library has to make code for each. */
static void plain_vectors(void)
{
    (void)setenv("DSRUN_CPU_ISA", "base", 1);
}

TestSuite(late, .init = plain_vectors, .timeout = 240);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool prepared;

static void take(void *user, struct ds_device *device)
{
    (void)user;
    (void)pthread_mutex_lock(&lock);
    if (!prepared)
        apart_prepare(device->stream->kernels, true, APART_NEVER, 0);
    prepared = true;
    apart_take(device);
    (void)pthread_mutex_unlock(&lock);
}

static struct test_run run_of(enum ds_optim_kind optim, enum ds_compute compute, unsigned world,
                              unsigned stage)
{
    struct test_run run = test_reference_run(0, world, 1);

    run.job.train.global_batch = 2 * world;
    run.job.optim.kind = optim;
    run.job.optim.lr = 1e-2;
    run.job.optim.clip = 0.5;
    run.job.optim.momentum = optim == DS_OPTIM_MUON ? 0.95 : 0.0;
    run.job.optim.nesterov = optim == DS_OPTIM_MUON;
    run.job.precision.compute = compute;
    run.job.zero.stage = stage;
    run.steps = 8;
    return run;
}

/* On the device; `run` by hosts. */
static struct test_run on_device(const struct test_run *run, unsigned ahead)
{
    struct test_run late = *run;

    prepared = false;
    late.apart = true;
    late.ahead = ahead;
    late.opened = take;
    return late;
}

static void check_same(struct test_run *hosts, const char *what)
{
    test_run_ok(hosts);
    for (unsigned ahead = 0; ahead < 2; ahead++) {
        struct test_run late = on_device(hosts, ahead);

        test_run_ok(&late);
        cr_assert(late.plan.late && !hosts->plan.late);
        cr_assert_eq(apart.held, 0, "%s: %zu pieces left", what, apart.held);
        for (unsigned i = 0; i < hosts->steps; i++) {
            const struct ds_step_result *want = &hosts->result[i], *got = &late.result[i];

            cr_assert(got->nonfinite == want->nonfinite && got->stop == want->stop &&
                          got->empty == want->empty,
                      "%s, step %u: %zu not finite for %zu", what, i, (size_t)got->nonfinite,
                      (size_t)want->nonfinite);
            cr_assert(want->bad == NULL ? got->bad == NULL : strcmp(got->bad, want->bad) == 0,
                      "%s, step %u", what, i);
        }
        cr_assert(test_same(hosts, &late), "%s, %u ahead: other bits", what, ahead);
        for (unsigned op = 0; hosts->poison_step == UINT64_MAX && op < DS_COMM_OP_COUNT; op++)
            cr_assert(late.traffic[op].calls == hosts->steps * late.plan.traffic[op].calls &&
                          late.traffic[op].bytes == hosts->steps * late.plan.traffic[op].bytes,
                      "%s: %zu calls, %zu bytes of %s", what, (size_t)late.traffic[op].calls,
                      (size_t)late.traffic[op].bytes, ds_comm_op_name(op));
        test_run_release(&late);
    }
}

/* Of every third sample nothing counts, and of the others some places; of steps 2 and 3 of two ranks
 * nothing does. */
static uint8_t some(uint64_t sample, uint64_t place)
{
    return sample % 3 != 1 && (sample < 8 || sample >= 16) && (sample + place) % 4 == 0;
}

/* The factor of targets follows the loss scale and the mask. */
Test(late, a_mask_gives_every_step_a_factor)
{
    struct test_samples file = {.samples = 48, .sequence = 17, .vocab = 97, .counts = some};
    const char *path = test_samples_write(&file);

    for (unsigned i = 0; i < 6; i++) {
        struct test_run hosts = run_of(i % 2 == 0 ? DS_OPTIM_ADAMW : DS_OPTIM_LAMB,
                                       (enum ds_compute)(i % 3), 2 + i % 2, i % 4);

        hosts.tokens = path;
        hosts.scales = i % 3 == DS_COMPUTE_FP16;
        hosts.job.precision.scaler.init_power = 24;
        hosts.job.precision.scaler.window = 2;
        hosts.job.precision.scaler.hysteresis = 1;
        hosts.job.precision.scaler.min = 1;
        check_same(&hosts, "masked");
        for (unsigned k = 0; i % 2 == 0 && k < hosts.steps; k++)
            cr_assert(hosts.result[k].empty == (k == 2 || k == 3), "step %u of run %u", k, i);
        test_run_release(&hosts);
    }
    (void)unlink(path);
}

Test(late, every_optimizer_at_every_stage)
{
    static const enum ds_optim_kind kinds[] = {DS_OPTIM_ADAMW, DS_OPTIM_ADAM, DS_OPTIM_SGD,
                                               DS_OPTIM_LION,  DS_OPTIM_MUON, DS_OPTIM_ADAGRAD,
                                               DS_OPTIM_LAMB};
    char what[64];

    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        for (unsigned stage = 0; stage < 4; stage++) {
            unsigned world = (i + stage) % 3 + 1;
            struct test_run hosts =
                run_of(kinds[i], i % 2 == 0 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32, world, stage);

            (void)snprintf(what, sizeof(what), "%s, stage %u, %u ranks", ds_optim_name(kinds[i]),
                           stage, world);
            check_same(&hosts, what);
            cr_assert(hosts.result[3].stop == (world > 1));
            test_run_release(&hosts);
        }
}

/* Gradients overflow until the scale has fallen: updates have fewer numbers than steps. */
static void check_scaled(enum ds_optim_kind optim)
{
    for (unsigned world = 1; world < 4; world++) {
        struct test_run hosts = run_of(optim, DS_COMPUTE_FP16, world, world);
        struct ds_job *job = &hosts.job;
        unsigned skipped = 0;

        hosts.scales = true;
        job->precision.scaler.init_power = 24;
        job->precision.scaler.window = 2;
        job->precision.scaler.hysteresis = 1;
        job->precision.scaler.min = 1;
        check_same(&hosts, "scaled");
        for (unsigned i = 0; i < hosts.steps; i++)
            skipped += hosts.result[i].nonfinite > 0;
        cr_assert(skipped > 1 && skipped < hosts.steps, "%u of %u", skipped, hosts.steps);
        test_run_release(&hosts);
    }
}

Test(late, a_loss_scale_finds_its_place)
{
    check_scaled(DS_OPTIM_ADAMW);
    check_scaled(DS_OPTIM_LAMB);
}

/* A weight that is no number: every step from there on is skipped, and says where it began. */
Test(late, a_bad_gradient_is_named)
{
    for (unsigned world = 1; world < 4; world++) {
        struct test_run hosts =
            run_of(world == 2 ? DS_OPTIM_LAMB : DS_OPTIM_ADAMW, DS_COMPUTE_FP32, world, world % 4);

        hosts.poison_step = 3;
        check_same(&hosts, "poisoned");
        cr_assert(hosts.result[2].bad == NULL && hosts.result[3].bad != NULL);
        test_run_release(&hosts);
    }
}

/* What the host updates is the host's. */
Test(late, not_where_the_host_has_a_part)
{
    struct test_run run = run_of(DS_OPTIM_ADAMW, DS_COMPUTE_BF16, 1, 0);

    run.job.offload.optim = DS_OFFLOAD_CPU;
    run.apart = true;
    cr_assert_eq(test_plan(&run.plan, &run, 0, NULL), 0);
    cr_assert(run.plan.apart && !run.plan.late);
    ds_plan_release(&run.plan);
}

/* Kernels read what comes up from there, sums go down there, and whoever updates writes there: as on the
 * host, whether that decides or the device. */
Test(late, parameters_of_the_host_come_and_go)
{
    static const enum ds_optim_kind kinds[] = {DS_OPTIM_ADAMW, DS_OPTIM_SGD, DS_OPTIM_LAMB,
                                               DS_OPTIM_MUON};

    for (unsigned i = 0; i < 16; i++) {
        const bool by_host = i % 4 < 2 && kinds[i / 4] <= DS_OPTIM_SGD;
        struct test_run here = run_of(
            kinds[i / 4], by_host && i % 2 == 0 ? DS_COMPUTE_FP32 : DS_COMPUTE_BF16, i % 3 + 1, 3);
        struct test_run there;

        here.job.offload.params = DS_OFFLOAD_CPU;
        here.job.offload.optim = by_host ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
        here.job.zero.replicate_below = i % 2 == 0 ? 0 : 100;
        here.job.train.global_batch = i % 3 == 1 ? 12 : here.job.train.global_batch;
        here.job.activation.recompute = i % 2 == 0 ? DS_RECOMPUTE_FULL : DS_RECOMPUTE_NONE;
        here.job.activation.offload = i % 2 == 0 ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
        here.poison_step = i % 5 == 4 ? 3 : UINT64_MAX;
        test_run_ok(&here);
        there = on_device(&here, by_host ? 0 : i / 2 % 2); /* one that decides asks at once */
        test_run_ok(&there);
        cr_assert(there.plan.late != by_host && there.plan.host[DS_ARENA_GRADS] == by_host);
        cr_assert_eq(apart.held, 0, "%u: %zu pieces left", i, apart.held);
        cr_assert(test_same(&here, &there), "%u, %s: other bits", i, ds_optim_name(kinds[i / 4]));
        cr_assert((here.result[3].bad != NULL) == (i % 5 == 4) &&
                      (there.result[3].bad != NULL) == (i % 5 == 4),
                  "%u", i);
        test_run_release(&here);
        test_run_release(&there);
    }
}
