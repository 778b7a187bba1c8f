/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * order.c - the contract is in order.h.
 */
#include "runtime/data/order.h"

#include <assert.h>

#include "base/rng.h"

/* A stream that no weight and no permutation has. */
static const uint64_t sets_stream = UINT64_C(0x6d69782073656564);

uint64_t ds_order_seed(uint64_t seed, size_t set)
{
    return set == 0 ? seed : ds_rng_u64(seed, sets_stream, set);
}

uint64_t ds_order_sample(enum ds_data_order order, uint64_t seed, uint64_t samples,
                         uint64_t position)
{
    assert(samples > 0 && order != DS_ORDER_AUTO);
    uint64_t epoch = position / samples, index = position % samples;

    return order == DS_ORDER_SHUFFLE ? ds_rng_permute(index, samples, seed, epoch) : index;
}
