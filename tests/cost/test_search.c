/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_search - the layouts of a job: all of them, in order, and none that is impossible.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/cost/depth.h"
#include "runtime/cost/search.h"
#include "tests/cost/fixture.h"

#define LIMIT ((uint64_t)3 << 30)

static size_t search_on(double pcie, uint64_t available, uint64_t global, enum ds_optim_kind optim,
                        struct ds_arena *arena, struct ds_candidate **found, int expected)
{
    struct ds_cluster cluster = test_cluster(2, 4);
    struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), global, 1, 1024);
    const struct ds_search_args args = {.job = &job,
                                        .cluster = &cluster,
                                        .threads = 1,
                                        .available_bytes = available,
                                        .arena = arena};
    struct ds_error err = {0};
    size_t count = 0;

    cluster.pcie.bandwidth = pcie;
    cluster.main.update = 40e9;
    job.precision.compute = DS_COMPUTE_BF16;
    job.optim.kind = optim;
    cr_assert_eq(ds_search(&args, found, &count, &err), expected, "%s", err.text);
    ds_cluster_release(&cluster);
    return count;
}

static size_t search(uint64_t available, uint64_t global, enum ds_optim_kind optim,
                     struct ds_arena *arena, struct ds_candidate **found, int expected)
{
    return search_on(0.0, available, global, optim, arena, found, expected);
}

/* Those that do not fit are last, the smallest first. */
Test(search, has_every_layout_once_the_fastest_that_fits_first)
{
    struct ds_candidate *found = NULL;
    struct ds_arena arena;
    size_t count, fitting = 0;

    ds_arena_init(&arena);
    count = search(LIMIT, 64, DS_OPTIM_ADAMW, &arena, &found, 0);
    /* 8 ranks, 8 sequences each: micro-batches 1 2 4 8; stage 0, and 1 to 3 with 2 groups; 3 ways
     * to keep activations; 2 places of the optimizer's state. */
    cr_assert_eq(count, 4 * 7 * 3 * 2, "%zu", count);
    for (size_t i = 0; i < count; i++) {
        fitting += found[i].fits;
        /* bytes are a peak: pages of peers, which count to nobody's share, are in them. */
        cr_assert(found[i].fits || found[i].bytes > LIMIT, "%zu", i);
        for (size_t j = 0; j < i; j++)
            cr_assert(
                found[i].micro_batch != found[j].micro_batch || found[i].stage != found[j].stage ||
                found[i].shard_group != found[j].shard_group ||
                found[i].recompute != found[j].recompute || found[i].offload != found[j].offload);
        if (i == 0 || found[i].fits != found[i - 1].fits)
            continue;
        if (!found[i].fits) {
            cr_assert_geq(found[i].bytes, found[i - 1].bytes, "%zu", i);
            continue;
        }
        cr_assert_leq((float)found[i].tokens_per_s, (float)found[i - 1].tokens_per_s, "%zu", i);
        if ((float)found[i].tokens_per_s == (float)found[i - 1].tokens_per_s)
            cr_assert_geq(found[i].bytes, found[i - 1].bytes, "%zu: of two alike the smaller", i);
    }
    cr_assert(fitting > 0 && fitting < count, "%zu of %zu fit, %zu to %zu bytes", fitting, count,
              (size_t)found[0].bytes, (size_t)found[count - 1].bytes);
    cr_assert(found[0].fits);
    ds_arena_release(&arena);
}

/* What works on whole tensors is offloaded where the device computes in the host's memory. */
Test(search, offloads_whole_tensors_to_the_memory_of_the_device_only)
{
    static const enum ds_optim_kind optim[] = {DS_OPTIM_LAMB, DS_OPTIM_MUON};

    for (unsigned i = 0; i < 4; i++) {
        struct ds_candidate *found = NULL;
        struct ds_arena arena;
        size_t count, away = 0;

        ds_arena_init(&arena);
        count = search_on(i / 2 == 0 ? 0.0 : 50e9, LIMIT, 64, optim[i % 2], &arena, &found, 0);
        cr_assert_eq(count, 4 * 7 * 3 * (i / 2 == 0 ? 2 : 1), "%zu", count);
        for (size_t j = 0; j < count; j++)
            away += found[j].offload == DS_OFFLOAD_CPU;
        cr_assert_eq(away, i / 2 == 0 ? count / 2 : 0);
        ds_arena_release(&arena);
    }
}

/* What stage 3 gathers ahead is settled as a run settles it, and only where the job leaves it open. */
Test(search, settles_how_far_stage_3_gathers_ahead)
{
    for (uint64_t given = 0; given < 2; given++) {
        struct ds_cluster cluster = test_cluster(2, 4);
        struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 64, 1, 1024);
        struct ds_candidate *found = NULL;
        struct ds_arena arena;
        struct ds_search_args args = {.job = &job, .cluster = &cluster, .threads = 1};
        size_t count = 0, deep = 0;

        ds_arena_init(&arena);
        args.arena = &arena;
        cluster.network.bandwidth = 5e9; /* slow enough that more than one bucket ahead helps */
        job.zero.prefetch = given;
        cr_assert_eq(ds_search(&args, &found, &count, NULL), 0);
        for (size_t i = 0; i < count; i++) {
            struct ds_job one = job;
            struct ds_candidate open = found[i];
            struct ds_depth_args depth_args = {.plan = {.world = 8, .threads = 1, .local_world = 4},
                                               .ranks = 1,
                                               .available_bytes = UINT64_MAX,
                                               .cluster = &cluster};
            struct ds_depth depth;

            if (found[i].stage < 3 || given > 0) {
                cr_assert_eq(found[i].prefetch, 0);
                continue;
            }
            open.prefetch = 0;
            one = ds_candidate_job(&job, &open);
            cr_assert_eq(ds_depth_settle(&one, &depth_args, &depth, NULL), 0);
            cr_assert(found[i].prefetch > 0 && found[i].prefetch == depth.buckets);
            cr_assert_eq(found[i].bytes, depth.bytes[depth.buckets]);
            cr_assert_eq(found[i].step_s, depth.step_s[depth.buckets]);
            deep += depth.buckets > 1;
        }
        cr_assert(given > 0 || deep > 0);
        ds_arena_release(&arena);
        ds_cluster_release(&cluster);
    }
}

/* A middle way is one: more memory than full, less than none, and as fast as the work it repeats. */
Test(search, selective_lies_between_none_and_full)
{
    struct ds_candidate *found = NULL, *kept[3] = {NULL};
    struct ds_arena arena;
    size_t count;

    ds_arena_init(&arena);
    count = search(LIMIT, 64, DS_OPTIM_ADAMW, &arena, &found, 0);
    for (size_t i = 0; i < count; i++)
        if (found[i].micro_batch == 8 && found[i].stage == 0 && found[i].offload == DS_OFFLOAD_NONE)
            kept[found[i].recompute] = &found[i];
    for (unsigned i = 0; i < 3; i++)
        cr_assert_not_null(kept[i]);
    cr_assert(kept[0]->bytes > kept[1]->bytes && kept[1]->bytes > kept[2]->bytes);
    cr_assert(kept[0]->step_s < kept[1]->step_s && kept[1]->step_s < kept[2]->step_s);
    ds_arena_release(&arena);
}

Test(search, says_why_nothing_is_possible)
{
    struct ds_cluster cluster = test_cluster(2, 4);
    struct ds_job job = test_job(test_gpt2(2, 48, 3, 97, 32), 8, 1, 32);
    struct ds_candidate *found = NULL;
    struct ds_arena arena;
    struct ds_search_args args = {.job = &job, .cluster = &cluster, .threads = 1, .arena = &arena};
    struct ds_error err = {0};
    size_t count = 0;

    ds_arena_init(&arena);
    (void)search(0, 12, DS_OPTIM_ADAMW, &arena, &found, -EINVAL);
    job.train.sequence = 33; /* no plan can be built, whatever the layout */
    cr_assert_eq(ds_search(&args, &found, &count, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "no layout is possible: 'train.sequence' 33"), "%s",
                       err.text);
    ds_arena_release(&arena);
    ds_cluster_release(&cluster);
}

/* Ranks that share sequences or layers have a batch together: 8 ranks in 2 x 2, two ranks of data.
 * Stage 3 is none of a pipeline's. */
Test(search, divides_the_batch_among_ranks_of_data)
{
    struct ds_cluster cluster = test_cluster(2, 4);
    struct ds_job job = test_job(test_gpt2(4, 64, 4, 97, 32), 8, 1, 32);
    const struct ds_search_args args = {
        .job = &job, .cluster = &cluster, .threads = 1, .arena = &(struct ds_arena){0}};
    struct ds_candidate *found = NULL;
    struct ds_error err = {0};
    uint64_t most = 0;
    size_t count = 0;

    ds_arena_init(args.arena);
    job.parallel.sequence = job.parallel.pipeline = 2;
    cr_assert_eq(ds_search(&args, &found, &count, &err), 0, "%s", err.text);
    for (size_t i = 0; i < count; i++) {
        cr_assert_lt(found[i].stage, 3);
        most = found[i].micro_batch > most ? found[i].micro_batch : most;
    }
    cr_assert_eq(most, 4);
    job.train.global_batch = 3;
    cr_assert_eq(ds_search(&args, &found, &count, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "3 is not divisible by 2 ranks of data"), "%s", err.text);
    ds_arena_release(args.arena);
    ds_cluster_release(&cluster);
}

Test(search, prints_the_overrides_of_a_candidate)
{
    struct ds_job job = test_job(test_gpt2(2, 48, 3, 97, 32), 8, 2, 32);
    struct ds_candidate candidate = {.micro_batch = 4,
                                     .stage = 2,
                                     .shard_group = DS_SHARD_NODE,
                                     .recompute = DS_RECOMPUTE_SELECTIVE,
                                     .offload = DS_OFFLOAD_CPU,
                                     .tensor = 1,
                                     .sequence = 1,
                                     .pipeline = 1};
    struct ds_buf out;

    ds_buf_init(&out, 4096);
    ds_candidate_print(&job, &candidate, &out);
    cr_assert_str_eq(ds_buf_text(&out), "train.micro_batch=4 zero.stage=2 zero.shard_group=node "
                                        "activation.recompute=selective offload.optim=cpu");
    ds_buf_release(&out);
    ds_buf_init(&out, 4096);
    candidate.stage = 3;
    candidate.prefetch = 2;
    ds_candidate_print(&job, &candidate, &out);
    cr_assert_not_null(strstr(ds_buf_text(&out), "zero.stage=3 "));
    cr_assert_not_null(strstr(ds_buf_text(&out), " offload.optim=cpu zero.prefetch=2"));
    ds_buf_release(&out);
    ds_buf_init(&out, 4096);
    candidate.tensor = 4;
    candidate.pipeline = 2;
    ds_candidate_print(&job, &candidate, &out);
    cr_assert_not_null(strstr(ds_buf_text(&out), " parallel.tensor=4 parallel.pipeline=2 zero.p"));
    cr_assert_null(strstr(ds_buf_text(&out), "parallel.sequence"));
    ds_buf_release(&out);
}

/* Where the job leaves it open, ranks of a host share layers and sequences in every number that
 * divides, and all of them are parts of a pipeline; what the job says stays. */
Test(search, tries_who_shares_where_that_is_open)
{
    static const struct {
        bool tensor, sequence, pipeline;
        size_t ways; /* of 2 hosts x 4 ranks */
    } table[] = {{false, false, false, 1},
                 {true, false, false, 3}, /* 1 2 4 */
                 {true, true, false, 6},  /* 1 2 4 of layers x those of the rest */
                 {false, false, true, 3}, /* 1 2 4: the model has 4 layers */
                 {true, true, true, 15}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_cluster cluster = test_cluster(2, 4);
        struct ds_job job = test_job(test_gpt2(4, 64, 4, 97, 32), 8, 1, 32);
        struct ds_arena arena;
        const struct ds_search_args args = {.job = &job,
                                            .cluster = &cluster,
                                            .threads = 1,
                                            .arena = &arena,
                                            .tensor = table[i].tensor,
                                            .sequence = table[i].sequence,
                                            .pipeline = table[i].pipeline};
        struct ds_candidate *found = NULL;
        size_t count = 0, ways = 0, alone = 0;

        ds_arena_init(&arena);
        cr_assert_eq(ds_search(&args, &found, &count, NULL), 0);
        for (size_t k = 0; k < count; k++) {
            const struct ds_candidate *c = &found[k];
            size_t j = 0;

            while (found[j].tensor != c->tensor || found[j].sequence != c->sequence ||
                   found[j].pipeline != c->pipeline)
                j++;
            ways += j == k;
            alone += c->tensor * c->sequence * c->pipeline == 1;
            cr_expect(c->tensor * c->sequence <= 4 &&
                      8 % (c->tensor * c->sequence * c->pipeline) == 0);
            cr_expect(table[i].tensor || c->tensor == 1);
            cr_expect(table[i].sequence || c->sequence == 1);
            cr_expect(table[i].pipeline || c->pipeline == 1);
        }
        cr_expect_eq(ways, table[i].ways, "case %zu: %zu ways", i, ways);
        cr_expect_eq(alone, 1 * 7 * 3 * 2, "case %zu: %zu layouts of nobody who shares", i, alone);
        ds_arena_release(&arena);
        ds_cluster_release(&cluster);
    }
}
