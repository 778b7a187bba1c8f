/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * FP8 of kernels/cuda/ by the tests of the CPU's; and the two backends byte by byte.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_fp8.c"
