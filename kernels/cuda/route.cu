/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * route.cu - which experts a row is given to, and the order of the pairs of a row and an expert.
 *
 * A warp has a row, a lane every 32nd of its logits.  How many pairs of a sequence an expert has is
 * counted by slices of it, a warp by votes, and added up, so that nothing depends on a race.
 *
 * Pairs are sorted by their experts, which are one digit, as sort.cuh sorts tokens: to it they are
 * tokens, and the experts that are here the rows of a part of a table.  Where an expert's pairs
 * begin is found by halving the order.
 */
#include "kernels/cuda/sort.cuh"

enum { WARPS = BLOCK / WARP, LANE_EXPERTS = DS_MAX_EXPERTS / WARP, SLICE = DS_NEED_SLICE };
static_assert((int)DS_MAX_EXPERTS < (int)DIGITS,
              "an expert's number is one digit, and that of none");
static_assert((int)DS_MAX_EXPERTS_EACH <= (int)WARP, "a lane has a pair of the row");

/* A row's experts that a lane has: lane, lane + WARP, .. */
#define FOR_LANE_EXPERTS(k, e, experts)                                                            \
    DS_UNROLL                                                                                      \
    for (unsigned k = 0, e = threadIdx.x % WARP; k < LANE_EXPERTS; k++, e += WARP)                 \
        if (e < (experts))

static __device__ __forceinline__ size_t row_of_warp()
{
    return (size_t)blockIdx.x * WARPS + threadIdx.x / WARP;
}

/* Larger for the expert that comes first: by its logit, of which NaN are below all others and both
 * zeros the same, then by its number.  Never 0. */
static __device__ __forceinline__ uint64_t claim_of(float logit, unsigned expert)
{
    unsigned bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);

    bits = bits >> 31 ? ~bits : bits | 1u << 31;
    return (uint64_t)(isnan(logit) ? 0 : bits) << 32 | (DS_MAX_EXPERTS - expert);
}

static __device__ __forceinline__ uint64_t warp_first(uint64_t claim)
{
    for (unsigned o = WARP / 2; o > 0; o /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, claim, o);

        claim = other > claim ? other : claim;
    }
    return claim;
}

/* Lane j < each has the j-th expert of the row, and its logit; claims are used up. */
static __device__ __forceinline__ unsigned choose(const float (&logit)[LANE_EXPERTS],
                                                  unsigned experts, unsigned each, float *own)
{
    unsigned lane = threadIdx.x % WARP, chosen = 0;
    uint64_t claim[LANE_EXPERTS] = {};

    FOR_LANE_EXPERTS(k, e, experts)
    claim[k] = claim_of(logit[k], e);
    for (unsigned j = 0; j < each; j++) {
        uint64_t first = 0;
        unsigned expert;
        float of = 0.0f;

        DS_UNROLL
        for (int k = 0; k < LANE_EXPERTS; k++)
            first = claim[k] > first ? claim[k] : first;
        first = warp_first(first);
        expert = DS_MAX_EXPERTS - (unsigned)first;
        DS_UNROLL
        for (int k = 0; k < LANE_EXPERTS; k++) {
            if (claim[k] != first)
                continue;
            claim[k] = 0;
            of = logit[k];
        }
        of = __shfl_sync(0xffffffffu, of, expert % WARP);
        if (lane == j) {
            chosen = expert;
            *own = of;
        }
    }
    return chosen;
}

static __global__ void __launch_bounds__(BLOCK) choose_experts(struct ds_route_args a)
{
    size_t row = row_of_warp();
    unsigned lane = threadIdx.x % WARP, experts = (unsigned)a.experts, each = (unsigned)a.each;
    float logit[LANE_EXPERTS], most = -INFINITY, sum = 0.0f, own = -INFINITY;
    unsigned chosen;

    if (row >= a.batch * a.seq)
        return;
    DS_UNROLL
    for (int k = 0; k < LANE_EXPERTS; k++)
        logit[k] = -INFINITY;
    FOR_LANE_EXPERTS(k, e, experts)
    {
        logit[k] = a.logits[row * experts + e];
        most = fmaxf(most, logit[k]);
    }
    chosen = choose(logit, experts, each, &own);
    most = warp_max(most);
    DS_UNROLL
    for (int k = 0; k < LANE_EXPERTS; k++) {
        logit[k] = expf(logit[k] - most);
        sum += logit[k];
    }
    sum = warp_sum(sum);
    FOR_LANE_EXPERTS(k, e, experts)
    a.probs[row * experts + e] = logit[k] / sum;
    own = expf(own - __shfl_sync(0xffffffffu, own, 0));
    sum = warp_sum(lane < each ? own : 0.0f);
    if (lane < each) {
        a.chosen[row * each + lane] = chosen;
        a.weight[row * each + lane] = own / sum;
    }
}

/* How many pairs of a slice of a sequence every expert has: a block a slice.  Numbers that a float
 * has, as those of a whole sequence are. */
static __global__ void __launch_bounds__(BLOCK)
    count_pairs(struct ds_route_args a, unsigned slices, float *load)
{
    __shared__ unsigned count[WARPS][DS_MAX_EXPERTS];
    unsigned lane = threadIdx.x % WARP, *mine = count[threadIdx.x / WARP];
    unsigned pairs = (unsigned)(a.seq * a.each), experts = (unsigned)a.experts;
    unsigned begin = blockIdx.x % slices * SLICE;
    unsigned end = pairs - begin < SLICE ? pairs : begin + SLICE;
    const uint32_t *chosen = a.chosen + (size_t)(blockIdx.x / slices) * pairs;

    for (unsigned e = lane; e < experts; e += WARP)
        mine[e] = 0;
    __syncwarp();
    for (unsigned first = begin + threadIdx.x / WARP * WARP; first < end; first += BLOCK) {
        bool there = first + lane < end;
        unsigned e = there ? chosen[first + lane] : 0, same = same_digit(e, there);

        if (there && (same & ((1u << lane) - 1)) == 0)
            mine[e] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    for (unsigned e = threadIdx.x; e < experts; e += BLOCK) {
        unsigned all = 0;

        for (int w = 0; w < WARPS; w++)
            all += count[w][e];
        load[(size_t)blockIdx.x * experts + e] = (float)all;
    }
}

static __global__ void __launch_bounds__(BLOCK)
    add_slices(struct ds_route_args a, unsigned slices, const float *load)
{
    const size_t all = a.batch * a.experts, stride = (size_t)gridDim.x * BLOCK;

    for (size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x; i < all; i += stride) {
        const float *of = load + i / a.experts * slices * a.experts + i % a.experts;
        float sum = 0.0f;

        for (unsigned s = 0; s < slices; s++)
            sum += of[s * a.experts];
        a.load[i] = sum;
    }
}

/* Where in the order of the pairs those of an expert begin. */
static __device__ __forceinline__ unsigned begin_of(const struct order &order, unsigned pairs,
                                                    unsigned expert)
{
    unsigned low = 0, high = pairs;

    while (low < high) {
        unsigned at = low + (high - low) / 2;

        if (order.id[at] < expert)
            low = at + 1;
        else
            high = at;
    }
    return low;
}

static __global__ void __launch_bounds__(BLOCK)
    place_pairs(struct ds_sort_pairs_args a, struct order order, unsigned pairs)
{
    const unsigned stride = gridDim.x * BLOCK, thread = blockIdx.x * BLOCK + threadIdx.x;
    unsigned held = (unsigned)a.held, sorted = (unsigned)a.sorted;

    for (unsigned i = thread; i < pairs; i += stride) {
        bool there = order.id[i] < held && i < sorted;

        a.place[order.token[i]] = there ? i : DS_NO_ROW;
        if (there)
            a.source[i] = order.token[i];
    }
    for (unsigned e = thread; e <= held; e += stride) {
        unsigned begin = begin_of(order, pairs, e);

        a.offset[e] = begin < sorted ? begin : sorted;
    }
}

/* Of experts `e` of the row that a lane has: what balance asks of its logit. */
static __device__ __forceinline__ void balance_of(const struct ds_route_bwd_args &a, size_t row,
                                                  float (&out)[LANE_EXPERTS])
{
    unsigned experts = (unsigned)a.experts;
    const float *load = a.load + row / a.seq * experts, *probs = a.probs + row * experts;
    float all = (float)a.sequence * (float)a.each, mean = 0.0f;
    float factor =
        a.balance * (a.grad_scale_at != nullptr ? *a.grad_scale_at : a.grad_scale) * (float)experts;

    FOR_LANE_EXPERTS(k, e, experts)
    mean += load[e] / all * probs[e];
    mean = warp_sum(mean);
    FOR_LANE_EXPERTS(k, e, experts)
    out[k] = factor * probs[e] * (load[e] / all - mean);
}

template <class T>
static __global__ void __launch_bounds__(BLOCK) route_bwd(struct ds_route_bwd_args a)
{
    size_t row = row_of_warp();
    unsigned lane = threadIdx.x % WARP, experts = (unsigned)a.experts, each = (unsigned)a.each;
    unsigned chosen = 0;
    float out[LANE_EXPERTS] = {}, weight = 0.0f, d = 0.0f;

    if (row >= a.batch * a.seq)
        return;
    if (lane < each) {
        chosen = a.chosen[row * each + lane];
        weight = a.weight[row * each + lane];
        d = a.dweight[row * each + lane];
    }
    d = weight * (d - warp_sum(weight * d));
    if (a.balance != 0.0f)
        balance_of(a, row, out);
    for (unsigned j = 0; j < each; j++) {
        unsigned expert = __shfl_sync(0xffffffffu, chosen, j);
        float of = __shfl_sync(0xffffffffu, d, j);

        FOR_LANE_EXPERTS(k, e, experts)
        out[k] += e == expert ? of : 0.0f;
    }
    FOR_LANE_EXPERTS(k, e, experts)
    narrow((T *)a.dlogits + row * experts + e, out[k]);
}

static unsigned warp_grid(size_t rows)
{
    return (unsigned)((rows + WARPS - 1) / WARPS);
}

static int few_pairs(size_t rows, size_t each, struct ds_error *err)
{
    if (rows * each <= INT32_MAX)
        return 0;
    return ds_fail(err, EINVAL, "%zu rows for %zu experts each are too many", rows, each);
}

extern "C" int ds__cuda_route(const struct ds_route_args *a, struct ds_stream *stream,
                              struct ds_error *err)
{
    size_t rows = a->batch * a->seq, slices = (a->seq * a->each + SLICE - 1) / SLICE;
    cudaStream_t queue = stream_of(stream);
    void *memory = a->load;
    int rc = few_pairs(rows, a->each, err);

    if (rc == 0 && slices > 1)
        rc = scratch_of(stream, ds__need_route(rows * a->each), &memory, err);
    if (rc != 0)
        return rc;
    DS_LAUNCH(choose_experts, warp_grid(rows), BLOCK, 0, queue, *a);
    DS_LAUNCH(count_pairs, (unsigned)(a->batch * slices), BLOCK, 0, queue, *a, (unsigned)slices,
              (float *)memory);
    if (slices > 1)
        DS_LAUNCH(add_slices, flat_grid(a->batch * a->experts, 1), BLOCK, 0, queue, *a,
                  (unsigned)slices, (const float *)memory);
    return launched("route", err);
}

extern "C" int ds__cuda_sort_pairs(const struct ds_sort_pairs_args *a, struct ds_stream *stream,
                                   struct ds_error *err)
{
    size_t pairs = a->rows * a->each;
    struct ds_embed_bwd_args tokens = {};
    cudaStream_t queue = stream_of(stream);
    struct digit_counts counts;
    struct order to;
    void *memory = nullptr;
    int rc = few_pairs(a->rows, a->each, err);

    if (rc == 0)
        rc = scratch_of(stream, ds__need_sort_pairs(pairs), &memory, err);
    if (rc != 0)
        return rc;
    tokens.seq = tokens.ids_ld = pairs;
    tokens.first_id = a->first;
    tokens.vocab = a->held;
    tokens.partial = true;
    tokens.ids = (const int32_t *)a->chosen;
    counts.blocks = (unsigned)((pairs + SORTED - 1) / SORTED);
    counts.all = (unsigned *)memory;
    counts.block = counts.all + DIGITS;
    to.id = counts.block + (size_t)DIGITS * counts.blocks;
    to.token = to.id + pairs;
    sort_by_digit(&tokens, {}, to, (unsigned)pairs, 0, counts, queue);
    DS_LAUNCH(place_pairs, flat_grid(pairs, 1), BLOCK, 0, queue, *a, to, (unsigned)pairs);
    return launched("sort_pairs", err);
}

/* A warp has a sequence at a time. */
static __global__ void __launch_bounds__(BLOCK) load_peak(struct ds_load_peak_args a)
{
    __shared__ double shared[WARPS];
    double peaks = 0.0;

    for (size_t b = threadIdx.x / WARP; b < a.batch; b += WARPS) {
        const float *load = a.load + b * a.experts;
        double all = 0.0;
        float most = 0.0f;

        for (size_t e = threadIdx.x % WARP; e < a.experts; e += WARP) {
            all += (double)load[e];
            most = fmaxf(most, load[e]);
        }
        all = warp_sum(all);
        most = warp_max(most);
        if (threadIdx.x % WARP == 0)
            peaks += (double)most * (double)a.experts / all;
    }
    peaks = block_sum(peaks, shared);
    if (threadIdx.x == 0)
        *a.sum += peaks;
}

extern "C" int ds__cuda_load_peak(const struct ds_load_peak_args *a, struct ds_stream *stream,
                                  struct ds_error *err)
{
    DS_LAUNCH(load_peak, 1, BLOCK, 0, stream_of(stream), *a);
    return launched("load_peak", err);
}

extern "C" int ds__cuda_route_bwd(const struct ds_route_bwd_args *a, struct ds_stream *stream,
                                  struct ds_error *err)
{
    size_t rows = a->batch * a->seq;
    int rc = few_pairs(rows, a->each, err);

    if (rc != 0)
        return rc;
    DS_TYPED(a->act, T, DS_LAUNCH(route_bwd<T>, warp_grid(rows), BLOCK, 0, stream_of(stream), *a));
    return launched("route_bwd", err);
}
