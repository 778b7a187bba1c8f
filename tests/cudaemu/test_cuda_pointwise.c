/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * GELU, SwiGLU and casts of kernels/cuda/ by the tests of the CPU's.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_pointwise.c"
