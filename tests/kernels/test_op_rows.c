/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_op_rows.c - what operations on rows refuse: rotary positions, norms, activations, embeddings.
 */
#include "tests/kernels/refusals.h"

TestSuite(op_rows, .init = start, .fini = stop);

Test(op_rows, rope)
{
    static const struct ds_rope_args rope = {
        .batch = 1, .seq = 1, .heads = 1, .head_size = 4, .ld = 4, .theta = 1e4f, .x = f + 100};
    static const struct ds_rope_args stretched = {
        .batch = 1,
        .seq = 1,
        .heads = 1,
        .head_size = 2,
        .ld = 2,
        .theta = 1.0f,
        .scale = {.kind = DS_ROPE_LLAMA3, .factor = 8.0, .low = 4.0, .high = 5.0},
        .x = f};

    static const struct ds_numbers factors = {2, {1.0, 0.5}};
    struct ds_rope_args yarn = stretched, each = rope;

    yarn.theta = 2.0f;
    yarn.scale = (struct ds_rope_scale){DS_ROPE_YARN, 2.0, 1.0, 4.0, 8, 1.0, 2.0, 1.0};
    ACCEPTS(rope, rope);
    ACCEPTS(rope, stretched);
    each.scale = (struct ds_rope_scale){.kind = DS_ROPE_LONGROPE, .factor = 1.0, .attention = 1.5};
    each.each = &factors;
    ACCEPTS(rope, yarn);
    ACCEPTS(rope, each);
    REFUSES(rope, each, a.scale.attention = 0.0);
    REFUSES(rope, each, a.each = NULL);
    REFUSES(rope, each, a.turned = 2);
    REFUSES(rope, each, a.each = &(struct ds_numbers){.count = 2});
    REFUSES(rope, rope, a.head_size = 3);
    REFUSES(rope, rope, a.heads = 2);
    REFUSES(rope, rope, a.turned = 3);
    REFUSES(rope, rope, (a.turned = 6, a.ld = 64));
    REFUSES(rope, rope, a.theta = 0.0f);
    REFUSES(rope, rope, a.scale.kind = DS_ROPE_LINEAR);
    REFUSES(rope, stretched, a.scale.high = 4.0);
    REFUSES(rope, yarn, a.theta = 1.0f);
    REFUSES(rope, yarn, a.scale.original = 0);
    REFUSES(rope, yarn, a.scale.slow = 0.0);
    REFUSES(rope, yarn, a.scale.fast = 1.0);
    REFUSES(rope, yarn, a.scale.attention = 0.0);
}

Test(op_rows, norm_arguments)
{
    static const struct ds_norm_fwd_args norm = {.rows = 1,
                                                 .channels = 4,
                                                 .eps = 1e-5f,
                                                 .x = f,
                                                 .weight = f,
                                                 .bias = f,
                                                 .y = f + 100,
                                                 .mean = f + 200,
                                                 .rstd = f + 201};
    static const struct ds_head_norm_fwd_args heads = {.rows = 1,
                                                       .heads = 2,
                                                       .kv_heads = 1,
                                                       .head_size = 4,
                                                       .eps = 1e-6f,
                                                       .x = f,
                                                       .q_weight = f,
                                                       .k_weight = f,
                                                       .y = f + 100,
                                                       .rstd = f + 200};

    ACCEPTS(norm_fwd, norm);
    REFUSES(norm_fwd, norm, a.bias = NULL);
    REFUSES(norm_fwd, norm, a.mean = NULL);
    REFUSES(norm_fwd, norm, a.rows = SIZE_MAX / 4);
    REFUSES(norm_fwd, norm, a.eps = NAN);
    ACCEPTS(head_norm_fwd, heads);
    REFUSES(head_norm_fwd, heads, a.eps = NAN);
    REFUSES(head_norm_fwd, heads, a.eps = -1e-6f);
}

Test(op_rows, other_arguments)
{
    static const struct ds_xent_args xent = {.rows = 1,
                                             .vocab = 4,
                                             .ld = 4,
                                             .logits = f,
                                             .targets = ids,
                                             .losses = f + 100,
                                             .dlogits = f + 200,
                                             .dld = 4};
    static const struct ds_embed_fwd_args embed = {.batch = 1,
                                                   .seq = 2,
                                                   .channels = 4,
                                                   .vocab = 5,
                                                   .ids = ids,
                                                   .ids_ld = 2,
                                                   .wte = f,
                                                   .out = f + 100};
    static const struct ds_embed_bwd_args table = {.batch = 1,
                                                   .seq = 2,
                                                   .channels = 4,
                                                   .vocab = 5,
                                                   .positions = 4,
                                                   .first = 2,
                                                   .ids = ids,
                                                   .ids_ld = 2,
                                                   .dout = f,
                                                   .dwte = f + 100,
                                                   .dwpe = f + 200};

    ACCEPTS(xent, xent);
    REFUSES(xent, xent, a.ld = 3);
    REFUSES(xent, xent, a.dld = 3);
    REFUSES(xent, xent, (a.dlogits = f, a.act = DS_BF16));
    REFUSES(xent, xent, a.logits_type = DS_BF16); /* and the gradients of F32 */
    ACCEPTS(embed_fwd, embed);
    REFUSES(embed_fwd, embed, a.ids_ld = 1);
    REFUSES(embed_fwd, embed, a.param = DS_I64);
    ACCEPTS(embed_bwd, table);
    REFUSES(embed_bwd, table, a.first = 3);
    REFUSES(embed_bwd, table, a.first = SIZE_MAX);
}
