/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ps.c - dsrun ps shows whatever a job is called, and obeys none of it.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/jobs.h"
#include "tests/tempdir.h"

static void setup(void)
{
    tempdir_make();
    cr_assert_eq(setenv("XDG_RUNTIME_DIR", tempdir_path(""), 1), 0);
}

TestSuite(ps, .init = setup, .fini = tempdir_remove);

/* What dsrun ps prints while a job of this name runs in this directory; to be freed. */
static char *printed(const char *name, const char *run_dir, bool json)
{
    struct ds_job_record record = {
        .name = name, .run_dir = run_dir, .hosts = 2, .ranks = 8, .step = 3, .steps = 10};
    const struct ds_cli cli = {.json = json};
    struct ds_error err = {0};
    FILE *real = stdout;
    char *text = NULL;
    size_t len = 0;
    int code;

    cr_assert_eq(ds_job_record_open(&record, &err), 0, "%s", err.text);
    stdout = open_memstream(&text, &len);
    cr_assert_not_null(stdout);
    code = ds_cmd_ps(&cli);
    (void)fclose(stdout);
    stdout = real;
    ds_job_record_close(&record);
    cr_assert_eq(code, 0);
    cr_assert_eq(strlen(text), len, "a NUL was printed");
    return text;
}

static const struct {
    const char *name, *shown;
} names[] = {
    {"tiny", " tiny "},
    {"two words", " two words "},
    {"na\xc3\xafve", " na\xc3\xafve "},
    {"\x1b]0;owned\x07", " \\x1b]0;owned\\x07 "},
    {"a\x1b[2J\x1b[1;1Hb", " a\\x1b[2J\\x1b[1;1Hb "},
    {"over\r\nwritten\b\x7f", " over\\x0d\\x0awritten\\x08\\x7f "},
    {"turned \xe2\x80\xae about", " turned \\xe2\\x80\\xae about "},
    {"\xc2\x9b", " \\xc2\\x9b "}, /* CSI in one character of Unicode */
};

Test(ps, names_are_shown_and_not_obeyed)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *text = printed(names[i].name, "/runs/1", false), *line = strchr(text, '\n');
        char *end = line == NULL ? NULL : strchr(line + 1, '\n');

        cr_assert(end != NULL && end[1] == '\0', "a head and one line: %s", text);
        cr_assert_not_null(strstr(line, names[i].shown), "%s", text);
        for (const char *c = line + 1; c < end; c++)
            cr_assert((unsigned char)*c >= ' ' && *c != 127, "byte %d in: %s", *c, text);
        free(text);
    }
}

Test(ps, so_are_run_directories)
{
    char *text = printed("tiny", "/runs/\x1b[31m\n/etc", false);

    cr_assert_not_null(strstr(text, "  /runs/\\x1b[31m\\x0a/etc\n"), "%s", text);
    free(text);
    text = printed("tiny", "/runs/1", false);
    cr_assert_not_null(strstr(text, " 3/10 "), "%s", text);
    cr_assert_not_null(strstr(text, "  /runs/1\n"), "%s", text);
    free(text);
}

Test(ps, json_holds_the_name_itself)
{
    char *text = printed("\x1b]0;owned\x07", "/runs/1", true);

    cr_assert_not_null(strstr(text, "\"name\":\"\\u001b]0;owned\\u0007\""), "%s", text);
    cr_assert_null(strchr(text, '\x1b'));
    free(text);
}
