/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * work.c - the contract is in work.h.
 */
#include "runtime/cost/work.h"

#include <math.h>

#include "kernels/amount.h"
#include "runtime/model/family.h"
#include "runtime/optim.h"

struct bench { /* one micro-batch on one rank, in elements */
    const struct ds_cluster *cluster;
    const struct ds_plan *plan;
    const struct ds_family *family;
    double tokens, hidden, qkv, heads, ffn_in, ffn, vocab; /* heads: width of all query heads */
    double act;                                            /* bytes of an activation */
    enum ds_dtype type;                                    /* of it */
    size_t rows;                                           /* tokens */
    size_t pairs; /* of a token and one of its experts; tokens where there are none */
};

static struct bench open_bench(const struct ds_cluster *cluster, const struct ds_plan *plan)
{
    const struct ds_model_shape *shape = &plan->shape;

    return (struct bench){
        .cluster = cluster,
        .plan = plan,
        .family = ds_family_of(shape->arch),
        .tokens = (double)(plan->micro_batch * plan->sequence),
        .hidden = (double)shape->hidden,
        .qkv = (double)ds_model_qkv_width(shape),
        .heads = (double)(shape->heads * shape->head_size),
        .ffn_in = (double)ds_model_ffn_in_width(shape),
        .ffn = (double)shape->ffn,
        .vocab = (double)shape->vocab,
        .act = (double)ds_dtype_bytes(ds_compute_dtype(plan->compute)),
        .type = ds_compute_dtype(plan->compute),
        .rows = plan->micro_batch * plan->sequence,
        .pairs = plan->micro_batch * plan->sequence * ds_model_product_rows(shape, DS_PRODUCT_FC),
    };
}

/* --- parts ------------------------------------------------------------------------------------ */

/* Is the work done at the rate of bf16?  A cluster names one of the two at least. */
static bool is_low(struct ds_rate rate, enum ds_compute compute)
{
    return compute == DS_COMPUTE_FP32 ? rate.fp32 <= 0.0 : rate.bf16 > 0.0;
}

static double by_type(struct ds_rate rate, bool low)
{
    return low ? rate.bf16 : rate.fp32;
}

/* Seconds of `flops` where the rate is reached with endless extents, half of it at `half`. */
static double at_extent(double flops, struct ds_rate rate, struct ds_rate half, double extent,
                        enum ds_compute compute)
{
    bool low = is_low(rate, compute);

    return flops / by_type(rate, low) * (1.0 + by_type(half, low) / extent);
}

double ds_work_matmul(const struct ds_cluster *cluster, enum ds_compute compute, double m, double n,
                      double k)
{
    enum ds_dtype type = ds_compute_dtype(compute);
    const struct ds_matmul_args product = {
        .m = (size_t)m, .n = (size_t)n, .k = (size_t)k, .in_type = type, .out_type = type};
    struct ds_amount amount = ds_op_amount(DS_OP_MATMUL, &product);
    double compute_s = at_extent(amount.flops, cluster->device.flops, cluster->device.matmul_half,
                                 fmin(m, fmin(n, k)), compute);
    double memory_s = amount.bytes / cluster->device.bandwidth;

    return fmax(compute_s, memory_s) + cluster->device.launch_us * 1e-6;
}

double ds_work_pointwise(const struct ds_cluster *cluster, enum ds_compute compute, double bytes,
                         double operations)
{
    double rate = by_type(cluster->device.pointwise, compute != DS_COMPUTE_FP32);

    return bytes / rate + operations * cluster->device.launch_us * 1e-6;
}

static double pointwise(const struct bench *b, double bytes, double operations)
{
    return ds_work_pointwise(b->cluster, b->plan->compute, bytes, operations);
}

static double draw(const struct bench *b, double words)
{
    return b->cluster->device.random > 0.0 ? words / b->cluster->device.random : 0.0;
}

/* `times` a pass over the stream that reads, drops or multiplies, and writes; reading a residual is
 * counted with what it is added to. */
static double dropout(const struct bench *b, double times)
{
    const struct ds_dropout_args args = {.n = b->rows * b->plan->shape.hidden, .act = b->type};
    double bytes = times * ds_op_amount(DS_OP_DROPOUT, &args).bytes;

    if (!b->plan->drops && !(b->plan->shape.residual_scale > 0.0))
        return 0.0;
    return pointwise(b, bytes, times) + (b->plan->drops ? draw(b, times * (double)args.n) : 0.0);
}

/* Scores, softmax and values over the visible half, or what a window leaves of it.  Weights are
 * dropped once in each pass. */
static double attention(const struct bench *b, bool backward)
{
    const struct ds_model_shape *shape = &b->plan->shape;
    const struct ds_attention_fwd_args f = {.batch = b->plan->micro_batch,
                                            .seq = b->plan->whole_sequence,
                                            .heads = shape->heads / b->plan->sequence_ranks,
                                            .kv_heads = ds_plan_kv_heads(b->plan),
                                            .head_size = shape->head_size,
                                            .act = b->type};
    const struct ds_attention_bwd_args g = {.batch = f.batch,
                                            .seq = f.seq,
                                            .heads = f.heads,
                                            .kv_heads = f.kv_heads,
                                            .head_size = f.head_size,
                                            .act = f.act};
    double flops = backward ? ds_op_amount(DS_OP_ATTENTION_BWD, &g).flops
                            : ds_op_amount(DS_OP_ATTENTION_FWD, &f).flops;
    double all = (double)b->plan->whole_sequence,
           seen = ds_model_seen(shape, b->plan->whole_sequence);
    double words = b->tokens * (seen + 0.5) * (double)shape->heads;

    return (b->plan->drops_weights ? draw(b, words) : 0.0) +
           at_extent(flops * (seen / (all / 2.0)), b->cluster->device.attention,
                     b->cluster->device.attention_half, (double)b->plan->whole_sequence,
                     b->plan->compute) +
           b->cluster->device.launch_us * 1e-6;
}

/* Bytes that are read to find the largest elements of a product's operands (model/fp8.c): of rows
 * and gradients where SwiGLU has not, of weights by the first micro-batch that has them. */
static double fp8_searched(const struct bench *b, enum ds_layer_product product, bool backward)
{
    struct ds_extents e = ds_model_product(&b->plan->shape, product);
    bool by_swiglu = b->family->swiglu && product == (backward ? DS_PRODUCT_FC : DS_PRODUCT_DOWN);
    double rows = by_swiglu ? 0.0 : b->tokens * (double)(backward ? e.out : e.in);
    double times = b->plan->stage < 2 ? 1.0 / (double)b->plan->micro_batches : 1.0;

    return b->act * (rows + (backward ? 0.0 : (double)(e.in * e.out) * times));
}

/* Products of codes, and what makes them: a matrix is read, after a search for its largest
 * element; codes of a byte are written, those of a gradient twice for two.  Where the host
 * computes, both operands become bf16 before. */
static double fp8_product(const struct bench *b, enum ds_layer_product product, double times,
                          bool backward)
{
    struct ds_extents e = ds_model_product(&b->plan->shape, product);
    double out = (double)e.out, in = (double)e.in;
    const struct ds_cluster *cluster = b->cluster;
    double t = b->tokens, least = fmin(t, fmin(out, in));
    double codes = backward && times < 2.0 ? in * out : t * in + in * out;
    double elems = codes * (b->act + 1.0);
    struct ds_rate other = cluster->device.flops;
    double flops = cluster->device.fp8.flops > 0.0 ? cluster->device.fp8.flops
                                                   : by_type(other, is_low(other, DS_COMPUTE_BF16));
    double compute_s = 2.0 * t * out * in / flops * (1.0 + cluster->device.fp8.matmul_half / least);
    double memory_s = (codes + t * out * b->act) / cluster->device.bandwidth;

    if (backward)
        elems += t * out * (b->act + times);
    if (!b->plan->apart && cluster->pcie.bandwidth <= 0.0)
        elems += times * (codes + (backward ? t * out : 0.0)) * 3.0;
    return times * (fmax(compute_s, memory_s) + cluster->device.launch_us * 1e-6) +
           pointwise(b, elems + fp8_searched(b, product, backward), 5.0);
}

/* A product of a layer.  Of experts each has about as many rows as the others, and a matrix of its
 * own. */
static double product(const struct bench *b, enum ds_layer_product product)
{
    struct ds_extents e = ds_model_product(&b->plan->shape, product);
    double rows = b->tokens * (double)ds_model_product_rows(&b->plan->shape, product);
    double experts = 1.0;

    if (b->plan->shape.experts > 0 && (product == DS_PRODUCT_FC || product == DS_PRODUCT_DOWN))
        experts = fmin((double)ds_plan_experts(b->plan), rows);
    return experts * ds_work_matmul(b->cluster, b->plan->compute, rows / experts, (double)e.out,
                                    (double)e.in);
}

/* Products with a layer's matrix: of the rows' gradients, and of its own where it has any. */
static double products_back(const struct bench *b, uint32_t block, enum ds_layer_product product)
{
    const enum ds_role first[] = {b->family->packed ? DS_ROLE_QKV_W : DS_ROLE_Q_W, DS_ROLE_PROJ_W,
                                  b->family->swiglu ? DS_ROLE_GATE_W : DS_ROLE_FC_W,
                                  DS_ROLE_DOWN_W};

    return ds_plan_trains(b->plan, block, first[product]) ? 2.0 : 1.0;
}

/* Of a product's adapters: two products each, backward four, and what scales rows between. */
static double adapters(const struct bench *b, enum ds_layer_product product, bool backward)
{
    const struct ds_lora *lora = &b->plan->shape.lora;
    const unsigned first = ds_model_first_target(product);
    const unsigned end = ds_model_first_target((enum ds_layer_product)(product + 1));
    const unsigned targets = lora->targets & ((1U << end) - (1U << first));
    const double parts = lora->rank > 0 ? (double)__builtin_popcount(targets) : 0.0;
    const double rank = (double)lora->rank, times = backward ? 2.0 : 1.0;
    struct ds_extents e = ds_model_product(&b->plan->shape, product);
    const struct ds_dropout_args drop = {.n = (size_t)b->tokens * e.in, .act = b->type};
    const double drops = lora->dropout > 0.0 ? times : 0.0;

    if (parts <= 0.0)
        return 0.0;
    return drops * (pointwise(b, ds_op_amount(DS_OP_DROPOUT, &drop).bytes, 1.0) +
                    draw(b, (double)drop.n)) +
           times *
               ds_work_matmul(b->cluster, b->plan->compute, b->tokens, parts * rank, (double)e.in) +
           times * parts *
               ds_work_matmul(b->cluster, b->plan->compute, b->tokens, (double)e.out / parts,
                              rank) +
           pointwise(b, b->tokens * parts * rank * (3.0 * sizeof(float) + b->act), 2.0);
}

/* The products of a layer; backward two for each. */
static double layer_products(const struct bench *b, uint32_t block, bool backward, bool down)
{
    double sum = 0.0;

    for (unsigned i = 0; i < DS_PRODUCT_COUNT; i++) {
        const enum ds_layer_product which = (enum ds_layer_product)i;
        const double times = backward ? products_back(b, block, which) : 1.0;

        if (i == DS_PRODUCT_DOWN && !down)
            continue;
        sum += b->plan->fp8 ? fp8_product(b, which, times, backward) : times * product(b, which);
        sum += adapters(b, which, backward);
    }
    return sum;
}

/* What a layer with experts does beside its products and their activation: the router's product and
 * what follows from it, rows that are sorted and added up again. */
static double routing(const struct bench *b, bool backward)
{
    const struct ds_model_shape *shape = &b->plan->shape;
    const struct ds_rows_take_args take = {.rows = b->rows,
                                           .each = shape->experts_each,
                                           .channels = shape->hidden,
                                           .sorted = b->pairs,
                                           .act = b->type};
    const struct ds_rows_sum_args sum = {
        .rows = b->rows, .each = shape->experts_each, .channels = shape->hidden, .act = b->type};
    double bytes = ds_op_amount(DS_OP_ROWS_SUM, &sum).bytes +
                   (backward ? 2.0 : 1.0) * ds_op_amount(DS_OP_ROWS_TAKE, &take).bytes;
    double router, said;

    if (shape->experts == 0)
        return 0.0;
    router =
        ds_work_matmul(b->cluster, b->plan->compute, b->tokens, (double)shape->experts, b->hidden);
    said = (double)ds_plan_routes(b->plan).bytes;
    return (backward ? 2.0 : 1.0) * router + pointwise(b, bytes + said, 4.0);
}

/* Bytes of a norm of the stream; backward its gradient is added. */
static double norm(const struct bench *b, bool backward)
{
    const struct ds_norm_fwd_args f = {
        .rows = b->rows, .channels = b->plan->shape.hidden, .act = b->type};
    const struct ds_norm_bwd_args g = {
        .rows = f.rows, .channels = f.channels, .act = f.act, .dres = b};

    return backward ? ds_op_amount(DS_OP_NORM_BWD, &g).bytes
                    : ds_op_amount(DS_OP_NORM_FWD, &f).bytes;
}

/* How many a layer has: those before its halves, and all. */
static double norms_before(const struct bench *b)
{
    return ds_family_norms_before(b->family) ? 2.0 : 0.0;
}

static double norms(const struct bench *b)
{
    return norms_before(b) + (ds_family_norms_behind(b->family) ? 2.0 : 0.0);
}

/* What a product moves more that has the activation as its epilogue. */
static double epilogue(const struct bench *b, bool backward)
{
    struct ds_matmul_args product = {
        .m = b->rows, .n = b->plan->shape.ffn, .k = 1, .in_type = b->type, .out_type = b->type};
    double plain = ds_op_amount(DS_OP_MATMUL, &product).bytes;

    product.epilogue = backward ? DS_EPILOGUE_GELU_BWD : DS_EPILOGUE_GELU;
    return ds_op_amount(DS_OP_MATMUL, &product).bytes - plain;
}

/* Of the feed-forward activation, as an operation `alone` or in the product beside it. */
static double activation(const struct bench *b, bool backward, bool alone)
{
    const size_t ffn = b->plan->shape.ffn;
    const struct ds_swiglu_fwd_args sf = {.rows = b->pairs, .ffn = ffn, .act = b->type};
    const struct ds_swiglu_bwd_args sg = {.rows = b->pairs, .ffn = ffn, .act = b->type};
    const struct ds_gelu_fwd_args gf = {.n = b->rows * ffn, .act = b->type};
    const struct ds_gelu_bwd_args gg = {.n = b->rows * ffn, .act = b->type};

    if (!alone)
        return epilogue(b, backward);
    if (b->family->swiglu)
        return backward ? ds_op_amount(DS_OP_SWIGLU_BWD, &sg).bytes
                        : ds_op_amount(DS_OP_SWIGLU_FWD, &sf).bytes;
    return backward ? ds_op_amount(DS_OP_GELU_BWD, &gg).bytes
                    : ds_op_amount(DS_OP_GELU_FWD, &gf).bytes;
}

/* Of norms of queries and keys, of each head or of all, where a family has them. */
static double qk_norms(const struct bench *b, bool backward)
{
    const struct ds_model_shape *shape = &b->plan->shape;
    const struct ds_head_norm_fwd_args f = {.rows = b->rows,
                                            .heads = shape->heads,
                                            .kv_heads = shape->kv_heads,
                                            .head_size = shape->head_size,
                                            .act = b->type,
                                            .param = b->type};
    const struct ds_head_norm_bwd_args g = {.rows = b->rows,
                                            .heads = shape->heads,
                                            .kv_heads = shape->kv_heads,
                                            .head_size = shape->head_size,
                                            .act = b->type,
                                            .param = b->type};

    if (!ds_arch_norms_heads(shape->arch) && !ds_arch_norms_rows(shape->arch))
        return 0.0;
    return pointwise(b,
                     backward ? ds_op_amount(DS_OP_HEAD_NORM_BWD, &g).bytes
                              : ds_op_amount(DS_OP_HEAD_NORM_FWD, &f).bytes,
                     ds_arch_norms_rows(shape->arch) ? 3.0 : 1.0);
}

/* The share of layers that have rotary positions. */
static double turning(const struct bench *b)
{
    const struct ds_model_shape *shape = &b->plan->shape;

    return (double)ds_model_turning(shape) / (double)shape->layers;
}

/* Of the rotation of queries and keys, in mean over layers. */
static double rotation(const struct bench *b)
{
    const struct ds_model_shape *shape = &b->plan->shape;
    const struct ds_rope_args args = {.batch = b->plan->micro_batch,
                                      .seq = b->plan->sequence,
                                      .heads = shape->heads + shape->kv_heads,
                                      .head_size = shape->head_size,
                                      .turned = shape->rope_dims,
                                      .act = b->type};

    return turning(b) * ds_op_amount(DS_OP_ROPE, &args).bytes;
}

/* Of the gradients of four biases; of Qwen2's one; Llama has none. */
static double biases(const struct bench *b)
{
    const size_t qkv = (size_t)b->qkv, others = 2 * b->plan->shape.hidden + (size_t)b->ffn_in;
    const struct ds_bias_bwd_args args = {
        .rows = b->rows, .n = b->family->swiglu ? qkv : qkv + others, .act = b->type};

    return b->family->swiglu && !b->family->qkv_bias ? 0.0
                                                     : ds_op_amount(DS_OP_BIAS_BWD, &args).bytes;
}

/* On a GPU GELU and its derivative are parts of the products beside them, unless those are of F32,
 * or of FP8, which then move what it alone reads or writes.  Where only it is computed again it is
 * by itself, forward. */
static bool gelu_in_product(const struct bench *b)
{
    return b->plan->apart && ds_family_fuses_act(b->family) && !b->plan->fp8 && b->type != DS_F32;
}

/* Norms before the halves and the feed-forward activation again. */
static double selective_forward(const struct bench *b)
{
    const double times = norms_before(b);

    return pointwise(b, times * norm(b, false) + activation(b, false, true), times + 1.0);
}

static double layer_forward(const struct bench *b, uint32_t block, bool recompute)
{
    bool alone = !gelu_in_product(b) || (b->plan->recompute == DS_RECOMPUTE_SELECTIVE &&
                                         ds_plan_recomputes(b->plan, block));
    double residuals = 2.0 * b->tokens * b->hidden * b->act; /* read by products */
    double bytes =
        norms(b) * norm(b, false) + residuals + rotation(b) + activation(b, false, alone);
    double operations = norms(b) + turning(b) + (alone ? 1.0 : 0.0);

    if (recompute && b->plan->recompute == DS_RECOMPUTE_SELECTIVE)
        return selective_forward(b);
    return layer_products(b, block, false, !recompute) + routing(b, false) + qk_norms(b, false) +
           attention(b, false) + dropout(b, recompute ? 1.0 : 2.0) +
           pointwise(b, bytes, operations);
}

static double layer_backward(const struct bench *b, uint32_t block)
{
    bool alone = !gelu_in_product(b);
    double bytes = norms(b) * norm(b, true) + rotation(b) + biases(b) + activation(b, true, alone);
    double operations =
        norms(b) + (b->family->swiglu ? 0.0 : 4.0) + turning(b) + (alone ? 1.0 : 0.0);

    return layer_products(b, block, true, true) + routing(b, true) + qk_norms(b, true) +
           attention(b, true) + dropout(b, 2.0) + pointwise(b, bytes, operations);
}

/* Logits chunk by chunk; a training pass goes on to the gradients at once. */
static double head_forward(const struct bench *b)
{
    enum ds_compute compute = b->plan->compute;
    double product = ds_work_matmul(b->cluster, compute, b->tokens, b->vocab, b->hidden);
    char there; /* gradients are written */
    const struct ds_xent_args loss = {.rows = b->rows,
                                      .vocab = b->plan->shape.vocab,
                                      .act = b->type,
                                      .logits_type = b->type,
                                      .dlogits = &there};
    double logits = b->tokens * b->vocab * b->act; /* written by the product */
    bool trains = ds_plan_trains_head(b->plan);

    return (trains ? 3.0 : 2.0) * product +
           pointwise(b, logits + ds_op_amount(DS_OP_XENT, &loss).bytes, 2.0);
}

static double embed(const struct bench *b, bool backward)
{
    const struct ds_model_shape *shape = &b->plan->shape;
    const struct ds_embed_fwd_args f = {
        .batch = 1, .seq = b->rows, .channels = shape->hidden, .act = b->type, .param = b->type};
    const struct ds_embed_bwd_args g = {.batch = 1,
                                        .seq = b->rows,
                                        .channels = shape->hidden,
                                        .vocab = shape->vocab,
                                        .act = b->type,
                                        .accumulate_wte = shape->tie_embeddings};
    double rows = 2.0 * sizeof(float) * b->tokens * b->hidden; /* that tokens name are added to */
    double bytes = backward ? ds_op_amount(DS_OP_EMBED_BWD, &g).bytes + rows
                            : ds_op_amount(DS_OP_EMBED_FWD, &f).bytes;

    return (b->plan->drops ? dropout(b, 1.0) : 0.0) + pointwise(b, bytes, 1.0);
}

static double block_s(const struct bench *b, const struct ds_instr *instr)
{
    uint32_t last = ds_model_blocks(&b->plan->shape) - 1;
    bool backward = instr->op == DS_INSTR_BACKWARD;

    if (backward && instr->block < b->plan->first_trained)
        return 0.0;
    if (instr->block == 0)
        return embed(b, backward);
    if (instr->block < last)
        return backward ? layer_backward(b, instr->block)
                        : layer_forward(b, instr->block, instr->recompute);
    return backward ? pointwise(b, norm(b, true), 1.0) : head_forward(b);
}

double ds_work_instr(const struct ds_cluster *cluster, const struct ds_plan *plan,
                     const struct ds_instr *instr)
{
    struct bench b = open_bench(cluster, plan);

    switch (instr->op) {
    case DS_INSTR_FORWARD:
    case DS_INSTR_BACKWARD: return block_s(&b, instr) + ds_work_talk(cluster, plan, instr);
    case DS_INSTR_REDUCE:
        return ds_work_talk(cluster, plan, instr) + ds_work_end(cluster, plan, instr);
    case DS_INSTR_NORM:
    case DS_INSTR_UPDATE:
    case DS_INSTR_OFFLOAD:
    case DS_INSTR_FETCH:
    case DS_INSTR_STASH:
    case DS_INSTR_RESTORE:
    case DS_INSTR_LOAD:
    case DS_INSTR_STORE: return ds_work_end(cluster, plan, instr);
    case DS_INSTR_GATHER:
    case DS_INSTR_SEND:
    case DS_INSTR_RECV:
    case DS_INSTR_TIE: return ds_work_talk(cluster, plan, instr);
    case DS_INSTR_FREE:
    case DS_INSTR_HOLD:
    case DS_INSTR_SAVE: break;
    }
    return 0.0;
}
