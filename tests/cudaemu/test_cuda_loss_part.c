/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Cross-entropy over columns that ranks share of kernels/cuda/ by the tests of the CPU's.
 */
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_loss_part.c"
