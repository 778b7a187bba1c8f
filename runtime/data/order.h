/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * order.h - which sample stands at which position of an endless run.
 *
 * Pure arithmetic: the answer depends on nothing but the arguments, so ranks need not agree on
 * anything, and a resumed run reads on where the first one stopped.
 *
 * Tests   tests/data/test_order.c
 */
#ifndef DS_RUNTIME_DATA_ORDER_H
#define DS_RUNTIME_DATA_ORDER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/job.h"

/* The sample (below `samples`, which is >= 1) at `position`; `order` is not auto.  Every run of
 * `samples` positions from a multiple of `samples` is an epoch and holds each sample once; under
 * DS_ORDER_SHUFFLE every epoch has its own permutation. */
uint64_t ds_order_sample(enum ds_data_order order, uint64_t seed, uint64_t samples,
                         uint64_t position);

/* The seed of a data set's own permutations; the first has that of the run. */
uint64_t ds_order_seed(uint64_t seed, size_t set);

#endif
