/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_stash.c - inputs of layers that wait on the host: in whatever order queues come to what they do, each
 * reader finds what it reads, and no place is written while somebody reads or writes there.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "tests/plan/orders.h"

enum { MOST_BLOCKS = 64 };

/* A place of the device, or the host's of a block; what an instruction does there. */
struct use {
    bool device, writes;
    uint32_t place, block;
};

/* Of at most two places. */
static unsigned uses_of(const struct ds_plan *plan, const struct ds_instr *instr, struct use use[2])
{
    bool move = instr->op == DS_INSTR_STASH || instr->op == DS_INSTR_RESTORE;
    bool pass = instr->op == DS_INSTR_FORWARD || instr->op == DS_INSTR_BACKWARD;
    bool makes = instr->op == DS_INSTR_FORWARD && !instr->recompute;
    unsigned count = 0;

    if (!move && !pass)
        return 0;
    if (pass && instr->block > 0 && ds_plan_takes_turns(plan, instr->block - 1))
        use[count++] = (struct use){true, false, ds_plan_stash_place(plan, instr->block - 1),
                                    instr->block - 1};
    if (makes && ds_plan_takes_turns(plan, instr->block))
        use[count++] =
            (struct use){true, true, ds_plan_stash_place(plan, instr->block), instr->block};
    if (move) {
        bool back = instr->op == DS_INSTR_RESTORE;

        cr_assert(ds_plan_takes_turns(plan, instr->block));
        use[count++] =
            (struct use){true, back, ds_plan_stash_place(plan, instr->block), instr->block};
        use[count++] = (struct use){false, !back, instr->block, instr->block};
    }
    return count;
}

/* In list order every reader finds the block that it reads. */
static void check_contents(const struct ds_plan *plan, const char *what)
{
    uint32_t device[DS_STASH_PLACES] = {UINT32_MAX, UINT32_MAX}, host[MOST_BLOCKS];
    uint64_t moves = 0;

    memset(host, 0xff, sizeof(host));
    for (uint32_t i = 0; i < 2 * plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i % plan->step.count];
        struct use use[2];
        unsigned count = uses_of(plan, instr, use);

        moves += instr->op == DS_INSTR_STASH || instr->op == DS_INSTR_RESTORE;
        for (unsigned k = 0; k < count; k++)
            if (!use[k].writes)
                cr_assert_eq(use[k].device ? device[use[k].place] : host[use[k].place],
                             use[k].block, "%s: %u reads block %u", what, i, use[k].block);
        for (unsigned k = 0; k < count; k++)
            if (use[k].writes)
                *(use[k].device ? &device[use[k].place] : &host[use[k].place]) = use[k].block;
    }
    cr_assert_eq(moves, 2 * 2 * plan->micro_batches * ds_plan_stashed(plan), "%s", what);
}

/* Two that use a place, one of them to write, are in order. */
static void check_order_of_uses(const struct ds_plan *plan, const struct clock *clock,
                                const char *what)
{
    const struct ds_program *step = &plan->step;

    for (uint32_t j = 0; j < 2 * step->count; j++)
        for (uint32_t i = 0; i < j; i++) {
            struct use a[2], b[2];
            unsigned n = uses_of(plan, &step->instr[i % step->count], a);
            unsigned m = uses_of(plan, &step->instr[j % step->count], b);

            for (unsigned k = 0; k < n * m; k++) {
                const struct use *x = &a[k % n], *y = &b[k / n];

                if (x->device == y->device && x->place == y->place && (x->writes || y->writes))
                    cr_assert(before(step, clock, i, j), "%s: %u and %u use a place", what, i, j);
            }
        }
}

static void check_stash(unsigned layers, uint64_t passes, unsigned world, unsigned stage,
                        const char *freeze)
{
    struct ds_model_shape shape = test_llama(layers, 64, 4, 2, 96, 113, 32);
    struct ds_job job = test_job(shape, passes * world, 1, 32);
    const struct ds_plan_args args = {.job = &job, .world = world, .threads = 1, .apart = true};
    struct ds_plan plan, kept;
    struct ds_error err = {0};
    struct clock *clock;
    char what[120];

    (void)snprintf(what, sizeof(what), "%u layers, %u passes, %u ranks, stage %u, frozen '%s'",
                   layers, (unsigned)passes, world, stage, freeze != NULL ? freeze : "");
    job.zero.stage = stage;
    job.zero.bucket_mb = 1;
    job.offload.optim = job.offload.params = stage == 3 ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    job.activation.recompute = DS_RECOMPUTE_FULL;
    if (freeze != NULL)
        job.train.freeze = (struct ds_strings){.count = 1, .item = &freeze};
    cr_assert_eq(ds_plan_build(&kept, &args, &err), 0, "%s: %s", what, err.text);
    job.activation.offload = DS_OFFLOAD_CPU;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s: %s", what, err.text);
    clock = clocks_of(&plan.step, what);
    check_contents(&plan, what);
    check_order_of_uses(&plan, clock, what);
    cr_assert_eq(plan.arena_bytes[DS_ARENA_HOST_OUTS],
                 ds_plan_stashed(&plan) * 32 * 64 * sizeof(float), "%s", what);
    /* where most is alive the last output may have been made already, and its place be one of both */
    cr_assert_leq(plan.arena_bytes[DS_ARENA_ACTIVATIONS] +
                      (ds_plan_stashed(&plan) > 0 ? ds_plan_stashed(&plan) - 1 : 0) *
                          plan.stash_bytes,
                  kept.arena_bytes[DS_ARENA_ACTIVATIONS], "%s", what);
    cr_assert_eq(plan.hash == kept.hash, ds_plan_stashed(&plan) == 0, "%s", what);
    free(clock);
    ds_plan_release(&plan);
    ds_plan_release(&kept);
}

Test(stash, each_input_is_there_when_it_is_read)
{
    static const char *const freeze[] = {NULL, "model.embed*", "model.layers.[0-2].*"};

    for (unsigned layers = 1; layers < 10; layers += 1 + layers / 5)
        for (unsigned i = 0; i < 3 * 2 * 2 * 2; i++)
            if (layers > 3 || i % 3 < 2)
                check_stash(layers, i / 3 % 2 == 0 ? 1 : 3, 1 + i / 6 % 2, i / 12 % 2 == 0 ? 1 : 3,
                            freeze[i % 3]);
}

/* What the host has for them is in its sum, and said of a host that has less. */
Test(stash, counts_to_the_host)
{
    struct ds_job job = test_job(test_gpt2(6, 64, 4, 113, 32), 2, 2, 32);
    const struct ds_plan_args args = {.job = &job, .world = 1, .threads = 1, .apart = true};
    struct ds_error err = {0};
    struct ds_plan plan;

    job.activation.recompute = DS_RECOMPUTE_FULL;
    job.activation.offload = DS_OFFLOAD_CPU;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    cr_assert_eq(ds_plan_stashed(&plan), 5); /* of the embedding's and six layers' */
    cr_assert_eq(ds_plan_host_bytes(&plan), 5 * 2 * 32 * 64 * sizeof(float));
    cr_assert_eq(ds_plan_check_host(&plan, 1, 100, &err), -ENOMEM);
    cr_assert_not_null(strstr(err.text, "set 'activation.offload' to none"), "%s", err.text);
    ds_plan_release(&plan);
    job.parallel.pipeline = 2;
    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 2, .threads = 1}, &err),
        -EINVAL);
    cr_assert_not_null(strstr(err.text, "'activation.offload' cpu and 'parallel.pipeline' 2"), "%s",
                       err.text);
}
