/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fp8.h - floating-point numbers of eight bits: their codes, and the scale of a tensor of them.
 *
 * E4M3  sign, 4 bits of exponent (bias 7), 3 of mantissa; up to 448, no infinities, one NaN
 * E5M2  sign, 5 bits of exponent (bias 15), 2 of mantissa; up to 57344; infinities and NaN as IEEE
 *
 * A tensor is stored as codes of its elements times a power of two, the largest that leaves the
 * largest element representable.  A power of two moves no mantissa: what is lost is the rounding to
 * 3 or 2 bits alone, and a sum of products can be scaled before or after it is rounded with the
 * same bits.
 *
 * Source  Micikevicius et al., "FP8 Formats for Deep Learning", 2022 (the OCP's OFP8)
 * Tests   tests/kernels/test_fp8.c (all codes, all ties)
 */
#ifndef DS_KERNELS_FP8_H
#define DS_KERNELS_FP8_H

#include <stdint.h>
#include <string.h>

enum ds_fp8 { DS_E4M3, DS_E5M2 };

/* Rows and columns of FP8 are multiples of this: of 16 bytes, which matrix units read at a time. */
enum { DS_FP8_UNIT = 16 };

#define DS_FP8_INFINITE 0x7f800000u /* bits of an infinite F32; what is above is NaN */

/* The same functions for kernels of a device. */
#ifdef __CUDACC__
#define DS_FP8_INLINE static __host__ __device__ inline
#else
#define DS_FP8_INLINE static inline
#endif

/* Bits of an F32's mantissa that the format has not, and its bias. */
DS_FP8_INLINE unsigned ds_fp8_dropped(enum ds_fp8 type)
{
    return type == DS_E4M3 ? 20 : 21;
}

DS_FP8_INLINE unsigned ds_fp8_bias(enum ds_fp8 type)
{
    return type == DS_E4M3 ? 7 : 15;
}

DS_FP8_INLINE float ds_fp8_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

DS_FP8_INLINE uint32_t ds_fp8_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* Round to nearest, ties to even.  Above the largest, and infinite: the largest of that sign.  NaN:
 * the code 0x7f.  As cvt.rn.satfinite of PTX does it, and without branches. */
DS_FP8_INLINE uint8_t ds_fp8_from_f32(enum ds_fp8 type, float value)
{
    const unsigned dropped = ds_fp8_dropped(type), bias = ds_fp8_bias(type);
    const uint32_t largest = type == DS_E4M3 ? 0x7e : 0x7b;
    const float least_ulp = type == DS_E4M3 ? 0x1p14f : 0x1p7f; /* its ulp is the least code */
    uint32_t bits = ds_fp8_bits(value), magnitude = bits & 0x7fffffffu;
    uint32_t normal =
        (magnitude + (1u << (dropped - 1)) - 1 + (magnitude >> dropped & 1u)) >> dropped;
    uint32_t small = ds_fp8_bits(ds_fp8_of_bits(magnitude) + least_ulp) - ds_fp8_bits(least_ulp);
    uint32_t code = normal - ((127 - bias) << (23 - dropped));

    code = magnitude < (128 - bias) << 23 ? small : code;
    code = magnitude >= DS_FP8_INFINITE || code > largest ? largest : code;
    code |= bits >> 24 & 0x80u;
    return (uint8_t)(magnitude > DS_FP8_INFINITE ? 0x7f : code);
}

DS_FP8_INLINE float ds_fp8_to_f32(enum ds_fp8 type, uint8_t code)
{
    const unsigned dropped = ds_fp8_dropped(type), bias = ds_fp8_bias(type);
    const uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    const uint32_t infinite = type == DS_E4M3 ? 0x7f : 0x7c; /* E4M3: there is NaN at once */
    const uint32_t special =
        type == DS_E4M3 || magnitude > infinite ? 0x7fc00000u : DS_FP8_INFINITE;
    uint32_t small = ds_fp8_bits((float)magnitude * (type == DS_E4M3 ? 0x1p-9f : 0x1p-16f));
    uint32_t bits = (magnitude << dropped) + ((127 - bias) << 23);

    bits = magnitude < 1u << (23 - dropped) ? small : bits;
    bits = magnitude >= infinite ? special : bits;
    return ds_fp8_of_bits(sign | bits);
}

/* The power of two by which a tensor is multiplied before it is rounded, from the bits of the
 * largest magnitude in it; 1 where that is 0 or not finite.  At most 2^126, so that its inverse is
 * a number. */
DS_FP8_INLINE float ds_fp8_factor(enum ds_fp8 type, uint32_t largest)
{
    const int room = type == DS_E4M3 ? 8 : 15; /* the largest code is 1.75 times 2 to that */
    int power = room - ((int)(largest >> 23) - 127) - ((largest & 0x7fffffu) > 0x600000u ? 1 : 0);

    power = power > 126 ? 126 : power;
    power = largest == 0 || largest >= DS_FP8_INFINITE ? 0 : power;
    return ds_fp8_of_bits((uint32_t)(power + 127) << 23);
}

/* What codes are multiplied by: the inverse of the factor, or NaN where an element was not finite,
 * so that no product hides it. */
DS_FP8_INLINE float ds_fp8_scale(float factor, uint32_t largest)
{
    return ds_fp8_of_bits(largest >= DS_FP8_INFINITE ? 0x7fc00000u
                                                     : (254u << 23) - ds_fp8_bits(factor));
}

#endif
