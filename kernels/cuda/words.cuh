/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * words.cuh - rows moved by words of 16 bytes, kept as they are in memory until they are used.
 *
 * Whether a row is whole words is asked once, where its kernel is launched, and not of each word:
 * so the loads of a thread wait for nothing, and all are under way before the first is used.  Where
 * a kernel does not say how many of its blocks are to be resident, the assembler may take them one
 * by one to save registers: such kernels do.
 */
#ifndef DS_KERNELS_CUDA_WORDS_CUH
#define DS_KERNELS_CUDA_WORDS_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

/* Elements of a word. */
template <class T> constexpr int EACH = 16 / (int)sizeof(T);

static inline size_t bytes_of(enum ds_dtype type, size_t n)
{
    return n * (type == DS_F32 ? sizeof(float) : sizeof(__half));
}

static inline bool whole_words(enum ds_dtype type, size_t n)
{
    return bytes_of(type, n) % 16 == 0;
}

/* Word i of an array of whole words; zeros where there is none. */
static __device__ __forceinline__ uint4 word_at(const void *p, size_t i, bool there)
{
    return ptx_load16(static_cast<const uint4 *>(p) + i, there);
}

/* The same of an array that nobody writes to while the kernel runs. */
static __device__ __forceinline__ uint4 fixed_word_at(const void *p, size_t i, bool there)
{
    return ptx_load16_fixed(static_cast<const uint4 *>(p) + i, there);
}

/* The word from p with `left` elements, which need not be whole words unless WHOLE. */
template <bool WHOLE, class T>
static __device__ __forceinline__ uint4 load_word(const T *p, size_t left)
{
    if constexpr (WHOLE) {
        return ptx_load16(p, left > 0);
    } else {
        T x[EACH<T>];
        uint4 w;

        for (int i = 0; i < EACH<T>; i++) {
            if ((size_t)i < left)
                x[i] = p[i];
            else
                narrow(&x[i], 0.0f);
        }
        memcpy(&w, x, sizeof(w));
        return w;
    }
}

template <class T>
static __device__ __forceinline__ void widen_word(const uint4 &w, float (&out)[EACH<T>])
{
    T x[EACH<T>];

    memcpy(x, &w, sizeof(w));
    for (int i = 0; i < EACH<T>; i++)
        out[i] = widen(x[i]);
}

template <class T> static __device__ __forceinline__ uint4 narrow_word(const float (&in)[EACH<T>])
{
    T x[EACH<T>];
    uint4 w;

    for (int i = 0; i < EACH<T>; i++)
        narrow(&x[i], in[i]);
    memcpy(&w, x, sizeof(w));
    return w;
}

/* What was made of a word before is made again from here on.  A compiler that sees it widened twice
 * would keep the elements, which take twice the registers. */
static __device__ __forceinline__ void forget(uint4 &w)
{
#if defined(__CUDACC__)
    asm volatile("" : "+r"(w.x), "+r"(w.y), "+r"(w.z), "+r"(w.w));
#else
    (void)w;
#endif
}

#endif
