/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * optim.cu - optimizers over flat arrays, each one pass over memory.
 *
 * A rule turns one element; sweep() moves packs around it.  The arithmetic and its rounding do not
 * depend on where a range is cut.
 *
 * Source  as kernels/cpu/optim.c
 */
#include "kernels/cuda/device.cuh"

enum { STATES = 2 };

/* The arrays, and what of the formula does not depend on the element. */
struct sweep {
    size_t n;
    float *p, *state[STATES];
    const void *grad;
    void *low; /* or NULL */
    float grad_scale;
    float l2;   /* decay that enters the gradient */
    float keep; /* 1 - lr * decay of the parameter itself */
    float step; /* factor of the update */
    float root; /* Adam: sqrt(v) * root + eps */
    float eps;
    float beta1, beta1_1, beta2, beta2_1; /* beta and 1 - beta */
    const struct ds_verdict *verdict;     /* or NULL */
    bool scaled, ages; /* what it says of the gradient counts, and whether it is behind */
    float behind_step, behind_root;
};

struct adam_rule {
    static constexpr int states = 2;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float g, float &m,
                                                float &v)
    {
        m = w.beta1 * m + w.beta1_1 * g;
        v = w.beta2 * v + w.beta2_1 * (g * g);
        p = w.keep * p - w.step * (m / (sqrtf(v) * w.root + w.eps));
    }
};

struct sgd_rule {
    static constexpr int states = 0;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float g, float &,
                                                float &)
    {
        p -= w.step * g;
    }
};

struct momentum_rule {
    static constexpr int states = 1;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float g, float &m,
                                                float &)
    {
        m = w.beta1 * m + g;
        p -= w.step * m;
    }
};

struct nesterov_rule {
    static constexpr int states = 1;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float g, float &m,
                                                float &)
    {
        m = w.beta1 * m + g;
        p -= w.step * (g + w.beta1 * m);
    }
};

struct lion_rule {
    static constexpr int states = 1;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float g, float &m,
                                                float &)
    {
        float u = w.beta1 * m + w.beta1_1 * g;

        m = w.beta2 * m + w.beta2_1 * g;
        p = w.keep * p - (u > 0.0f ? w.step : u < 0.0f ? -w.step : u);
    }
};

struct adagrad_rule {
    static constexpr int states = 1;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float g, float &v,
                                                float &)
    {
        v += g * g;
        p -= w.step * (g / (sqrtf(v) + w.eps));
    }
};

/* The "parameter" is the direction, of which nothing is used. */
struct muon_moments_rule {
    static constexpr int states = 1;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &u, float g, float &m,
                                                float &)
    {
        m = w.beta1 * m + w.beta1_1 * g;
        u = w.step != 0.0f ? w.beta1_1 * g + w.beta1 * m : m;
    }
};

/* The "gradient" is the direction made orthogonal. */
struct muon_rule {
    static constexpr int states = 0;
    static __device__ __forceinline__ void turn(const struct sweep &w, float &p, float x, float &,
                                                float &)
    {
        p = w.keep * p - w.step * x;
    }
};

template <class Rule, class Grad, class Low>
static __global__ void __launch_bounds__(BLOCK) sweep(struct sweep w)
{
    const Grad *grad = (const Grad *)w.grad;

    if (w.verdict != nullptr) {
        if (w.verdict->skip)
            return;
        if (w.scaled)
            w.grad_scale = w.verdict->grad_scale;
        if (w.ages && w.verdict->behind) {
            w.step = w.behind_step;
            w.root = w.behind_root;
        }
    }
    FOR_PACKS32(i, w.n)
    {
        size_t left = w.n - i;
        float g[PACK32], p[PACK32], s[STATES][PACK32] = {};

        take(grad + i, left, g);
        take(w.p + i, left, p);
        for (int k = 0; k < Rule::states; k++)
            take(w.state[k] + i, left, s[k]);
        for (int j = 0; j < PACK32; j++) {
            float pull = g[j] * w.grad_scale;

            if (w.l2 != 0.0f)
                pull += w.l2 * p[j];
            Rule::turn(w, p[j], pull, s[0][j], s[1][j]);
        }
        for (int k = 0; k < Rule::states; k++)
            give(w.state[k] + i, left, s[k]);
        give(w.p + i, left, p);
        if (w.low != nullptr)
            give((Low *)w.low + i, left, p);
    }
}

template <class Rule, class Args>
static int start(const char *what, struct sweep *w, const Args *a, struct ds_stream *stream,
                 struct ds_error *err)
{
    cudaStream_t queue = stream_of(stream);
    unsigned grid = flat_grid(a->n, PACK32);

    if (a->n == 0)
        return 0;
    w->n = a->n;
    w->p = a->p;
    w->grad = a->grad;
    w->grad_scale = (float)a->grad_scale;
    w->low = a->p_low;
    w->verdict = a->verdict;
    if (a->low_type == DS_F16)
        DS_TYPED(a->grad_type, T, DS_LAUNCH((sweep<Rule, T, __half>), grid, BLOCK, 0, queue, *w));
    else
        DS_TYPED(a->grad_type, T,
                 DS_LAUNCH((sweep<Rule, T, __nv_bfloat16>), grid, BLOCK, 0, queue, *w));
    return launched(what, err);
}

extern "C" int ds__cuda_adamw(const struct ds_adamw_args *a, struct ds_stream *stream,
                              struct ds_error *err)
{
    struct sweep w = {};

    w.scaled = true;
    w.state[0] = a->m;
    w.state[1] = a->v;
    w.l2 = a->l2 ? (float)a->weight_decay : 0.0f;
    w.keep = a->l2 ? 1.0f : (float)(1.0 - a->lr * a->weight_decay);
    w.step = (float)(a->lr / a->bias1);
    w.root = (float)(1.0 / sqrt(a->bias2));
    w.behind_step = (float)(a->lr / a->behind_bias1);
    w.behind_root = (float)(1.0 / sqrt(a->behind_bias2));
    w.ages = true;
    w.eps = (float)a->eps;
    w.beta1 = (float)a->beta1;
    w.beta2 = (float)a->beta2;
    w.beta1_1 = (float)(1.0 - a->beta1);
    w.beta2_1 = (float)(1.0 - a->beta2);
    return start<adam_rule>("adamw", &w, a, stream, err);
}

extern "C" int ds__cuda_sgd(const struct ds_sgd_args *a, struct ds_stream *stream,
                            struct ds_error *err)
{
    struct sweep w = {};

    w.scaled = true;
    w.state[0] = a->m;
    w.l2 = (float)a->weight_decay;
    w.step = (float)a->lr;
    w.beta1 = (float)a->momentum;
    if (a->m == nullptr)
        return start<sgd_rule>("sgd", &w, a, stream, err);
    return a->nesterov ? start<nesterov_rule>("sgd", &w, a, stream, err)
                       : start<momentum_rule>("sgd", &w, a, stream, err);
}

extern "C" int ds__cuda_lion(const struct ds_lion_args *a, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct sweep w = {};

    w.scaled = true;
    w.state[0] = a->m;
    w.keep = (float)(1.0 - a->lr * a->weight_decay);
    w.step = (float)a->lr;
    w.beta1 = (float)a->beta1;
    w.beta2 = (float)a->beta2;
    w.beta1_1 = (float)(1.0 - a->beta1);
    w.beta2_1 = (float)(1.0 - a->beta2);
    return start<lion_rule>("lion", &w, a, stream, err);
}

extern "C" int ds__cuda_adagrad(const struct ds_adagrad_args *a, struct ds_stream *stream,
                                struct ds_error *err)
{
    struct sweep w = {};

    w.scaled = true;
    w.state[0] = a->v;
    w.l2 = (float)a->weight_decay;
    w.step = (float)a->lr;
    w.eps = (float)a->eps;
    return start<adagrad_rule>("adagrad", &w, a, stream, err);
}

extern "C" int ds__cuda_muon_moments(const struct ds_muon_moments_args *a, struct ds_stream *stream,
                                     struct ds_error *err)
{
    struct ds_sgd_args like = {};
    struct sweep w = {};

    like.n = a->n;
    like.p = a->u;
    like.grad_type = a->grad_type;
    like.grad = a->grad;
    like.grad_scale = a->grad_scale;
    like.verdict = a->verdict;
    w.scaled = true;
    w.state[0] = a->m;
    w.beta1 = (float)a->momentum;
    w.beta1_1 = (float)(1.0 - a->momentum);
    w.step = a->nesterov ? 1.0f : 0.0f; /* ahead of the average, or not */
    return start<muon_moments_rule>("muon_moments", &w, &like, stream, err);
}

extern "C" int ds__cuda_muon(const struct ds_muon_args *a, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_sgd_args like = {};
    struct sweep w = {};

    like.n = a->n;
    like.p = a->p;
    like.grad_type = DS_F32;
    like.grad = a->x;
    like.grad_scale = 1.0;
    like.verdict = a->verdict;
    like.low_type = a->low_type;
    like.p_low = a->p_low;
    w.keep = (float)(1.0 - a->lr * a->weight_decay);
    w.step = (float)a->step;
    return start<muon_rule>("muon", &w, &like, stream, err);
}
