/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_logmux.c - lines from pieces: cut anywhere, too long, harmful, kept for the report.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/fleet/logmux.h"

static struct ds_buf seen;

static void on_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    (void)user;
    (void)ds_buf_printf(&seen, "%u%c<%s>", rank, stream == DS_LOG_STDERR ? 'e' : 'o', text);
}

static void begin(struct ds_logmux *mux)
{
    ds_buf_init(&seen, 1 << 24);
    cr_assert_eq(ds_logmux_init(mux, 3, on_line, NULL, NULL), 0);
}

static void end(struct ds_logmux *mux)
{
    ds_logmux_release(mux);
    ds_buf_release(&seen);
}

Test(logmux, any_pieces_give_the_same_lines)
{
    static const char text[] = "one\n\ntwo\r\nthr\033[1mee\tx\x80\nlast";
    static const char want[] = "1o<one>1o<>1o<two>1o<thr\\x1b[1mee\tx\\x80>1o<last>";

    for (size_t piece = 1; piece < sizeof(text); piece++) {
        struct ds_logmux mux;

        begin(&mux);
        for (size_t at = 0; at < sizeof(text) - 1; at += piece)
            ds_logmux_feed(&mux, 1, DS_LOG_STDOUT, text + at,
                           sizeof(text) - 1 - at < piece ? sizeof(text) - 1 - at : piece);
        ds_logmux_end(&mux, 1);
        cr_assert_str_eq(ds_buf_text(&seen), want, "pieces of %zu", piece);
        end(&mux);
    }
}

Test(logmux, streams_and_ranks_do_not_mix)
{
    struct ds_logmux mux;

    begin(&mux);
    ds_logmux_feed(&mux, 0, DS_LOG_STDOUT, "a", 1);
    ds_logmux_feed(&mux, 0, DS_LOG_STDERR, "b", 1);
    ds_logmux_feed(&mux, 2, DS_LOG_STDOUT, "c", 1);
    ds_logmux_feed(&mux, 2, DS_LOG_STDOUT, "\n", 1);
    ds_logmux_feed(&mux, 0, DS_LOG_STDERR, "\n", 1);
    ds_logmux_end(&mux, 0);
    ds_logmux_end(&mux, 1);
    cr_assert_str_eq(ds_buf_text(&seen), "2o<c>0e<b>0o<a>");
    end(&mux);
}

Test(logmux, long_lines_leave_in_bounded_pieces)
{
    size_t total = 3 * DS_MAX_LINE_BYTES + 7;
    char *text = malloc(total + 1);
    struct ds_logmux mux;
    size_t pieces = 0;

    memset(text, 'x', total);
    text[total] = '\n';
    begin(&mux);
    ds_logmux_feed(&mux, 0, DS_LOG_STDOUT, text, total + 1);
    for (const char *at = ds_buf_text(&seen); (at = strchr(at, '<')) != NULL; pieces++) {
        size_t len = strcspn(++at, ">");

        cr_assert_eq(len, pieces < 3 ? (size_t)DS_MAX_LINE_BYTES : 7, "piece %zu: %zu", pieces,
                     len);
    }
    cr_assert_eq(pieces, 4);
    end(&mux);
    free(text);
}

Test(logmux, the_tail_is_the_last_lines_of_stderr)
{
    struct ds_logmux mux;
    char line[3000], want[1024] = "";

    begin(&mux);
    ds_logmux_tail(&mux, 0, on_line, NULL);
    cr_assert_eq(seen.len, 0, "nothing was kept yet");
    for (int i = 0; i < DS_TAIL_LINES + 5; i++) {
        int len = snprintf(line, sizeof(line), "line %d\n", i);

        ds_logmux_feed(&mux, 0, DS_LOG_STDERR, line, (size_t)len);
        ds_logmux_feed(&mux, 0, DS_LOG_STDOUT, "not this\n", 9);
        if (i >= 5)
            (void)snprintf(want + strlen(want), sizeof(want) - strlen(want), "0e<line %d>", i);
    }
    ds_buf_reset(&seen);
    ds_logmux_tail(&mux, 0, on_line, NULL);
    cr_assert_str_eq(ds_buf_text(&seen), want);
    memset(line, 'y', sizeof(line));
    ds_logmux_feed(&mux, 1, DS_LOG_STDERR, line, sizeof(line));
    ds_logmux_end(&mux, 1);
    ds_buf_reset(&seen);
    ds_logmux_tail(&mux, 1, on_line, NULL);
    cr_assert_eq(seen.len, 4 + DS_TAIL_LINE_BYTES - 1, "a kept line is bounded: %zu", seen.len);
    end(&mux);
}
