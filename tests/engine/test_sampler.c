/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_sampler.c - which ids a sampler may give, and how often.
 *
 * Frequencies are those of a fixed seed, compared with what they should be by chi-square; the
 * limits are its 99.9 % points.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "runtime/generate/sampler.h"

enum { IDS = 8, DRAWS = 20000 };

static uint32_t draw(const struct ds_sampler *sampler, struct ds_sampling how, const float *logits,
                     uint64_t bits)
{
    struct ds_error err = {0};
    uint32_t id = UINT32_MAX;

    cr_assert_eq(ds_sample(sampler, &how, logits, bits, &id, &err), 0, "%s", err.text);
    cr_assert(id < sampler->ids);
    return id;
}

/* How often each id came, of DRAWS. */
static void count(const float *logits, size_t ids, struct ds_sampling how, unsigned *seen)
{
    struct ds_sampler sampler;

    memset(seen, 0, ids * sizeof(*seen));
    cr_assert_eq(ds_sampler_init(&sampler, ids, NULL), 0);
    for (uint64_t i = 0; i < DRAWS; i++)
        seen[draw(&sampler, how, logits, ds_rng_u64(11, 5, i))]++;
    ds_sampler_release(&sampler);
}

/* Of the ids with want[i] > 0; the others must not have come. */
static void expect(const float *logits, struct ds_sampling how, const double want[IDS])
{
    /* by degrees of freedom, from 0 */
    static const double limit[IDS] = {1e-9, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32};
    unsigned seen[IDS], kinds = 0;
    double sum = 0.0, chi = 0.0;

    for (size_t i = 0; i < IDS; i++)
        sum += want[i];
    count(logits, IDS, how, seen);
    for (size_t i = 0; i < IDS; i++) {
        double wanted = want[i] / sum * DRAWS;

        if (want[i] == 0.0) {
            cr_assert_eq(seen[i], 0, "id %zu came %u times", i, seen[i]);
            continue;
        }
        kinds++;
        chi += ((double)seen[i] - wanted) * ((double)seen[i] - wanted) / wanted;
    }
    cr_assert(chi < limit[kinds - 1], "chi-square %g of %u ids", chi, kinds);
}

static const float usual[IDS] = {0.5f, 2.0f, -1.0f, 1.0f, 0.0f, 3.0f, -2.0f, 1.5f};

/* exp(l / t) of those that stay. */
static void weights(const float *logits, double t, const char *stay, double want[IDS])
{
    for (size_t i = 0; i < IDS; i++)
        want[i] = stay[i] == '1' ? exp((double)logits[i] / t) : 0.0;
}

Test(sampler, frequencies)
{
    static const struct {
        struct ds_sampling how;
        const char *stay;
    } cases[] = {
        {{1.0, 0, 1.0}, "11111111"},   {{0.7, 0, 1.0}, "11111111"},   {{3.0, 0, 1.0}, "11111111"},
        {{1.0, IDS, 1.0}, "11111111"}, {{1.0, 100, 1.0}, "11111111"}, {{1.0, 3, 1.0}, "01000101"},
        {{2.0, 2, 1.0}, "01000100"},   {{1.0, 7, 1.0}, "11111101"},   {{1.0, 0, 0.5}, "00000100"},
        {{1.0, 0, 0.6}, "01000100"},   {{1.0, 0, 0.999}, "11111111"}, {{1.0, 3, 0.9}, "01000101"},
        {{1.0, 3, 0.6}, "00000100"},   {{1.0, 4, 0.75}, "01000100"},  {{1.0, 0, 1e-9}, "00000100"},
    };
    double want[IDS];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        weights(usual, cases[i].how.temperature, cases[i].stay, want);
        expect(usual, cases[i].how, want);
    }
}

/* Of equal logits top_k keeps the smaller ids, and so does top_p. */
Test(sampler, ties)
{
    static const float flat[IDS] = {0}, pairs[IDS] = {1, 2, 2, 1, 0, 2, 0, 1};
    double want[IDS];

    weights(flat, 1.0, "11100000", want);
    expect(flat, (struct ds_sampling){1.0, 3, 1.0}, want);
    weights(flat, 1.0, "11110000", want);
    expect(flat, (struct ds_sampling){1.0, 0, 0.5}, want);
    weights(pairs, 1.0, "01100000", want);
    expect(pairs, (struct ds_sampling){1.0, 2, 1.0}, want);
    weights(pairs, 1.0, "11100100", want);
    expect(pairs, (struct ds_sampling){1.0, 4, 1.0}, want);
    weights(pairs, 1.0, "01000000", want);
    expect(pairs, (struct ds_sampling){0.0, 0, 1.0}, want);
    expect(pairs, (struct ds_sampling){1.0, 1, 1.0}, want);
    weights(flat, 1.0, "10000000", want);
    expect(flat, (struct ds_sampling){0.0, 5, 0.3}, want);
}

Test(sampler, temperatures_far_out)
{
    static const float huge[IDS] = {3e38f, -3e38f, 0, 1, 2, 3e38f, 4, 5};
    double want[IDS];

    weights(usual, 1.0, "00000100", want);
    expect(usual, (struct ds_sampling){1e-300, 0, 1.0}, want);
    expect(usual, (struct ds_sampling){1e-3, 0, 1.0}, want);
    expect(usual, (struct ds_sampling){1e-300, 5, 0.9}, want);
    for (size_t i = 0; i < IDS; i++)
        want[i] = 1.0;
    expect(usual, (struct ds_sampling){1e9, 0, 1.0}, want);
    memset(want, 0, sizeof(want));
    want[0] = want[5] = 1.0;
    expect(huge, (struct ds_sampling){1.0, 0, 1.0}, want);
    expect(huge, (struct ds_sampling){1.0, 4, 1.0}, want);
}

/* What a heap gives is what sorting gives: of many ids, the k-th in order of (logit, id). */
Test(sampler, order_of_many)
{
    enum { MANY = 5000, K = 40 };
    float *logits = calloc(MANY, sizeof(*logits));
    struct ds_sampler sampler;
    unsigned better;

    cr_assert_not_null(logits);
    cr_assert_eq(ds_sampler_init(&sampler, MANY, NULL), 0);
    for (size_t i = 0; i < MANY; i++)
        logits[i] = (float)(ds_rng_u64(1, 2, i) % 300) / 10.0f; /* with many ties */
    for (uint64_t d = 0; d < 300; d++) {
        uint32_t id =
            draw(&sampler, (struct ds_sampling){50.0, K, 1.0}, logits, ds_rng_u64(4, 4, d));

        better = 0;
        for (uint32_t i = 0; i < MANY; i++)
            better += logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
        cr_assert(better < K, "id %u has %u before it", id, better);
    }
    ds_sampler_release(&sampler);
    free(logits);
}

Test(sampler, bits_at_both_ends)
{
    struct ds_sampler sampler;

    cr_assert_eq(ds_sampler_init(&sampler, IDS, NULL), 0);
    cr_assert_eq(draw(&sampler, (struct ds_sampling){1.0, 0, 1.0}, usual, 0), 0);
    cr_assert_eq(draw(&sampler, (struct ds_sampling){1.0, 0, 1.0}, usual, UINT64_MAX), IDS - 1);
    cr_assert_eq(draw(&sampler, (struct ds_sampling){1.0, 3, 1.0}, usual, 0), 5);
    cr_assert_eq(draw(&sampler, (struct ds_sampling){1.0, 3, 1.0}, usual, UINT64_MAX), 7);
    ds_sampler_release(&sampler);
}

Test(sampler, logits_that_are_no_numbers)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    struct ds_sampler sampler;
    float logits[IDS];

    cr_assert_eq(ds_sampler_init(&sampler, IDS, NULL), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const struct ds_sampling greedy = {0};
        struct ds_error err = {0};
        uint32_t id;

        memcpy(logits, usual, sizeof(logits));
        logits[6] = bad[i];
        cr_assert_eq(ds_sample(&sampler, &greedy, logits, 0, &id, &err), -EBADMSG);
        cr_assert(strstr(err.text, "logit of id 6 is") != NULL, "%s", err.text);
    }
    ds_sampler_release(&sampler);
    cr_assert_eq(ds_sampler_init(&sampler, 0, NULL), -EINVAL);
}
