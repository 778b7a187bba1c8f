/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rng.h - random numbers that are a pure function of (seed, stream, index).
 *
 * Philox4x32-10: no state, so any rank can compute any number at any time and
 * a resumed run draws what an uninterrupted one would have drawn.
 *
 * Source  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11.
 * Tests   tests/base/test_rng.c (the paper's known answers)
 */
#ifndef DS_BASE_RNG_H
#define DS_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* Ten rounds of Philox on counter `ctr` with key `key`. */
void ds_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

/* 64 random bits for (seed, stream, index). */
uint64_t ds_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);

/* Element `index` of a normal(0, 1) stream (Box-Muller on one Philox block per 2 values). */
float ds_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* n elements of the normal stream from `first`, times `std`.  Same values as ds_rng_normal(). */
void ds_rng_fill_normal(float *out, size_t n, uint64_t seed, uint64_t stream, uint64_t first,
                        float std);

/* Position of `index` in a pseudo-random permutation of 0 .. n-1 (n >= 1, index < n);
 * a bijection for every (seed, stream): a Feistel network walked until it lands below n. */
uint64_t ds_rng_permute(uint64_t index, uint64_t n, uint64_t seed, uint64_t stream);

#endif
