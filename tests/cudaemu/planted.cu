/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * planted.cu - kernels with a defect each, to see that the emulation notices.  See test_emulation.c.
 */
#include "kernels/cuda/attention_sm90.cuh"

extern "C" {
#include "tests/cudaemu/planted.h"
}

/* Turns 64 numbers round; past the dynamic shared memory's 64 floats and the output's n there is
 * nothing. */
static __global__ void turn(float *out, int n, int defect)
{
    __shared__ float fixed[64];
    DS_DYN_SHARED(float, grown);
    int t = (int)threadIdx.x;
    float x;

    fixed[t] = (float)t;
    if (defect != NO_BARRIER)
        __syncthreads();
    x = fixed[63 - t];
    if (defect == DIVERGENT) {
        if (t < 32)
            __syncthreads();
        else
            __syncthreads();
    }
    if (defect == DEADLOCK) {
        if (t >= 32 && t < 40)
            x = __shfl_xor_sync(0xffffffffu, x, 1);
        __syncthreads();
    }
    if (defect == HALF_WARP && t % 2 == 1)
        x = __shfl_xor_sync(0x55555555u, x, 1);
    if (defect == UNSET_SHARED)
        x += grown[t];
    if (defect == PAST_SHARED)
        x += grown[t + 1];
    if (defect == PAST_GLOBAL)
        out[n] = x;
    out[t] = x;
}

void planted(float *out, int n, int defect)
{
    DS_LAUNCH(turn, 1, 64, 64 * sizeof(float), nullptr, out, n, defect);
}

/* The two numbers of a lane's word: row or column `i`, and `k` the first one's place in the sum. */
static __device__ unsigned word(const unsigned short *x, int i, int k, int row, int column)
{
    return x[i * row + k * column] | (unsigned)x[i * row + (k + 1) * column] << 16;
}

static __global__ void multiply(const unsigned short *a, const unsigned short *b, float *c, int how)
{
    __shared__ uint4 rows[32 + 16 + 1];
    unsigned short *x = (unsigned short *)rows, *y = x + 256;
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4 * 2;
    unsigned ra[4], rb[4];
    float sum[4] = {};

    ptx_copy16(x + lane * 8, a + lane * 8, true);
    ptx_copy16(y + lane % 16 * 8, b + lane % 16 * 8, true);
    ptx_commit();
    if (how != NO_WAIT)
        ptx_wait<0>();
    __syncwarp();
    ptx_ldmatrix<false>(ra, x + lane % 16 * 16 + lane / 16 * 8 + (how == MISALIGNED));
    ptx_ldmatrix<true>(rb, y + lane % 16 * 8);
    if (how == BY_HAND) {
        ra[0] = word(a, g, t, 16, 1);
        ra[1] = word(a, g + 8, t, 16, 1);
        ra[2] = word(a, g, t + 8, 16, 1);
        ra[3] = word(a, g + 8, t + 8, 16, 1);
        rb[0] = word(b, g, t, 1, 8);
        rb[1] = word(b, g, t + 8, 1, 8);
    }
    ptx_mma<__nv_bfloat16>(sum, ra, rb[0], rb[1]);
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * 8 + t + i % 2] = sum[i];
}

void planted_product(const unsigned short *a, const unsigned short *b, float *c, int how)
{
    DS_LAUNCH(multiply, 1, WARP, 0, nullptr, a, b, c, how);
}

static __global__ void multiply_group(const unsigned short *a, const unsigned short *b, float *c,
                                      int how)
{
    DS_TILES_SHARED(unsigned short, x);
    unsigned short *y = x + PANEL;
    unsigned lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16;
    uint64_t x_at = wgmma_tile(wgmma_address(x)), y_at = wgmma_tile(wgmma_address(y));
    float sum[8][4] = {};

    for (unsigned i = threadIdx.x; i < 64 * 8; i += GROUP) {
        unsigned at = how == NOT_PLACED ? i * 8 : place<64>(i / 8, i % 8);

        ptx_copy16(x + at, a + i * 8, true);
        ptx_copy16(y + at, b + i * 8, true);
    }
    ptx_commit();
    ptx_wait<0>();
    if (how != NOT_PUBLISHED)
        wgmma_publish();
    __syncthreads();
    if (how != NOT_BEGUN)
        wgmma_begin();
    for (int k = 0; k < 4; k++) {
        unsigned rows[4];

        load_a<unsigned short, 64>(rows, x, row, k);
        if (how == DOWN)
            wgmma_rs<__nv_bfloat16>(sum, rows, y_at + k * WGMMA_DOWN);
        else if (how != NOT_BY_ALL || row < 48 || k > 0)
            wgmma_ss<__nv_bfloat16>(sum, x_at + k * WGMMA_ALONG, y_at + k * WGMMA_ALONG, k > 0);
    }
    wgmma_commit();
    __syncthreads();
    if (how == OVERWRITTEN)
        x[threadIdx.x] = 0;
    __syncthreads();
    if (how != NOT_WAITED)
        wgmma_wait<0>();
    wgmma_done(sum);
    for (unsigned i = 0; i < 32; i++)
        c[(row + lane / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] =
            sum[i / 4][i % 4];
}

void planted_group(const unsigned short *a, const unsigned short *b, float *c, int how)
{
    DS_LAUNCH(multiply_group, 1, GROUP, 2 * PANEL * sizeof(*a), nullptr, a, b, c, how);
}

int planted_shape(unsigned threads)
{
    struct ds_error err;

    DS_LAUNCH(turn, 1, threads, 0, nullptr, nullptr, 0, NONE);
    return launched("turn", &err);
}
