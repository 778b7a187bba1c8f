/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * flags.h - what the ranks tell each other at the end of a step: a few numbers, summed over ranks.
 *
 * Tests   tests/engine/test_engine.c
 */
#ifndef DS_RUNTIME_FLAGS_H
#define DS_RUNTIME_FLAGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/engine.h"
#include "runtime/tally.h"

/* This rank's. */
void ds_flags_write(double flags[DS_STEP_FLAGS], uint64_t plan_hash,
                    const struct ds_tally_result *mine, bool stop, bool writing);

/* Of all ranks; result->bad is not known yet.  -EPROTO: their plans differ. */
int ds_flags_read(const double flags[DS_STEP_FLAGS], const struct ds_plan *plan,
                  uint64_t step_tokens, double loss_scale, struct ds_step_result *result,
                  struct ds_error *err) DS_NODISCARD;

/* For ds_tally_find_bad(). */
double ds_flags_first_bad(const double flags[DS_STEP_FLAGS]);

#endif
