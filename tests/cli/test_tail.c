/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_tail.c - the last lines of files of any shape, and files that grow, shrink or are none.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/tail.h"
#include "tests/tempdir.h"

TestSuite(tail, .init = tempdir_make, .fini = tempdir_remove);

static void open_tail(struct ds_tail *tail, const char *text, size_t len, size_t max)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_tail_open(tail, AT_FDCWD, tempdir_write("file", text, len), max, &err), 0, "%s",
                 err.text);
}

static void append(const char *text)
{
    FILE *file = fopen(tempdir_path("file"), "ab");

    cr_assert(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* The lines that come, each followed by '|', into out[1 << 20]. */
static const char *lines(struct ds_tail *tail, bool last)
{
    static char out[1 << 20];
    struct ds_error err = {0};
    const char *line;
    size_t len, used = 0;
    int rc;

    while ((rc = ds_tail_next(tail, last, &line, &len, &err)) > 0) {
        cr_assert_lt(used + len + 2, sizeof(out));
        memcpy(out + used, line, len);
        used += len;
        out[used++] = '|';
    }
    cr_assert_eq(rc, 0, "%s", err.text);
    out[used] = '\0';
    return out;
}

Test(tail, last_lines)
{
    static const struct {
        const char *text;
        uint64_t lines;
        const char *want;
    } table[] = {
        {"", 3, ""},
        {"a\nb\nc\n", 2, "b|c|"},
        {"a\nb\nc\n", 3, "a|b|c|"},
        {"a\nb\nc", 2, "b|c|"},
        {"a\nb\nc\n", 9, "a|b|c|"},
        {"a\nb\nc\n", 0, ""},
        {"a\n\n\n", 2, "||"},
        {"\n", 1, "|"},
        {"\n\n", 1, "|"},
        {"one", 1, "one|"},
        {"a\nb", 1, "b|"},
        {"a\n", 1000000000, "a|"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_error err = {0};
        struct ds_tail tail;

        open_tail(&tail, table[i].text, strlen(table[i].text), 100);
        cr_assert_eq(ds_tail_back(&tail, table[i].lines, &err), 0, "%s", err.text);
        cr_assert_str_eq(lines(&tail, true), table[i].want, "row %zu", i);
        ds_tail_close(&tail);
    }
}

/* Against the plain way, over sizes around those of blocks. */
Test(tail, last_lines_of_large_files)
{
    static const size_t sizes[] = {4095, 4096, 4097, 65535, 65536, 65537, 200000};
    char *text = malloc(200000);
    unsigned seed = 1;

    cr_assert_not_null(text);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t k = 0; k < sizes[i]; k++) {
            seed = seed * 1103515245u + 12345u;
            text[k] = (seed >> 16) % 50 == 0 ? '\n' : 'x';
        }
        for (uint64_t want = 1; want < 6000; want *= 7) {
            struct ds_tail tail;
            size_t at = sizes[i];

            for (uint64_t left = want + (text[at - 1] == '\n'); at > 0; at--)
                if (text[at - 1] == '\n' && --left == 0)
                    break;
            open_tail(&tail, text, sizes[i], 1000);
            cr_assert_eq(ds_tail_back(&tail, want, NULL), 0);
            cr_assert_eq(tail.at, at, "size %zu, %zu lines", sizes[i], (size_t)want);
            cr_assert_eq(strlen(lines(&tail, true)), sizes[i] - at + (text[sizes[i] - 1] != '\n'));
            ds_tail_close(&tail);
        }
    }
    free(text);
}

Test(tail, long_lines_come_in_pieces)
{
    struct ds_tail tail;

    open_tail(&tail, "12345\n123456\n1234567890123\nx\n", 29, 5);
    cr_assert_str_eq(lines(&tail, true), "12345|12345|6|12345|67890|123|x|");
    cr_assert_eq(ds_tail_back(&tail, 1, NULL), 0);
    cr_assert_str_eq(lines(&tail, true), "x|");
    ds_tail_close(&tail);
}

/* A file of one endless line is not read from its start, nor kept. */
Test(tail, what_is_read_is_bounded)
{
    struct ds_error err = {0};
    struct ds_tail tail;
    const char *line;
    size_t len, given = 0;

    open_tail(&tail, "", 0, 1000);
    cr_assert_eq(truncate(tempdir_path("file"), (off_t)1 << 40), 0); /* sparse: a TiB */
    cr_assert_eq(ds_tail_back(&tail, 20, &err), 0, "%s", err.text);
    cr_assert_eq(tail.at, (UINT64_C(1) << 40) - UINT64_C(20) * 1001);
    while (ds_tail_next(&tail, true, &line, &len, &err) > 0) {
        cr_assert_leq(len, 1000);
        given += len;
    }
    cr_assert_eq(given, 20 * 1001);
    cr_assert_leq(tail.held.cap, 4 * 65536);
    ds_tail_close(&tail);
}

Test(tail, follows_what_is_added)
{
    struct ds_tail tail;

    open_tail(&tail, "a\nb", 3, 100);
    cr_assert_str_eq(lines(&tail, false), "a|");
    cr_assert_str_eq(lines(&tail, false), "", "a line without an end is none yet");
    append("c");
    cr_assert_str_eq(lines(&tail, false), "");
    append("\nd\ne");
    cr_assert_str_eq(lines(&tail, false), "bc|d|");
    cr_assert_str_eq(lines(&tail, true), "e|");
    ds_tail_close(&tail);
}

Test(tail, follows_a_file_that_was_cut)
{
    struct ds_tail tail;

    open_tail(&tail, "a\ntorn", 6, 100);
    cr_assert_str_eq(lines(&tail, false), "a|");
    cr_assert_eq(truncate(tempdir_path("file"), 2), 0);
    cr_assert_str_eq(lines(&tail, false), "");
    append("whole\n");
    cr_assert_str_eq(lines(&tail, false), "whole|", "what was torn is forgotten");
    cr_assert_eq(truncate(tempdir_path("file"), 0), 0);
    cr_assert_str_eq(lines(&tail, false), "");
    append("anew\n");
    cr_assert_str_eq(lines(&tail, false), "anew|");
    ds_tail_close(&tail);
}

Test(tail, only_files_are_opened)
{
    struct ds_error err = {0};
    struct ds_tail tail;

    cr_assert_eq(ds_tail_open(&tail, AT_FDCWD, tempdir_path("none"), 10, &err), -ENOENT);
    ds_tail_close(&tail);
    cr_assert_eq(symlink("/etc/passwd", tempdir_path("link")), 0);
    cr_assert_eq(ds_tail_open(&tail, AT_FDCWD, tempdir_path("link"), 10, &err), -ELOOP);
    ds_tail_close(&tail);
    cr_assert_eq(mkfifo(tempdir_path("pipe"), 0600), 0);
    cr_assert_eq(ds_tail_open(&tail, AT_FDCWD, tempdir_path("pipe"), 10, &err), -EINVAL);
    cr_assert_eq(ds_tail_open(&tail, AT_FDCWD, tempdir_path(""), 10, &err), -EINVAL);
    ds_tail_close(&tail);
}
