/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts.c - a layer's feed-forward block where a router gives each row to a few of many experts.
 *
 *   logits = router(x); each row's experts are those with the largest ones, and their weights the
 *   softmax over these
 *   FFN_IN = fc(rows taken by expert), FFN_ACT = weight * swiglu(FFN_IN)
 *   y      = residual + sum over a row's experts of down(FFN_ACT)
 *
 * Weights are in the activation, and not in the sum, so that what down() made of a row need not be
 * kept: their gradient is that of the activation with the activation.  Sorted rows are as many as
 * rows times experts of each, whatever the router says; they are taken again where they are needed,
 * so that all layers share the room for them.
 *
 * The loss has model.expert_balance times, for each layer, the mean over sequences of
 * E * sum over experts of (share of the pairs) * (mean of the probability), which is 1 where all
 * are used alike.  It enters the gradient, not the loss that is reported.
 *
 * A team has some columns of every expert, and routes alike: gradients of weights are added up.
 *
 * Where ranks divide experts each routes its own rows.  The rows of all, and what was said of them,
 * are gathered; a rank sorts the pairs that are of its experts, and what they make of rows goes
 * back in parts (meet.c).  Of the arrays by pair its own ones are at its place.
 *
 * Source  Jiang et al., "Mixtral of Experts" (2024); Fedus et al., "Switch Transformers" (2021)
 * Tests   tests/engine/test_experts.c
 */
#include "kernels/probe.h"
#include "runtime/model/net.h"

/* The experts of a layer, and what its router has said of a micro-batch. */
struct experts {
    const struct ds_net *net;
    const struct ds_net_block *block;
    void *const *buf;
    void *sorted, *met;
    size_t held;             /* experts that are here */
    size_t rows, room;       /* that come to them; sorted ones, at most */
    size_t own, own_pairs;   /* this rank's pairs: the first, how many */
    float *probs, *load;     /* of its own rows */
    float *weight, *dweight; /* of all pairs */
    uint32_t *chosen, *source, *place, *offset;
    const uint32_t *count; /* of sorted rows */
};

static void *part(char *routes, uint64_t at)
{
    return routes + at;
}

static struct experts experts_of(const struct ds_net *net, uint32_t block, enum ds_pass pass)
{
    const enum ds_pass shared = pass == DS_PASS_EVAL ? DS_PASS_EVAL : DS_PASS_TRAIN;
    const unsigned ranks = ds__meeting(net);
    const struct ds_model_routes at = ds_model_routes(&net->shape, net->batch, net->tokens, ranks);
    char *routes = net->block[block].buf[pass][DS_BUFFER_ROUTES];
    const size_t held = net->shape.experts / ranks, pairs = net->tokens * net->shape.experts_each;
    uint32_t *offset = part(routes, at.offset);

    return (struct experts){
        .net = net,
        .block = &net->block[block],
        .buf = net->block[block].buf[pass],
        .sorted = net->block[0].buf[shared][DS_BUFFER_SORTED],
        .met = net->block[0].buf[shared][DS_BUFFER_MET],
        .held = held,
        .rows = ranks * net->tokens,
        .room = ds_model_sorted_rows(&net->shape, net->tokens, ranks),
        .own = ds__meet_place(net) * pairs,
        .own_pairs = pairs,
        .probs = part(routes, at.probs),
        .weight = part(routes, at.weight),
        .dweight = part(routes, at.dweight),
        .load = part(routes, at.load),
        .chosen = part(routes, at.chosen),
        .source = part(routes, at.source),
        .place = part(routes, at.place),
        .offset = offset,
        .count = offset + held,
    };
}

/* --- the router ------------------------------------------------------------------------------- */

/* The pairs of those experts that are here. */
static int sort(const struct experts *x, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const struct ds_sort_pairs_args args = {
        .rows = x->rows,
        .each = net->shape.experts_each,
        .experts = net->shape.experts,
        .first = net->first_expert,
        .held = x->held,
        .sorted = x->room,
        .chosen = x->chosen,
        .source = x->source,
        .place = x->place,
        .offset = x->offset,
    };

    return ds_sort_pairs(&args, net->stream, err);
}

static int route(const struct experts *x, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const size_t hidden = net->shape.hidden, experts = net->shape.experts;
    const struct ds_matmul_args logits = {
        .m = net->tokens,
        .n = experts,
        .k = hidden,
        .trans_b = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = x->buf[DS_BUFFER_NORM2],
        .lda = hidden,
        .b = x->block->weight[DS_ROLE_ROUTER_W],
        .ldb = hidden,
        .d = x->probs,
        .ldd = experts,
    };
    const struct ds_route_args args = {
        .batch = net->batch,
        .seq = net->seq,
        .experts = experts,
        .each = net->shape.experts_each,
        .logits = x->probs,
        .probs = x->probs,
        .chosen = x->chosen + x->own,
        .weight = x->weight + x->own,
        .load = x->load,
    };
    int rc = ds_matmul(&logits, net->stream, err);

    if (rc == 0)
        rc = ds_route(&args, net->stream, err);
    if (rc == 0 && ds__meets(net))
        rc = ds__meet_said(net, x->chosen, err);
    if (rc == 0 && ds__meets(net))
        rc = ds__meet_said(net, x->weight, err);
    return rc == 0 ? sort(x, err) : rc;
}

/* How uneven experts are used is told of every step, by one of a team. */
static int tell_load(const struct experts *x, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const struct ds_load_peak_args args = {
        .batch = net->batch, .experts = net->shape.experts, .load = x->load, .sum = net->peak_sum};

    return ds__leads_team(net) ? ds_load_peak(&args, net->stream, err) : 0;
}

/* How many tokens of each sequence every expert has, on all ranks that share it. */
static int add_up_loads(const struct experts *x, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const size_t n = net->batch * net->shape.experts;
    size_t at;
    int rc = ds__probe_begin(net->stream, &at, err);

    ds_comm_use_stream(net->sharers, net->stream);
    if (rc == 0)
        rc = ds_comm_all_reduce_f32(net->sharers, x->load, n, err);
    return rc == 0 ? ds__probe_end_bytes(net->stream, at, "all_reduce", 2 * n * sizeof(float), err)
                   : rc;
}

/* dlogits from the gradients of weights, which all of a team have a part of, or who has the expert,
 * and from how many tokens of each sequence every expert has, on all ranks that share it. */
static int route_bwd(const struct experts *x, void *dlogits, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const bool balances = net->shape.balance > 0.0;
    const struct ds_route_bwd_args args = {
        .batch = net->batch,
        .seq = net->seq,
        .sequence = net->seq * ds__sharers(net),
        .experts = net->shape.experts,
        .each = net->shape.experts_each,
        .act = net->act,
        .probs = x->probs,
        .chosen = x->chosen + x->own,
        .weight = x->weight + x->own,
        .dweight = x->dweight + x->own,
        .load = x->load,
        .balance = (float)net->shape.balance,
        .grad_scale = net->grad_scale,
        .grad_scale_at = net->grad_scale_at,
        .dlogits = dlogits,
    };
    int rc = 0;

    if (ds__meets(net))
        rc = ds__meet_weights(net, x->dweight, err);
    if (rc == 0 && ds__shares_layers(net))
        rc = ds__team_add_up(net, x->dweight + x->own, x->own_pairs, err);
    if (rc == 0 && balances && ds__shares_sequences(net))
        rc = add_up_loads(x, err);
    return rc == 0 ? ds_route_bwd(&args, net->stream, err) : rc;
}

/* The gradient of the router's matrix; dx += that of its rows, on one rank of a team. */
static int router_bwd(const struct experts *x, const void *dlogits, bool accumulate, void *dx,
                      struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const size_t hidden = net->shape.hidden, experts = net->shape.experts;
    float *dweight = x->block->grad[DS_ROLE_ROUTER_W];
    const struct ds_matmul_args matrix = {
        .m = experts,
        .n = hidden,
        .k = net->tokens,
        .trans_a = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = dlogits,
        .lda = experts,
        .b = x->buf[DS_BUFFER_NORM2],
        .ldb = hidden,
        .c = accumulate ? dweight : NULL,
        .ldc = hidden,
        .d = dweight,
        .ldd = hidden,
    };
    const struct ds_matmul_args rows = {
        .m = net->tokens,
        .n = hidden,
        .k = experts,
        .in_type = net->act,
        .out_type = net->act,
        .a = dlogits,
        .lda = experts,
        .b = x->block->weight[DS_ROLE_ROUTER_W],
        .ldb = hidden,
        .c = dx,
        .ldc = hidden,
        .d = dx,
        .ldd = hidden,
    };
    int rc = dweight != NULL ? ds_matmul(&matrix, net->stream, err) : 0;

    return rc == 0 && ds__leads_team(net) ? ds_matmul(&rows, net->stream, err) : rc;
}

/* --- experts ---------------------------------------------------------------------------------- */

/* SORTED = a pair's row of rows[x->rows, hidden]. */
static int take(const struct experts *x, const void *rows, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const struct ds_rows_take_args args = {
        .rows = x->rows,
        .each = net->shape.experts_each,
        .channels = net->shape.hidden,
        .sorted = x->room,
        .act = net->act,
        .source = x->source,
        .count = x->count,
        .x = rows,
        .y = x->sorted,
    };

    return ds_rows_take(&args, net->stream, err);
}

/* y = residual + the sum of SORTED's rows that are of a row, wherever they are. */
static int give_back(const struct experts *x, const void *residual, void *y, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const bool meets = ds__meets(net);
    const struct ds_rows_sum_args args = {
        .rows = x->rows,
        .each = net->shape.experts_each,
        .channels = net->shape.hidden,
        .sorted = x->room,
        .act = net->act,
        .place = x->place,
        .x = x->sorted,
        .residual = meets ? NULL : residual,
        .y = meets ? net->swapped : y,
    };
    int rc = ds_rows_sum(&args, net->stream, err);

    return rc == 0 && meets ? ds__meet_parts(net, x->met, residual, y, err) : rc;
}

/* The products of both matrices of an expert: from sorted rows to FFN_IN, from FFN_ACT to sorted
 * rows. */
static struct ds_experts_matmul_args product_of(const struct experts *x,
                                                enum ds_layer_product product)
{
    const struct ds_net *net = x->net;
    const struct ds_extents extents = ds_model_product(&net->shape, product);
    const bool first = product == DS_PRODUCT_FC;

    return (struct ds_experts_matmul_args){
        .rows = x->room,
        .experts = x->held,
        .in = extents.in,
        .out = extents.out,
        .act = net->act,
        .offset = x->offset,
        .x = first ? x->sorted : x->buf[DS_BUFFER_FFN_ACT],
        .y = first ? x->buf[DS_BUFFER_FFN_IN] : x->sorted,
        .weight = x->block->weight[first ? DS_ROLE_FC_W : DS_ROLE_DOWN_W],
    };
}

static int product_fwd(const struct experts *x, enum ds_layer_product product, void *y,
                       struct ds_error *err)
{
    struct ds_experts_matmul_args args = product_of(x, product);

    args.product = DS_EXPERTS_FWD;
    args.to = y;
    args.y = NULL;
    return ds_experts_matmul(&args, x->net->stream, err);
}

static int product_bwd_x(const struct experts *x, enum ds_layer_product product, void *dx,
                         struct ds_error *err)
{
    struct ds_experts_matmul_args args = product_of(x, product);

    args.product = DS_EXPERTS_BWD_X;
    args.to = dx;
    args.x = NULL;
    return ds_experts_matmul(&args, x->net->stream, err);
}

static int product_bwd_w(const struct experts *x, enum ds_layer_product product, bool accumulate,
                         struct ds_error *err)
{
    struct ds_experts_matmul_args args = product_of(x, product);

    args.product = DS_EXPERTS_BWD_W;
    args.to = x->block->grad[product == DS_PRODUCT_FC ? DS_ROLE_FC_W : DS_ROLE_DOWN_W];
    args.weight = NULL;
    args.accumulate = accumulate;
    return args.to != NULL ? ds_experts_matmul(&args, x->net->stream, err) : 0;
}

/* The rows that experts are given: of all ranks that divide them those that were gathered last. */
static const void *given(const struct experts *x)
{
    return ds__meets(x->net) ? x->met : x->buf[DS_BUFFER_NORM2];
}

int ds__experts_in(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                   struct ds_error *err)
{
    const struct experts x = experts_of(net, block, pass);
    int rc = pass == DS_PASS_RECOMPUTE ? 0 : route(&x, err);

    if (rc == 0 && pass == DS_PASS_TRAIN)
        rc = tell_load(&x, err);
    if (rc == 0 && ds__meets(net))
        rc = ds__meet_rows(net, x.buf[DS_BUFFER_NORM2], x.met, err);
    if (rc == 0)
        rc = take(&x, given(&x), err);
    return rc == 0 ? product_fwd(&x, DS_PRODUCT_FC, x.buf[DS_BUFFER_FFN_IN], err) : rc;
}

int ds__experts_act(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                    struct ds_error *err)
{
    const struct experts x = experts_of(net, block, pass);
    const struct ds_swiglu_rows_fwd_args args = {
        .rows = x.room,
        .pairs = x.rows * net->shape.experts_each,
        .ffn = net->shape.ffn,
        .act = net->act,
        .source = x.source,
        .count = x.count,
        .x = x.buf[DS_BUFFER_FFN_IN],
        .weight = x.weight,
        .y = x.buf[DS_BUFFER_FFN_ACT],
    };

    return ds_swiglu_rows_fwd(&args, net->stream, err);
}

int ds__experts_out(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                    const void *residual, void *y, struct ds_error *err)
{
    const struct experts x = experts_of(net, block, pass);
    int rc = product_fwd(&x, DS_PRODUCT_DOWN, x.sorted, err);

    return rc == 0 ? give_back(&x, residual, y, err) : rc;
}

/* From SORTED, gradients of what experts made, to gradients of what they were given; those of
 * FFN_IN come in its place. */
static int products_bwd(const struct experts *x, bool accumulate, void *wide, struct ds_error *err)
{
    const struct ds_net *net = x->net;
    const size_t pairs = x->rows * net->shape.experts_each;
    const struct ds_swiglu_rows_bwd_args act = {
        .rows = x->room,
        .pairs = pairs,
        .ffn = net->shape.ffn,
        .act = net->act,
        .source = x->source,
        .count = x->count,
        .x = x->buf[DS_BUFFER_FFN_IN],
        .dy = wide,
        .weight = x->weight,
        .dx = x->buf[DS_BUFFER_FFN_IN],
        .dweight = x->dweight,
    };
    int rc = product_bwd_w(x, DS_PRODUCT_DOWN, accumulate, err);

    if (rc == 0)
        rc = product_bwd_x(x, DS_PRODUCT_DOWN, wide, err);
    if (rc == 0 && ds__meets(net)) /* of pairs that are not here this rank has no part */
        rc = ds_stream_clear(net->stream, x->dweight, pairs * sizeof(*x->dweight), err);
    if (rc == 0)
        rc = ds_swiglu_rows_bwd(&act, net->stream, err);
    if (rc == 0)
        rc = take(x, given(x), err);
    if (rc == 0)
        rc = product_bwd_w(x, DS_PRODUCT_FC, accumulate, err);
    return rc == 0 ? product_bwd_x(x, DS_PRODUCT_FC, x->sorted, err) : rc;
}

int ds__experts_bwd(const struct ds_net *net, uint32_t block, bool accumulate, const void *dy,
                    void *dx, struct ds_error *err)
{
    const struct experts x = experts_of(net, block, DS_PASS_RECOMPUTE);
    void *wide = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DWIDE];
    bool meets = ds__meets(net);
    int rc = 0;

    if (meets && !ds_plan_drops(net->plan, block, DS_BUFFER_FFN_IN)) /* else it was just done */
        rc = ds__meet_rows(net, x.buf[DS_BUFFER_NORM2], x.met, err);
    if (rc == 0 && meets)
        rc = ds__meet_rows(net, dy, net->swapped, err);
    if (rc == 0)
        rc = take(&x, ds__meets(net) ? net->swapped : dy, err);
    if (rc == 0)
        rc = products_bwd(&x, accumulate, wide, err);
    if (rc == 0)
        rc = give_back(&x, NULL, dx, err);
    if (rc == 0)
        rc = route_bwd(&x, wide, err);
    return rc == 0 ? router_bwd(&x, wide, accumulate, dx, err) : rc;
}
