/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_blame.h - which key is to blame where several do not fit, and values that would do; for the
 * checks of a job.
 */
#ifndef DS_RUNTIME_JOB_BLAME_H
#define DS_RUNTIME_JOB_BLAME_H

#include "runtime/job_table.h"

/* Fail at the place of `path`. */
#define FAIL_AT(keys, path, code, ...)                                                             \
    ds_keys_place((keys), (path), ds_fail(err, (code), __VA_ARGS__), err)

/* "3", or "2 or 4": the nearest divisors of `of` on both sides of `near`, at most `most`. */
void ds__job_near_divisors(uint64_t of, uint64_t near, uint64_t most, char *out, size_t cap);
/* The same for multiples of `unit`. */
void ds__job_near_multiples(uint64_t unit, uint64_t near, char *out, size_t cap);

/* Which of two keys that do not fit is to blame: the one that was overridden, else `first`. */
const char *ds__job_blame(const struct ds_keys *keys, const char *first, const char *second);

#endif
