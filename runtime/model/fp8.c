/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fp8.c - the products of a layer in FP8: operands become codes just before, in one buffer.
 *
 *   forward   y  = x W       x and W of E4M3
 *   backward  dW = x^T dy    x of E4M3, dy of E5M2, which has more exponents
 *             dx = dy W^T    the same codes of dy
 *
 * Each tensor has one scale, from the largest element that it has now, so nothing is kept from step
 * to step: a step that is computed again has the same bits, wherever it is.  Who looks for that
 * element reads all of the tensor once more: SwiGLU finds it as it writes, the backward pass has it
 * from the forward one, and later micro-batches of a step have that of the weights.
 *
 * A weight that is frozen has no product of its own on the way back; codes of dy are made all the
 * same, for dx.  What adapters add is computed in the activations' type, beside.
 *
 * Matrix units want both operands with the inner dimension last, so what lies the other way is
 * turned while it is cast.  Sums of gradients are in F32 as far as a device has that; forward it
 * may take its faster ones.
 *
 * Buffer   DS_MODEL_FP8_SCALES bytes for scales, DS_FP8_UNIT each; forward x and W; backward dy, dy
 *          turned, and x turned or W.  ds_model_fp8_bytes() is the sum.
 * Source   Micikevicius et al., "FP8 Formats for Deep Learning", 2022
 * Tests    tests/engine/test_fp8.c
 */
#include "runtime/model/net.h"

static float *scale_of(const struct ds_linear *linear, enum ds_fp8_operand operand)
{
    return (float *)(void *)((uint8_t *)linear->codes + DS_FP8_UNIT * operand);
}

static uint8_t *place(const struct ds_linear *linear, size_t at)
{
    return (uint8_t *)linear->codes + DS_MODEL_FP8_SCALES + at;
}

/* Codes of an operand, after its largest element, where nothing has found that before. */
static int cast(const struct ds_net *net, const struct ds_linear *linear,
                enum ds_fp8_operand operand, struct ds_fp8_cast_args args, struct ds_error *err)
{
    const struct ds_largest_args largest = {.n = args.rows * args.cols,
                                            .act = net->act,
                                            .x = args.x,
                                            .largest = &linear->largest[operand]};
    int rc = linear->known >> operand & 1 ? 0 : ds_largest(&largest, net->stream, err);

    args.act = net->act;
    args.largest = largest.largest;
    args.scale = scale_of(linear, operand);
    return rc != 0 ? rc : ds_fp8_cast(&args, net->stream, err);
}

/* Codes of the weights with the dimension last that is summed over: `in`, or `out`. */
static int cast_weights(const struct ds_net *net, const struct ds_linear *linear, bool sums_in,
                        uint8_t *to, struct ds_error *err)
{
    bool weight_out = net->family->weight_out, there = weight_out == sums_in;
    const struct ds_fp8_cast_args args = {
        .rows = weight_out ? linear->out : linear->in,
        .cols = weight_out ? linear->in : linear->out,
        .type = DS_E4M3,
        .x = linear->weight,
        .codes = there ? to : NULL,
        .turned = there ? NULL : to,
    };

    return cast(net, linear, DS_FP8_WEIGHTS, args, err);
}

int ds__fp8_fwd(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                const void *residual, void *y, struct ds_error *err)
{
    uint8_t *rows = place(linear, 0), *weights = place(linear, linear->rows * linear->in);
    const struct ds_fp8_cast_args cast_x = {
        .rows = linear->rows, .cols = linear->in, .type = DS_E4M3, .x = x, .codes = rows};
    const struct ds_matmul_args product = {
        .m = linear->rows,
        .n = linear->out,
        .k = linear->in,
        .trans_b = true,
        .in_type = DS_U8,
        .out_type = net->act,
        .fp8 = {DS_E4M3, DS_E4M3, scale_of(linear, DS_FP8_ROWS), scale_of(linear, DS_FP8_WEIGHTS),
                true},
        .a = rows,
        .b = weights,
        .lda = linear->in,
        .ldb = linear->in,
        .c = residual,
        .ldc = linear->out,
        .d = y,
        .ldd = linear->out,
        .bias = linear->bias,
        .epilogue = linear->gelu_x != NULL ? DS_EPILOGUE_GELU : DS_EPILOGUE_NONE,
        .gelu_x = linear->gelu_x,
    };
    int rc = cast(net, linear, DS_FP8_ROWS, cast_x, err);

    if (rc == 0)
        rc = cast_weights(net, linear, true, weights, err);
    return rc != 0 ? rc : ds_matmul(&product, net->stream, err);
}

int ds__fp8_bwd_w(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                  const void *dy, bool accumulate, struct ds_error *err)
{
    bool weight_out = net->family->weight_out;
    size_t wide = linear->rows * linear->out;
    uint8_t *gradients = place(linear, wide), *rows = place(linear, 2 * wide);
    const struct ds_fp8_cast_args cast_dy = {
        .rows = linear->rows,
        .cols = linear->out,
        .type = DS_E5M2,
        .x = dy,
        .codes = place(linear, 0),
        .turned = linear->dweight != NULL ? gradients : NULL,
    };
    const struct ds_fp8_cast_args cast_x = {
        .rows = linear->rows, .cols = linear->in, .type = DS_E4M3, .x = x, .turned = rows};
    const struct ds_fp8_operands in_out = {DS_E4M3, DS_E5M2, scale_of(linear, DS_FP8_ROWS),
                                           scale_of(linear, DS_FP8_GRADIENTS), false};
    const struct ds_fp8_operands out_in = {DS_E5M2, DS_E4M3, scale_of(linear, DS_FP8_GRADIENTS),
                                           scale_of(linear, DS_FP8_ROWS), false};
    size_t cols = weight_out ? linear->in : linear->out;
    const struct ds_matmul_args product = {
        .m = weight_out ? linear->out : linear->in,
        .n = cols,
        .k = linear->rows,
        .trans_b = true,
        .in_type = DS_U8,
        .out_type = DS_F32,
        .fp8 = weight_out ? out_in : in_out,
        .a = weight_out ? gradients : rows,
        .b = weight_out ? rows : gradients,
        .lda = linear->rows,
        .ldb = linear->rows,
        .c = accumulate ? linear->dweight : NULL,
        .ldc = cols,
        .d = linear->dweight,
        .ldd = cols,
    };
    int rc = cast(net, linear, DS_FP8_GRADIENTS, cast_dy, err);

    if (rc != 0 || linear->dweight == NULL)
        return rc;
    rc = cast(net, linear, DS_FP8_ROWS, cast_x, err);
    return rc != 0 ? rc : ds_matmul(&product, net->stream, err);
}

int ds__fp8_bwd_x(const struct ds_net *net, const struct ds_linear *linear, void *dx,
                  struct ds_error *err)
{
    uint8_t *weights = place(linear, 2 * linear->rows * linear->out);
    const struct ds_matmul_args product = {
        .m = linear->rows,
        .n = linear->in,
        .k = linear->out,
        .trans_b = true,
        .in_type = DS_U8,
        .out_type = net->act,
        .fp8 = {DS_E5M2, DS_E4M3, scale_of(linear, DS_FP8_GRADIENTS),
                scale_of(linear, DS_FP8_WEIGHTS), false},
        .a = place(linear, 0),
        .b = weights,
        .lda = linear->out,
        .ldb = linear->out,
        .c = linear->dx_more,
        .ldc = linear->in,
        .d = dx,
        .ldd = linear->in,
        .epilogue = linear->gelu_x != NULL ? DS_EPILOGUE_GELU_BWD : DS_EPILOGUE_NONE,
        .gelu_x = linear->gelu_x,
    };
    int rc = cast_weights(net, linear, false, weights, err);

    return rc != 0 ? rc : ds_matmul(&product, net->stream, err);
}
