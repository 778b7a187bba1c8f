/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_fold.c - equal texts are kept once, whatever the order; bounds hold.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "cli/fold.h"

static void put(struct ds_fold *fold, uint32_t host, const char *text)
{
    cr_assert_eq(ds_fold_put(fold, host, text, strlen(text)), 0);
}

/* "0,2 1" : the hosts of each text, by their lowest. */
static void groups(const struct ds_fold *fold, char *out, size_t cap)
{
    size_t used = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < fold->hosts; i++) {
        if (!ds_fold_leads(fold, i))
            continue;
        used += (size_t)snprintf(out + used, cap - used, "%s", used > 0 ? " " : "");
        for (uint32_t k = i; k != DS_FOLD_END; k = ds_fold_after(fold, k))
            used += (size_t)snprintf(out + used, cap - used, "%s%u", k != i ? "," : "", k);
    }
}

Test(fold, equal_texts_are_one)
{
    struct ds_fold fold;
    char text[64];

    cr_assert_eq(ds_fold_init(&fold, 5, NULL), 0);
    put(&fold, 3, "same\n");
    ds_fold_close(&fold, 3);
    put(&fold, 0, "sa");
    put(&fold, 1, "other\n");
    put(&fold, 0, "me\n");
    ds_fold_close(&fold, 0);
    put(&fold, 4, "same");
    ds_fold_close(&fold, 1);
    ds_fold_close(&fold, 1); /* twice is once */
    ds_fold_seal(&fold);
    groups(&fold, text, sizeof(text));
    cr_expect_str_eq(text, "0,3 1 4"); /* 2 said nothing */
    cr_expect_str_eq(ds_buf_text(ds_fold_text(&fold, 0)), "same\n");
    cr_expect_str_eq(ds_buf_text(ds_fold_text(&fold, 3)), "same\n");
    cr_expect_str_eq(ds_buf_text(ds_fold_text(&fold, 2)), "");
    cr_expect_eq(fold.held_bytes, strlen("same\nother\nsame"));
    ds_fold_release(&fold);
}

Test(fold, bytes_of_any_kind)
{
    struct ds_fold fold;
    char text[64];

    cr_assert_eq(ds_fold_init(&fold, 3, NULL), 0);
    cr_assert_eq(ds_fold_put(&fold, 0, "a\0b", 3), 0);
    cr_assert_eq(ds_fold_put(&fold, 1, "a\0c", 3), 0);
    cr_assert_eq(ds_fold_put(&fold, 2, "a\0b", 3), 0);
    ds_fold_seal(&fold);
    groups(&fold, text, sizeof(text));
    cr_expect_str_eq(text, "0,2 1");
    ds_fold_release(&fold);
}

Test(fold, what_was_dropped_is_forgotten)
{
    struct ds_fold fold;
    char text[64];

    cr_assert_eq(ds_fold_init(&fold, 2, NULL), 0);
    put(&fold, 0, "x");
    put(&fold, 1, "longer");
    ds_fold_drop(&fold, 1);
    cr_expect_eq(fold.held_bytes, 1);
    put(&fold, 1, "x");
    ds_fold_seal(&fold);
    groups(&fold, text, sizeof(text));
    cr_expect_str_eq(text, "0,1");
    ds_fold_release(&fold);
}

/* A host has its bound, all have theirs, and shared texts count once. */
Test(fold, bounds)
{
    static char block[DS_MAX_FOLD_BYTES];
    enum { FULL = DS_MAX_FOLD_ALL / DS_MAX_FOLD_BYTES };
    struct ds_fold fold;

    memset(block, 'a', sizeof(block));
    cr_assert_eq(ds_fold_init(&fold, FULL + 3, NULL), 0);
    cr_expect_eq(ds_fold_put(&fold, 0, block, sizeof(block)), 0);
    cr_expect_eq(ds_fold_put(&fold, 0, "b", 1), -ENOBUFS);
    cr_expect_eq(ds_fold_text(&fold, 0)->len, sizeof(block), "nothing was added");
    ds_fold_close(&fold, 0);
    cr_expect_eq(ds_fold_put(&fold, 1, block, sizeof(block)), 0);
    ds_fold_close(&fold, 1);
    cr_expect_eq(fold.held_bytes, sizeof(block), "the same text twice");
    for (uint32_t i = 2; i < FULL + 1; i++) {
        block[0] = (char)i;
        cr_assert_eq(ds_fold_put(&fold, i, block, sizeof(block)), 0, "host %u", i);
        ds_fold_close(&fold, i);
    }
    cr_expect_eq(ds_fold_put(&fold, FULL + 2, "b", 1), -ENOBUFS);
    ds_fold_seal(&fold);
    cr_expect(ds_fold_leads(&fold, 0) && !ds_fold_leads(&fold, 1));
    ds_fold_release(&fold);
}

/* Against the obvious way: compare every host with every lower one. */
Test(fold, like_a_plain_search)
{
    enum { HOSTS = 60 };

    for (uint64_t seed = 0; seed < 500; seed++) {
        struct ds_fold fold;
        uint64_t kind[HOSTS];

        cr_assert_eq(ds_fold_init(&fold, HOSTS, NULL), 0);
        for (uint32_t i = 0; i < HOSTS; i++) {
            uint32_t host = (uint32_t)((i * 7 + seed) % HOSTS);
            char text[32];

            kind[host] = ds_rng_u64(seed, 0, host) % (1 + seed % 20);
            (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)kind[host]);
            put(&fold, host, text);
            ds_fold_close(&fold, host);
        }
        ds_fold_seal(&fold);
        for (uint32_t i = 0; i < HOSTS; i++) {
            uint32_t lowest = 0, next = i + 1;

            while (kind[lowest] != kind[i])
                lowest++;
            while (next < HOSTS && kind[next] != kind[i])
                next++;
            cr_assert_eq(ds_fold_leads(&fold, i), lowest == i, "seed %llu",
                         (unsigned long long)seed);
            cr_assert_eq(ds_fold_after(&fold, i), next < HOSTS ? next : DS_FOLD_END, "seed %llu",
                         (unsigned long long)seed);
        }
        ds_fold_release(&fold);
    }
}
