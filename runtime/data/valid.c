/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * valid.c - the contract is in valid.h.
 */
#include "runtime/data/valid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const char *ds_valid_what(const char *name, char what[DS_VALID_WHAT])
{
    (void)snprintf(what, DS_VALID_WHAT, "data.valid%s%.*s", name == NULL ? "" : ".", DS_MAX_NAME,
                   name == NULL ? "" : name);
    return what;
}

static int open_set(struct ds_valid_set *set, const struct ds_job *job, const struct ds_rows *rows,
                    struct ds_error *err)
{
    char what[DS_VALID_WHAT];
    const struct ds_data_args args = {.what = ds_valid_what(set->name, what),
                                      .sets = rows,
                                      .format = job->data.format,
                                      .order = DS_ORDER_SEQUENTIAL,
                                      .sequence = job->train.sequence,
                                      .vocab = job->model.shape.vocab,
                                      .seed = job->seed};

    return ds_data_open(&set->data, &args, err);
}

int ds_valid_open(struct ds_valid *valid, const struct ds_job *job, struct ds_error *err)
{
    struct ds_rows rows;
    size_t at = 0;
    int rc = 0;

    *valid = (struct ds_valid){.set = calloc(job->data.valid.count + 1, sizeof(*valid->set))};
    if (valid->set == NULL)
        return ds_fail(err, ENOMEM, "no memory for a list of data sets");
    while (rc == 0 && ds_job_next_valid(job, &at, &rows)) {
        struct ds_valid_set *set = &valid->set[valid->count++];

        set->name = ((const struct ds_data_set *)rows.row)->name;
        rc = open_set(set, job, &rows, err);
    }
    if (rc != 0)
        ds_valid_close(valid);
    return rc;
}

void ds_valid_close(struct ds_valid *valid)
{
    for (size_t i = 0; i < valid->count; i++)
        ds_data_close(valid->set[i].data);
    free(valid->set);
    *valid = (struct ds_valid){0};
}
