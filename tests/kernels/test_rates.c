/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_rates - rates for the cost model: the fit gives back what it was made from, and every rate of
 * this machine is a number.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "kernels/rates.h"

static double rate(double flops, double half, double extent)
{
    return flops / (1.0 + half / extent);
}

Test(rates, the_fit_gives_back_what_it_was_made_from)
{
    static const double halves[] = {0.0, 1.0, 24.0, 300.0};

    for (size_t i = 0; i < sizeof(halves) / sizeof(halves[0]); i++) {
        double flops = 0.0, half = -1.0;

        ds_rates_fit(128, rate(1e11, halves[i], 128), 768, rate(1e11, halves[i], 768), &flops,
                     &half);
        cr_assert_float_eq(flops, 1e11, 1.0, "half %g: %g", halves[i], flops);
        cr_assert_float_eq(half, halves[i], 1e-6, "half %g: %g", halves[i], half);
    }
}

Test(rates, a_small_product_that_is_faster_fits_as_equal)
{
    double flops = 0.0, half = -1.0;

    ds_rates_fit(128, 2e11, 768, 1e11, &flops, &half);
    cr_assert_eq(flops, 1e11);
    cr_assert_eq(half, 0.0);
}

/* No half length is long enough for the large one to be 7 times as fast at 6 times the length. */
Test(rates, a_large_product_that_is_faster_than_any_half_length_allows_is_bounded)
{
    const double small[] = {1e11 / 5.9, 1e11 / 6.0, 1e11 / 7.0, 1e8};

    for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++) {
        double flops = 0.0, half = -1.0;

        ds_rates_fit(128, small[i], 768, 1e11, &flops, &half);
        cr_assert_float_eq(flops, DS_RATES_FIT_MOST * 1e11, 1.0, "%g: %g", small[i], flops);
        cr_assert_float_eq(rate(flops, half, 768), 1e11, 1.0, "%g: half %g", small[i], half);
    }
}

Test(rates, every_rate_of_this_machine_is_positive_and_finite)
{
    const struct ds_device_args args = {
        .name = "cpu", .threads = 1, .scratch_bytes = ds_rates_scratch_bytes(1)};
    struct ds_device *device = NULL;
    struct ds_rates rates;
    struct ds_error err = {0};

    cr_assert_eq(ds_device_open(&device, &args, &err), 0, "%s", err.text);
    cr_assert_eq(ds_rates_measure(device, NULL, &rates, &err), 0, "%s", err.text);
    for (const double *r = &rates.fp32.flops; r <= &rates.launch_us; r++)
        cr_assert(isfinite(*r) && *r >= 0.0, "rate %td: %g", r - &rates.fp32.flops, *r);
    cr_assert_gt(rates.bandwidth, 0.0);
    cr_assert_gt(rates.random, 0.0);
    for (const struct ds_layer_rates *r = &rates.fp32; r <= &rates.bf16; r++) {
        cr_assert_gt(r->flops, 0.0);
        cr_assert_gt(r->attention, 0.0);
        cr_assert_gt(r->pointwise, 0.0);
        cr_log_info("flops %.3g half %.3g attention %.3g half %.3g pointwise %.3g", r->flops,
                    r->matmul_half, r->attention, r->attention_half, r->pointwise);
    }
    cr_log_info("copy %.3g update %.3g us %.3g", rates.bandwidth, rates.update, rates.launch_us);
    ds_device_close(device);
}

static int count_down(void *left, struct ds_error *err)
{
    unsigned *meetings = left;

    return --*meetings == 0 ? ds_fail(err, EPIPE, "the last meeting") : 0;
}

/* A round of each layer only warms it up; a rank that cannot meet the others gives up. */
Test(rates, ranks_meet_before_each_round)
{
    const struct ds_device_args args = {
        .name = "cpu", .threads = 1, .scratch_bytes = ds_rates_scratch_bytes(1)};
    unsigned left = 1000;
    struct ds_rates_peers peers = {.meet = count_down, .user = &left};
    struct ds_device *device = NULL;
    struct ds_rates rates;
    struct ds_error err = {0};

    cr_assert_eq(ds_device_open(&device, &args, &err), 0, "%s", err.text);
    cr_assert_eq(ds_rates_measure(device, &peers, &rates, &err), 0, "%s", err.text);
    cr_assert_eq(1000 - left, DS_RATES_ROUNDS + 4, "%u meetings", 1000 - left);
    for (unsigned i = 0; i < DS_RATES_ROUNDS; i++)
        cr_assert(isfinite(peers.pass_s[i]) && peers.pass_s[i] > 0.0, "round %u: %g", i,
                  peers.pass_s[i]);
    left = 1;
    cr_assert_eq(ds_rates_measure(device, &peers, &rates, &err), -EPIPE);
    cr_assert_str_eq(err.text, "the last meeting");
    ds_device_close(device);
}

Test(rates, the_peak_of_16_bit_products_is_at_least_that_of_the_registers)
{
    static const size_t scratch[] = {0, 1};

    for (size_t i = 0; i < 2; i++) { /* without scratch no product may run: the registers count */
        const struct ds_device_args args = {
            .name = "cpu", .threads = 1, .scratch_bytes = scratch[i] * ds_rates_scratch_bytes(1)};
        struct ds_device *device = NULL;
        struct ds_error err = {0};
        double full, low;

        cr_assert_eq(ds_device_open(&device, &args, &err), 0, "%s", err.text);
        full = ds_device_peak(device, DS_F32);
        low = ds_device_peak(device, DS_BF16);
        cr_assert(isfinite(full) && full > 0.0, "fp32: %g", full);
        cr_assert(isfinite(low) && low > 0.1 * full, "bf16: %g, fp32: %g", low, full);
        ds_device_close(device);
    }
}
