/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_team - ranks that share layers train as ranks do that have all of each: up to the order of
 * sums, over families, sizes of teams, types, dropout, recomputation and optimizers; the same bits at
 * ZeRO stages 0 to 3 and on one host or several; and what is sent is what the plan says.
 */
#include "tests/engine/parts.h"

enum { SEQUENCE = 16, IDS = 48 * SEQUENCE + 1, LAYERS = 3 };

struct team {
    unsigned tensor, data, sharers, parts;
    uint64_t passes, micro_batch;
    bool gpt2, tied;
    enum ds_compute compute;
    enum ds_recompute recompute;
    bool dropout, fp8, offload, disk, wire16;
    enum ds_optim_kind optim;
    unsigned stage, local; /* ranks of a host; 0: all */
    bool node;
    uint64_t vocab;
    double clip;
};

static struct team of(struct team team)
{
    team.tensor = team.tensor > 0 ? team.tensor : 2;
    team.data = team.data > 0 ? team.data : 1;
    team.sharers = team.sharers > 0 ? team.sharers : 1;
    team.parts = team.parts > 0 ? team.parts : 1;
    team.passes = team.passes > 0 ? team.passes : 2;
    team.micro_batch = team.micro_batch > 0 ? team.micro_batch : 2;
    team.vocab = team.vocab > 0 ? team.vocab : 257;
    return team;
}

static struct test_run run_of(const struct team *team, const char *ids)
{
    struct ds_model_shape shape = team->gpt2
                                      ? test_gpt2(LAYERS, 32, 4, team->vocab, SEQUENCE)
                                      : test_llama(LAYERS, 32, 8, 4, 64, team->vocab, SEQUENCE);
    struct test_run run = {.world = team->tensor * team->data * team->sharers * team->parts,
                           .local_world = team->local,
                           .threads = 1 + team->tensor % 3,
                           .steps = 3,
                           .poison_step = UINT64_MAX,
                           .overlap = true,
                           .tokens = ids};

    shape.tie_embeddings = team->tied;
    run.job =
        test_job(shape, team->data * team->passes * team->micro_batch, team->micro_batch, SEQUENCE);
    run.job.parallel.tensor = team->tensor;
    run.job.parallel.sequence = team->sharers;
    run.job.parallel.pipeline = team->parts;
    run.job.zero.stage = team->stage;
    run.job.zero.bucket_mb = 1;
    run.job.zero.shard_group = team->node ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.offload.optim = team->disk      ? DS_OFFLOAD_NVME
                            : team->offload ? DS_OFFLOAD_CPU
                                            : DS_OFFLOAD_NONE;
    run.job.offload.path = "/tmp";
    run.job.optim.kind = team->optim;
    run.job.optim.clip = team->clip;
    run.job.precision.compute = team->compute;
    run.job.precision.matmul = team->fp8 ? DS_MATMUL_FP8 : DS_MATMUL_COMPUTE;
    run.job.precision.grad_wire = team->wire16 ? DS_GRAD_WIRE_BF16 : DS_GRAD_WIRE_FP32;
    run.job.activation.recompute = team->recompute;
    run.job.model.dropout = run.job.model.attention_dropout = team->dropout ? 0.2 : 0.0;
    return run;
}

static const char *what_of(const struct team *team)
{
    static char what[300];

    (void)snprintf(
        what, sizeof(what),
        "%s%s, a team of %u x %u sharers x %u data x %u parts, %u passes of %u, type %d, recompute "
        "%d, dropout %d, fp8 %d, offload %d, disk %d, bf16 wire %d, %s, stage %u, hosts of %u, "
        "vocabulary %u, clip %g",
        team->gpt2 ? "gpt2" : "llama", team->tied ? " tied" : "", team->tensor, team->sharers,
        team->data, team->parts, (unsigned)team->passes, (unsigned)team->micro_batch,
        (int)team->compute, (int)team->recompute, team->dropout, team->fp8, team->offload,
        team->disk, team->wire16, ds_optim_name(team->optim), team->stage, team->local,
        (unsigned)team->vocab, team->clip);
    return what;
}

static double tolerance_of(const struct team *team)
{
    if (team->fp8)
        return 2e-2;
    return team->compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
}

static void run_ok(struct test_run *run, const char *what)
{
    test_run(run);
    for (unsigned i = 0; i < run->world; i++)
        cr_assert_eq(run->rc[i], 0, "%s: rank %u: %s", what, i, run->err[i].text);
}

static enum ds_comm_op sum_op(enum ds_compute compute)
{
    return compute == DS_COMPUTE_FP32   ? DS_COMM_ALL_REDUCE_F32
           : compute == DS_COMPUTE_BF16 ? DS_COMM_ALL_REDUCE_BF16
                                        : DS_COMM_ALL_REDUCE_F16;
}

/* Against ranks of data alone, each with all layers. */
static void check_team(struct team team)
{
    const char *ids = test_ids_file(IDS);
    struct team alone = of(team);
    struct test_run parts, whole;
    const char *what;

    team = of(team);
    alone.tensor = alone.parts = alone.sharers = 1;
    alone.local = 0;
    alone.node = alone.offload = alone.disk = false;
    what = what_of(&team);
    parts = run_of(&team, ids);
    whole = run_of(&alone, ids);
    run_ok(&parts, what);
    run_ok(&whole, what);
    test_compare(&parts, &whole, tolerance_of(&team), what);
    test_traffic_planned(&parts, what);
    cr_assert_gt(parts.traffic[sum_op(team.compute)].calls, 0);
    test_run_release(&parts);
    test_run_release(&whole);
    (void)unlink(ids);
}

Test(team, trains_as_whole_layers_do)
{
    static const struct team table[] = {
        {.tensor = 2},
        {.tensor = 4, .micro_batch = 1},
        {.tensor = 2, .data = 2, .passes = 1},
        {.tensor = 4, .vocab = 300, .passes = 3},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (enum ds_compute compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_FP16; compute++)
            for (int family = 0; family < 3; family++) {
                struct team team = table[i];

                team.gpt2 = family < 2;
                team.tied = family == 1;
                team.compute = compute;
                check_team(team);
            }
}

Test(team, goes_with_everything_else)
{
    static const struct team table[] = {
        {.recompute = DS_RECOMPUTE_FULL},
        {.recompute = DS_RECOMPUTE_SELECTIVE, .gpt2 = true},
        {.dropout = true, .gpt2 = true},
        {.dropout = true, .recompute = DS_RECOMPUTE_FULL, .tensor = 4},
        {.dropout = true, .sharers = 2},
        {.fp8 = true, .compute = DS_COMPUTE_BF16},
        {.fp8 = true,
         .compute = DS_COMPUTE_BF16,
         .recompute = DS_RECOMPUTE_SELECTIVE,
         .gpt2 = true},
        {.optim = DS_OPTIM_SGD, .tied = true},
        {.optim = DS_OPTIM_LION, .data = 2, .stage = 2},
        {.optim = DS_OPTIM_LAMB, .gpt2 = true, .tied = true},
        {.optim = DS_OPTIM_LAMB, .data = 2, .stage = 2, .tensor = 4},
        {.optim = DS_OPTIM_LAMB, .data = 2, .stage = 1, .parts = 2, .tied = true},
        {.offload = true, .tied = true},
        {.offload = true, .compute = DS_COMPUTE_BF16, .data = 2, .stage = 1},
        {.disk = true, .data = 2, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.wire16 = true, .data = 2, .stage = 1},
        {.clip = 0.5, .data = 2, .stage = 3, .tied = true, .gpt2 = true},
        {.sharers = 2, .gpt2 = true, .tied = true},
        {.sharers = 2, .data = 2, .stage = 3, .compute = DS_COMPUTE_BF16},
        {.parts = 2, .passes = 3},
        {.parts = 2, .passes = 3, .data = 2, .tied = true, .gpt2 = true, .clip = 0.5, .stage = 2},
        {.parts = 3, .passes = 4, .tied = true, .compute = DS_COMPUTE_BF16},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        check_team(table[i]);
}

Test(team, has_the_same_bits_at_every_stage_and_on_any_hosts)
{
    static const struct team others[] = {{.stage = 1},
                                         {.stage = 2},
                                         {.stage = 3},
                                         {.stage = 2, .local = 2},
                                         {.stage = 0, .local = 1},
                                         {.stage = 3, .local = 1},
                                         {.stage = 1, .local = 4, .node = true},
                                         {.stage = 2, .local = 2, .node = true},
                                         {.stage = 3, .local = 4, .node = true}};
    const char *ids = test_ids_file(IDS);
    struct team first = of((struct team){.data = 4, .tied = true, .gpt2 = true, .passes = 1});
    struct test_run one = run_of(&first, ids);

    run_ok(&one, "the first");
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct team other = first;
        struct test_run run;
        const char *what;

        other.stage = others[i].stage;
        other.local = others[i].local;
        other.node = others[i].node;
        what = what_of(&other);
        run = run_of(&other, ids);
        run_ok(&run, what);
        cr_assert(test_same(&one, &run), "%s", what);
        test_traffic_planned(&run, what);
        test_run_release(&run);
    }
    test_run_release(&one);
    (void)unlink(ids);
}
