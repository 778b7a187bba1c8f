/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_frozen.c - what jobs say of adapters and of tensors that stay: what follows from it, and what is
 * wrong.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/job/jobs.h"

/* clang-format off */
static const struct jobs_wrong wrongs[] = {
    {SMALL, "lora.rank=8", EINVAL,
     "override 'lora.rank=8': 'lora.rank' keeps weights as they are and so needs 'model.init.from'; set it to a folder that has them"},
    {SMALL, "train.freeze=*.bias", EINVAL,
     "override 'train.freeze=*.bias': 'train.freeze' keeps weights as they are and so needs 'model.init.from'; set it to a folder that has them"},
    {SMALL, "lora.alpha=8", EINVAL, "override 'lora.alpha=8': 'lora.alpha' says nothing without 'lora.rank'; set that, 16 is usual"},
    {SMALL, "lora.rslora=true", EINVAL, "override 'lora.rslora=true': 'lora.rslora' says nothing without 'lora.rank'; set that, 16 is usual"},
    {SMALL, "lora.dropout=0.1", EINVAL, "override 'lora.dropout=0.1': 'lora.dropout' says nothing without 'lora.rank'; set that, 16 is usual"},
    {SMALL, "lora.targets=c_fc", EINVAL, "override 'lora.targets=c_fc': 'lora.targets' says nothing without 'lora.rank'; set that, 16 is usual"},
    {SMALL, "lora.whole=x", EINVAL, "override 'lora.whole=x': 'lora.whole' says nothing without 'lora.rank'; set that, 16 is usual"},
    {SMALL "lora: {rank: 8, targets: [c_fc, q_proj]}\n", NULL, EINVAL,
     "job.yaml:14:26: 'lora.targets' has 'q_proj', and gpt2 has no such matrix outside experts; there are attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj"},
    {SMALL "lora: {rank: 8}\n", "train.freeze=x", EINVAL,
     "override 'train.freeze=x': 'train.freeze' says nothing beside 'lora.rank', with which nothing but adapters and 'lora.whole' is trained; leave it out"},
    {SMALL "lora: {rank: 8}\n", "lora.alpha=0", EINVAL, "override 'lora.alpha=0': 'lora.alpha' must be above 0"},
};
/* clang-format on */

Test(frozen, each_job_that_cannot_be_ends_with_its_sentence)
{
    jobs_expect_wrong(wrongs, sizeof(wrongs) / sizeof(wrongs[0]));
}

Test(frozen, without_a_rank_there_are_no_adapters)
{
    struct ds_error err = {0};
    struct ds_job job;

    cr_assert_eq(jobs_parse(&job, SMALL, NULL, &err), 0, "%s", err.text);
    cr_expect(job.lora.rank == 0 && job.model.shape.lora.rank == 0 &&
              job.model.shape.lora.targets == 0 && job.train.freeze.count == 0);
    ds_job_release(&job);
}
