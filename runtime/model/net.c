/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net.c - binding and dispatch; the contract is in net.h.
 */
#include "runtime/model/net.h"
#include "runtime/plan/away.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One role for a matrix, whichever tensors it is made of. */
static enum ds_role first_of(enum ds_role role)
{
    switch (role) {
    case DS_ROLE_Q_W: return DS_ROLE_QKV_W;
    case DS_ROLE_Q_B: return DS_ROLE_QKV_B;
    case DS_ROLE_GATE_W: return DS_ROLE_FC_W;
    default: return role;
    }
}

void ds__net_bind(struct ds_net *net, const struct ds_param *param, const void *weight, float *grad)
{
    enum ds_role role = first_of(param->role);
    struct ds_net_block *head = &net->block[ds_model_blocks(&net->shape) - 1];

    if (param->expert > net->first_expert) /* behind the first one's */
        return;
    net->block[param->block].weight[role] = weight;
    net->block[param->block].grad[role] = grad;
    if (role == DS_ROLE_WTE && net->shape.tie_embeddings) {
        head->weight[DS_ROLE_HEAD_W] = weight;
        head->grad[DS_ROLE_HEAD_W] = grad;
    }
}

static void bind_params(struct ds_net *net, const struct ds_net_memory *memory)
{
    size_t bytes = ds_dtype_bytes(net->act);

    for (size_t i = 0; i < net->plan->params; i++) {
        const struct ds_plan_param *param = &net->plan->param[i];
        const unsigned char *params = memory->params[param->bucket];
        float *grads = memory->grads[param->bucket];
        uint64_t at = param->offset - net->plan->bucket[param->bucket].offset;

        ds__net_bind(net, &param->param, params + at * bytes, grads == NULL ? NULL : grads + at);
    }
}

/* What other parts of a pipeline read is where they see it. */
static void bind_passed(struct ds_net *net, const struct ds_net_memory *memory)
{
    const struct ds_plan *plan = net->plan;
    unsigned char *base = memory->swapped;
    struct ds_net_block *last = &net->block[plan->end_block - 1];

    if (plan->passed_at[DS_PASSED_OUT] != DS_NOT_SHARED)
        last->buf[DS_PASS_TRAIN][DS_BUFFER_OUT] = last->buf[DS_PASS_EVAL][DS_BUFFER_OUT] =
            base + plan->passed_at[DS_PASSED_OUT];
    if (plan->passed_at[DS_PASSED_GRADIENT] != DS_NOT_SHARED)
        net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DSTREAM] =
            base + plan->passed_at[DS_PASSED_GRADIENT];
}

/* Of a slot.  What is not computed twice is in RECOMPUTE where TRAIN put it. */
static void bind_buffers(struct ds_net *net, const struct ds_net_memory *memory, unsigned slot)
{
    const struct ds_plan *plan = net->plan;
    unsigned char *base = memory->activations;

    for (size_t i = 0; i < plan->buffers; i++) {
        const struct ds_plan_buffer *buffer = &plan->buffer[i];
        uint64_t at = buffer->offset + (buffer->kept ? slot * plan->slot_bytes : 0);

        net->block[buffer->block].buf[buffer->pass][buffer->buffer] = base + at;
    }
    bind_passed(net, memory);
    for (uint32_t block = plan->stash_first; block < plan->stash_end; block++)
        net->block[block].buf[DS_PASS_TRAIN][DS_BUFFER_OUT] =
            net->block[plan->stash_first + ds_plan_stash_place(plan, block)]
                .buf[DS_PASS_TRAIN][DS_BUFFER_OUT];
    for (unsigned block = 0; block < ds_model_blocks(&plan->shape); block++)
        for (unsigned i = 0; i < DS_BUFFER_COUNT; i++)
            if (net->block[block].buf[DS_PASS_RECOMPUTE][i] == NULL)
                net->block[block].buf[DS_PASS_RECOMPUTE][i] =
                    net->block[block].buf[DS_PASS_TRAIN][i];
}

int ds_net_init(struct ds_net *net, const struct ds_plan *plan, const struct ds_net_memory *memory,
                struct ds_stream *stream, struct ds_error *err)
{
    size_t blocks = ds_model_blocks(&plan->shape);

    *net = (struct ds_net){
        .plan = plan,
        .shape = plan->shape,
        .family = ds_family_of(plan->shape.arch),
        .stream = stream,
        .act = ds_compute_dtype(plan->compute),
        .batch = plan->micro_batch,
        .seq = plan->sequence,
        .tokens = plan->micro_batch * plan->sequence,
        .longest = plan->whole_sequence,
        .logit_rows = plan->logit_rows,
        .logit_ld = plan->logit_ld,
        .loss_sum = memory->loss_sum,
        .peak_sum = memory->peak_sum,
        .swapped = memory->swapped,
        .first_expert = plan->expert_rank * (unsigned)ds_plan_experts(plan),
        .slots = calloc(plan->slots * blocks, sizeof(*net->slots)),
    };
    if (net->slots == NULL)
        return ds_fail(err, ENOMEM, "no memory for a model of %zu blocks", blocks);
    for (unsigned slot = plan->slots; slot-- > 0;) {
        ds_net_turn(net, slot);
        bind_params(net, memory);
        bind_buffers(net, memory, slot);
    }
    return 0;
}

void ds_net_turn(struct ds_net *net, uint64_t micro_batch)
{
    net->block = net->slots + micro_batch % net->plan->slots * ds_model_blocks(&net->plan->shape);
}

void *ds_net_out(const struct ds_net *net, enum ds_pass pass, uint32_t block)
{
    return net->block[block].buf[pass][DS_BUFFER_OUT];
}

void *ds_net_gradient(const struct ds_net *net)
{
    return net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DSTREAM];
}

void ds_net_release(struct ds_net *net)
{
    free(net->slots);
    free(net->cache.rows);
    memset(net, 0, sizeof(*net));
}

int ds_net_forward(struct ds_net *net, uint32_t block, enum ds_pass pass, bool accumulate,
                   struct ds_error *err)
{
    if (block == 0)
        return ds__embed_fwd(net, pass, err);
    if (block == net->shape.layers + 1)
        return ds__head_fwd(net, pass, accumulate, err);
    return ds__layer_fwd(net, block, pass, accumulate, err);
}

/* Gradients end at the first block that has some to keep. */
int ds_net_backward(struct ds_net *net, uint32_t block, bool accumulate, struct ds_error *err)
{
    if (block < net->plan->first_trained)
        return 0;
    if (block == 0)
        return ds__embed_bwd(net, accumulate, err);
    if (block == net->shape.layers + 1)
        return ds__head_bwd(net, accumulate, err);
    return ds__layer_bwd(net, block, accumulate, err);
}

/* Streams of random numbers that nothing else with the job's seed draws from. */
#define DROP_STREAMS    (UINT64_C(0x64726f70) << 32)
#define ADAPTER_STREAMS (UINT64_C(0x6c6f7261) << 32)

static uint64_t drop_stream(uint32_t block, enum ds_drop drop)
{
    return DROP_STREAMS + (uint64_t)block * DS_DROP_COUNT + drop;
}

bool ds__drops(const struct ds_net *net, enum ds_pass pass)
{
    return net->dropout > 0.0 && pass != DS_PASS_EVAL;
}

bool ds__weighs(const struct ds_net *net, enum ds_pass pass)
{
    return ds__drops(net, pass) || net->shape.residual_scale > 0.0;
}

/* Element `at` of an array, which may be NULL. */
static const void *behind(const struct ds_net *net, const void *array, size_t at)
{
    return array == NULL ? NULL : (const unsigned char *)array + at * ds_dtype_bytes(net->act);
}

/* Rows of `width` elements, which are those from args.first on of rows of args.ld.  Sequences of a
 * micro-batch that are whole follow each other; of parts each is a call. */
static int drop_rows(const struct ds_net *net, size_t width, struct ds_dropout_args args,
                     const void *x, const void *residual, void *y, struct ds_error *err)
{
    const size_t calls = ds__shares_sequences(net) ? net->batch : 1, ld = args.ld;
    const size_t column = args.first, whole = net->seq * ds__sharers(net) * ld;
    int rc = 0;

    args.n = net->tokens / calls * width;
    args.row = width < ld ? width : 0;
    args.act = net->act;
    args.seed = net->seed;
    for (size_t i = 0; rc == 0 && i < calls; i++) {
        args.first = (net->first + i) * whole + ds__first_position(net) * ld + column;
        args.x = behind(net, x, i * args.n);
        args.residual = behind(net, residual, i * args.n);
        args.y = (unsigned char *)y + i * args.n * ds_dtype_bytes(net->act);
        rc = ds_dropout(&args, net->stream, err);
    }
    return rc;
}

int ds__dropout(const struct ds_net *net, enum ds_pass pass, uint32_t block, enum ds_drop drop,
                const void *x, const void *residual, void *y, struct ds_error *err)
{
    const size_t hidden = net->shape.hidden;
    const struct ds_dropout_args args = {
        .ld = hidden,
        .rate = ds__drops(net, pass) ? net->dropout : 0.0,
        .factor = drop == DS_DROP_EMBED ? 0.0 : net->shape.residual_scale,
        .stream = drop_stream(block, drop),
    };

    return drop_rows(net, hidden, args, x, residual, y, err);
}

/* Of what a team's rank has a part of, its columns. */
int ds__adapters_dropout(const struct ds_net *net, const struct ds_adapters *adapters,
                         const void *x, const void *residual, void *y, struct ds_error *err)
{
    const struct ds_extents e = ds_model_product(&net->plan->model, adapters->product);
    const struct ds_dropout_args args = {
        .ld = e.in,
        .first = adapters->in < e.in ? net->plan->tensor_rank * adapters->in : 0,
        .rate = net->shape.lora.dropout,
        .stream =
            ADAPTER_STREAMS + (uint64_t)adapters->block * DS_PRODUCT_COUNT + adapters->product,
    };

    return drop_rows(net, adapters->in, args, x, residual, y, err);
}

/* Of the model's heads, where the attention has some of them. */
static size_t first_head(const struct ds_net *net)
{
    size_t head = 0;

    if (ds__shares_layers(net))
        head += net->shape.heads * net->plan->tensor_rank;
    if (ds__shares_sequences(net))
        head += net->shape.heads / ds__sharers(net) * net->plan->sequence_rank;
    return head;
}

struct ds_attention_drop ds__attention_drop(const struct ds_net *net, uint32_t block,
                                            enum ds_pass pass)
{
    return (struct ds_attention_drop){
        .rate = pass == DS_PASS_EVAL ? 0.0 : net->attention_dropout,
        .seed = net->seed,
        .stream = drop_stream(block, DS_DROP_ATTENTION),
        .first = net->first,
        .heads = net->plan != NULL ? net->plan->model.heads : net->shape.heads,
        .head = first_head(net),
    };
}

int ds__linear_fwd(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                   const void *residual, void *y, struct ds_error *err)
{
    bool weight_out = net->family->weight_out;
    const struct ds_matmul_args args = {
        .m = linear->rows,
        .n = linear->out,
        .k = linear->in,
        .trans_b = weight_out,
        .in_type = net->act,
        .out_type = net->act,
        .a = x,
        .b = linear->weight,
        .lda = linear->in,
        .ldb = weight_out ? linear->in : linear->out,
        .c = residual,
        .ldc = linear->out,
        .d = y,
        .ldd = linear->out,
        .bias = linear->bias,
        .epilogue = linear->gelu_x != NULL ? DS_EPILOGUE_GELU : DS_EPILOGUE_NONE,
        .gelu_x = linear->gelu_x,
    };

    if (linear->codes != NULL)
        return ds__fp8_fwd(net, linear, x, residual, y, err);
    return ds_matmul(&args, net->stream, err);
}

int ds__linear_bwd_x(const struct ds_net *net, const struct ds_linear *linear, const void *dy,
                     void *dx, struct ds_error *err)
{
    bool weight_out = net->family->weight_out;
    const struct ds_matmul_args args = {
        .m = linear->rows,
        .n = linear->in,
        .k = linear->out,
        .trans_b = !weight_out,
        .in_type = net->act,
        .out_type = net->act,
        .a = dy,
        .b = linear->weight,
        .lda = linear->out,
        .ldb = weight_out ? linear->in : linear->out,
        .c = linear->dx_more,
        .ldc = linear->in,
        .d = dx,
        .ldd = linear->in,
        .epilogue = linear->gelu_x != NULL ? DS_EPILOGUE_GELU_BWD : DS_EPILOGUE_NONE,
        .gelu_x = linear->gelu_x,
    };

    if (linear->codes != NULL)
        return ds__fp8_bwd_x(net, linear, dx, err);
    return ds_matmul(&args, net->stream, err);
}

int ds__linear_bwd_w(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                     const void *dy, bool accumulate, struct ds_error *err)
{
    bool weight_out = net->family->weight_out;
    bool bias_apart = linear->alike || linear->codes != NULL || weight_out;
    size_t rows = weight_out ? linear->out : linear->in;
    size_t cols = weight_out ? linear->in : linear->out;
    const struct ds_matmul_args args = {
        .m = rows,
        .n = cols,
        .k = linear->rows,
        .trans_a = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = weight_out ? dy : x,
        .b = weight_out ? x : dy,
        .lda = rows,
        .ldb = cols,
        .c = accumulate ? linear->dweight : NULL,
        .ldc = cols,
        .d = linear->dweight,
        .ldd = cols,
        .dbias = bias_apart ? NULL : linear->dbias,
        .accumulate_dbias = accumulate,
    };
    const struct ds_bias_bwd_args bias = {.rows = linear->rows,
                                          .n = linear->out,
                                          .act = net->act,
                                          .dy = dy,
                                          .dbias = linear->dbias,
                                          .accumulate = accumulate};
    int rc = 0;

    if (linear->dweight == NULL)
        bias_apart = true;
    if (linear->codes != NULL)
        rc = ds__fp8_bwd_w(net, linear, x, dy, accumulate, err);
    else if (linear->dweight != NULL)
        rc = ds_matmul(&args, net->stream, err);
    return rc != 0 || linear->dbias == NULL || !bias_apart ? rc
                                                           : ds_bias_bwd(&bias, net->stream, err);
}

int ds__norm_fwd(const struct ds_net *net, const struct ds_norm_use *use, void *y,
                 struct ds_error *err)
{
    const struct ds_net_block *block = &net->block[use->block];
    bool centred = net->family->norm == DS_NORM_LAYER;
    float *stats = block->buf[use->pass][use->stat];
    const struct ds_norm_fwd_args args = {
        .rows = use->rows,
        .channels = net->shape.hidden,
        .kind = net->family->norm,
        .eps = (float)net->shape.norm_eps,
        .act = net->act,
        .param = net->act,
        .x = use->x,
        .weight = block->weight[use->weight],
        .bias = centred ? block->weight[use->weight + 1] : NULL,
        .residual = use->residual,
        .y = y,
        .mean = centred ? stats + use->rows : NULL,
        .rstd = stats,
    };

    return ds_norm_fwd(&args, net->stream, err);
}

int ds__norm_bwd(const struct ds_net *net, const struct ds_norm_use *use, const void *dy,
                 const void *dres, void *dx, bool accumulate, struct ds_error *err)
{
    const struct ds_net_block *block = &net->block[use->block];
    bool centred = net->family->norm == DS_NORM_LAYER;
    const float *stats = block->buf[use->pass][use->stat];
    float *const *grad = block->grad;
    const struct ds_norm_bwd_args args = {
        .rows = use->rows,
        .channels = net->shape.hidden,
        .kind = net->family->norm,
        .act = net->act,
        .param = net->act,
        .dy = dy,
        .x = use->x,
        .weight = block->weight[use->weight],
        .mean = centred ? stats + use->rows : NULL,
        .rstd = stats,
        .dres = dres,
        .dx = dx,
        .dweight = ds__norm_grad(net, grad[use->weight], 0),
        .dbias = centred ? ds__norm_grad(net, grad[use->weight + 1], net->shape.hidden) : NULL,
        .accumulate = accumulate,
    };

    return ds_norm_bwd(&args, net->stream, err);
}
