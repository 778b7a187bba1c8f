/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * order.c - the contract is in order.h.
 */
#include "runtime/data/order.h"

#include <assert.h>

#include "base/rng.h"

uint64_t ds_order_sample(enum ds_data_order order, uint64_t seed, uint64_t samples,
                         uint64_t position)
{
    assert(samples > 0);
    uint64_t epoch = position / samples, index = position % samples;

    return order == DS_ORDER_SHUFFLE ? ds_rng_permute(index, samples, seed, epoch) : index;
}
