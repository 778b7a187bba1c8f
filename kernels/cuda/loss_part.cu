/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loss_part.cu - softmax cross-entropy over columns that ranks share.
 *
 * A block has a row, in either operation.  The first reads the columns once and says of them what
 * all ranks have to know; the second reads them once more, for their gradients.  A logit is read by
 * the thread that writes its gradient, so they may lie in the same memory.
 *
 * Rows are read by words, of which each thread has several under way.  What is behind the columns
 * in a word is not looked at.
 */
#include "kernels/cuda/loss.cuh"
#include "kernels/cuda/words.cuh"

enum { AT_ONCE = 4 };

/* Words of a row of n elements, AT_ONCE of this thread at a time, from element `first` on. */
#define FOR_WORDS(T, first, n)                                                                     \
    for (size_t first = threadIdx.x * EACH<T>; first < (n); first += AT_ONCE * THREADS * EACH<T>)

/* Where word k of those begins. */
template <class T> static __device__ __forceinline__ size_t word_begin(size_t first, int k)
{
    return first + (size_t)k * THREADS * EACH<T>;
}

/* How many of the n elements are in the word that begins at i. */
template <class T> static __device__ __forceinline__ unsigned part_of_word(size_t n, size_t i)
{
    return i >= n ? 0 : n - i < EACH<T> ? (unsigned)(n - i) : (unsigned)EACH<T>;
}

template <class T, bool WHOLE>
static __device__ __forceinline__ void load_words(const T *x, size_t n, size_t first,
                                                  uint4 (&w)[AT_ONCE])
{
    DS_UNROLL
    for (int k = 0; k < AT_ONCE; k++) {
        size_t i = word_begin<T>(first, k);

        w[k] = load_word<WHOLE>(x + i, part_of_word<T>(n, i));
    }
}

/* A word's numbers; -INFINITY where there are none. */
template <class T>
static __device__ __forceinline__ void numbers(const uint4 &w, unsigned there, float (&v)[EACH<T>])
{
    widen_word<T>(w, v);
    for (int j = 0; j < EACH<T>; j++)
        v[j] = (unsigned)j < there ? v[j] : -INFINITY;
}

/* This thread's words of a row. */
template <class T, bool WHOLE>
static __device__ __forceinline__ struct soft soften(const T *x, size_t n)
{
    struct soft s = {-INFINITY, 0.0f};

    FOR_WORDS(T, first, n)
    {
        uint4 w[AT_ONCE];
        float v[EACH<T>], most = s.most, base;

        load_words<T, WHOLE>(x, n, first, w);
        DS_UNROLL
        for (int k = 0; k < AT_ONCE; k++) {
            numbers<T>(w[k], part_of_word<T>(n, word_begin<T>(first, k)), v);
            for (int j = 0; j < EACH<T>; j++)
                most = fmaxf(most, v[j]);
            forget(w[k]);
        }
        raise(&s, most);
        base = base_of(s.most);
        DS_UNROLL
        for (int k = 0; k < AT_ONCE; k++) {
            float sum[2] = {0.0f, 0.0f};

            numbers<T>(w[k], part_of_word<T>(n, word_begin<T>(first, k)), v);
            for (int j = 0; j < EACH<T>; j++)
                sum[j % 2] += power(v[j], base);
            s.sum += sum[0] + sum[1];
        }
    }
    return s;
}

template <class T, bool WHOLE>
static __global__ void __launch_bounds__(THREADS, RESIDENT)
    xent_part(struct ds_xent_part_args a, const T *logits)
{
    __shared__ struct soft places[2][WARPS];
    unsigned turn = 0;

    FOR_ROWS(r, a.rows)
    {
        const T *x = logits + r * a.ld;
        size_t at = (size_t)a.targets[r] - a.first_id; /* far above `vocab` in front of the first */
        struct soft s = block_soft(soften<T, WHOLE>(x, a.vocab), places[turn]);

        if (threadIdx.x == 0)
            a.out[r] = {s.most, s.sum, at < a.vocab ? widen(x[at]) : NAN};
        turn ^= 1;
    }
}

/* All ranks' columns of row r, added in the order of ranks by every thread of every rank. */
static __device__ __forceinline__ struct soft whole_row(const struct ds_xent_args &a, size_t r)
{
    struct soft s = {-INFINITY, 0.0f};

    for (size_t rank = 0; rank < a.ranks; rank++)
        s.most = fmaxf(s.most, a.parts[rank * a.rows + r].most);
    for (size_t rank = 0; rank < a.ranks; rank++) {
        struct ds_xent_row part = a.parts[rank * a.rows + r];

        s.sum += part.sum * power(part.most, s.most);
    }
    return s;
}

/* The target's logit, from the rank that has it. */
static __device__ __forceinline__ float wanted_of(const struct ds_xent_args &a, size_t r)
{
    size_t rank = (size_t)a.targets[r] / a.each; /* far above `ranks` of a negative target */

    return rank < a.ranks ? a.parts[rank * a.rows + r].wanted : NAN;
}

/* What gradients of a row are made of: exp(logit - most) * by, and that of the target's logit. */
struct slope {
    float most, by, wanted;
};

/* Gradients of a word, of which `there` are columns of the whole and `target` may be one. */
template <class T>
static __device__ __forceinline__ void gradients(const struct slope &s, const uint4 &w,
                                                 unsigned there, size_t target, float (&v)[EACH<T>])
{
    widen_word<T>(w, v);
    for (int j = 0; j < EACH<T>; j++) {
        v[j] = (unsigned)j < there ? power(v[j], s.most) * s.by : 0.0f;
        v[j] = (size_t)j == target ? s.wanted : v[j];
    }
}

/* `target` is among the vocab columns or behind all. */
template <class T, class D, bool WHOLE>
static __device__ __forceinline__ void write_row(const struct ds_xent_args &a,
                                                 const struct slope &s, const T *x, D *d,
                                                 size_t target)
{
    FOR_WORDS(T, first, a.columns)
    {
        uint4 w[AT_ONCE];

        load_words<T, WHOLE>(x, a.vocab, first, w);
        DS_UNROLL
        for (int k = 0; k < AT_ONCE; k++) {
            size_t i = word_begin<T>(first, k);
            float v[EACH<T>];

            gradients<T>(s, w[k], part_of_word<T>(a.vocab, i), target - i, v);
            give(d + i, part_of_word<T>(a.columns, i), v);
        }
    }
}

template <class T, class D, bool WHOLE>
static __device__ __forceinline__ void row_of_parts(const struct ds_xent_args &a, size_t r,
                                                    const T *x, D *d)
{
    struct soft s = whole_row(a, r);
    size_t at = (size_t)a.targets[r] - a.first_id; /* far above `vocab` in front of the first */
    float wanted = wanted_of(a, r);
    struct slope slope = {s.most, a.grad_scale / s.sum,
                          (power(wanted, s.most) / s.sum - 1.0f) * a.grad_scale};

    if (threadIdx.x == 0)
        a.losses[r] = logf(s.sum) + s.most - wanted;
    if (d != nullptr)
        write_row<T, D, WHOLE>(a, slope, x, d, at < a.vocab ? at : SIZE_MAX);
}

template <class T, class D, bool WHOLE>
static __global__ void __launch_bounds__(THREADS, RESIDENT)
    xent_of_parts(struct ds_xent_args a, const T *logits, D *dlogits)
{
    if (a.grad_scale_at != nullptr)
        a.grad_scale = *a.grad_scale_at;
    FOR_ROWS(r, a.rows)
    {
        D *d = dlogits == nullptr ? nullptr : dlogits + r * a.dld;

        if (a.targets[r] != DS_NO_TARGET) {
            row_of_parts<T, D, WHOLE>(a, r, logits + r * a.ld, d);
            continue;
        }
        if (threadIdx.x == 0)
            a.losses[r] = 0.0f;
        if (d != nullptr)
            clear_row(d, a.columns);
    }
}

/* Whether rows of logits begin at words, and so what is behind their columns can be read, too. */
template <class T> static bool begin_at_words(const void *logits, size_t ld)
{
    return aligned(logits) && ld % EACH<T> == 0;
}

template <class T, bool WHOLE>
static void launch_part(const struct ds_xent_part_args *a, cudaStream_t queue)
{
    DS_LAUNCH((xent_part<T, WHOLE>), row_grid(a->rows), THREADS, 0, queue, *a,
              (const T *)a->logits);
}

extern "C" int ds__cuda_xent_part(const struct ds_xent_part_args *a, struct ds_stream *stream,
                                  struct ds_error *err)
{
    cudaStream_t queue = stream_of(stream);

    DS_TYPED(a->logits_type, T,
             begin_at_words<T>(a->logits, a->ld) ? launch_part<T, true>(a, queue)
                                                 : launch_part<T, false>(a, queue));
    return launched("xent_part", err);
}

template <class T, class D>
static void launch_whole(const struct ds_xent_args *a, cudaStream_t queue)
{
    const T *logits = (const T *)a->logits;

    if (begin_at_words<T>(logits, a->ld))
        DS_LAUNCH((xent_of_parts<T, D, true>), row_grid(a->rows), THREADS, 0, queue, *a, logits,
                  (D *)a->dlogits);
    else
        DS_LAUNCH((xent_of_parts<T, D, false>), row_grid(a->rows), THREADS, 0, queue, *a, logits,
                  (D *)a->dlogits);
}

int ds__cuda_xent_of_parts(const struct ds_xent_args *a, struct ds_stream *stream,
                           struct ds_error *err)
{
    cudaStream_t queue = stream_of(stream);

    if (a->logits_type == DS_F32)
        DS_TYPED(a->act, D, (launch_whole<float, D>(a, queue)));
    else
        DS_TYPED(a->act, D, (launch_whole<D, D>(a, queue)));
    return launched("xent", err);
}
