/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fixture.h - jobs for the tests of planner and engine, made without the job parser.
 */
#ifndef DS_TESTS_PLAN_FIXTURE_H
#define DS_TESTS_PLAN_FIXTURE_H

#include <string.h>

#include "runtime/job.h"

static inline struct ds_model_shape test_gpt2(uint64_t layers, uint64_t hidden, uint64_t heads,
                                              uint64_t vocab, uint64_t context)
{
    return (struct ds_model_shape){.arch = DS_ARCH_GPT2,
                                   .layers = layers,
                                   .hidden = hidden,
                                   .heads = heads,
                                   .kv_heads = heads,
                                   .head_size = hidden / heads,
                                   .ffn = 4 * hidden,
                                   .vocab = vocab,
                                   .context = context,
                                   .tie_embeddings = true,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 10000.0};
}

static inline struct ds_model_shape test_llama(uint64_t layers, uint64_t hidden, uint64_t heads,
                                               uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                               uint64_t context)
{
    struct ds_model_shape shape = test_gpt2(layers, hidden, heads, vocab, context);

    shape.arch = DS_ARCH_LLAMA;
    shape.kv_heads = kv_heads;
    shape.ffn = ffn;
    shape.tie_embeddings = false;
    return shape;
}

static inline struct ds_model_shape test_mixtral(uint64_t layers, uint64_t hidden, uint64_t heads,
                                                 uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                                 uint64_t context, uint64_t experts, uint64_t each)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, kv_heads, ffn, vocab, context);

    shape.arch = DS_ARCH_MIXTRAL;
    shape.experts = experts;
    shape.experts_each = each;
    shape.balance = 0.05;
    return shape;
}

/* Beside the biases, positions for a longer context: some frequencies of 8 stay, some do not. */
static inline struct ds_model_shape test_qwen2(uint64_t layers, uint64_t hidden, uint64_t heads,
                                               uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                               uint64_t context)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, kv_heads, ffn, vocab, context);

    shape.arch = DS_ARCH_QWEN2;
    shape.norm_eps = 1e-6;
    shape.rope_theta = 1000.0;
    shape.rope_scale = (struct ds_rope_scale){
        .kind = DS_ROPE_LLAMA3, .factor = 8.0, .low = 1.0, .high = 4.0, .original = 64};
    return shape;
}

/* Experts, norms of heads, and heads that are wider than the stream together. */
static inline struct ds_model_shape test_qwen3_moe(uint64_t layers, uint64_t hidden, uint64_t heads,
                                                   uint64_t head_size, uint64_t ffn, uint64_t vocab,
                                                   uint64_t context, uint64_t experts,
                                                   uint64_t each)
{
    struct ds_model_shape shape =
        test_mixtral(layers, hidden, heads, heads / 2, ffn, vocab, context, experts, each);

    shape.arch = DS_ARCH_QWEN3_MOE;
    shape.head_size = head_size;
    shape.norm_eps = 1e-6;
    return shape;
}

/* Positions that turn some of each head. */
static inline struct ds_model_shape test_phi3(uint64_t layers, uint64_t hidden, uint64_t heads,
                                              uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                              uint64_t context, uint64_t rope_dims)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, kv_heads, ffn, vocab, context);

    shape.arch = DS_ARCH_PHI3;
    shape.rope_dims = rope_dims;
    return shape;
}

/* Each frequency has a factor, of sequences that the first context of 6 tokens holds and of longer
 * ones; 6 pairs of a head of 16 are turned. */
static inline struct ds_model_shape test_longrope(void)
{
    struct ds_model_shape shape = test_phi3(2, 32, 2, 1, 40, 31, 24, 12);

    shape.rope_scale =
        (struct ds_rope_scale){.kind = DS_ROPE_LONGROPE, .factor = 1.0, .original = 6};
    shape.rope_scale.attention = ds_rope_usual_attention(&shape.rope_scale, 24.0 / 6.0);
    shape.rope_short = (struct ds_numbers){6, {1.0, 1.25, 1.5, 1.75, 2.0, 2.5}};
    shape.rope_long = (struct ds_numbers){6, {1.0, 2.0, 3.5, 5.0, 7.5, 8.0}};
    return shape;
}

/* Norms behind the halves of a layer, and of all queries and all keys of a row. */
static inline struct ds_model_shape test_olmo2(uint64_t layers, uint64_t hidden, uint64_t heads,
                                               uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                               uint64_t context)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, kv_heads, ffn, vocab, context);

    shape.arch = DS_ARCH_OLMO2;
    shape.norm_eps = 1e-6;
    shape.rope_theta = 500000.0;
    return shape;
}

/* One layer of `every` sees all, the others a window. */
static inline struct ds_model_shape test_gemma3(uint64_t layers, uint64_t hidden, uint64_t heads,
                                                uint64_t head_size, uint64_t ffn, uint64_t vocab,
                                                uint64_t context, uint64_t window, uint64_t every)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, heads / 2, ffn, vocab, context);

    shape.arch = DS_ARCH_GEMMA3;
    shape.head_size = head_size;
    shape.tie_embeddings = true;
    shape.norm_eps = 1e-6;
    shape.rope_theta = 5000.0;
    shape.rope_scale = (struct ds_rope_scale){.kind = DS_ROPE_LINEAR, .factor = 2.0};
    shape.window = window;
    shape.full_every = every;
    shape.local_theta = 100.0;
    shape.query_scalar = 12.0;
    return shape;
}

/* One layer of `every` has no positions. */
static inline struct ds_model_shape test_smollm3(uint64_t layers, uint64_t hidden, uint64_t heads,
                                                 uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                                 uint64_t context, uint64_t every)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, kv_heads, ffn, vocab, context);

    shape.arch = DS_ARCH_SMOLLM3;
    shape.tie_embeddings = true;
    shape.norm_eps = 1e-6;
    shape.rope_theta = 5000.0;
    shape.nope_every = every;
    return shape;
}

/* Factors of everything. */
static inline struct ds_model_shape test_granite(uint64_t layers, uint64_t hidden, uint64_t heads,
                                                 uint64_t kv_heads, uint64_t ffn, uint64_t vocab,
                                                 uint64_t context)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, kv_heads, ffn, vocab, context);

    shape.arch = DS_ARCH_GRANITE;
    shape.tie_embeddings = true;
    shape.embed_scale = 12.0;
    shape.residual_scale = 0.22;
    shape.attention_scale = 0.3;
    shape.logits_scale = 0.8;
    return shape;
}

/* LayerNorm, biases, half of a head turned; with `parallel` both halves of a layer read its input. */
static inline struct ds_model_shape test_gpt_neox(uint64_t layers, uint64_t hidden, uint64_t heads,
                                                  uint64_t ffn, uint64_t vocab, uint64_t context,
                                                  bool parallel)
{
    struct ds_model_shape shape = test_llama(layers, hidden, heads, heads, ffn, vocab, context);

    shape.arch = DS_ARCH_GPT_NEOX;
    shape.rope_dims = shape.head_size / 2;
    shape.parallel_residual = parallel;
    return shape;
}

/* A job as the parser would leave it; strings are literals, nothing to release. */
static inline struct ds_job test_job(struct ds_model_shape shape, uint64_t global_batch,
                                     uint64_t micro_batch, uint64_t sequence)
{
    struct ds_job job;

    memset(&job, 0, sizeof(job));
    job.name = "test";
    job.seed = 1;
    job.model.shape = shape;
    job.model.init_std = 0.02;
    job.train.steps = 6;
    job.train.global_batch = global_batch;
    job.train.micro_batch = micro_batch;
    job.train.sequence = sequence;
    job.optim.kind = DS_OPTIM_ADAMW;
    job.optim.lr = job.optim.adamw_lr = 3e-3;
    job.optim.beta1 = 0.9;
    job.optim.beta2 = 0.95;
    job.optim.eps = 1e-5;
    job.optim.weight_decay = 0.1;
    job.optim.clip = 1.0;
    job.parallel.sequence = job.parallel.pipeline = job.parallel.tensor = 1;
    job.zero.once_per_host = true;
    job.schedule.kind = DS_SCHEDULE_COSINE;
    job.schedule.warmup = 2;
    job.schedule.steps = 6;
    job.schedule.min_lr = 3e-4;
    job.checkpoint.resume = "auto";
    job.log.every = 1;
    job.guard.max_skips = 20;
    return job;
}

#endif
