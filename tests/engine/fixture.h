/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fixture.h - ranks in threads: the whole trainer below train.c, without processes or job files.
 */
#ifndef DS_TESTS_ENGINE_FIXTURE_H
#define DS_TESTS_ENGINE_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/json_read.h"
#include "kernels/scratch.h"
#include "runtime/comm/backend.h"
#include "runtime/engine.h"
#include "runtime/optim.h"
#include "runtime/plan/away.h"
#include "runtime/states.h"
#include "tests/engine/inputs.h"

enum { TEST_MAX_WORLD = 8 };
#if defined(__SANITIZE_THREAD__)
enum { TEST_EVERY = 13 }; /* of a large table: it takes that much longer */
#elif defined(__SANITIZE_ADDRESS__)
enum { TEST_EVERY = 3 };
#else
enum { TEST_EVERY = 1 };
#endif

/* What a run of all ranks is given and leaves behind; lines are put together from every rank's
 * slices, results are rank 0's. */
struct test_run {
    struct ds_job job;
    const char *weights; /* safetensors of initial weights, or NULL: small numbers */
    const char *tokens;  /* safetensors of samples, or .bin of ids */
    unsigned world, threads;
    unsigned local_world; /* ranks of a host, or 0: of the only one; hosts meet on loopback */
    bool overlap;
    const struct ds_comm_backend *backend; /* to take the place of the comm's own, or NULL */
    void (*opened)(void *user, struct ds_device *device); /* (optional) the device of every rank */
    void *user;
    bool apart;     /* the plan is of a device with memory of its own */
    unsigned ahead; /* steps that may be queued before one is asked what it came to */
    unsigned steps;
    double loss_scale;    /* 0: 1 */
    bool scales;          /* the job's own scale instead, as it goes on */
    const float *nudge;   /* a whole line to add this often to the initial weights, or NULL; one */
    float nudge_by;       /* rank only */
    uint64_t poison_step; /* set one parameter to NaN before this step; UINT64_MAX never */
    uint32_t poison_tensor;
    struct ds_step_result result[16];
    float *first_grads, *params, *exp_avg; /* [elems] of the plan's flat lines */
    float *doubled; /* [kv_ranks][elems]: what each of those has of keys and values; 0: nothing */
    uint64_t elems;
    struct ds_plan_traffic traffic[DS_COMM_OP_COUNT]; /* of the steps of rank 0 */
    double eval;
    struct ds_plan plan; /* rank 0's; test_run_release() */
    int rc[TEST_MAX_WORLD];
    struct ds_error err[TEST_MAX_WORLD];
};

enum { TEST_RECORD = 256 };
struct test_meeting { /* of ranks on several hosts */
    pthread_barrier_t all;
    uint8_t record[TEST_MAX_WORLD][TEST_RECORD];
};

struct test_rank {
    struct test_run *run;
    unsigned rank;
    int shm_fd;
    struct test_meeting *meeting;
};

static inline int test_gather(void *user, const void *mine, size_t bytes, void *all,
                              struct ds_error *err)
{
    const struct test_rank *me = user;

    if (bytes > TEST_RECORD)
        return ds_fail(err, EIO, "a record of %zu bytes", bytes);
    memcpy(me->meeting->record[me->rank], mine, bytes);
    (void)pthread_barrier_wait(&me->meeting->all);
    for (unsigned rank = 0; rank < me->run->world; rank++)
        memcpy((uint8_t *)all + rank * bytes, me->meeting->record[rank], bytes);
    return 0;
}

/* Of an element of the model's tensor. */
static inline float test_initial(const float *copy, uint32_t tensor, uint64_t at)
{
    if (copy != NULL)
        return copy[at];
    return (float)((double)((tensor * 977 + at) * 2654435761u % 1000) / 1000.0 - 0.5) * 0.1f;
}

/* What a rank has of a tensor; padding is zero. */
static inline void test_init_tensor(const float *copy, uint32_t tensor,
                                    const struct ds_plan_cut *cut, struct ds_held held,
                                    float *params)
{
    for (uint64_t done = 0; done < held.count;) {
        uint64_t together, whole = ds_plan_cut_at(cut, held.first + done, &together);

        for (; together > 0 && done < held.count; together--, done++)
            params[held.at + done] =
                whole == DS_PLAN_PADDING ? 0.0f : test_initial(copy, tensor, whole++);
    }
}

static inline void test_init_weights(const struct test_run *run, const struct ds_plan *plan,
                                     float *params)
{
    struct test_tensors file;

    if (run->weights != NULL)
        test_tensors_open(&file, run->weights);
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        const struct ds_plan_cut cut = ds_plan_cut(plan, param->tensor);
        struct ds_held held = ds_plan_held_param(plan, DS_ARENA_PARAMS, i);
        float *copy = run->weights == NULL
                          ? NULL
                          : test_tensor(&file, "", param->param.name, cut.whole.elems);

        if (copy != NULL)
            test_add_one(plan->shape.arch, param->param.name, copy, cut.whole.elems);
        test_init_tensor(copy, param->tensor, &cut, held, params);
        free(copy);
    }
    for (uint64_t j = 0; run->nudge != NULL && j < plan->padded_elems; j++)
        params[j] += run->nudge_by * run->nudge[j];
    if (run->weights != NULL)
        test_tensors_close(&file);
}

/* Do ranks have parts of the layers, or of each, or some of the experts? */
static inline bool test_in_parts(const struct ds_plan *plan)
{
    return plan->pipeline_ranks > 1 || plan->tensor_ranks > 1 || plan->expert_ranks > 1;
}

/* The same of those, whose lines differ: to where the tensors lie one behind the other, as the model
 * has them.  Of what several hold alike that which is saved. */
static inline void test_collect_tensors(const struct ds_plan *plan, enum ds_arena_kind arena,
                                        float *whole, const float *line)
{
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_cut cut = ds_plan_cut(plan, plan->param[i].tensor);
        struct ds_held slice = ds_plan_slice_param(plan, arena, i);
        uint64_t before = 0, together;

        for (uint32_t k = 0; k < plan->param[i].tensor; k++)
            before += ds_plan_cut(plan, k).whole.elems;
        for (uint64_t j = 0; j < slice.count && !ds_plan_twin(plan, i); j++) {
            uint64_t at = ds_plan_cut_at(&cut, slice.first + j, &together);

            if (at != DS_PLAN_PADDING)
                whole[before + at] = line[slice.at + j];
        }
    }
}

/* What several ranks of a team have of parameters, each for itself. */
static inline void test_collect_doubled(const struct test_run *run, const struct ds_plan *plan,
                                        const float *params)
{
    float *mine = run->doubled + plan->kv_rank * run->elems;

    for (size_t i = 0; plan->kv_ranks > 1 && i < plan->params; i++) {
        const struct ds_plan_cut cut = ds_plan_cut(plan, plan->param[i].tensor);
        struct ds_held slice = ds_plan_slice_param(plan, DS_ARENA_PARAMS, i);
        uint64_t before = 0, together;

        for (uint32_t k = 0; k < plan->param[i].tensor; k++)
            before += ds_plan_cut(plan, k).whole.elems;
        for (uint64_t j = 0; j < slice.count && plan->tensor[plan->param[i].tensor].doubled > 1;
             j++)
            mine[before + ds_plan_cut_at(&cut, slice.first + j, &together)] = params[slice.at + j];
    }
}

/* This rank's slices of a line, to where they belong in the whole one. */
static inline void test_collect(const struct ds_plan *plan, enum ds_arena_kind arena, float *whole,
                                const float *line)
{
    if (test_in_parts(plan)) {
        test_collect_tensors(plan, arena, whole, line);
        return;
    }
    for (size_t i = 0; i < plan->buckets; i++) {
        struct ds_held slice = ds_plan_slice(plan, arena, i);

        memcpy(whole + plan->bucket[i].offset + slice.first, line + slice.at,
               slice.count * sizeof(*whole));
    }
}

/* The first state, wherever it is. */
static inline int test_collect_states(struct test_run *run, const struct ds_plan *plan,
                                      const struct ds_engine_lines *lines, struct ds_error *err)
{
    uint64_t elems = ds_plan_line_elems(plan, DS_ARENA_MOMENTS);
    float *line = lines->states != NULL ? calloc(elems, sizeof(*line)) : lines->state[0];
    int rc = 0;

    if (lines->states != NULL)
        rc = ds_states_read(lines->states, 0, line, elems, err);
    if (rc == 0 && line != NULL)
        test_collect(plan, DS_ARENA_MOMENTS, run->exp_avg, line);
    if (lines->states != NULL)
        free(line);
    return rc;
}

static inline void test_poison(const struct ds_plan *plan, uint32_t tensor, float *params)
{
    for (size_t i = 0; i < plan->params; i++) {
        struct ds_held held = ds_plan_held_param(plan, DS_ARENA_PARAMS, i);
        const struct ds_plan_cut cut = ds_plan_cut(plan, plan->param[i].tensor);
        uint64_t together;

        if (plan->param[i].tensor == tensor && held.count > 0 && held.first == 0 &&
            ds_plan_cut_at(&cut, 0, &together) == 0)
            params[held.at] = (float)NAN;
    }
}

/* Count what the steps have sent: after - before. */
static inline void test_traffic(struct test_run *run, const struct ds_engine *engine, bool after)
{
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++) {
        struct ds_comm_stats stats;

        ds_engine_traffic(engine, (enum ds_comm_op)op, &stats);
        run->traffic[op].calls = stats.calls - (after ? run->traffic[op].calls : 0);
        run->traffic[op].bytes = stats.bytes - (after ? run->traffic[op].bytes : 0);
    }
}

/* Of one rank: what its steps came to so far. */
struct test_progress {
    unsigned told, skipped;
    struct ds_scaler scaler;
};

/* Ask until at most `left` steps are pending. */
static inline int test_ask(struct test_run *run, unsigned rank, struct ds_engine *engine,
                           unsigned left, struct test_progress *so_far, struct ds_error *err)
{
    int rc = 0;

    while (rc == 0 && ds_engine_pending(engine) > left) {
        struct ds_step_result result = {0};

        rc = ds_engine_result(engine, &result, err);
        if (rank == 0)
            run->result[so_far->told] = result;
        so_far->told++;
        so_far->skipped += result.nonfinite > 0 || result.empty;
        if (rc == 0 && run->scales)
            rc = ds_scaler_update(&so_far->scaler, &run->job, result.nonfinite > 0, err);
    }
    return rc;
}

static inline int test_steps(struct test_run *run, unsigned rank, struct ds_engine *engine,
                             const struct ds_plan *plan, struct ds_error *err)
{
    struct test_progress so_far = {0};
    struct ds_data_set set = {.path = {.count = 1, .item = &run->tokens}, .weight = 1};
    struct ds_rows sets = {1, &set};
    const struct ds_data_args data_args = {.what = "data.train",
                                           .sets = &sets,
                                           .format = DS_DATA_AUTO,
                                           .order = DS_ORDER_SEQUENTIAL,
                                           .sequence = run->job.train.sequence,
                                           .vocab = run->job.model.shape.vocab,
                                           .seed = run->job.seed};
    struct ds_engine_lines lines = ds_engine_lines(engine);
    struct ds_data *data;
    struct ds_eval_result eval = {0};
    int rc = ds_data_open(&data, &data_args, err);

    ds_scaler_init(&so_far.scaler, &run->job);
    if (rank == 0)
        test_traffic(run, engine, false);
    for (unsigned i = 0; rc == 0 && i < run->steps; i++) {
        const struct ds_step_args args = {.data = data,
                                          .position = i * run->job.train.global_batch,
                                          .lr = ds_optim_lr(&run->job, i),
                                          .loss_scale = run->loss_scale,
                                          .scaler = run->scales ? &so_far.scaler : NULL,
                                          .update = i + 1 - so_far.skipped,
                                          .stop = i == 3 && rank == 1};

        if (i == run->poison_step) {
            rc = test_ask(run, rank, engine, 0, &so_far, err);
            if (rc == 0)
                rc = ds_engine_fetch(engine, err);
            test_poison(plan, run->poison_tensor, lines.params);
            if (rc == 0)
                rc = ds_engine_publish(engine, err);
            if (rc != 0)
                break;
        }
        rc = ds_engine_queue(engine, &args, err);
        if (rc == 0)
            rc = test_ask(run, rank, engine, run->ahead, &so_far, err);
        if (rc == 0 && i == 0 && lines.grads != NULL)
            test_collect(plan, DS_ARENA_GRADS, run->first_grads, lines.grads);
    }
    if (rc == 0)
        rc = test_ask(run, rank, engine, 0, &so_far, err);
    if (rc == 0)
        rc = ds_engine_settle(engine, err);
    if (rc == 0 && rank == 0) /* else something may be under way */
        test_traffic(run, engine, true);
    if (rc == 0)
        rc = ds_engine_eval(engine, data, 0, &eval, err);
    if (rank == 0)
        run->eval = eval.loss;
    ds_data_close(data);
    return rc;
}

static inline int test_rank_run(const struct test_rank *me, struct ds_plan *plan,
                                struct ds_comm *comm, struct ds_device *device,
                                struct ds_error *err)
{
    struct test_run *run = me->run;
    struct ds_engine_args args = {
        .plan = plan, .job = &run->job, .device = device, .comm = comm, .overlap = run->overlap};
    struct ds_engine *engine;
    struct ds_engine_lines lines;
    int rc =
        ds_plan_uses_host(plan) && ds_device_is_apart(device)
            ? ds_device_open(&args.host,
                             &(struct ds_device_args){.name = "cpu",
                                                      .threads = run->threads,
                                                      .scratch_bytes = ds_scratch_beside_bytes()},
                             err)
            : 0;

    if (rc == 0)
        rc = ds_engine_open(&engine, &args, err);
    if (rc != 0) {
        ds_device_close(args.host);
        return rc;
    }
    lines = ds_engine_lines(engine);
    test_init_weights(run, plan, lines.params);
    rc = ds_engine_publish(engine, err);
    if (rc == 0)
        rc = test_steps(run, me->rank, engine, plan, err);
    if (rc == 0)
        rc = ds_engine_fetch(engine, err);
    if (rc == 0) {
        test_collect(plan, DS_ARENA_PARAMS, run->params, lines.params);
        test_collect_doubled(run, plan, lines.params);
        rc = test_collect_states(run, plan, &lines, err);
    }
    if (rc != 0)
        ds_comm_abort(comm);
    ds_engine_close(engine);
    ds_device_close(args.host);
    return rc;
}

static inline int test_plan(struct ds_plan *plan, const struct test_run *run, unsigned rank,
                            struct ds_error *err)
{
    return ds_plan_build(plan,
                         &(struct ds_plan_args){.job = &run->job,
                                                .world = run->world,
                                                .rank = rank,
                                                .threads = run->threads,
                                                .local_world = run->local_world,
                                                .apart = run->apart,
                                                .common = true},
                         err);
}

static inline unsigned test_local_world(const struct test_run *run)
{
    return run->local_world > 0 ? run->local_world : run->world;
}

static inline int test_open_comm(const struct test_rank *me, const struct ds_plan *plan,
                                 struct ds_comm **comm, struct ds_error *err)
{
    static const uint8_t key[DS_COMM_KEY_BYTES] = "the key of a job in one process";
    unsigned local = test_local_world(me->run);
    const struct ds_comm_meet meet = {.host = "here",
                                      .address = "127.0.0.1",
                                      .node = me->rank / local,
                                      .key = key,
                                      .timeout_ms = 60000,
                                      .gather = test_gather,
                                      .user = (void *)(uintptr_t)me};
    const struct ds_comm_args args = {.backend = "host",
                                      .rank = me->rank,
                                      .world = me->run->world,
                                      .local_rank = me->rank % local,
                                      .local_world = local,
                                      .meet = local < me->run->world ? &meet : NULL,
                                      .shm_fd = me->shm_fd,
                                      .arena_bytes = plan->shared_bytes,
                                      .common_bytes = plan->common_bytes,
                                      .beside_bytes = plan->beside_bytes,
                                      .timeout_ms = 60000};

    return ds_comm_open(comm, &args, err);
}

static inline void *test_rank_main(void *arg)
{
    const struct test_rank *me = arg;
    struct test_run *run = me->run;
    struct ds_error *err = &run->err[me->rank];
    struct ds_plan plan;
    struct ds_comm *comm = NULL;
    struct ds_device *device = NULL;
    int rc = test_plan(&plan, run, me->rank, err);

    if (rc == 0)
        rc = test_open_comm(me, &plan, &comm, err);
    if (rc == 0 && run->backend != NULL)
        comm->backend = run->backend;
    if (rc == 0)
        rc = ds_device_open(
            &device,
            &(struct ds_device_args){.name = "cpu",
                                     .threads = run->threads,
                                     .scratch_bytes = run->apart ? 1 << 24 : plan.scratch_bytes},
            err);
    if (rc == 0 && run->opened != NULL)
        run->opened(run->user, device);
    if (rc == 0)
        rc = test_rank_run(me, &plan, comm, device, err);
    ds_device_close(device);
    ds_comm_close(comm);
    if (me->rank == 0)
        run->plan = plan;
    else
        ds_plan_release(&plan);
    run->rc[me->rank] = rc;
    return NULL;
}

static inline void test_run(struct test_run *run)
{
    struct test_rank ranks[TEST_MAX_WORLD];
    pthread_t thread[TEST_MAX_WORLD];
    struct test_meeting meeting;
    unsigned local = test_local_world(run);
    int fd[TEST_MAX_WORLD]; /* of every host */

    for (unsigned i = 0; i < TEST_MAX_WORLD; i++)
        fd[i] = run->world > 1 ? memfd_create("test", MFD_CLOEXEC) : -1;
    cr_assert_eq(pthread_barrier_init(&meeting.all, NULL, run->world), 0);
    cr_assert_eq(test_plan(&run->plan, run, 0, NULL), 0);
    run->elems =
        test_in_parts(&run->plan) ? ds_model_elems(&run->plan.model) : run->plan.padded_elems;
    run->doubled = calloc(run->plan.kv_ranks * run->elems, sizeof(float));
    ds_plan_release(&run->plan);
    run->first_grads = calloc(run->elems, sizeof(float));
    run->params = calloc(run->elems, sizeof(float));
    run->exp_avg = calloc(run->elems, sizeof(float));
    cr_assert(run->first_grads != NULL && run->params != NULL && run->exp_avg != NULL &&
              run->doubled != NULL);
    for (unsigned i = 0; i < run->world; i++) {
        ranks[i] =
            (struct test_rank){.run = run, .rank = i, .shm_fd = fd[i / local], .meeting = &meeting};
        cr_assert_eq(pthread_create(&thread[i], NULL, test_rank_main, &ranks[i]), 0);
    }
    for (unsigned i = 0; i < run->world; i++)
        cr_assert_eq(pthread_join(thread[i], NULL), 0);
    for (unsigned i = 0; i < TEST_MAX_WORLD; i++)
        if (fd[i] >= 0)
            (void)close(fd[i]);
    (void)pthread_barrier_destroy(&meeting.all);
}

/* A run that must succeed. */
static inline void test_run_ok(struct test_run *run)
{
    test_run(run);
    for (unsigned i = 0; i < run->world; i++)
        cr_assert_eq(run->rc[i], 0, "rank %u: %s", i, run->err[i].text);
}

static inline void test_run_release(struct test_run *run)
{
    ds_plan_release(&run->plan);
    free(run->first_grads);
    free(run->params);
    free(run->exp_avg);
    free(run->doubled);
}

/* The run of a reference case: 6 steps of 8 sequences. */
static inline struct test_run test_reference_run(unsigned i, unsigned world, uint64_t micro_batch)
{
    struct test_case ref = test_reference(i);
    static char weights[TEST_CASES][64], tokens[TEST_CASES][64];
    struct test_run run = {.world = world, .threads = 1, .steps = 6, .poison_step = UINT64_MAX};

    (void)snprintf(weights[i], sizeof(weights[i]), "%s/model.safetensors", ref.folder);
    (void)snprintf(tokens[i], sizeof(tokens[i]), "%s/tokens.safetensors", ref.folder);
    run.job = test_job(ref.shape, 8, micro_batch, ref.sequence);
    run.job.data.documents = ref.documents ? DS_DOCUMENTS_APART : DS_DOCUMENTS_TOGETHER;
    run.job.data.separator = 5;
    run.weights = weights[i];
    run.tokens = tokens[i];
    return run;
}

/* Every collective of the run, as often and as large as planned; a rank alone sends nothing. */
static inline void test_traffic_planned(const struct test_run *run, const char *what)
{
    for (unsigned op = 0; run->world > 1 && op < DS_COMM_OP_COUNT; op++) {
        cr_assert_eq(run->traffic[op].calls, run->steps * run->plan.traffic[op].calls,
                     "%s: %llu calls of %s", what, (unsigned long long)run->traffic[op].calls,
                     ds_comm_op_name(op));
        cr_assert_eq(run->traffic[op].bytes, run->steps * run->plan.traffic[op].bytes,
                     "%s: %llu bytes of %s", what, (unsigned long long)run->traffic[op].bytes,
                     ds_comm_op_name(op));
    }
}

/* Do both have the same bits in every loss and norm, the evaluation, all weights and moments? */
static inline bool test_same(const struct test_run *a, const struct test_run *b)
{
    for (unsigned i = 0; i < a->steps; i++)
        if (memcmp(&a->result[i].loss, &b->result[i].loss, sizeof(double)) != 0 ||
            memcmp(&a->result[i].grad_norm, &b->result[i].grad_norm, sizeof(double)) != 0)
            return false;
    return a->elems == b->elems && memcmp(&a->eval, &b->eval, sizeof(double)) == 0 &&
           memcmp(a->params, b->params, a->elems * sizeof(float)) == 0 &&
           memcmp(a->exp_avg, b->exp_avg, a->elems * sizeof(float)) == 0;
}

#endif
