/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_names.c - data.valid with names: in a map, in a list, written and read back, and wrong.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/job/jobs.h"

static void parse(struct ds_job *job, const char *text, const char *override)
{
    struct ds_error err = {0};

    cr_assert_eq(jobs_parse(job, text, override, &err), 0, "%s", err.text);
}

/* "wiki: a*1 b*2; code: c*1": names, and of each its rows with their weights. */
static void describe(const struct ds_job *job, char *out, size_t cap)
{
    struct ds_rows rows;
    size_t used = 0;

    out[0] = '\0';
    for (size_t at = 0; ds_job_next_valid(job, &at, &rows);) {
        const struct ds_data_set *set = rows.row;

        used += (size_t)snprintf(out + used, cap - used, "%s%s:", used > 0 ? "; " : "",
                                 set->name == NULL ? "" : set->name);
        for (size_t i = 0; i < rows.count; i++)
            for (size_t k = 0; k < set[i].path.count; k++)
                used += (size_t)snprintf(out + used, cap - used, "%s%s*%g", k > 0 ? "+" : " ",
                                         set[i].path.item[k], set[i].weight);
    }
}

Test(names, forms)
{
    static const struct {
        const char *override, *want;
    } table[] = {
        {"data.valid=[]", ""},
        {"data.valid=[a, b]", ": a*1+b*1"},
        {"data.valid=[a, {path: b, weight: 2}]", ": a*1 b*2"},
        {"data.valid={path: a, weight: 2}", ": a*2"},
        {"data.valid={wiki: a, code: b}", "wiki: a*1; code: b*1"},
        {"data.valid={wiki: [a, b], code: {path: c, weight: 2}}", "wiki: a*1+b*1; code: c*2"},
        {"data.valid={wiki: [a, {path: [b, c], weight: 2}], 1.5-x: d}",
         "wiki: a*1 b*2+c*2; 1.5-x: d*1"},
        {"data.valid=[{path: a, name: x}, {path: b, name: x, weight: 3}, {name: y, path: c}]",
         "x: a*1 b*3; y: c*1"},
        {"data.valid={path: a, name: alone}", "alone: a*1"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_job job, again;
        struct ds_error err = {0};
        struct ds_buf text;
        char got[200];

        parse(&job, SMALL, table[i].override);
        describe(&job, got, sizeof(got));
        cr_expect_str_eq(got, table[i].want, "%s: %s", table[i].override, got);
        ds_buf_init(&text, DS_MAX_YAML_BYTES);
        cr_assert_eq(ds_job_write(&job, &text, &err), 0, "%s", err.text);
        parse(&again, ds_buf_text(&text), NULL);
        describe(&again, got, sizeof(got));
        cr_expect_str_eq(got, table[i].want, "written: %s", got);
        ds_buf_release(&text);
        ds_job_release(&job);
        ds_job_release(&again);
    }
}

Test(names, wrong_ones)
{
    static const struct {
        const char *override, *message;
    } table[] = {
        {"data.valid={wiki: a, path: b}",
         "'data.valid' item 1: unknown key 'wiki'; known are path, weight, name"},
        {"data.valid={wiki: []}", "'wiki': 'data.valid' names nothing"},
        {"data.valid={wiki: {pth: a}}",
         "'wiki': 'data.valid' item 1: unknown key 'pth', did you mean 'path'?"},
        {"data.valid={wiki: {path: a, name: b}}",
         "'wiki': 'data.valid' item 1: unknown key 'name'; known are path, weight"},
        {"data.valid={wi ki: a}", "'name' in 'data.valid' must be of letters, digits, '.', '_' and "
                                  "'-', not 'wi ki'"},
        {"data.valid={aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: a}",
         "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': 'name' must be at "
         "most 64 bytes long, not 65"},
        {"data.valid=[a, {path: b, name: x}]",
         "'data.valid' has names, so each item must have a 'name'"},
        {"data.valid=[{path: a, name: x}, {path: b, name: y}, {path: c, name: x}]",
         "'data.valid' item 3: 'x' is the name of an item further up, beside which it must stand"},
        {"data.valid={x: [{path: a, weight: 1000000}, {path: b, weight: 0.7}]}",
         "'data.valid': the order of these weights repeats after 10000007 sequences, which may be "
         "1048576 at most; give them fewer digits"},
        {"data.valid={x: {path: a, weight: 1000000}, y: {path: b, weight: 0.7}}", NULL},
        {"data.train={wiki: a}", "'data.train' item 1: unknown key 'wiki'; known are path, weight"},
        {"data.train={path: a, name: b}",
         "'data.train' item 1: unknown key 'name'; known are path, weight"},
    };
    struct ds_error err = {0};
    struct ds_job job;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char want[400];
        int rc = jobs_parse(&job, SMALL, table[i].override, &err);

        (void)snprintf(want, sizeof(want), "override '%s': %s", table[i].override,
                       table[i].message == NULL ? "" : table[i].message);
        cr_expect_eq(rc, table[i].message == NULL ? 0 : -EINVAL, "%s", table[i].override);
        if (table[i].message != NULL)
            cr_expect_str_eq(err.text, want);
        ds_job_release(&job);
    }
}

/* At the line that is wrong. */
Test(names, places)
{
    static const char text[] = "name: t\n"
                               "data:\n"
                               "  train: a\n"
                               "  valid:\n"
                               "    wiki: a\n"
                               "    code:\n"
                               "      - b\n"
                               "      - {path: c, weight: 0}\n";
    struct ds_error err = {0};
    struct ds_job job;

    cr_expect_eq(jobs_parse(&job, text, NULL, &err), -EINVAL);
    cr_expect_str_eq(err.text, "job.yaml:8:27: 'code': 'data.valid' item 2: 'weight' must be a "
                               "number between 1e-06 and 1000000, not '0'");
    ds_job_release(&job);
}
