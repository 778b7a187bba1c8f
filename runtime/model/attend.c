/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attend.c - the attention of a layer, with rotary positions before it, forward and backward; the
 * contract is in layer.h.
 *
 * Tests   tests/engine/test_engine.c, tests/engine/test_generate.c
 */
#include <math.h>

#include "runtime/model/layer.h"

/* Of each run the rows behind those that its sequence has. */
static int rotate_runs(const struct ds_net *net, struct ds_rope_args args, struct ds_error *err)
{
    const size_t row = args.ld * ds_dtype_bytes(net->act);
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < net->cache.runs; i++) {
        args.seq = net->cache.run[i].rows;
        args.first = net->cache.rows[net->cache.run[i].sequence];
        rc = ds_rope(&args, net->stream, err);
        args.x = (unsigned char *)args.x + args.seq * row;
    }
    return rc;
}

int ds__rotate(const struct ds__layer *layer, void *qkv, bool inverse, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    const struct ds_model_shape *shape = &net->shape;
    const bool local = ds_model_local(shape, layer->block);
    const struct ds_rope_args args = {
        .batch = net->batch,
        .seq = net->seq,
        .first = ds__first_position(net),
        .heads = shape->heads + shape->kv_heads,
        .head_size = shape->head_size,
        .ld = ds_model_qkv_width(shape),
        .turned = shape->rope_dims,
        .act = net->act,
        .theta = (float)(local ? shape->local_theta : shape->rope_theta),
        .scale = local ? ds_rope_plain() : shape->rope_scale,
        .each = local ? NULL : ds_model_rope_each(shape, net->longest),
        .inverse = inverse,
        .x = qkv,
    };

    if (!ds_model_turns(shape, layer->block))
        return 0;
    return net->cache.room > 0 ? rotate_runs(net, args, err) : ds_rope(&args, net->stream, err);
}

static float attention_scale(const struct ds_net *net)
{
    const double scalar = net->shape.query_scalar;

    if (net->shape.attention_scale > 0.0)
        return (float)net->shape.attention_scale;
    return (float)(1.0 / sqrt(scalar > 0.0 ? scalar : (double)net->shape.head_size));
}

/* Against the rows before, and these become a part of them. */
static int attention_cached(const struct ds__layer *layer, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    const struct ds_net_cache *cache = &net->cache;
    const size_t one = ds_dtype_bytes(net->act);
    const size_t bytes = ds_net_cache_elems(&net->shape, cache->room) * one; /* of a layer */
    struct ds_attention_cached_args args = {
        .room = cache->room,
        .window = ds_model_window(&net->shape, layer->block),
        .heads = net->shape.heads,
        .kv_heads = net->shape.kv_heads,
        .head_size = net->shape.head_size,
        .act = net->act,
        .scale = attention_scale(net),
        .qkv = layer->buf[DS_BUFFER_QKV],
        .out = layer->buf[DS_BUFFER_ATTENTION],
    };
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < cache->runs; i++) {
        const size_t sequence = cache->run[i].sequence;
        const size_t at = (sequence * net->shape.layers + layer->block - 1) * bytes;

        args.seq = cache->run[i].rows;
        args.first = cache->rows[sequence];
        args.keys = cache->keys + at;
        args.values = cache->values + at;
        rc = ds_attention_cached(&args, net->stream, err);
        args.qkv =
            (const unsigned char *)args.qkv + args.seq * ds_model_qkv_width(&net->shape) * one;
        args.out = (unsigned char *)args.out + args.seq * args.heads * args.head_size * one;
    }
    return rc;
}

/* The first token that each sees, or NULL: all see what is before them. */
static const uint32_t *low_of(const struct ds__layer *layer)
{
    const struct ds_plan *plan = layer->net->plan;
    const uint32_t *lows;

    if (plan == NULL || !ds_plan_sees_less(plan))
        return NULL;
    lows = layer->net->block[0].buf[layer->pass][DS_BUFFER_LOW];
    if (plan->window == 0 || ds_model_window(&layer->net->shape, layer->block) > 0)
        return lows;
    return plan->documents ? lows + plan->micro_batch * plan->whole_sequence : NULL;
}

/* Where the attention's output is as it makes it: of some heads for all tokens, where ranks share
 * sequences. */
static void *attended_of(const struct ds__layer *layer)
{
    return layer->buf[ds__shares_sequences(layer->net) ? DS_BUFFER_ATTENDED : DS_BUFFER_ATTENTION];
}

int ds__attention_fwd(const struct ds__layer *layer, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    const struct ds_attention_fwd_args args = {
        .batch = net->batch,
        .seq = net->seq * ds__sharers(net),
        .heads = net->shape.heads / ds__sharers(net),
        .kv_heads = ds__kv_heads(net),
        .head_size = net->shape.head_size,
        .act = net->act,
        .scale = attention_scale(net),
        .drop = ds__attention_drop(net, layer->block, layer->pass),
        .low = low_of(layer),
        .qkv = layer->buf[DS_BUFFER_QKV],
        .out = attended_of(layer),
        .lse = layer->buf[DS_BUFFER_LSE],
    };
    int rc = net->cache.room > 0 ? attention_cached(layer, err)
                                 : ds_attention_fwd(&args, net->stream, err);

    return rc != 0 || !ds__shares_sequences(net)
               ? rc
               : ds__to_tokens(net, layer->pass, DS_SWAP_ATTENTION, args.out,
                               layer->buf[DS_BUFFER_ATTENTION], err);
}

int ds__attention_bwd(const struct ds__layer *layer, void *dout, void *dqkv, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    const struct ds_attention_bwd_args args = {
        .batch = net->batch,
        .seq = net->seq * ds__sharers(net),
        .heads = net->shape.heads / ds__sharers(net),
        .kv_heads = ds__kv_heads(net),
        .head_size = net->shape.head_size,
        .act = net->act,
        .scale = attention_scale(net),
        .drop = ds__attention_drop(net, layer->block, layer->pass),
        .low = low_of(layer),
        .qkv = layer->buf[DS_BUFFER_QKV],
        .out = attended_of(layer),
        .dout = dout,
        .lse = layer->buf[DS_BUFFER_LSE],
        .dqkv = dqkv,
    };
    int rc = 0;

    if (ds__shares_sequences(net))
        rc = ds__to_heads(net, layer->pass, DS_SWAP_ATTENTION, dout, dout, err);
    if (rc == 0)
        rc = ds_attention_bwd(&args, net->stream, err);
    return rc != 0 || !ds__shares_sequences(net)
               ? rc
               : ds__to_tokens(net, layer->pass, DS_SWAP_QKV, dqkv, dqkv, err);
}
