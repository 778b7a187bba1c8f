/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * wgmma.cuh - the instructions of kernels/cuda/wgmma.cuh in the emulation.
 *
 * Descriptors are decoded as the PTX ISA says, from addresses of shared memory as a device has them.
 * Sums are NaN from when a product is queued until it has been waited for.
 *
 * Found here  (abort) a product without wgmma_begin() after sums were waited for; copies that a
 *             thread has waited for and not published; a tile that is written while a product that
 *             reads it is under way; a descriptor of another swizzle, or past the shared memory;
 *             warps of a warpgroup that queue other products than the rest.
 * Not seen    stores to tiles that are not published.
 * Tests       tests/cudaemu/test_emulation.c
 */
#ifndef DS_TESTS_CUDAEMU_WGMMA_CUH
#define DS_TESTS_CUDAEMU_WGMMA_CUH

#define DS_HAS_WGMMA 1

#define DS_TILES_SHARED(type, name) type *name = static_cast<type *>(cudaemu_shared())

#define wgmma_publish() (void)(cudaemu_current->unpublished = false)
#define wgmma_begin()   (void)(cudaemu_current->begun = true)
#define wgmma_commit()  (void)(cudaemu_current->product_groups++)
#define wgmma_done(c)   (void)(c)

unsigned wgmma_address(const void *shared);
void cudaemu_wgmma_multiply(void *const *lanes);
void cudaemu_wgmma_wait(unsigned under_way);

template <class T> static inline void wgmma_ss(float (&c)[8][4], uint64_t a, uint64_t b, int add)
{
    struct cudaemu_wgmma mine = {c, nullptr, a, b, std::is_same<T, __half>::value, add != 0, false};

    cudaemu_together(&mine, cudaemu_wgmma_multiply, __FILE__, __LINE__);
}

template <class T> static inline void wgmma_rs(float (&c)[8][4], const unsigned (&a)[4], uint64_t b)
{
    struct cudaemu_wgmma mine = {c, a, 0, b, std::is_same<T, __half>::value, true, true};

    cudaemu_together(&mine, cudaemu_wgmma_multiply, __FILE__, __LINE__);
}

template <int N> static inline void wgmma_wait()
{
    cudaemu_wgmma_wait(N);
}

#endif
