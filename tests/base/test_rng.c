/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_rng.c - Philox's known answers (Random123, kat_vectors), the normal
 * stream's moments and tails, the permutation.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

/* clang-format off */
static const struct {
    uint32_t ctr[4], key[2], want[4];
} answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};
/* clang-format on */

Test(rng, known_answers)
{
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        uint32_t out[4];

        ds_philox(answers[i].ctr, answers[i].key, out);
        cr_assert_arr_eq(out, answers[i].want, sizeof(out), "case %zu", i);
    }
}

/* The counter is index then stream, low word first; the key is the seed. */
Test(rng, u64_is_the_block)
{
    cr_assert_eq(ds_rng_u64(0, 0, 0), 0xe169c58d6627e8d5U);
    cr_assert_eq(ds_rng_u64(0x299f31d0a4093822U, 0x0370734413198a2eU, 0x85a308d3243f6a88U),
                 0x94fdccebd16cfe09U);
    cr_assert_eq(ds_rng_u64(UINT64_MAX, UINT64_MAX, UINT64_MAX), 0x41c83b0e408f276dU);
}

Test(rng, fill_is_the_stream)
{
    static const uint64_t firsts[] = {0, 1, 2, 63, 64, 1001, (UINT64_C(1) << 33) - 37};
    static float out[300], want[300];

    for (size_t f = 0; f < sizeof(firsts) / sizeof(firsts[0]); f++) {
        for (size_t i = 0; i < 300; i++)
            want[i] = ds_rng_normal(5, 9, firsts[f] + i) * 0.02F;
        for (size_t n = 0; n <= 299; n++) {
            memset(out, 0x7f, sizeof(out));
            ds_rng_fill_normal(out, n, 5, 9, firsts[f], 0.02F);
            cr_assert_arr_eq(out, want, n * sizeof(float), "first %zu n %zu", f, n);
            cr_assert_gt(out[n], 1e30F, "wrote past n = %zu", n);
        }
    }
}

/* The same numbers on every machine and with every compiler. */
Test(rng, normal_known_bits)
{
    static const uint32_t want[] = {0xbf785e5c, 0x3e46ace8, 0xbd95e033, 0x3e0e7a13};

    for (uint64_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        float value = ds_rng_normal(42, 0, i);
        uint32_t bits;

        memcpy(&bits, &value, sizeof(bits));
        cr_assert_eq(bits, want[i], "%ju: %08x %g", (uintmax_t)i, bits, (double)value);
    }
}

Test(rng, normal_matches_libm)
{
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = ds_rng_u64(3, 4, i);
        double u = ((double)(uint32_t)bits + 0.5) * 0x1p-32;
        double r = sqrt(-2 * log(u)), angle = (double)(bits >> 32) * 0x1p-32 * 2 * acos(-1);

        cr_assert_float_eq(ds_rng_normal(3, 4, 2 * i), r * cos(angle), 2e-5, "%ju", (uintmax_t)i);
        cr_assert_float_eq(ds_rng_normal(3, 4, 2 * i + 1), r * sin(angle), 2e-5, "%ju",
                           (uintmax_t)i);
    }
}

Test(rng, normal_moments)
{
    enum { N = 1 << 20 };
    float *x = malloc(N * sizeof(*x));
    double sum[5] = {0}, lag = 0, most = 0;

    cr_assert_not_null(x);
    ds_rng_fill_normal(x, N, 1, 7, 0, 1.0F);
    for (size_t i = 0; i < N; i++) {
        double v = (double)x[i];

        for (int p = 1; p <= 4; p++)
            sum[p] += pow(v, p) / N;
        lag += i > 0 ? v * (double)x[i - 1] / N : 0;
        most = fabs(v) > most ? fabs(v) : most;
    }
    free(x);
    /* Five standard errors of each moment of N draws. */
    cr_assert_float_eq(sum[1], 0, 5 / sqrt(N));
    cr_assert_float_eq(sum[2], 1, 5 * sqrt(2.0 / N));
    cr_assert_float_eq(sum[3], 0, 5 * sqrt(15.0 / N));
    cr_assert_float_eq(sum[4], 3, 5 * sqrt(96.0 / N));
    cr_assert_float_eq(lag, 0, 5 / sqrt(N));
    cr_assert(most > 4.2 && most < 6.8, "largest of a million is %g", most);
}

Test(rng, streams_differ)
{
    for (uint64_t i = 0; i < 100; i++) {
        cr_assert_neq(ds_rng_u64(1, 2, i), ds_rng_u64(1, 3, i));
        cr_assert_neq(ds_rng_u64(1, 2, i), ds_rng_u64(2, 2, i));
        cr_assert_neq(ds_rng_u64(1, 2, i), ds_rng_u64(1, 2, i + 1));
    }
}

Test(rng, permute_is_a_bijection)
{
    static bool seen[100003];
    static const uint64_t large[] = {4095, 4096, 4097, 65536, 65537, 100003};

    for (uint64_t n = 1; n <= 2000 + sizeof(large) / sizeof(large[0]); n++) {
        uint64_t count = n <= 2000 ? n : large[n - 2001];

        memset(seen, 0, sizeof(seen));
        for (uint64_t i = 0; i < count; i++) {
            uint64_t to = ds_rng_permute(i, count, 11, n);

            cr_assert_lt(to, count);
            cr_assert_not(seen[to], "n %ju: %ju twice", (uintmax_t)count, (uintmax_t)to);
            seen[to] = true;
        }
    }
}

Test(rng, permute_of_huge_ranges)
{
    static const uint64_t counts[] = {UINT32_MAX,        UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1,
                                      UINT64_C(1) << 62, UINT64_C(1) << 63, UINT64_MAX};
    uint64_t out[64];

    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        for (uint64_t i = 0; i < 64; i++) {
            out[i] = ds_rng_permute(i % 2 != 0 ? counts[c] - 1 - i : i, counts[c], 1, 2);
            cr_assert_lt(out[i], counts[c]);
            for (uint64_t k = 0; k < i; k++)
                cr_assert_neq(out[i], out[k]);
        }
    }
}

/* Every place is about equally likely for index 0, over streams; chi-square with 9 degrees. */
Test(rng, permute_is_even)
{
    enum { PLACES = 10, DRAWS = 20000 };
    unsigned hits[PLACES] = {0};
    double chi = 0;

    for (uint64_t stream = 0; stream < DRAWS; stream++)
        hits[ds_rng_permute(0, PLACES, 1, stream)]++;
    for (int i = 0; i < PLACES; i++)
        chi += pow(hits[i] - (double)DRAWS / PLACES, 2) / ((double)DRAWS / PLACES);
    cr_assert_lt(chi, 33.7, "chi-square %g", chi); /* p = 1e-4 */
}
