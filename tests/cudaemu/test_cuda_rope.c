/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Rotary positions of kernels/cuda/ by the tests of the CPU's.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_rope.c"
