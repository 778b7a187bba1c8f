/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_families.c - keys that are of some families only: what they are where nothing is said, and
 * what is refused.
 */
#include <criterion/criterion.h>
#include <stdio.h>

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
        {SMALL, "model.rope_dims=4", "'model.rope_dims' is for phi3, not for gpt2; leave it out"},
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
        {OF("olmo2", "", ""), "model.window=8",
         "'model.window' is not for olmo2, whose published models have none; leave it out"},
        {OF("gemma3", "", ""), "model.full_every=0",
         "'model.full_every' must be at least 1 for gemma3"},
        {OF("gemma3", "", ""), "model.rope_local_theta=0",
         "'model.rope_local_theta' must be above 0 for gemma3"},
        {OF("gemma3", ", window: 8", ", documents: apart, separator: 5"), NULL,
         "job.yaml:3:33: 'data.documents' apart is not for gemma3, of whose layers some see all "
         "and some do not; use together"},
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
    cr_assert_eq(jobs_parse(&job, SMALL, NULL, &err), 0, "%s", err.text);
    cr_expect(job.model.shape.full_every == 0 && job.model.shape.local_theta == 0.0);
    cr_expect_eq(job.model.shape.rope_dims, 0);
    ds_job_release(&job);
}
