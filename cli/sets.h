/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sets.h - the data sets of a job as commands see them: are they there, how much of each does a run
 * take, and how many steps is that?
 *
 * Tests   tests/e2e/mix.py, tests/e2e/epochs.py
 */
#ifndef DS_CLI_SETS_H
#define DS_CLI_SETS_H

#include "base/json.h"
#include "cli/cli.h"
#include "runtime/job.h"

struct ds_cli_sets {                    /* of data.train; plain data */
    uint64_t taken[DS_MAX_DATA_SETS];   /* sequences, over all steps of the job */
    uint64_t samples[DS_MAX_DATA_SETS]; /* of an epoch; 0: not known */
};

/* Open the data of `job` for a moment; text that is to be tokenized is looked for alone.  `sets`
 * learns what there is. */
int ds_cli_sets_check(const struct ds_job *job, struct ds_cli_sets *sets, struct ds_error *err)
    DS_NODISCARD;

/* The steps of a job that says train.epochs; another is left as it is.  Text that is to be
 * tokenized is, unless `look` says that nothing may be made: then its ids must be there. */
int ds_cli_sets_settle(const struct ds_cli *cli, struct ds_job *job, bool look,
                       struct ds_error *err) DS_NODISCARD;

/* How many sequences of each set the job takes, from the weights alone: what there is of them is
 * not known then. */
int ds_cli_sets_count(const struct ds_job *job, struct ds_cli_sets *sets, struct ds_error *err)
    DS_NODISCARD;

/* A line for each set where there are several, else nothing. */
void ds_cli_sets_print(const struct ds_job *job, const struct ds_cli_sets *sets,
                       struct ds_buf *out);
/* The same as a list "data_train" in an object. */
void ds_cli_sets_json(const struct ds_job *job, const struct ds_cli_sets *sets,
                      struct ds_json *json);

#endif
