/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rows and products of experts of kernels/cuda/ by the tests of the CPU's.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_experts.c"
