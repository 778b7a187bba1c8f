/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sdpa_graph.c - the contract is in sdpa_graph.h.
 *
 * Calls after one that failed do nothing, so that a graph can be written down as it is.
 */
#include "kernels/cuda/sdpa_graph.h"

#include <stdbool.h>

enum { AXES = 4, ALIGNMENT = 16, FIRST_INNER_ID = 1000, ANY = -1 };

struct work {
    struct ds_sdpa_graph *graph;
    const struct ds_cudnn *cudnn;
    const struct ds_sdpa_shape *shape;
    int status;
    int64_t next; /* number of the next tensor inside */
};

struct form {
    int64_t dims[AXES], strides[AXES];
};

int ds__sdpa_make(struct ds_sdpa_graph *graph, const struct ds_cudnn *cudnn, int what, void **out)
{
    int status;

    *out = NULL;
    if (graph->parts == DS_SDPA_PARTS)
        return DS_CUDNN_NOT_SUPPORTED;
    status = cudnn->BackendCreateDescriptor(what, out);
    if (status == 0)
        graph->part[graph->parts++] = *out;
    return status;
}

void ds__sdpa_forget(struct ds_sdpa_graph *graph, const struct ds_cudnn *cudnn)
{
    while (graph->parts > 0)
        (void)cudnn->BackendDestroyDescriptor(graph->part[--graph->parts]);
    *graph = (struct ds_sdpa_graph){0};
}

static void *make(struct work *w, int what)
{
    void *desc = NULL;

    if (w->status == 0)
        w->status = ds__sdpa_make(w->graph, w->cudnn, what, &desc);
    return desc;
}

static void set(struct work *w, void *desc, int what, int type, int64_t count, const void *values)
{
    if (w->status == 0)
        w->status = w->cudnn->BackendSetAttribute(desc, what, type, count, values);
}

static void refer(struct work *w, void *desc, int what, void *other)
{
    if (other != NULL)
        set(w, desc, what, DS_CUDNN_TYPE_DESCRIPTOR, 1, &other);
}

static void *finish(struct work *w, void *desc)
{
    if (w->status == 0)
        w->status = w->cudnn->BackendFinalize(desc);
    return desc;
}

static void finish_op(struct work *w, void *op)
{
    (void)finish(w, op);
    if (w->status == 0)
        w->graph->op[w->graph->ops++] = op;
}

/* --- tensors -----------------------------------------------------------------------------------*/

static void *tensor(struct work *w, int64_t id, int type, struct form form, int kind)
{
    const int64_t alignment = ALIGNMENT;
    const bool yes = true;
    void *desc = make(w, DS_CUDNN_TENSOR);

    set(w, desc, DS_CUDNN_TENSOR_ID, DS_CUDNN_TYPE_INT64, 1, &id);
    set(w, desc, DS_CUDNN_TENSOR_TYPE, DS_CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(w, desc, DS_CUDNN_TENSOR_ALIGNMENT, DS_CUDNN_TYPE_INT64, 1, &alignment);
    set(w, desc, DS_CUDNN_TENSOR_DIMS, DS_CUDNN_TYPE_INT64, AXES, form.dims);
    set(w, desc, DS_CUDNN_TENSOR_STRIDES, DS_CUDNN_TYPE_INT64, AXES, form.strides);
    if (kind != 0)
        set(w, desc, kind, DS_CUDNN_TYPE_BOOLEAN, 1, &yes);
    return finish(w, desc);
}

static void *given(struct work *w, int64_t id, int type, struct form form)
{
    return tensor(w, id, type, form, 0);
}

static void *inner(struct work *w, int type, struct form form)
{
    return tensor(w, w->next++, type, form, DS_CUDNN_TENSOR_VIRTUAL);
}

static void *number(struct work *w, int64_t id)
{
    const struct form one = {{1, 1, 1, 1}, {1, 1, 1, 1}};

    return tensor(w, id, DS_CUDNN_F32, one, DS_CUDNN_TENSOR_BY_VALUE);
}

static struct form turned(struct form f)
{
    return (struct form){{f.dims[0], f.dims[1], f.dims[3], f.dims[2]},
                         {f.strides[0], f.strides[1], f.strides[3], f.strides[2]}};
}

/* Of queries, or keys or values: heads in packed rows. */
static struct form packed(const struct ds_sdpa_shape *s, int64_t heads)
{
    int64_t row = (s->all_heads + 2 * s->all_kv_heads) * s->size;

    return (struct form){{s->batch, heads, s->seq, s->size}, {row * s->seq, s->size, row, 1}};
}

static struct form output(const struct ds_sdpa_shape *s)
{
    int64_t row = s->all_heads * s->size;

    return (struct form){{s->batch, s->heads, s->seq, s->size}, {row * s->seq, s->size, row, 1}};
}

static struct form dense(const struct ds_sdpa_shape *s, int64_t columns)
{
    return (struct form){{s->batch, s->heads, s->seq, columns},
                         {s->heads * s->seq * columns, s->seq * columns, columns, 1}};
}

/* A number of each query. */
static struct form column(const struct ds_sdpa_shape *s, int64_t heads)
{
    return (struct form){{s->batch, s->heads, s->seq, 1}, {heads * s->seq, s->seq, 1, 1}};
}

static void *scores(struct work *w, int type)
{
    return inner(w, type, dense(w->shape, w->shape->seq));
}

static void *inner_column(struct work *w)
{
    return inner(w, DS_CUDNN_F32, column(w->shape, w->shape->heads));
}

/* --- operations, which return what they write --------------------------------------------------*/

static void *product(struct work *w, void *a, void *b, void *c)
{
    const int f32 = DS_CUDNN_F32;
    void *how = make(w, DS_CUDNN_MATMUL), *op;

    set(w, how, DS_CUDNN_MATMUL_MATH, DS_CUDNN_TYPE_DATA_TYPE, 1, &f32);
    (void)finish(w, how);
    op = make(w, DS_CUDNN_OP_MATMUL);
    refer(w, op, DS_CUDNN_OP_MATMUL_A, a);
    refer(w, op, DS_CUDNN_OP_MATMUL_B, b);
    refer(w, op, DS_CUDNN_OP_MATMUL_C, c);
    refer(w, op, DS_CUDNN_OP_MATMUL_HOW, how);
    finish_op(w, op);
    return c;
}

/* y = x mode b, or for SELECT t ? x : b; b and t may be NULL. */
static void *pointwise(struct work *w, int mode, int math, int64_t axis, void *x, void *b, void *t,
                       void *y)
{
    void *how = make(w, DS_CUDNN_POINTWISE), *op;

    set(w, how, DS_CUDNN_POINTWISE_MODE, DS_CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(w, how, DS_CUDNN_POINTWISE_MATH, DS_CUDNN_TYPE_DATA_TYPE, 1, &math);
    if (axis != ANY)
        set(w, how, DS_CUDNN_POINTWISE_AXIS, DS_CUDNN_TYPE_INT64, 1, &axis);
    (void)finish(w, how);
    op = make(w, DS_CUDNN_OP_POINTWISE);
    refer(w, op, DS_CUDNN_OP_POINTWISE_HOW, how);
    refer(w, op, DS_CUDNN_OP_POINTWISE_X, x);
    refer(w, op, DS_CUDNN_OP_POINTWISE_B, b);
    refer(w, op, DS_CUDNN_OP_POINTWISE_T, t);
    refer(w, op, DS_CUDNN_OP_POINTWISE_Y, y);
    finish_op(w, op);
    return y;
}

static void *both(struct work *w, int mode, void *x, void *b, void *y)
{
    return pointwise(w, mode, DS_CUDNN_F32, ANY, x, b, NULL, y);
}

static void *reduce(struct work *w, int operator, void * x, void *y)
{
    const int f32 = DS_CUDNN_F32;
    void *how = make(w, DS_CUDNN_REDUCTION), *op;

    set(w, how, DS_CUDNN_REDUCTION_OPERATOR, DS_CUDNN_TYPE_REDUCTION, 1, &operator);
    set(w, how, DS_CUDNN_REDUCTION_MATH, DS_CUDNN_TYPE_DATA_TYPE, 1, &f32);
    (void)finish(w, how);
    op = make(w, DS_CUDNN_OP_REDUCTION);
    refer(w, op, DS_CUDNN_OP_REDUCTION_X, x);
    refer(w, op, DS_CUDNN_OP_REDUCTION_Y, y);
    refer(w, op, DS_CUDNN_OP_REDUCTION_HOW, how);
    finish_op(w, op);
    return y;
}

/* The same memory seen another way. */
static void *seen_as(struct work *w, void *x, int type, struct form form)
{
    void *y = inner(w, type, form), *op = make(w, DS_CUDNN_OP_RESHAPE);

    refer(w, op, DS_CUDNN_OP_RESHAPE_X, x);
    refer(w, op, DS_CUDNN_OP_RESHAPE_Y, y);
    finish_op(w, op);
    return y;
}

/* Keys behind their query are not seen. */
static void *causal(struct work *w, void *s, void *hidden)
{
    void *row = scores(w, DS_CUDNN_I32), *key = scores(w, DS_CUDNN_I32);
    void *seen = scores(w, DS_CUDNN_BOOL);

    row = pointwise(w, DS_CUDNN_INDEX, DS_CUDNN_F32, 2, s, NULL, NULL, row);
    key = pointwise(w, DS_CUDNN_INDEX, DS_CUDNN_F32, 3, s, NULL, NULL, key);
    seen = pointwise(w, DS_CUDNN_NOT_BELOW, DS_CUDNN_BOOL, ANY, row, key, NULL, seen);
    return pointwise(w, DS_CUDNN_SELECT, DS_CUDNN_F32, ANY, s, hidden, seen,
                     scores(w, DS_CUDNN_F32));
}

/* --- the two graphs ----------------------------------------------------------------------------*/

static void describe_forward(struct work *w)
{
    const struct ds_sdpa_shape *s = w->shape;
    int type = (int)s->type;
    struct form keys = packed(s, s->kv_heads);
    void *q = given(w, DS_SDPA_Q, type, packed(s, s->heads));
    void *k = given(w, DS_SDPA_K, type, turned(keys)), *v = given(w, DS_SDPA_V, type, keys);
    void *scale = number(w, DS_SDPA_SCALE), *hidden = number(w, DS_SDPA_HIDDEN), *x, *max, *sum;

    x = product(w, q, k, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_MUL, x, scale, scores(w, DS_CUDNN_F32));
    x = causal(w, x, hidden);
    max = reduce(w, DS_CUDNN_REDUCE_MAX, x, inner_column(w));
    x = both(w, DS_CUDNN_SUB, x, max, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_EXP, x, NULL, scores(w, DS_CUDNN_F32));
    sum = reduce(w, DS_CUDNN_REDUCE_ADD, x, inner_column(w));
    (void)both(w, DS_CUDNN_ADD, max, both(w, DS_CUDNN_LOG, sum, NULL, inner_column(w)),
               given(w, DS_SDPA_LSE, DS_CUDNN_F32, column(s, s->all_heads)));
    x = both(w, DS_CUDNN_DIV, x, sum, scores(w, type));
    (void)product(w, x, v, given(w, DS_SDPA_OUT, type, output(s)));
}

/* Weights or gradients of scores, transposed, times x: gradients of keys or values.  Heads that
 * share theirs are added up. */
static void key_gradient(struct work *w, void *p, void *x, int64_t id)
{
    const struct ds_sdpa_shape *s = w->shape;
    int type = (int)s->type;
    void *turn = seen_as(w, p, type, turned(dense(s, s->seq)));
    void *d = given(w, id, type, packed(s, s->kv_heads));

    if (s->heads == s->kv_heads)
        (void)product(w, turn, x, d);
    else
        (void)reduce(w, DS_CUDNN_REDUCE_ADD, product(w, turn, x, inner(w, type, dense(s, s->size))),
                     d);
}

static void describe_backward(struct work *w)
{
    const struct ds_sdpa_shape *s = w->shape;
    int type = (int)s->type;
    struct form keys = packed(s, s->kv_heads), wide = dense(s, s->size);
    void *q = given(w, DS_SDPA_Q, type, packed(s, s->heads));
    void *k = given(w, DS_SDPA_K, type, turned(keys)), *v = given(w, DS_SDPA_V, type, turned(keys));
    void *out = given(w, DS_SDPA_OUT, type, output(s));
    void *dout = given(w, DS_SDPA_DOUT, type, output(s));
    void *lse = given(w, DS_SDPA_LSE, DS_CUDNN_F32, column(s, s->all_heads));
    void *scale = number(w, DS_SDPA_SCALE), *hidden = number(w, DS_SDPA_HIDDEN);
    void *sums, *p, *x;

    wide.strides[2] = s->heads * s->size; /* as cuDNN wants the products of out and dout */
    x = both(w, DS_CUDNN_MUL, dout, out, inner(w, DS_CUDNN_F32, wide));
    x = reduce(w, DS_CUDNN_REDUCE_ADD, x, inner_column(w));
    sums = both(w, DS_CUDNN_MUL, x, number(w, DS_SDPA_ONE),
                given(w, DS_SDPA_SUMS, DS_CUDNN_F32, column(s, s->heads)));
    x = product(w, q, k, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_MUL, x, scale, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_SUB, x, lse, scores(w, DS_CUDNN_F32));
    x = causal(w, x, hidden);
    p = both(w, DS_CUDNN_EXP, x, NULL, scores(w, DS_CUDNN_F32));
    key_gradient(w, p, dout, DS_SDPA_DV);
    x = product(w, dout, v, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_SUB, x, sums, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_MUL, x, p, scores(w, DS_CUDNN_F32));
    x = both(w, DS_CUDNN_MUL, x, scale, scores(w, type));
    key_gradient(w, x, q, DS_SDPA_DK);
    (void)product(w, x, seen_as(w, k, type, keys), given(w, DS_SDPA_DQ, type, packed(s, s->heads)));
}

int ds__sdpa_describe(struct ds_sdpa_graph *graph, const struct ds_cudnn *cudnn,
                      const struct ds_sdpa_shape *shape)
{
    struct work w = {.graph = graph, .cudnn = cudnn, .shape = shape, .next = FIRST_INNER_ID};

    *graph = (struct ds_sdpa_graph){0};
    if (shape->backward)
        describe_backward(&w);
    else
        describe_forward(&w);
    return w.status;
}
