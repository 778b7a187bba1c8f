/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * philox.h - Philox4x32-10, one round at a time.
 *
 * Macros: one block, many blocks in a loop that the compiler vectorises, and a CUDA thread each
 * have the words where suits them, and all must draw the same ones.
 *
 * Source  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11
 */
#ifndef DS_BASE_PHILOX_H
#define DS_BASE_PHILOX_H

#include <stdint.h>

enum { DS_PHILOX_ROUNDS = 10 };

/* The counter's words x0 to x3, lvalues of 32 bits without sign, under the key k0, k1. */
#define DS_PHILOX_ROUND(x0, x1, x2, x3, k0, k1)                                                    \
    do {                                                                                           \
        const uint64_t product0 = (uint64_t)0xd2511f53U * (x0);                                    \
        const uint64_t product2 = (uint64_t)0xcd9e8d57U * (x2);                                    \
                                                                                                   \
        (x0) = (uint32_t)(product2 >> 32) ^ (x1) ^ (k0);                                           \
        (x1) = (uint32_t)product2;                                                                 \
        (x2) = (uint32_t)(product0 >> 32) ^ (x3) ^ (k1);                                           \
        (x3) = (uint32_t)product0;                                                                 \
    } while (0)

/* Between rounds: Weyl sequences of the golden ratio and of the square root of 3. */
#define DS_PHILOX_NEXT_KEY(k0, k1) ((k0) += 0x9e3779b9U, (k1) += 0xbb67ae85U)

#endif
