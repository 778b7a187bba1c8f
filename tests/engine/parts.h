/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * parts.h - runs whose ranks have parts of the layers, or of each, against runs whose ranks have all.
 */
#ifndef DS_TESTS_ENGINE_PARTS_H
#define DS_TESTS_ENGINE_PARTS_H

#include "tests/engine/fixture.h"

enum { TEST_SEQUENCE = 16, TEST_IDS = 48 * TEST_SEQUENCE + 1 };

/* Who has what, and how it is trained.  0 stands for what is most simple: of ranks for one, of
 * passes and sequences for two. */
struct test_layout {
    unsigned tensor, sharers, data, parts; /* ranks of a team, of a sequence, of data, of layers */
    uint64_t passes, micro_batch, layers, vocab, kv; /* kv: heads of keys and values */
    uint64_t head;                                   /* size of one; 0: as the width has it */
    uint64_t experts, each;                          /* of mixtral; 0: another family */
    unsigned divide;                                 /* ranks that divide them */
    uint64_t window, separator;                      /* 0: all is seen, documents are together */
    bool gpt2, tied, qwen2, qwen3;                   /* qwen3: with experts or without */
    bool olmo2, gemma3, granite, neox;               /* gemma3: the second layer sees all */
    enum ds_compute compute;
    enum ds_recompute recompute;
    bool dropout, fp8, offload, disk, wire16;
    enum ds_optim_kind optim;
    double clip;
    unsigned stage, local; /* ranks of a host; 0: all */
    bool node, poison;
    uint64_t below; /* zero.replicate_below */
};

static inline struct test_layout test_layout(struct test_layout layout)
{
    layout.tensor = layout.tensor > 0 ? layout.tensor : 1;
    layout.sharers = layout.sharers > 0 ? layout.sharers : 1;
    layout.data = layout.data > 0 ? layout.data : 1;
    layout.parts = layout.parts > 0 ? layout.parts : 1;
    layout.divide = layout.divide > 0 ? layout.divide : 1;
    layout.passes = layout.passes > 0 ? layout.passes : 2;
    layout.micro_batch = layout.micro_batch > 0 ? layout.micro_batch : 2;
    layout.layers = layout.layers > 0 ? layout.layers : 3;
    layout.kv = layout.kv > 0 ? layout.kv : 4;
    layout.vocab = layout.vocab > 0 ? layout.vocab : 257;
    return layout;
}

/* The same of ranks of data alone, each with all layers. */
static inline struct test_layout test_whole(struct test_layout layout)
{
    layout.tensor = layout.parts = layout.sharers = layout.divide = 1;
    layout.local = 0;
    layout.node = layout.offload = layout.disk = false;
    return layout;
}

/* The number of a rank's threads does not show in the bits, which test_engine.c tests.  Threads that wait
 * for work spin first, and with more of them than processors that is most of what a test takes: few ranks
 * have two. */
static inline struct test_run test_layout_run(const struct test_layout *layout, const char *ids)
{
    struct ds_model_shape shape =
        layout->gpt2
            ? test_gpt2(layout->layers, 32, 4, layout->vocab, TEST_SEQUENCE)
            : test_llama(layout->layers, 32, 8, layout->kv, 64, layout->vocab, TEST_SEQUENCE);
    struct test_run run = {.world = layout->tensor * layout->sharers * layout->data * layout->parts,
                           .local_world = layout->local,
                           .threads = layout->fp8 && layout->parts * layout->tensor > 1 ? 2 : 1,
                           .steps = 3,
                           .poison_step = layout->poison ? 1 : UINT64_MAX,
                           .poison_tensor = 30,
                           .overlap = true,
                           .tokens = ids};

    if (layout->qwen2)
        shape = test_qwen2(layout->layers, 32, 8, layout->kv, 64, layout->vocab, TEST_SEQUENCE);
    if (layout->olmo2)
        shape = test_olmo2(layout->layers, 32, 8, 4, 64, layout->vocab, TEST_SEQUENCE);
    if (layout->gemma3)
        shape = test_gemma3(layout->layers, 32, 8, 8, 64, layout->vocab, TEST_SEQUENCE, 5, 2);
    if (layout->granite)
        shape = test_granite(layout->layers, 32, 8, layout->kv, 64, layout->vocab, TEST_SEQUENCE);
    if (layout->neox)
        shape = test_gpt_neox(layout->layers, 32, 8, 64, layout->vocab, TEST_SEQUENCE, true);
    if (layout->experts > 0)
        shape = test_mixtral(layout->layers, 32, 8, layout->kv, 24, layout->vocab, TEST_SEQUENCE,
                             layout->experts, layout->each);
    if (layout->qwen3) {
        shape.arch = layout->experts > 0 ? DS_ARCH_QWEN3_MOE : DS_ARCH_QWEN3;
        shape.head_size = 6;
    }
    if (layout->head > 0)
        shape.head_size = layout->head;
    shape.tie_embeddings = layout->tied;
    if (!layout->gemma3)
        shape.window = layout->window;
    run.job = test_job(shape, layout->data * layout->passes * layout->micro_batch,
                       layout->micro_batch, TEST_SEQUENCE);
    run.job.parallel.tensor = layout->tensor;
    run.job.parallel.sequence = layout->sharers;
    run.job.parallel.pipeline = layout->parts;
    run.job.parallel.expert = layout->divide;
    run.job.data.documents = layout->separator > 0 ? DS_DOCUMENTS_APART : DS_DOCUMENTS_TOGETHER;
    run.job.data.separator = layout->separator;
    run.job.zero.stage = layout->stage;
    run.job.zero.bucket_mb = 1;
    run.job.zero.replicate_below = layout->below;
    run.job.zero.shard_group = layout->node ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.offload.optim = layout->disk      ? DS_OFFLOAD_NVME
                            : layout->offload ? DS_OFFLOAD_CPU
                                              : DS_OFFLOAD_NONE;
    run.job.offload.path = "/tmp";
    run.job.optim.kind = layout->optim;
    run.job.optim.momentum = layout->optim == DS_OPTIM_MUON ? 0.95 : 0.0;
    run.job.optim.clip = layout->clip; /* the norm is summed in another order */
    run.job.precision.compute = layout->compute;
    run.job.precision.matmul = layout->fp8 ? DS_MATMUL_FP8 : DS_MATMUL_COMPUTE;
    run.job.precision.grad_wire = layout->wire16 ? DS_GRAD_WIRE_BF16 : DS_GRAD_WIRE_FP32;
    run.job.activation.recompute = layout->recompute;
    run.job.model.dropout = run.job.model.attention_dropout = layout->dropout ? 0.2 : 0.0;
    return run;
}

static inline const char *test_layout_text(const struct test_layout *layout)
{
    static char text[400];

    (void)snprintf(
        text, sizeof(text),
        "%s%s, teams of %u x %u sharers x %u of data x %u parts, %u passes of %u, type %d, "
        "recompute %d, dropout %d, fp8 %d, offload %d, disk %d, bf16 wire %d, %s, stage %u, hosts "
        "of %u, below %u, vocabulary %u, clip %g, %u of %u experts, "
        "divided by %u, window %u, separator %u, %u heads of keys and values",
        layout->gpt2      ? "gpt2"
        : layout->qwen2   ? "qwen2"
        : layout->qwen3   ? "qwen3"
        : layout->olmo2   ? "olmo2"
        : layout->gemma3  ? "gemma3"
        : layout->granite ? "granite"
        : layout->neox    ? "gpt_neox"
                          : "llama",
        layout->tied ? " tied" : "", layout->tensor, layout->sharers, layout->data, layout->parts,
        (unsigned)layout->passes, (unsigned)layout->micro_batch, (int)layout->compute,
        (int)layout->recompute, layout->dropout, layout->fp8, layout->offload, layout->disk,
        layout->wire16, ds_optim_name(layout->optim), layout->stage, layout->local,
        (unsigned)layout->below, (unsigned)layout->vocab, layout->clip, (unsigned)layout->each,
        (unsigned)layout->experts, layout->divide, (unsigned)layout->window,
        (unsigned)layout->separator, (unsigned)layout->kv);
    return text;
}

/* A run that must succeed. */
static inline void test_layout_ok(struct test_run *run, const char *what)
{
    test_run(run);
    for (unsigned i = 0; i < run->world; i++)
        cr_assert_eq(run->rc[i], 0, "%s: rank %u: %s", what, i, run->err[i].text);
}

/* The tensors of a run whose ranks have all, one behind the other as the model has them. */
static inline float *test_in_order(const struct test_run *run, const float *line)
{
    float *out = calloc(ds_model_elems(&run->plan.model), sizeof(*out));
    uint64_t at = 0;

    cr_assert_not_null(out);
    for (size_t i = 0; i < run->plan.params; i++) {
        const struct ds_plan_param *param = &run->plan.param[i];

        memcpy(out + at, line + param->offset, param->param.elems * sizeof(*out));
        at += param->param.elems;
    }
    return out;
}

/* By how much a line differs; 0.0: not in one bit. */
static inline double test_off_by(const struct test_run *parts, const float *x,
                                 const struct test_run *whole, const float *y)
{
    const uint64_t elems = ds_model_elems(&whole->plan.model);
    float *mine = test_in_parts(&parts->plan) ? NULL : test_in_order(parts, x); /* without gaps */
    float *want = test_in_order(whole, y);
    double off;

    x = mine != NULL ? mine : x;
    off = memcmp(x, want, elems * sizeof(*x)) == 0 ? 0.0 : test_l2(x, want, elems);
    free(mine);
    free(want);
    return off;
}

static inline void test_compare(const struct test_run *parts, const struct test_run *whole,
                                double tolerance, const char *what)
{
    for (unsigned i = 0; i < parts->steps; i++) {
        const struct ds_step_result *a = &parts->result[i], *b = &whole->result[i];

        cr_assert_float_eq(a->loss, b->loss, tolerance * b->loss, "%s: loss %.17g, not %.17g", what,
                           a->loss, b->loss);
        cr_assert_float_eq(a->grad_norm, b->grad_norm, (1e-12 + 10.0 * tolerance) * b->grad_norm,
                           "%s: norm %.17g, not %.17g", what, a->grad_norm, b->grad_norm);
    }
    cr_assert_float_eq(parts->eval, whole->eval, tolerance * whole->eval, "%s: %.17g, not %.17g",
                       what, parts->eval, whole->eval);
    cr_assert_leq(test_off_by(parts, parts->params, whole, whole->params), 10.0 * tolerance, "%s",
                  what);
    cr_assert_leq(test_off_by(parts, parts->exp_avg, whole, whole->exp_avg), 100.0 * tolerance,
                  "%s", what);
}

/* A layout, and ranks of data alone that each have all layers. */
struct test_pair {
    struct test_run parts, whole;
    const char *ids, *what;
};

/* Both on ids below `kinds`; they must train alike, and what is sent be as planned. */
static inline struct test_pair test_pair_run(struct test_layout layout, double tolerance,
                                             unsigned kinds)
{
    const struct test_layout alone = test_whole(layout);
    struct test_pair pair = {.ids = test_ids_below(TEST_IDS, kinds)};

    pair.what = test_layout_text(&layout);
    pair.parts = test_layout_run(&layout, pair.ids);
    pair.whole = test_layout_run(&alone, pair.ids);
    test_layout_ok(&pair.parts, pair.what);
    test_layout_ok(&pair.whole, pair.what);
    test_compare(&pair.parts, &pair.whole, tolerance, pair.what);
    test_traffic_planned(&pair.parts, pair.what);
    return pair;
}

static inline void test_pair_release(struct test_pair *pair)
{
    test_run_release(&pair->parts);
    test_run_release(&pair->whole);
    (void)unlink(pair->ids);
}

/* A run with a NaN among its parameters tells of as many numbers, and of the tensor, that one tells
 * of whose ranks have all. */
static inline void test_poison_told(struct test_layout layout)
{
    const char *ids = test_ids_file(TEST_IDS);
    const struct test_layout alone = test_whole(layout);
    struct test_run parts = test_layout_run(&layout, ids), whole = test_layout_run(&alone, ids);

    test_run_ok(&parts);
    test_run_ok(&whole);
    cr_assert_gt(parts.result[1].nonfinite, 0);
    cr_assert_eq(parts.result[1].nonfinite, whole.result[1].nonfinite);
    cr_assert_str_eq(parts.result[1].bad, whole.result[1].bad);
    test_run_release(&parts);
    test_run_release(&whole);
    (void)unlink(ids);
}

/* The same bits, and what is sent as planned, at every stage and on any hosts of these. */
static inline void test_same_everywhere(const struct test_layout *first,
                                        const struct test_layout *others, size_t count)
{
    const char *ids = test_ids_file(TEST_IDS);
    struct test_run one = test_layout_run(first, ids);

    test_layout_ok(&one, "the first");
    for (size_t i = 0; i < count; i++) {
        struct test_layout other = *first;
        struct test_run run;
        const char *what;

        other.stage = others[i].stage;
        other.local = others[i].local;
        other.node = others[i].node;
        what = test_layout_text(&other);
        run = test_layout_run(&other, ids);
        test_layout_ok(&run, what);
        cr_assert(test_same(&one, &run), "%s", what);
        test_traffic_planned(&run, what);
        test_run_release(&run);
    }
    test_run_release(&one);
    (void)unlink(ids);
}

#endif
