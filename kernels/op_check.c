/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * op_check.c - the contract is in op_check.h; operations on experts are in op_check_experts.c.
 */
#include "kernels/op_check.h"

static const char *check_epilogue(const struct ds_matmul_args *a)
{
    bool gelu = a->epilogue == DS_EPILOGUE_GELU, back = a->epilogue == DS_EPILOGUE_GELU_BWD;

    if (a->epilogue != DS_EPILOGUE_NONE && !gelu && !back)
        return "an epilogue that there is not";
    if ((gelu || back) != (a->gelu_x != NULL) || a->gelu_x == a->d)
        return "GELU without its argument, or an argument without GELU";
    if ((gelu || back) && (a->c != NULL || a->ldd != a->n))
        return "GELU of a sum with C, or into rows that are not dense";
    if (back && a->bias != NULL)
        return "a bias before the derivative of GELU";
    if (a->dbias != NULL && (gelu || back || a->trans_b || a->ldb != a->n || a->out_type != DS_F32))
        return "the gradient of a bias beside what is not that of its weight";
    return NULL;
}

static bool is_fp8(enum ds_fp8 type)
{
    return type == DS_E4M3 || type == DS_E5M2;
}

static bool is_extent(size_t n)
{
    return n != 0 && n % DS_FP8_UNIT == 0;
}

static bool unaligned(const void *p)
{
    return (uintptr_t)p % DS_FP8_UNIT != 0;
}

/* What products of FP8 ask for beside what all do. */
static const char *check_fp8(const struct ds_matmul_args *a)
{
    if (!is_extent(a->m) || !is_extent(a->n) || !is_extent(a->k))
        return "an impossible shape";
    if (a->trans_a || !a->trans_b || a->lda != a->k || a->ldb != a->k)
        return "operands of FP8 that lie in another way";
    if (!is_fp8(a->fp8.a_type) || !is_fp8(a->fp8.b_type) ||
        (a->fp8.a_type == DS_E5M2 && a->fp8.b_type == DS_E5M2) ||
        (a->out_type != DS_BF16 && (a->out_type != DS_F32 || a->bias != NULL)))
        return "a type that is not supported";
    if (a->dbias != NULL)
        return "the gradient of a bias from codes";
    if (a->fp8.a_scale == NULL || a->fp8.b_scale == NULL)
        return "a pointer is missing";
    if (unaligned(a->fp8.a_scale) || unaligned(a->fp8.b_scale))
        return "scales that are not aligned";
    return unaligned(a->a) || unaligned(a->b) ? "codes that are not aligned" : NULL;
}

const char *ds__check_matmul(const struct ds_matmul_args *a)
{
    const char *wrong;

    if (a->m == 0 || a->n == 0 || a->k == 0)
        return "an empty matrix";
    if (a->a == NULL || a->b == NULL || a->d == NULL)
        return "a matrix is missing";
    if (a->in_type != DS_U8 &&
        (!ds__is_act(a->in_type) || (a->out_type != a->in_type && a->out_type != DS_F32)))
        return "a type that is not supported";
    if (a->lda < (a->trans_a ? a->m : a->k) || a->ldb < (a->trans_b ? a->k : a->n) ||
        a->ldd < a->n || (a->c != NULL && a->ldc < a->n))
        return "a leading dimension shorter than the row";
    if (a->c == a->d && a->ldc != a->ldd)
        return "C is D with another leading dimension";
    if (ds__too_big(a->trans_a ? a->k : a->m, a->lda) ||
        ds__too_big(a->trans_b ? a->n : a->k, a->ldb) || ds__too_big(a->m, a->ldd))
        return "a matrix larger than memory";
    wrong = check_epilogue(a);
    return wrong == NULL && a->in_type == DS_U8 ? check_fp8(a) : wrong;
}

const char *ds__check_bias_bwd(const struct ds_bias_bwd_args *a)
{
    if (a->rows == 0 || a->n == 0 || ds__too_big(a->rows, a->n))
        return "an impossible shape";
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    return a->dy == NULL || a->dbias == NULL ? "a pointer is missing" : NULL;
}

/* Ids that a part of a table, or of the columns of logits, begins with. */
static bool is_first_id(size_t first_id, bool partial)
{
    return first_id == 0 || (partial && first_id <= INT32_MAX);
}

const char *ds__check_embed_fwd(const struct ds_embed_fwd_args *a)
{
    if (a->batch == 0 || a->seq == 0 || a->channels == 0 || a->vocab == 0 || a->ids_ld < a->seq)
        return "an impossible shape";
    if (!is_first_id(a->first_id, a->partial))
        return "a first id that its table cannot have";
    if (!ds__is_act(a->act) || !ds__is_act(a->param))
        return "a type that is not supported";
    return a->ids == NULL || a->wte == NULL || a->out == NULL ? "a pointer is missing" : NULL;
}

const char *ds__check_embed_bwd(const struct ds_embed_bwd_args *a)
{
    if (a->batch == 0 || a->seq == 0 || a->channels == 0 || a->vocab == 0 || a->ids_ld < a->seq)
        return "an impossible shape";
    if (!is_first_id(a->first_id, a->partial))
        return "a first id that its table cannot have";
    if (a->dwpe != NULL && (a->positions < a->seq || a->positions - a->seq < a->first))
        return "fewer positions than the sequence has";
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    return a->ids == NULL || a->dout == NULL || a->dwte == NULL ? "a pointer is missing" : NULL;
}

static const char *check_norm(size_t rows, size_t channels, size_t ld)
{
    if (ld != 0 && ld < channels)
        return "a leading dimension shorter than the row";
    return rows == 0 || channels == 0 || ds__too_big(rows, ld != 0 ? ld : channels)
               ? "an impossible shape"
               : NULL;
}

const char *ds__check_norm_fwd(const struct ds_norm_fwd_args *a)
{
    const char *wrong = check_norm(a->rows, a->channels, a->ld);

    if (wrong != NULL)
        return wrong;
    if (!ds__is_act(a->act) || !ds__is_act(a->param))
        return "a type that is not supported";
    if (a->x == NULL || a->weight == NULL || a->y == NULL || a->rstd == NULL)
        return "a pointer is missing";
    if (a->kind == DS_NORM_LAYER && (a->bias == NULL || a->mean == NULL))
        return "a pointer is missing";
    if (a->kind == DS_NORM_LAYER && a->residual != NULL)
        return "a residual where there is a bias";
    return a->eps >= 0.0f ? NULL : "an epsilon that is not positive";
}

const char *ds__check_norm_bwd(const struct ds_norm_bwd_args *a)
{
    const char *wrong = check_norm(a->rows, a->channels, a->ld);

    if (wrong != NULL)
        return wrong;
    if (!ds__is_act(a->act) || !ds__is_act(a->param))
        return "a type that is not supported";
    if (a->dy == NULL || a->x == NULL || a->weight == NULL || a->rstd == NULL || a->dx == NULL ||
        a->dweight == NULL)
        return "a pointer is missing";
    if (a->kind == DS_NORM_LAYER && (a->dbias == NULL || a->mean == NULL))
        return "a pointer is missing";
    return NULL;
}

static const char *check_head_norm(size_t rows, size_t heads, size_t kv_heads, size_t head_size,
                                   enum ds_dtype act, enum ds_dtype param)
{
    if (rows == 0 || heads == 0 || kv_heads == 0 || head_size == 0 ||
        ds__too_big(heads, head_size) || ds__too_big(kv_heads, head_size) ||
        ds__too_big(rows, (heads + 2 * kv_heads) * head_size))
        return "an impossible shape";
    return !ds__is_act(act) || !ds__is_act(param) ? "a type that is not supported" : NULL;
}

const char *ds__check_head_norm_fwd(const struct ds_head_norm_fwd_args *a)
{
    if (a->x == NULL || a->q_weight == NULL || a->k_weight == NULL || a->y == NULL ||
        a->rstd == NULL)
        return "a pointer is missing";
    if (a->y == a->x)
        return "an output that is also an input";
    if (!(a->eps >= 0.0f))
        return "an epsilon that is not positive";
    return check_head_norm(a->rows, a->heads, a->kv_heads, a->head_size, a->act, a->param);
}

const char *ds__check_head_norm_bwd(const struct ds_head_norm_bwd_args *a)
{
    if (a->dy == NULL || a->x == NULL || a->q_weight == NULL || a->k_weight == NULL ||
        a->rstd == NULL || a->dx == NULL || a->dq_weight == NULL || a->dk_weight == NULL)
        return "a pointer is missing";
    if (a->dx == a->x)
        return "an output that is also an input";
    return check_head_norm(a->rows, a->heads, a->kv_heads, a->head_size, a->act, a->param);
}

/* What LONGROPE divides frequencies by. */
static const char *check_each(const struct ds_numbers *each, size_t pairs)
{
    if (each == NULL || each->count != pairs)
        return "factors that are not one for each pair";
    for (size_t i = 0; i < pairs; i++)
        if (!(each->item[i] > 0.0))
            return "frequencies that are divided by nothing";
    return NULL;
}

const char *ds__check_rope(const struct ds_rope_args *a)
{
    const bool each = a->scale.kind == DS_ROPE_LONGROPE;
    const size_t width = ds_rope_width(a->turned, a->head_size);

    if (a->batch == 0 || a->seq == 0 || a->heads == 0 || a->head_size == 0)
        return "an impossible shape";
    if (width % 2 != 0)
        return "an odd head size";
    if (a->turned > a->head_size)
        return "a head shorter than what is turned of it";
    if (a->heads > a->ld / a->head_size)
        return "a leading dimension shorter than the row";
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (!(a->theta > 0.0f))
        return "a theta that is not positive";
    if (a->scale.kind != DS_ROPE_PLAIN && !(a->scale.factor > 0.0))
        return "frequencies that are divided by nothing";
    if (a->scale.kind == DS_ROPE_LLAMA3 && !(a->scale.low < a->scale.high))
        return "waves of which none are between the long and the short ones";
    if (a->scale.kind == DS_ROPE_YARN &&
        (!(a->theta > 1.0f) || a->scale.original == 0 || !(a->scale.slow > 0.0) ||
         !(a->scale.slow < a->scale.fast)))
        return "pairs of which none are between the slow and the fast ones";
    if ((a->scale.kind == DS_ROPE_YARN || each) && !(a->scale.attention > 0.0))
        return "cosines and sines that are multiplied by nothing";
    if (a->x == NULL)
        return "a pointer is missing";
    return each ? check_each(a->each, width / 2) : NULL;
}

static const char *check_heads(size_t batch, size_t seq, size_t heads, size_t kv_heads,
                               size_t head_size)
{
    if (batch == 0 || seq == 0 || heads == 0 || kv_heads == 0 || head_size == 0)
        return "an impossible shape";
    if (heads % kv_heads != 0)
        return "query heads that the key/value heads do not divide";
    if (seq > INT32_MAX || ds__too_big(heads + 2 * kv_heads, head_size))
        return "an impossible shape";
    return NULL;
}

static bool is_rate(double rate)
{
    return rate >= 0.0 && rate < 1.0;
}

/* Of all heads that weights are dropped for, those of the call. */
static bool has_heads(const struct ds_attention_drop *drop, size_t heads)
{
    return drop->heads == 0 ? drop->head == 0
                            : drop->heads >= heads && drop->heads - heads >= drop->head;
}

const char *ds__check_attention_fwd(const struct ds_attention_fwd_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (!is_rate(a->drop.rate))
        return "a rate that is not in [0, 1)";
    if (!has_heads(&a->drop, a->heads))
        return "heads that are not among those dropped for";
    if (a->qkv == NULL || a->out == NULL || a->lse == NULL)
        return "a pointer is missing";
    return check_heads(a->batch, a->seq, a->heads, a->kv_heads, a->head_size);
}

const char *ds__check_attention_bwd(const struct ds_attention_bwd_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (!is_rate(a->drop.rate))
        return "a rate that is not in [0, 1)";
    if (!has_heads(&a->drop, a->heads))
        return "heads that are not among those dropped for";
    if (a->qkv == NULL || a->out == NULL || a->dout == NULL || a->lse == NULL || a->dqkv == NULL)
        return "a pointer is missing";
    if (a->dqkv == a->qkv)
        return "an output that is also an input";
    return check_heads(a->batch, a->seq, a->heads, a->kv_heads, a->head_size);
}

const char *ds__check_attention_cached(const struct ds_attention_cached_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->qkv == NULL || a->keys == NULL || a->values == NULL || a->out == NULL)
        return "a pointer is missing";
    if (a->room % DS_CACHE_TILE != 0 || a->seq > a->room || a->first > a->room - a->seq ||
        ds__too_big(a->room, a->kv_heads * a->head_size))
        return "a cache without room for the rows";
    return check_heads(1, a->room, a->heads, a->kv_heads, a->head_size) != NULL || a->seq == 0
               ? "an impossible shape"
               : NULL;
}

const char *ds__check_gelu_fwd(const struct ds_gelu_fwd_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->kind != DS_GELU_TANH && a->kind != DS_GELU_ERF)
        return "a GELU of no kind";
    return a->n != 0 && (a->x == NULL || a->y == NULL) ? "a pointer is missing" : NULL;
}

const char *ds__check_gelu_bwd(const struct ds_gelu_bwd_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->kind != DS_GELU_TANH && a->kind != DS_GELU_ERF)
        return "a GELU of no kind";
    return a->n != 0 && (a->x == NULL || a->dy == NULL || a->dx == NULL) ? "a pointer is missing"
                                                                         : NULL;
}

const char *ds__check_swiglu_fwd(const struct ds_swiglu_fwd_args *a)
{
    if (a->rows == 0 || a->ffn == 0 || ds__too_big(a->rows, a->ffn))
        return "an impossible shape";
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    return a->x == NULL || a->y == NULL ? "a pointer is missing" : NULL;
}

const char *ds__check_swiglu_bwd(const struct ds_swiglu_bwd_args *a)
{
    if (a->rows == 0 || a->ffn == 0 || ds__too_big(a->rows, a->ffn))
        return "an impossible shape";
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    return a->x == NULL || a->dy == NULL || a->dx == NULL ? "a pointer is missing" : NULL;
}

const char *ds__check_dropout(const struct ds_dropout_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (!is_rate(a->rate))
        return "a rate that is not in [0, 1)";
    if (!isfinite(a->factor))
        return "a factor that is no number";
    if (a->ld < a->row)
        return "an impossible shape";
    return a->n != 0 && (a->x == NULL || a->y == NULL) ? "a pointer is missing" : NULL;
}

const char *ds__check_xent_part(const struct ds_xent_part_args *a)
{
    if (a->rows == 0 || a->vocab == 0 || a->ld < a->vocab || ds__too_big(a->rows, a->ld))
        return "an impossible shape";
    if (!ds__is_act(a->logits_type))
        return "a type that is not supported";
    if (!is_first_id(a->first_id, true))
        return "a first id that no column has";
    return a->logits == NULL || a->targets == NULL || a->out == NULL ? "a pointer is missing"
                                                                     : NULL;
}

/* What a loss of parts asks for beside what each does. */
static const char *check_parts(const struct ds_xent_args *a)
{
    if (a->parts == NULL)
        return a->ranks != 0 || a->each != 0 || a->first_id != 0 || a->columns != 0
                   ? "ranks without their parts"
                   : NULL;
    if (a->ranks == 0 || a->each == 0 || a->vocab > a->each || ds__too_big(a->ranks, a->each) ||
        ds__too_big(a->ranks, a->rows))
        return "an impossible shape";
    if (a->first_id % a->each != 0 || a->first_id / a->each >= a->ranks)
        return "a first id that no rank's columns have";
    if (a->dlogits != NULL && (a->columns < a->vocab || a->columns > a->dld))
        return "columns of gradients that their rows have no room for";
    return NULL;
}

const char *ds__check_xent(const struct ds_xent_args *a)
{
    if (a->rows == 0 || a->vocab == 0 || a->ld < a->vocab || ds__too_big(a->rows, a->ld))
        return "an impossible shape";
    if (!ds__is_act(a->act) || (a->logits_type != DS_F32 && a->logits_type != a->act))
        return "a type that is not supported";
    if (a->logits == NULL || a->targets == NULL || a->losses == NULL)
        return "a pointer is missing";
    if (a->dlogits != NULL && a->dld < a->vocab)
        return "a leading dimension shorter than the row";
    if (a->dlogits == a->logits && (a->act != a->logits_type || a->dld != a->ld))
        return "gradients in place of logits of another layout";
    return check_parts(a);
}

const char *ds__check_sum(const struct ds_sum_args *a)
{
    return (a->n != 0 && a->x == NULL) || a->sum == NULL ? "a pointer is missing" : NULL;
}

const char *ds__check_add(const struct ds_add_args *a)
{
    return a->n != 0 && (a->x == NULL || a->y == NULL) ? "a pointer is missing" : NULL;
}

const char *ds__check_sumsq(const struct ds_sumsq_args *a)
{
    return (a->n != 0 && a->x == NULL) || a->sum == NULL || a->nonfinite == NULL
               ? "a pointer is missing"
               : NULL;
}

const char *ds__check_tally(const struct ds_tally_args *a)
{
    if (a->own > a->parts || ds__too_big(a->parts, sizeof(struct ds_part)))
        return "an impossible shape";
    if (a->loss == NULL || a->peaks == NULL || (a->parts != 0 && a->part == NULL) ||
        a->entry == NULL)
        return "a pointer is missing";
    return NULL;
}

const char *ds__check_verdict(const struct ds_verdict_args *a)
{
    if (a->ranks == 0 || ds__too_big(a->ranks, sizeof(struct ds_entry)))
        return "an impossible shape";
    if (a->entry == NULL || a->before == NULL || a->verdict == NULL || a->verdict == a->before)
        return "a pointer is missing";
    if (!(a->size.tokens > 0.0) || (a->rule.dynamic && a->rule.window == 0))
        return "a number that is not positive";
    if (!(a->size.targets >= 0.0 && a->size.targets <= a->size.tokens))
        return "targets that are not among the tokens";
    return NULL;
}

const char *ds__check_rank_sum(const struct ds_rank_sum_args *a)
{
    if (a->ranks == 0 || ds__too_big(a->n, sizeof(double)) ||
        ds__too_big(a->ranks, a->n * sizeof(double)))
        return "an impossible shape";
    return a->n != 0 && a->x == NULL ? "a pointer is missing" : NULL;
}

/* Biases of Adam and LAMB, for either outcome of the step before. */
static bool biases(double bias1, double bias2, const struct ds_verdict *verdict, double behind1,
                   double behind2)
{
    return bias1 > 0.0 && bias2 > 0.0 && (verdict == NULL || (behind1 > 0.0 && behind2 > 0.0));
}

/* What every optimizer is given. */
static const char *check_update(size_t n, const void *p, const void *grad, enum ds_dtype grad_type,
                                const void *low, enum ds_dtype low_type)
{
    if (n != 0 && (p == NULL || grad == NULL))
        return "a pointer is missing";
    return !ds__is_act(grad_type) || (low != NULL && low_type != DS_BF16 && low_type != DS_F16)
               ? "a type that is not supported"
               : NULL;
}

const char *ds__check_adamw(const struct ds_adamw_args *a)
{
    if (a->n != 0 && (a->m == NULL || a->v == NULL))
        return "a pointer is missing";
    if (!biases(a->bias1, a->bias2, a->verdict, a->behind_bias1, a->behind_bias2))
        return "a bias correction that is not positive";
    return check_update(a->n, a->p, a->grad, a->grad_type, a->p_low, a->low_type);
}

const char *ds__check_sgd(const struct ds_sgd_args *a)
{
    if (a->m == NULL && a->nesterov)
        return "a pointer is missing";
    return check_update(a->n, a->p, a->grad, a->grad_type, a->p_low, a->low_type);
}

const char *ds__check_lion(const struct ds_lion_args *a)
{
    if (a->n != 0 && a->m == NULL)
        return "a pointer is missing";
    return check_update(a->n, a->p, a->grad, a->grad_type, a->p_low, a->low_type);
}

const char *ds__check_adagrad(const struct ds_adagrad_args *a)
{
    if (a->n != 0 && a->v == NULL)
        return "a pointer is missing";
    return check_update(a->n, a->p, a->grad, a->grad_type, a->p_low, a->low_type);
}

const char *ds__check_lamb_moments(const struct ds_lamb_moments_args *a)
{
    if (a->p_sumsq == NULL || a->u_sumsq == NULL || (a->n != 0 && (a->m == NULL || a->v == NULL)))
        return "a pointer is missing";
    if (!biases(a->bias1, a->bias2, a->verdict, a->behind_bias1, a->behind_bias2))
        return "a bias correction that is not positive";
    if (!(a->eps > 0.0))
        return "an epsilon that is not positive";
    return check_update(a->n, a->p, a->grad, a->grad_type, NULL, DS_F32);
}

const char *ds__check_lamb(const struct ds_lamb_args *a)
{
    if (!biases(a->bias1, a->bias2, a->verdict, a->behind_bias1, a->behind_bias2))
        return "a bias correction that is not positive";
    if (!(a->eps > 0.0))
        return "an epsilon that is not positive";
    if (a->n != 0 && (a->v == NULL || a->p_sumsq == NULL || a->u_sumsq == NULL))
        return "a pointer is missing";
    return check_update(a->n, a->p, a->m, DS_F32, a->p_low, a->low_type);
}

const char *ds__check_muon_moments(const struct ds_muon_moments_args *a)
{
    if (a->n != 0 && a->m == NULL)
        return "a pointer is missing";
    return check_update(a->n, a->u, a->grad, a->grad_type, NULL, DS_F32);
}

const char *ds__check_muon(const struct ds_muon_args *a)
{
    return check_update(a->n, a->p, a->x, DS_F32, a->p_low, a->low_type);
}

const char *ds__check_affine(const struct ds_affine_args *a)
{
    return a->rows != 0 && a->cols != 0 && (a->x == NULL || a->y == NULL) ? "a pointer is missing"
                                                                          : NULL;
}

const char *ds__check_cast(const struct ds_cast_args *a)
{
    if (!ds__is_act(a->from) || !ds__is_act(a->to))
        return "a type that is not supported";
    return a->n != 0 && (a->x == NULL || a->y == NULL) ? "a pointer is missing" : NULL;
}

const char *ds__check_reorder(const struct ds_reorder_args *a)
{
    bool none = a->outer == 0 || a->inner == 0 || a->run == 0;

    if (!none && (ds__too_big(a->outer, a->inner) || ds__too_big(a->outer * a->inner, a->run)))
        return "an impossible shape";
    return !none && (a->from == NULL || a->to == NULL) ? "a pointer is missing" : NULL;
}

const char *ds__check_largest(const struct ds_largest_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    return a->largest == NULL || (a->n != 0 && a->x == NULL) ? "a pointer is missing" : NULL;
}

const char *ds__check_fp8_cast(const struct ds_fp8_cast_args *a)
{
    if (!is_extent(a->rows) || !is_extent(a->cols) || ds__too_big(a->rows, a->cols))
        return "an impossible shape";
    if (!ds__is_act(a->act) || !is_fp8(a->type))
        return "a type that is not supported";
    if (a->x == NULL || a->largest == NULL || a->scale == NULL ||
        (a->codes == NULL && a->turned == NULL))
        return "a pointer is missing";
    return unaligned(a->codes) || unaligned(a->turned) ? "codes that are not aligned" : NULL;
}
