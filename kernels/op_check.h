/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * op_check.h - the one place where arguments of operations are checked.
 *
 * Each operation has a ds__check_<op>() that tells what is wrong with its arguments, or NULL.
 *
 * Tests   tests/kernels/test_op.c, test_refused.c
 */
#ifndef DS_KERNELS_OP_CHECK_H
#define DS_KERNELS_OP_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/op.h"

#define X(id, fn) const char *ds__check_##fn(const struct ds_##fn##_args *a);
DS_OPS(X)
#undef X

static inline bool ds__is_act(enum ds_dtype type)
{
    return type == DS_F32 || type == DS_BF16 || type == DS_F16;
}

/* Would rows x columns elements of 8 bytes overflow the address space? */
static inline bool ds__too_big(size_t rows, size_t columns)
{
    return columns != 0 && rows > (size_t)PTRDIFF_MAX / 8 / columns;
}

#endif
