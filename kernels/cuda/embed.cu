/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * embed.cu - embeddings, and the gradient of a bias.
 *
 * Backward: tokens are sorted by their ids, as sort.cuh does it, and the order is cut in pieces of
 * PIECE tokens, whatever their ids: one that comes very often is the work of many.  A warp adds up
 * a piece.  A run of one id that lies in it goes to the table; of a run that goes over its edge
 * the piece leaves a sum, and whoever has the run's first piece adds those to the table in order.
 * Tokens whose ids a part of a table lacks are last in the order, and nobody looks at their rows.
 */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/sort.cuh"
#include "kernels/cuda/words.cuh"

template <class T, class P>
static __global__ void __launch_bounds__(BLOCK) embed_fwd(struct ds_embed_fwd_args a)
{
    const P *wte = (const P *)a.wte, *wpe = (const P *)a.wpe;

    FOR_ROWS(token, a.batch * a.seq)
    {
        size_t n = a.channels, t = token % a.seq;
        int32_t id = a.ids[token / a.seq * a.ids_ld + t];
        size_t row = row_of(id, a.first_id, a.vocab, a.partial);

        FOR_ROW_PACKS(i, n)
        {
            float v[PACK] = {}, p[PACK] = {};

            if (row < a.vocab)
                take(wte + row * n + i, n - i, v);
            if (wpe != nullptr)
                take(wpe + t * n + i, n - i, p);
            for (int j = 0; j < PACK; j++)
                v[j] = v[j] * a.scale + p[j];
            give((T *)a.out + token * n + i, n - i, v);
        }
    }
}

enum { WORDS_AT_ONCE = 4 };

/* The same where all rows are whole words. */
template <class T>
static __global__ void __launch_bounds__(BLOCK, 5) embed_fwd_words(struct ds_embed_fwd_args a)
{
    unsigned words = (unsigned)a.channels / EACH<T>, seq = (unsigned)a.seq;
    unsigned all = (unsigned)(a.batch * a.seq) * words;
    unsigned first = blockIdx.x * BLOCK * WORDS_AT_ONCE + threadIdx.x;
    uint4 v[WORDS_AT_ONCE], p[WORDS_AT_ONCE];

    DS_UNROLL
    for (int k = 0; k < WORDS_AT_ONCE; k++) {
        unsigned i = first + k * BLOCK, token = i / words, at = i % words, t = token % seq;
        bool there = i < all;
        int32_t id = there ? a.ids[token / seq * a.ids_ld + t] : 0;
        size_t row = row_of(id, a.first_id, a.vocab, a.partial);

        v[k] = fixed_word_at(a.wte, row * words + at, there && row < a.vocab);
        p[k] = fixed_word_at(a.wpe, (size_t)t * words + at, there && a.wpe != nullptr);
    }
    DS_UNROLL
    for (int k = 0; k < WORDS_AT_ONCE; k++) {
        float x[EACH<T>], y[EACH<T>];

        widen_word<T>(v[k], x);
        widen_word<T>(p[k], y);
        for (int j = 0; j < EACH<T>; j++)
            x[j] = x[j] * a.scale + y[j];
        if (first + k * BLOCK < all)
            static_cast<uint4 *>(a.out)[first + k * BLOCK] = narrow_word<T>(x);
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

enum { PIECE = DS_NEED_PIECE, TOKENS_AT_ONCE = 8, SUMS_AT_ONCE = 8 };
static_assert((int)PIECE == (int)WARP, "a lane has a token of the piece");

/* Tokens by their ids, and for each piece two rows of sums: of a run that came into it, and of one
 * that begins in it and goes on behind it. */
struct sorted {
    struct order order;
    unsigned tokens;
    float *sums;
};

/* What this lane has of a run, added to a row of the table or put into one of the sums. */
template <bool WHOLE, int N>
static __device__ __forceinline__ void give_run(float *row, size_t left, bool add,
                                                const float (&sum)[N])
{
    float all[N] = {};

    if (left == 0)
        return;
    if (add)
        take(row, WHOLE ? N : left, all);
    for (int j = 0; j < N; j++)
        all[j] += sum[j];
    give(row, WHOLE ? N : left, all);
}

/* A warp a piece of a tile of columns, a word of each token a lane. */
template <class T, bool WHOLE>
static __global__ void __launch_bounds__(BLOCK, WHOLE ? 3 : 1)
    add_pieces(struct ds_embed_bwd_args a, struct sorted s, unsigned tiles)
{
    const unsigned unit = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned piece = unit / tiles, begin = piece * PIECE, mine = begin + lane;
    size_t n = a.channels, column = (size_t)(unit % tiles * WARP + lane) * EACH<T>;
    size_t left = column < n ? n - column : 0;
    unsigned id, token, ends, all;
    bool came;
    float sum[EACH<T>] = {};

    if (begin >= s.tokens)
        return;
    id = mine < s.tokens ? s.order.id[mine] : 0;
    all = __popc(__ballot_sync(0xffffffffu, mine < s.tokens && id < a.vocab));
    if (all == 0)
        return;
    token = mine < s.tokens ? s.order.token[mine] : 0;
    ends = __ballot_sync(0xffffffffu, mine + 1 >= s.tokens || s.order.id[mine + 1] != id);
    came = begin > 0 && s.order.id[begin - 1] == __shfl_sync(0xffffffffu, id, 0);
    for (unsigned first = 0; first < all; first += TOKENS_AT_ONCE) {
        uint4 w[TOKENS_AT_ONCE];

        DS_UNROLL
        for (unsigned k = 0; k < TOKENS_AT_ONCE; k++) {
            size_t row = __shfl_sync(0xffffffffu, token, first + k);

            w[k] =
                load_word<WHOLE>((const T *)a.dout + row * n + column, first + k < all ? left : 0);
        }
        DS_UNROLL
        for (unsigned k = 0; k < TOKENS_AT_ONCE; k++) {
            unsigned i = first + k, row = __shfl_sync(0xffffffffu, id, i);
            bool end = ends >> i & 1;
            float d[EACH<T>];

            widen_word<T>(w[k], d);
            for (int j = 0; j < EACH<T>; j++)
                sum[j] += d[j] * a.scale;
            if (i >= all || (!end && i != PIECE - 1))
                continue;
            if (end && !came)
                give_run<WHOLE>(a.dwte + row * n + column, left, true, sum);
            else
                give_run<WHOLE>(s.sums + (2 * piece + !came) * n + column, left, false, sum);
            came = false;
            for (int j = 0; j < EACH<T>; j++)
                sum[j] = 0.0f;
        }
    }
}

/* Runs over an edge, by the warps of their first pieces, a tile of columns each. */
template <bool WHOLE>
static __global__ void __launch_bounds__(BLOCK, 4)
    add_runs(struct ds_embed_bwd_args a, struct sorted s, unsigned tiles)
{
    const unsigned unit = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned begin = unit / tiles * PIECE, behind = begin + PIECE;
    size_t n = a.channels, column = (size_t)(unit % tiles * WARP + lane) * PACK32;
    size_t left = column < n ? n - column : 0, id;
    unsigned more = WARP;
    float *out, sum[PACK32], x[PACK32];

    if (behind >= s.tokens)
        return;
    id = s.order.id[behind];
    if (id >= a.vocab || s.order.id[behind - 1] != id || (begin > 0 && s.order.id[begin - 1] == id))
        return;
    out = a.dwte + id * n + column;
    take(out, left, sum);
    take(s.sums + (2 * (begin / PIECE) + 1) * n + column, left, x);
    for (int j = 0; j < PACK32; j++)
        sum[j] += x[j];
    for (unsigned next = behind / PIECE; more == WARP; next += WARP) {
        unsigned at = (next + lane) * PIECE;

        more = __popc(__ballot_sync(0xffffffffu, at < s.tokens && s.order.id[at] == id));
        for (unsigned first = 0; first < more; first += SUMS_AT_ONCE) {
            uint4 w[SUMS_AT_ONCE];

            DS_UNROLL
            for (unsigned k = 0; k < SUMS_AT_ONCE; k++)
                w[k] = load_word<WHOLE>(s.sums + 2 * (size_t)(next + first + k) * n + column,
                                        first + k < more ? left : 0);
            DS_UNROLL
            for (unsigned k = 0; k < SUMS_AT_ONCE; k++) {
                widen_word<float>(w[k], x);
                for (int j = 0; j < PACK32; j++)
                    sum[j] += x[j];
            }
        }
    }
    give(out, left, sum);
}

/* A word of a position a thread, over the batch. */
template <class T, bool WHOLE>
static __global__ void __launch_bounds__(BLOCK, WHOLE ? 4 : 2)
    add_positions(struct ds_embed_bwd_args a)
{
    size_t n = a.channels, words = (n + EACH<T> - 1) / EACH<T>, all = a.positions * words;

    for (size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x; i < all;
         i += (size_t)gridDim.x * BLOCK) {
        size_t t = i / words, column = i % words * EACH<T>, left = n - column;
        size_t at = t - a.first; /* far above `seq` in front of the first */
        float sum[EACH<T>] = {};

        if (a.accumulate_wpe)
            take(a.dwpe + t * n + column, left, sum);
        for (size_t first = 0; first < a.batch && at < a.seq; first += TOKENS_AT_ONCE) {
            uint4 w[TOKENS_AT_ONCE];

            DS_UNROLL
            for (int k = 0; k < TOKENS_AT_ONCE; k++)
                w[k] = load_word<WHOLE>((const T *)a.dout + ((first + k) * a.seq + at) * n + column,
                                        first + k < a.batch ? left : 0);
            DS_UNROLL
            for (int k = 0; k < TOKENS_AT_ONCE; k++) {
                float d[EACH<T>];

                widen_word<T>(w[k], d);
                for (int j = 0; j < EACH<T>; j++)
                    sum[j] += d[j];
            }
        }
        give(a.dwpe + t * n + column, left, sum);
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

static bool whole_fwd(const struct ds_embed_fwd_args *a)
{
    return a->act == a->param && whole_words(a->act, a->channels) && aligned(a->wte) &&
           aligned(a->wpe) && aligned(a->out) &&
           a->batch * a->seq * a->channels <= INT32_MAX; /* numbers of 32 bits */
}

extern "C" int ds__cuda_embed_fwd(const struct ds_embed_fwd_args *args, struct ds_stream *stream,
                                  struct ds_error *err)
{
    struct ds_embed_fwd_args a = *args;
    size_t tokens = a.batch * a.seq;
    cudaStream_t queue = stream_of(stream);

    a.scale = a.scale != 0.0f ? a.scale : 1.0f;
    if (whole_fwd(&a))
        DS_TYPED(a.act, T,
                 DS_LAUNCH(embed_fwd_words<T>,
                           flat_grid(tokens * a.channels, EACH<T> * WORDS_AT_ONCE), BLOCK, 0, queue,
                           a));
    else
        DS_TYPED(a.act, T,
                 DS_TYPED(a.param, P,
                          DS_LAUNCH((embed_fwd<T, P>), row_grid(tokens), BLOCK, 0, queue, a)));
    return launched("embed_fwd", err);
}

/* Blocks whose warps have `tiles` tiles of each piece. */
static unsigned piece_grid(size_t tokens, size_t tiles)
{
    return (unsigned)(((tokens + PIECE - 1) / PIECE * tiles + WARPS - 1) / WARPS);
}

template <class T, bool WHOLE>
static void launch_bwd(const struct ds_embed_bwd_args *a, const struct sorted &s,
                       cudaStream_t queue)
{
    unsigned tiles = (unsigned)((a->channels + WARP * EACH<T> - 1) / (WARP * EACH<T>));
    unsigned thin = (unsigned)((a->channels + WARP * PACK32 - 1) / (WARP * PACK32));
    size_t words = (a->channels + EACH<T> - 1) / EACH<T>;

    DS_LAUNCH((add_pieces<T, WHOLE>), piece_grid(s.tokens, tiles), BLOCK, 0, queue, *a, s, tiles);
    DS_LAUNCH(add_runs<WHOLE>, piece_grid(s.tokens, thin), BLOCK, 0, queue, *a, s, thin);
    if (a->dwpe != nullptr)
        DS_LAUNCH((add_positions<T, WHOLE>), flat_grid(a->positions * words, 1), BLOCK, 0, queue,
                  *a);
}

static int embed_bwd(const struct ds_embed_bwd_args *a, struct ds_stream *stream,
                     struct ds_error *err)
{
    size_t n = a->vocab * a->channels, tokens = a->batch * a->seq;
    cudaStream_t queue = stream_of(stream);
    struct order orders[2];
    struct digit_counts counts;
    struct sorted s;
    unsigned *scratch;
    void *memory = nullptr;
    int rc = tokens > INT32_MAX || a->vocab > INT32_MAX
                 ? ds_fail(err, EINVAL, "%zu tokens of %zu kinds are too many", tokens, a->vocab)
                 : scratch_of(stream, ds__need_embed(tokens, a->channels), &memory, err);

    if (rc != 0)
        return rc;
    scratch = (unsigned *)memory;
    counts.blocks = (unsigned)((tokens + SORTED - 1) / SORTED);
    counts.all = scratch;
    counts.block = counts.all + DIGITS;
    scratch = counts.block + (size_t)DIGITS * counts.blocks;
    orders[0] = {scratch, scratch + tokens};
    orders[1] = {scratch + 2 * tokens, scratch + 3 * tokens};
    s.tokens = (unsigned)tokens;
    s.sums = (float *)(scratch + 4 * tokens);
    s.order = sort_tokens(a, orders, counts, queue);
    if (!a->accumulate_wte)
        DS_LAUNCH(zero, flat_grid(n, PACK32), BLOCK, 0, queue, n, a->dwte);
    if (whole_words(a->act, a->channels) && aligned(a->dout))
        DS_TYPED(a->act, T, launch_bwd<T, true>(a, s, queue));
    else
        DS_TYPED(a->act, T, launch_bwd<T, false>(a, s, queue));
    return launched("embed_bwd", err);
}

extern "C" int ds__cuda_embed_bwd(const struct ds_embed_bwd_args *args, struct ds_stream *stream,
                                  struct ds_error *err)
{
    struct ds_embed_bwd_args a = *args;

    a.scale = a.scale != 0.0f ? a.scale : 1.0f;
    return embed_bwd(&a, stream, err);
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
    launch_add_slabs(a->n, slabs, (const float *)scratch, a->dbias, nullptr, a->accumulate, queue);
    return launched("bias_bwd", err);
}
