/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline - parts of a pipeline train as ranks do that have all layers: to the bit where the
 * embedding is not tied, over families, numbers of parts and of micro-batches, types, dropout,
 * recomputation and optimizers; the same bits at ZeRO stages 0 to 2 and on one host or several; and
 * what is sent is what the plan says.
 */
#include "tests/engine/parts.h"

enum { SEQUENCE = 16, IDS = 48 * SEQUENCE + 1 };

struct line {
    unsigned parts, data, sharers; /* of a sequence */
    uint64_t passes, micro_batch;
    bool gpt2, tied;
    enum ds_compute compute;
    enum ds_recompute recompute;
    bool dropout, fp8, offload, disk, wire16;
    enum ds_optim_kind optim;
    unsigned stage, local; /* ranks of a host; 0: all */
    bool node, poison;
    uint64_t below; /* zero.replicate_below */
};

static struct test_run run_of(const struct line *line, const char *ids)
{
    struct ds_model_shape shape = line->gpt2 ? test_gpt2(5, 32, 4, 257, SEQUENCE)
                                             : test_llama(5, 32, 4, 2, 48, 257, SEQUENCE);
    struct test_run run = {.world = line->parts * line->data * line->sharers,
                           .local_world = line->local,
                           .threads = 1 + line->parts % 2,
                           .steps = 3,
                           .poison_step = line->poison ? 1 : UINT64_MAX,
                           .poison_tensor = 30,
                           .overlap = true,
                           .tokens = ids};

    shape.tie_embeddings = line->tied;
    run.job =
        test_job(shape, line->data * line->passes * line->micro_batch, line->micro_batch, SEQUENCE);
    run.job.parallel.sequence = line->sharers;
    run.job.parallel.pipeline = line->parts;
    run.job.zero.stage = line->stage;
    run.job.zero.bucket_mb = 1;
    run.job.zero.replicate_below = line->below;
    run.job.zero.shard_group = line->node ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.offload.optim = line->disk      ? DS_OFFLOAD_NVME
                            : line->offload ? DS_OFFLOAD_CPU
                                            : DS_OFFLOAD_NONE;
    run.job.offload.path = "/tmp";
    run.job.optim.kind = line->optim;
    run.job.optim.momentum = line->optim == DS_OPTIM_MUON ? 0.95 : 0.0;
    run.job.optim.clip = 0.0; /* the norm is summed in another order */
    run.job.precision.compute = line->compute;
    run.job.precision.matmul = line->fp8 ? DS_MATMUL_FP8 : DS_MATMUL_COMPUTE;
    run.job.precision.grad_wire = line->wire16 ? DS_GRAD_WIRE_BF16 : DS_GRAD_WIRE_FP32;
    run.job.activation.recompute = line->recompute;
    run.job.model.dropout = run.job.model.attention_dropout = line->dropout ? 0.2 : 0.0;
    return run;
}

static const char *what_of(const struct line *line)
{
    static char what[300];

    (void)snprintf(
        what, sizeof(what),
        "%s%s, %u parts x %u x %u ranks, %u passes of %u, type %d, recompute %d, dropout "
        "%d, fp8 %d, offload %d, disk %d, bf16 wire %d, %s, stage %u, hosts of %u, below %u",
        line->gpt2 ? "gpt2" : "llama", line->tied ? " tied" : "", line->parts, line->data,
        line->sharers, (unsigned)line->passes, (unsigned)line->micro_batch, (int)line->compute,
        (int)line->recompute, line->dropout, line->fp8, line->offload, line->disk, line->wire16,
        ds_optim_name(line->optim), line->stage, line->local, (unsigned)line->below);
    return what;
}

/* One part has all layers, in ranks of data alone. */
static struct line whole_of(struct line line)
{
    line.parts = 1;
    line.local = 0;
    line.node = line.offload = line.disk = false;
    return line;
}

/* With a tied embedding two gradients are added after all micro-batches, not in each. */
static double tolerance_of(const struct line *line)
{
    if (!line->tied)
        return 0.0;
    return line->fp8 ? 2e-2 : line->compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
}

static void check_line(struct line line)
{
    const char *ids = test_ids_file(IDS), *what = what_of(&line);
    struct line alone = whole_of(line);
    struct test_run parts = run_of(&line, ids), whole = run_of(&alone, ids);

    test_run(&parts);
    for (unsigned i = 0; i < parts.world; i++)
        cr_assert_eq(parts.rc[i], 0, "%s: rank %u: %s", what, i, parts.err[i].text);
    test_run_ok(&whole);
    test_compare(&parts, &whole, tolerance_of(&line), what);
    test_traffic_planned(&parts, what);
    cr_assert_gt(parts.traffic[DS_COMM_PASS].calls, 0);
    test_run_release(&parts);
    test_run_release(&whole);
    (void)unlink(ids);
}

Test(pipeline, trains_as_all_layers_do)
{
    static const struct line table[] = {
        {.parts = 2, .data = 1, .passes = 1, .micro_batch = 1},
        {.parts = 2, .data = 1, .passes = 4, .micro_batch = 2, .gpt2 = true},
        {.parts = 3, .data = 1, .passes = 2, .micro_batch = 1, .gpt2 = true},
        {.parts = 4, .data = 1, .passes = 3, .micro_batch = 1},
        {.parts = 4, .data = 1, .passes = 6, .micro_batch = 2},
        {.parts = 2, .data = 2, .passes = 3, .micro_batch = 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (enum ds_compute compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_BF16; compute++)
            for (int tied = 0; tied < 2; tied++) {
                struct line line = table[i];

                line.sharers = 1;
                line.compute = compute;
                line.tied = tied == 1;
                check_line(line);
            }
}

Test(pipeline, goes_with_everything_else)
{
    static const struct line table[] = {
        {.recompute = DS_RECOMPUTE_FULL},
        {.recompute = DS_RECOMPUTE_SELECTIVE, .gpt2 = true},
        {.dropout = true, .gpt2 = true},
        {.dropout = true, .recompute = DS_RECOMPUTE_FULL},
        {.fp8 = true, .compute = DS_COMPUTE_BF16},
        {.fp8 = true, .compute = DS_COMPUTE_BF16, .recompute = DS_RECOMPUTE_SELECTIVE},
        {.compute = DS_COMPUTE_FP16},
        {.optim = DS_OPTIM_LAMB, .tied = true},
        {.optim = DS_OPTIM_MUON},
        {.optim = DS_OPTIM_SGD, .tied = true},
        {.offload = true, .tied = true},
        {.offload = true, .compute = DS_COMPUTE_BF16},
        {.disk = true, .tied = true},
        {.disk = true, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.wire16 = true, .stage = 1},
        {.stage = 2},
        {.stage = 2, .compute = DS_COMPUTE_BF16, .gpt2 = true, .tied = true},
        {.below = 200},
        {.below = 1 << 20, .tied = true},
        {.sharers = 2, .tied = true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct line line = table[i];

        line.parts = 2;
        line.passes = 3;
        line.micro_batch = 2;
        line.data = line.sharers == 2 ? 1 : 2;
        line.sharers = line.sharers == 2 ? 2 : 1;
        check_line(line);
    }
}

/* LAMB's norms are summed among those who hold a part: one rank here. */
Test(pipeline, has_parts_of_one_rank)
{
    check_line((struct line){.parts = 3,
                             .data = 1,
                             .sharers = 1,
                             .passes = 5,
                             .micro_batch = 1,
                             .tied = true,
                             .optim = DS_OPTIM_LAMB});
}

static void check_same(struct line a, struct line b)
{
    const char *ids = test_ids_file(IDS);
    struct test_run one = run_of(&a, ids), other = run_of(&b, ids);
    const char *what = what_of(&b);

    test_run_ok(&one);
    test_run(&other);
    for (unsigned i = 0; i < other.world; i++)
        cr_assert_eq(other.rc[i], 0, "%s: rank %u: %s", what, i, other.err[i].text);
    cr_assert(test_same(&one, &other), "%s", what);
    test_traffic_planned(&other, what);
    test_run_release(&one);
    test_run_release(&other);
    (void)unlink(ids);
}

Test(pipeline, has_the_same_bits_at_every_stage_and_on_any_hosts)
{
    static const struct line others[] = {{.stage = 1},
                                         {.stage = 2},
                                         {.stage = 2, .local = 2},
                                         {.stage = 0, .local = 1},
                                         {.stage = 1, .local = 1},
                                         {.stage = 1, .local = 2, .node = true},
                                         {.stage = 2, .local = 1, .node = true}};
    const struct line first = {.parts = 2,
                               .data = 2,
                               .sharers = 1,
                               .passes = 1,
                               .micro_batch = 2,
                               .tied = true,
                               .compute = DS_COMPUTE_BF16};

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct line other = first;

        other.stage = others[i].stage;
        other.local = others[i].local;
        other.node = others[i].node;
        check_same(first, other);
    }
}

/* The first tensor that is not finite is named, whoever has it; nothing is updated. */
Test(pipeline, names_what_is_not_finite)
{
    const char *ids = test_ids_file(IDS);
    const struct line line = {.parts = 2,
                              .data = 2,
                              .sharers = 1,
                              .passes = 2,
                              .micro_batch = 1,
                              .poison = true,
                              .below = 200};
    const struct line alone = whole_of(line);
    struct test_run parts = run_of(&line, ids), whole = run_of(&alone, ids);

    test_run_ok(&parts);
    test_run_ok(&whole);
    cr_assert_gt(parts.result[1].nonfinite, 0);
    cr_assert_eq(parts.result[1].nonfinite, whole.result[1].nonfinite);
    cr_assert_str_eq(parts.result[1].bad, whole.result[1].bad);
    test_run_release(&parts);
    test_run_release(&whole);
    (void)unlink(ids);
}
