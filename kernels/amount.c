/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * amount.c - the contract is in amount.h.
 *
 * Each operation has an amount_<op>() and a shape_<op>(); the tables are made from the list.
 */
#include "kernels/amount.h"

#include <stdio.h>

static double size_of(enum ds_dtype type)
{
    return (double)ds_dtype_bytes(type);
}

static struct ds_amount moves(double elems, double bytes_each)
{
    return (struct ds_amount){.bytes = elems * bytes_each};
}

static double area(size_t rows, size_t columns)
{
    return (double)rows * (double)columns;
}

static void say(char out[DS_OP_SHAPE_BYTES], const char *text)
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%s", text);
}

static void say_area(char out[DS_OP_SHAPE_BYTES], size_t rows, size_t columns, enum ds_dtype type)
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zu %s", rows, columns, ds_dtype_name(type));
}

static void say_elems(char out[DS_OP_SHAPE_BYTES], size_t n, enum ds_dtype type)
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zu %s", n, ds_dtype_name(type));
}

/* --- products and attention ------------------------------------------------------------------- */

static struct ds_amount amount_matmul(const struct ds_matmul_args *a)
{
    double results = 1.0 + (a->c != NULL ? 1.0 : 0.0) +
                     (a->epilogue != DS_EPILOGUE_NONE ? 1.0 : 0.0); /* D, C, gelu_x */

    return (struct ds_amount){
        .flops = 2.0 * area(a->m, a->n) * (double)a->k,
        .bytes = (area(a->m, a->k) + area(a->k, a->n)) * size_of(a->in_type) +
                 results * area(a->m, a->n) * size_of(a->out_type),
    };
}

static void shape_matmul(const struct ds_matmul_args *a, char out[DS_OP_SHAPE_BYTES])
{
    static const char *const epilogues[] = {
        [DS_EPILOGUE_NONE] = "", [DS_EPILOGUE_GELU] = " gelu", [DS_EPILOGUE_GELU_BWD] = " dgelu"};

    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zux%zu %c%c %s%s%s%s%s%s%s", a->m, a->n, a->k,
                   a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', ds_dtype_name(a->in_type),
                   a->out_type != a->in_type ? " to " : "",
                   a->out_type != a->in_type ? ds_dtype_name(a->out_type) : "",
                   a->bias != NULL ? " +bias" : "", a->c != NULL ? " +C" : "",
                   epilogues[a->epilogue], a->dbias != NULL ? " +dbias" : "");
}

/* As if every query saw all keys up to its own: what `low` says is the device's. */
static double attention_flops(size_t batch, size_t seq, size_t heads, size_t head_size)
{
    double visible = ((double)seq + 1.0) / 2.0;

    return 4.0 * area(batch, seq) * visible * area(heads, head_size);
}

static void say_heads(char out[DS_OP_SHAPE_BYTES], size_t batch, size_t seq, size_t heads,
                      size_t kv_heads, size_t head_size, enum ds_dtype act)
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zu, %zu/%zu heads of %zu %s", batch, seq, heads,
                   kv_heads, head_size, ds_dtype_name(act));
}

static struct ds_amount amount_attention_fwd(const struct ds_attention_fwd_args *a)
{
    size_t wide = (2 * a->heads + 2 * a->kv_heads) * a->head_size;

    return (struct ds_amount){
        .flops = attention_flops(a->batch, a->seq, a->heads, a->head_size),
        .bytes = area(a->batch, a->seq) * (double)wide * size_of(a->act),
    };
}

static void shape_attention_fwd(const struct ds_attention_fwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_heads(out, a->batch, a->seq, a->heads, a->kv_heads, a->head_size, a->act);
}

static struct ds_amount amount_attention_bwd(const struct ds_attention_bwd_args *a)
{
    size_t wide = (4 * a->heads + 4 * a->kv_heads) * a->head_size;

    return (struct ds_amount){
        .flops = 2.5 * attention_flops(a->batch, a->seq, a->heads, a->head_size),
        .bytes = area(a->batch, a->seq) * (double)wide * size_of(a->act),
    };
}

static void shape_attention_bwd(const struct ds_attention_bwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_heads(out, a->batch, a->seq, a->heads, a->kv_heads, a->head_size, a->act);
}

/* Each row sees those before it, or a window of them; of the cache what one sees is read once. */
static struct ds_amount amount_attention_cached(const struct ds_attention_cached_args *a)
{
    size_t past = a->window != 0 && a->window <= a->first ? a->window - 1 : a->first;
    size_t cut = a->window != 0 && a->window < past + a->seq ? past + a->seq - a->window : 0;
    double grows = (double)(a->seq - cut);
    double seen = grows * ((double)past + (grows + 1.0) / 2.0) + area(cut, a->window);
    size_t wide = (2 * a->heads + 4 * a->kv_heads) * a->head_size;

    return (struct ds_amount){
        .flops = 4.0 * seen * area(a->heads, a->head_size),
        .bytes = (area(a->seq, wide) + 2.0 * (double)past * area(a->kv_heads, a->head_size)) *
                 size_of(a->act),
    };
}

static void shape_attention_cached(const struct ds_attention_cached_args *a,
                                   char out[DS_OP_SHAPE_BYTES])
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zu behind %zu, %zu/%zu heads of %zu %s", a->seq,
                   a->first, a->heads, a->kv_heads, a->head_size, ds_dtype_name(a->act));
}

/* --- experts ---------------------------------------------------------------------------------- */

static void say_given(char out[DS_OP_SHAPE_BYTES], size_t rows, size_t columns, size_t each,
                      enum ds_dtype type)
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zu, %zu each %s", rows, columns, each,
                   ds_dtype_name(type));
}

static struct ds_amount amount_route(const struct ds_route_args *a)
{
    return moves(area(a->batch, a->seq) * (double)a->experts, 2.0 * sizeof(float));
}

static void shape_route(const struct ds_route_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_given(out, a->batch * a->seq, a->experts, a->each, DS_F32);
}

static struct ds_amount amount_load_peak(const struct ds_load_peak_args *a)
{
    return moves(area(a->batch, a->experts), sizeof(float));
}

static void shape_load_peak(const struct ds_load_peak_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->batch, a->experts, DS_F32);
}

static struct ds_amount amount_route_bwd(const struct ds_route_bwd_args *a)
{
    return moves(area(a->batch, a->seq) * (double)a->experts,
                 (a->balance != 0.0f ? sizeof(float) : 0.0) + size_of(a->act));
}

static void shape_route_bwd(const struct ds_route_bwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_given(out, a->batch * a->seq, a->experts, a->each, a->act);
}

/* Experts are read, both ways of the order written. */
static struct ds_amount amount_sort_pairs(const struct ds_sort_pairs_args *a)
{
    return moves(2.0 * area(a->rows, a->each) + (double)a->sorted, sizeof(uint32_t));
}

static void shape_sort_pairs(const struct ds_sort_pairs_args *a, char out[DS_OP_SHAPE_BYTES])
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zu to %zu, %zu of %zu", a->rows, a->each,
                   a->sorted, a->held, a->experts);
}

/* How many sorted rows there are only the device knows: all that there is room for count.  A row of
 * x is read from memory once. */
static struct ds_amount amount_rows_take(const struct ds_rows_take_args *a)
{
    size_t read = a->rows < a->sorted ? a->rows : a->sorted;

    return moves(area(read + a->sorted, a->channels), size_of(a->act));
}

static void shape_rows_take(const struct ds_rows_take_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_given(out, a->rows, a->channels, a->each, a->act);
}

static struct ds_amount amount_rows_sum(const struct ds_rows_sum_args *a)
{
    double read = a->place != NULL ? (double)a->sorted : area(a->rows, a->each);

    return moves(((a->residual != NULL ? 2.0 : 1.0) * (double)a->rows + read) * (double)a->channels,
                 size_of(a->act));
}

static void shape_rows_sum(const struct ds_rows_sum_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_given(out, a->rows, a->channels, a->each, a->act);
}

/* Every expert's matrix counts, whether it has rows or not. */
static struct ds_amount amount_experts_matmul(const struct ds_experts_matmul_args *a)
{
    double gradient = (a->accumulate ? 2.0 : 1.0) * sizeof(float);
    double weights = area(a->in, a->out) * (double)a->experts;

    return (struct ds_amount){
        .flops = 2.0 * area(a->in, a->out) * (double)a->rows,
        .bytes = area(a->rows, a->in + a->out) * size_of(a->act) +
                 weights * (a->product == DS_EXPERTS_BWD_W ? gradient : size_of(a->act)),
    };
}

static void shape_experts_matmul(const struct ds_experts_matmul_args *a,
                                 char out[DS_OP_SHAPE_BYTES])
{
    static const char *const products[] = {
        [DS_EXPERTS_FWD] = "", [DS_EXPERTS_BWD_X] = " bwd x", [DS_EXPERTS_BWD_W] = " bwd w"};

    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zu rows, %zu of %zux%zu %s%s%s", a->rows, a->experts,
                   a->out, a->in, ds_dtype_name(a->act), products[a->product],
                   a->accumulate ? " +" : "");
}

/* --- the ends of the model -------------------------------------------------------------------- */

static struct ds_amount amount_embed_fwd(const struct ds_embed_fwd_args *a)
{
    return moves(area(a->batch, a->seq) * (double)a->channels, size_of(a->param) + size_of(a->act));
}

static void shape_embed_fwd(const struct ds_embed_fwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->batch * a->seq, a->channels, a->act);
}

static struct ds_amount amount_embed_bwd(const struct ds_embed_bwd_args *a)
{
    struct ds_amount amount = moves(area(a->batch, a->seq) * (double)a->channels, size_of(a->act));

    if (!a->accumulate_wte)
        amount.bytes += area(a->vocab, a->channels) * sizeof(float);
    return amount;
}

static void shape_embed_bwd(const struct ds_embed_bwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->batch * a->seq, a->channels, a->act);
}

static struct ds_amount amount_xent_part(const struct ds_xent_part_args *a)
{
    return moves(area(a->rows, a->vocab), size_of(a->logits_type));
}

static void shape_xent_part(const struct ds_xent_part_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->rows, a->vocab, a->logits_type);
}

/* Parts tell what the losses need: logits are read for their gradients alone. */
static struct ds_amount amount_of_parts(const struct ds_xent_args *a)
{
    struct ds_amount amount = moves(area(a->ranks, a->rows), sizeof(struct ds_xent_row));

    if (a->dlogits != NULL)
        amount.bytes += area(a->rows, a->vocab) * size_of(a->logits_type) +
                        area(a->rows, a->columns) * size_of(a->act);
    return amount;
}

static struct ds_amount amount_xent(const struct ds_xent_args *a)
{
    if (a->parts != NULL)
        return amount_of_parts(a);
    return moves(area(a->rows, a->vocab),
                 size_of(a->logits_type) + (a->dlogits != NULL ? size_of(a->act) : 0.0));
}

static void shape_xent(const struct ds_xent_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->rows, a->vocab, a->act);
}

/* --- what passes over activations ------------------------------------------------------------- */

/* clang-format off */
#define ROWS_OF(columns, fn) \
    static void shape_##fn(const struct ds_##fn##_args *a, char out[DS_OP_SHAPE_BYTES]) \
    { \
        say_area(out, a->rows, a->columns, a->act); \
    }
ROWS_OF(channels, norm_fwd)
ROWS_OF(channels, norm_bwd)
ROWS_OF(ffn, swiglu_fwd)
ROWS_OF(ffn, swiglu_bwd)
ROWS_OF(ffn, swiglu_rows_fwd)
ROWS_OF(ffn, swiglu_rows_bwd)
#undef ROWS_OF
#define ELEMS_OF(fn) \
    static void shape_##fn(const struct ds_##fn##_args *a, char out[DS_OP_SHAPE_BYTES]) \
    { \
        say_elems(out, a->n, a->act); \
    }
ELEMS_OF(gelu_fwd)
ELEMS_OF(gelu_bwd)
ELEMS_OF(dropout)
#undef ELEMS_OF
#define SWIGLU_OF(times, fn) \
    static struct ds_amount amount_##fn(const struct ds_##fn##_args *a) \
    { \
        return moves(area(a->rows, a->ffn), (times) * size_of(a->act)); \
    }
SWIGLU_OF(3.0, swiglu_fwd)
SWIGLU_OF(5.0, swiglu_bwd)
SWIGLU_OF(3.0, swiglu_rows_fwd)
SWIGLU_OF(5.0, swiglu_rows_bwd)
#undef SWIGLU_OF
/* clang-format on */

static struct ds_amount amount_bias_bwd(const struct ds_bias_bwd_args *a)
{
    return moves(area(a->rows, a->n), size_of(a->act));
}

static void shape_bias_bwd(const struct ds_bias_bwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->rows, a->n, a->act);
}

static struct ds_amount amount_norm_fwd(const struct ds_norm_fwd_args *a)
{
    return moves(area(a->rows, a->channels), (a->residual != NULL ? 3.0 : 2.0) * size_of(a->act));
}

static struct ds_amount amount_norm_bwd(const struct ds_norm_bwd_args *a)
{
    return moves(area(a->rows, a->channels), (a->dres != NULL ? 4.0 : 3.0) * size_of(a->act));
}

static struct ds_amount amount_head_norm_fwd(const struct ds_head_norm_fwd_args *a)
{
    return moves(area(a->rows, a->heads + 2 * a->kv_heads) * (double)a->head_size,
                 2.0 * size_of(a->act));
}

static void shape_head_norm_fwd(const struct ds_head_norm_fwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_heads(out, 1, a->rows, a->heads, a->kv_heads, a->head_size, a->act);
}

/* Values are copied, or stay where they are. */
static struct ds_amount amount_head_norm_bwd(const struct ds_head_norm_bwd_args *a)
{
    double values = a->dx == a->dy ? 0.0 : 2.0 * (double)a->kv_heads;

    return moves(area(a->rows, a->head_size),
                 (3.0 * (double)(a->heads + a->kv_heads) + values) * size_of(a->act));
}

static void shape_head_norm_bwd(const struct ds_head_norm_bwd_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_heads(out, 1, a->rows, a->heads, a->kv_heads, a->head_size, a->act);
}

static struct ds_amount amount_rope(const struct ds_rope_args *a)
{
    return moves(area(a->batch, a->seq) * area(a->heads, ds_rope_width(a->turned, a->head_size)),
                 2.0 * size_of(a->act));
}

static void shape_rope(const struct ds_rope_args *a, char out[DS_OP_SHAPE_BYTES])
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zu, %zu heads of %zu %s", a->batch, a->seq,
                   a->heads, a->head_size, ds_dtype_name(a->act));
}

static struct ds_amount amount_gelu_fwd(const struct ds_gelu_fwd_args *a)
{
    return moves((double)a->n, 2.0 * size_of(a->act));
}

static struct ds_amount amount_gelu_bwd(const struct ds_gelu_bwd_args *a)
{
    return moves((double)a->n, 3.0 * size_of(a->act));
}

static struct ds_amount amount_dropout(const struct ds_dropout_args *a)
{
    return moves((double)a->n, (a->residual != NULL ? 3.0 : 2.0) * size_of(a->act));
}

static struct ds_amount amount_sum(const struct ds_sum_args *a)
{
    return moves((double)a->n, sizeof(float));
}

static void shape_sum(const struct ds_sum_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_elems(out, a->n, DS_F32);
}

static struct ds_amount amount_add(const struct ds_add_args *a)
{
    return moves((double)a->n, 3.0 * sizeof(float));
}

static void shape_add(const struct ds_add_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_elems(out, a->n, DS_F32);
}

static struct ds_amount amount_sumsq(const struct ds_sumsq_args *a)
{
    return moves((double)a->n, sizeof(float));
}

static struct ds_amount amount_tally(const struct ds_tally_args *a)
{
    return moves((double)a->parts, sizeof(struct ds_part));
}

static struct ds_amount amount_verdict(const struct ds_verdict_args *a)
{
    return moves((double)a->ranks, sizeof(struct ds_entry));
}

static struct ds_amount amount_rank_sum(const struct ds_rank_sum_args *a)
{
    return moves(area(a->ranks, a->n), sizeof(double));
}

/* --- updates: tensors differ in size, so what they do is told, not on how much ---------------- */

static double low_bytes(const void *low, enum ds_dtype type)
{
    return low != NULL ? size_of(type) : 0.0;
}

/* `passes` over F32 arrays, the gradient, and the copy that kernels read. */
static struct ds_amount updates(size_t n, double passes, double more)
{
    return moves((double)n, passes * sizeof(float) + more);
}

static struct ds_amount amount_adamw(const struct ds_adamw_args *a)
{
    return updates(a->n, 6.0, size_of(a->grad_type) + low_bytes(a->p_low, a->low_type));
}

static struct ds_amount amount_sgd(const struct ds_sgd_args *a)
{
    return updates(a->n, a->m != NULL ? 4.0 : 2.0,
                   size_of(a->grad_type) + low_bytes(a->p_low, a->low_type));
}

static struct ds_amount amount_lion(const struct ds_lion_args *a)
{
    return updates(a->n, 4.0, size_of(a->grad_type) + low_bytes(a->p_low, a->low_type));
}

static struct ds_amount amount_adagrad(const struct ds_adagrad_args *a)
{
    return updates(a->n, 4.0, size_of(a->grad_type) + low_bytes(a->p_low, a->low_type));
}

static struct ds_amount amount_lamb_moments(const struct ds_lamb_moments_args *a)
{
    return updates(a->n, 5.0, size_of(a->grad_type));
}

static struct ds_amount amount_lamb(const struct ds_lamb_args *a)
{
    return updates(a->n, 4.0, low_bytes(a->p_low, a->low_type));
}

static struct ds_amount amount_muon_moments(const struct ds_muon_moments_args *a)
{
    return updates(a->n, 3.0, size_of(a->grad_type));
}

static struct ds_amount amount_muon(const struct ds_muon_args *a)
{
    return updates(a->n, 3.0, low_bytes(a->p_low, a->low_type));
}

/* clang-format off */
#define ALL(fn, text) \
    static void shape_##fn(const struct ds_##fn##_args *a, char out[DS_OP_SHAPE_BYTES]) \
    { \
        (void)a; \
        say(out, text); \
    }
ALL(sumsq, "all gradients")
ALL(tally, "this rank")
ALL(verdict, "all ranks")
ALL(rank_sum, "all ranks")
ALL(adamw, "all parameters")
ALL(sgd, "all parameters")
ALL(lion, "all parameters")
ALL(adagrad, "all parameters")
ALL(lamb_moments, "all parameters")
ALL(lamb, "all parameters")
ALL(muon_moments, "all matrices")
ALL(muon, "all matrices")
#undef ALL
/* clang-format on */

static struct ds_amount amount_affine(const struct ds_affine_args *a)
{
    return moves(area(a->rows, a->cols), 2.0 * sizeof(float));
}

static void shape_affine(const struct ds_affine_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->rows, a->cols, DS_F32);
}

static struct ds_amount amount_cast(const struct ds_cast_args *a)
{
    return moves((double)a->n, size_of(a->from) + size_of(a->to));
}

static void shape_cast(const struct ds_cast_args *a, char out[DS_OP_SHAPE_BYTES])
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zu %s to %s", a->n, ds_dtype_name(a->from),
                   ds_dtype_name(a->to));
}

static struct ds_amount amount_reorder(const struct ds_reorder_args *a)
{
    return moves(area(a->outer, a->inner), 2.0 * (double)a->run);
}

static void shape_reorder(const struct ds_reorder_args *a, char out[DS_OP_SHAPE_BYTES])
{
    (void)snprintf(out, DS_OP_SHAPE_BYTES, "%zux%zu runs of %zu B", a->outer, a->inner, a->run);
}

static struct ds_amount amount_largest(const struct ds_largest_args *a)
{
    return moves((double)a->n, size_of(a->act));
}

static void shape_largest(const struct ds_largest_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_elems(out, a->n, a->act);
}

/* Codes of a byte, as they lie and turned. */
static struct ds_amount amount_fp8_cast(const struct ds_fp8_cast_args *a)
{
    return moves(area(a->rows, a->cols), size_of(a->act) + (a->codes != NULL ? 1.0 : 0.0) +
                                             (a->turned != NULL ? 1.0 : 0.0));
}

static void shape_fp8_cast(const struct ds_fp8_cast_args *a, char out[DS_OP_SHAPE_BYTES])
{
    say_area(out, a->rows, a->cols, a->act);
}

struct ds_amount ds_op_amount(enum ds_op op, const void *args)
{
    switch (op) {
#define X(id, fn)                                                                                  \
    case DS_OP_##id: return amount_##fn(args);
        DS_OPS(X)
#undef X
    case DS_OP_COUNT: break;
    }
    return (struct ds_amount){0};
}

void ds_op_shape(enum ds_op op, const void *args, char out[DS_OP_SHAPE_BYTES])
{
    out[0] = '\0';
    switch (op) {
#define X(id, fn)                                                                                  \
    case DS_OP_##id: shape_##fn(args, out); break;
        DS_OPS(X)
#undef X
    case DS_OP_COUNT: break;
    }
}
