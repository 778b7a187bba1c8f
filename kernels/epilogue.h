/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * epilogue.h - a matrix product with an epilogue as a product and an operation after it.
 *
 * For backends, where their products cannot do it themselves: the same bits as the two calls.
 *
 * Tests   tests/kernels/test_epilogue.c
 */
#ifndef DS_KERNELS_EPILOGUE_H
#define DS_KERNELS_EPILOGUE_H

#include "kernels/op.h"

static inline bool ds__has_epilogue(const struct ds_matmul_args *a)
{
    return a->epilogue != DS_EPILOGUE_NONE || a->dbias != NULL;
}

/* The product alone: its D is what the epilogue begins with. */
struct ds_matmul_args ds__epilogue_product(const struct ds_matmul_args *args);

/* The epilogue of `args` after that product, by the operations of the stream's backend. */
int ds__epilogue_apply(const struct ds_matmul_args *args, struct ds_stream *stream,
                       struct ds_error *err) DS_NODISCARD;

#endif
