/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_share.c - who writes what: every element once, in equal parts, small tensors whole.
 */
#include <errno.h>

#include "runtime/ckpt/share.h"
#include "tests/ckpt/support.h"

enum { MANY = 4, MOST = 64 };

/* clang-format off */
static const struct { unsigned world; uint64_t block; uint64_t elems[MANY]; } cases[] = {
    {1, 8, {1, 2, 3, 4}},
    {2, 8, {1, 1, 1, 1}},
    {2, 8, {100, 1, 1, 1}},
    {3, 64, {97, 13, 0, 31}},
    {7, 8, {1000, 1, 999, 3}},
    {7, 262144, {1000, 1, 999, 3}},   /* all of it less than a cut may move */
    {64, 8, {3, 1, 2, 1}},            /* more ranks than elements */
    {5, 4096, {123457, 5, 77777, 19}},
};
/* clang-format on */

static void make(struct ds_ckpt_tensor *t, size_t c)
{
    memset(t, 0, MANY * sizeof(*t));
    for (size_t i = 0; i < MANY; i++) {
        (void)snprintf(t[i].name, sizeof(t[i].name), "t%zu", i);
        t[i].ndim = 1;
        t[i].shape[0] = t[i].count = cases[c].elems[i];
    }
}

Test(share, every_element_has_one_writer)
{
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct ds_ckpt_tensor t[MANY];
        uint64_t next[MANY] = {0}, total = 0, most = 0;

        make(t, c);
        for (unsigned rank = 0; rank < cases[c].world; rank++) {
            const struct ds__share_args args = {.tensors = t,
                                                .count = MANY,
                                                .rank = rank,
                                                .world = cases[c].world,
                                                .block_bytes = cases[c].block};
            struct ds__share share[MANY];
            size_t shares = 0;
            uint64_t bytes = 0;

            cr_assert(ds__share_out(&args, share, &shares, NULL) == 0);
            for (size_t i = 0; i < shares; i++) {
                size_t which = (size_t)(share[i].tensor - t);

                cr_assert(share[i].count > 0 && share[i].first == next[which], "case %zu", c);
                next[which] += share[i].count;
                bytes += share[i].count * 4;
            }
            most = bytes > most ? bytes : most;
            total += bytes;
        }
        for (size_t i = 0; i < MANY; i++)
            cr_assert(next[i] == cases[c].elems[i], "case %zu: %ju of tensor %zu", c,
                      (uintmax_t)next[i], i);
        cr_assert(most <= total / cases[c].world + cases[c].block / 2 + 8, "case %zu: %ju of %ju",
                  c, (uintmax_t)most, (uintmax_t)total);
    }
}

/* A cut within a quarter of a block from a tensor's end moves there. */
Test(share, small_tensors_stay_whole)
{
    struct ds_ckpt_tensor t[MANY];
    const struct ds__share_args args = {
        .tensors = t, .count = MANY, .rank = 0, .world = 2, .block_bytes = 4096};
    struct ds__share share[MANY];
    size_t shares = 0;

    make(t, 0);
    for (size_t i = 0; i < MANY; i++)
        t[i].shape[0] = t[i].count = i == 0 ? 1000 : 300;
    cr_assert(ds__share_out(&args, share, &shares, NULL) == 0); /* 950: 50 before the end */
    cr_assert(shares == 1 && share[0].count == 1000);
    t[1].shape[0] = t[1].count = 1500; /* 1550: 550 into the second one */
    cr_assert(ds__share_out(&args, share, &shares, NULL) == 0);
    cr_assert(shares == 2 && share[1].count == 544, "whole units: %ju", (uintmax_t)share[1].count);
}

Test(share, what_cannot_be_is_refused)
{
    struct ds_ckpt_tensor t[MANY];
    struct ds__share_args args = {
        .tensors = t, .count = MANY, .rank = 1, .world = 2, .block_bytes = 4096};
    struct ds__share share[MANY];
    size_t shares = 0;

    make(t, 0);
    t[2].first = 1;
    cr_assert(ds__share_out(&args, share, &shares, NULL) == -EINVAL);
    t[2].first = UINT64_MAX;
    cr_assert(ds__share_out(&args, share, &shares, NULL) == -EINVAL);
    t[2].first = 0;
    t[2].replicas = 2;
    t[2].replica = 2;
    cr_assert(ds__share_out(&args, share, &shares, NULL) == -EINVAL);
    t[2].replicas = 3;
    cr_assert(ds__share_out(&args, share, &shares, NULL) == -EINVAL);
    t[2].replicas = 0;
    t[1].shape[0] = t[1].count = UINT64_MAX / 4;
    cr_assert(ds__share_out(&args, share, &shares, NULL) == -EOVERFLOW);
}

/* Ranges that other ranks share are other lines, with other cuts. */
Test(share, each_set_of_replicas_is_cut_on_its_own)
{
    struct ds_ckpt_tensor t[MANY];
    struct ds__share_args args = {
        .tensors = t, .count = MANY, .rank = 2, .world = 4, .block_bytes = 8};
    struct ds__share share[MANY];
    size_t shares = 0;

    make(t, 0);
    for (size_t i = 0; i < MANY; i++)
        t[i].shape[0] = t[i].count = 80;
    t[1].replicas = t[3].replicas = 2; /* the second half of these: tensor 3 */
    t[1].replica = t[3].replica = 1;
    t[0].replicas = 1; /* nobody else has it */
    cr_assert(ds__share_out(&args, share, &shares, NULL) == 0);
    cr_assert(shares == 3);
    cr_assert(share[0].tensor == &t[0] && share[0].count == 80);
    cr_assert(share[1].tensor == &t[2] && share[1].first == 40 && share[1].count == 20);
    cr_assert(share[2].tensor == &t[3] && share[2].count == 80);
}

/* Who shares the first with one rank and the second with another, in the same place of as many. */
Test(share, of_other_groups_is_another_line)
{
    for (unsigned rank = 0; rank < 4; rank++) {
        struct ds_ckpt_tensor t[2];
        const struct ds__share_args args = {
            .tensors = t, .count = 2, .rank = rank, .world = 4, .block_bytes = 8};
        struct ds__share share[2];
        size_t shares = 0;

        memset(t, 0, sizeof(t));
        for (unsigned i = 0; i < 2; i++) {
            t[i].ndim = 1;
            t[i].shape[0] = t[i].count = 100;
            t[i].group = i;
            t[i].replicas = 2;
            t[i].replica = i == 0 ? rank % 2 : rank / 2;
        }
        cr_assert(ds__share_out(&args, share, &shares, NULL) == 0 && shares == 2);
        for (unsigned i = 0; i < 2; i++)
            cr_assert(share[i].count == 50 && share[i].first == 50 * t[i].replica);
    }
}
