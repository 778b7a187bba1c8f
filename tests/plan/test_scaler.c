/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_scaler.c - the loss scale against a transcript of DeepSpeed's rule, and by hand.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "runtime/scaler.h"

static struct ds_job job_of(uint64_t window, uint64_t hysteresis, uint64_t least)
{
    struct ds_job job = {.precision = {.compute = DS_COMPUTE_FP16}};

    job.precision.scaler.init_power = 16;
    job.precision.scaler.window = window;
    job.precision.scaler.hysteresis = hysteresis;
    job.precision.scaler.min = least;
    return job;
}

/* DeepSpeed's fp16/loss_scaler.py DynamicLossScaler.update_scale, with its names. */
struct transcript {
    double cur_scale, min_scale;
    long cur_iter, last_overflow_iter, scale_window, delayed_shift, cur_hysteresis;
    bool raised;
};

static void update_scale(struct transcript *t, bool overflow)
{
    if (overflow) {
        if (t->delayed_shift == 1 || t->cur_hysteresis == 1) {
            if (t->cur_scale == t->min_scale)
                t->raised = true;
            else
                t->cur_scale = fmax(t->cur_scale / 2, t->min_scale);
        } else {
            t->cur_hysteresis -= 1;
        }
        t->last_overflow_iter = t->cur_iter;
    } else {
        long stable_interval = (t->cur_iter - t->last_overflow_iter) - 1;

        if (stable_interval > 0 && stable_interval % t->scale_window == 0) {
            t->cur_hysteresis = t->delayed_shift;
            t->cur_scale *= 2;
        }
    }
    t->cur_iter += 1;
}

Test(scaler, follows_deepspeed_over_any_overflows)
{
    for (unsigned seed = 1; seed <= 60; seed++) {
        uint64_t window = 1 + seed % 7, hysteresis = 1 + seed % 4, least = seed % 2 ? 1 : 4096;
        struct ds_job job = job_of(window, hysteresis, least);
        struct transcript t = {.cur_scale = 65536,
                               .min_scale = (double)least,
                               .last_overflow_iter = -1,
                               .scale_window = (long)window,
                               .delayed_shift = (long)hysteresis,
                               .cur_hysteresis = (long)hysteresis};
        struct ds_scaler scaler;
        unsigned random = seed;

        ds_scaler_init(&scaler, &job);
        for (unsigned i = 0; i < 300 && !t.raised; i++) {
            bool overflow;
            int rc;

            random = random * 1664525u + 1013904223u;
            overflow = random >> 28 < seed % 12;
            update_scale(&t, overflow);
            rc = ds_scaler_update(&scaler, &job, overflow, NULL);
            cr_assert_eq(rc, t.raised ? -ERANGE : 0, "seed %u, step %u", seed, i);
            cr_assert(t.raised || (scaler.now.factor == t.cur_scale &&
                                   (long)scaler.now.hysteresis == t.cur_hysteresis),
                      "seed %u, step %u: %g for %g", seed, i, scaler.now.factor, t.cur_scale);
        }
    }
}

Test(scaler, by_hand)
{
    struct ds_job job = job_of(2, 2, 1);
    struct ds_scaler scaler;
    static const struct {
        bool overflow;
        double scale;
    } steps[] = {{true, 65536},  {true, 32768},  {false, 32768},
                 {false, 32768}, {false, 65536}, {true, 65536}};

    ds_scaler_init(&scaler, &job);
    cr_assert(scaler.on && !scaler.fixed && scaler.now.factor == 65536);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        cr_assert_eq(ds_scaler_update(&scaler, &job, steps[i].overflow, NULL), 0);
        cr_assert(scaler.now.factor == steps[i].scale, "step %zu: %g", i, scaler.now.factor);
    }
}

Test(scaler, a_given_scale_stays_and_other_types_have_none)
{
    struct ds_job job = job_of(1, 1, 1);
    struct ds_scaler scaler;

    job.precision.loss_scale = 128;
    ds_scaler_init(&scaler, &job);
    for (unsigned i = 0; i < 9; i++)
        cr_assert_eq(ds_scaler_update(&scaler, &job, i % 3 == 0, NULL), 0);
    cr_assert(scaler.now.factor == 128 && scaler.fixed);
    job.precision.compute = DS_COMPUTE_BF16;
    ds_scaler_init(&scaler, &job);
    cr_assert(!scaler.on && scaler.now.factor == 1);
    cr_assert_eq(ds_scaler_update(&scaler, &job, true, NULL), 0);
}

Test(scaler, the_end_is_told)
{
    struct ds_job job = job_of(1000, 1, 65536);
    struct ds_scaler scaler;
    struct ds_error err = {0};

    ds_scaler_init(&scaler, &job);
    cr_assert_eq(ds_scaler_update(&scaler, &job, true, &err), -ERANGE);
    cr_assert_not_null(strstr(err.text, "loss scale is 65536"));
}
