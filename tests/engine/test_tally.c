/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_tally - whichever tensor goes bad first, on whatever rank, all ranks name it, by no sum more
 * than a good step has; and so does the least of all ranks' places.
 */
#include "runtime/flags.h"
#include "runtime/tally.h"
#include "tests/engine/fixture.h"

enum { WORLD = 3, TENSORS = 128 };

struct member {
    const struct ds_job *job;
    unsigned rank;
    int shm_fd;
    uint64_t sums; /* that were asked for, beside the flags */
    const char *named[TENSORS];
    struct ds_entry entry[TENSORS], given[TENSORS];
    struct ds_plan plan;
    struct ds_error err;
    int rc;
};

/* Tensor `bad` of the model and all that are behind it but the next few have a NaN. */
static void spoil(const struct ds_plan *plan, float *grads, size_t bad)
{
    for (size_t i = 0; i < plan->params; i++) {
        struct ds_held slice = ds_plan_slice_param(plan, DS_ARENA_GRADS, i);
        const size_t tensor = plan->param[i].tensor;
        bool spoilt = tensor == bad || tensor > bad + 4;

        if (slice.count > 0)
            grads[slice.at + slice.count - 1] = spoilt ? (float)NAN : 1.0f;
    }
}

/* The name that the hosts agree on, and this rank's places for the other one. */
static int name_all(struct member *me, struct ds_tally *tally, float *grads, struct ds_comm *comm)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i <= me->plan.tensors; i++) { /* the last time nothing is bad */
        struct ds_entry *mine = &me->entry[i], all;
        size_t bad = 0;

        spoil(&me->plan, grads, i);
        rc = ds_tally_begin(tally, &me->err);
        if (rc == 0)
            rc =
                ds_tally_give(tally, grads, &(struct ds_entry){.hash = 7}, &me->given[i], &me->err);
        if (rc == 0)
            rc = ds_tally_read(tally, grads, mine, &me->err);
        mine->hash = 7;
        if (rc == 0)
            rc = ds_flags_sum(&me->plan, comm, mine, &all, &bad, &me->err);
        me->named[i] = ds_tally_name(&me->plan, bad);
    }
    return rc;
}

static int run_member(struct member *me, struct ds_comm *comm, struct ds_device *device)
{
    float *grads = calloc(1, me->plan.arena_bytes[DS_ARENA_GRADS]);
    struct ds_comm_stats stats;
    struct ds_tally tally;
    int rc = ds_tally_open(&tally, &me->plan, device, NULL, &me->err);

    if (rc != 0) {
        free(grads);
        return rc;
    }
    rc = name_all(me, &tally, grads, comm);
    ds_comm_op_stats(comm, DS_COMM_ALL_REDUCE_F64, &stats);
    me->sums = stats.calls;
    ds_tally_close(&tally);
    free(grads);
    return rc;
}

static void *member_main(void *arg)
{
    struct member *me = arg;
    const struct ds_plan_args plan_args = {
        .job = me->job, .world = WORLD, .rank = me->rank, .threads = 1, .local_world = WORLD};
    struct ds_comm *comm = NULL;
    struct ds_device *device = NULL;
    int rc = ds_plan_build(&me->plan, &plan_args, &me->err);

    if (rc == 0)
        rc = ds_comm_open(&comm,
                          &(struct ds_comm_args){.backend = "host",
                                                 .rank = me->rank,
                                                 .world = WORLD,
                                                 .shm_fd = me->shm_fd,
                                                 .arena_bytes = me->plan.shared_bytes,
                                                 .timeout_ms = 60000},
                          &me->err);
    if (rc == 0)
        rc = ds_device_open(&device,
                            &(struct ds_device_args){.name = "cpu",
                                                     .threads = 1,
                                                     .scratch_bytes = me->plan.scratch_bytes},
                            &me->err);
    if (rc == 0)
        rc = run_member(me, comm, device);
    ds_device_close(device);
    ds_comm_close(comm);
    me->rc = rc;
    return NULL;
}

static void check_all(const struct ds_job *job, bool replicated)
{
    static struct member member[WORLD];
    pthread_t thread[WORLD];
    int fd = memfd_create("test", MFD_CLOEXEC);

    for (unsigned i = 0; i < WORLD; i++) {
        member[i] = (struct member){.job = job, .rank = i, .shm_fd = fd};
        cr_assert_eq(pthread_create(&thread[i], NULL, member_main, &member[i]), 0);
    }
    for (unsigned i = 0; i < WORLD; i++)
        cr_assert_eq(pthread_join(thread[i], NULL), 0);
    for (unsigned i = 0; i < WORLD; i++) {
        const struct ds_plan *plan = &member[i].plan;

        cr_assert_eq(member[i].rc, 0, "%s", member[i].err.text);
        cr_assert(plan->tensors < TENSORS && plan->buckets > 4);
        cr_assert_eq(plan->bucket[plan->buckets - 1].replicated, replicated);
        for (size_t j = 0; j <= plan->tensors; j++) {
            cr_assert_str_eq(member[i].named[j], ds_tally_name(plan, j), "stage %u, rank %u",
                             plan->stage, i);
            cr_assert_eq(memcmp(&member[i].entry[j], &member[i].given[j], sizeof(struct ds_entry)),
                         0, "stage %u, rank %u", plan->stage, i);
        }
        cr_assert_eq(member[i].sums, plan->tensors + 1, "stage %u: a slot for each", plan->stage);
    }
    for (size_t j = 0; j <= member[0].plan.tensors; j++) {
        for (unsigned i = 1; i < WORLD; i++)
            ds_entry_add(&member[0].entry[j], &member[i].entry[j]);
        cr_assert_eq(ds_tally_bad(&member[0].plan, &member[0].entry[j]), j, "stage %u",
                     member[0].plan.stage);
    }
    for (unsigned i = 0; i < WORLD; i++)
        ds_plan_release(&member[i].plan);
    (void)close(fd);
}

Test(tally, names_every_tensor)
{
    for (unsigned i = 0; i < 12; i++) {
        struct ds_job job = test_job(test_gpt2(6, 256, 4, 997, 64), WORLD, 1, 64);

        job.zero.stage = i % 4;
        job.zero.replicate_below = i / 4 == 1 ? 2000 : 0;
        if (i / 4 == 2)
            job.optim.kind = DS_OPTIM_MUON; /* buckets with gaps */
        check_all(&job, i / 4 == 1);
    }
}

/* Each rank has one of the three experts of a layer, and tells of those only. */
Test(tally, names_the_tensors_of_experts_that_ranks_divide)
{
    for (unsigned stage = 0; stage < 4; stage++) {
        struct ds_job job = test_job(test_mixtral(5, 256, 8, 4, 512, 997, 64, 3, 2), WORLD, 1, 64);

        job.zero.stage = stage;
        job.parallel.expert = WORLD;
        job.zero.replicate_below = stage % 2 == 1 ? 2000 : 0;
        check_all(&job, stage % 2 == 1);
    }
}
