/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * optim.c - optimizers over flat arrays, each one pass over memory.
 *
 * An optimizer is a rule on DS_LANES elements; sweep() does the loads and stores around it and is
 * inlined once per rule, type of gradient and type of low copy.
 *
 * Source  Adam: Kingma and Ba, 2014; AdamW: Loshchilov and Hutter, 2017; Lion: Chen et al., 2023;
 *         AdaGrad: Duchi et al., 2011; momentum as in PyTorch's SGD; Muon:
 *          Jordan et al., 2024.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { SPAN = 16384, STATES = 2 };

struct lanes { /* of one vector of elements */
    ds_vec p, g, s[STATES];
};

/* The arrays, and what of the formula does not depend on the element. */
struct sweep {
    size_t n;
    float *p, *state[STATES];
    enum ds_dtype grad_type;
    const void *grad;
    enum ds_dtype low_type;
    void *low;
    float grad_scale;
    float l2;   /* decay that enters the gradient */
    float keep; /* 1 - lr * decay of the parameter itself */
    float step; /* factor of the update */
    float root; /* Adam: sqrt(v) * root + eps */
    float eps;
    float beta1, beta1_1, beta2, beta2_1; /* beta and 1 - beta */
    const struct ds_verdict *verdict;
    bool scaled, ages; /* what it says of the gradient counts, and whether it is behind */
    float behind_step, behind_root;
};

typedef void rule_fn(const struct sweep *w, struct lanes *x);

DS_INLINE void adam_rule(const struct sweep *w, struct lanes *x)
{
    x->s[0] = w->beta1 * x->s[0] + w->beta1_1 * x->g;
    x->s[1] = w->beta2 * x->s[1] + w->beta2_1 * (x->g * x->g);
    x->p = w->keep * x->p - w->step * (x->s[0] / (ds_vec_sqrt(x->s[1]) * w->root + w->eps));
}

DS_INLINE void sgd_rule(const struct sweep *w, struct lanes *x)
{
    x->p -= w->step * x->g;
}

DS_INLINE void momentum_rule(const struct sweep *w, struct lanes *x)
{
    x->s[0] = w->beta1 * x->s[0] + x->g;
    x->p -= w->step * x->s[0];
}

DS_INLINE void nesterov_rule(const struct sweep *w, struct lanes *x)
{
    x->s[0] = w->beta1 * x->s[0] + x->g;
    x->p -= w->step * (x->g + w->beta1 * x->s[0]);
}

DS_INLINE void lion_rule(const struct sweep *w, struct lanes *x)
{
    ds_vec u = w->beta1 * x->s[0] + w->beta1_1 * x->g;
    ds_vec sign = (ds_vec)(((ds_ivec)u & INT32_MIN) | (ds_ivec)ds_vec_set(w->step));

    x->s[0] = w->beta2 * x->s[0] + w->beta2_1 * x->g;
    x->p = w->keep * x->p - (ds_vec)((ds_ivec)sign & (u != 0.0f));
}

DS_INLINE void adagrad_rule(const struct sweep *w, struct lanes *x)
{
    x->s[0] += x->g * x->g;
    x->p -= w->step * (x->g / (ds_vec_sqrt(x->s[0]) + w->eps));
}

/* p is Muon's direction, which is made, not changed. */
DS_INLINE void average_rule(const struct sweep *w, struct lanes *x)
{
    x->s[0] = w->beta1 * x->s[0] + w->beta1_1 * x->g;
    x->p = x->s[0];
}

DS_INLINE void ahead_rule(const struct sweep *w, struct lanes *x)
{
    x->s[0] = w->beta1 * x->s[0] + w->beta1_1 * x->g;
    x->p = w->beta1_1 * x->g + w->beta1 * x->s[0];
}

/* g is that direction. */
DS_INLINE void decayed_rule(const struct sweep *w, struct lanes *x)
{
    x->p = w->keep * x->p - w->step * x->g;
}

/* Elements [i, i + part) by `rule`, which keeps `states` arrays. */
DS_INLINE void turn(const struct sweep *w, size_t i, size_t part, unsigned states,
                    enum ds_dtype grad_type, enum ds_dtype low_type, rule_fn *rule)
{
    bool whole = part == DS_LANES;
    struct lanes x;

    x.g = whole ? ds_load(grad_type, w->grad, i) : ds_load_part(grad_type, w->grad, i, part);
    x.p = whole ? ds_vec_load(w->p + i) : ds_load_part(DS_F32, w->p, i, part);
    for (unsigned s = 0; s < states; s++)
        x.s[s] = whole ? ds_vec_load(w->state[s] + i) : ds_load_part(DS_F32, w->state[s], i, part);
    x.g = x.g * w->grad_scale;
    if (w->l2 != 0.0f)
        x.g += w->l2 * x.p;
    rule(w, &x);
    for (unsigned s = 0; s < states; s++) {
        if (whole)
            ds_vec_store(w->state[s] + i, x.s[s]);
        else
            ds_store_part(DS_F32, w->state[s], i, part, x.s[s]);
    }
    if (whole)
        ds_vec_store(w->p + i, x.p);
    else
        ds_store_part(DS_F32, w->p, i, part, x.p);
    if (low_type != DS_F32 && whole)
        ds_store(low_type, w->low, i, x.p);
    else if (low_type != DS_F32)
        ds_store_part(low_type, w->low, i, part, x.p);
}

/* One loop for whole and partial vectors: the arithmetic is compiled once, so that an element gets
 * the same bits wherever a range is cut. */
DS_INLINE void span(const struct sweep *w, size_t task, unsigned states, enum ds_dtype grad_type,
                    enum ds_dtype low_type, rule_fn *rule)
{
    size_t i = task * SPAN, end = ds__min(i + SPAN, w->n);

    for (; i < end; i += DS_LANES)
        turn(w, i, ds__min(DS_LANES, end - i), states, grad_type, low_type, rule);
}

/* A task of the pool for a rule with that many states; a low copy of F32 is none.  Each is compiled
 * for the types that it can meet: Muon's direction has no copy, and where it is the gradient it is
 * F32. */
#define TASK(rule, ...)                                                                            \
    static void rule##_task(void *arg, size_t task, unsigned thread)                               \
    {                                                                                              \
        const struct sweep *w = arg;                                                               \
        const enum ds_dtype low = w->low == NULL ? DS_F32 : w->low_type;                           \
                                                                                                   \
        (void)thread;                                                                              \
        (void)low;                                                                                 \
        __VA_ARGS__                                                                                \
    }
#define ANY_GRADIENT(rule, states, low) DS_TYPED(w->grad_type, span(w, task, states, T, low, rule))
#define ANY_TYPES(rule, states)                                                                    \
    TASK(rule, if (low == DS_F32) ANY_GRADIENT(rule, states, DS_F32);                              \
         else if (low == DS_BF16) ANY_GRADIENT(rule, states, DS_BF16);                             \
         else ANY_GRADIENT(rule, states, DS_F16);)
#define NO_COPY(rule, states) TASK(rule, ANY_GRADIENT(rule, states, DS_F32);)
#define F32_GRADIENT(rule, states)                                                                 \
    TASK(rule, DS_TYPED(low, span(w, task, states, DS_F32, T, rule));)

ANY_TYPES(adam_rule, 2)
ANY_TYPES(sgd_rule, 0)
ANY_TYPES(momentum_rule, 1)
ANY_TYPES(nesterov_rule, 1)
ANY_TYPES(lion_rule, 1)
ANY_TYPES(adagrad_rule, 1)
NO_COPY(average_rule, 1)
NO_COPY(ahead_rule, 1)
F32_GRADIENT(decayed_rule, 0)

/* The fields that all args structs have. */
#define SWEEP_OF(a)                                                                                \
    {                                                                                              \
        .n = (a)->n, .p = (a)->p, .grad_type = (a)->grad_type, .grad = (a)->grad,                  \
        .low_type = (a)->low_type, .low = (a)->p_low, .grad_scale = (float)(a)->grad_scale,        \
        .keep = 1.0f, .verdict = (a)->verdict, .scaled = true                                      \
    }

static int sweep(struct sweep *w, struct ds_stream *stream, ds_task_fn *task)
{
    const struct ds_verdict *verdict = w->verdict;

    if (verdict != NULL && verdict->skip)
        return 0;
    if (verdict != NULL && w->scaled)
        w->grad_scale = verdict->grad_scale;
    if (verdict != NULL && verdict->behind && w->ages) {
        w->step = w->behind_step;
        w->root = w->behind_root;
    }
    ds__cpu_run(stream, ds__div_up(w->n, SPAN), task, w);
    return 0;
}

static float kept(double lr, double weight_decay)
{
    return (float)(1.0 - lr * weight_decay);
}

int DS_ISA(ds__cpu_adamw)(const struct ds_adamw_args *args, struct ds_stream *stream,
                          struct ds_error *err)
{
    struct sweep w = SWEEP_OF(args);

    (void)err;
    w.state[0] = args->m;
    w.state[1] = args->v;
    w.l2 = args->l2 ? (float)args->weight_decay : 0.0f;
    w.keep = args->l2 ? 1.0f : kept(args->lr, args->weight_decay);
    w.step = (float)(args->lr / args->bias1);
    w.root = (float)(1.0 / sqrt(args->bias2));
    w.behind_step = (float)(args->lr / args->behind_bias1);
    w.behind_root = (float)(1.0 / sqrt(args->behind_bias2));
    w.ages = true;
    w.eps = (float)args->eps;
    w.beta1 = (float)args->beta1;
    w.beta2 = (float)args->beta2;
    w.beta1_1 = (float)(1.0 - args->beta1);
    w.beta2_1 = (float)(1.0 - args->beta2);
    return sweep(&w, stream, adam_rule_task);
}

int DS_ISA(ds__cpu_sgd)(const struct ds_sgd_args *args, struct ds_stream *stream,
                        struct ds_error *err)
{
    struct sweep w = SWEEP_OF(args);

    (void)err;
    w.state[0] = args->m;
    w.l2 = (float)args->weight_decay;
    w.step = (float)args->lr;
    w.beta1 = (float)args->momentum;
    if (args->m == NULL)
        return sweep(&w, stream, sgd_rule_task);
    return sweep(&w, stream, args->nesterov ? nesterov_rule_task : momentum_rule_task);
}

int DS_ISA(ds__cpu_lion)(const struct ds_lion_args *args, struct ds_stream *stream,
                         struct ds_error *err)
{
    struct sweep w = SWEEP_OF(args);

    (void)err;
    w.state[0] = args->m;
    w.keep = kept(args->lr, args->weight_decay);
    w.step = (float)args->lr;
    w.beta1 = (float)args->beta1;
    w.beta2 = (float)args->beta2;
    w.beta1_1 = (float)(1.0 - args->beta1);
    w.beta2_1 = (float)(1.0 - args->beta2);
    return sweep(&w, stream, lion_rule_task);
}

int DS_ISA(ds__cpu_adagrad)(const struct ds_adagrad_args *args, struct ds_stream *stream,
                            struct ds_error *err)
{
    struct sweep w = SWEEP_OF(args);

    (void)err;
    w.state[0] = args->v;
    w.l2 = (float)args->weight_decay;
    w.step = (float)args->lr;
    w.eps = (float)args->eps;
    return sweep(&w, stream, adagrad_rule_task);
}

int DS_ISA(ds__cpu_muon_moments)(const struct ds_muon_moments_args *args, struct ds_stream *stream,
                                 struct ds_error *err)
{
    struct sweep w = {
        .n = args->n,
        .p = args->u,
        .state = {args->m},
        .grad_type = args->grad_type,
        .grad = args->grad,
        .grad_scale = (float)args->grad_scale,
        .beta1 = (float)args->momentum,
        .beta1_1 = (float)(1.0 - args->momentum),
        .verdict = args->verdict,
        .scaled = true,
    };

    (void)err;
    return sweep(&w, stream, args->nesterov ? ahead_rule_task : average_rule_task);
}

int DS_ISA(ds__cpu_muon)(const struct ds_muon_args *args, struct ds_stream *stream,
                         struct ds_error *err)
{
    struct sweep w = {
        .n = args->n,
        .p = args->p,
        .grad_type = DS_F32,
        .grad = args->x,
        .low_type = args->low_type,
        .low = args->p_low,
        .grad_scale = 1.0f,
        .keep = kept(args->lr, args->weight_decay),
        .step = (float)args->step,
        .verdict = args->verdict,
    };

    (void)err;
    return sweep(&w, stream, decayed_rule_task);
}
