/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_offload.c - what `offload` asks of other keys; the contract is in job_table.h.
 *
 * Tests   tests/job/test_job.c
 */
#include <errno.h>

#include "runtime/job_table.h"

/* Can these states be on a disk? */
static int check_states(const struct ds_job *job, struct ds_error *err)
{
    if (job->optim.kind == DS_OPTIM_LAMB)
        return ds_fail(
            err, EINVAL,
            "'offload.optim' nvme is not for 'optim.name' lamb, which takes the norms of "
            "all tensors before it updates the first and would read its states twice; "
            "use cpu or none");
    if (job->optim.kind == DS_OPTIM_SGD && job->optim.momentum <= 0.0)
        return ds_fail(err, EINVAL,
                       "'offload.optim' nvme has nothing to keep: 'optim.name' sgd has no states "
                       "without 'optim.momentum'; leave it out");
    return 0;
}

/* Can what is computed with be the host's?  It comes as stage 3 gathers, and what is updated is
 * written there: of FP32 that is what the optimizer works on. */
static int check_params(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = 0;

    if (job->offload.params == DS_OFFLOAD_NONE)
        return 0;
    if (job->zero.stage != 3)
        rc = ds_fail(
            err, EINVAL,
            "'offload.params' cpu needs 'zero.stage' 3, which gathers weights for each use, "
            "also on one rank");
    else if (job->precision.compute == DS_COMPUTE_FP32 && job->offload.optim == DS_OFFLOAD_NONE)
        rc = ds_fail(err, EINVAL,
                     "'offload.params' cpu with 'precision.compute' fp32 needs 'offload.optim' cpu "
                     "or nvme: the weights are the optimizer's own");
    return ds_keys_place(keys, "offload.params", rc, err);
}

int ds__job_check_offload(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    bool disk = job->offload.optim == DS_OFFLOAD_NVME;
    int rc = 0;

    if (!ds_keys_given(keys, "checkpoint.async")) /* a copy would hold states in memory */
        job->checkpoint.async = !disk;
    if (disk && job->offload.path == NULL)
        rc = ds_fail(err, EINVAL,
                     "'offload.optim' nvme needs 'offload.path', a folder on a local disk of every "
                     "host");
    else if (disk)
        rc = check_states(job, err);
    rc = ds_keys_place(keys, "offload.optim", rc, err);
    return rc == 0 ? check_params(job, keys, err) : rc;
}
