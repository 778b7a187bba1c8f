/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * embed.cu - embeddings, and the gradient of a bias.  Not yet run on a GPU.
 *
 * Backward: a first kernel notes where each id comes first and last, which does not depend on who
 * is first at an atomic.  Then the block of an id's first token adds up all of that id, in order,
 * and the others do nothing: fixed bits without a sort.  It looks through what lies between, BLOCK
 * ids at a time, and has several rows of gradients under way.
 */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/need.h"

static __device__ __forceinline__ size_t row_of(int32_t id, size_t vocab)
{
    return id >= 0 && (size_t)id < vocab ? (size_t)id : 0;
}

template <class T, class P>
static __global__ void __launch_bounds__(BLOCK) embed_fwd(struct ds_embed_fwd_args a)
{
    const P *wte = (const P *)a.wte, *wpe = (const P *)a.wpe;

    FOR_ROWS(token, a.batch * a.seq)
    {
        size_t n = a.channels, t = token % a.seq;
        size_t row = row_of(a.ids[token / a.seq * a.ids_ld + t], a.vocab);

        FOR_ROW_PACKS(i, n)
        {
            float v[PACK], p[PACK] = {};

            take(wte + row * n + i, n - i, v);
            if (wpe != nullptr)
                take(wpe + t * n + i, n - i, p);
            for (int j = 0; j < PACK; j++)
                v[j] += p[j];
            give((T *)a.out + token * n + i, n - i, v);
        }
    }
}

static __global__ void __launch_bounds__(BLOCK) zero(size_t n, float *x)
{
    const float none[PACK32] = {};

    FOR_PACKS32(i, n)
    {
        give(x + i, n - i, none);
    }
}

static __device__ __forceinline__ unsigned id_at(const struct ds_embed_bwd_args &a, unsigned token)
{
    unsigned seq = (unsigned)a.seq;

    return (unsigned)row_of(a.ids[token / seq * a.ids_ld + token % seq], a.vocab);
}

/* Where an id comes first and last; `first` of one that does not come is past all tokens. */
struct places {
    unsigned *first, *last; /* [V] */
};

static __global__ void __launch_bounds__(BLOCK) no_places(size_t vocab, struct places p)
{
    size_t id = (size_t)blockIdx.x * BLOCK + threadIdx.x;

    if (id < vocab) {
        p.first[id] = ~0u;
        p.last[id] = 0;
    }
}

static __global__ void __launch_bounds__(BLOCK)
    find_places(struct ds_embed_bwd_args a, struct places p)
{
    size_t token = (size_t)blockIdx.x * BLOCK + threadIdx.x;

    if (token < a.batch * a.seq) {
        unsigned id = id_at(a, (unsigned)token);

        atomicMin(&p.first[id], (unsigned)token);
        atomicMax(&p.last[id], (unsigned)token);
    }
}

/* Which of the BLOCK tokens from `base` to `last` have the id, in order, to `list`; how many.  All
 * threads of the block call. */
static __device__ __forceinline__ unsigned list_tokens(const struct ds_embed_bwd_args &a,
                                                       unsigned id, unsigned base, unsigned last,
                                                       unsigned *list, unsigned *masks)
{
    unsigned token = base + threadIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    bool hit = token <= last && id_at(a, token) == id;
    unsigned mask = __ballot_sync(0xffffffffu, hit), at = __popc(mask & ((1u << lane) - 1)), n = 0;

    if (lane == 0)
        masks[warp] = mask;
    __syncthreads();
    for (unsigned w = 0; w < WARPS; w++) {
        at += w < warp ? __popc(masks[w]) : 0;
        n += __popc(masks[w]);
    }
    if (hit)
        list[at] = token;
    __syncthreads();
    return n;
}

enum { UNDER_WAY = 4 };

template <class T>
static __device__ __forceinline__ void add_list(float (&sum)[PACK], const T *dout, size_t n,
                                                size_t column, const unsigned *list, unsigned all)
{
    for (unsigned i = 0; i < all; i += UNDER_WAY) {
        float d[UNDER_WAY][PACK];

        DS_UNROLL
        for (unsigned k = 0; k < UNDER_WAY; k++) {
            bool there = i + k < all;

            take(dout + (there ? list[i + k] : list[i]) * n + column, there ? n - column : 0, d[k]);
        }
        DS_UNROLL
        for (unsigned k = 0; k < UNDER_WAY; k++) {
            for (int j = 0; j < PACK && i + k < all; j++)
                sum[j] += d[k][j];
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    add_tokens(struct ds_embed_bwd_args a, struct places p)
{
    __shared__ unsigned list[BLOCK], masks[WARPS];
    size_t n = a.channels;

    FOR_ROWS(token, a.batch * a.seq)
    {
        unsigned id = id_at(a, (unsigned)token), last = p.last[id];

        if (p.first[id] != token)
            continue;
        for (size_t begin = 0; begin < n; begin += BLOCK * PACK) {
            size_t column = begin + threadIdx.x * PACK;
            float sum[PACK];

            if (column < n)
                take(a.dwte + id * n + column, n - column, sum);
            for (unsigned base = (unsigned)token; base <= last; base += BLOCK) {
                unsigned all = list_tokens(a, id, base, last, list, masks);

                if (column < n)
                    add_list(sum, (const T *)a.dout, n, column, list, all);
                __syncthreads(); /* before the list is written again */
            }
            if (column < n)
                give(a.dwte + id * n + column, n - column, sum);
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK) add_positions(struct ds_embed_bwd_args a)
{
    size_t n = a.channels;

    FOR_ROWS(t, a.positions)
    {
        FOR_ROW_PACKS(i, n)
        {
            float v[PACK] = {}, d[PACK];

            if (a.accumulate_wpe)
                take(a.dwpe + t * n + i, n - i, v);
            for (size_t b = 0; b < a.batch && t < a.seq; b++) {
                take((const T *)a.dout + (b * a.seq + t) * n + i, n - i, d);
                for (int j = 0; j < PACK; j++)
                    v[j] += d[j];
            }
            give(a.dwpe + t * n + i, n - i, v);
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    bias_columns(size_t rows, size_t n, const T *dy, float *partial)
{
    alignas(16) __shared__ float places[WARPS][TILE_COLUMNS];
    size_t c = lane_column();
    float sum[PACK] = {};

    FOR_SLAB_ROWS(r, rows)
    {
        float d[PACK];

        if (c >= n)
            break;
        take(dy + r * n + c, n - c, d);
        for (int j = 0; j < PACK; j++)
            sum[j] += d[j];
    }
    give_slab(sum, places, n, partial);
}

extern "C" int ds__cuda_embed_fwd(const struct ds_embed_fwd_args *a, struct ds_stream *stream,
                                  struct ds_error *err)
{
    unsigned grid = row_grid(a->batch * a->seq);

    DS_TYPED(
        a->act, T,
        DS_TYPED(a->param, P, DS_LAUNCH((embed_fwd<T, P>), grid, BLOCK, 0, stream_of(stream), *a)));
    return launched("embed_fwd", err);
}

extern "C" int ds__cuda_embed_bwd(const struct ds_embed_bwd_args *a, struct ds_stream *stream,
                                  struct ds_error *err)
{
    size_t n = a->vocab * a->channels, tokens = a->batch * a->seq;
    unsigned grid = row_grid(tokens), ids = (unsigned)((a->vocab + BLOCK - 1) / BLOCK);
    cudaStream_t queue = stream_of(stream);
    struct places p;
    void *scratch = nullptr;
    int rc = tokens > INT32_MAX || a->vocab > INT32_MAX
                 ? ds_fail(err, EINVAL, "%zu tokens of %zu kinds are too many", tokens, a->vocab)
                 : scratch_of(stream, ds__need_places(a->vocab), &scratch, err);

    if (rc != 0)
        return rc;
    p.first = (unsigned *)scratch;
    p.last = p.first + a->vocab;
    DS_LAUNCH(no_places, ids, BLOCK, 0, queue, a->vocab, p);
    DS_LAUNCH(find_places, (unsigned)((tokens + BLOCK - 1) / BLOCK), BLOCK, 0, queue, *a, p);
    if (!a->accumulate_wte)
        DS_LAUNCH(zero, flat_grid(n, PACK32), BLOCK, 0, queue, n, a->dwte);
    DS_TYPED(a->act, T, DS_LAUNCH(add_tokens<T>, grid, BLOCK, 0, queue, *a, p));
    if (a->dwpe != nullptr)
        DS_TYPED(a->act, T,
                 DS_LAUNCH(add_positions<T>, row_grid(a->positions), BLOCK, 0, queue, *a));
    return launched("embed_bwd", err);
}

extern "C" int ds__cuda_bias_bwd(const struct ds_bias_bwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned slabs = slabs_of(a->rows);
    cudaStream_t queue = stream_of(stream);
    void *scratch;
    int rc = scratch_of(stream, sizeof(float) * slabs * a->n, &scratch, err);

    if (rc != 0)
        return rc;
    DS_TYPED(a->act, T,
             DS_LAUNCH(bias_columns<T>, slab_grid(a->rows, a->n), BLOCK, 0, queue, a->rows, a->n,
                       (const T *)a->dy, (float *)scratch));
    DS_LAUNCH(add_slabs, add_slabs_grid(a->n), BLOCK, 0, queue, a->n, slabs, (const float *)scratch,
              a->dbias, a->accumulate);
    return launched("bias_bwd", err);
}
