/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_team - ranks that share layers: every element of the model is one rank's, or all of a team
 * have it and one of them counts it; groups of ranks fit into each other; all ranks have one hash.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

enum { MAX_WORLD = 24 };

struct mesh {
    bool gpt2, tied;
    unsigned tensor, sequence, data, pipeline;
    uint64_t stage, vocab;
    bool node; /* zero.shard_group */
    unsigned hosts;
    unsigned experts; /* 0: another family */
    unsigned divide;  /* ranks that divide them; 0: one */
    unsigned kv;      /* heads of keys and values; 0: four */
};

struct built {
    struct ds_plan plan[MAX_WORLD];
    unsigned world;
};

static struct ds_job job_of(const struct mesh *mesh)
{
    const unsigned kv = mesh->kv > 0 ? mesh->kv : 4;
    struct ds_model_shape shape = mesh->gpt2 ? test_gpt2(3, 48, 12, mesh->vocab, 16)
                                             : test_qwen2(3, 48, 12, kv, 24, mesh->vocab, 16);
    struct ds_job job;

    if (mesh->experts)
        shape = test_mixtral(3, 48, 12, kv, 24, mesh->vocab, 16, mesh->experts, 2);
    shape.tie_embeddings = mesh->tied;
    job = test_job(shape, 4 * mesh->data, 1, 16);
    job.parallel.tensor = mesh->tensor;
    job.parallel.sequence = mesh->sequence;
    job.parallel.pipeline = mesh->pipeline;
    job.parallel.expert = mesh->divide > 0 ? mesh->divide : 1;
    job.zero.stage = mesh->stage;
    job.zero.bucket_mb = 1;
    job.zero.shard_group = mesh->node ? DS_SHARD_NODE : DS_SHARD_ALL;
    return job;
}

/* Adapters of all matrices that are not of experts. */
static struct ds_lora adapters_of(const struct mesh *mesh, unsigned rank)
{
    const unsigned heads = 1U << DS_ADAPTED_QKV | 1U << DS_ADAPTED_PROJ;
    struct ds_lora lora = {.rank = rank, .alpha = 1.0, .targets = (1U << DS_ADAPTED_COUNT) - 1};

    if (mesh->gpt2)
        lora.targets = heads | 1U << DS_ADAPTED_FC | 1U << DS_ADAPTED_DOWN;
    else if (mesh->experts > 0)
        lora.targets = heads | 1U << DS_ADAPTED_K | 1U << DS_ADAPTED_V;
    return lora;
}

/* With adapters of this rank, or none. */
static void build(struct built *built, const struct mesh *mesh, unsigned rank_of_adapters)
{
    struct ds_job job = job_of(mesh);
    struct ds_error err = {0};

    if (rank_of_adapters > 0)
        job.model.shape.lora = adapters_of(mesh, rank_of_adapters);
    built->world = mesh->tensor * mesh->sequence * mesh->data * mesh->pipeline;
    cr_assert_leq(built->world, MAX_WORLD);
    for (unsigned rank = 0; rank < built->world; rank++) {
        const struct ds_plan_args args = {.job = &job,
                                          .world = built->world,
                                          .rank = rank,
                                          .threads = 1,
                                          .local_world = built->world / mesh->hosts,
                                          .common = true};

        cr_assert_eq(ds_plan_build(&built->plan[rank], &args, &err), 0, "%s", err.text);
    }
}

static void release(struct built *built)
{
    for (unsigned rank = 0; rank < built->world; rank++)
        ds_plan_release(&built->plan[rank]);
}

/* --- elements --------------------------------------------------------------------------------- */

/* Add to seen[] what `plan` counts of a tensor: its own slice, element by element. */
static void see(const struct ds_plan *plan, size_t param, unsigned char *seen, uint64_t elems)
{
    const struct ds_plan_param *of = &plan->param[param];
    const struct ds_plan_cut cut = ds_plan_cut(plan, of->tensor);
    struct ds_held slice = ds_plan_slice_param(plan, DS_ARENA_PARAMS, param);
    uint64_t together;

    cr_assert_eq(cut.whole.elems, elems);
    for (uint64_t at = slice.first; at < slice.first + slice.count; at++) {
        uint64_t whole = ds_plan_cut_at(&cut, at, &together), next, more;

        cr_assert_gt(together, 0);
        if (whole == DS_PLAN_PADDING)
            continue;
        cr_assert_lt(whole, elems);
        seen[whole]++;
        next = together > 1 ? ds_plan_cut_at(&cut, at + 1, &more) : whole + 1;
        cr_assert_eq(next, whole + 1, "%s: element %llu", cut.whole.name, (unsigned long long)at);
    }
}

static void check_elements(const struct built *built, const char *text)
{
    const struct ds_plan *any = &built->plan[0];

    for (size_t i = 0; i < any->tensors; i++) {
        struct ds_param whole;
        unsigned char *seen;

        if (any->tensor[i].frozen)
            continue;
        ds_model_param(&any->model, i, &whole);
        seen = calloc(whole.elems, 1);
        cr_assert_not_null(seen);
        for (unsigned rank = 0; rank < built->world; rank++) {
            const struct ds_plan *plan = &built->plan[rank];

            for (size_t k = 0; k < plan->params; k++)
                if (plan->param[k].tensor == i && !ds_plan_twin(plan, k))
                    see(plan, k, seen, whole.elems);
        }
        for (uint64_t at = 0; at < whole.elems; at++)
            cr_assert_eq(seen[at], 1, "%s: %s, element %llu is counted %u times", text, whole.name,
                         (unsigned long long)at, seen[at]);
        free(seen);
    }
}

/* --- groups ----------------------------------------------------------------------------------- */

typedef struct ds_comm_group (*group_of)(const struct ds_plan *plan);

static struct ds_comm_group even_pair(const struct ds_plan *plan)
{
    return ds_plan_pair_group(plan, 0);
}

static struct ds_comm_group odd_pair(const struct ds_plan *plan)
{
    return ds_plan_pair_group(plan, 1);
}

static struct ds_comm_group holders(const struct ds_plan *plan)
{
    return ds_plan_holders_group(plan, false);
}

static struct ds_comm_group inside(const struct ds_plan *plan)
{
    return ds_plan_inside_group(plan, false);
}

static struct ds_comm_group across(const struct ds_plan *plan)
{
    return ds_plan_across_group(plan, false);
}

static struct ds_comm_group of_experts(const struct ds_plan *plan)
{
    return ds_plan_holders_group(plan, true);
}

static struct ds_comm_group inside_of_experts(const struct ds_plan *plan)
{
    return ds_plan_inside_group(plan, true);
}

static struct ds_comm_group across_of_experts(const struct ds_plan *plan)
{
    return ds_plan_across_group(plan, true);
}

/* Every rank is in the group that it names, and all of that name the same. */
static void check_group(const struct built *built, group_of of, unsigned count, const char *text)
{
    for (unsigned rank = 0; rank < built->world; rank++) {
        struct ds_comm_group mine = of(&built->plan[rank]);
        bool inside = false;

        cr_expect(count == 0 || mine.count == count, "%s: %u ranks", text, mine.count);
        for (unsigned i = 0; i < mine.count; i++) {
            unsigned other = mine.first + i * mine.stride;
            struct ds_comm_group its;

            cr_assert_lt(other, built->world, "%s", text);
            its = of(&built->plan[other]);
            cr_expect(its.first == mine.first && its.count == mine.count, "%s: rank %u", text,
                      rank);
            cr_expect(mine.count == 1 || its.stride == mine.stride, "%s: rank %u", text, rank);
            inside |= other == rank;
        }
        cr_expect(inside, "%s: rank %u", text, rank);
    }
}

/* Who has the same experts has them at the same places; who divides them has the others. */
static void check_experts(const struct built *built, const struct mesh *mesh)
{
    const unsigned divide = mesh->divide > 0 ? mesh->divide : 1;

    check_group(built, of_experts, mesh->sequence * mesh->data / divide, "holders of experts");
    check_group(built, inside_of_experts, 0, "inside, of experts");
    check_group(built, across_of_experts, 0, "across, of experts");
    check_group(built, ds_plan_meet_group, divide, "who divides experts");
    for (unsigned rank = 0; rank < built->world; rank++) {
        const struct ds_plan *plan = &built->plan[rank];
        const struct ds_comm_group same = of_experts(plan), meet = ds_plan_meet_group(plan);
        const struct ds_comm_group in = inside_of_experts(plan), on = across_of_experts(plan);

        cr_expect_eq(in.count * on.count, same.count);
        for (unsigned i = 0; i < same.count; i++) {
            const struct ds_plan *mate = &built->plan[same.first + i * same.stride];

            cr_assert_eq(mate->params, plan->params);
            for (size_t k = 0; k < plan->params; k++)
                cr_expect(mate->param[k].tensor == plan->param[k].tensor &&
                          mate->param[k].offset == plan->param[k].offset);
        }
        for (unsigned i = 0; i < meet.count; i++) {
            const struct ds_plan *other = &built->plan[meet.first + i];

            if (mesh->tensor == 1)
                cr_expect_eq(other->expert_rank, i);
        }
    }
}

static void check_groups(const struct built *built, const struct mesh *mesh)
{
    const struct ds_plan *any = &built->plan[0];

    check_group(built, ds_plan_team_group, mesh->tensor, "team");
    check_group(built, ds_plan_kv_group, any->kv_ranks, "keys and values");
    check_group(built, ds_plan_part_group, mesh->tensor * mesh->sequence * mesh->data, "part");
    check_group(built, holders, mesh->sequence * mesh->data, "holders");
    check_group(built, ds_plan_sequence_group, mesh->sequence, "sequence");
    check_group(built, inside, any->shards, "inside");
    check_group(built, across, any->replicas, "across");
    check_group(built, ds_plan_tie_group, 0, "tie");
    check_group(built, even_pair, 0, "even pair");
    check_group(built, odd_pair, 0, "odd pair");
    cr_expect(!mesh->node || mesh->stage == 0 || any->shards == any->holders / mesh->hosts);
    for (unsigned rank = 0; rank < built->world; rank++) {
        const struct ds_plan *plan = &built->plan[rank];
        struct ds_comm_group team = ds_plan_team_group(plan);

        cr_expect_eq(plan->hash, any->hash, "rank %u", rank);
        cr_expect_eq(plan->shared_bytes, any->shared_bytes, "rank %u", rank);
        for (unsigned i = 0; i < team.count; i++) { /* the same data, and the same layers */
            const struct ds_plan *mate = &built->plan[team.first + i];

            cr_expect_eq(ds_plan_data_rank(mate), ds_plan_data_rank(plan));
            cr_expect_eq(mate->sequence_rank, plan->sequence_rank);
            cr_expect_eq(mate->first_block, plan->first_block);
            cr_expect_eq(ds_plan_total_bytes(mate), ds_plan_total_bytes(plan));
        }
    }
}

static void check(const struct mesh *mesh, unsigned rank_of_adapters)
{
    struct built built;
    char text[120];

    (void)snprintf(text, sizeof(text),
                   "%s%s, %u x %u x %u x %u, stage %u, vocabulary %u, adapters of %u",
                   mesh->gpt2 ? "gpt2" : "llama", mesh->tied ? " tied" : "", mesh->pipeline,
                   mesh->data, mesh->sequence, mesh->tensor, (unsigned)mesh->stage,
                   (unsigned)mesh->vocab, rank_of_adapters);
    build(&built, mesh, rank_of_adapters);
    check_elements(&built, text);
    check_groups(&built, mesh);
    check_experts(&built, mesh);
    release(&built);
}

Test(team, every_element_is_somebodys)
{
    static const struct mesh table[] = {
        {true, true, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 0},
        {true, true, 4, 1, 1, 1, 0, 97, false, 1, 0, 0, 0},
        {true, true, 2, 1, 3, 1, 1, 96, false, 1, 0, 0, 0},
        {true, true, 3, 1, 2, 1, 0, 50, false, 1, 0, 0, 0},
        {false, false, 4, 1, 1, 1, 0, 97, false, 1, 0, 0, 0},
        {false, false, 2, 2, 2, 1, 2, 97, false, 1, 0, 0, 0},
        {false, true, 2, 1, 2, 1, 3, 97, false, 1, 0, 0, 0},
        {false, true, 2, 1, 2, 3, 2, 33, false, 1, 0, 0, 0},
        {true, true, 2, 2, 1, 2, 1, 97, false, 1, 0, 0, 0},
        {true, true, 2, 1, 4, 1, 2, 97, true, 2, 0, 0, 0},
        {false, false, 4, 1, 4, 1, 3, 97, true, 2, 0, 0, 0},
        {true, true, 3, 2, 2, 2, 2, 130, false, 2, 0, 0, 0},
        {false, false, 2, 1, 2, 2, 2, 97, false, 1, 3, 0, 0},
        {false, true, 4, 1, 1, 1, 0, 97, false, 1, 2, 0, 0},
        {false, false, 1, 1, 2, 1, 0, 97, false, 1, 4, 2, 0},
        {false, false, 1, 1, 4, 1, 3, 97, false, 1, 4, 4, 0},
        {false, true, 1, 1, 4, 1, 2, 97, true, 2, 6, 2, 0},
        {false, false, 1, 1, 4, 1, 1, 97, true, 2, 8, 4, 0},
        {false, true, 2, 1, 4, 2, 2, 97, false, 1, 4, 2, 0},
        {false, false, 1, 2, 2, 1, 3, 97, false, 1, 4, 2, 0},
        {false, false, 2, 2, 2, 1, 1, 97, true, 2, 4, 4, 0},
        {false, true, 1, 1, 6, 2, 2, 97, false, 1, 9, 3, 0},
        {false, true, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 1},
        {false, false, 4, 1, 2, 1, 2, 97, true, 2, 0, 0, 1},
        {false, true, 4, 1, 2, 2, 1, 97, false, 1, 0, 0, 2},
        {false, false, 12, 1, 2, 1, 3, 150, true, 2, 0, 0, 4},
        {false, true, 6, 2, 2, 1, 2, 97, false, 1, 0, 0, 3},
        {false, true, 2, 2, 2, 2, 2, 97, false, 1, 4, 2, 1},
    };

    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        check(&table[i], 0);
        check(&table[i], 1 + i % 3);
    }
}

/* --- what it is ------------------------------------------------------------------------------- */

/* Of two ranks a layer's matrices are halves, norms whole. */
Test(team, parts_are_those_of_a_narrower_model)
{
    const struct mesh mesh = {true, true, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 0};
    const uint64_t hidden = 48, ids = 56; /* 49, in eights */
    uint64_t matrices = 3 * (4 + 8) * hidden * hidden / 2 + ids * hidden;
    uint64_t vectors = 3 * (3 + 4) * hidden / 2, alike = (16 + 3 * 6 + 2) * hidden, elems = 0;
    struct built built;

    build(&built, &mesh, 0);
    for (unsigned rank = 0; rank < 2; rank++) {
        const struct ds_plan *plan = &built.plan[rank];
        const struct ds_bucket *last = &plan->bucket[plan->buckets - 1];

        elems = 0;
        for (size_t i = 0; i + 1 < plan->buckets; i++)
            elems += plan->bucket[i].elems;
        cr_expect_eq(elems, matrices + vectors);
        cr_expect(last->replicated && last->elems == alike && last->twin == (rank == 1));
        cr_expect_eq(ds_plan_ids(plan).first, rank * ids);
        cr_expect_eq(ds_plan_ids(plan).count, rank == 0 ? ids : 97 - ids);
    }
    release(&built);
}

/* Each head of keys and values is on three neighbours, which are one group, and nobody else's. */
Test(team, keys_and_values_are_those_of_the_query_heads)
{
    const struct mesh mesh = {false, true, 6, 1, 1, 1, 0, 97, false, 1, 0, 0, 2};
    const struct mesh fewer = {false, true, 2, 2, 1, 1, 0, 97, false, 1, 0, 0, 1};
    struct built built;

    build(&built, &mesh, 0);
    for (unsigned rank = 0; rank < 6; rank++) {
        const struct ds_plan *plan = &built.plan[rank];
        const struct ds_comm_group same = ds_plan_kv_group(plan);

        cr_expect(plan->kv_ranks == 3 && plan->kv_rank == rank % 3 && plan->shape.kv_heads == 1);
        cr_expect(same.first == rank / 3 * 3 && same.stride == 1 && same.count == 3);
        for (size_t i = 0; i < plan->tensors; i++) {
            const struct ds_plan_cut cut = ds_plan_cut(plan, i);
            const enum ds_role role = cut.whole.role;
            bool kv = role == DS_ROLE_K_W || role == DS_ROLE_V_W || role == DS_ROLE_K_B ||
                      role == DS_ROLE_V_B;
            uint64_t together, at = ds_plan_cut_at(&cut, 0, &together);

            cr_expect_eq(plan->tensor[i].doubled, kv ? 3 : 1, "%s", cut.whole.name);
            if (kv)
                cr_expect_eq(at, cut.whole.elems / 2 * (rank / 3), "%s", cut.whole.name);
        }
    }
    release(&built);
    build(&built, &fewer, 0);
    cr_expect(built.plan[0].kv_ranks == 2 && built.plan[0].shape.kv_heads == 1);
    cr_expect(ds_plan_kv_heads(&built.plan[0]) == 1);
    cr_expect_eq(ds_plan_swap_width(&built.plan[0]), (6 + 2 * 2) * 4);
    release(&built);
}

/* Once a step those of keys and values, too: of each layer weights, and biases; of two shards a rank
 * has half of them. */
Test(team, sums_of_keys_and_values_are_counted)
{
    static const struct mesh table[] = {{false, true, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 1},
                                        {false, true, 2, 1, 2, 1, 2, 97, false, 1, 0, 0, 1}};
    const uint64_t head = 4, elems = 3 * 2 * (48 * head + head), sums = 4 * (3 * 4 + 2);

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct ds_plan *plan;
        struct built built;
        uint64_t seen = 0;

        build(&built, &table[i], 0);
        plan = &built.plan[0];
        for (unsigned rank = 0; rank < built.world; rank += plan->kv_ranks)
            for (size_t k = 0; k < plan->spans; k++)
                seen += ds_plan_doubled(&built.plan[rank], plan->span[k].bucket, k).count;
        cr_expect_eq(seen, elems);
        if (plan->stage == 0) {
            cr_expect_eq(plan->traffic[DS_COMM_ALL_REDUCE_F32].calls, sums + 3 * 2);
            cr_expect_eq(plan->traffic[DS_COMM_ALL_REDUCE_F32].bytes,
                         (sums * 16 * 48 + elems) * sizeof(float));
        }
        release(&built);
    }
}

/* Sums of a step: each way two of a layer, of both ends one; what is computed again adds one where
 * it comes to the middle. */
Test(team, sums_are_counted)
{
    static const struct {
        enum ds_recompute recompute;
        uint64_t calls;
    } table[] = {{DS_RECOMPUTE_NONE, 3 * 4 + 2}, {DS_RECOMPUTE_FULL, 3 * 5 + 2}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct mesh mesh = {true, true, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 0};
        struct ds_job job = job_of(&mesh);
        const struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
        struct ds_error err = {0};
        struct ds_plan plan;
        uint64_t passes = 4;

        job.activation.recompute = table[i].recompute;
        cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
        cr_expect_eq(plan.traffic[DS_COMM_ALL_REDUCE_F32].calls, passes * table[i].calls);
        cr_expect_eq(plan.traffic[DS_COMM_ALL_REDUCE_F32].bytes,
                     passes * table[i].calls * 16 * 48 * sizeof(float));
        cr_expect_eq(plan.traffic[DS_COMM_ALL_GATHER].calls, passes);
        cr_expect_eq(plan.traffic[DS_COMM_ALL_GATHER].bytes, passes * 16 * 3 * sizeof(float));
        ds_plan_release(&plan);
    }
}

Test(team, says_what_cannot_be)
{
    static const struct {
        unsigned tensor, world;
        uint64_t vocab;
        const char *text;
    } table[] = {
        {5, 5, 97, "'parallel.tensor' 5 does not divide 'model.heads' 12"},
        {6, 6, 97, "'parallel.tensor' 6 and 'model.kv_heads' 4: one must divide the other"},
        {2, 3, 97,
         "'parallel.pipeline' 1 x 'parallel.sequence' 1 x 'parallel.tensor' 2 does not divide 3"},
        {4, 4, 9, "'parallel.tensor' 4 is too many for 'model.vocab' 9"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct mesh mesh = {
            false, false, table[i].tensor, 1, 1, 1, 0, table[i].vocab, false, 1, 0, 0, 0};
        struct ds_job job = job_of(&mesh);
        const struct ds_plan_args args = {.job = &job, .world = table[i].world, .threads = 1};
        struct ds_error err = {0};
        struct ds_plan plan;

        cr_expect_eq(ds_plan_build(&plan, &args, &err), -EINVAL, "%s", table[i].text);
        cr_expect(strstr(err.text, table[i].text) == err.text, "%s", err.text);
    }
}

/* Of a row that a team divides nobody has the mean of squares. */
Test(team, divides_no_row_that_has_a_norm)
{
    const struct mesh mesh = {false, false, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 0};
    struct ds_job job = job_of(&mesh);
    const struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
    struct ds_error err = {0};
    struct ds_plan plan;

    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    ds_plan_release(&plan);
    job.model.shape.arch = DS_ARCH_OLMO2;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), -EINVAL);
    cr_assert(strstr(err.text, "'parallel.tensor' 2 and 'model.arch' olmo2 do not go together") ==
                  err.text,
              "%s", err.text);
}

/* Once a step those matrices of adapters that all of a team have: of what is divided by what it makes
 * the first ones, which read 48, of the other the second ones, which make 48; and of the one head of
 * keys and values both. */
Test(team, sums_of_adapters_are_counted)
{
    const struct mesh mesh = {false, true, 2, 1, 1, 1, 0, 97, false, 1, 0, 0, 1};
    const uint64_t head = 4, elems = 3 * 3 * (7 * 48 + 2 * head);
    const struct ds_plan *plan;
    struct built built;
    uint64_t seen = 0;

    build(&built, &mesh, 3);
    plan = &built.plan[1];
    for (size_t k = 0; k < plan->spans; k++)
        seen += ds_plan_doubled(plan, plan->span[k].bucket, k).count;
    cr_expect_eq(seen, elems);
    cr_expect(!plan->bucket[plan->buckets - 1].replicated);
    seen = 0;
    for (size_t i = 0; i < plan->params; i++)
        seen += ds_plan_twin(plan, i) ? plan->param[i].param.elems : 0;
    cr_expect_eq(seen, elems);
    release(&built);
}
