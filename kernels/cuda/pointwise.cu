/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pointwise.cu - GELU, SwiGLU, rotary positions, affine, casts.
 *
 * A thread turns PACK elements at a time.  The tanh form of GELU is x times a sigmoid:
 * 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which keeps its relative accuracy where tanh is near -1.
 */
#include "kernels/cuda/largest.cuh"
#include "kernels/cuda/sigmoid.cuh"
#include "kernels/cuda/words.cuh"

#define GELU_A 1.5957691216f  /* 2 sqrt(2 / pi) */
#define GELU_B 0.07135481627f /* GELU_A * 0.044715 */

/* The share of a normal distribution below x, which is accurate where it is small. */
static __device__ __forceinline__ float below(float x)
{
    return 0.5f * erfcf(x * -0.707106781f);
}

template <enum ds_gelu KIND> static __device__ __forceinline__ float gelu(float x)
{
    return x * (KIND == DS_GELU_ERF ? below(x) : sigmoid(x * (GELU_A + GELU_B * x * x)));
}

template <enum ds_gelu KIND> static __device__ __forceinline__ float gelu_slope(float x)
{
    float square = x * x;

    if (KIND == DS_GELU_ERF)
        return below(x) + x * 0.398942280f * expf(-0.5f * square);
    struct sigmoids s = sigmoids_of(x * (GELU_A + GELU_B * square));

    return s.of + s.of * s.of_minus * x * (GELU_A + 3.0f * GELU_B * square);
}

template <enum ds_gelu KIND, class T>
static __global__ void __launch_bounds__(BLOCK) gelu_fwd(size_t n, const T *x, T *y)
{
    FOR_PACKS(i, n)
    {
        float v[PACK];

        take(x + i, n - i, v);
        for (int j = 0; j < PACK; j++)
            v[j] = gelu<KIND>(v[j]);
        give(y + i, n - i, v);
    }
}

template <enum ds_gelu KIND, class T>
static __global__ void __launch_bounds__(BLOCK) gelu_bwd(size_t n, const T *x, const T *dy, T *dx)
{
    FOR_PACKS(i, n)
    {
        float v[PACK], d[PACK];

        take(x + i, n - i, v);
        take(dy + i, n - i, d);
        for (int j = 0; j < PACK; j++)
            d[j] *= gelu_slope<KIND>(v[j]);
        give(dx + i, n - i, d);
    }
}

/* The largest of `most` and the `left` first elements of v, as a T has them. */
template <class T>
static __device__ __forceinline__ unsigned written(unsigned most, size_t left,
                                                   const float (&v)[PACK])
{
    for (int j = 0; j < PACK; j++) {
        T x;

        narrow(&x, v[j]);
        if ((size_t)j < left)
            most = larger(most, magnitude(widen(x)));
    }
    return most;
}

/* What a gate lets through, and its slope. */
template <enum ds_gate BY> static __device__ __forceinline__ float through(float gate)
{
    if (BY == DS_GATE_GELU)
        return gelu<DS_GELU_TANH>(gate);
    return gate * sigmoid(gate);
}

template <enum ds_gate BY> static __device__ __forceinline__ struct silu gated(float gate)
{
    if (BY == DS_GATE_GELU)
        return {through<BY>(gate), gelu_slope<DS_GELU_TANH>(gate)};
    return silu_of(gate);
}

/* Rows [F gates | F ups].  SEEN: the largest of what is written is found. */
template <enum ds_gate BY, bool SEEN, class T>
static __global__ void __launch_bounds__(BLOCK)
    swiglu_fwd(size_t rows, size_t ffn, const T *x, T *y, unsigned *largest)
{
    unsigned most = 0;

    FOR_ROWS(r, rows)
    {
        FOR_ROW_PACKS(i, ffn)
        {
            float gate[PACK], up[PACK];

            take(x + r * 2 * ffn + i, ffn - i, gate);
            take(x + r * 2 * ffn + ffn + i, ffn - i, up);
            for (int j = 0; j < PACK; j++)
                up[j] *= through<BY>(gate[j]);
            give(y + r * ffn + i, ffn - i, up);
            if (SEEN)
                most = written<T>(most, ffn - i, up);
        }
    }
    if (SEEN)
        raise_largest(largest, most);
}

/* dx may be x: a thread has read its packs before it writes them. */
template <enum ds_gate BY, bool SEEN, class T>
static __global__ void __launch_bounds__(BLOCK)
    swiglu_bwd(size_t rows, size_t ffn, const T *x, const T *dy, T *dx, unsigned *largest)
{
    unsigned most = 0;

    FOR_ROWS(r, rows)
    {
        FOR_ROW_PACKS(i, ffn)
        {
            float gate[PACK], up[PACK], d[PACK];

            take(x + r * 2 * ffn + i, ffn - i, gate);
            take(x + r * 2 * ffn + ffn + i, ffn - i, up);
            take(dy + r * ffn + i, ffn - i, d);
            for (int j = 0; j < PACK; j++) {
                struct silu s = gated<BY>(gate[j]);

                gate[j] = d[j] * up[j] * s.slope;
                up[j] = d[j] * s.value;
            }
            give(dx + r * 2 * ffn + i, ffn - i, gate);
            give(dx + r * 2 * ffn + ffn + i, ffn - i, up);
            if (SEEN)
                most = written<T>(written<T>(most, ffn - i, gate), ffn - i, up);
        }
    }
    if (SEEN)
        raise_largest(largest, most);
}

/* Cosines and sines of the `many` tokens from `token` on, a row of pairs each, in double as the CPU
 * has them; frequencies are 2^(-i step) radians a position before they are stretched. */
static __device__ __forceinline__ void find_angles(const struct ds_rope_args &a,
                                                   const struct ds_rope_ramp &ramp,
                                                   const struct ds_numbers &each, double step,
                                                   size_t token, unsigned many, float *cosine,
                                                   float *sine)
{
    const double gain = ds_rope_gain(&a.scale);
    const double half_turns = 0.31830988618379067154; /* 1 / pi */
    unsigned pairs = (unsigned)a.turned / 2;

    for (unsigned i = threadIdx.x; i < many * pairs; i += BLOCK) {
        double position = (double)(a.first + (token + i / pairs) % a.seq), s, c;
        double plain = exp2(-step * (double)(i % pairs));
        double frequency = ds_rope_scaled(&a.scale, &ramp, &each, i % pairs, plain);

        sincospi(position * (frequency * half_turns), &s, &c);
        cosine[i] = (float)(gain * c);
        sine[i] = (float)(gain * (a.inverse ? -s : s));
    }
    __syncthreads();
}

template <int N>
static __device__ __forceinline__ void turn(float (&low)[N], float (&high)[N], const float *cosine,
                                            const float *sine)
{
    for (int j = 0; j < N; j++) {
        float x = low[j] * cosine[j] - high[j] * sine[j];

        high[j] = high[j] * cosine[j] + low[j] * sine[j];
        low[j] = x;
    }
}

/* One token a block: the angles of its position first, then all its heads. */
template <class T>
static __global__ void __launch_bounds__(BLOCK)
    rope(struct ds_rope_args a, struct ds_rope_ramp ramp, struct ds_numbers each, double step, T *x)
{
    DS_DYN_SHARED(float, cosine);
    size_t pairs = a.turned / 2, packs = (pairs + PACK - 1) / PACK;
    float *sine = cosine + pairs;

    FOR_ROWS(token, a.batch * a.seq)
    {
        find_angles(a, ramp, each, step, token, 1, cosine, sine);
        for (size_t at = threadIdx.x; at < a.heads * packs; at += BLOCK) {
            size_t i = at % packs * PACK, left = pairs - i;
            T *low = x + token * a.ld + at / packs * a.head_size + i, *high = low + pairs;
            float x0[PACK], x1[PACK], c[PACK], s[PACK];

            take(low, left, x0);
            take(high, left, x1);
            take(cosine + i, left, c);
            take(sine + i, left, s);
            turn(x0, x1, c, s);
            give(low, left, x0);
            give(high, left, x1);
        }
        __syncthreads(); /* before the angles of the next token */
    }
}

/* Tokens of a block, whose angles are as many as it has threads or more, and pairs of words that a
 * thread turns at a time. */
enum { TURNED = 8, TURNS_AT_ONCE = 2 };

/* The same where halves of what is turned are whole words. */
template <class T>
static __global__ void __launch_bounds__(BLOCK, 5)
    rope_words(struct ds_rope_args a, struct ds_rope_ramp ramp, struct ds_numbers each, double step,
               uint4 *x)
{
    DS_DYN_SHARED(float, cosine);
    size_t token = (size_t)blockIdx.x * TURNED, left = a.batch * a.seq - token;
    unsigned many = left < TURNED ? (unsigned)left : (unsigned)TURNED;
    unsigned pairs = (unsigned)a.turned / 2, words = pairs / EACH<T>;
    unsigned row = (unsigned)a.heads * words, all = many * row;
    unsigned head = (unsigned)a.head_size / EACH<T>;
    float *sine = cosine + TURNED * pairs;

    x += token * (a.ld / EACH<T>);
    find_angles(a, ramp, each, step, token, many, cosine, sine);
    for (unsigned first = threadIdx.x; first < all; first += BLOCK * TURNS_AT_ONCE) {
        uint4 low[TURNS_AT_ONCE], high[TURNS_AT_ONCE], *place[TURNS_AT_ONCE];

        DS_UNROLL
        for (int k = 0; k < TURNS_AT_ONCE; k++) {
            unsigned i = first + k * BLOCK, at = i % row;

            place[k] = x + i / row * (a.ld / EACH<T>)+at / words * head + at % words;
            low[k] = word_at(place[k], 0, i < all);
            high[k] = word_at(place[k], words, i < all);
        }
        DS_UNROLL
        for (int k = 0; k < TURNS_AT_ONCE; k++) {
            unsigned i = first + k * BLOCK, angle = i / row * pairs + i % words * EACH<T>;
            float x0[EACH<T>], x1[EACH<T>];

            if (i >= all)
                continue;
            widen_word<T>(low[k], x0);
            widen_word<T>(high[k], x1);
            turn(x0, x1, cosine + angle, sine + angle);
            place[k][0] = narrow_word<T>(x0);
            place[k][words] = narrow_word<T>(x1);
        }
    }
}

template <class From, class To>
static __global__ void __launch_bounds__(BLOCK) cast(size_t n, const From *x, To *y)
{
    FOR_PACKS(i, n)
    {
        float v[PACK];

        take(x + i, n - i, v);
        give(y + i, n - i, v);
    }
}

/* Of the diagonal are the elements r * (cols + 1), r below rows and cols. */
static __global__ void __launch_bounds__(BLOCK)
    affine(size_t n, size_t cols, const float *x, float *y, double factor, float beta,
           const double *squares, double eps)
{
    float alpha = (float)(squares != nullptr ? factor / (sqrt(*squares) + eps) : factor);

    FOR_PACKS32(i, n)
    {
        float v[PACK32];

        take(x + i, n - i, v);
        for (int j = 0; j < PACK32; j++) {
            size_t r = (i + j) / (cols + 1);

            v[j] = alpha * v[j] + (r < cols && r * (cols + 1) == i + j ? beta : 0.0f);
        }
        give(y + i, n - i, v);
    }
}

extern "C" int ds__cuda_affine(const struct ds_affine_args *a, struct ds_stream *stream,
                               struct ds_error *err)
{
    size_t n = a->rows * a->cols;

    if (n == 0)
        return 0;
    DS_LAUNCH(affine, flat_grid(n, PACK32), BLOCK, 0, stream_of(stream), n, a->cols, a->x, a->y,
              a->alpha, (float)a->beta, a->squares, a->eps);
    return launched("affine", err);
}

/* The angles of TURNED tokens in shared memory, as much as every kernel may have. */
static bool whole_heads(const struct ds_rope_args *a)
{
    return whole_words(a->act, a->turned / 2) && whole_words(a->act, a->head_size) &&
           whole_words(a->act, a->ld) && aligned(a->x) &&
           TURNED * a->turned * sizeof(float) <= 48 << 10;
}

extern "C" int ds__cuda_rope(const struct ds_rope_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_rope_args a = *args;
    size_t width = ds_rope_width(a.turned, a.head_size), angles = width * sizeof(float);
    size_t tokens = a.batch * a.seq;
    double step = 2.0 * log2((double)a.theta) / (double)width;
    struct ds_rope_ramp ramp = ds_rope_ramp(&a.scale, (double)a.theta, width);
    struct ds_numbers each = {};
    cudaStream_t queue = stream_of(stream);

    a.turned = width;
    if (a.each != NULL)
        each = *a.each;
    a.each = NULL; /* the host's */
    if (whole_heads(&a))
        DS_TYPED(a.act, T,
                 DS_LAUNCH(rope_words<T>, (unsigned)((tokens + TURNED - 1) / TURNED), BLOCK,
                           TURNED * angles, queue, a, ramp, each, step, (uint4 *)a.x));
    else
        DS_TYPED(
            a.act, T,
            DS_LAUNCH(rope, row_grid(tokens), BLOCK, angles, queue, a, ramp, each, step, (T *)a.x));
    return launched("rope", err);
}

template <enum ds_gelu KIND>
static void launch_gelu_fwd(const struct ds_gelu_fwd_args *a, cudaStream_t queue)
{
    DS_TYPED(a->act, T,
             DS_LAUNCH((gelu_fwd<KIND, T>), flat_grid(a->n), BLOCK, 0, queue, a->n, (const T *)a->x,
                       (T *)a->y));
}

extern "C" int ds__cuda_gelu_fwd(const struct ds_gelu_fwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    if (a->n == 0)
        return 0;
    if (a->kind == DS_GELU_ERF)
        launch_gelu_fwd<DS_GELU_ERF>(a, stream_of(stream));
    else
        launch_gelu_fwd<DS_GELU_TANH>(a, stream_of(stream));
    return launched("gelu_fwd", err);
}

template <enum ds_gelu KIND>
static void launch_gelu_bwd(const struct ds_gelu_bwd_args *a, cudaStream_t queue)
{
    DS_TYPED(a->act, T,
             DS_LAUNCH((gelu_bwd<KIND, T>), flat_grid(a->n), BLOCK, 0, queue, a->n, (const T *)a->x,
                       (const T *)a->dy, (T *)a->dx));
}

extern "C" int ds__cuda_gelu_bwd(const struct ds_gelu_bwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    if (a->n == 0)
        return 0;
    if (a->kind == DS_GELU_ERF)
        launch_gelu_bwd<DS_GELU_ERF>(a, stream_of(stream));
    else
        launch_gelu_bwd<DS_GELU_TANH>(a, stream_of(stream));
    return launched("gelu_bwd", err);
}

template <enum ds_gate BY>
static void launch_swiglu_fwd(const struct ds_swiglu_fwd_args *a, cudaStream_t queue)
{
    unsigned grid = row_grid(a->rows);

    if (a->largest == nullptr) {
        DS_TYPED(a->act, T,
                 DS_LAUNCH((swiglu_fwd<BY, false, T>), grid, BLOCK, 0, queue, a->rows, a->ffn,
                           (const T *)a->x, (T *)a->y, nullptr));
        return;
    }
    DS_LAUNCH(lower_largest, 1, 1, 0, queue, a->largest);
    DS_TYPED(a->act, T,
             DS_LAUNCH((swiglu_fwd<BY, true, T>), grid, BLOCK, 0, queue, a->rows, a->ffn,
                       (const T *)a->x, (T *)a->y, a->largest));
}

extern "C" int ds__cuda_swiglu_fwd(const struct ds_swiglu_fwd_args *a, struct ds_stream *stream,
                                   struct ds_error *err)
{
    if (a->gate == DS_GATE_GELU)
        launch_swiglu_fwd<DS_GATE_GELU>(a, stream_of(stream));
    else
        launch_swiglu_fwd<DS_GATE_SILU>(a, stream_of(stream));
    return launched("swiglu_fwd", err);
}

template <enum ds_gate BY>
static void launch_swiglu_bwd(const struct ds_swiglu_bwd_args *a, cudaStream_t queue)
{
    unsigned grid = row_grid(a->rows);

    if (a->largest == nullptr) {
        DS_TYPED(a->act, T,
                 DS_LAUNCH((swiglu_bwd<BY, false, T>), grid, BLOCK, 0, queue, a->rows, a->ffn,
                           (const T *)a->x, (const T *)a->dy, (T *)a->dx, nullptr));
        return;
    }
    DS_LAUNCH(lower_largest, 1, 1, 0, queue, a->largest);
    DS_TYPED(a->act, T,
             DS_LAUNCH((swiglu_bwd<BY, true, T>), grid, BLOCK, 0, queue, a->rows, a->ffn,
                       (const T *)a->x, (const T *)a->dy, (T *)a->dx, a->largest));
}

extern "C" int ds__cuda_swiglu_bwd(const struct ds_swiglu_bwd_args *a, struct ds_stream *stream,
                                   struct ds_error *err)
{
    if (a->gate == DS_GATE_GELU)
        launch_swiglu_bwd<DS_GATE_GELU>(a, stream_of(stream));
    else
        launch_swiglu_bwd<DS_GATE_SILU>(a, stream_of(stream));
    return launched("swiglu_bwd", err);
}

extern "C" int ds__cuda_cast(const struct ds_cast_args *a, struct ds_stream *stream,
                             struct ds_error *err)
{
    if (a->n == 0)
        return 0;
    DS_TYPED(a->from, From,
             DS_TYPED(a->to, To,
                      DS_LAUNCH(cast, flat_grid(a->n), BLOCK, 0, stream_of(stream), a->n,
                                (const From *)a->x, (To *)a->y)));
    return launched("cast", err);
}
