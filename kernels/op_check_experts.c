/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * op_check_experts.c - arguments of the operations of experts.h; the contract is in op_check.h.
 */
#include "kernels/op_check.h"

/* N rows of `columns` that `each` experts have, of `most`. */
static const char *check_given(size_t rows, size_t each, size_t most, size_t columns)
{
    if (rows == 0 || each == 0 || each > most || columns == 0 || ds__too_big(rows, each) ||
        ds__too_big(rows * each, columns))
        return "an impossible shape";
    return rows * each > UINT32_MAX ? "more pairs than have a number" : NULL;
}

static const char *check_sorted(size_t rows, size_t columns)
{
    if (rows == 0 || columns == 0 || ds__too_big(rows, columns))
        return "an impossible shape";
    return rows > UINT32_MAX ? "more sorted rows than have a number" : NULL;
}

static const char *check_experts(size_t batch, size_t seq, size_t experts, size_t each)
{
    if (batch == 0 || seq == 0 || ds__too_big(batch, seq))
        return "an impossible shape";
    if (experts == 0 || experts > DS_MAX_EXPERTS || each > experts)
        return "experts that there cannot be";
    return check_given(batch * seq, each, DS_MAX_EXPERTS_EACH, experts);
}

const char *ds__check_route(const struct ds_route_args *a)
{
    if (a->logits == NULL || a->probs == NULL || a->chosen == NULL || a->weight == NULL ||
        a->load == NULL)
        return "a pointer is missing";
    return check_experts(a->batch, a->seq, a->experts, a->each);
}

const char *ds__check_load_peak(const struct ds_load_peak_args *a)
{
    if (a->load == NULL || a->sum == NULL)
        return "a pointer is missing";
    return check_experts(a->batch, 1, a->experts, 1);
}

const char *ds__check_route_bwd(const struct ds_route_bwd_args *a)
{
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->probs == NULL || a->chosen == NULL || a->weight == NULL || a->dweight == NULL ||
        a->load == NULL || a->dlogits == NULL)
        return "a pointer is missing";
    if (a->sequence < a->seq)
        return "a sequence shorter than its part";
    return check_experts(a->batch, a->seq, a->experts, a->each);
}

const char *ds__check_sort_pairs(const struct ds_sort_pairs_args *a)
{
    const char *wrong = check_experts(a->rows, 1, a->experts, a->each);

    if (a->chosen == NULL || a->source == NULL || a->place == NULL || a->offset == NULL)
        return "a pointer is missing";
    if (wrong == NULL && (a->held == 0 || a->held > a->experts || a->first > a->experts - a->held))
        wrong = "experts that there cannot be";
    return wrong != NULL ? wrong : check_sorted(a->sorted, 1);
}

const char *ds__check_rows_take(const struct ds_rows_take_args *a)
{
    const char *wrong = check_given(a->rows, a->each, DS_MAX_EXPERTS_EACH, a->channels);

    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->source == NULL || a->count == NULL || a->x == NULL || a->y == NULL)
        return "a pointer is missing";
    return wrong != NULL ? wrong : check_sorted(a->sorted, a->channels);
}

const char *ds__check_rows_sum(const struct ds_rows_sum_args *a)
{
    const size_t most = a->place != NULL ? DS_MAX_EXPERTS_EACH : DS_MAX_RANKS;
    const char *wrong = check_given(a->rows, a->each, most, a->channels);

    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->x == NULL || a->y == NULL)
        return "a pointer is missing";
    return wrong != NULL || a->place == NULL ? wrong : check_sorted(a->sorted, a->channels);
}

const char *ds__check_experts_matmul(const struct ds_experts_matmul_args *a)
{
    bool weights = a->product == DS_EXPERTS_BWD_W;

    if (a->rows == 0 || a->in == 0 || a->out == 0 || a->rows > UINT32_MAX ||
        ds__too_big(a->rows, a->in) || ds__too_big(a->rows, a->out) || ds__too_big(a->in, a->out) ||
        ds__too_big(a->experts, a->in * a->out))
        return "an impossible shape";
    if (a->experts == 0 || a->experts > DS_MAX_EXPERTS)
        return "experts that there cannot be";
    if (!weights && a->product != DS_EXPERTS_FWD && a->product != DS_EXPERTS_BWD_X)
        return "a product that there is not";
    if (!ds__is_act(a->act))
        return "a type that is not supported";
    if (a->offset == NULL || a->to == NULL || (a->x == NULL && a->product != DS_EXPERTS_BWD_X) ||
        (a->y == NULL && a->product != DS_EXPERTS_FWD) || (a->weight == NULL && !weights))
        return "a pointer is missing";
    return a->accumulate && !weights ? "a sum that only gradients of weights have" : NULL;
}

static const char *check_swiglu(size_t rows, size_t pairs, size_t ffn, enum ds_dtype act)
{
    const char *wrong = check_sorted(rows, ffn);

    if (wrong != NULL)
        return wrong;
    if (pairs == 0 || pairs > UINT32_MAX)
        return "an impossible shape";
    return ds__is_act(act) ? NULL : "a type that is not supported";
}

const char *ds__check_swiglu_rows_fwd(const struct ds_swiglu_rows_fwd_args *a)
{
    if (a->source == NULL || a->count == NULL || a->x == NULL || a->weight == NULL || a->y == NULL)
        return "a pointer is missing";
    return check_swiglu(a->rows, a->pairs, a->ffn, a->act);
}

const char *ds__check_swiglu_rows_bwd(const struct ds_swiglu_rows_bwd_args *a)
{
    if (a->source == NULL || a->count == NULL || a->x == NULL || a->dy == NULL ||
        a->weight == NULL || a->dx == NULL || a->dweight == NULL)
        return "a pointer is missing";
    return check_swiglu(a->rows, a->pairs, a->ffn, a->act);
}
