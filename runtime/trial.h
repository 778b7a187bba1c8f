/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trial.h - some steps of a job in one layout after the other, in the same processes: dsrun tune.
 *
 * Rank 0 tells one metric for each trial, {"trial":0,"step_ms":12.5}: the median of a few steps
 * after the first ones, from a barrier to the next.  Nothing is written to disk.
 *
 * Tests   tests/e2e/tune.py
 */
#ifndef DS_RUNTIME_TRIAL_H
#define DS_RUNTIME_TRIAL_H

#include "runtime/spec.h"
#include "runtime/train.h"

/* `args` as for ds_train(), its job the one without overrides.  -EINVAL a trial that is no job. */
int ds_trials(const struct ds_train_args *args, const struct ds_run_spec *spec,
              struct ds_error *err) DS_NODISCARD;

#endif
