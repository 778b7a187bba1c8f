/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_memory - every allocation and mapping fails once while a device, a group of one rank, the
 * engine and its data are opened, and in the steps that follow.
 *
 * It is told as what it is, and what was opened before is closed: the sanitizer looks for the rest.
 */
#include "tests/engine/fixture.h"
#include "tests/faults.h"

static void plain_vectors(void)
{
    (void)setenv("DSRUN_CPU_ISA", "base", 1); /* its libraries allocate as they like */
}

TestSuite(memory, .init = plain_vectors, .timeout = 240);

static struct test_run run_of(enum ds_optim_kind optim, enum ds_compute compute)
{
    struct test_run run = {.world = 1,
                           .threads = 2,
                           .steps = 1,
                           .poison_step = UINT64_MAX,
                           .tokens = "tests/reference/gpt2-tiny/tokens.safetensors"};

    run.job = test_job(test_gpt2(1, 16, 2, 97, 32), 2, 1, 17);
    run.job.optim.kind = optim;
    run.job.optim.momentum = 0.95;
    run.job.precision.compute = compute;
    return run;
}

/* Number n of what can fail, from when plan and lines of the test are there. */
static int open_and_step(struct test_run *run, unsigned n, int code)
{
    struct test_rank me = {.run = run, .shm_fd = -1};
    struct ds_error *err = &run->err[0];
    struct ds_device *device = NULL;
    struct ds_comm *comm = NULL;
    int rc;

    cr_assert_eq(test_plan(&run->plan, run, 0, err), 0);
    run->elems = run->plan.padded_elems;
    run->first_grads = calloc(run->elems, sizeof(float));
    run->params = calloc(run->elems, sizeof(float));
    run->exp_avg = calloc(run->elems, sizeof(float));
    cr_assert(faults_next(n, code));
    rc = test_open_comm(&me, &run->plan, &comm, err);
    if (rc == 0)
        rc = ds_device_open(&device,
                            &(struct ds_device_args){.name = "cpu",
                                                     .threads = run->threads,
                                                     .scratch_bytes = run->plan.scratch_bytes},
                            err);
    if (rc == 0)
        rc = test_rank_run(&me, &run->plan, comm, device, err);
    faults_off();
    ds_device_close(device);
    ds_comm_close(comm);
    return rc;
}

static void sweep(enum ds_optim_kind optim, enum ds_compute compute, unsigned kinds, int code)
{
    unsigned rounds = 0;
    bool hit = true;

    faults_kinds = kinds;
    faults_hit = 1;
    for (unsigned n = 1; hit; n++) {
        struct test_run run = run_of(optim, compute);
        int rc = open_and_step(&run, n, code);

        hit = faults_hit > 0;
        rounds += hit;
        cr_expect(hit ? rc == -code || rc == -ENOMEM : rc == 0, "%s, call %u: %d %s",
                  strerror(code), n, rc, run.err[0].text);
        cr_expect(!hit || run.err[0].text[0] != '\0', "%s, call %u: no reason", strerror(code), n);
        test_run_release(&run);
        faults_hit = hit;
    }
    cr_expect(rounds > 4, "%u rounds", rounds);
}

Test(memory, no_allocation)
{
    sweep(DS_OPTIM_ADAMW, DS_COMPUTE_FP32, FAULT_MEMORY, ENOMEM);
    sweep(DS_OPTIM_LAMB, DS_COMPUTE_BF16, FAULT_MEMORY, ENOMEM);
}

Test(memory, no_mapping_and_no_file)
{
    sweep(DS_OPTIM_MUON, DS_COMPUTE_BF16, FAULT_IO, ENOMEM);
    sweep(DS_OPTIM_ADAMW, DS_COMPUTE_FP32, FAULT_IO, EIO);
}
