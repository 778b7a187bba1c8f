/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * qk_norm.c - norms of queries and keys, between their product and their positions.
 *
 * Of each head, whose weights all heads share, so that those of a team have a part of their
 * gradients each; or of all queries of a row and of all its keys, which no team divides.  What the
 * product has made is kept in RAW; values are copied from there.
 *
 * Tests   tests/engine/test_engine.c, tests/engine/test_team.c
 */
#include "runtime/model/net.h"

/* --- of each head ----------------------------------------------------------------------------- */

static int heads_fwd(const struct ds_net *net, const struct ds_net_block *at, enum ds_pass pass,
                     void *y, struct ds_error *err)
{
    void *const *buf = at->buf[pass];
    const struct ds_head_norm_fwd_args args = {
        .rows = net->tokens,
        .heads = net->shape.heads,
        .kv_heads = net->shape.kv_heads,
        .head_size = net->shape.head_size,
        .eps = (float)net->shape.norm_eps,
        .act = net->act,
        .param = net->act,
        .x = buf[DS_BUFFER_RAW],
        .q_weight = at->weight[DS_ROLE_QNORM_W],
        .k_weight = at->weight[DS_ROLE_KNORM_W],
        .y = y,
        .rstd = buf[DS_BUFFER_STATH],
    };

    return ds_head_norm_fwd(&args, net->stream, err);
}

/* What the heads of a team have made of the gradients of both norms' weights, part[2][head size],
 * which become the sum, and are added to them. */
static int add_up(const struct ds_net *net, const struct ds_net_block *at, float *part,
                  bool accumulate, struct ds_error *err)
{
    const size_t size = net->shape.head_size;
    float *const of[] = {at->grad[DS_ROLE_QNORM_W], at->grad[DS_ROLE_KNORM_W]};
    int rc = ds__team_add_up(net, part, 2 * size, err);

    for (size_t i = 0; rc == 0 && i < 2; i++) {
        if (of[i] == NULL)
            continue;
        const struct ds_add_args add = {.n = size, .x = part + i * size, .y = of[i]};
        const struct ds_cast_args copy = {
            .n = size, .from = DS_F32, .to = DS_F32, .x = part + i * size, .y = of[i]};

        rc = accumulate ? ds_add(&add, net->stream, err) : ds_cast(&copy, net->stream, err);
    }
    return rc;
}

static int heads_bwd(const struct ds_net *net, const struct ds_net_block *at, void *dqkv,
                     bool accumulate, struct ds_error *err)
{
    void *const *buf = at->buf[DS_PASS_RECOMPUTE];
    const bool shares = ds__shares_layers(net);
    const size_t size = net->shape.head_size;
    float *stats = buf[DS_BUFFER_STATH];
    float *part = stats + net->tokens * (net->shape.heads + net->shape.kv_heads);
    const struct ds_head_norm_bwd_args args = {
        .rows = net->tokens,
        .heads = net->shape.heads,
        .kv_heads = net->shape.kv_heads,
        .head_size = net->shape.head_size,
        .act = net->act,
        .param = net->act,
        .dy = dqkv,
        .x = buf[DS_BUFFER_RAW],
        .q_weight = at->weight[DS_ROLE_QNORM_W],
        .k_weight = at->weight[DS_ROLE_KNORM_W],
        .rstd = stats,
        .dx = dqkv,
        .dq_weight = shares ? part : ds__norm_grad(net, at->grad[DS_ROLE_QNORM_W], 0),
        .dk_weight = shares ? part + size : ds__norm_grad(net, at->grad[DS_ROLE_KNORM_W], size),
        .accumulate = accumulate && !shares,
    };
    int rc;

    rc = ds_head_norm_bwd(&args, net->stream, err);
    return rc == 0 && shares ? add_up(net, at, part, accumulate, err) : rc;
}

/* --- of a row --------------------------------------------------------------------------------- */

/* Queries or keys: where they begin in a packed row, how many elements they are, their weights. */
struct part {
    size_t at, elems;
    enum ds_role weight;
};

enum { PARTS = 2 };

static struct part part_of(const struct ds_net *net, unsigned i)
{
    const size_t queries = net->shape.heads * net->shape.head_size;
    const struct part parts[PARTS] = {
        {0, queries, DS_ROLE_QNORM_W},
        {queries, net->shape.kv_heads * net->shape.head_size, DS_ROLE_KNORM_W}};

    return parts[i];
}

static void *behind(const struct ds_net *net, void *rows, size_t elems)
{
    return (unsigned char *)rows + elems * ds_dtype_bytes(net->act);
}

static int copy_values(const struct ds_net *net, void *raw, void *y, struct ds_error *err)
{
    const struct part keys = part_of(net, 1);
    const size_t bytes = ds_dtype_bytes(net->act), row = ds_model_qkv_width(&net->shape) * bytes;
    const struct ds_reorder_args args = {.outer = 1,
                                         .inner = net->tokens,
                                         .run = keys.elems * bytes,
                                         .from_inner = row,
                                         .to_inner = row,
                                         .from = behind(net, raw, keys.at + keys.elems),
                                         .to = behind(net, y, keys.at + keys.elems)};

    return ds_reorder(&args, net->stream, err);
}

static int rows_fwd(const struct ds_net *net, const struct ds_net_block *at, enum ds_pass pass,
                    void *y, struct ds_error *err)
{
    void *raw = at->buf[pass][DS_BUFFER_RAW];
    float *stats = at->buf[pass][DS_BUFFER_STATH];
    int rc = copy_values(net, raw, y, err);

    for (unsigned i = 0; rc == 0 && i < PARTS; i++) {
        const struct part part = part_of(net, i);
        const struct ds_norm_fwd_args args = {
            .rows = net->tokens,
            .channels = part.elems,
            .ld = ds_model_qkv_width(&net->shape),
            .kind = DS_NORM_RMS,
            .eps = (float)net->shape.norm_eps,
            .act = net->act,
            .param = net->act,
            .x = behind(net, raw, part.at),
            .weight = at->weight[part.weight],
            .y = behind(net, y, part.at),
            .rstd = stats + i * net->tokens,
        };

        rc = ds_norm_fwd(&args, net->stream, err);
    }
    return rc;
}

static int rows_bwd(const struct ds_net *net, const struct ds_net_block *at, void *dqkv,
                    bool accumulate, struct ds_error *err)
{
    void *const *buf = at->buf[DS_PASS_RECOMPUTE];
    const float *stats = buf[DS_BUFFER_STATH];
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < PARTS; i++) {
        const struct part part = part_of(net, i);
        const struct ds_norm_bwd_args args = {
            .rows = net->tokens,
            .channels = part.elems,
            .ld = ds_model_qkv_width(&net->shape),
            .kind = DS_NORM_RMS,
            .act = net->act,
            .param = net->act,
            .dy = behind(net, dqkv, part.at),
            .x = behind(net, buf[DS_BUFFER_RAW], part.at),
            .weight = at->weight[part.weight],
            .rstd = stats + i * net->tokens,
            .dx = behind(net, dqkv, part.at),
            .dweight = ds__norm_grad(net, at->grad[part.weight], 0),
            .accumulate = accumulate,
        };

        rc = ds_norm_bwd(&args, net->stream, err);
    }
    return rc;
}

int ds__qk_norm_fwd(const struct ds_net *net, uint32_t block, enum ds_pass pass, void *y,
                    struct ds_error *err)
{
    const struct ds_net_block *at = &net->block[block];

    return ds_arch_norms_rows(net->shape.arch) ? rows_fwd(net, at, pass, y, err)
                                               : heads_fwd(net, at, pass, y, err);
}

int ds__qk_norm_bwd(const struct ds_net *net, uint32_t block, void *dqkv, bool accumulate,
                    struct ds_error *err)
{
    const struct ds_net_block *at = &net->block[block];

    return ds_arch_norms_rows(net->shape.arch) ? rows_bwd(net, at, dqkv, accumulate, err)
                                               : heads_bwd(net, at, dqkv, accumulate, err);
}
