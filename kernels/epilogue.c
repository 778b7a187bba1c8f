/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * epilogue.c - the contract is in epilogue.h.
 */
#include "kernels/epilogue.h"

#include "kernels/backend.h"

struct ds_matmul_args ds__epilogue_product(const struct ds_matmul_args *args)
{
    struct ds_matmul_args product = *args;

    if (args->epilogue == DS_EPILOGUE_GELU)
        product.d = args->gelu_x;
    product.epilogue = DS_EPILOGUE_NONE;
    product.gelu_x = NULL;
    product.dbias = NULL;
    return product;
}

static int bias_bwd(const struct ds_matmul_args *a, struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_bias_bwd_args args = {.rows = a->k,
                                          .n = a->n,
                                          .act = a->in_type,
                                          .dy = a->b,
                                          .dbias = a->dbias,
                                          .accumulate = a->accumulate_dbias};

    return stream->kernels->bias_bwd(&args, stream, err);
}

int ds__epilogue_apply(const struct ds_matmul_args *a, struct ds_stream *stream,
                       struct ds_error *err)
{
    const struct ds_gelu_fwd_args gelu = {
        .n = a->m * a->n, .act = a->out_type, .x = a->gelu_x, .y = a->d};
    const struct ds_gelu_bwd_args back = {
        .n = a->m * a->n, .act = a->out_type, .x = a->gelu_x, .dy = a->d, .dx = a->d};

    if (a->dbias != NULL)
        return bias_bwd(a, stream, err);
    switch (a->epilogue) {
    case DS_EPILOGUE_GELU: return stream->kernels->gelu_fwd(&gelu, stream, err);
    case DS_EPILOGUE_GELU_BWD: return stream->kernels->gelu_bwd(&back, stream, err);
    case DS_EPILOGUE_NONE: break;
    }
    return 0;
}
