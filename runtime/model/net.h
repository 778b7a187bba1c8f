/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net.h - a model bound to memory: its blocks run forward and backward on one stream.
 *
 * One implementation for all families, written against kernels/op.h; what differs is read from the
 * family's switches.  A net owns tables of pointers only.  Nothing here allocates after init.
 *
 *   embedding   out = wte[ids] (+ wpe)
 *   layer       middle = x + proj(attention(rope(qkv(norm1(x))))), of some families with norms of
 *               each head of queries and keys before rope, or of all queries and of all keys
 *               out = middle + down(act(fc(norm2(middle))))
 *               of some fc reads norm2(x), and of some proj(...) and down(...) have a norm, norm1
 *               and norm2 beside these or not
 *   head        loss of classifier(normf(x)), in chunks of logit_rows rows
 *
 * With experts the second half is, of each row x of norm2(middle) and the few experts e that the
 * router gives it to, out = middle + sum over e of down_e(weight_e * act(fc_e(x))) (experts.c).
 *
 * Of some families proj(...) and down(...) have a factor, as embeddings and logits have.
 *
 * With dropout, elements of the embedding's out, of proj(...) and of down(...), behind their norms,
 * are dropped before the sums, and weights of the attention after the softmax, in training only.
 *
 * Where ranks share sequences, tokens, rows and seq are a rank's part of them, but for the
 * attention, which has some of the heads over all tokens (heads.c).
 *
 * Where a team shares layers, shape is that of a rank's part.  What its members make of proj(...)
 * and of down(...) they add up, the first one's with the bias and the stream, and gradients in
 * front of a half of a layer; so they all have the same stream and gradients of it (team.c).  Of
 * the embedding a rank has the rows of some ids, of the logits these columns.
 *
 * The gradient of the residual stream is one buffer that every BACKWARD rewrites in place.  The
 * scale of the loss is known before the step, so the head's training FORWARD also does the
 * classifier's backward pass while a chunk's logits are there; its BACKWARD goes on through the
 * norm.  A tied head writes its gradient into the embedding's, which then adds its own.
 *
 * In a pipeline a rank has some of the blocks, and a table of buffers for each slot (plan.h).
 *
 * A plan says where what training needs lies.  Without one a net reads one sequence, forward only,
 * a few rows at a time, and keeps their keys and values: the same blocks, in their pass EVAL.
 *
 * Tests   tests/engine/test_engine.c (gradients against the float64 reference),
 *         tests/engine/test_generate.c (forward only)
 */
#ifndef DS_RUNTIME_MODEL_NET_H
#define DS_RUNTIME_MODEL_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/model/family.h"
#include "runtime/plan/plan.h"

struct ds_net_block { /* NULL where a block has no such thing; grad of what is frozen */
    const void *weight[DS_ROLE_COUNT]; /* QKV_W and FC_W stand for Llama's neighbours too */
    float *grad[DS_ROLE_COUNT];
    void *buf[DS_PASS_COUNT][DS_BUFFER_COUNT];
};

/* Rows that are read behind those of one sequence. */
struct ds_net_run {
    size_t sequence, rows;
};

/* Keys and values of rows 0 .. rows[s] - 1 of each sequence that is read on, as kernels/op.h has
 * them, sequence after sequence and layer after layer in it; and whose rows are read now, one run
 * behind the other.  room 0: there are none, and each pass begins at row 0. */
struct ds_net_cache {
    unsigned char *keys, *values;
    size_t room, sequences, *rows; /* owned by the net */
    const struct ds_net_run *run;
    size_t runs;
};

struct ds_net {
    const struct ds_plan *plan; /* NULL: forward only */
    struct ds_model_shape shape;
    const struct ds_family *family;
    struct ds_stream *stream;
    enum ds_dtype act;
    size_t batch, seq, tokens; /* of a micro-batch */
    uint64_t longest;          /* tokens that a sequence may have, of all ranks */
    struct ds_comm *sharers;   /* the ranks that share its sequences; NULL: nobody does */
    struct ds_comm *team;      /* those that share its layers; NULL: nobody does */
    struct ds_comm *meet;      /* those that divide experts with it; NULL: nobody does */
    void *swapped;             /* what those are given, laid out by who gets it */
    unsigned first_expert;     /* of each layer, that is here */
    size_t logit_rows, logit_ld;
    struct ds_net_cache cache;
    struct ds_net_block *block; /* those of the slot at hand */
    struct ds_net_block *slots;
    float grad_scale; /* d loss / d (loss of one token): 1 / tokens of the step over all ranks */
    const float *grad_scale_at; /* (optional) where the device finds it instead */
    float target_scale;         /* the same of a target: 1 / targets */
    const float *target_scale_at;
    double *loss_sum; /* the device's; added to by the head, in nats over tokens */
    double *peak_sum; /* and by layers with experts: kernels/experts.h */
    double dropout;   /* rate; 0: none */
    double attention_dropout;
    uint64_t seed;
    uint64_t first; /* place of the micro-batch's first sequence in the order of the run */
};

struct ds_net_memory {         /* borrowed, laid out as the plan says */
    const void *const *params; /* [buckets]: element 0 of each, of the activations' type */
    float *const *grads;       /* [buckets] */
    void *activations;
    void *swapped; /* where ranks share sequences, or layers: of the comm's arena */
    double *loss_sum, *peak_sum;
};

int ds_net_init(struct ds_net *net, const struct ds_plan *plan, const struct ds_net_memory *memory,
                struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;
void ds_net_release(struct ds_net *net);

/* What is done next is of micro-batch `micro_batch` of a step; of an evaluation 0. */
void ds_net_turn(struct ds_net *net, uint64_t micro_batch);

/* A micro-batch as the host has it: sequence + 1 ids for each of its sequences, and behind them the
 * ids that follow each, which ds_net_follow() fills in; where tokens do not see all before them,
 * then [sights, batch, whole sequence]: the first that each sees (ds_plan_sights()).
 * ds_net_host_ids() in all.  It is told of an id that is no target by its complement (data.h), and
 * leaves the id. */
size_t ds_net_host_ids(const struct ds_net *net);
void ds_net_follow(const struct ds_net *net, int32_t *host);
/* Where the first of the last part lies, of sequence b of the micro-batch; and what it is, and the
 * second, worked out in place from the ids of the whole sequence, or with a window alone from
 * nothing. */
int32_t *ds_net_lows(const struct ds_net *net, int32_t *host, size_t b);
void ds_net_see(const struct ds_net *net, int32_t *lows);

/* Before the first FORWARD: what the embedding and the loss read, where they are this rank's, of
 * the host (DS_COPY_UP) or of the device (DS_COPY_ASIDE). */
int ds_net_load(const struct ds_net *net, enum ds_pass pass, enum ds_copy_way way,
                const int32_t *from, struct ds_error *err) DS_NODISCARD;

int ds_net_forward(struct ds_net *net, uint32_t block, enum ds_pass pass, bool accumulate,
                   struct ds_error *err) DS_NODISCARD;
int ds_net_backward(struct ds_net *net, uint32_t block, bool accumulate, struct ds_error *err)
    DS_NODISCARD;

/* Where the output of a block lies, and the gradient of any: for other parts of a pipeline. */
void *ds_net_out(const struct ds_net *net, enum ds_pass pass, uint32_t block);
void *ds_net_gradient(const struct ds_net *net);

/* --- forward only, for who has no plan: forward.c ------------------------------------------- */

/* Elements of a layer's keys, and of its values; `room` rows, a multiple of DS_CACHE_TILE. */
size_t ds_net_cache_elems(const struct ds_model_shape *shape, size_t room);
/* Where the parameters lie, in elements: at[ds_model_param_count()], or NULL.  All of them take as
 * many as is returned. */
uint64_t ds_net_params(const struct ds_model_shape *shape, uint64_t *at);
/* Of activations, when at most `rows` rows of `sequences` are read at once. */
size_t ds_net_forward_bytes(const struct ds_model_shape *shape, enum ds_dtype act, size_t rows,
                            size_t sequences);

struct ds_net_forward_args {
    const struct ds_model_shape *shape;
    enum ds_dtype act;
    size_t rows;        /* at once, at most */
    uint64_t longest;   /* of all that is read behind each other, at most */
    const void *params; /* as ds_net_params() says, of type act; borrowed, as is the rest */
    void *activations;
    unsigned char *keys, *values; /* [sequences][layers][ds_net_cache_elems()] */
    size_t room, sequences;       /* rows of each */
};
int ds_net_init_forward(struct ds_net *net, const struct ds_net_forward_args *args,
                        struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

/* Read more ids behind those in the cache, for which it has room: of one sequence, or one of each
 * run.  `run` and what was read stay until the next read. */
int ds_net_read(struct ds_net *net, const struct ds_net_run *run, size_t runs, const int32_t *ids,
                struct ds_error *err) DS_NODISCARD;
/* Rows 0 .. rows - 1 of one sequence become those of another, which has no others then. */
int ds_net_copy_rows(struct ds_net *net, size_t from, size_t to, size_t rows, struct ds_error *err)
    DS_NODISCARD;
/* Logits of what follows the last row of each run: [runs, vocab] of F32, in the device's memory. */
int ds_net_logits(const struct ds_net *net, struct ds_error *err) DS_NODISCARD;
const float *ds_net_logits_at(const struct ds_net *net);

/* --- between net.c and the blocks ------------------------------------------------------------ */

/* A parameter lies there, and its gradient where there is one; a tied head has the embedding's. */
void ds__net_bind(struct ds_net *net, const struct ds_param *param, const void *weight,
                  float *grad);

/* y = x W (+ bias), W in the family's layout.  With gelu_x y is gelu() of that, which goes to
 * gelu_x; and of a product behind a GELU x is gelu(gelu_x), and dx the gradient of gelu_x. */
struct ds_linear {
    const void *weight, *bias;
    float *dweight, *dbias;
    size_t rows, in, out;
    void *gelu_x;
    const void *dx_more; /* (optional) is added to dx, which it may be; no gelu_x then */
    void *codes;         /* DS_BUFFER_CODES: the products are of FP8; or NULL */
    uint32_t *largest;   /* with them, of the operands [DS_FP8_OPERANDS] */
    unsigned known;      /* 1 << enum ds_fp8_operand: it is there */
    bool alike;          /* all of a team have its bias: so must the bits of dbias be */
};
int ds__linear_fwd(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                   const void *residual, void *y, struct ds_error *err) DS_NODISCARD;
/* dx = dy W^T (* gelu'(gelu_x)).  With codes ds__linear_bwd_w() comes before, which leaves those of
 * dy. */
int ds__linear_bwd_x(const struct ds_net *net, const struct ds_linear *linear, const void *dy,
                     void *dx, struct ds_error *err) DS_NODISCARD;
/* dweight (+)= x^T dy, dbias (+)= sum of dy, of what is not NULL: the other is frozen. */
int ds__linear_bwd_w(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                     const void *dy, bool accumulate, struct ds_error *err) DS_NODISCARD;

/* The same with codes, and without biases' gradients. */
int ds__fp8_fwd(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                const void *residual, void *y, struct ds_error *err) DS_NODISCARD;
int ds__fp8_bwd_x(const struct ds_net *net, const struct ds_linear *linear, void *dx,
                  struct ds_error *err) DS_NODISCARD;
int ds__fp8_bwd_w(const struct ds_net *net, const struct ds_linear *linear, const void *x,
                  const void *dy, bool accumulate, struct ds_error *err) DS_NODISCARD;

/* Adapters of a product: y += scale * (x A^T) B^T, of each of its matrices that has one into some
 * columns of y; A of all of them is one matrix, and of x they see the same.  adapt.c */
enum { DS_ADAPTED_PARTS = 3 };
struct ds_adapters {
    unsigned parts; /* 0: there are none */
    uint32_t block;
    enum ds_layer_product product;
    size_t rows, rank, in, out;
    const void *a; /* [parts * rank, in] */
    float *da;
    struct {
        const void *b; /* [width, rank] */
        float *db;
        size_t at, width; /* columns */
    } part[DS_ADAPTED_PARTS];
    void *kept;   /* scale * x A^T [rows, parts * rank], which the backward pass reads */
    float *sums;  /* the same of F32, and */
    void *drows;  /* its gradient, for one product at a time */
    double scale; /* ds_model_adapter_scale() */
    void *left;   /* room for what dropout leaves of x [rows, in], or NULL: it is in no pass */
};
struct ds_adapters ds__adapters_of(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                                   enum ds_layer_product product);
int ds__adapters_fwd(const struct ds_net *net, const struct ds_adapters *adapters, const void *x,
                     void *y, struct ds_error *err) DS_NODISCARD;
/* Gradients of A and of B; dx += that of x. */
int ds__adapters_bwd(const struct ds_net *net, const struct ds_adapters *adapters, const void *x,
                     const void *dy, void *dx, bool accumulate, struct ds_error *err) DS_NODISCARD;

/* Where a norm's gradient goes: of one that is frozen the second's is `unused` elements behind the
 * first's, for nobody. */
static inline float *ds__norm_grad(const struct ds_net *net, float *grad, size_t unused)
{
    float *nobodys = net->block[0].buf[DS_PASS_TRAIN][DS_BUFFER_UNUSED];

    return grad != NULL ? grad : nobodys + unused;
}

struct ds_norm_use { /* one of the norms, on the rows of a micro-batch */
    uint32_t block;
    enum ds_pass pass;
    enum ds_role weight; /* a bias is the role after it */
    enum ds_buffer stat;
    size_t rows;
    const void *x;
    const void *residual; /* (optional) forward: is added to y */
};
int ds__norm_fwd(const struct ds_net *net, const struct ds_norm_use *use, void *y,
                 struct ds_error *err) DS_NODISCARD;
/* dx = dres + gradient of dy through the norm; dx may be either */
int ds__norm_bwd(const struct ds_net *net, const struct ds_norm_use *use, const void *dy,
                 const void *dres, void *dx, bool accumulate, struct ds_error *err) DS_NODISCARD;

/* Norms of queries and keys: qk_norm.c. */
static inline bool ds__norms_qk(const struct ds_net *net)
{
    return ds_arch_norms_heads(net->shape.arch) || ds_arch_norms_rows(net->shape.arch);
}
/* y: RAW, with queries and keys normalised. */
int ds__qk_norm_fwd(const struct ds_net *net, uint32_t block, enum ds_pass pass, void *y,
                    struct ds_error *err) DS_NODISCARD;
/* dqkv: the gradient of y, into that of RAW. */
int ds__qk_norm_bwd(const struct ds_net *net, uint32_t block, void *dqkv, bool accumulate,
                    struct ds_error *err) DS_NODISCARD;

/* Where elements are dropped, each with random numbers of its own. */
enum ds_drop { DS_DROP_EMBED, DS_DROP_PROJ, DS_DROP_DOWN, DS_DROP_ATTENTION, DS_DROP_COUNT };
/* Does this pass drop elements of the stream?  Does it do so, or multiply, with what a half of a
 * layer adds? */
bool ds__drops(const struct ds_net *net, enum ds_pass pass);
bool ds__weighs(const struct ds_net *net, enum ds_pass pass);
/* y = dropout(x) (+ residual) on rows of the stream, times the factor of what a half of a layer
 * adds; of gradients, too.  Nothing is stored: what is kept follows from the seed, the place and
 * the number of the sequence in the run. */
int ds__dropout(const struct ds_net *net, enum ds_pass pass, uint32_t block, enum ds_drop drop,
                const void *x, const void *residual, void *y, struct ds_error *err) DS_NODISCARD;
/* The same of the rows that the adapters of a product read, or of their gradient. */
int ds__adapters_dropout(const struct ds_net *net, const struct ds_adapters *adapters,
                         const void *x, const void *residual, void *y, struct ds_error *err)
    DS_NODISCARD;
/* What attention drops in this pass. */
struct ds_attention_drop ds__attention_drop(const struct ds_net *net, uint32_t block,
                                            enum ds_pass pass);

/* Ranks that share sequences give each other rows, of which each then has what its heads make of
 * all tokens, or all heads of its tokens again: heads.c. */
enum ds_swap_rows { DS_SWAP_QKV, DS_SWAP_ATTENTION };
/* from [tokens, width] to [batch, whole sequence, width / ranks]; `to` may be `from`. */
int ds__to_heads(const struct ds_net *net, enum ds_pass pass, enum ds_swap_rows rows,
                 const void *from, void *to, struct ds_error *err) DS_NODISCARD;
int ds__to_tokens(const struct ds_net *net, enum ds_pass pass, enum ds_swap_rows rows,
                  const void *from, void *to, struct ds_error *err) DS_NODISCARD;
static inline bool ds__shares_sequences(const struct ds_net *net)
{
    return net->sharers != NULL;
}
static inline unsigned ds__sharers(const struct ds_net *net)
{
    return ds__shares_sequences(net) ? net->plan->sequence_ranks : 1;
}
/* Key/value heads that the attention has here. */
static inline size_t ds__kv_heads(const struct ds_net *net)
{
    return ds__shares_sequences(net) ? ds_plan_kv_heads(net->plan) : net->shape.kv_heads;
}
/* The position of the first token here in its sequence. */
static inline size_t ds__first_position(const struct ds_net *net)
{
    return ds__shares_sequences(net) ? net->plan->sequence_rank * net->seq : 0;
}

/* Ranks that share layers: team.c. */
static inline bool ds__shares_layers(const struct ds_net *net)
{
    return net->team != NULL;
}
/* The one that counts what all of a team have. */
static inline bool ds__leads_team(const struct ds_net *net)
{
    return !ds__shares_layers(net) || net->plan->tensor_rank == 0;
}
/* x = sum over the team, rows of the stream or of its gradient; nothing where there is none. */
int ds__team_sum(const struct ds_net *net, void *x, struct ds_error *err) DS_NODISCARD;
/* x[n] = sum over the team, of F32. */
int ds__team_add_up(const struct ds_net *net, float *x, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* What all of a team say of a chunk of the classifier's rows, in DS_BUFFER_SAID, from what this
 * rank's logits say. */
int ds__team_said(const struct ds_net *net, enum ds_pass pass, struct ds_xent_part_args args,
                  struct ds_error *err) DS_NODISCARD;

/* Ranks that divide experts: meet.c.  How many there are. */
static inline bool ds__meets(const struct ds_net *net)
{
    return net->meet != NULL;
}
static inline unsigned ds__meeting(const struct ds_net *net)
{
    return ds__meets(net) ? net->plan->expert_ranks : 1;
}
/* The place of this one among them. */
static inline unsigned ds__meet_place(const struct ds_net *net)
{
    return ds__meets(net) ? net->plan->expert_rank : 0;
}
/* The rows [tokens, hidden] of all of them, rank after rank, to `to`. */
int ds__meet_rows(const struct ds_net *net, const void *rows, void *to, struct ds_error *err)
    DS_NODISCARD;
/* said[pairs of all], 32 bits each: this rank's are at its place, the others' come to theirs. */
int ds__meet_said(const struct ds_net *net, void *said, struct ds_error *err) DS_NODISCARD;
/* weights[pairs of all] = their sum over the ranks. */
int ds__meet_weights(const struct ds_net *net, float *weights, struct ds_error *err) DS_NODISCARD;
/* y = residual, if there is one, + what all have made of this rank's rows, of which each gives its
 * part of what lies in net->swapped; `room` is as large. */
int ds__meet_parts(const struct ds_net *net, void *room, const void *residual, void *y,
                   struct ds_error *err) DS_NODISCARD;

/* Experts in the place of a layer's feed-forward block: experts.c.  What they are given, into
 * FFN_IN; the router speaks but where that is computed again. */
int ds__experts_in(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                   struct ds_error *err) DS_NODISCARD;
int ds__experts_act(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                    struct ds_error *err) DS_NODISCARD;
/* y = residual + the sum of what a row's experts make of it */
int ds__experts_out(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                    const void *residual, void *y, struct ds_error *err) DS_NODISCARD;
/* From the gradient dy of that sum to dx of what they were given, a team's part of it. */
int ds__experts_bwd(const struct ds_net *net, uint32_t block, bool accumulate, const void *dy,
                    void *dx, struct ds_error *err) DS_NODISCARD;

int ds__layer_fwd(struct ds_net *net, uint32_t block, enum ds_pass pass, bool accumulate,
                  struct ds_error *err) DS_NODISCARD;
int ds__layer_bwd(struct ds_net *net, uint32_t block, bool accumulate, struct ds_error *err)
    DS_NODISCARD;
int ds__embed_fwd(struct ds_net *net, enum ds_pass pass, struct ds_error *err) DS_NODISCARD;
int ds__embed_bwd(struct ds_net *net, bool accumulate, struct ds_error *err) DS_NODISCARD;
int ds__head_fwd(struct ds_net *net, enum ds_pass pass, bool accumulate, struct ds_error *err)
    DS_NODISCARD;
int ds__head_bwd(struct ds_net *net, bool accumulate, struct ds_error *err) DS_NODISCARD;

#endif
