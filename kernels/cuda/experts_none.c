/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts_none.c - operations on experts that this backend does not have.
 */
#include "kernels/cuda/cuda.h"

#include <errno.h>

/* clang-format off */
#define NONE(fn) \
    int ds__cuda_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream, \
                      struct ds_error *err) \
    { \
        (void)args; \
        (void)stream; \
        return ds_fail(err, ENOTSUP, "device 'cuda' lacks operation '%s'", #fn); \
    }
NONE(swiglu_rows_fwd)
NONE(swiglu_rows_bwd)
NONE(route)
NONE(route_bwd)
NONE(rows_take)
NONE(rows_sum)
NONE(experts_matmul)
#undef NONE
/* clang-format on */
