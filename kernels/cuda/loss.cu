/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loss.cu - softmax cross-entropy over rows of logits.
 *
 * A logit is read by the thread that writes its gradient, so they may lie in the same memory.
 *
 * Rows of whole words of 16 bytes are read from memory once.  A block asks for all of a row's words
 * before it looks at the first one; they stay in shared memory, what does not fit there in
 * registers, until their gradients are written, and only rows longer than both are read again.
 * Every word has one thread for all that, so a place in shared memory is asked to take its word of
 * the block's next row as soon as its gradients are on their way: loads and stores overlap, and a
 * row costs one barrier.  There are as many blocks as are resident at a time.
 *
 * Other rows are read twice, in pieces as their addresses allow.  A row without a target is read
 * as any other, and nothing comes of it.  Where ranks share the columns it is the work of
 * loss_part.cu.
 */
#include "kernels/cuda/loss.cuh"
#include "kernels/cuda/ptx.cuh"

/* Rows come in groups of words, of which the first are worked on while the last are on their way.
 * KEPT words a thread are held in registers. */
enum { GROUPS = 4, KEPT = 3 };

static __device__ __forceinline__ bool is_token(const struct ds_xent_args &a, int32_t target)
{
    return target >= 0 && (size_t)target < a.vocab;
}

/* --- rows of words ---------------------------------------------------------------------------- */

/* How many whole words a row has, how many of them, the first ones, are in shared memory, and how
 * many of those are a group. */
struct words {
    unsigned all, shared, group;
};

template <class T> struct word_traits {
    enum { EACH = sizeof(uint4) / sizeof(T) }; /* elements */
};

template <class T, int N>
static __device__ __forceinline__ void unpack(const uint4 &word, float (&v)[N])
{
    static_assert(sizeof(T) * N == sizeof(word), "a word");
    const unsigned quarter[4] = {word.x, word.y, word.z, word.w};

    for (int i = 0; i < 4; i++) {
        T x[N / 4];

        memcpy(x, &quarter[i], sizeof(x));
        for (int j = 0; j < N / 4; j++)
            v[i * (N / 4) + j] = widen(x[j]);
    }
}

template <class T> static __device__ __forceinline__ float largest(const uint4 &word, float most)
{
    float v[word_traits<T>::EACH];

    unpack<T>(word, v);
    for (int i = 0; i < word_traits<T>::EACH; i++)
        most = fmaxf(most, v[i]);
    return most;
}

template <class T> static __device__ __forceinline__ float powers(const uint4 &word, float base)
{
    constexpr int N = word_traits<T>::EACH;
    float v[N], sum[2] = {0.0f, 0.0f};

    unpack<T>(word, v);
    for (int i = 0; i < N; i++)
        sum[i % 2] += power(v[i], base);
    return sum[0] + sum[1];
}

/* The gradients of a word's elements but for the target's, which is put right later. */
template <class T, class D>
static __device__ __forceinline__ void write_word(D *d, const uint4 &word, float base, float by)
{
    constexpr int N = word_traits<T>::EACH;
    typedef typename word_of<N * sizeof(D)>::type out;
    static_assert(sizeof(out) == N * sizeof(D), "one store");
    float v[N];
    D x[N];
    out packed;

    unpack<T>(word, v);
    for (int i = 0; i < N; i++)
        narrow(&x[i], power(v[i], base) * by);
    memcpy(&packed, x, sizeof(packed));
    *reinterpret_cast<out *>(d) = packed;
}

static __device__ __forceinline__ unsigned min_of(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* This thread's words of group `g` of a row. */
#define FOR_GROUP(i, w, g)                                                                         \
    for (unsigned i = (g) * (w).group + threadIdx.x,                                               \
                  end_##i = min_of(((g) + 1) * (w).group, (w).shared);                             \
         i < end_##i; i += THREADS)

/* Ask for the row's words that go to shared memory, group by group. */
static __device__ __forceinline__ void ask(const struct words &w, const uint4 *row, uint4 *held)
{
    for (unsigned g = 0; g < GROUPS; g++) {
        FOR_GROUP(i, w, g)
        {
            ptx_copy16(held + i, row + i, true);
        }
        ptx_commit();
    }
}

/* KEPT words from `first` on; those past the row's end are not looked at. */
static __device__ __forceinline__ void read_words(const struct words &w, const uint4 *row,
                                                  unsigned first, uint4 (&kept)[KEPT])
{
    DS_UNROLL
    for (int k = 0; k < KEPT; k++) {
        if (first + k * THREADS < w.all)
            kept[k] = row[first + k * THREADS];
    }
}

template <class T>
static __device__ __forceinline__ void soften_kept(struct soft *s, const struct words &w,
                                                   unsigned first, const uint4 (&kept)[KEPT])
{
    float most = s->most;

    DS_UNROLL
    for (int k = 0; k < KEPT; k++) {
        if (first + k * THREADS < w.all)
            most = largest<T>(kept[k], most);
    }
    raise(s, most);
    DS_UNROLL
    for (int k = 0; k < KEPT; k++) {
        if (first + k * THREADS < w.all)
            s->sum += powers<T>(kept[k], base_of(s->most));
    }
}

/* The groups in shared memory, as they come; LEFT of them come after the first. */
template <class T, int LEFT>
static __device__ __forceinline__ void soften_groups(struct soft *s, const struct words &w,
                                                     const uint4 *held)
{
    float most = s->most, base;

    ptx_wait<LEFT>();
    FOR_GROUP(i, w, GROUPS - 1 - LEFT)
    {
        most = largest<T>(ptx_read16(held + i), most);
    }
    raise(s, most);
    base = base_of(s->most);
    FOR_GROUP(i, w, GROUPS - 1 - LEFT)
    {
        s->sum += powers<T>(ptx_read16(held + i), base);
    }
    if constexpr (LEFT > 0)
        soften_groups<T, LEFT - 1>(s, w, held);
}

/* This thread's words of a row; `odd` is its element behind them, or -INFINITY. */
template <class T>
static __device__ __forceinline__ struct soft soften(const struct words &w, const uint4 *row,
                                                     const uint4 *held, float odd,
                                                     uint4 (&kept)[KEPT])
{
    struct soft s = {-INFINITY, 0.0f};
    unsigned first = w.shared + threadIdx.x;

    read_words(w, row, first, kept);
    soften_groups<T, GROUPS - 1>(&s, w, held);
    soften_kept<T>(&s, w, first, kept);
    DS_NO_UNROLL
    for (first += KEPT * THREADS; first < w.all; first += KEPT * THREADS) {
        uint4 far[KEPT];

        read_words(w, row, first, far);
        soften_kept<T>(&s, w, first, far);
    }
    raise(&s, fmaxf(s.most, odd));
    s.sum += power(odd, base_of(s.most));
    return s;
}

template <class T, class D>
static __device__ __forceinline__ void write_kept(D *d, const struct words &w, unsigned first,
                                                  const uint4 (&kept)[KEPT], float base, float by)
{
    DS_UNROLL
    for (int k = 0; k < KEPT; k++) {
        size_t i = first + k * THREADS;

        if (i < w.all)
            write_word<T>(d + i * word_traits<T>::EACH, kept[k], base, by);
    }
}

/* Gradients of this thread's words, while those of the next row, if any, take their places. */
template <class T, class D>
static __device__ __forceinline__ void write_words(D *d, const struct words &w, const uint4 *row,
                                                   const uint4 *next, uint4 *held,
                                                   const uint4 (&kept)[KEPT], float base, float by)
{
    unsigned first = w.shared + threadIdx.x;

    for (unsigned g = 0; g < GROUPS; g++) {
        FOR_GROUP(i, w, g)
        {
            write_word<T>(d + (size_t)i * word_traits<T>::EACH, ptx_read16(held + i), base, by);
            if (next != nullptr)
                ptx_copy16(held + i, next + i, true);
        }
        ptx_commit();
    }
    write_kept<T>(d, w, first, kept, base, by);
    DS_NO_UNROLL
    for (first += KEPT * THREADS; first < w.all; first += KEPT * THREADS) {
        uint4 far[KEPT];

        read_words(w, row, first, far);
        write_kept<T>(d, w, first, far, base, by);
    }
}

/* The thread that has the element at `place`. */
template <class T>
static __device__ __forceinline__ size_t owner(const struct words &w, size_t place)
{
    size_t word = place / word_traits<T>::EACH;

    if (word >= w.all)
        return place % word_traits<T>::EACH;
    return (word < w.shared ? word : word - w.shared) % THREADS;
}

/* Row r of words; `next`: the words of the one that the block comes to after it, or NULL. */
template <class T, class D>
static __device__ __forceinline__ void word_row(const struct ds_xent_args &a, const T *x, D *d,
                                                const struct words &w, size_t r, const uint4 *next,
                                                struct soft *places)
{
    DS_DYN_SHARED(uint4, held);
    const uint4 *row = reinterpret_cast<const uint4 *>(x);
    size_t whole = (size_t)w.all * word_traits<T>::EACH, own = whole + threadIdx.x;
    int32_t target = a.targets[r];
    float odd = own < a.vocab ? widen(x[own]) : -INFINITY, wanted = NAN;
    uint4 kept[KEPT];
    struct soft s = block_soft(soften<T>(w, row, held, odd, kept), places);
    float base = base_of(s.most), by = a.grad_scale / s.sum;
    bool inside = is_token(a, target);
    size_t place = inside ? (size_t)target : 0;
    bool mine = threadIdx.x == owner<T>(w, place);

    if (mine && inside)
        wanted = widen(x[place]); /* before this thread writes there */
    if (d != nullptr && target != DS_NO_TARGET) {
        write_words<T>(d, w, row, next, held, kept, base, by);
        if (own < a.vocab)
            narrow(&d[own], power(odd, base) * by);
        if (mine && inside)
            narrow(&d[place], (power(wanted, base) / s.sum - 1.0f) * a.grad_scale);
    } else {
        if (next != nullptr)
            ask(w, next, held);
        if (d != nullptr)
            clear_row(d, a.vocab);
    }
    if (mine)
        a.losses[r] = target == DS_NO_TARGET ? 0.0f : logf(s.sum) + s.most - wanted;
}

template <class T, class D>
static __global__ void __launch_bounds__(THREADS, RESIDENT)
    xent_words(struct ds_xent_args a, const T *logits, D *dlogits, struct words w)
{
    DS_DYN_SHARED(uint4, held);
    __shared__ struct soft places[2][WARPS];
    unsigned turn = 0;

    if (a.grad_scale_at != nullptr)
        a.grad_scale = *a.grad_scale_at;
    ask(w, reinterpret_cast<const uint4 *>(logits + blockIdx.x * a.ld), held);
    FOR_ROWS(r, a.rows)
    {
        const T *x = logits + r * a.ld, *next = x + gridDim.x * a.ld;

        word_row(a, x, dlogits == nullptr ? nullptr : dlogits + r * a.dld, w, r,
                 a.rows - r > gridDim.x ? reinterpret_cast<const uint4 *>(next) : nullptr,
                 places[turn]);
        turn ^= 1;
    }
}

/* --- any other rows --------------------------------------------------------------------------- */

#define FOR_BLOCK_PACKS(i, n) for (size_t i = threadIdx.x * PACK32; i < (n); i += THREADS * PACK32)

template <class T, class D>
static __device__ __forceinline__ void write_packs(const struct ds_xent_args &a, const T *x, D *d,
                                                   size_t target, struct soft s)
{
    float base = base_of(s.most), by = a.grad_scale / s.sum;

    FOR_BLOCK_PACKS(i, a.vocab)
    {
        float v[PACK32];

        take(x + i, a.vocab - i, v);
        for (int j = 0; j < PACK32; j++) {
            float e = power(v[j], base);

            v[j] = i + j == target ? (e / s.sum - 1.0f) * a.grad_scale : e * by;
        }
        give(d + i, a.vocab - i, v);
    }
}

template <class T, class D>
static __global__ void __launch_bounds__(THREADS, RESIDENT)
    xent_packs(struct ds_xent_args a, const T *logits, D *dlogits)
{
    __shared__ struct soft places[2][WARPS];
    unsigned turn = 0;

    if (a.grad_scale_at != nullptr)
        a.grad_scale = *a.grad_scale_at;
    FOR_ROWS(r, a.rows)
    {
        const T *x = logits + r * a.ld;
        bool wants = a.targets[r] != DS_NO_TARGET, inside = is_token(a, a.targets[r]);
        size_t target = inside ? (size_t)a.targets[r] : a.vocab;
        float wanted = inside ? widen(x[target]) : NAN;
        struct soft s = {-INFINITY, 0.0f};

        FOR_BLOCK_PACKS(i, a.vocab)
        {
            float v[PACK32], most = s.most;

            take(x + i, a.vocab - i, v);
            for (int j = 0; j < PACK32 && i + j < a.vocab; j++)
                most = fmaxf(most, v[j]);
            raise(&s, most);
            for (int j = 0; j < PACK32 && i + j < a.vocab; j++)
                s.sum += power(v[j], base_of(s.most));
        }
        s = block_soft(s, places[turn]); /* all have read the wanted logit by now */
        if (dlogits != nullptr && wants)
            write_packs(a, x, dlogits + r * a.dld, target, s);
        else if (dlogits != nullptr)
            clear_row(dlogits + r * a.dld, a.vocab);
        if (threadIdx.x == 0)
            a.losses[r] = wants ? logf(s.sum) + s.most - wanted : 0.0f;
        turn ^= 1;
    }
}

/* --- which of them ---------------------------------------------------------------------------- */

/* Rows begin at words, and their words are few enough to be counted. */
static bool has_words(const void *base, size_t ld, size_t bytes)
{
    return aligned(base) && ld % (sizeof(uint4) / bytes) == 0 && ld < (size_t)1 << 30;
}

/* What the device has of something; 0 when it does not say. */
static size_t of_device(enum cudaDeviceAttr attribute)
{
    int device, value;

    return cudaGetDevice(&device) == cudaSuccess &&
                   cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess && value > 0
               ? (size_t)value
               : 0;
}

template <class Kernel> static int allow(Kernel kernel, size_t bytes, struct ds_error *err)
{
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);

    if (error == cudaSuccess) /* all that there is: several blocks side by side */
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
    if (error == cudaSuccess)
        return 0;
    return ds_fail(err, EIO, "%zu bytes of shared memory for the loss were refused: %s", bytes,
                   cudaGetErrorString(error));
}

template <class T, class D>
static int launch_words(const struct ds_xent_args *a, const T *logits, struct ds_stream *stream,
                        struct ds_error *err)
{
    size_t own = sizeof(struct soft) * 2 * WARPS, set_aside = 1024; /* of a block by the system */
    size_t most = of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin), bytes;
    size_t all = a->vocab / word_traits<T>::EACH, blocks, fit;
    struct words w;

    most = most > own ? (most - own) / sizeof(uint4) : 0;
    w.all = (unsigned)all;
    w.shared = (unsigned)(all < most ? all : most);
    w.group = (w.shared + GROUPS * THREADS - 1) / (GROUPS * THREADS) * THREADS;
    bytes = w.shared * sizeof(uint4);
    fit = of_device(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (bytes + own + set_aside);
    blocks = of_device(cudaDevAttrMultiProcessorCount) * (fit < RESIDENT ? fit : (size_t)RESIDENT);
    blocks = blocks == 0 ? 1 : blocks;
    if (allow(xent_words<T, D>, bytes, err) != 0)
        return -EIO;
    DS_LAUNCH((xent_words<T, D>), row_grid(a->rows < blocks ? a->rows : blocks), THREADS, bytes,
              stream_of(stream), *a, logits, (D *)a->dlogits, w);
    return 0;
}

template <class T, class D>
static int launch(const struct ds_xent_args *a, struct ds_stream *stream, struct ds_error *err)
{
    const T *logits = (const T *)a->logits;
    bool words = has_words(logits, a->ld, sizeof(T)) &&
                 (a->dlogits == nullptr || has_words(a->dlogits, a->dld, sizeof(D)));
    int rc = 0;

    if (words)
        rc = launch_words<T, D>(a, logits, stream, err);
    else
        DS_LAUNCH((xent_packs<T, D>), row_grid(a->rows), THREADS, 0, stream_of(stream), *a, logits,
                  (D *)a->dlogits);
    return rc != 0 ? rc : launched("xent", err);
}

extern "C" int ds__cuda_xent(const struct ds_xent_args *a, struct ds_stream *stream,
                             struct ds_error *err)
{
    int rc;

    if (a->parts != nullptr)
        return ds__cuda_xent_of_parts(a, stream, err);
    if (a->logits_type == DS_F32)
        DS_TYPED(a->act, D, rc = launch<float, D>(a, stream, err));
    else
        DS_TYPED(a->act, D, rc = launch<D, D>(a, stream, err));
    return rc;
}
