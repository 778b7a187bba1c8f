/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_broken - a device or a group of ranks that fails, at every call of it in turn.
 *
 * The step that meets it ends with that error, all memory is given back, and no rank waits for ever.
 * Where only a recording failed the run goes on without, to the same bits; and so it does on a device
 * with memory of its own where nothing fails.
 */
#include "tests/engine/apart.h"
#include "tests/engine/fixture.h"

/* Small products of every shape: no library has to make code for each. */
static void plain_vectors(void)
{
    (void)setenv("DSRUN_CPU_ISA", "base", 1);
}

TestSuite(broken, .init = plain_vectors, .timeout = 240);

struct setting {
    const char *name;
    bool llama, dropout, offload, late; /* late: the device decides */
    bool params;                        /* of the host */
    enum ds_recompute recompute;
    enum ds_compute compute;
    enum ds_optim_kind optim;
};

static const struct setting settings[] = {
    {.name = "gpt2", .optim = DS_OPTIM_ADAMW},
    {.name = "gpt2, dropout", .dropout = true, .optim = DS_OPTIM_SGD},
    {.name = "gpt2, recomputed, muon",
     .recompute = DS_RECOMPUTE_FULL,
     .compute = DS_COMPUTE_BF16,
     .optim = DS_OPTIM_MUON},
    {.name = "llama, recomputed, lamb",
     .llama = true,
     .recompute = DS_RECOMPUTE_SELECTIVE,
     .optim = DS_OPTIM_LAMB},
    {.name = "llama, offloaded",
     .llama = true,
     .offload = true,
     .compute = DS_COMPUTE_BF16,
     .optim = DS_OPTIM_ADAMW},
    {.name = "llama, all of it the host's",
     .llama = true,
     .offload = true,
     .params = true,
     .compute = DS_COMPUTE_BF16,
     .optim = DS_OPTIM_ADAMW},
    {.name = "gpt2, late", .late = true, .compute = DS_COMPUTE_BF16, .optim = DS_OPTIM_ADAMW},
};
enum { SETTINGS = sizeof(settings) / sizeof(settings[0]) };

static struct test_run run_of(const struct setting *set, unsigned world)
{
    struct test_run run = {.world = world,
                           .threads = 1,
                           .steps = 2,
                           .poison_step = UINT64_MAX,
                           .tokens = "tests/reference/gpt2-tiny/tokens.safetensors"};

    run.job =
        test_job(set->llama ? test_llama(1, 16, 4, 2, 24, 97, 32) : test_gpt2(1, 16, 2, 97, 32),
                 2 * world, 1, 17);
    run.job.model.dropout = run.job.model.attention_dropout = set->dropout ? 0.1 : 0.0;
    run.job.activation.recompute = set->recompute;
    run.job.offload.optim = set->offload ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.offload.params = set->params ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.zero.stage = set->params ? 3 : 0;
    run.job.precision.compute = set->compute;
    run.job.optim.kind = set->optim;
    run.job.optim.momentum = set->optim == DS_OPTIM_MUON ? 0.95 : 0.0;
    run.job.optim.nesterov = set->optim == DS_OPTIM_MUON;
    return run;
}

/* --- the device --------------------------------------------------------------------------------- */

struct breaking {
    bool queues;
    enum apart_breaks breaks;
    unsigned nth;
};

static void begin(void *user, struct ds_device *device)
{
    const struct breaking *how = user;

    apart_begin(device, how->queues, how->breaks, how->nth);
}

static struct test_run run_broken(const struct setting *set, struct breaking *how)
{
    struct test_run run = run_of(set, 1);

    run.apart = set->late && how->queues;
    run.ahead = run.apart ? 1 : 0;
    run.opened = begin;
    run.user = how;
    test_run(&run);
    return run;
}

/* Calls until nothing fails any more; at least so many failed. */
static void break_every_call(const struct setting *set, bool queues, enum apart_breaks breaks,
                             unsigned least)
{
    struct test_run whole = run_broken(set, &(struct breaking){0});
    bool broken = true;

    cr_assert(whole.rc[0] == 0, "%s: %s", set->name, whole.err[0].text);
    for (unsigned nth = 1; broken; nth++) {
        struct test_run run = run_broken(set, &(struct breaking){queues, breaks, nth});

        broken = apart.broken;
        cr_assert(apart.held == 0 && apart_recording == NULL, "%s: call %u: %zu left", set->name,
                  nth, apart.held);
        if (run.rc[0] == 0)
            cr_assert(test_same(&run, &whole), "%s: call %u: other results", set->name, nth);
        else
            cr_assert(broken && run.rc[0] == -EIO && strstr(run.err[0].text, "the device ") != NULL,
                      "%s: call %u: %d %s", set->name, nth, run.rc[0], run.err[0].text);
        cr_assert(run.rc[0] != 0 || !broken || queues, "%s: call %u: not seen", set->name, nth);
        cr_assert(broken || nth > least, "%s: %u calls", set->name, nth);
        test_run_release(&run);
    }
    test_run_release(&whole);
}

Test(broken, any_operation)
{
    for (unsigned i = 0; i < SETTINGS; i++)
        break_every_call(&settings[i], false, APART_FOR_GOOD, 100);
}

Test(broken, any_call_of_a_device_with_memory_of_its_own)
{
    for (unsigned i = 0; i < SETTINGS; i++)
        break_every_call(&settings[i], true, i % 2 == 0 ? APART_ONCE : APART_FOR_GOOD, 150);
}

Test(broken, recordings_are_played)
{
    struct test_run run = run_broken(&settings[0], &(struct breaking){.queues = true});

    cr_assert(run.rc[0] == 0, "%s", run.err[0].text);
    cr_assert(apart.played > 0);
    test_run_release(&run);
}

/* --- the group of ranks ------------------------------------------------------------------------- */

static unsigned calls_left; /* of rank 0 until one fails; 0: none */
static bool call_failed;

static int call_or_fail(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    if (comm->rank == 0 && calls_left > 0 && --calls_left == 0) {
        call_failed = true;
        return ds_fail(err, EIO, "the network is gone");
    }
    return ds_comm_backend_host.run[call->op](comm, call, err);
}

static struct ds_comm_backend failing_backend(void)
{
    struct ds_comm_backend backend = ds_comm_backend_host;

    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++)
        backend.run[op] = call_or_fail;
    return backend;
}

/* Any collective of rank 0 fails: it tells, the other one is let go. */
static void fail_every_collective(const struct setting *set, unsigned stage, bool overlap)
{
    const struct ds_comm_backend backend = failing_backend();
    unsigned failed = 0;

    do {
        struct test_run run = run_of(set, 2);

        run.job.zero.stage = stage;
        run.overlap = overlap;
        run.backend = &backend;
        calls_left = ++failed;
        call_failed = false;
        test_run(&run);
        if (call_failed) {
            cr_assert(run.rc[0] == -EIO && strstr(run.err[0].text, "network") != NULL,
                      "%s, stage %u, call %u: %d %s", set->name, stage, failed, run.rc[0],
                      run.err[0].text);
            cr_assert(run.rc[1] == -ECANCELED, "%s, stage %u, call %u: %d %s", set->name, stage,
                      failed, run.rc[1], run.err[1].text);
        } else {
            cr_assert(run.rc[0] == 0 && run.rc[1] == 0, "%s, stage %u: %s", set->name, stage,
                      run.err[0].text);
        }
        test_run_release(&run);
    } while (call_failed);
    cr_assert(failed > 5, "%s, stage %u: %u collectives", set->name, stage, failed);
}

Test(broken, any_collective)
{
    for (unsigned i = 0; i < SETTINGS; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            if (!settings[i].offload || stage > 0)
                fail_every_collective(&settings[i], stage, (i + stage) % 2 == 0);
}
