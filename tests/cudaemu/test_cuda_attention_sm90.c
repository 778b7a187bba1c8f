/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Attention of kernels/cuda/ on a device of compute capability 9.0 by the tests of the CPU's.
 */
#define DS_TESTS_CAPABILITY 90
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_attention.c"
