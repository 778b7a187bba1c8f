/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The order of pairs and rows in it of kernels/cuda/ by the tests of the CPU's.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_pairs.c"
