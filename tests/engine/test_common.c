/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_common - parameters that the ranks of a host hold once: the same bits as with a copy on each
 * rank, also where ranks come late; the order that makes it so, in the plan; and that a gather which
 * does not wait is seen.
 */
#include <errno.h>
#include <time.h>

#include "tests/engine/fixture.h"

struct setting {
    unsigned family, world, local, stage;
    uint64_t passes, replicate_below, prefetch;
    bool bf16, offload, overlap;
    enum ds_optim_kind optim;
};

/* clang-format off */
static const struct setting settings[] = {
    {.world = 2, .local = 2, .stage = 1, .passes = 1},
    {.world = 4, .local = 4, .stage = 2, .passes = 2, .overlap = true},
    {.world = 3, .local = 3, .stage = 1, .passes = 1, .replicate_below = 300},
    {.world = 3, .local = 3, .stage = 2, .passes = 2, .replicate_below = 300, .bf16 = true},
    {.world = 2, .local = 2, .stage = 1, .passes = 1, .replicate_below = 300, .offload = true, .bf16 = true},
    {.world = 4, .local = 4, .stage = 2, .passes = 1, .replicate_below = 300, .offload = true, .overlap = true},
    {.world = 4, .local = 2, .stage = 1, .passes = 1, .replicate_below = 300, .overlap = true},
    {.world = 4, .local = 2, .stage = 2, .passes = 2, .bf16 = true, .family = 1},
    {.world = 3, .local = 3, .stage = 2, .passes = 1, .optim = DS_OPTIM_LAMB, .family = 1},
    {.world = 2, .local = 2, .stage = 1, .passes = 1, .optim = DS_OPTIM_MUON, .overlap = true},
    {.world = 4, .local = 4, .stage = 3, .passes = 2, .replicate_below = 300, .overlap = true},
    {.world = 3, .local = 3, .stage = 3, .passes = 1, .replicate_below = 300, .offload = true, .bf16 = true},
    {.world = 4, .local = 2, .stage = 3, .passes = 2, .family = 1},
};
/* clang-format on */
enum { SETTINGS = sizeof(settings) / sizeof(settings[0]) };

static struct test_run setting_run(const struct setting *set)
{
    struct ds_model_shape shape =
        set->family == 0 ? test_gpt2(3, 128, 4, 257, 32) : test_llama(3, 128, 4, 2, 344, 257, 32);
    struct test_run run = {.world = set->world,
                           .local_world = set->local,
                           .threads = 1,
                           .steps = 4,
                           .poison_step = UINT64_MAX,
                           .overlap = set->overlap,
                           .tokens = "tests/reference/gpt2-tiny/tokens.safetensors"};

    run.job = test_job(shape, set->world * set->passes, 1, 17);
    run.job.zero.stage = set->stage;
    run.job.zero.bucket_mb = 1;
    run.job.zero.replicate_below = set->replicate_below;
    run.job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.offload.optim = set->offload ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    run.job.precision.compute = set->bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    run.job.optim.kind = set->optim;
    run.job.optim.lr = 1e-2; /* what was read too early differs */
    if (set->optim == DS_OPTIM_MUON) {
        run.job.optim.momentum = 0.95;
        run.job.optim.nesterov = true;
        run.job.optim.adamw_lr = 1e-3;
    }
    return run;
}

/* --- ranks that come late -------------------------------------------------------------------- */

static void nap(void)
{
    const struct timespec time = {.tv_nsec = 20 * 1000000L};

    (void)nanosleep(&time, NULL);
}

static bool is_late(const struct ds_comm *comm)
{
    return comm->rank == comm->world - 1;
}

/* Behind NORM the last rank still has its shard to update when the others have theirs and go on;
 * behind a sum of gradients it still reads for the rest of its backward pass. */
static int come_late(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    int rc = ds_comm_backend_host.run[call->op](comm, call, err);

    if (is_late(comm))
        nap();
    return rc;
}

static struct ds_comm_backend late_backend(void)
{
    struct ds_comm_backend backend = ds_comm_backend_host;

    backend.run[DS_COMM_ALL_REDUCE_F64] = come_late;
    backend.run[DS_COMM_REDUCE_SCATTER] = come_late;
    return backend;
}

Test(common, bits_are_those_of_copies_whoever_is_late)
{
    const struct ds_comm_backend late = late_backend();

    for (unsigned i = 0; i < SETTINGS; i++) {
        struct test_run once = setting_run(&settings[i]), copies = setting_run(&settings[i]);

        once.backend = &late;
        copies.job.zero.once_per_host = false;
        test_run_ok(&once);
        test_run_ok(&copies);
        cr_assert_gt(once.plan.common_bytes, 0, "setting %u", i);
        cr_assert_eq(once.plan.beside_bytes > 0, settings[i].replicate_below > 0, "setting %u", i);
        cr_assert_eq(copies.plan.common_bytes, 0, "setting %u", i);
        cr_assert(test_same(&once, &copies), "setting %u", i);
        for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++)
            cr_assert_eq(once.traffic[op].bytes,
                         settings[i].stage < 3 ? copies.traffic[op].bytes
                                               : once.steps * once.plan.traffic[op].bytes,
                         "setting %u: bytes of %s", i, ds_comm_op_name(op));
        test_run_release(&once);
        test_run_release(&copies);
    }
}

#ifndef RANKS_AS_THREADS /* a race, which ThreadSanitizer would tell of */
/* A gather for which nobody waits. */
static int no_gather(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    (void)comm;
    (void)call;
    (void)err;
    return 0;
}

/* The same, and the others do not wait for the shard of the late one. */
Test(common, a_gather_that_does_not_wait_is_seen)
{
    struct ds_comm_backend hasty = late_backend();

    hasty.run[DS_COMM_ALL_GATHER] = no_gather;
    for (unsigned i = 0; i < 2; i++) {
        struct test_run wrong = setting_run(&settings[i]), right = setting_run(&settings[i]);

        wrong.backend = &hasty;
        test_run_ok(&wrong);
        test_run_ok(&right);
        cr_assert_not(test_same(&wrong, &right), "setting %u", i);
        test_run_release(&wrong);
        test_run_release(&right);
    }
}
#endif

/* A step that is skipped writes nothing, and the next one reads what stands there.  Of a tied
 * embedding every element is read. */
Test(common, a_skipped_step_leaves_everybodys_parameters)
{
    const struct ds_comm_backend late = late_backend();

    for (unsigned i = 0; i < SETTINGS; i++) {
        struct test_run once = setting_run(&settings[i]), copies = setting_run(&settings[i]);

        if (settings[i].family != 0)
            continue;
        once.backend = &late;
        copies.job.zero.once_per_host = false;
        once.poison_step = copies.poison_step = 2;
        test_run_ok(&once);
        test_run_ok(&copies);
        cr_assert_gt(once.result[2].nonfinite, 0, "setting %u", i);
        cr_assert_str_eq(once.result[2].bad, copies.result[2].bad, "setting %u", i);
        cr_assert_eq(memcmp(once.params, copies.params, once.elems * sizeof(float)), 0, "%u", i);
        test_run_release(&once);
        test_run_release(&copies);
    }
}

/* --- a room per host, for groups over several ------------------------------------------------ */

/* Stage 3 of all ranks on hosts of `local` each: what is gathered passes one room a host. */
/* clang-format off */
static const struct setting rooms[] = {
    {.world = 4, .local = 2, .stage = 3, .passes = 2, .overlap = true},
    {.world = 4, .local = 2, .stage = 3, .passes = 1, .replicate_below = 300, .bf16 = true, .family = 1},
    {.world = 4, .local = 2, .stage = 3, .passes = 1, .offload = true, .bf16 = true, .overlap = true},
    {.world = 2, .local = 1, .stage = 3, .passes = 2, .family = 1},
    {.world = 4, .local = 2, .stage = 3, .passes = 1, .optim = DS_OPTIM_MUON, .prefetch = 3},
};
/* clang-format on */
enum { ROOMS = sizeof(rooms) / sizeof(rooms[0]) };

static struct test_run room_run(const struct setting *set)
{
    struct test_run run = setting_run(set);

    run.job.zero.shard_group = DS_SHARD_ALL;
    run.job.zero.prefetch = set->prefetch;
    return run;
}

/* A rank that is late with a gather still reads what it gathered when others are at the next. */
Test(common, a_room_per_host_has_the_bits_of_one_per_rank)
{
    struct ds_comm_backend late = late_backend();

    late.run[DS_COMM_ALL_GATHER] = come_late;
    for (unsigned i = 0; i < ROOMS; i++) {
        struct test_run once = room_run(&rooms[i]), each = room_run(&rooms[i]);

        once.backend = &late;
        once.steps = each.steps = 2;
        each.job.zero.once_per_host = false;
        test_run_ok(&once);
        test_run_ok(&each);
        cr_assert(once.plan.ahead && each.plan.ahead && once.plan.prefetch == each.plan.prefetch);
        cr_assert_eq(once.plan.common_bytes, once.plan.arena_bytes[DS_ARENA_GATHERED]);
        cr_assert(once.plan.common_bytes > 0 && each.plan.common_bytes == 0);
        cr_assert_eq(ds_plan_ranks_bytes(&once.plan, rooms[i].local) +
                         (rooms[i].local - 1) * once.plan.common_bytes,
                     ds_plan_ranks_bytes(&each.plan, rooms[i].local));
        cr_assert(test_same(&once, &each), "room %u", i);
        for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++)
            cr_assert_eq(once.traffic[op].bytes, each.traffic[op].bytes, "room %u: bytes of %s", i,
                         ds_comm_op_name(op));
        test_run_release(&once);
        test_run_release(&each);
    }
}

/* --- the order, in the plan ------------------------------------------------------------------ */

static const struct ds_instr *signaller(const struct ds_plan *plan, uint32_t event)
{
    for (size_t i = 0; i < plan->step.count; i++)
        if (plan->step.instr[i].signals == event)
            return &plan->step.instr[i];
    return NULL;
}

/* Does `instr` come after NORM of its step, on NORM's queue or by what it waits for? */
static bool after_norm(const struct ds_plan *plan, const struct ds_instr *instr)
{
    const struct ds_instr *norm = plan->step.instr;

    while (norm->op != DS_INSTR_NORM)
        norm++;
    if (instr->queue == norm->queue || instr->queue == DS_QUEUE_HOST) /* one thread's, in order */
        return instr > norm;
    return instr->waits_for != DS_NO_EVENT && !instr->last_step &&
           after_norm(plan, signaller(plan, instr->waits_for));
}

/* What writes the bucket's parameters where kernels read them. */
static bool writes(const struct ds_plan *plan, const struct ds_instr *instr, uint32_t bucket)
{
    return instr->bucket == bucket &&
           instr->op == (plan->offload ? DS_INSTR_FETCH : DS_INSTR_UPDATE);
}

static void check_bucket(const struct ds_plan *plan, uint32_t bucket, unsigned setting)
{
    const struct ds_instr *instr = plan->step.instr, *end = instr + plan->step.count;
    uint32_t written = DS_NO_EVENT, gathered = DS_NO_EVENT;
    unsigned waits = 0;

    for (const struct ds_instr *at = instr; at < end; at++)
        if (writes(plan, at, bucket)) {
            cr_assert(after_norm(plan, at), "setting %u, bucket %u", setting, bucket);
            written = at->signals;
        }
    for (const struct ds_instr *at = instr; at < end; at++)
        if (at->op == DS_INSTR_GATHER && at->bucket == bucket) {
            cr_assert_eq(at->waits_for, written, "setting %u, bucket %u", setting, bucket);
            gathered = at->signals;
        }
    cr_assert(written != DS_NO_EVENT && gathered != DS_NO_EVENT);
    for (const struct ds_instr *at = instr; at < end; at++)
        if (at->op == DS_INSTR_FORWARD && at->waits_for == gathered && at->last_step)
            waits++;
    /* Of two that one instruction reads it waits for the later, which one queue gathers later. */
    cr_assert(waits == 1 || (waits == 0 && bucket + 1 < plan->buckets), "setting %u, bucket %u",
              setting, bucket);
}

Test(common, owners_write_between_the_flags_and_the_gather)
{
    for (unsigned i = 0; i < SETTINGS; i++) {
        struct test_run run = setting_run(&settings[i]);
        struct ds_error err = {0};
        size_t last = 0;

        cr_assert_eq(test_plan(&run.plan, &run, 0, &err), 0, "%s", err.text);
        for (size_t k = 0; k < run.plan.step.count; k++) {
            const struct ds_instr *instr = &run.plan.step.instr[k];

            if (instr->op == DS_INSTR_FORWARD || instr->op == DS_INSTR_BACKWARD)
                last = k;
        }
        for (size_t k = 0; k <= last; k++) /* all ranks come to it with nothing left to read */
            cr_assert(run.plan.step.instr[k].op != DS_INSTR_NORM, "setting %u", i);
        for (uint32_t b = 0; b < run.plan.buckets; b++)
            if (!run.plan.bucket[b].replicated)
                check_bucket(&run.plan, b, i);
        ds_plan_release(&run.plan);
    }
}

/* The look at the order sees an owner that writes before it knows that all have read. */
Test(common, an_owner_that_writes_before_the_flags_is_seen)
{
    for (unsigned i = 0; i < SETTINGS; i++) {
        struct test_run run = setting_run(&settings[i]);
        struct ds_instr *norm, *update, moved;

        cr_assert_eq(test_plan(&run.plan, &run, 0, NULL), 0);
        norm = update = run.plan.step.instr;
        while (norm->op != DS_INSTR_NORM)
            norm++;
        while (update->op != DS_INSTR_UPDATE)
            update++;
        cr_assert(after_norm(&run.plan, update), "setting %u", i);
        moved = *update;
        memmove(norm + 1, norm, (size_t)(update - norm) * sizeof(*norm));
        *norm = moved; /* the update is there now, NORM behind it */
        cr_assert_not(after_norm(&run.plan, norm), "setting %u", i);
        ds_plan_release(&run.plan);
    }
}

/* Shards of all make the line, each in its place; what is replicated lies behind the border. */
Test(common, who_writes_what)
{
    for (unsigned i = 0; i < SETTINGS; i++) {
        const struct setting *set = &settings[i];
        struct test_run run = setting_run(set);
        enum ds_arena_kind kind = set->bf16 || set->offload ? DS_ARENA_PARAMS_LOW : DS_ARENA_PARAMS;
        uint64_t border, elem = set->bf16 ? 2 : 4;

        for (unsigned rank = 0; rank < set->world; rank++) {
            cr_assert_eq(test_plan(&run.plan, &run, rank, NULL), 0);
            border = run.plan.common_bytes / elem;
            cr_assert(run.plan.common[kind] && run.plan.shared_at[kind] == DS_NOT_SHARED);
            cr_assert_eq(run.plan.common_bytes + run.plan.beside_bytes, run.plan.arena_bytes[kind]);
            for (size_t b = 0; b < run.plan.buckets; b++) {
                const struct ds_bucket *bucket = &run.plan.bucket[b];
                struct ds_held held = ds_plan_held(&run.plan, kind, b);

                cr_assert_eq(held.at, bucket->offset + held.first);
                cr_assert_eq(ds_plan_bucket_at(&run.plan, kind, b), bucket->offset);
                if (bucket->replicated)
                    cr_assert(held.at >= border && held.count == bucket->padded_elems);
                else
                    cr_assert(held.count == bucket->padded_elems / set->local &&
                              held.first == rank % set->local * held.count &&
                              held.at + held.count <= border);
            }
            ds_plan_release(&run.plan);
        }
    }
}

/* Elsewhere every rank keeps its own: stage 0, groups over hosts but for the room of stage 3. */
Test(common, where_it_is_not_so)
{
    struct setting set = settings[6];
    struct test_run run;
    struct ds_error err = {0};

    for (set.stage = 0; set.stage < 4; set.stage++)
        for (unsigned local = 1; local <= 4; local *= 2) {
            bool once = set.stage > 0 && local > 1;

            set.local = local;
            run = setting_run(&set);
            cr_assert_eq(test_plan(&run.plan, &run, 0, &err), 0, "%s", err.text);
            cr_assert_eq(run.plan.common_bytes > 0, once, "stage %u, %u ranks a host",
                         (unsigned)set.stage, local);
            ds_plan_release(&run.plan);
            run.job.zero.shard_group = DS_SHARD_ALL;
            cr_assert_eq(test_plan(&run.plan, &run, 0, &err), 0, "%s", err.text);
            cr_assert_eq(run.plan.common_bytes > 0, set.stage == 3 || (once && local == 4));
            ds_plan_release(&run.plan);
        }
    run = setting_run(&settings[0]);
    run.job.zero.replicate_below = UINT64_MAX;
    cr_assert_eq(test_plan(&run.plan, &run, 0, &err), 0, "%s", err.text);
    cr_assert_eq(run.plan.common_bytes, 0, "nothing is gathered");
    ds_plan_release(&run.plan);
}
