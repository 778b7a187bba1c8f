/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ptx.cuh - the instructions of kernels/cuda/ptx.cuh in the emulation.
 *
 * Each is what the PTX ISA says that it is, lane by lane: the last lane of the warp to arrive works
 * for all.  A product sums in the order of k, which a device need not do.  An asynchronous copy
 * poisons what it will write and is done when its thread waits for it, so a missing wait shows; of
 * a row, a word or a copy that is not aligned as the instruction demands the program dies.
 *
 * Tests   tests/cudaemu/test_emulation.c
 */
#ifndef DS_TESTS_CUDAEMU_PTX_CUH
#define DS_TESTS_CUDAEMU_PTX_CUH

#define __syncwarp()                cudaemu_together(nullptr, nullptr, __FILE__, __LINE__)
#define ptx_copy16(to, from, there) cudaemu_copy((to), (from), 16, (there))
#define ptx_copy4(to, from, there)  cudaemu_copy((to), (from), 4, (there))
#define ptx_read16(from)            (*(from))
#define ptx_commit()                cudaemu_commit()
#define ptx_exp2(x)                 exp2f(x)
#define ptx_uniform(x)              (x)

/* What one lane brings to a product and to a load of matrices. */
struct cudaemu_product {
    float *c;
    const unsigned *a;
    unsigned b[2];
    bool half;
};

struct cudaemu_matrices {
    unsigned *to;
    uint16_t row[8]; /* which the lane itself has read */
    bool transposed;
};

void cudaemu_aligned(const char *what, const void *at, size_t bytes);
void cudaemu_multiply(void *const *lanes);
void cudaemu_load_matrices(void *const *lanes);
void cudaemu_copy(void *to, const void *from, unsigned bytes, bool there);
void cudaemu_commit();
void cudaemu_wait(unsigned under_way);

template <class T>
static inline void ptx_mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    constexpr bool half = std::is_same<T, __half>::value;
    struct cudaemu_product mine = {c, a, {b0, b1}, half};

    cudaemu_together(&mine, cudaemu_multiply, __FILE__, __LINE__);
}

template <class T> static inline unsigned ptx_pair(float low, float high)
{
    if (std::is_same<T, __half>::value)
        return __float2half_rn(low).bits | (unsigned)__float2half_rn(high).bits << 16;
    return __float2bfloat16_rn(low).bits | (unsigned)__float2bfloat16_rn(high).bits << 16;
}

template <bool TRANS> static inline void ptx_ldmatrix(unsigned (&to)[4], const void *row)
{
    struct cudaemu_matrices mine = {to, {}, TRANS};

    cudaemu_aligned("a row of a matrix", row, sizeof(mine.row));
    for (int i = 0; i < 8; i++)
        mine.row[i] = static_cast<const uint16_t *>(row)[i];
    cudaemu_together(&mine, cudaemu_load_matrices, __FILE__, __LINE__);
}

static inline uint4 ptx_load16(const void *from, bool there)
{
    if (!there)
        return {};
    cudaemu_aligned("a word", from, sizeof(uint4));
    return *static_cast<const uint4 *>(from);
}

static inline uint4 ptx_load16_fixed(const void *from, bool there)
{
    return ptx_load16(from, there);
}

template <int N> static inline void ptx_wait()
{
    cudaemu_wait(N);
}

#endif
