/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts_rows.cu - rows taken to their experts and added up when they are back; SwiGLU of rows
 * that have a weight.
 *
 * All are bound by memory.  Where rows are whole words a thread has several words, wherever in
 * which rows they are, and asks for all of them before it uses one.  A row's number that is outside
 * its array stands for zeros.
 */
#include "kernels/cuda/sigmoid.cuh"
#include "kernels/cuda/words.cuh"

/* Sorted rows that there are. */
static __device__ __forceinline__ unsigned rows_here(const uint32_t *count, size_t rows)
{
    return *count < rows ? *count : (unsigned)rows;
}

template <class T>
static __global__ void __launch_bounds__(BLOCK) take_rows(struct ds_rows_take_args a)
{
    unsigned rows = rows_here(a.count, a.sorted);

    FOR_ROWS(r, rows)
    {
        size_t n = a.channels, row = a.source[r] / a.each;

        FOR_ROW_PACKS(i, n)
        {
            float v[PACK] = {};

            if (row < a.rows)
                take((const T *)a.x + row * n + i, n - i, v);
            give((T *)a.y + r * n + i, n - i, v);
        }
    }
}

enum { TAKEN_AT_ONCE = 4, SUMMED_AT_ONCE = 4 };

/* The same where all rows are words, `words` each. */
static __global__ void __launch_bounds__(BLOCK, 6)
    take_words(struct ds_rows_take_args a, unsigned words)
{
    unsigned rows = (unsigned)a.rows, each = (unsigned)a.each;
    unsigned all = rows_here(a.count, a.sorted) * words;
    unsigned first = blockIdx.x * BLOCK * TAKEN_AT_ONCE + threadIdx.x;
    uint4 v[TAKEN_AT_ONCE];

    DS_UNROLL
    for (int k = 0; k < TAKEN_AT_ONCE; k++) {
        unsigned i = first + k * BLOCK, row = i < all ? a.source[i / words] / each : rows;

        v[k] = fixed_word_at(a.x, (size_t)row * words + i % words, row < rows);
    }
    DS_UNROLL
    for (int k = 0; k < TAKEN_AT_ONCE; k++) {
        if (first + k * BLOCK < all)
            static_cast<uint4 *>(a.y)[first + k * BLOCK] = v[k];
    }
}

static __device__ __forceinline__ unsigned summands_of(const struct ds_rows_sum_args &a)
{
    return (unsigned)(a.place != nullptr ? a.sorted : a.rows * a.each);
}

/* The k-th summand of row r as a row of x: outside of it where there is none. */
static __device__ __forceinline__ unsigned summand_of(const struct ds_rows_sum_args &a, unsigned r,
                                                      unsigned k)
{
    return a.place != nullptr ? a.place[r * (unsigned)a.each + k] : k * (unsigned)a.rows + r;
}

/* residual may be y: a thread has read its pack before it writes it. */
template <class T>
static __global__ void __launch_bounds__(BLOCK) sum_rows(struct ds_rows_sum_args a)
{
    FOR_ROWS(r, a.rows)
    {
        size_t n = a.channels;

        FOR_ROW_PACKS(i, n)
        {
            float sum[PACK] = {}, v[PACK];

            if (a.residual != nullptr)
                take((const T *)a.residual + r * n + i, n - i, sum);
            for (unsigned k = 0; k < a.each; k++) {
                size_t at = summand_of(a, (unsigned)r, k);

                if (at >= summands_of(a))
                    continue;
                take((const T *)a.x + at * n + i, n - i, v);
                for (int j = 0; j < PACK; j++)
                    sum[j] += v[j];
            }
            give((T *)a.y + r * n + i, n - i, sum);
        }
    }
}

/* The same where all rows are words, one of y a thread. */
template <class T>
static __global__ void __launch_bounds__(BLOCK, 6)
    sum_words(struct ds_rows_sum_args a, unsigned words)
{
    unsigned i = blockIdx.x * BLOCK + threadIdx.x, each = (unsigned)a.each;
    unsigned all = summands_of(a), at = i % words;
    float sum[EACH<T>], x[EACH<T>];

    if (i / words >= a.rows)
        return;
    widen_word<T>(word_at(a.residual, i, a.residual != nullptr), sum);
    for (unsigned done = 0; done < each; done += SUMMED_AT_ONCE) {
        unsigned row[SUMMED_AT_ONCE];
        uint4 v[SUMMED_AT_ONCE];

        DS_UNROLL
        for (unsigned k = 0; k < SUMMED_AT_ONCE; k++)
            row[k] = done + k < each ? summand_of(a, i / words, done + k) : all;
        DS_UNROLL
        for (int k = 0; k < SUMMED_AT_ONCE; k++)
            v[k] = fixed_word_at(a.x, (size_t)row[k] * words + at, row[k] < all);
        DS_UNROLL
        for (int k = 0; k < SUMMED_AT_ONCE; k++) {
            widen_word<T>(v[k], x);
            for (int j = 0; j < EACH<T>; j++)
                sum[j] += x[j];
        }
    }
    static_cast<uint4 *>(a.y)[i] = narrow_word<T>(sum);
}

/* Rows [F gates | F ups]. */
template <class T>
static __global__ void __launch_bounds__(BLOCK) swiglu_fwd(struct ds_swiglu_rows_fwd_args a)
{
    unsigned rows = rows_here(a.count, a.rows);

    FOR_ROWS(r, rows)
    {
        const T *x = (const T *)a.x + r * 2 * a.ffn;
        unsigned pair = a.source[r];
        float weight = pair < a.pairs ? a.weight[pair] : 0.0f;

        FOR_ROW_PACKS(i, a.ffn)
        {
            float gate[PACK], up[PACK];

            take(x + i, a.ffn - i, gate);
            take(x + a.ffn + i, a.ffn - i, up);
            for (int j = 0; j < PACK; j++)
                up[j] *= weight * (gate[j] * sigmoid(gate[j]));
            give((T *)a.y + r * a.ffn + i, a.ffn - i, up);
        }
    }
}

/* dx may be x: a thread has read its packs before it writes them. */
template <class T>
static __global__ void __launch_bounds__(BLOCK) swiglu_bwd(struct ds_swiglu_rows_bwd_args a)
{
    __shared__ float places[BLOCK / WARP];
    unsigned rows = rows_here(a.count, a.rows);

    FOR_ROWS(r, rows)
    {
        const T *x = (const T *)a.x + r * 2 * a.ffn, *dy = (const T *)a.dy + r * a.ffn;
        T *dx = (T *)a.dx + r * 2 * a.ffn;
        unsigned pair = a.source[r];
        float weight = pair < a.pairs ? a.weight[pair] : 0.0f, sum = 0.0f;

        FOR_ROW_PACKS(i, a.ffn)
        {
            float gate[PACK], up[PACK], d[PACK];

            take(x + i, a.ffn - i, gate);
            take(x + a.ffn + i, a.ffn - i, up);
            take(dy + i, a.ffn - i, d);
            for (int j = 0; j < PACK; j++) {
                struct silu s = silu_of(gate[j]);

                sum += d[j] * s.value * up[j];
                gate[j] = weight * d[j] * up[j] * s.slope;
                up[j] = weight * d[j] * s.value;
            }
            give(dx + i, a.ffn - i, gate);
            give(dx + a.ffn + i, a.ffn - i, up);
        }
        sum = block_sum(sum, places);
        if (threadIdx.x == 0 && pair < a.pairs)
            a.dweight[pair] = sum;
    }
}

/* Words of a row; 0 where rows are not whole words, or are too many for numbers of 32 bits. */
static unsigned words_of(enum ds_dtype act, size_t rows, size_t channels)
{
    size_t words = bytes_of(act, channels) / 16;

    return whole_words(act, channels) && rows * words <= INT32_MAX ? (unsigned)words : 0;
}

static unsigned blocks_of(size_t words, unsigned each)
{
    return (unsigned)((words + BLOCK * each - 1) / (BLOCK * each));
}

extern "C" int ds__cuda_rows_take(const struct ds_rows_take_args *a, struct ds_stream *stream,
                                  struct ds_error *err)
{
    unsigned words = aligned(a->x) && aligned(a->y) ? words_of(a->act, a->sorted, a->channels) : 0;

    if (words > 0)
        DS_LAUNCH(take_words, blocks_of(a->sorted * words, TAKEN_AT_ONCE), BLOCK, 0,
                  stream_of(stream), *a, words);
    else
        DS_TYPED(a->act, T,
                 DS_LAUNCH(take_rows<T>, row_grid(a->sorted), BLOCK, 0, stream_of(stream), *a));
    return launched("rows_take", err);
}

extern "C" int ds__cuda_rows_sum(const struct ds_rows_sum_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned words = aligned(a->x) && aligned(a->residual) && aligned(a->y)
                         ? words_of(a->act, a->rows, a->channels)
                         : 0;

    if (words > 0)
        DS_TYPED(a->act, T,
                 DS_LAUNCH(sum_words<T>, blocks_of(a->rows * words, 1), BLOCK, 0, stream_of(stream),
                           *a, words));
    else
        DS_TYPED(a->act, T,
                 DS_LAUNCH(sum_rows<T>, row_grid(a->rows), BLOCK, 0, stream_of(stream), *a));
    return launched("rows_sum", err);
}

extern "C" int ds__cuda_swiglu_rows_fwd(const struct ds_swiglu_rows_fwd_args *a,
                                        struct ds_stream *stream, struct ds_error *err)
{
    DS_TYPED(a->act, T,
             DS_LAUNCH(swiglu_fwd<T>, row_grid(a->rows), BLOCK, 0, stream_of(stream), *a));
    return launched("swiglu_rows_fwd", err);
}

extern "C" int ds__cuda_swiglu_rows_bwd(const struct ds_swiglu_rows_bwd_args *a,
                                        struct ds_stream *stream, struct ds_error *err)
{
    DS_TYPED(a->act, T,
             DS_LAUNCH(swiglu_bwd<T>, row_grid(a->rows), BLOCK, 0, stream_of(stream), *a));
    return launched("swiglu_rows_bwd", err);
}
