/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts_matmul.cu - products of rows with the matrices of their experts.
 *
 * C[m,n] = sum over k of A[m,k] B[n,k], by tiles, a block a tile, all of k in one order:
 *
 *             m        n    k        A                  B
 *   FWD       rows     out  in       x                  W
 *   BWD_X     rows     in   out      y                  W, down
 *   BWD_W     out      in   rows     y, down            x, down
 *
 * "Down" operands have k as the row of the matrix that they are in, the others as its column.  How
 * many rows an expert has only the device knows.  Tiles of rows are at most one of each expert more
 * than if all rows were of one, so that many are launched, and a block finds out whose it is.  Then
 * come tiles of one expert's rows, GROUP at a time with all columns, so that what the resident
 * blocks read, of the rows as of the weights, stays in the L2 cache.
 *
 * BF16 and F16: four warps, 64 x 64 each, by m16n8k16; operands come by copies that are STAGES - 1
 * steps ahead.  F32, and rows that are not whole words: a thread has 4 x 4 elements.
 *
 * Offsets that lie are cut to what is there.
 */
#include "kernels/cuda/words.cuh"

enum { GROUP = 16 };

/* A tile, as numbers of its first row and column, of the product of an expert whose rows begin at
 * `begin`. */
struct tile {
    unsigned expert, begin, rows, m, n;
    bool there;
};

static __host__ __device__ __forceinline__ unsigned tiles_of(size_t n, unsigned size)
{
    return (unsigned)((n + size - 1) / size);
}

/* Of down x across tiles the one of turn `turn`. */
static __device__ __forceinline__ void place_tile(struct tile &t, unsigned turn, unsigned down,
                                                  unsigned across, unsigned size)
{
    unsigned first = turn / (GROUP * across) * GROUP, rest = turn % (GROUP * across);
    unsigned here = down - first < GROUP ? down - first : (unsigned)GROUP;

    t.m = (first + rest % here) * size;
    t.n = rest / here * size;
}

static __device__ __forceinline__ void find_rows(const struct ds_experts_matmul_args &a,
                                                 unsigned expert, struct tile &t)
{
    unsigned all = (unsigned)a.rows, begin = a.offset[expert], end = a.offset[expert + 1];

    t.expert = expert;
    t.begin = begin < all ? begin : all;
    end = end < all ? end : all;
    t.rows = end > t.begin ? end - t.begin : 0;
}

/* The block's of products whose m are rows.  A lane looks at every 32nd expert. */
static __device__ __forceinline__ struct tile tile_of_rows(const struct ds_experts_matmul_args &a,
                                                           unsigned across, unsigned size)
{
    unsigned turn = blockIdx.x / across, lane = threadIdx.x % WARP, before = 0;
    struct tile t = {};

    for (unsigned first = 0; first < a.experts; first += WARP) {
        unsigned mine, up_to, holds;

        t.rows = 0;
        if (first + lane < a.experts)
            find_rows(a, first + lane, t);
        mine = tiles_of(t.rows, size);
        up_to = before + sum_so_far(mine);
        holds = __ballot_sync(0xffffffffu, turn >= up_to - mine && turn < up_to);
        if (holds != 0) {
            unsigned which = __popc((holds & -holds) - 1);

            before = __shfl_sync(0xffffffffu, up_to - mine, which);
            find_rows(a, first + which, t);
            place_tile(t, blockIdx.x - before * across, tiles_of(t.rows, size), across, size);
            t.there = true;
            return t;
        }
        before = __shfl_sync(0xffffffffu, up_to, WARP - 1);
    }
    return t;
}

/* The block's of products whose m and n are an expert's. */
static __device__ __forceinline__ struct tile tile_of_weights(
    const struct ds_experts_matmul_args &a, unsigned size)
{
    unsigned down = tiles_of(a.out, size), across = tiles_of(a.in, size);
    struct tile t = {};

    find_rows(a, blockIdx.x / (down * across), t);
    place_tile(t, blockIdx.x % (down * across), down, across, size);
    t.there = true;
    return t;
}

/* From the tile's first row or column on: how many there are, and how many terms a sum has. */
template <class T> struct operand {
    const T *from;
    size_t ld;
    unsigned left, k;
};

template <class T> struct work {
    struct operand<T> a, b;
    size_t c, ldc; /* where the tile begins in what is written */
};

template <int PRODUCT> constexpr bool DOWN_A = PRODUCT == DS_EXPERTS_BWD_W;
template <int PRODUCT> constexpr bool DOWN_B = PRODUCT != DS_EXPERTS_FWD;

/* The block's; false where there is none. */
template <int PRODUCT, class T>
static __device__ __forceinline__ bool find_work(const struct ds_experts_matmul_args &args,
                                                 unsigned size, struct work<T> &w)
{
    const T *x = (const T *)args.x, *y = (const T *)args.y, *weight = (const T *)args.weight;
    size_t in = args.in, out = args.out;
    unsigned m = (unsigned)out, n = (unsigned)in;
    struct tile t;

    if constexpr (PRODUCT == DS_EXPERTS_BWD_W) {
        t = tile_of_weights(args, size);
        w.a = {y + t.begin * out + t.m, out, m - t.m, t.rows};
        w.b = {x + t.begin * in + t.n, in, n - t.n, t.rows};
        w.c = (t.expert * out + t.m) * in + t.n;
        w.ldc = in;
    } else if constexpr (PRODUCT == DS_EXPERTS_BWD_X) {
        t = tile_of_rows(args, tiles_of(n, size), size);
        w.a = {y + (t.begin + t.m) * out, out, t.rows - t.m, m};
        w.b = {weight + t.expert * out * in + t.n, in, n - t.n, m};
        w.c = (t.begin + t.m) * in + t.n;
        w.ldc = in;
    } else {
        t = tile_of_rows(args, tiles_of(m, size), size);
        w.a = {x + (t.begin + t.m) * in, in, t.rows - t.m, n};
        w.b = {weight + (t.expert * out + t.n) * in, in, m - t.n, n};
        w.c = (t.begin + t.m) * out + t.n;
        w.ldc = out;
    }
    return t.there;
}

template <int PRODUCT>
static __device__ __forceinline__ bool adds(const struct ds_experts_matmul_args &args)
{
    return PRODUCT == DS_EXPERTS_BWD_W && args.accumulate;
}

/* N neighbours of a row of what is written. */
template <class C, int N>
static __device__ __forceinline__ void give_sums(C *to, size_t left, const float (&sum)[N],
                                                 bool accumulate)
{
    float all[N] = {};

    if (accumulate)
        take(to, left, all);
    for (int j = 0; j < N; j++)
        all[j] += sum[j];
    give(to, left, all);
}

/* --- by tensor cores -------------------------------------------------------------------------- */

enum { TILE = 128, DEEP = 32, STAGES = 4, THREADS = 128 };
enum {
    STAGE = 2 * TILE * DEEP /* elements */,
    QUARTER = TILE / 2,
    M16 = QUARTER / 16,
    N8 = QUARTER / 8
};

/* Where a chunk of 16 bytes of a row of a tile lies: those of eight rows are in different banks.
 * A row has DEEP elements, or if it is down TILE. */
template <bool DOWN> static __device__ __forceinline__ unsigned spot(unsigned row, unsigned chunk)
{
    return DOWN ? row * TILE + (chunk ^ (row & 7u)) * PACK
                : row * DEEP + (chunk ^ (row / 2 & 3u)) * PACK;
}

/* Terms k .. k + DEEP of an operand, zeros where it ends; asynchronous. */
template <bool DOWN, class T>
static __device__ __forceinline__ void copy_tile(T *tile, const struct operand<T> &o, unsigned k)
{
    constexpr unsigned CHUNKS = (DOWN ? TILE : DEEP) / PACK, ROWS = DOWN ? DEEP : TILE;
    unsigned chunk = threadIdx.x % CHUNKS;

    DS_UNROLL
    for (unsigned r = 0; r < ROWS; r += THREADS / CHUNKS) {
        unsigned row = r + threadIdx.x / CHUNKS, at = k + (DOWN ? row : chunk * PACK);
        unsigned across = DOWN ? chunk * PACK : row;
        const T *from = DOWN ? o.from + at * o.ld + across : o.from + across * o.ld + at;

        ptx_copy16(tile + spot<DOWN>(row, chunk), from, at < o.k && across < o.left);
    }
}

/* c += the warp's quarter of the product of two tiles. */
template <bool DOWN_A, bool DOWN_B, class T>
static __device__ __forceinline__ void multiply(float (&c)[M16][N8][4], const T *a, const T *b)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    unsigned row = warp / 2 * QUARTER, column = warp % 2 * QUARTER;

    DS_UNROLL
    for (int k = 0; k < DEEP / 16; k++) {
        unsigned x[M16][4], y[4];

        DS_UNROLL
        for (int m = 0; m < M16; m++) {
            unsigned r = row + m * 16;

            ptx_ldmatrix<DOWN_A>(
                x[m],
                a + (DOWN_A ? spot<true>(k * 16 + lane / 16 * 8 + lane % 8, r / PACK + lane / 8 % 2)
                            : spot<false>(r + lane % 16, 2 * k + lane / 16)));
        }
        DS_UNROLL
        for (int n = 0; n < N8 / 2; n++) {
            unsigned r = column + n * 16;

            ptx_ldmatrix<DOWN_B>(
                y, b + (DOWN_B ? spot<true>(k * 16 + lane % 16, r / PACK + lane / 16)
                               : spot<false>(r + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2)));
            DS_UNROLL
            for (int m = 0; m < M16; m++) {
                ptx_mma<T>(c[m][2 * n], x[m], y[0], y[1]);
                ptx_mma<T>(c[m][2 * n + 1], x[m], y[2], y[3]);
            }
        }
    }
}

template <int PRODUCT, class T, class C>
static __global__ void __launch_bounds__(THREADS, 2)
    by_tensor_cores(struct ds_experts_matmul_args args)
{
    constexpr bool DOWN_X = DOWN_A<PRODUCT>, DOWN_Y = DOWN_B<PRODUCT>;
    DS_DYN_SHARED(T, tiles);
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, steps;
    unsigned row = warp / 2 * QUARTER + lane / 4, column = warp % 2 * QUARTER + lane % 4 * 2;
    float c[M16][N8][4] = {};
    struct work<T> w;

    if (!find_work<PRODUCT>(args, TILE, w))
        return;
    steps = tiles_of(w.a.k, DEEP);
    for (unsigned ahead = 0; ahead < steps + STAGES - 1; ahead++) {
        T *to = tiles + ahead % STAGES * STAGE;

        if (ahead >= STAGES - 1) {
            ptx_wait<STAGES - 2>();
            __syncthreads(); /* and nobody reads what is overwritten now */
        }
        if (ahead < steps) {
            copy_tile<DOWN_X>(to, w.a, ahead * DEEP);
            copy_tile<DOWN_Y>(to + STAGE / 2, w.b, ahead * DEEP);
        }
        ptx_commit();
        if (ahead >= STAGES - 1) {
            const T *from = tiles + (ahead + 1) % STAGES * STAGE;

            multiply<DOWN_X, DOWN_Y>(c, from, from + STAGE / 2);
        }
    }
    DS_UNROLL
    for (int i = 0; i < 2 * M16; i++) {
        unsigned r = row + i * 8;
        C *to = (C *)args.to + w.c + r * w.ldc + column;

        for (int n = 0; n < N8 && r < w.a.left; n++) {
            float pair[2] = {c[i / 2][n][i % 2 * 2], c[i / 2][n][i % 2 * 2 + 1]};

            if (column + n * 8 < w.b.left)
                give_sums(to + n * 8, 2, pair, adds<PRODUCT>(args));
        }
    }
}

/* --- without ---------------------------------------------------------------------------------- */

enum { PLAIN_TILE = 64, PLAIN_DEEP = 16, PLAIN_ROW = PLAIN_TILE + 4, PLAIN_EACH = 4 };
static_assert(PLAIN_TILE * PLAIN_TILE == BLOCK * PLAIN_EACH * PLAIN_EACH, "a thread has so many");

/* Neighbours in memory by neighbours in a warp; rows of PLAIN_ROW for the sake of the banks. */
template <bool DOWN, class T>
static __device__ __forceinline__ void plain_tile(float (&tile)[PLAIN_DEEP][PLAIN_ROW],
                                                  const struct operand<T> &o, unsigned k)
{
    for (unsigned i = threadIdx.x; i < PLAIN_DEEP * PLAIN_TILE; i += BLOCK) {
        unsigned deep = DOWN ? i / PLAIN_TILE : i % PLAIN_DEEP;
        unsigned across = DOWN ? i % PLAIN_TILE : i / PLAIN_DEEP;
        size_t at = DOWN ? (k + deep) * o.ld + across : across * o.ld + k + deep;
        bool there = k + deep < o.k && across < o.left;

        tile[deep][across] = there ? widen(o.from[at]) : 0.0f;
    }
}

template <int PRODUCT, class T, class C>
static __global__ void __launch_bounds__(BLOCK) plain(struct ds_experts_matmul_args args)
{
    alignas(16) __shared__ float a[PLAIN_DEEP][PLAIN_ROW], b[PLAIN_DEEP][PLAIN_ROW];
    constexpr unsigned SIDE = PLAIN_TILE / PLAIN_EACH;
    unsigned row = threadIdx.x / SIDE * PLAIN_EACH, column = threadIdx.x % SIDE * PLAIN_EACH;
    float c[PLAIN_EACH][PLAIN_EACH] = {};
    struct work<T> w;

    if (!find_work<PRODUCT>(args, PLAIN_TILE, w))
        return;
    for (unsigned k = 0; k < w.a.k; k += PLAIN_DEEP) {
        plain_tile<DOWN_A<PRODUCT>>(a, w.a, k);
        plain_tile<DOWN_B<PRODUCT>>(b, w.b, k);
        __syncthreads();
        for (int deep = 0; deep < PLAIN_DEEP; deep++) {
            DS_UNROLL
            for (int i = 0; i < PLAIN_EACH * PLAIN_EACH; i++)
                c[i / PLAIN_EACH][i % PLAIN_EACH] +=
                    a[deep][row + i / PLAIN_EACH] * b[deep][column + i % PLAIN_EACH];
        }
        __syncthreads(); /* before they are overwritten */
    }
    DS_UNROLL
    for (unsigned i = 0; i < PLAIN_EACH; i++) {
        if (row + i < w.a.left && column < w.b.left)
            give_sums((C *)args.to + w.c + (row + i) * w.ldc + column, w.b.left - column, c[i],
                      adds<PRODUCT>(args));
    }
}

/* --- launching -------------------------------------------------------------------------------- */

/* Rows of the operands, and of what is written, are whole words. */
static bool fits_tensor_cores(const struct ds_experts_matmul_args *a)
{
    return a->act != DS_F32 && whole_words(a->act, a->in) && whole_words(a->act, a->out) &&
           aligned(a->x) && aligned(a->y) && aligned(a->weight) && aligned(a->to);
}

/* Blocks for tiles of that size: of rows as many as there may be. */
static size_t blocks_of(const struct ds_experts_matmul_args *a, unsigned size)
{
    size_t in = tiles_of(a->in, size), out = tiles_of(a->out, size);
    size_t rows = a->rows / size + a->experts;

    return a->product == DS_EXPERTS_BWD_W ? a->experts * in * out
                                          : rows * (a->product == DS_EXPERTS_FWD ? out : in);
}

template <int PRODUCT, class T, class C>
static int start(const struct ds_experts_matmul_args *a, struct ds_stream *stream,
                 struct ds_error *err)
{
    constexpr size_t SHARED = sizeof(T) * STAGES * STAGE;
    bool fits = fits_tensor_cores(a);
    size_t grid = blocks_of(a, fits ? (unsigned)TILE : (unsigned)PLAIN_TILE);
    int rc = 0;

    if (a->rows > INT32_MAX || a->in > INT32_MAX || a->out > INT32_MAX || grid > INT32_MAX)
        return ds_fail(err, EINVAL, "%zu rows for matrices of %zu x %zu are too many", a->rows,
                       a->out, a->in);
    if constexpr (!std::is_same<T, float>::value) {
        if (fits) {
            rc = allow_shared(by_tensor_cores<PRODUCT, T, C>, SHARED, err);
            if (rc == 0)
                DS_LAUNCH((by_tensor_cores<PRODUCT, T, C>), (unsigned)grid, THREADS, SHARED,
                          stream_of(stream), *a);
            return rc != 0 ? rc : launched("experts_matmul", err);
        }
    }
    DS_LAUNCH((plain<PRODUCT, T, C>), (unsigned)grid, BLOCK, 0, stream_of(stream), *a);
    return launched("experts_matmul", err);
}

template <class T>
static int start_product(const struct ds_experts_matmul_args *a, struct ds_stream *stream,
                         struct ds_error *err)
{
    switch (a->product) {
    case DS_EXPERTS_FWD: return start<DS_EXPERTS_FWD, T, T>(a, stream, err);
    case DS_EXPERTS_BWD_X: return start<DS_EXPERTS_BWD_X, T, T>(a, stream, err);
    case DS_EXPERTS_BWD_W: break;
    }
    return start<DS_EXPERTS_BWD_W, T, float>(a, stream, err);
}

extern "C" int ds__cuda_experts_matmul(const struct ds_experts_matmul_args *a,
                                       struct ds_stream *stream, struct ds_error *err)
{
    int rc = 0;

    DS_TYPED(a->act, T, rc = start_product<T>(a, stream, err));
    return rc;
}
