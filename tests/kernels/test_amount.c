/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_amount.c - FLOPs and bytes of each operation, counted by hand for one small shape.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "kernels/amount.h"

static char there[1];
static uint32_t place;

static void expect(enum ds_op op, const void *args, double flops, double bytes, const char *shape)
{
    struct ds_amount got = ds_op_amount(op, args);
    char text[DS_OP_SHAPE_BYTES];

    cr_assert(got.flops == flops && got.bytes == bytes, "%s: %g FLOPs, %g bytes", ds_op_name(op),
              got.flops, got.bytes);
    ds_op_shape(op, args, text);
    cr_assert_str_eq(text, shape);
}

#define EXPECT(id, fn, flops, bytes, shape, ...)                                                   \
    do {                                                                                           \
        const struct ds_##fn##_args args = {__VA_ARGS__};                                          \
        expect(DS_OP_##id, &args, flops, bytes, shape);                                            \
        seen[DS_OP_##id] = true;                                                                   \
    } while (0)

static bool seen[DS_OP_COUNT];

static void products(void)
{
    /* 2 x 3 results of 4 multiply-adds; 8 + 12 numbers of two bytes read, 6 of four written. */
    EXPECT(MATMUL, matmul, 48, 64, "2x3x4 NN BF16 to F32", .m = 2, .n = 3, .k = 4,
           .in_type = DS_BF16, .out_type = DS_F32);
    EXPECT(MATMUL, matmul, 48, 128, "2x3x4 TN F32 +bias +C", .m = 2, .n = 3, .k = 4,
           .trans_a = true, .c = there, .bias = there);
    EXPECT(MATMUL, matmul, 48, 64, "2x3x4 NN BF16 gelu", .m = 2, .n = 3, .k = 4, .in_type = DS_BF16,
           .out_type = DS_BF16, .epilogue = DS_EPILOGUE_GELU);
    EXPECT(MATMUL, matmul, 48, 128, "2x3x4 NN F32 dgelu +dbias", .m = 2, .n = 3, .k = 4,
           .epilogue = DS_EPILOGUE_GELU_BWD, .dbias = (float *)(void *)there);
    EXPECT(MATMUL, matmul, 48, 32, "2x3x4 NT U8 to BF16", .m = 2, .n = 3, .k = 4, .trans_b = true,
           .in_type = DS_U8, .out_type = DS_BF16);
    /* 2 sequences of 3 tokens: 6 visible pairs each, 2 heads of 4: 16 FLOPs for each of 2. */
    EXPECT(ATTENTION_FWD, attention_fwd, 2 * 6 * 2 * 16, 6 * (2 * 2 + 2) * 4 * 2.0,
           "2x3, 2/1 heads of 4 BF16", .batch = 2, .seq = 3, .heads = 2, .kv_heads = 1,
           .head_size = 4, .act = DS_BF16);
    EXPECT(ATTENTION_BWD, attention_bwd, 2.5 * 2 * 6 * 2 * 16, 6 * (4 * 2 + 4) * 4 * 2.0,
           "2x3, 2/1 heads of 4 BF16", .batch = 2, .seq = 3, .heads = 2, .kv_heads = 1,
           .head_size = 4, .act = DS_BF16);
    /* 3 rows see 6, 7 and 8 keys: 2 heads of 4 each; 5 rows of the cache read, 3 written. */
    EXPECT(ATTENTION_CACHED, attention_cached, 21 * 2 * 16, (3 * (2 * 2 + 4) * 4 + 2 * 5 * 4) * 2.0,
           "3 behind 5, 2/1 heads of 4 BF16", .seq = 3, .first = 5, .room = 64, .heads = 2,
           .kv_heads = 1, .head_size = 4, .act = DS_BF16);
    /* Of a window of 7 they see 6, 7 and 7; of one of 3 as many each, and 2 of the cache are read. */
    EXPECT(ATTENTION_CACHED, attention_cached, 20 * 2 * 16, (3 * (2 * 2 + 4) * 4 + 2 * 5 * 4) * 2.0,
           "3 behind 5, 2/1 heads of 4 BF16", .seq = 3, .first = 5, .room = 64, .heads = 2,
           .kv_heads = 1, .head_size = 4, .act = DS_BF16, .window = 7);
    EXPECT(ATTENTION_CACHED, attention_cached, 9 * 2 * 16, (3 * (2 * 2 + 4) * 4 + 2 * 2 * 4) * 2.0,
           "3 behind 5, 2/1 heads of 4 BF16", .seq = 3, .first = 5, .room = 64, .heads = 2,
           .kv_heads = 1, .head_size = 4, .act = DS_BF16, .window = 3);
}

static void passes(void)
{
    EXPECT(BIAS_BWD, bias_bwd, 0, 30, "3x5 BF16", .rows = 3, .n = 5, .act = DS_BF16);
    EXPECT(NORM_FWD, norm_fwd, 0, 120, "3x5 F32", .rows = 3, .channels = 5);
    EXPECT(NORM_FWD, norm_fwd, 0, 180, "3x5 F32", .rows = 3, .channels = 5, .residual = there);
    EXPECT(NORM_BWD, norm_bwd, 0, 180, "3x5 F32", .rows = 3, .channels = 5);
    EXPECT(NORM_BWD, norm_bwd, 0, 240, "3x5 F32", .rows = 3, .channels = 5, .dres = there);
    /* 4 heads of 6 in each of 3 rows; backward the values are copied unless they stay. */
    EXPECT(HEAD_NORM_FWD, head_norm_fwd, 0, 2 * 3 * 4 * 6 * 2, "1x3, 2/1 heads of 6 BF16",
           .rows = 3, .heads = 2, .kv_heads = 1, .head_size = 6, .act = DS_BF16);
    EXPECT(HEAD_NORM_BWD, head_norm_bwd, 0, (3 * 3 + 2) * 3 * 6 * 4, "1x3, 2/1 heads of 6 F32",
           .rows = 3, .heads = 2, .kv_heads = 1, .head_size = 6, .dy = there);
    EXPECT(HEAD_NORM_BWD, head_norm_bwd, 0, 3 * 3 * 3 * 6 * 4, "1x3, 2/1 heads of 6 F32", .rows = 3,
           .heads = 2, .kv_heads = 1, .head_size = 6, .dy = there, .dx = there);
    EXPECT(ROPE, rope, 0, 2 * 3 * 4 * 6 * 4, "2x3, 4 heads of 6 BF16", .batch = 2, .seq = 3,
           .heads = 4, .head_size = 6, .act = DS_BF16);
    EXPECT(GELU_FWD, gelu_fwd, 0, 28, "7 BF16", .n = 7, .act = DS_BF16);
    EXPECT(GELU_BWD, gelu_bwd, 0, 42, "7 BF16", .n = 7, .act = DS_BF16);
    EXPECT(SWIGLU_FWD, swiglu_fwd, 0, 90, "3x5 F16", .rows = 3, .ffn = 5, .act = DS_F16);
    EXPECT(SWIGLU_BWD, swiglu_bwd, 0, 150, "3x5 F16", .rows = 3, .ffn = 5, .act = DS_F16);
    EXPECT(DROPOUT, dropout, 0, 56, "7 F32", .n = 7);
    EXPECT(DROPOUT, dropout, 0, 84, "7 F32", .n = 7, .residual = there);
    EXPECT(SUM, sum, 0, 28, "7 F32", .n = 7);
    EXPECT(ADD, add, 0, 84, "7 F32", .n = 7);
    EXPECT(AFFINE, affine, 0, 120, "3x5 F32", .rows = 3, .cols = 5);
    EXPECT(REORDER, reorder, 0, 2 * 3 * 5 * 8, "3x5 runs of 8 B", .outer = 3, .inner = 5, .run = 8);
    EXPECT(LARGEST, largest, 0, 14, "7 BF16", .n = 7, .act = DS_BF16);
    EXPECT(FP8_CAST, fp8_cast, 0, 60, "3x5 BF16", .rows = 3, .cols = 5, .act = DS_BF16,
           .codes = (uint8_t *)there, .turned = (uint8_t *)there);
    EXPECT(FP8_CAST, fp8_cast, 0, 45, "3x5 BF16", .rows = 3, .cols = 5, .act = DS_BF16,
           .codes = (uint8_t *)there);
    EXPECT(CAST, cast, 0, 42, "7 F32 to BF16", .n = 7, .to = DS_BF16);
}

static void experts(void)
{
    EXPECT(SWIGLU_ROWS_FWD, swiglu_rows_fwd, 0, 90, "3x5 F16", .rows = 3, .ffn = 5, .act = DS_F16);
    EXPECT(SWIGLU_ROWS_BWD, swiglu_rows_bwd, 0, 150, "3x5 F16", .rows = 3, .ffn = 5, .act = DS_F16);
    EXPECT(ROUTE, route, 0, 6 * 5 * 8, "6x5, 2 each F32", .batch = 2, .seq = 3, .experts = 5,
           .each = 2);
    EXPECT(LOAD_PEAK, load_peak, 0, 2 * 5 * 4, "2x5 F32", .batch = 2, .experts = 5);
    EXPECT(ROUTE_BWD, route_bwd, 0, 6 * 5 * 2, "6x5, 2 each BF16", .batch = 2, .seq = 3,
           .experts = 5, .each = 2, .act = DS_BF16);
    EXPECT(ROUTE_BWD, route_bwd, 0, 6 * 5 * 6, "6x5, 2 each BF16", .batch = 2, .seq = 3,
           .experts = 5, .each = 2, .act = DS_BF16, .balance = 0.5f);
    EXPECT(SORT_PAIRS, sort_pairs, 0, (6 + 6 + 4) * 4, "3x2 to 4, 2 of 5", .rows = 3, .each = 2,
           .experts = 5, .held = 2, .sorted = 4);
    /* 3 rows read, 6 written; or 6 read, 3 or twice 3 beside; with room for 2 or 4. */
    EXPECT(ROWS_TAKE, rows_take, 0, 9 * 5 * 2, "3x5, 2 each BF16", .rows = 3, .each = 2,
           .channels = 5, .sorted = 6, .act = DS_BF16);
    EXPECT(ROWS_TAKE, rows_take, 0, (2 + 2) * 5 * 2, "3x5, 2 each BF16", .rows = 3, .each = 2,
           .channels = 5, .sorted = 2, .act = DS_BF16);
    EXPECT(ROWS_SUM, rows_sum, 0, 9 * 5 * 2, "3x5, 2 each BF16", .rows = 3, .each = 2,
           .channels = 5, .act = DS_BF16);
    EXPECT(ROWS_SUM, rows_sum, 0, (3 + 4) * 5 * 2, "3x5, 2 each BF16", .rows = 3, .each = 2,
           .channels = 5, .sorted = 4, .place = &place, .act = DS_BF16);
    EXPECT(ROWS_SUM, rows_sum, 0, 12 * 5 * 4, "3x5, 2 each F32", .rows = 3, .each = 2,
           .channels = 5, .residual = there);
    /* 7 rows of 3 + 4 numbers, 2 matrices of 12; gradients are of four bytes, which are added to. */
    EXPECT(EXPERTS_MATMUL, experts_matmul, 2 * 7 * 12, (49 + 24) * 2.0, "7 rows, 2 of 4x3 BF16",
           .rows = 7, .experts = 2, .in = 3, .out = 4, .act = DS_BF16);
    EXPECT(EXPERTS_MATMUL, experts_matmul, 2 * 7 * 12, (49 + 24) * 4.0,
           "7 rows, 2 of 4x3 F32 bwd x", .rows = 7, .experts = 2, .in = 3, .out = 4,
           .product = DS_EXPERTS_BWD_X);
    EXPECT(EXPERTS_MATMUL, experts_matmul, 2 * 7 * 12, 49 * 2 + 24 * 4.0,
           "7 rows, 2 of 4x3 BF16 bwd w", .rows = 7, .experts = 2, .in = 3, .out = 4,
           .act = DS_BF16, .product = DS_EXPERTS_BWD_W);
    EXPECT(EXPERTS_MATMUL, experts_matmul, 2 * 7 * 12, 49 * 2 + 24 * 8.0,
           "7 rows, 2 of 4x3 BF16 bwd w +", .rows = 7, .experts = 2, .in = 3, .out = 4,
           .act = DS_BF16, .product = DS_EXPERTS_BWD_W, .accumulate = true);
}

static void ends(void)
{
    EXPECT(EMBED_FWD, embed_fwd, 0, 6 * 5 * 4, "6x5 BF16", .batch = 2, .seq = 3, .channels = 5,
           .vocab = 11, .act = DS_BF16, .param = DS_BF16);
    EXPECT(EMBED_BWD, embed_bwd, 0, 6 * 5 * 2 + 11 * 5 * 4, "6x5 BF16", .batch = 2, .seq = 3,
           .channels = 5, .vocab = 11, .act = DS_BF16);
    EXPECT(EMBED_BWD, embed_bwd, 0, 6 * 5 * 2, "6x5 BF16", .batch = 2, .seq = 3, .channels = 5,
           .vocab = 11, .act = DS_BF16, .accumulate_wte = true);
    EXPECT(XENT, xent, 0, 132, "3x11 BF16", .rows = 3, .vocab = 11, .act = DS_BF16);
    EXPECT(XENT, xent, 0, 198, "3x11 BF16", .rows = 3, .vocab = 11, .act = DS_BF16,
           .dlogits = there);
    EXPECT(XENT, xent, 0, 132, "3x11 BF16", .rows = 3, .vocab = 11, .act = DS_BF16,
           .logits_type = DS_BF16, .dlogits = there);
    EXPECT(XENT_PART, xent_part, 0, 66, "3x11 BF16", .rows = 3, .vocab = 11,
           .logits_type = DS_BF16);
    /* Rows of 12 bytes of two ranks; with gradients 11 logits of four read, 13 of two written. */
    EXPECT(XENT, xent, 0, 72, "3x11 BF16", .rows = 3, .vocab = 11, .act = DS_BF16,
           .parts = (void *)there, .ranks = 2);
    EXPECT(XENT, xent, 0, 72 + 132 + 78, "3x11 BF16", .rows = 3, .vocab = 11, .act = DS_BF16,
           .dlogits = there, .parts = (void *)there, .ranks = 2, .columns = 13);
}

static void updates(void)
{
    EXPECT(SUMSQ, sumsq, 0, 28, "all gradients", .n = 7);
    EXPECT(TALLY, tally, 0, 7 * 24, "this rank", .parts = 7);
    EXPECT(VERDICT, verdict, 0, 7 * 72, "all ranks", .ranks = 7);
    EXPECT(RANK_SUM, rank_sum, 0, 7 * 3 * 8, "all ranks", .ranks = 7, .n = 3);
    EXPECT(ADAMW, adamw, 0, 7 * 28, "all parameters", .n = 7);
    EXPECT(ADAMW, adamw, 0, 7 * 28, "all parameters", .n = 7, .grad_type = DS_BF16,
           .low_type = DS_BF16, .p_low = there);
    EXPECT(SGD, sgd, 0, 7 * 12, "all parameters", .n = 7);
    EXPECT(SGD, sgd, 0, 7 * 20, "all parameters", .n = 7, .m = (float *)(void *)there);
    EXPECT(LION, lion, 0, 7 * 20, "all parameters", .n = 7);
    EXPECT(ADAGRAD, adagrad, 0, 7 * 20, "all parameters", .n = 7);
    EXPECT(LAMB_MOMENTS, lamb_moments, 0, 7 * 24, "all parameters", .n = 7);
    EXPECT(LAMB, lamb, 0, 7 * 18, "all parameters", .n = 7, .low_type = DS_F16, .p_low = there);
    EXPECT(MUON_MOMENTS, muon_moments, 0, 7 * 16, "all matrices", .n = 7);
    EXPECT(MUON, muon, 0, 7 * 12, "all matrices", .n = 7);
}

Test(amount, as_counted_by_hand)
{
    products();
    passes();
    experts();
    ends();
    updates();
    for (unsigned i = 0; i < DS_OP_COUNT; i++)
        cr_assert(seen[i], "'%s' is not in this test", ds_op_name((enum ds_op)i));
}

Test(amount, no_operation)
{
    char text[DS_OP_SHAPE_BYTES] = "x";

    cr_assert(ds_op_amount(DS_OP_COUNT, NULL).bytes == 0.0);
    ds_op_shape(DS_OP_COUNT, NULL, text);
    cr_assert_str_eq(text, "");
}
