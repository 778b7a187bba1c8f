/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pulse.c - who is silent, when beats are due, what a hang is.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "base/rng.h"
#include "launcher/fleet/pulse.h"

#define S  UINT64_C(1000000000)
#define MS UINT64_C(1000000)

enum { HOSTS = 50 };

struct scene {
    struct ds_pulse_host host[HOSTS];
    struct ds_pulse pulse;
};

static void begin(struct scene *scene, uint64_t silent_ns, uint64_t hang_ns)
{
    const struct ds_pulse_args args = {.host = scene->host,
                                       .hosts = HOSTS,
                                       .stride = sizeof(scene->host[0]),
                                       .silent_ns = silent_ns,
                                       .hang_ns = hang_ns};

    memset(scene, 0, sizeof(*scene));
    ds_pulse_init(&scene->pulse, &args, S);
}

/* The list against the plain answer: the host that was heard longest ago. */
Test(pulse, the_silent_host_is_the_one_heard_longest_ago)
{
    struct scene scene;
    uint64_t heard[HOSTS] = {0}, now = S;

    begin(&scene, 15 * S, 0);
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t dice = ds_rng_u64(7, 0, i);
        uint32_t host = (uint32_t)(dice % HOSTS), silent = DS_PULSE_NOBODY;

        now += (dice >> 8) % S;
        (void)ds_pulse_look(&scene.pulse, now);
        if ((dice >> 40) % 8 == 0) {
            ds_pulse_forget(&scene.pulse, host);
            heard[host] = 0;
        } else {
            ds_pulse_heard(&scene.pulse, host, now);
            heard[host] = now;
        }
        for (uint32_t h = 0; h < HOSTS; h++)
            if (heard[h] != 0 && (silent == DS_PULSE_NOBODY || heard[h] < heard[silent]))
                silent = h;
        if (silent != DS_PULSE_NOBODY && now < heard[silent] + 15 * S)
            silent = DS_PULSE_NOBODY;
        cr_assert_eq(ds_pulse_silent(&scene.pulse, now), silent, "call %llu",
                     (unsigned long long)i);
    }
}

Test(pulse, no_limit_no_silence)
{
    struct scene scene;

    begin(&scene, 0, 0);
    ds_pulse_heard(&scene.pulse, 3, S);
    cr_assert(!ds_pulse_look(&scene.pulse, 100 * S));
    cr_assert_eq(ds_pulse_silent(&scene.pulse, 1000 * S), DS_PULSE_NOBODY);
}

Test(pulse, beats)
{
    static const struct {
        uint64_t limit, interval;
    } cases[] = {{0, S}, {15 * S, S}, {8 * S, S}, {4 * S, S / 2}, {100 * MS, 50 * MS}};
    struct scene scene;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(ds_pulse_interval_ns(cases[i].limit), cases[i].interval, "%zu", i);
    begin(&scene, 4 * S, 0);
    cr_assert(ds_pulse_due(&scene.pulse, S));
    cr_assert(!ds_pulse_due(&scene.pulse, S + 499 * MS));
    cr_assert_eq(ds_pulse_next_ns(&scene.pulse), S + 500 * MS);
    cr_assert(ds_pulse_due(&scene.pulse, S + 500 * MS));
}

Test(pulse, a_program_that_slept_judges_nobody)
{
    struct scene scene;

    begin(&scene, 15 * S, 0);
    ds_pulse_heard(&scene.pulse, 0, S);
    cr_assert(!ds_pulse_look(&scene.pulse, 3 * S));
    cr_assert(!ds_pulse_look(&scene.pulse, 15 * S + 500 * MS), "not for so long");
    cr_assert_eq(ds_pulse_silent(&scene.pulse, 17 * S), DS_PULSE_NOBODY, "it has just woken up");
    cr_assert_eq(ds_pulse_silent(&scene.pulse, 17 * S + 500 * MS), 0);
    cr_assert(ds_pulse_look(&scene.pulse, 28 * S + 500 * MS), "its hosts missed its beats");
}

Test(pulse, hang)
{
    struct scene scene;
    uint64_t now = S;

    begin(&scene, 0, 5 * S);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), UINT64_MAX, "nothing was reported yet");
    ds_pulse_step(&scene.pulse, 1, now);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), UINT64_MAX, "one step tells no duration");
    for (uint64_t step = 2; step < 100; step++) {
        now += step % 7 == 0 ? 10 * S : S; /* some are slow */
        (void)ds_pulse_look(&scene.pulse, now - S / 2);
        (void)ds_pulse_look(&scene.pulse, now);
        ds_pulse_step(&scene.pulse, step, now);
        ds_pulse_step(&scene.pulse, step, now + 1); /* another rank, the same step */
    }
    cr_assert_eq(ds_pulse_median_ns(&scene.pulse), S);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), now + DS_HANG_STEPS * S);
    ds_pulse_busy(&scene.pulse, 1, now);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), UINT64_MAX, "a rank saves");
    now += 500 * S;
    ds_pulse_busy(&scene.pulse, -1, now);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), now + DS_HANG_STEPS * S);
    begin(&scene, 0, 0);
    ds_pulse_step(&scene.pulse, 1, S);
    ds_pulse_step(&scene.pulse, 2, 2 * S);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), UINT64_MAX, "off");
}

Test(pulse, short_steps_hang_after_the_least_time)
{
    struct scene scene;

    begin(&scene, 0, 5 * S);
    ds_pulse_step(&scene.pulse, 1, S);
    ds_pulse_step(&scene.pulse, 2, S + MS);
    cr_assert_eq(ds_pulse_hang_ns(&scene.pulse), S + MS + 5 * S);
}
