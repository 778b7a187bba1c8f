/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ends.c - the first and the last block: embedding; final norm, classifier and loss.
 *
 * In training a chunk of rows goes through the classifier both ways while its logits are in the
 * cache: logits, losses and their gradient in place, the classifier's gradient, and the gradient of
 * the normalised rows, which takes the rows' own place.  Logits are of the activations' type.
 *
 * Tests   tests/engine/test_engine.c
 */
#include <math.h>

#include "runtime/model/net.h"

size_t ds_net_host_ids(const struct ds_net *net)
{
    return net->batch * (net->seq + 1) + net->tokens + ds_plan_lows(net->plan);
}

int32_t *ds_net_lows(const struct ds_net *net, int32_t *host, size_t b)
{
    return host + net->batch * (net->seq + 1) + net->tokens + b * net->plan->whole_sequence;
}

/* Behind the lows of all sequences, where those of layers that see whole documents are. */
static int32_t *whole_lows(const struct ds_plan *plan, int32_t *lows)
{
    return ds_plan_sights(plan) > 1 ? lows + plan->micro_batch * plan->whole_sequence : NULL;
}

void ds_net_see(const struct ds_net *net, int32_t *lows)
{
    const struct ds_plan *plan = net->plan;
    int32_t *whole = whole_lows(plan, lows);
    uint64_t begins = 0; /* of the document */

    for (uint64_t t = 0; t < plan->whole_sequence; t++) {
        const int32_t id = lows[t] < 0 ? ~lows[t] : lows[t];
        uint64_t low = begins;

        if (whole != NULL)
            whole[t] = (int32_t)begins;
        if (plan->window > 0 && t + 1 > plan->window && t + 1 - plan->window > low)
            low = t + 1 - plan->window;
        if (plan->documents && (uint64_t)id == plan->separator)
            begins = t + 1;
        lows[t] = (int32_t)low;
    }
}

void ds_net_follow(const struct ds_net *net, int32_t *host)
{
    const size_t row = net->seq + 1, ids = net->batch * row;

    for (size_t b = 0; b < net->batch; b++) { /* dense, for chunks of rows */
        int32_t *id = host + b * row, *target = host + ids + b * net->seq;

        for (size_t i = 0; i < net->seq; i++)
            target[i] = id[i + 1] < 0 ? DS_NO_TARGET : id[i + 1];
        for (size_t i = 0; i < row; i++)
            id[i] = id[i] < 0 ? ~id[i] : id[i];
    }
}

int ds_net_load(const struct ds_net *net, enum ds_pass pass, enum ds_copy_way way,
                const int32_t *from, struct ds_error *err)
{
    const size_t ids = net->batch * (net->seq + 1), lows = ds_plan_lows(net->plan);
    const struct ds_net_block *head = &net->block[ds_model_blocks(&net->shape) - 1];
    int rc = 0;

    if (ds_plan_sees_less(net->plan))
        rc = ds_stream_copy(net->stream, way, net->block[0].buf[pass][DS_BUFFER_LOW],
                            from + ids + net->tokens, lows * sizeof(*from), err);
    if (rc == 0 && ds_plan_embeds(net->plan))
        rc = ds_stream_copy(net->stream, way, net->block[0].buf[pass][DS_BUFFER_IDS], from,
                            ids * sizeof(*from), err);
    if (rc == 0 && ds_plan_classifies(net->plan))
        rc = ds_stream_copy(net->stream, way, head->buf[pass][DS_BUFFER_TARGETS], from + ids,
                            net->tokens * sizeof(*from), err);
    return rc;
}

/* Of the vocabulary, where this rank has some of it. */
static size_t first_id(const struct ds_net *net)
{
    return ds__shares_layers(net) ? ds_plan_ids(net->plan).first : 0;
}

/* What embeddings are multiplied by, a root as a number of their type; 0: nothing. */
static float grown(const struct ds_net *net)
{
    const float root = sqrtf((float)net->shape.hidden);

    if (!net->family->grown)
        return (float)net->shape.embed_scale;
    return net->act == DS_BF16  ? ds_bf16_to_f32(ds_bf16_from_f32(root))
           : net->act == DS_F16 ? ds_f16_to_f32(ds_f16_from_f32(root))
                                : root;
}

/* Of each run the rows behind those that its sequence has, whose positions are learned. */
static int embed_runs(const struct ds_net *net, struct ds_embed_fwd_args args, struct ds_error *err)
{
    const size_t row = net->shape.hidden * ds_dtype_bytes(net->act);
    const unsigned char *wpe = args.wpe;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < net->cache.runs; i++) {
        args.seq = net->cache.run[i].rows;
        args.wpe = wpe + net->cache.rows[net->cache.run[i].sequence] * row;
        rc = ds_embed_fwd(&args, net->stream, err);
        args.ids += args.seq;
        args.out = (unsigned char *)args.out + args.seq * row;
    }
    return rc;
}

int ds__embed_fwd(struct ds_net *net, enum ds_pass pass, struct ds_error *err)
{
    size_t row = net->shape.hidden * ds_dtype_bytes(net->act);
    const unsigned char *wpe = net->block[0].weight[DS_ROLE_WPE];
    const struct ds_embed_fwd_args args = {
        .batch = net->batch,
        .seq = net->seq,
        .channels = net->shape.hidden,
        .vocab = net->shape.vocab,
        .first_id = first_id(net),
        .partial = ds__shares_layers(net),
        .act = net->act,
        .param = net->act,
        .scale = grown(net),
        .ids = net->block[0].buf[pass][DS_BUFFER_IDS],
        .ids_ld = net->seq + 1,
        .wte = net->block[0].weight[DS_ROLE_WTE],
        .wpe = wpe == NULL || !ds__leads_team(net) ? NULL : wpe + ds__first_position(net) * row,
        .out = net->block[0].buf[pass][DS_BUFFER_OUT],
    };
    int rc = net->cache.room > 0 && wpe != NULL ? embed_runs(net, args, err)
                                                : ds_embed_fwd(&args, net->stream, err);

    if (rc == 0)
        rc = ds__team_sum(net, args.out, err);
    return rc == 0 && ds__drops(net, pass)
               ? ds__dropout(net, pass, 0, DS_DROP_EMBED, args.out, NULL, args.out, err)
               : rc;
}

int ds__embed_bwd(struct ds_net *net, bool accumulate, struct ds_error *err)
{
    void *dout = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DSTREAM];
    const struct ds_embed_bwd_args args = {
        .batch = net->batch,
        .seq = net->seq,
        .channels = net->shape.hidden,
        .vocab = net->shape.vocab,
        .first_id = first_id(net),
        .partial = ds__shares_layers(net),
        .positions = net->shape.context,
        .first = ds__first_position(net),
        .act = net->act,
        .scale = grown(net),
        .ids = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_IDS],
        .ids_ld = net->seq + 1,
        .dout = dout,
        .dwte = net->block[0].grad[DS_ROLE_WTE],
        .dwpe = net->block[0].grad[DS_ROLE_WPE],
        .accumulate_wte =
            accumulate || (net->shape.tie_embeddings && ds_plan_classifies(net->plan)),
        .accumulate_wpe = accumulate,
    };
    int rc = ds__drops(net, DS_PASS_TRAIN)
                 ? ds__dropout(net, DS_PASS_TRAIN, 0, DS_DROP_EMBED, dout, NULL, dout, err)
                 : 0;

    return rc != 0 ? rc : ds_embed_bwd(&args, net->stream, err);
}

/* Rows first .. first + rows of the classifier. */
struct chunk {
    size_t first, rows;
    void *x;            /* normalised rows, then their gradient */
    void *logits;       /* then their gradient, in training */
    enum ds_dtype type; /* of the logits */
};

static int classify(const struct ds_net *net, const struct chunk *chunk, struct ds_error *err)
{
    size_t hidden = net->shape.hidden;
    const struct ds_matmul_args args = {
        .m = chunk->rows,
        .n = net->shape.vocab,
        .k = hidden,
        .trans_b = true,
        .in_type = net->act,
        .out_type = chunk->type,
        .a = chunk->x,
        .b = net->block[net->shape.layers + 1].weight[DS_ROLE_HEAD_W],
        .lda = hidden,
        .ldb = hidden,
        .d = chunk->logits,
        .ldd = net->logit_ld,
    };

    return ds_matmul(&args, net->stream, err);
}

/* `args` are those of all columns; this rank has some, and from what the others say of theirs it
 * has the losses of all. */
static int team_losses(const struct ds_net *net, enum ds_pass pass, struct ds_xent_args args,
                       struct ds_error *err)
{
    const struct ds_plan_ids ids = ds_plan_ids(net->plan);
    const struct ds_xent_part_args part = {
        .rows = args.rows,
        .vocab = ids.count,
        .logits_type = args.logits_type,
        .logits = args.logits,
        .ld = args.ld,
        .targets = args.targets,
        .first_id = ids.first,
    };
    int rc = ds__team_said(net, pass, part, err);

    args.parts = net->block[net->shape.layers + 1].buf[pass][DS_BUFFER_SAID];
    args.ranks = net->plan->tensor_ranks;
    args.each = args.columns = args.vocab;
    args.vocab = ids.count;
    args.first_id = ids.first;
    return rc != 0 ? rc : ds_xent(&args, net->stream, err);
}

static int losses(const struct ds_net *net, enum ds_pass pass, const struct chunk *chunk,
                  struct ds_error *err)
{
    void *const *buf = net->block[net->shape.layers + 1].buf[pass];
    const struct ds_xent_args args = {
        .rows = chunk->rows,
        .vocab = net->shape.vocab,
        .act = net->act,
        .logits_type = net->act,
        .logits = chunk->logits,
        .ld = net->logit_ld,
        .targets = (const int32_t *)buf[DS_BUFFER_TARGETS] + chunk->first,
        .losses = (float *)buf[DS_BUFFER_LOSSES] + chunk->first,
        .dlogits = pass == DS_PASS_TRAIN ? chunk->logits : NULL,
        .dld = net->logit_ld,
        .grad_scale = net->target_scale,
        .grad_scale_at = net->target_scale_at,
    };

    return ds__shares_layers(net) ? team_losses(net, pass, args, err)
                                  : ds_xent(&args, net->stream, err);
}

/* With the logits' gradient in their place: dW (+)= dlogits^T x, then x = dlogits W. */
static int classify_bwd(const struct ds_net *net, const struct chunk *chunk, bool accumulate,
                        struct ds_error *err)
{
    size_t hidden = net->shape.hidden, vocab = net->shape.vocab;
    uint64_t head = net->shape.layers + 1;
    float *dweight = net->block[head].grad[DS_ROLE_HEAD_W];
    const struct ds_matmul_args dw = {
        .m = vocab,
        .n = hidden,
        .k = chunk->rows,
        .trans_a = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = chunk->logits,
        .b = chunk->x,
        .lda = net->logit_ld,
        .ldb = hidden,
        .c = accumulate ? dweight : NULL,
        .ldc = hidden,
        .d = dweight,
        .ldd = hidden,
    };
    const struct ds_matmul_args dx = {
        .m = chunk->rows,
        .n = hidden,
        .k = vocab,
        .in_type = net->act,
        .out_type = net->act,
        .a = chunk->logits,
        .b = net->block[head].weight[DS_ROLE_HEAD_W],
        .lda = net->logit_ld,
        .ldb = hidden,
        .d = chunk->x,
        .ldd = hidden,
    };
    int rc = dweight != NULL ? ds_matmul(&dw, net->stream, err) : 0;

    return rc != 0 ? rc : ds_matmul(&dx, net->stream, err);
}

static struct ds_norm_use norm_of(const struct ds_net *net, enum ds_pass pass)
{
    uint32_t head = (uint32_t)net->shape.layers + 1;

    return (struct ds_norm_use){
        .block = head,
        .pass = pass,
        .weight = DS_ROLE_NORMF_W,
        .stat = DS_BUFFER_STATF,
        .rows = net->tokens,
        .x = net->block[head - 1].buf[pass][DS_BUFFER_OUT],
    };
}

static struct chunk chunk_at(const struct ds_net *net, enum ds_pass pass, size_t first)
{
    void *const *buf = net->block[net->shape.layers + 1].buf[pass];
    size_t left = net->tokens - first, most = net->logit_rows;
    unsigned char *rows = buf[DS_BUFFER_NORMF];
    return (struct chunk){
        .first = first,
        .rows = left < most ? left : most,
        .x = rows + first * net->shape.hidden * ds_dtype_bytes(net->act),
        .logits = buf[DS_BUFFER_LOGITS],
        .type = net->act,
    };
}

/* Normalised rows, or their gradient, divided as the logits are to be, where they are. */
static int divide(const struct ds_net *net, void *rows, size_t count, struct ds_error *err)
{
    const double by = net->shape.logits_scale;
    const struct ds_dropout_args args = {.n = count * net->shape.hidden,
                                         .act = net->act,
                                         .factor = by > 0.0 ? 1.0 / by : 1.0,
                                         .x = rows,
                                         .y = rows};

    return by > 0.0 ? ds_dropout(&args, net->stream, err) : 0;
}

int ds__head_fwd(struct ds_net *net, enum ds_pass pass, bool accumulate, struct ds_error *err)
{
    struct ds_norm_use norm = norm_of(net, pass);
    void *const *buf = net->block[norm.block].buf[pass];
    const struct ds_sum_args sum = {
        .n = net->tokens, .x = buf[DS_BUFFER_LOSSES], .sum = net->loss_sum, .accumulate = true};
    int rc = ds__norm_fwd(net, &norm, buf[DS_BUFFER_NORMF], err);

    if (rc == 0)
        rc = divide(net, buf[DS_BUFFER_NORMF], net->tokens, err);
    for (size_t first = 0; rc == 0 && first < net->tokens; first += net->logit_rows) {
        struct chunk chunk = chunk_at(net, pass, first);

        rc = classify(net, &chunk, err);
        if (rc == 0)
            rc = losses(net, pass, &chunk, err);
        if (rc == 0 && pass == DS_PASS_TRAIN)
            rc = classify_bwd(net, &chunk, accumulate || first > 0, err);
    }
    if (rc == 0 && pass == DS_PASS_TRAIN)
        rc = ds__team_sum(net, buf[DS_BUFFER_NORMF], err);
    if (rc == 0 && pass == DS_PASS_TRAIN)
        rc = divide(net, buf[DS_BUFFER_NORMF], net->tokens, err);
    return rc != 0 || !ds__leads_team(net) ? rc : ds_sum(&sum, net->stream, err);
}

int ds_net_logits(const struct ds_net *net, struct ds_error *err)
{
    struct ds_norm_use norm = norm_of(net, DS_PASS_EVAL);
    void *const *buf = net->block[norm.block].buf[DS_PASS_EVAL];
    const struct chunk chunk = {.rows = net->cache.runs,
                                .x = buf[DS_BUFFER_NORMF],
                                .logits = buf[DS_BUFFER_LOGITS],
                                .type = DS_F32};
    size_t before = (net->tokens - chunk.rows) * net->shape.hidden * ds_dtype_bytes(net->act);
    int rc;

    norm.rows = chunk.rows;
    norm.x = (const unsigned char *)norm.x + before;
    rc = ds__norm_fwd(net, &norm, chunk.x, err);
    if (rc == 0)
        rc = divide(net, chunk.x, chunk.rows, err);
    return rc != 0 ? rc : classify(net, &chunk, err);
}

int ds__head_bwd(struct ds_net *net, bool accumulate, struct ds_error *err)
{
    struct ds_norm_use norm = norm_of(net, DS_PASS_TRAIN);

    return ds__norm_bwd(net, &norm, net->block[norm.block].buf[DS_PASS_TRAIN][DS_BUFFER_NORMF],
                        NULL, net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_DSTREAM], accumulate, err);
}
