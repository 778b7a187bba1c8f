/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_offload.c - what jobs say of states and parameters elsewhere, and what of that is wrong.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "tests/job/jobs.h"

/* clang-format off */
static const struct jobs_wrong wrongs[] = {
    {SMALL, "offload.optim=nvme", EINVAL,
     "override 'offload.optim=nvme': 'offload.optim' nvme needs 'offload.path', a folder on a local disk of every host"},
    {SMALL "offload: {path: '', optim: nvme}\n", NULL, EINVAL,
     "job.yaml:14:17: 'offload.path' must not be empty"},
    {SMALL "offload: {path: /x, optim: nvme}\n", "optim.name=lamb", EINVAL,
     "job.yaml:14:28: 'offload.optim' nvme is not for 'optim.name' lamb, which takes the norms of all tensors before it updates the first and would read its states twice; use cpu or none"},
    {SMALL "offload: {path: /x, optim: nvme}\n", "optim.name=sgd", EINVAL,
     "job.yaml:14:28: 'offload.optim' nvme has nothing to keep: 'optim.name' sgd has no states without 'optim.momentum'; leave it out"},
    {SMALL "activation: {offload: cpu}\n", NULL, EINVAL,
     "job.yaml:14:23: 'activation.offload' cpu needs 'activation.recompute' full, with which layers keep their inputs alone"},
    {SMALL "activation: {offload: cpu}\n", "activation.recompute=selective", EINVAL,
     "override 'activation.recompute=selective': 'activation.offload' cpu needs 'activation.recompute' full, with which layers keep their inputs alone"},
    {SMALL, "offload.params=nvme", EINVAL,
     "override 'offload.params=nvme': 'offload.params' must be 'none' or 'cpu', not 'nvme'"},
    {SMALL "offload: {params: cpu}\n", "zero.stage=2", EINVAL,
     "job.yaml:14:19: 'offload.params' cpu needs 'zero.stage' 3, which gathers weights for each use, also on one rank"},
    {SMALL "offload: {params: cpu}\n", "zero.stage=3", EINVAL,
     "job.yaml:14:19: 'offload.params' cpu with 'precision.compute' fp32 needs 'offload.optim' cpu or nvme: the weights are the optimizer's own"},
    {SMALL, "offload.optim=disk", EINVAL,
     "override 'offload.optim=disk': 'offload.optim' must be 'none', 'cpu' or 'nvme', not 'disk'"},
};
/* clang-format on */

Test(offload, each_job_that_cannot_be_ends_with_its_sentence)
{
    jobs_expect_wrong(wrongs, sizeof(wrongs) / sizeof(wrongs[0]));
}

Test(offload, parameters_go_with_what_has_another_type_or_the_same_owner)
{
    static const char *const words[] = {"precision.compute=bf16", "offload.optim=cpu"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct ds_error err = {0};
        struct ds_job job;

        cr_assert_eq(
            jobs_parse(&job, SMALL "zero: {stage: 3}\noffload: {params: cpu}\n", words[i], &err), 0,
            "%s", err.text);
        cr_expect(job.offload.params == DS_OFFLOAD_CPU && job.zero.stage == 3);
        ds_job_release(&job);
    }
}
