/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_sm90_fwd.cu - causal attention, forward, by warpgroups.
 *
 * A block is two warpgroups with a tile of queries each, which go over the same tiles of keys and
 * values; while one is at its weights, others of the multiprocessor are at their products.
 */
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/attention_soft.cuh"

enum { GROUPS = 2, THREADS = GROUPS * GROUP };

template <class T, int D, bool CUT>
static __global__ void __launch_bounds__(THREADS, 2)
    sm90_fwd(struct attention_shape s, const T *qkv, T *out, float *lse)
{
#if defined(DS_HAS_WGMMA)
    DS_TILES_SHARED(T, q);
    T *k = q + GROUPS * TILE<D>, *v = k + 2 * TILE<D>;
    struct work work = work_of(s, s.batch * s.heads);
    unsigned b = work.head / s.heads, h = work.head % s.heads;
    unsigned block = gridDim.x / (s.batch * s.heads) - 1 - work.turn, tile = block * GROUPS;
    unsigned tiles = (s.seq + TILE_ROWS - 1) / TILE_ROWS;
    unsigned end = tile + GROUPS < tiles ? tile + GROUPS : tiles; /* of tiles of keys */
    unsigned group = ptx_uniform(threadIdx.x / GROUP), mine = tile + group,
             row = threadIdx.x % GROUP / WARP * 16;
    struct front front = front_of<CUT>(s, b, tile, mine);
    const T *queries = qkv + query_at(s, b, h);
    const T *keys = qkv + key_at(s, b, h / s.group), *values = qkv + value_at(s, b, h / s.group);
    uint64_t q_at = wgmma_tile(wgmma_address(q + group * TILE<D>));
    uint64_t k_at = wgmma_tile(wgmma_address(k)), v_at = wgmma_tile(wgmma_address(v));
    float o[D / 64][8][4] = {};
    float(&all)[1][D / 8][4] = reinterpret_cast<float(&)[1][D / 8][4]>(o);
    struct running<1> run(CUT);

    load_panels<T, D, THREADS>(q, s, queries, s.ld, tile * TILE_ROWS);
    load_panels<T, D, THREADS>(q + TILE<D>, s, queries, s.ld, (tile + 1) * TILE_ROWS);
    load_panels<T, D, THREADS>(k, s, keys, s.ld, front.block * TILE_ROWS);
    load_panels<T, D, THREADS>(v, s, values, s.ld, front.block * TILE_ROWS);
    ptx_commit();
    DS_NO_UNROLL
    for (unsigned i = front.block; i < end; i++) {
        unsigned stage = (i - front.block) % 2, at = stage * (D / 64) * WGMMA_TILE;
        float p[1][8][4];
        unsigned a[4][4];

        next_tiles();
        if (i + 1 < end) {
            load_panels<T, D, THREADS>(k + (stage ^ 1) * TILE<D>, s, keys, s.ld,
                                       (i + 1) * TILE_ROWS);
            load_panels<T, D, THREADS>(v + (stage ^ 1) * TILE<D>, s, values, s.ld,
                                       (i + 1) * TILE_ROWS);
        }
        ptx_commit();
        if (i > mine || (CUT && i < front.tile))
            continue; /* another of the block's tiles of queries sees these keys */
        wgmma_begin();
        start_scores<T, D>(p[0], q_at, k_at + at);
        finish_scores<0>(p[0]);
        hide_unseen<CUT>(p[0], s, b, front, mine, i, row);
        soften<D>(p, all, run, s.scale * DS_LOG2E);
        to_operands<T>(a, p[0]);
        wgmma_begin();
        add_rows<T, D>(o, a, v_at + at);
        wgmma_commit();
        wgmma_wait<0>();
        done_rows<D>(o);
    }
    finish<D>(all, run, lse + ((size_t)b * s.heads + h) * s.seq, mine * TILE_ROWS + row, s.seq);
    __syncthreads();
    store_panels<T, D>(q + group * TILE<D>, row, o, s, out + out_at(s, b, h), out_ld(s),
                       mine * TILE_ROWS);
#else
    __trap(); /* not for this device: attention_is_sm90() */
#endif
}

template <class T, int D, bool CUT>
static int start(const struct ds_attention_fwd_args *a, struct attention_shape s,
                 struct ds_stream *stream, struct ds_error *err)
{
    constexpr unsigned ROWS = GROUPS * TILE_ROWS;
    constexpr size_t SHARED = (GROUPS + 4) * TILE<D> * sizeof(T);
    unsigned grid = (s.seq + ROWS - 1) / ROWS * s.batch * s.heads;
    int rc = allow_shared(sm90_fwd<T, D, CUT>, SHARED, err);

    if (rc != 0)
        return rc;
    s.together = heads_by_keys(s);
    DS_LAUNCH((sm90_fwd<T, D, CUT>), grid, THREADS, SHARED, stream_of(stream), s, (const T *)a->qkv,
              (T *)a->out, a->lse);
    return launched("attention_fwd", err);
}

template <class T, bool CUT>
static int start_size(const struct ds_attention_fwd_args *a, const struct attention_shape &s,
                      struct ds_stream *stream, struct ds_error *err)
{
    return s.size <= 64 ? start<T, 64, CUT>(a, s, stream, err)
                        : start<T, 128, CUT>(a, s, stream, err);
}

template <class T>
static int start_cut(const struct ds_attention_fwd_args *a, const struct attention_shape &s,
                     struct ds_stream *stream, struct ds_error *err)
{
    return a->low != NULL ? start_size<T, true>(a, s, stream, err)
                          : start_size<T, false>(a, s, stream, err);
}

int ds__cuda_attention_sm90_fwd(const struct ds_attention_fwd_args *a,
                                const struct attention_shape &s, struct ds_stream *stream,
                                struct ds_error *err)
{
    return a->act == DS_BF16 ? start_cut<__nv_bfloat16>(a, s, stream, err)
                             : start_cut<__half>(a, s, stream, err);
}
