/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * flags.h - what the ranks tell each other at the end of a step where the hosts decide: a few
 * numbers, summed over ranks.
 *
 * Tests   tests/engine/test_engine.c
 */
#ifndef DS_RUNTIME_FLAGS_H
#define DS_RUNTIME_FLAGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/op.h"
#include "runtime/comm/comm.h"
#include "runtime/plan/plan.h"

/* *mine of every rank becomes *all; `bad` is the first tensor of any rank that is not finite, as
 * ds_tally_bad() tells this rank's.  Collective.  all->differs: their plans do. */
int ds_flags_sum(const struct ds_plan *plan, struct ds_comm *comm, const struct ds_entry *mine,
                 struct ds_entry *all, size_t *bad, struct ds_error *err) DS_NODISCARD;

#endif
