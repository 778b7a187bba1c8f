/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * lamb.cu - LAMB in its two passes: states and sums of squares, then the step.
 *
 * The direction u of an element is worked out in both and never stored.  Sums as in sumsq.cu: one
 * block a chunk, the chunks added up by chunks.cuh.
 *
 * Source  as kernels/cpu/lamb.c
 */
#include "kernels/cuda/chunks.cuh"

/* What of u does not depend on the element. */
struct direction {
    float mean; /* 1 / bias1 */
    float root; /* 1 / sqrt(bias2) */
    float eps, decay;
};

/* Which it is, and whether there is an update, is known when the kernel runs (verdict.h). */
struct turn {
    struct direction u, behind;
    const struct ds_verdict *verdict; /* or NULL */
};

struct moments {
    struct turn turn;
    float beta1, beta1_1, beta2, beta2_1, grad_scale;
    size_t n;
    const float *p;
    float *m, *v;
};

static struct direction direction_of(double bias1, double bias2, double eps, double decay)
{
    return {(float)(1.0 / bias1), (float)(1.0 / sqrt(bias2)), (float)eps, (float)decay};
}

template <class Args> static struct turn turn_of(const Args *a)
{
    struct turn turn = {direction_of(a->bias1, a->bias2, a->eps, a->weight_decay), {}, a->verdict};

    turn.behind = turn.u;
    if (a->verdict != nullptr)
        turn.behind = direction_of(a->behind_bias1, a->behind_bias2, a->eps, a->weight_decay);
    return turn;
}

static __device__ __forceinline__ bool skipped(const struct ds_verdict *verdict)
{
    return verdict != nullptr && verdict->skip;
}

static __device__ __forceinline__ struct direction now(const struct turn &turn)
{
    return turn.verdict != nullptr && turn.verdict->behind ? turn.behind : turn.u;
}

static __device__ __forceinline__ float toward(const struct direction &u, float p, float m, float v)
{
    return m * u.mean / (sqrtf(v) * u.root + u.eps) + u.decay * p;
}

template <class Grad>
static __global__ void __launch_bounds__(BLOCK)
    lamb_chunks(struct moments w, const Grad *grad, size_t first, double *p_sums, double *u_sums)
{
    __shared__ double places[BLOCK / WARP];
    size_t begin = (first + blockIdx.x) * DS_SUMSQ_CHUNK;
    size_t end = w.n - begin > DS_SUMSQ_CHUNK ? begin + DS_SUMSQ_CHUNK : w.n;
    const struct direction along = now(w.turn);
    double p_sum = 0.0, u_sum = 0.0;

    if (skipped(w.turn.verdict))
        return;
    if (w.turn.verdict != nullptr)
        w.grad_scale = w.turn.verdict->grad_scale;
    for (size_t i = begin + threadIdx.x * PACK32; i < end; i += BLOCK * PACK32) {
        size_t left = end - i;
        float g[PACK32], p[PACK32], m[PACK32], v[PACK32];

        take(grad + i, left, g);
        take(w.p + i, left, p);
        take(w.m + i, left, m);
        take(w.v + i, left, v);
        for (int j = 0; j < PACK32 && (size_t)j < left; j++) {
            float pull = g[j] * w.grad_scale, u;

            m[j] = w.beta1 * m[j] + w.beta1_1 * pull;
            v[j] = w.beta2 * v[j] + w.beta2_1 * (pull * pull);
            u = toward(along, p[j], m[j], v[j]);
            p_sum += (double)p[j] * (double)p[j];
            u_sum += (double)u * (double)u;
        }
        give(w.m + i, left, m);
        give(w.v + i, left, v);
    }
    p_sum = block_sum(p_sum, places);
    u_sum = block_sum(u_sum, places);
    if (threadIdx.x == 0) {
        p_sums[blockIdx.x] = p_sum;
        u_sums[blockIdx.x] = u_sum;
    }
}

static __global__ void __launch_bounds__(BLOCK)
    add_chunks(bool begin, unsigned n, const double *p_sums, const double *u_sums, double *p_sumsq,
               double *u_sumsq, const struct ds_verdict *verdict)
{
    __shared__ double places[BLOCK / WARP];
    double p = 0.0, u = 0.0;

    if (!skipped(verdict)) { /* else nothing was summed */
        p = add_chunk_sums(n, p_sums, places);
        u = add_chunk_sums(n, u_sums, places);
    }
    if (threadIdx.x == 0) {
        *p_sumsq = begin ? p : *p_sumsq + p;
        *u_sumsq = begin ? u : *u_sumsq + u;
    }
}

extern "C" int ds__cuda_lamb_moments(const struct ds_lamb_moments_args *a, struct ds_stream *stream,
                                     struct ds_error *err)
{
    size_t all = a->n / DS_SUMSQ_CHUNK + (a->n % DS_SUMSQ_CHUNK != 0), first = 0;
    cudaStream_t queue = stream_of(stream);
    struct moments w = {};
    void *scratch;
    double *p_sums, *u_sums;
    int rc = scratch_of(stream, 2 * GROUP * sizeof(double), &scratch, err);

    if (rc != 0)
        return rc;
    p_sums = (double *)scratch;
    u_sums = p_sums + GROUP;
    w.turn = turn_of(a);
    w.beta1 = (float)a->beta1;
    w.beta1_1 = (float)(1.0 - a->beta1);
    w.beta2 = (float)a->beta2;
    w.beta2_1 = (float)(1.0 - a->beta2);
    w.grad_scale = (float)a->grad_scale;
    w.n = a->n;
    w.p = a->p;
    w.m = a->m;
    w.v = a->v;
    do {
        unsigned n = (unsigned)(all - first < GROUP ? all - first : (size_t)GROUP);

        if (n > 0)
            DS_TYPED(a->grad_type, T,
                     DS_LAUNCH(lamb_chunks<T>, n, BLOCK, 0, queue, w, (const T *)a->grad, first,
                               p_sums, u_sums));
        DS_LAUNCH(add_chunks, 1, BLOCK, 0, queue, first == 0, n, (const double *)p_sums,
                  (const double *)u_sums, a->p_sumsq, a->u_sumsq, a->verdict);
        first += n;
    } while (first < all);
    return launched("lamb_moments", err);
}

template <class Low>
static __global__ void __launch_bounds__(BLOCK) lamb_step(struct turn turn, struct ds_lamb_args a)
{
    const struct direction u = now(turn);
    float step;

    if (skipped(turn.verdict))
        return;
    step = (float)(a.lr * ds_trust_ratio(*a.p_sumsq, *a.u_sumsq));
    FOR_PACKS32(i, a.n)
    {
        size_t left = a.n - i;
        float p[PACK32], m[PACK32], v[PACK32];

        take(a.p + i, left, p);
        take(a.m + i, left, m);
        take(a.v + i, left, v);
        for (int j = 0; j < PACK32; j++)
            p[j] -= step * toward(u, p[j], m[j], v[j]);
        give(a.p + i, left, p);
        if (a.p_low != nullptr)
            give((Low *)a.p_low + i, left, p);
    }
}

extern "C" int ds__cuda_lamb(const struct ds_lamb_args *a, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct turn turn = turn_of(a);

    if (a->n == 0)
        return 0;
    if (a->low_type == DS_F16)
        DS_LAUNCH(lamb_step<__half>, flat_grid(a->n, PACK32), BLOCK, 0, stream_of(stream), turn,
                  *a);
    else
        DS_LAUNCH(lamb_step<__nv_bfloat16>, flat_grid(a->n, PACK32), BLOCK, 0, stream_of(stream),
                  turn, *a);
    return launched("lamb", err);
}
