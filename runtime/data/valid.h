/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * valid.h - what a job is evaluated on: data without a name, or several with one each.
 *
 * Each is data of its own (data.h), a mixture maybe, read in order from its beginning: what is said
 * of it does not depend on the others.
 *
 * Tests   tests/data/test_valid.c, tests/e2e/valid.py
 */
#ifndef DS_RUNTIME_DATA_VALID_H
#define DS_RUNTIME_DATA_VALID_H

#include "runtime/data/data.h"

enum { DS_VALID_WHAT = DS_MAX_NAME + 16 };

struct ds_valid_set {
    const char *name; /* of the job; NULL: none, and there is no other */
    struct ds_data *data;
    double loss; /* for who evaluates */
};

struct ds_valid {
    size_t count; /* 0: nothing is evaluated */
    struct ds_valid_set *set;
};

/* All of data.valid, which is borrowed. */
int ds_valid_open(struct ds_valid *valid, const struct ds_job *job, struct ds_error *err)
    DS_NODISCARD;
void ds_valid_close(struct ds_valid *valid); /* fine on a zeroed struct */

/* What it is called in messages: "data.valid.NAME". */
const char *ds_valid_what(const char *name, char what[DS_VALID_WHAT]);

#endif
