/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_recompute.c - what is dropped and computed again, and how auto chooses.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

enum { LAYERS = 6 };

static struct ds_job job_of(enum ds_recompute recompute, uint64_t layers)
{
    struct ds_job job = test_job(test_llama(LAYERS, 64, 4, 2, 160, 113, 32), 8, 4, 32);

    job.activation.recompute = recompute;
    job.activation.layers = layers;
    return job;
}

static void build(struct ds_plan *plan, struct ds_job *job)
{
    struct ds_error err = {0};

    cr_assert_eq(
        ds_plan_build(plan, &(struct ds_plan_args){.job = job, .world = 2, .threads = 1}, &err), 0,
        "%s", err.text);
}

static uint64_t activations(enum ds_recompute recompute, uint64_t layers)
{
    struct ds_job job = job_of(recompute, layers);
    struct ds_plan plan;
    uint64_t bytes;

    build(&plan, &job);
    bytes = plan.arena_bytes[DS_ARENA_ACTIVATIONS];
    ds_plan_release(&plan);
    return bytes;
}

/* Between one layer and all but one every layer frees what it drops, but for the one place that all
 * of them share and the gaps of packing. */
Test(recompute, a_layer_frees_what_it_drops)
{
    uint64_t tokens = 4 * 32, row = tokens * sizeof(float);
    uint64_t selective = row * (64 + 64 + 160), stats = tokens * 4 * sizeof(float);
    uint64_t full = selective + row * ((4 + 2 * 2) * 16 + 64 + 64 + 2 * 160 + 4) + stats;
    const struct {
        enum ds_recompute recompute;
        uint64_t bytes;
    } table[] = {{DS_RECOMPUTE_SELECTIVE, selective}, {DS_RECOMPUTE_FULL, full}};

    for (size_t i = 0; i < 2; i++) {
        uint64_t one = activations(table[i].recompute, 1);
        uint64_t most = activations(table[i].recompute, LAYERS - 1);
        uint64_t must = (LAYERS - 2) * table[i].bytes;

        cr_assert(one - most <= must && one - most > must * 9 / 10, "%zu: %zu of %zu", i,
                  (size_t)(one - most), (size_t)must);
    }
    cr_assert_eq(activations(DS_RECOMPUTE_FULL, 0), activations(DS_RECOMPUTE_FULL, LAYERS));
}

/* Only the first layers run forward again, each in every pass. */
Test(recompute, the_first_layers_do_it)
{
    struct ds_job job = job_of(DS_RECOMPUTE_SELECTIVE, 2);
    struct ds_plan plan;
    unsigned again = 0;

    job.train.global_batch = 24;
    build(&plan, &job);
    for (size_t i = 0; i < plan.step.count; i++) {
        again += plan.step.instr[i].recompute;
        cr_assert(!plan.step.instr[i].recompute || plan.step.instr[i].block <= 2);
    }
    cr_assert_eq(again, 2 * 3);
    cr_assert(ds_plan_drops(&plan, 2, DS_BUFFER_FFN_ACT) &&
              !ds_plan_drops(&plan, 3, DS_BUFFER_FFN_ACT));
    cr_assert(!ds_plan_drops(&plan, 2, DS_BUFFER_QKV) && !ds_plan_recomputes(&plan, 0));
    ds_plan_release(&plan);
}

/* With every amount of memory: what auto takes fits, and nothing cheaper does. */
Test(recompute, auto_takes_the_least_that_fits)
{
    struct choice {
        enum ds_recompute recompute;
        uint64_t layers, bytes;
    } all[2 * LAYERS + 1]; /* by rising cost */
    unsigned taken[2 * LAYERS + 1] = {0};
    size_t n = 0;

    all[n++] = (struct choice){DS_RECOMPUTE_NONE, 0, 0};
    for (uint64_t k = 1; k <= LAYERS; k++)
        all[n++] = (struct choice){DS_RECOMPUTE_SELECTIVE, k, 0};
    for (uint64_t k = 1; k <= LAYERS; k++)
        all[n++] = (struct choice){DS_RECOMPUTE_FULL, k, 0};
    for (size_t i = 0; i < n; i++) {
        struct ds_job job = job_of(all[i].recompute, all[i].layers);
        struct ds_plan plan;

        build(&plan, &job);
        all[i].bytes = ds_plan_total_bytes(&plan) - plan.peer_bytes;
        ds_plan_release(&plan);
    }
    for (uint64_t bytes = all[n - 1].bytes; bytes <= all[0].bytes; bytes += 4096) {
        struct ds_job job = job_of(DS_RECOMPUTE_AUTO, 0);
        struct ds_error err = {0};
        size_t best = 0;

        while (all[best].bytes > bytes)
            best++;
        cr_assert_eq(ds_plan_settle(&job,
                                    &(struct ds_plan_args){.job = &job, .world = 2, .threads = 1},
                                    2, 2 * bytes, &err),
                     0, "%s", err.text);
        cr_assert(job.activation.recompute == all[best].recompute &&
                      job.activation.layers == all[best].layers,
                  "%zu bytes: %d of %zu layers", (size_t)bytes, (int)job.activation.recompute,
                  (size_t)job.activation.layers);
        taken[best]++;
    }
    for (size_t i = 0; i <= LAYERS; i++)
        cr_assert_gt(taken[i], 0, "choice %zu was never best", i);
    cr_assert_gt(taken[n - 1], 0);
}

Test(recompute, auto_gives_all_it_can_where_nothing_fits)
{
    struct ds_job job = job_of(DS_RECOMPUTE_AUTO, 0);
    struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
    struct ds_error err = {0};
    struct ds_plan plan;

    cr_assert_eq(ds_plan_build(&plan, &args, &err), -EINVAL, "auto must be settled first");
    cr_assert_eq(ds_plan_settle(&job, &args, 2, 4096, &err), 0, "%s", err.text);
    cr_assert(job.activation.recompute == DS_RECOMPUTE_FULL && job.activation.layers == 0);
    job.train.global_batch = 0;
    job.activation.recompute = DS_RECOMPUTE_AUTO;
    cr_assert_eq(ds_plan_settle(&job, &args, 2, 4096, &err), -EINVAL, "errors come through");
    job.activation.recompute = DS_RECOMPUTE_FULL;
    cr_assert_eq(ds_plan_settle(&job, &args, 2, 4096, &err), 0, "what is settled is left alone");
}
