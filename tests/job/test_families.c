/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_families.c - keys that are of some families only: what they are where nothing is said, and
 * what is refused.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/job/jobs.h"

/* The maps of shape and data are open. */
#define OF(arch, shape, data)                                                                      \
    "name: t\nmodel: {arch: " arch ", layers: 6, hidden: 64, heads: 4, context: 32, ffn: 48" shape \
    "}\ndata: {train: a.txt" data "}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\n"

Test(families, keys_that_are_not_theirs_are_refused)
{
    static const struct {
        const char *text, *override, *says;
    } table[] = {
        {SMALL, "model.rope_dims=4",
         "'model.rope_dims' is for phi3 and gpt_neox, not for gpt2; leave it out"},
        {OF("phi3", "", ""), "model.rope_dims=5",
         "'model.rope_dims' 5 must be even, and at most the head size 16"},
        {OF("phi3", "", ""), "model.rope_dims=18",
         "'model.rope_dims' 18 must be even, and at most the head size 16"},
        {OF("phi3", "", ""), "model.full_every=6",
         "'model.full_every' is for gemma3, not for phi3; leave it out"},
        {OF("olmo2", "", ""), "model.rope_local_theta=100",
         "'model.rope_local_theta' is for gemma3, not for olmo2; leave it out"},
        {OF("phi3", "", ""), "model.query_scalar=6",
         "'model.query_scalar' is for gemma3, not for phi3; leave it out"},
        {OF("llama", "", ""), "model.nope_every=4",
         "'model.nope_every' is for smollm3, not for llama; leave it out"},
        {OF("smollm3", "", ""), "model.nope_every=0",
         "'model.nope_every' must be at least 1 for smollm3; a model all of whose layers have "
         "positions is a llama"},
        {OF("llama", "", ""), "model.parallel_residual=true",
         "'model.parallel_residual' is for gpt_neox, not for llama; leave it out"},
        {OF("granite", "", ""), "model.window=8",
         "'model.window' is not for granite, whose published models have none; leave it out"},
        {OF("gpt_neox", "", ""), "model.window=8",
         "'model.window' is not for gpt_neox, whose published models have none; leave it out"},
        {OF("gpt_neox", "", ""), "model.kv_heads=2",
         "'model.kv_heads' must be 'model.heads' 4 for gpt_neox, not 2"},
        {OF("gpt_neox", "", ""), "model.head_size=32",
         "'model.head_size' must be 'model.hidden' / 'model.heads', 16, for gpt_neox, not 32"},
        {OF("llama", "", ""), "model.residual_multiplier=0.5",
         "'model.residual_multiplier' is for granite, not for llama; leave it out"},
        {OF("granite", "", ""), "model.logits_scaling=0",
         "'model.logits_scaling' must be above 0 for granite"},
        {OF("olmo2", "", ""), "model.window=8",
         "'model.window' is not for olmo2, whose published models have none; leave it out"},
        {OF("gemma3", "", ""), "model.full_every=0",
         "'model.full_every' must be at least 1 for gemma3"},
        {OF("gemma3", "", ""), "model.rope_local_theta=0",
         "'model.rope_local_theta' must be above 0 for gemma3"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const char *override = table[i].override;
        struct ds_error err = {0};
        char whole[256];
        struct ds_job job;

        (void)snprintf(whole, sizeof(whole), "override '%s': %s", override != NULL ? override : "",
                       table[i].says);
        cr_expect_eq(jobs_parse(&job, table[i].text, override, &err), -EINVAL, "case %zu", i);
        cr_expect_str_eq(err.text, override != NULL ? whole : table[i].says);
        ds_job_release(&job);
    }
}

#define LONGROPE(more) OF("llama", ", head_size: 8, rope_scaling: {type: longrope" more "}", "")
#define SHORT          ", short_factor: [1, 1.0800000429153442, 2, 4]"
#define LONG           ", long_factor: [1, 2, 3.5, 64]"

Test(families, a_factor_for_each_frequency)
{
    static const struct {
        const char *text, *says;
    } table[] = {
        {LONGROPE(LONG ", original_context: 8"),
         "'model.rope_scaling.type' longrope needs 'model.rope_scaling.short_factor'; set it to a "
         "list of what each frequency is divided by"},
        {LONGROPE(SHORT LONG), "'model.rope_scaling.type' longrope needs "
                               "'model.rope_scaling.original_context'; set it to "
                               "the context that the model was made for first"},
        {LONGROPE(SHORT ", long_factor: [1, 2], original_context: 8"),
         "'model.rope_scaling.long_factor' has 2 numbers, and a head turns 4 pairs"},
        {LONGROPE(SHORT LONG ", original_context: 1"),
         "'model.rope_scaling.original_context' must be at least 2 for longrope"},
        {LONGROPE(SHORT LONG ", original_context: 8, factor: 4"),
         "'model.rope_scaling.factor' says nothing to 'model.rope_scaling.type' longrope; leave it "
         "out"},
        {OF("llama", ", rope_scaling: {type: linear, factor: 2" LONG "}", ""),
         "'model.rope_scaling.long_factor' says nothing to 'model.rope_scaling.type' linear; leave "
         "it out"},
    };
    struct ds_error err = {0};
    struct ds_buf out;
    struct ds_job job, again;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        cr_expect_eq(jobs_parse(&job, table[i].text, NULL, &err), -EINVAL, "case %zu", i);
        cr_expect(strstr(err.text, table[i].says) != NULL, "case %zu: %s", i, err.text);
        ds_job_release(&job);
    }
    cr_assert_eq(jobs_parse(&job, LONGROPE(SHORT LONG ", original_context: 8"), NULL, &err), 0,
                 "%s", err.text);
    cr_expect(job.model.shape.rope_long.count == 4 && job.model.shape.rope_long.item[3] == 64.0);
    cr_expect_float_eq(job.model.shape.rope_scale.attention, 1.2909944487358056, 1e-14);
    ds_buf_init(&out, 1 << 16);
    cr_assert_eq(ds_job_write(&job, &out, &err), 0, "%s", err.text);
    cr_assert_eq(jobs_parse(&again, ds_buf_text(&out), NULL, &err), 0, "%s", err.text);
    cr_expect(memcmp(&job.model.shape, &again.model.shape, sizeof(job.model.shape)) == 0);
    ds_buf_release(&out);
    ds_job_release(&job);
    ds_job_release(&again);
}

Test(families, layers_of_two_sorts_have_their_defaults)
{
    struct ds_error err = {0};
    struct ds_job job;

    cr_assert_eq(jobs_parse(&job, OF("gemma3", "", ""), NULL, &err), 0, "%s", err.text);
    cr_expect(job.model.shape.full_every == 6 && job.model.shape.local_theta == 10000.0);
    cr_expect(job.model.shape.tie_embeddings && job.model.shape.query_scalar == 0.0);
    ds_job_release(&job);
    cr_assert_eq(jobs_parse(&job, OF("gemma3", "", ""), "model.full_every=2", &err), 0, "%s",
                 err.text);
    cr_expect_eq(job.model.shape.full_every, 2);
    ds_job_release(&job);
    cr_assert_eq(jobs_parse(&job, OF("smollm3", "", ""), NULL, &err), 0, "%s", err.text);
    cr_expect(job.model.shape.nope_every == 4 && job.model.shape.tie_embeddings);
    ds_job_release(&job);
    cr_assert_eq(jobs_parse(&job, OF("gpt_neox", ", rope_dims: 4", ""), NULL, &err), 0, "%s",
                 err.text);
    cr_expect(job.model.shape.parallel_residual && !job.model.shape.tie_embeddings);
    ds_job_release(&job);
    cr_assert_eq(jobs_parse(&job, OF("granite", ", logits_scaling: 8", ""), NULL, &err), 0, "%s",
                 err.text);
    cr_expect(job.model.shape.embed_scale == 1.0 && job.model.shape.residual_scale == 1.0);
    cr_expect(job.model.shape.attention_scale == 0.0 && job.model.shape.logits_scale == 8.0);
    ds_job_release(&job);
    cr_assert_eq(jobs_parse(&job, SMALL, NULL, &err), 0, "%s", err.text);
    cr_expect(job.model.shape.nope_every == 0);
    cr_expect(job.model.shape.full_every == 0 && job.model.shape.local_theta == 0.0);
    cr_expect_eq(job.model.shape.rope_dims, 0);
    ds_job_release(&job);
}
