/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_view.c - views of columns: what is one, and where the elements of one lie in another.
 */
#include "runtime/ckpt/view.h"

#include <errno.h>

#include "tests/ckpt/columns.h"

#define RUNS(n, ...)                                                                               \
    {                                                                                              \
        .runs = (n), .run = { __VA_ARGS__ }                                                        \
    }

/* clang-format off */
static const struct {
    struct ds_ckpt_view given;
    uint64_t columns;
    struct ds_ckpt_view shortest;
    const char *text; /* or, with `says`, what is refused */
    const char *says;
} forms[] = {
    {RUNS(0, {0, 0}), 7, RUNS(0, {0, 0}), "", NULL},
    {RUNS(1, {0, 7}), 7, RUNS(0, {0, 0}), "", NULL},
    {RUNS(1, {0, 6}), 7, RUNS(1, {0, 6}), "[:,0:6]", NULL},
    {RUNS(3, {0, 2}, {2, 3}, {5, 2}), 7, RUNS(0, {0, 0}), "", NULL},
    {RUNS(3, {0, 2}, {2, 3}, {6, 1}), 7, RUNS(2, {0, 5}, {6, 1}), "[:,0:5,6:7]", NULL},
    {RUNS(4, {0, 1}, {2, 1}, {4, 1}, {6, 1}), 7, RUNS(4, {0, 1}, {2, 1}, {4, 1}, {6, 1}),
     "[:,0:1,2:3,4:5,6:7]", NULL},
    {RUNS(4, {0, 1}, {UINT64_MAX / 4, 1}, {UINT64_MAX / 2, 1}, {UINT64_MAX - 1, 1}), UINT64_MAX,
     RUNS(4, {0, 1}, {UINT64_MAX / 4, 1}, {UINT64_MAX / 2, 1}, {UINT64_MAX - 1, 1}),
     "[:,0:1,4611686018427387903:4611686018427387904,9223372036854775807:9223372036854775808,"
     "18446744073709551614:18446744073709551615]", NULL},
    {RUNS(5, {0, 1}, {2, 1}, {4, 1}, {6, 1}), 9, RUNS(0, {0, 0}), "", "5 runs of columns, at most 4"},
    {RUNS(2, {0, 1}, {3, 0}), 7, RUNS(0, {0, 0}), "", "run 1 of a view's columns is empty"},
    {RUNS(1, {0, 8}), 7, RUNS(0, {0, 0}), "", "8 columns from 0 on, is not in 7"},
    {RUNS(1, {8, 1}), 7, RUNS(0, {0, 0}), "", "1 columns from 8 on, is not in 7"},
    {RUNS(1, {5, UINT64_MAX}), 7, RUNS(0, {0, 0}), "", "is not in 7"},
    {RUNS(1, {0, 1}), 0, RUNS(0, {0, 0}), "", "is not in 0"},
    {RUNS(2, {3, 1}, {0, 1}), 7, RUNS(0, {0, 0}), "", "run 1 of a view's columns does not lie behind run 0"},
    {RUNS(2, {0, 3}, {2, 3}), 7, RUNS(0, {0, 0}), "", "does not lie behind"},
    {RUNS(2, {1, 3}, {1, 3}), 7, RUNS(0, {0, 0}), "", "does not lie behind"},
};
/* clang-format on */

Test(view, has_one_shortest_form_and_is_checked)
{
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const uint64_t shape[3] = {1, 1, forms[i].columns};
        struct ds_ckpt_view out = {.runs = 9};
        struct ds_error err = {0};
        char text[DS__VIEW_TEXT];
        uint64_t elems = 0;
        int rc = ds__view_shorten(&forms[i].given, shape, 3, &out, &elems, &err);

        cr_assert(rc == (forms[i].says != NULL ? -EINVAL : 0), "case %zu: %s", i, err.text);
        if (rc < 0) {
            cr_assert(strstr(err.text, forms[i].says) != NULL && out.runs == 9, "case %zu: %s", i,
                      err.text);
            continue;
        }
        cr_assert(memcmp(&out, &forms[i].shortest, sizeof(out)) == 0, "case %zu", i);
        cr_assert(strcmp(ds__view_text(&out, text), forms[i].text) == 0, "case %zu: %s", i, text);
        cr_assert(elems == ds__view_width(&out, forms[i].columns));
    }
}

Test(view, of_a_scalar_an_empty_tensor_and_one_too_large)
{
    const struct ds_ckpt_view all = {.runs = 0}, first = RUNS(1, {0, 1});
    const uint64_t empty[2] = {0, 4}, large[2] = {UINT64_C(1) << 60, 32};
    struct ds_ckpt_view out;
    uint64_t elems = 0;

    cr_assert(ds__view_shorten(&all, NULL, 0, &out, &elems, NULL) == 0 && elems == 1);
    cr_assert(ds__view_shorten(&first, NULL, 0, &out, &elems, NULL) == 0 && out.runs == 0);
    cr_assert(ds__view_shorten(&first, empty, 2, &out, &elems, NULL) == 0);
    cr_assert(out.runs == 1 && elems == 0);
    cr_assert(ds__view_shorten(&first, large, 2, &out, &elems, NULL) == -EOVERFLOW);
}

Test(view, equality_looks_at_the_runs_that_there_are)
{
    const struct ds_ckpt_view a = RUNS(1, {0, 3}, {9, 9}), b = RUNS(1, {0, 3});
    const struct ds_ckpt_view c = RUNS(1, {0, 2}), d = RUNS(2, {0, 3}, {9, 9});

    cr_assert(ds__view_equal(&a, &b) && !ds__view_equal(&a, &c) && !ds__view_equal(&a, &d));
}

/* --- one view in another -------------------------------------------------------------------- */

enum { ROWS = 4, COLUMNS = 12, ROUNDS = 20000 };

/* A random view in its shortest form, of at least one column. */
static struct ds_ckpt_view any_view(struct dice *dice, uint64_t columns)
{
    struct ds_ckpt_view part[MAX_PARTS], out;
    const uint64_t shape[1] = {columns};
    unsigned parts = 1 + roll(dice, MAX_PARTS), which = roll(dice, parts);
    uint64_t elems = 0;

    divide_columns(dice, columns, parts, part);
    while (part[which].runs == 0)
        which = roll(dice, parts);
    cr_assert(ds__view_shorten(&part[which], shape, 1, &out, &elems, NULL) == 0);
    return out;
}

static struct ds__view_range any_range(struct dice *dice, uint64_t elems)
{
    struct ds__view_range range;

    range.first = roll(dice, (unsigned)elems);
    range.count = 1 + roll(dice, (unsigned)(elems - range.first));
    return range;
}

/* Which element of `from` is element `at` of `to`?  -1: none is. */
static int64_t brute(const struct ds_ckpt_view *from, const struct ds_ckpt_view *to,
                     uint64_t columns, uint64_t at)
{
    uint64_t place = place_of(to, columns, at);

    for (uint64_t i = 0; i < ROWS * ds__view_width(from, columns); i++)
        if (place_of(from, columns, i) == place)
            return (int64_t)i;
    return -1;
}

/* The span starts and ends at an element that is needed, and has all of them. */
static void check_span(const struct ds_ckpt_view *from, const struct ds_ckpt_view *to,
                       uint64_t columns, struct ds__view_range wanted, struct ds__view_range span)
{
    int64_t first = -1, last = -1;

    for (uint64_t i = 0; i < wanted.count; i++) {
        int64_t at = brute(from, to, columns, wanted.first + i);

        first = first < 0 ? at : first;
        last = at > last ? at : last;
    }
    if (first < 0)
        cr_assert(span.count == 0);
    else
        cr_assert(span.first == (uint64_t)first && span.first + span.count == (uint64_t)last + 1);
}

/* Scatter the span in pieces of any length; what `from` does not have is not touched. */
static void check_scatter(struct dice *dice, const struct ds_ckpt_view *from,
                          const struct ds_ckpt_view *to, uint64_t columns,
                          struct ds__view_range wanted, struct ds__view_range span)
{
    uint16_t data[ROWS * COLUMNS], out[ROWS * COLUMNS + 2];
    struct ds__view_range have = {.first = span.first};
    struct ds__view_map map;

    ds__view_map(&map, from, to, columns);
    memset(out, 0xff, sizeof(out));
    for (uint64_t left = span.count; left > 0; left -= have.count) {
        have.count = 1 + roll(dice, (unsigned)left);
        for (uint64_t i = 0; i < have.count; i++)
            data[i] = (uint16_t)place_of(from, columns, have.first + i);
        ds__view_scatter(&map, have, data, wanted, out + 1, sizeof(out[0]));
        have.first += have.count;
    }
    cr_assert(out[0] == 0xffff && out[wanted.count + 1] == 0xffff);
    for (uint64_t i = 0; i < wanted.count; i++) {
        bool has = brute(from, to, columns, wanted.first + i) >= 0;

        cr_assert(out[i + 1] == (has ? place_of(to, columns, wanted.first + i) : 0xffff));
    }
}

Test(view, every_element_comes_to_its_place_from_any_other_view)
{
    struct dice dice = {.seed = 1};

    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t columns = 1 + roll(&dice, COLUMNS);
        struct ds_ckpt_view from = any_view(&dice, columns), to = any_view(&dice, columns);
        struct ds__view_range wanted = any_range(&dice, ROWS * ds__view_width(&to, columns)), span;
        struct ds__view_map map;

        ds__view_map(&map, &from, &to, columns);
        span = ds__view_span(&map, wanted);
        check_span(&from, &to, columns, wanted, span);
        check_scatter(&dice, &from, &to, columns, wanted, span);
        wanted.count = 0;
        cr_assert(ds__view_span(&map, wanted).count == 0);
    }
}
