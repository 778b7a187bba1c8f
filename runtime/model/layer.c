/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * layer.c - one transformer layer, forward and backward; the drawing is in net.h.
 *
 * The backward pass uses two buffers beside the stream's gradient: DNARROW for gradients as wide as
 * the stream, DWIDE for those of the feed-forward activation, then of the packed qkv row.  Dropout
 * writes what it leaves of the stream's gradient into the one that is free, and so does a norm
 * behind a half of the layer.  GELU's input gradient
 * comes in the place of its output gradient; SwiGLU's replaces the input itself.
 *
 * Tests   tests/engine/test_engine.c
 */
#include "runtime/model/layer.h"

static struct ds__layer layer_of(struct ds_net *net, uint32_t block, enum ds_pass pass, bool again)
{
    enum ds_pass in = pass == DS_PASS_EVAL ? DS_PASS_EVAL : DS_PASS_TRAIN;

    return (struct ds__layer){
        .net = net,
        .block = block,
        .pass = pass,
        .w = net->block[block].weight,
        .g = net->block[block].grad,
        .buf = net->block[block].buf[pass],
        .x = net->block[block - 1].buf[in][DS_BUFFER_OUT],
        .again = again,
    };
}

/* The four matrix products of a layer. */
enum product { QKV, PROJ, FC, DOWN };
_Static_assert((int)QKV == (int)DS_PRODUCT_QKV && (int)DOWN == (int)DS_PRODUCT_DOWN, "in order");

static struct ds_adapters adapters_of(const struct ds__layer *layer, enum product product)
{
    return ds__adapters_of(layer->net, layer->block, layer->pass, (enum ds_layer_product)product);
}

/* What adapters add to a product of x, which is in y. */
static int adapt_fwd(const struct ds__layer *layer, enum product product, const void *x, void *y,
                     struct ds_error *err)
{
    const struct ds_adapters adapters = adapters_of(layer, product);

    return ds__adapters_fwd(layer->net, &adapters, x, y, err);
}

static int adapt_bwd(const struct ds__layer *layer, enum product product, const void *x,
                     const void *dy, void *dx, bool accumulate, struct ds_error *err)
{
    const struct ds_adapters adapters = adapters_of(layer, product);

    return ds__adapters_bwd(layer->net, &adapters, x, dy, dx, accumulate, err);
}

/* Where the largest element of a product's operand is, with FP8; else NULL. */
static uint32_t *place_of(const struct ds__layer *layer, enum product product,
                          enum ds_fp8_operand operand)
{
    uint32_t *all = layer->net->block[0].buf[layer->pass][DS_BUFFER_LARGEST];
    size_t at = (layer->block - 1) * (size_t)DS_PRODUCT_COUNT + product;

    return all == NULL ? NULL : all + at * DS_FP8_OPERANDS + operand;
}

/* Of what a pass finds where another has left it: what is computed again has the same bits, weights
 * are the step's, and SwiGLU looks at what it writes. */
static unsigned known_of(const struct ds__layer *layer, enum product product)
{
    bool swiglu = layer->net->family->swiglu, first = layer->pass != DS_PASS_RECOMPUTE;
    bool rows = !first || (swiglu && product == DOWN);
    bool weights = !first || (layer->again && layer->pass == DS_PASS_TRAIN);

    return (unsigned)rows << DS_FP8_ROWS | (unsigned)weights << DS_FP8_WEIGHTS |
           (unsigned)(swiglu && product == FC) << DS_FP8_GRADIENTS;
}

/* Is what it makes of a part of its input a part of the sum? */
static bool adds_up(enum product product)
{
    return product == PROJ || product == DOWN;
}

static struct ds_linear linear_of(const struct ds__layer *layer, enum product product)
{
    static const enum ds_role weights[] = {DS_ROLE_QKV_W, DS_ROLE_PROJ_W, DS_ROLE_FC_W,
                                           DS_ROLE_DOWN_W};
    static const enum ds_role biases[] = {DS_ROLE_QKV_B, DS_ROLE_PROJ_B, DS_ROLE_FC_B,
                                          DS_ROLE_DOWN_B};
    const struct ds_model_shape *shape = &layer->net->shape;
    const size_t in[] = {shape->hidden, shape->heads * shape->head_size, shape->hidden, shape->ffn};
    const size_t out[] = {ds_model_qkv_width(shape), shape->hidden, ds_model_ffn_in_width(shape),
                          shape->hidden};

    return (struct ds_linear){
        .weight = layer->w[weights[product]],
        .bias = adds_up(product) && !ds__leads_team(layer->net) ? NULL : layer->w[biases[product]],
        .dweight = layer->g[weights[product]],
        .dbias = layer->g[biases[product]],
        .rows = layer->net->tokens,
        .in = in[product],
        .out = out[product],
        .codes = layer->net->block[0].buf[layer->pass][DS_BUFFER_CODES],
        .largest = place_of(layer, product, DS_FP8_ROWS),
        .known = known_of(layer, product),
        .alike = ds__shares_layers(layer->net) && adds_up(product),
    };
}

/* What QKV and FC read: normalised rows of the stream, or the stream. */
static const void *read_by(const struct ds__layer *layer, enum product product)
{
    const bool first = product == QKV;

    if (ds_family_norms_before(layer->net->family))
        return layer->buf[first ? DS_BUFFER_NORM1 : DS_BUFFER_NORM2];
    return first ? layer->x : layer->buf[DS_BUFFER_MIDDLE];
}

static enum ds_drop drop_of(enum product product)
{
    return product == PROJ ? DS_DROP_PROJ : DS_DROP_DOWN;
}

static struct ds_norm_use norm_of(const struct ds__layer *layer, enum ds_role weight)
{
    bool first = weight == DS_ROLE_NORM1_W;

    return (struct ds_norm_use){
        .block = layer->block,
        .pass = layer->pass,
        .weight = weight,
        .stat = first ? DS_BUFFER_STAT1 : DS_BUFFER_STAT2,
        .rows = layer->net->tokens,
        .x = first || layer->net->shape.parallel_residual ? layer->x : layer->buf[DS_BUFFER_MIDDLE],
    };
}

/* The norm of what PROJ or DOWN has made. */
static struct ds_norm_use behind_of(const struct ds__layer *layer, enum product product)
{
    bool first = product == PROJ;

    return (struct ds_norm_use){
        .block = layer->block,
        .pass = layer->pass,
        .weight = first ? DS_ROLE_POST1_W : DS_ROLE_POST2_W,
        .stat = first ? DS_BUFFER_STATP : DS_BUFFER_STATD,
        .rows = layer->net->tokens,
        .x = layer->buf[first ? DS_BUFFER_PROJ : DS_BUFFER_DOWN],
    };
}

/* Queries, keys and values, turned by their positions. */
static int qkv_fwd(const struct ds__layer *layer, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    struct ds_linear qkv = linear_of(layer, QKV);
    bool shares = ds__shares_sequences(net);
    void *rows =
        shares ? net->block[0].buf[layer->pass][DS_BUFFER_ARRIVED] : layer->buf[DS_BUFFER_QKV];
    bool normed = ds__norms_qk(net);
    void *raw = normed ? layer->buf[DS_BUFFER_RAW] : rows;
    int rc = ds__linear_fwd(net, &qkv, read_by(layer, QKV), NULL, raw, err);

    if (rc == 0)
        rc = adapt_fwd(layer, QKV, read_by(layer, QKV), raw, err);
    if (rc == 0 && normed)
        rc = ds__qk_norm_fwd(net, layer->block, layer->pass, rows, err);
    if (rc == 0)
        rc = ds__rotate(layer, rows, false, err);
    return rc != 0 || !shares
               ? rc
               : ds__to_heads(net, layer->pass, DS_SWAP_QKV, rows, layer->buf[DS_BUFFER_QKV], err);
}

/* Is the activation a part of the product before it?  SwiGLU and GELU by the error function have
 * operations of their own.  So has the other GELU where it alone is computed again, so that it has
 * the bits of the first time, and where something is added before it. */
static bool act_in_product(const struct ds__layer *layer)
{
    const struct ds_plan *plan = layer->net->plan;

    if (!ds_family_fuses_act(layer->net->family) || plan == NULL)
        return ds_family_fuses_act(layer->net->family);
    if (adapters_of(layer, FC).parts > 0)
        return false;
    return ds_plan_drops(plan, layer->block, DS_BUFFER_FFN_ACT) ==
           ds_plan_drops(plan, layer->block, DS_BUFFER_FFN_IN);
}

static bool has_experts(const struct ds__layer *layer)
{
    return layer->net->shape.experts > 0;
}

static int act_fwd(const struct ds__layer *layer, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    void *x = layer->buf[DS_BUFFER_FFN_IN], *y = layer->buf[DS_BUFFER_FFN_ACT];
    size_t ffn = net->shape.ffn;

    if (has_experts(layer))
        return ds__experts_act(net, layer->block, layer->pass, err);
    if (net->family->swiglu) {
        const struct ds_swiglu_fwd_args args = {.rows = net->tokens,
                                                .ffn = ffn,
                                                .gate = net->family->gate,
                                                .act = net->act,
                                                .x = x,
                                                .y = y,
                                                .largest = place_of(layer, DOWN, DS_FP8_ROWS)};

        return ds_swiglu_fwd(&args, net->stream, err);
    }
    const struct ds_gelu_fwd_args args = {
        .n = net->tokens * ffn, .kind = net->family->gelu, .act = net->act, .x = x, .y = y};

    return ds_gelu_fwd(&args, net->stream, err);
}

/* From the gradient `dy` of down's output to that of the activation's input, whose place is
 * returned; `wide` has room for it.  The gradient of GELU is a part of the product, but where
 * something is added before it. */
static int down_bwd(const struct ds__layer *layer, const void *dy, void *wide, bool accumulate,
                    void **dx, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    void *x = layer->buf[DS_BUFFER_FFN_IN];
    struct ds_linear down = linear_of(layer, DOWN);
    const struct ds_swiglu_bwd_args swiglu = {.rows = net->tokens,
                                              .ffn = net->shape.ffn,
                                              .gate = net->family->gate,
                                              .act = net->act,
                                              .x = x,
                                              .dy = wide,
                                              .dx = x,
                                              .largest = place_of(layer, FC, DS_FP8_GRADIENTS)};
    const struct ds_gelu_bwd_args gelu = {.n = net->tokens * net->shape.ffn,
                                          .kind = net->family->gelu,
                                          .act = net->act,
                                          .x = x,
                                          .dy = wide,
                                          .dx = wide};
    bool fused = ds_family_fuses_act(net->family) && adapters_of(layer, DOWN).parts == 0;
    int rc;

    down.gelu_x = fused ? x : NULL;
    *dx = net->family->swiglu ? x : wide;
    rc = ds__linear_bwd_x(net, &down, dy, wide, err);
    if (rc == 0)
        rc = adapt_bwd(layer, DOWN, layer->buf[DS_BUFFER_FFN_ACT], dy, wide, accumulate, err);
    if (rc != 0)
        return rc;
    if (net->family->swiglu)
        return ds_swiglu_bwd(&swiglu, net->stream, err);
    return fused ? 0 : ds_gelu_bwd(&gelu, net->stream, err);
}

/* Must this pass make `buffer`?  A pass that computes again makes what was dropped only. */
static bool makes(const struct ds__layer *layer, enum ds_buffer buffer)
{
    return layer->pass != DS_PASS_RECOMPUTE ||
           ds_plan_drops(layer->net->plan, layer->block, buffer);
}

/* y = residual + what dropout and a factor leave of the product with x, or of its norm. */
static int add_product(const struct ds__layer *layer, enum product product, const void *x,
                       const void *residual, void *y, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    struct ds_linear linear = linear_of(layer, product);
    struct ds_norm_use norm = behind_of(layer, product);
    bool weighs = ds__weighs(net, layer->pass), behind = ds_family_norms_behind(net->family);
    const void *added = weighs || behind || !ds__leads_team(net) ? NULL : residual;
    void *made = behind ? layer->buf[product == PROJ ? DS_BUFFER_PROJ : DS_BUFFER_DOWN] : y;
    int rc = product == DOWN && has_experts(layer)
                 ? ds__experts_out(net, layer->block, layer->pass, added, made, err)
                 : ds__linear_fwd(net, &linear, x, added, made, err);

    if (rc == 0)
        rc = adapt_fwd(layer, product, x, made, err);
    if (rc == 0)
        rc = ds__team_sum(net, made, err);
    norm.residual = weighs ? NULL : residual;
    if (rc == 0 && behind)
        rc = ds__norm_fwd(net, &norm, y, err);
    return rc == 0 && weighs
               ? ds__dropout(net, layer->pass, layer->block, drop_of(product), y, residual, y, err)
               : rc;
}

/* From the gradient of the stream to that of a product that was added to it: *dy is the same, or
 * in `room`. */
static int add_product_bwd(const struct ds__layer *layer, enum product product, const void *stream,
                           void *room, const void **dy, bool accumulate, struct ds_error *err)
{
    const struct ds_net *net = layer->net;
    const struct ds_norm_use norm = behind_of(layer, product);
    bool weighs = ds__weighs(net, layer->pass), behind = ds_family_norms_behind(net->family);
    const void *left = weighs ? room : stream;
    int rc = weighs ? ds__dropout(net, layer->pass, layer->block, drop_of(product), stream, NULL,
                                  room, err)
                    : 0;

    *dy = weighs || behind ? room : stream;
    return rc == 0 && behind ? ds__norm_bwd(net, &norm, left, NULL, room, accumulate, err) : rc;
}

/* middle = x + proj(attention(rope(qkv(norm1(x))))) */
static int attend_fwd(const struct ds__layer *layer, struct ds_error *err)
{
    struct ds_net *net = layer->net;
    struct ds_norm_use norm1 = norm_of(layer, DS_ROLE_NORM1_W);
    void *const *buf = layer->buf;
    int rc = 0;

    if (ds_family_norms_before(net->family) && makes(layer, DS_BUFFER_NORM1))
        rc = ds__norm_fwd(net, &norm1, buf[DS_BUFFER_NORM1], err);
    if (rc == 0 && makes(layer, DS_BUFFER_QKV))
        rc = qkv_fwd(layer, err);
    if (rc == 0 && makes(layer, DS_BUFFER_ATTENTION))
        rc = ds__attention_fwd(layer, err);
    if (rc == 0 && makes(layer, DS_BUFFER_MIDDLE))
        rc = add_product(layer, PROJ, buf[DS_BUFFER_ATTENTION], layer->x, buf[DS_BUFFER_MIDDLE],
                         err);
    return rc;
}

/* fc(norm2), and the activation of it where that is a part of the product. */
static int fc_fwd(const struct ds__layer *layer, struct ds_error *err)
{
    struct ds_linear fc = linear_of(layer, FC);
    void *const *buf = layer->buf;
    bool in_product = act_in_product(layer);
    void *y = buf[in_product ? DS_BUFFER_FFN_ACT : DS_BUFFER_FFN_IN];
    int rc;

    fc.gelu_x = in_product ? buf[DS_BUFFER_FFN_IN] : NULL;
    if (has_experts(layer))
        return ds__experts_in(layer->net, layer->block, layer->pass, err);
    rc = ds__linear_fwd(layer->net, &fc, read_by(layer, FC), NULL, y, err);
    return rc == 0 ? adapt_fwd(layer, FC, read_by(layer, FC), y, err) : rc;
}

/* out = middle + down(act(fc(norm2(middle)))) */
static int ffn_fwd(const struct ds__layer *layer, struct ds_error *err)
{
    struct ds_net *net = layer->net;
    struct ds_norm_use norm2 = norm_of(layer, DS_ROLE_NORM2_W);
    void *const *buf = layer->buf;
    int rc = 0;

    if (ds_family_norms_before(net->family) && makes(layer, DS_BUFFER_NORM2))
        rc = ds__norm_fwd(net, &norm2, buf[DS_BUFFER_NORM2], err);
    if (rc == 0 && makes(layer, DS_BUFFER_FFN_IN))
        rc = fc_fwd(layer, err);
    if (rc == 0 && makes(layer, DS_BUFFER_FFN_ACT) && !act_in_product(layer))
        rc = act_fwd(layer, err);
    if (rc == 0 && layer->pass != DS_PASS_RECOMPUTE) /* the output of a layer was kept */
        rc = add_product(layer, DOWN, buf[DS_BUFFER_FFN_ACT], buf[DS_BUFFER_MIDDLE],
                         buf[DS_BUFFER_OUT], err);
    return rc;
}

int ds__layer_fwd(struct ds_net *net, uint32_t block, enum ds_pass pass, bool accumulate,
                  struct ds_error *err)
{
    struct ds__layer layer = layer_of(net, block, pass, accumulate);
    int rc = attend_fwd(&layer, err);

    return rc != 0 ? rc : ffn_fwd(&layer, err);
}

/* Where the gradient of the rows that QKV or FC reads is until their norm has it.  Where both read
 * the layer's input, PROJ's gradient is that of the output, so FC's waits for it. */
static void *normed_gradient(const struct ds__layer *layer, enum product product)
{
    const bool waits = product == FC && layer->net->shape.parallel_residual;

    return layer->net->block[0].buf[DS_PASS_TRAIN][waits ? DS_BUFFER_DBESIDE : DS_BUFFER_DNARROW];
}

/* From the gradient dy of what QKV or FC makes to that of the rows they read; without a norm before
 * these are the stream's, which `stream` has of what is added behind. */
static int read_bwd(const struct ds__layer *layer, enum product product, const void *dy,
                    void *stream, bool accumulate, struct ds_error *err)
{
    struct ds_net *net = layer->net;
    struct ds_linear linear = linear_of(layer, product);
    const bool before = ds_family_norms_before(net->family);
    const void *x = read_by(layer, product);
    void *dx = before ? normed_gradient(layer, product) : stream;
    int rc = ds__linear_bwd_w(net, &linear, x, dy, accumulate, err);

    linear.dx_more = before ? NULL : stream;
    if (rc == 0)
        rc = ds__linear_bwd_x(net, &linear, dy, dx, err);
    if (rc == 0)
        rc = adapt_bwd(layer, product, x, dy, dx, accumulate, err);
    return rc == 0 && before ? ds__team_sum(net, dx, err) : rc;
}

/* And through the norm before, to that of the stream. */
static int before_bwd(const struct ds__layer *layer, enum product product, void *stream,
                      bool accumulate, struct ds_error *err)
{
    struct ds_norm_use norm = norm_of(layer, product == QKV ? DS_ROLE_NORM1_W : DS_ROLE_NORM2_W);

    if (!ds_family_norms_before(layer->net->family))
        return 0;
    return ds__norm_bwd(layer->net, &norm, normed_gradient(layer, product), stream, stream,
                        accumulate, err);
}

/* The same of experts, which have a norm before. */
static int experts_bwd(const struct ds__layer *layer, const void *dy, void *stream, bool accumulate,
                       struct ds_error *err)
{
    struct ds_net *net = layer->net;
    struct ds_norm_use norm = norm_of(layer, DS_ROLE_NORM2_W);
    void *narrow = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DNARROW];
    int rc = ds__experts_bwd(net, layer->block, accumulate, dy, narrow, err);

    if (rc == 0)
        rc = ds__team_sum(net, narrow, err);
    return rc == 0 ? ds__norm_bwd(net, &norm, narrow, stream, stream, accumulate, err) : rc;
}

/* stream: gradient of the layer's output in, of `middle` out; where the block reads the layer's
 * input it stays as it is until before_bwd(). */
static int ffn_bwd(const struct ds__layer *layer, void *stream, bool accumulate,
                   struct ds_error *err)
{
    struct ds_net *net = layer->net;
    struct ds_linear down = linear_of(layer, DOWN);
    void *wide = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DWIDE], *dfc = NULL;
    void *narrow = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DNARROW];
    const void *dy;
    int rc = add_product_bwd(layer, DOWN, stream, narrow, &dy, accumulate, err);

    if (rc == 0 && has_experts(layer))
        return experts_bwd(layer, dy, stream, accumulate, err);
    if (rc == 0)
        rc = ds__linear_bwd_w(net, &down, layer->buf[DS_BUFFER_FFN_ACT], dy, accumulate, err);
    if (rc == 0)
        rc = down_bwd(layer, dy, wide, accumulate, &dfc, err);
    if (rc == 0)
        rc = read_bwd(layer, FC, dfc, stream, accumulate, err);
    return rc != 0 || net->shape.parallel_residual ? rc
                                                   : before_bwd(layer, FC, stream, accumulate, err);
}

int ds__layer_bwd(struct ds_net *net, uint32_t block, bool accumulate, struct ds_error *err)
{
    struct ds__layer layer = layer_of(net, block, DS_PASS_RECOMPUTE, accumulate);
    struct ds_linear proj = linear_of(&layer, PROJ);
    void *wide = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DWIDE];
    void *narrow = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DNARROW];
    void *stream = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DSTREAM];
    const void *dy;
    int rc = ffn_bwd(&layer, stream, accumulate, err);

    if (rc == 0)
        rc = add_product_bwd(&layer, PROJ, stream, wide, &dy, accumulate, err);
    if (rc == 0)
        rc = ds__linear_bwd_w(net, &proj, layer.buf[DS_BUFFER_ATTENTION], dy, accumulate, err);
    if (rc == 0)
        rc = ds__linear_bwd_x(net, &proj, dy, narrow, err);
    if (rc == 0)
        rc = adapt_bwd(&layer, PROJ, layer.buf[DS_BUFFER_ATTENTION], dy, narrow, accumulate, err);
    if (rc == 0)
        rc = ds__attention_bwd(&layer, narrow, wide, err);
    if (rc == 0)
        rc = ds__rotate(&layer, wide, true, err);
    if (rc == 0 && ds__norms_qk(net))
        rc = ds__qk_norm_bwd(net, block, wide, accumulate, err);
    if (rc == 0)
        rc = read_bwd(&layer, QKV, wide, stream, accumulate, err);
    if (rc == 0)
        rc = before_bwd(&layer, QKV, stream, accumulate, err);
    return rc == 0 && net->shape.parallel_residual ? before_bwd(&layer, FC, stream, accumulate, err)
                                                   : rc;
}
