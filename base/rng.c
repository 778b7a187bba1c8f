/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rng.c - the contract is in rng.h.
 *
 * Normal numbers are made with operations that IEEE 754 rounds exactly (add,
 * multiply, square root) and with no call into libm, so that they are the same
 * bits on every machine; this file is compiled without contraction to fused
 * multiply-add for the same reason.  The loops over LANES blocks are written
 * so that the compiler can vectorise them.
 *
 * Source  philox.h; the polynomials are those of Cephes
 *         (Moshier): logf, sinf and cosf, about 1 unit in the last place.
 */
#include "base/rng.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/philox.h"

enum { LANES = 32, BATCH = 2 * LANES, FEISTEL_ROUNDS = 6 };

void ds_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t x0 = ctr[0], x1 = ctr[1], x2 = ctr[2], x3 = ctr[3], k0 = key[0], k1 = key[1];

    for (int round = 0; round < DS_PHILOX_ROUNDS; round++) {
        DS_PHILOX_ROUND(x0, x1, x2, x3, k0, k1);
        DS_PHILOX_NEXT_KEY(k0, k1);
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

/* Block `index` of a stream. */
static void block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4])
{
    const uint32_t ctr[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                             (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    ds_philox(ctr, key, out);
}

uint64_t ds_rng_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t bits[4];

    block(seed, stream, index, bits);
    return bits[0] | (uint64_t)bits[1] << 32;
}

/* --- normal numbers ------------------------------------------------------------------------ */

/* Natural logarithm of a positive normal number. */
static inline float log_of(float x)
{
    uint32_t bits;
    float m, e, z, y;
    int32_t exponent;

    memcpy(&bits, &x, sizeof(bits));
    /* x = m * 2^e with m in [sqrt(1/2), sqrt(2)) */
    exponent = (int32_t)(bits - 0x3f3504f3) >> 23;
    bits -= (uint32_t)exponent << 23;
    memcpy(&m, &bits, sizeof(m));
    e = (float)exponent;
    m -= 1.0F;
    z = m * m;
    y = 7.0376836292e-2F;
    y = y * m - 1.1514610310e-1F;
    y = y * m + 1.1676998740e-1F;
    y = y * m - 1.2420140846e-1F;
    y = y * m + 1.4249322787e-1F;
    y = y * m - 1.6668057665e-1F;
    y = y * m + 2.0000714765e-1F;
    y = y * m - 2.4999993993e-1F;
    y = y * m + 3.3333331174e-1F;
    y = y * m * z;
    y += e * -2.12194440e-4F;
    y -= 0.5F * z;
    return m + y + e * 0.693359375F;
}

/* Cosine and sine of `turn` / 2^32 of a full circle. */
static inline void circle(uint32_t turn, float *cosine, float *sine)
{
    const float scale = 1.57079632679489662F / 1073741824.0F;
    uint32_t quadrant = (turn + 0x20000000U) >> 30;              /* the nearest axis */
    float a = (float)(int32_t)(turn - (quadrant << 30)) * scale; /* the angle from it */
    float z = a * a, s, c, x, y;
    bool swap = (quadrant & 1) != 0;

    s = -1.9515295891e-4F * z + 8.3321608736e-3F;
    s = s * z - 1.6666654611e-1F;
    s = s * z * a + a;
    c = 2.443315711809948e-5F * z - 1.388731625493765e-3F;
    c = c * z + 4.166664568298827e-2F;
    c = c * z * z - 0.5F * z + 1.0F;
    x = swap ? s : c;
    y = swap ? c : s;
    *cosine = ((quadrant + 1) & 2) != 0 ? -x : x;
    *sine = (quadrant & 2) != 0 ? -y : y;
}

/* Box-Muller: two normal numbers from the first two words of a block. */
static inline void normal_pair(uint32_t radius_bits, uint32_t turn, float *even, float *odd)
{
    float u = ((float)radius_bits + 0.5F) * 0x1p-32F; /* in (0, 1] */
    float r = sqrtf(-2.0F * log_of(u)), c, s;

    circle(turn, &c, &s);
    *even = r * c;
    *odd = r * s;
}

float ds_rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t bits[4];
    float pair[2];

    block(seed, stream, index / 2, bits);
    normal_pair(bits[0], bits[1], &pair[0], &pair[1]);
    return pair[index % 2];
}

/* Philox on LANES blocks from `index`; only the first two words of each are kept. */
static void blocks(uint64_t seed, uint64_t stream, uint64_t index, uint32_t w0[LANES],
                   uint32_t w1[LANES])
{
    uint32_t x0[LANES], x1[LANES], x2[LANES], x3[LANES];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

    for (uint32_t i = 0; i < LANES; i++) {
        x0[i] = (uint32_t)(index + i);
        x1[i] = (uint32_t)((index + i) >> 32);
        x2[i] = (uint32_t)stream;
        x3[i] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < DS_PHILOX_ROUNDS; round++) {
        for (int i = 0; i < LANES; i++)
            DS_PHILOX_ROUND(x0[i], x1[i], x2[i], x3[i], k0, k1);
        DS_PHILOX_NEXT_KEY(k0, k1);
    }
    memcpy(w0, x0, sizeof(x0));
    memcpy(w1, x1, sizeof(x1));
}

/* The BATCH numbers of LANES blocks from `index`. */
static void fill_blocks(float out[BATCH], uint64_t seed, uint64_t stream, uint64_t index, float std)
{
    uint32_t radius[LANES], turn[LANES];
    float even[LANES], odd[LANES];

    blocks(seed, stream, index, radius, turn);
    for (int i = 0; i < LANES; i++)
        normal_pair(radius[i], turn[i], &even[i], &odd[i]);
    for (size_t i = 0; i < LANES; i++) {
        out[2 * i] = even[i] * std;
        out[2 * i + 1] = odd[i] * std;
    }
}

void ds_rng_fill_normal(float *out, size_t n, uint64_t seed, uint64_t stream, uint64_t first,
                        float std)
{
    for (; n > 0 && first % 2 != 0; n--)
        *out++ = ds_rng_normal(seed, stream, first++) * std;
    for (; n >= BATCH; n -= BATCH) {
        fill_blocks(out, seed, stream, first / 2, std);
        out += BATCH;
        first += BATCH;
    }
    for (; n > 0; n--)
        *out++ = ds_rng_normal(seed, stream, first++) * std;
}

/* --- permutation --------------------------------------------------------------------------- */

/* One pass of a balanced Feistel network over 2 * `half_bits` bits. */
static uint64_t feistel(uint64_t index, unsigned half_bits, uint64_t seed, uint64_t stream)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint32_t left = (uint32_t)(index >> half_bits), right = (uint32_t)(index & mask);

    for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
        const uint32_t ctr[4] = {right, ~round, (uint32_t)stream, (uint32_t)(stream >> 32)};
        uint32_t bits[4], was = right;

        ds_philox(ctr, key, bits);
        right = left ^ (uint32_t)(bits[0] & mask);
        left = was;
    }
    return (uint64_t)left << half_bits | right;
}

uint64_t ds_rng_permute(uint64_t index, uint64_t n, uint64_t seed, uint64_t stream)
{
    unsigned half_bits = 1;

    assert(index < n);
    while (half_bits < 32 && (n - 1) >> 2 * half_bits != 0)
        half_bits++;
    do /* the network permutes up to 4 n numbers: walk along the cycle back below n */
        index = feistel(index, half_bits, seed, stream);
    while (index >= n);
    return index;
}
