/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_spec.c - what a worker is told to run: each way in which it can be wrong, and what may not be told.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/spec.h"

#define HEAD "dsrun-job 1\n"
#define GOOD HEAD "run_dir /r\ncwd /c\nattempt 2\n"

static struct ds_run_spec spec; /* too large for a stack */

Test(spec, what_is_written_is_read)
{
    static struct ds_run_spec back;
    struct ds_buf out;
    struct ds_error err = {0};

    spec = (struct ds_run_spec){.run_dir = "/a b/run",
                                .cwd = "/c",
                                .attempt = 12,
                                .saved = true,
                                .evaluate = true,
                                .job_text = "x: 1\n",
                                .job_bytes = 5};
    ds_buf_init(&out, 4096);
    cr_assert_eq(ds_run_spec_write(&spec, &out, &err), 0);
    cr_assert_eq(ds_run_spec_parse(&back, out.data, out.len, &err), 0, "%s", err.text);
    cr_assert_str_eq(back.run_dir, "/a b/run");
    cr_assert_str_eq(back.cwd, "/c");
    cr_assert_eq(back.attempt, 12);
    cr_assert(back.saved && back.evaluate);
    cr_assert_eq(back.job_bytes, 5);
    cr_assert_eq(memcmp(back.job_text, "x: 1\n", 5), 0);
    for (size_t cut = 0; cut < out.len - 5; cut++) /* every cut within the first lines */
        cr_assert_eq(ds_run_spec_parse(&back, out.data, cut, NULL), -EPROTO, "cut at %zu", cut);
    ds_buf_release(&out);
}

/* clang-format off */
static const struct {
    const char *text, *says; /* NULL: nothing, it is good */
} specs[] = {
    {GOOD "\nname: t\n",                       NULL},
    {GOOD "trial a=1 b=2\ntrial c=3\n\n",      NULL},
    {GOOD "evaluate 1\n\n",                    NULL},
    {GOOD "saved 1\n\n",                       NULL},
    {GOOD "saved 0\n\n",                       "job's first lines"},
    {GOOD "evaluate 2\n\n",                    "job's first lines"},
    {GOOD "evaluate \n\n",                     "job's first lines"},
    {"",                                       "not a job of this version"},
    {"dsrun-job 1",                            "not a job of this version"},
    {"dsrun-job 2\n\n",                        "not a job of this version"},
    {"dsrun-job 10\n\n",                       "not a job of this version"},
    {GOOD,                                     "ends within its first lines"},
    {GOOD "trial a=1",                         "ends within its first lines"},
    {HEAD "run_dir /r\nattempt 0\n\n",         "job's first lines"},
    {HEAD "cwd /c\nattempt 0\n\n",             "job's first lines"},
    {HEAD "run_dir \ncwd /c\n\n",              "job's first lines"},
    {HEAD "run_dir\ncwd /c\n\n",               "job's first lines"},
    {HEAD "run_dirs /r\ncwd /c\n\n",           "job's first lines"},
    {HEAD "attempt x\n\n",                     "malformed attempt"},
    {HEAD "attempt -1\n\n",                    "malformed attempt"},
    {HEAD "attempt 1234567890\n\n",            "malformed attempt"},
    {HEAD "colour red\n\n",                    "job's first lines"},
};
/* clang-format on */

Test(spec, is_read_or_refused_with_a_reason)
{
    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        const char *text = specs[i].text, *says = specs[i].says;
        struct ds_error err = {0};
        int rc = ds_run_spec_parse(&spec, text, strlen(text), &err);

        cr_assert_eq(rc, says == NULL ? 0 : -EPROTO, "row %zu: %d %s", i, rc, err.text);
        cr_assert(says == NULL || strstr(err.text, says) != NULL, "row %zu: %s", i, err.text);
        cr_assert(says != NULL || (spec.attempt == 2 && strcmp(spec.cwd, "/c") == 0), "row %zu", i);
    }
}

/* A NUL and what is too long; a line more than there may be trials. */
Test(spec, sizes_are_checked)
{
    char text[2 * DS_MAX_PATH];
    struct ds_error err = {0};
    struct ds_buf many;

    (void)snprintf(text, sizeof(text), HEAD "run_dir /%0*d\n\n", DS_MAX_PATH, 0);
    cr_assert_eq(ds_run_spec_parse(&spec, text, strlen(text), &err), -EPROTO, "%s", err.text);
    cr_assert_eq(ds_run_spec_parse(&spec, HEAD "cwd /a\0b\n\n", sizeof(HEAD) + 10, &err), -EPROTO);
    (void)snprintf(text, sizeof(text), GOOD "trial %0*d\n\n", DS_MAX_TRIAL_TEXT, 0);
    cr_assert_eq(ds_run_spec_parse(&spec, text, strlen(text), &err), -EPROTO, "%s", err.text);
    ds_buf_init(&many, 1 << 20);
    (void)ds_buf_puts(&many, GOOD);
    for (unsigned i = 0; i <= DS_MAX_TRIALS; i++)
        (void)ds_buf_puts(&many, "trial a=1\n");
    (void)ds_buf_puts(&many, "\n");
    cr_assert_eq(ds_run_spec_parse(&spec, many.data, many.len, &err), -EPROTO, "%s", err.text);
    ds_buf_release(&many);
}

/* Who writes refuses what would be read as something else. */
Test(spec, a_name_with_a_line_break_is_not_written)
{
    static const char *const names[][2] = {
        {"", "/c"}, {"/r", ""}, {"/r\nattempt 9", "/c"}, {"/r", "/c\n"}};
    struct ds_buf small;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct ds_error err = {0};
        struct ds_buf out;

        memset(&spec, 0, sizeof(spec));
        (void)snprintf(spec.run_dir, sizeof(spec.run_dir), "%s", names[i][0]);
        (void)snprintf(spec.cwd, sizeof(spec.cwd), "%s", names[i][1]);
        ds_buf_init(&out, 4096);
        cr_assert_eq(ds_run_spec_write(&spec, &out, &err), -EINVAL, "row %zu", i);
        cr_assert_eq(out.len, 0, "row %zu", i);
        ds_buf_release(&out);
    }
    (void)snprintf(spec.run_dir, sizeof(spec.run_dir), "/r");
    (void)snprintf(spec.cwd, sizeof(spec.cwd), "/c");
    ds_buf_init(&small, 20);
    cr_assert_eq(ds_run_spec_write(&spec, &small, NULL), -EMSGSIZE);
    ds_buf_release(&small);
}
