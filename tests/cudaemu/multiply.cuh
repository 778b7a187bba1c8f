/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * multiply.cuh - the small products of which those of warps and warpgroups are made.
 */
#ifndef DS_TESTS_CUDAEMU_MULTIPLY_CUH
#define DS_TESTS_CUDAEMU_MULTIPLY_CUH

#include <stddef.h>

/* c += a b.  Most of the time of an emulated attention goes here; the bounds are those of the types. */
template <size_t M, size_t K, size_t N>
__attribute__((optimize("O3"), no_sanitize("address", "undefined"))) static void multiply(
    const float (&a)[M][K], const float (&b)[K][N], float (&c)[M][N])
{
    for (size_t row = 0; row < M; row++) {
        for (size_t k = 0; k < K; k++) {
            for (size_t column = 0; column < N; column++)
                c[row][column] += a[row][k] * b[k][column];
        }
    }
}

#endif
