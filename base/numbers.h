/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * numbers.h - a short list of numbers that lies where it is needed: copied as any struct is.
 *
 * Tests   tests/base/test_keys.c
 */
#ifndef DS_BASE_NUMBERS_H
#define DS_BASE_NUMBERS_H

#include <stdint.h>

#include "base/limits.h"

struct ds_numbers { /* behind `count` of them are zeros */
    uint64_t count;
    double item[DS_MAX_NUMBERS];
};

#endif
