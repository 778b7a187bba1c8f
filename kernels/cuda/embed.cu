/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * embed.cu - embeddings, and the gradient of a bias.  Not yet run on a GPU.
 *
 * Backward: the block of a token whose id came before does nothing; the first token of an id adds
 * up all of that id, in order, so the bits are fixed without a sort.  A block reads ids until it
 * finds an earlier one: with N tokens at most N^2 / 2 reads in all, of memory that caches hold.
 */
#include "kernels/cuda/columns.cuh"

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
    const float none[PACK] = {};

    FOR_PACKS(i, n)
    {
        give(x + i, n - i, none);
    }
}

static __device__ __forceinline__ size_t id_at(const struct ds_embed_bwd_args &a, size_t token)
{
    return row_of(a.ids[token / a.seq * a.ids_ld + token % a.seq], a.vocab);
}

/* All threads of a block look for the same id, then take a pack of columns each. */
template <class T>
static __global__ void __launch_bounds__(BLOCK) add_tokens(struct ds_embed_bwd_args a)
{
    size_t tokens = a.batch * a.seq, n = a.channels;
    const T *dout = (const T *)a.dout;

    FOR_ROWS(token, tokens)
    {
        size_t id = id_at(a, token), before = 0;

        while (before < token && id_at(a, before) != id)
            before++;
        if (before < token)
            continue;
        for (size_t same = token; same < tokens; same++) {
            if (id_at(a, same) != id)
                continue;
            FOR_ROW_PACKS(i, n)
            {
                float v[PACK], d[PACK];

                take(a.dwte + id * n + i, n - i, v);
                take(dout + same * n + i, n - i, d);
                for (int j = 0; j < PACK; j++)
                    v[j] += d[j];
                give(a.dwte + id * n + i, n - i, v);
            }
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
    size_t c = (size_t)blockIdx.x * BLOCK + threadIdx.x, end = slab_begin(rows, blockIdx.y + 1);
    float sum = 0.0f;

    if (c >= n)
        return;
    for (size_t r = slab_begin(rows, blockIdx.y); r < end; r++)
        sum += widen(dy[r * n + c]);
    partial[blockIdx.y * n + c] = sum;
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
    unsigned grid = row_grid(a->batch * a->seq);
    size_t n = a->vocab * a->channels;
    cudaStream_t queue = stream_of(stream);

    if (!a->accumulate_wte)
        DS_LAUNCH(zero, flat_grid(n), BLOCK, 0, queue, n, a->dwte);
    DS_TYPED(a->act, T, DS_LAUNCH(add_tokens<T>, grid, BLOCK, 0, queue, *a));
    if (a->dwpe != nullptr)
        DS_TYPED(a->act, T,
                 DS_LAUNCH(add_positions<T>, row_grid(a->positions), BLOCK, 0, queue, *a));
    return launched("embed_bwd", err);
}

extern "C" int ds__cuda_bias_bwd(const struct ds_bias_bwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned slabs = slabs_of(a->rows), tiles = (unsigned)((a->n + BLOCK - 1) / BLOCK);
    cudaStream_t queue = stream_of(stream);
    void *scratch;
    int rc = scratch_of(stream, sizeof(float) * slabs * a->n, &scratch, err);

    if (rc != 0)
        return rc;
    DS_TYPED(a->act, T,
             DS_LAUNCH(bias_columns<T>, dim3(tiles, slabs), BLOCK, 0, queue, a->rows, a->n,
                       (const T *)a->dy, (float *)scratch));
    DS_LAUNCH(add_slabs, tiles, BLOCK, 0, queue, a->n, slabs, (const float *)scratch, a->dbias,
              a->accumulate);
    return launched("bias_bwd", err);
}
