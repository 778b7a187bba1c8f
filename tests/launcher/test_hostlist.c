/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_hostlist.c - names become ranges, and the ranges give the names back.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "launcher/hosts/hostlist.h"
#include "launcher/hosts/roster.h"

enum { NAMES = 12 };

/* clang-format off */
static const struct {
    const char *name[NAMES + 1];
    const char *want;
} lists[] = {
    {{"a"}, "a"},
    {{"node01", "node02", "node03"}, "node[01-03]"},
    {{"node3", "node1", "node2"}, "node[1-3]"},
    {{"node1", "node1"}, "node1"},
    {{"n8", "n9", "n10", "n11"}, "n[8-11]"},
    {{"n08", "n09", "n10", "n11"}, "n[08-11]"},
    {{"n098", "n099", "n100"}, "n[098-100]"},
    {{"n9", "n010"}, "n[9,010]"},           /* a range from 9 would give n10 */
    {{"n1", "n01", "n2", "n02"}, "n[01,1,02,2]"},
    {{"n0", "n1"}, "n[0-1]"},
    {{"n00", "n01", "n1"}, "n[00-01,1]"},
    {{"a1", "b1", "a2", "c"}, "a[1-2],b1,c"},
    {{"n1-ib", "n2-ib"}, "n[1-2]-ib"},
    {{"r1n1", "r1n2", "r2n1"}, "r1n[1-2],r2n1"},
    {{"n1.x2.org", "n2.x2.org"}, "n[1-2].x2.org"},
    {{"n1.x1.org", "n1.x2.org"}, "n1.x1.org,n1.x2.org"},
    {{"10.0.0.7", "10.0.0.8", "10.0.1.8"}, "10.0.0.[7-8],10.0.1.8"},
    {{"n1234567890", "n1234567891"}, "n1234567890,n1234567891"}, /* ten digits are no number */
    {{"7", "8"}, "[7-8]"},
    {{NULL}, ""},
};
/* clang-format on */

Test(hostlist, names_become_ranges)
{
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        size_t count = 0;
        struct ds_buf out;

        ds_buf_init(&out, 1000);
        while (lists[i].name[count] != NULL)
            count++;
        cr_expect_eq(ds_hostlist_print(lists[i].name, count, &out), 0);
        cr_expect_str_eq(ds_buf_text(&out), lists[i].want);
        ds_buf_release(&out);
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The comma-separated list back to names, by the hostfile's own ranges. */
static size_t expand(char *list, char (*out)[32])
{
    size_t n = 0, depth = 0;
    char *item = list;

    for (char *at = list;; at++) {
        char name[DS_MAX_HOST_NAME + 1];
        struct ds_range range;
        bool end = *at == '\0';
        size_t count;

        depth += *at == '[';
        depth -= *at == ']';
        if (!end && (*at != ',' || depth > 0))
            continue;
        *at = '\0';
        cr_assert_eq(ds_range_count(item, &count, NULL), 0, "%s", item);
        ds_range_start(&range, item);
        while (ds_range_next(&range, name))
            (void)snprintf(out[n++], 32, "%.31s", name);
        item = at + 1;
        if (end)
            return n;
    }
}

Test(hostlist, what_is_printed_reads_back)
{
    static const struct {
        const char *before, *after;
        int width;
    } frames[] = {{"n", "", 0}, {"n", "", 2}, {"n", "-x", 3}, {"r", "n1", 0}, {"", "", 0}};

    for (uint64_t seed = 0; seed < 2000; seed++) {
        char made[40][32], read[40][32];
        const char *name[40];
        size_t count = 1 + ds_rng_u64(seed, 0, 0) % 40, unique = 0;
        struct ds_buf out;

        for (size_t i = 0; i < count; i++) {
            uint64_t dice = ds_rng_u64(seed, 1, i);

            (void)snprintf(made[i], sizeof(made[i]), "%s%0*llu%s", frames[dice % 5].before,
                           frames[dice % 5].width, (unsigned long long)(dice >> 8) % 120,
                           frames[dice % 5].after);
            name[i] = made[i];
        }
        ds_buf_init(&out, 10000);
        cr_assert_eq(ds_hostlist_print(name, count, &out), 0);
        qsort(name, count, sizeof(name[0]), by_text);
        for (size_t i = 0; i < count; i++)
            if (unique == 0 || strcmp(name[unique - 1], name[i]) != 0)
                name[unique++] = name[i];
        cr_assert_eq(expand(out.data, read), unique, "seed %llu", (unsigned long long)seed);
        for (size_t i = 0; i < unique; i++) {
            bool found = false;

            for (size_t k = 0; k < unique; k++)
                found = found || strcmp(read[k], name[i]) == 0;
            cr_assert(found, "seed %llu: %s", (unsigned long long)seed, name[i]);
        }
        ds_buf_release(&out);
    }
}

Test(hostlist, a_full_buffer_is_an_error)
{
    static const char *const names[] = {"node1", "node2"};
    struct ds_buf out;

    ds_buf_init(&out, 4);
    cr_expect(ds_hostlist_print(names, 2, &out) < 0);
    ds_buf_release(&out);
}
