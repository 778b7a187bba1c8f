/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_frozen.c - what is not trained, and adapters in its place; for job_check.c.
 *
 * Tests   tests/job/test_wrong.c, tests/job/test_job.c
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/job_blame.h"
#include "runtime/job_table.h"
#include "runtime/model/model.h"

/* Names of the matrices that adapters can be for: "q_proj, k_proj". */
static void target_names(const struct ds_model_shape *shape, char *out, size_t cap)
{
    size_t used = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < DS_ADAPTED_COUNT && used < cap; i++) {
        char path[DS_MAX_TENSOR_NAME + 1];

        if (ds_model_target_name(shape, (enum ds_adapted)i, path))
            used += (size_t)snprintf(out + used, cap - used, "%s%s", used > 0 ? ", " : "", path);
    }
}

static int take_targets(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    struct ds_model_shape *shape = &job->model.shape;
    char names[300], path[DS_MAX_TENSOR_NAME + 1];

    for (unsigned i = 0; job->lora.targets.count == 0 && i < DS_ADAPTED_COUNT; i++)
        if (ds_model_target_name(shape, (enum ds_adapted)i, path))
            shape->lora.targets |= 1U << i;
    for (size_t i = 0; i < job->lora.targets.count; i++) {
        unsigned targets = ds_model_targets(shape, job->lora.targets.item[i]);

        shape->lora.targets |= targets;
        if (targets != 0)
            continue;
        target_names(shape, names, sizeof(names));
        return FAIL_AT(keys, "lora.targets", EINVAL,
                       "'lora.targets' has '%.60s', and %s has no such matrix outside experts; "
                       "there are %s",
                       job->lora.targets.item[i], ds_arch_name(shape->arch), names);
    }
    return 0;
}

/* Without a rank nothing else is said. */
static int check_silent(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct {
        const char *path;
        bool says;
    } table[] = {{"lora.alpha", job->lora.alpha > 0.0},
                 {"lora.rslora", job->lora.rslora},
                 {"lora.dropout", job->lora.dropout > 0.0},
                 {"lora.targets", job->lora.targets.count > 0},
                 {"lora.whole", job->lora.whole.count > 0}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (ds_keys_given(keys, table[i].path) && table[i].says)
            return FAIL_AT(keys, table[i].path, EINVAL,
                           "'%s' says nothing without 'lora.rank'; set that, 16 is usual",
                           table[i].path);
    return 0;
}

static int take_lora(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    struct ds_lora *lora = &job->model.shape.lora;

    *lora = (struct ds_lora){
        .rank = job->lora.rank, .dropout = job->lora.dropout, .by_root = job->lora.rslora};
    if (job->lora.rank == 0)
        return check_silent(job, keys, err);
    if (!ds_keys_given(keys, "lora.alpha"))
        job->lora.alpha = (double)job->lora.rank;
    if (!(job->lora.alpha > 0.0))
        return FAIL_AT(keys, "lora.alpha", EINVAL, "'lora.alpha' must be above 0");
    lora->alpha = job->lora.alpha;
    if (job->train.freeze.count > 0)
        return FAIL_AT(keys, ds__job_blame(keys, "train.freeze", "lora.rank"), EINVAL,
                       "'train.freeze' says nothing beside 'lora.rank', with which nothing but "
                       "adapters and 'lora.whole' is trained; leave it out");
    return take_targets(job, keys, err);
}

int ds__job_check_frozen(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = take_lora(job, keys, err);
    const char *path = job->lora.rank > 0 ? "lora.rank" : "train.freeze";

    if (rc != 0 || (job->lora.rank == 0 && job->train.freeze.count == 0))
        return rc;
    if (job->model.init_from == NULL)
        return FAIL_AT(keys, path, EINVAL,
                       "'%s' keeps weights as they are and so needs 'model.init.from'; set it to a "
                       "folder that has them",
                       path);
    return 0;
}
