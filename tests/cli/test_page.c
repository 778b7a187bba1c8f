/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_page.c - what a page about a run is made of: bins, ticks, texts, plots, what lines say.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/page.h"
#include "cli/page_plot.h"
#include "cli/page_text.h"
#include "cli/size.h"

/* --- bins ------------------------------------------------------------------------------------- */

static double wave(uint64_t x)
{
    return sin((double)x * 0.37) * 100.0 + (double)(x % 97);
}

/* Least and largest of every bin against all points that lie in it. */
static void check_bins(const struct ds_series *s, uint64_t points, uint64_t stride)
{
    struct ds_bin bin;
    uint64_t from, seen = 0;

    for (size_t at = 0; ds_series_next(s, &at, 1, &bin, &from);) {
        double min = HUGE_VAL, max = -HUGE_VAL;
        uint64_t n = 0;

        for (uint64_t i = 0; i < points; i++) {
            uint64_t x = 7 + i * stride;

            if (x < from || x >= from + s->width)
                continue;
            n++;
            min = fmin(min, wave(x));
            max = fmax(max, wave(x));
        }
        cr_assert(bin.count == n && bin.min == min && bin.max == max, "bin at %ju",
                  (uintmax_t)from);
        cr_assert(wave(bin.at_min) == min && wave(bin.at_max) == max);
        seen += n;
    }
    cr_assert_eq(seen, points);
}

Test(series, bins_are_exact)
{
    static const uint64_t points[] = {1, 2, 1023, 1024, 1025, 2049, 20000},
                          strides[] = {1, 3, 1000};

    for (size_t p = 0; p < sizeof(points) / sizeof(points[0]); p++) {
        for (size_t k = 0; k < sizeof(strides) / sizeof(strides[0]); k++) {
            struct ds_series *s = calloc(1, sizeof(*s));
            uint64_t span = (points[p] - 1) * strides[k] + 1;

            for (uint64_t i = 0; i < points[p]; i++)
                ds_series_add(s, 7 + i * strides[k], wave(7 + i * strides[k]));
            cr_assert(s->width * DS_BINS >= span &&
                          (s->width == 1 || s->width * DS_BINS / 2 < span),
                      "width %ju for %ju", (uintmax_t)s->width, (uintmax_t)span);
            check_bins(s, points[p], strides[k]);
            free(s);
        }
    }
}

Test(series, far_and_before)
{
    struct ds_series *s = calloc(1, sizeof(*s));
    struct ds_bin bin;
    uint64_t from;
    size_t at = 0;

    cr_assert(!ds_series_next(s, &at, 1, &bin, &from));
    ds_series_add(s, 5, 1.0);
    ds_series_add(s, 4, 9.0);
    ds_series_add(s, INT64_MAX, 2.0);
    cr_assert(s->dropped == 1 && s->count == 2 && s->max == 2.0);
    at = 0;
    cr_assert(ds_series_next(s, &at, DS_BINS, &bin, &from));
    cr_assert(bin.count == 2 && bin.at_max == INT64_MAX && from == 5);
    cr_assert(!ds_series_next(s, &at, DS_BINS, &bin, &from));
    free(s);
}

/* --- ticks and texts ---------------------------------------------------------------------------- */

Test(text, ticks)
{
    static const struct {
        double lo, hi;
        size_t most, n;
        double first, step;
        int digits;
    } table[] = {
        {0, 39, 8, 8, 0, 5, 2},
        {3.3, 5.57, 5, 5, 3.5, 0.5, 3},
        {-1, 1, 5, 5, -1, 0.5, 2},
        {1e-4, 3e-4, 5, 5, 1e-4, 5e-5, 2},
        {2.30001, 2.30005, 5, 5, 2.30001, 1e-5, 7},
        {0, 1e300, 5, 6, 0, 2e299, 2},
        {-9e299, 9e299, 5, 3, -5e299, 5e299, 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        double tick[DS_TICKS];
        int digits;
        size_t n = ds_ticks(table[i].lo, table[i].hi, table[i].most, tick, &digits);

        cr_assert_eq(n, table[i].n, "row %zu: %zu ticks", i, n);
        cr_assert_eq(digits, table[i].digits, "row %zu: %d digits", i, digits);
        for (size_t k = 0; k < n; k++)
            cr_assert(fabs(tick[k] - (table[i].first + (double)k * table[i].step)) <=
                          1e-9 * table[i].step + 1e-15 * fabs(tick[k]),
                      "row %zu: %g", i, tick[k]);
    }
}

Test(text, ticks_of_time)
{
    static const struct {
        double hi;
        size_t n;
        double step;
    } table[] = {
        {0.3, 7, 0.05},
        {1, 2, 1},
        {59, 6, 10},
        {3600, 7, 600},
        {86400, 9, 10800},
        {7 * 86400.0, 8, 86400},
        {400 * 86400.0, 9, 50 * 86400.0},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        double tick[DS_TICKS];
        size_t n = ds_time_ticks(table[i].hi, 8, tick);

        cr_assert_eq(n, table[i].n, "row %zu: %zu ticks, the second %g", i, n, tick[1]);
        cr_assert(fabs(tick[1] - table[i].step) < 1e-9, "row %zu: %g", i, tick[1]);
    }
}

Test(text, numbers)
{
    char out[DS_NUMBER_TEXT], size[DS_SIZE_TEXT];

    cr_assert_str_eq(ds_number_text(0.00012, 4, out), "0.00012");
    cr_assert_str_eq(ds_number_text(9999, 4, out), "9999");
    cr_assert_str_eq(ds_number_text(12345, 3, out), "12.3k");
    cr_assert_str_eq(ds_number_text(-999999, 4, out), "-1M");
    cr_assert_str_eq(ds_number_text(4.5e12, 4, out), "4.5T");
    cr_assert_str_eq(ds_number_text(1e300, 4, out), "1e+300");
    cr_assert_str_eq(ds_duration_text(-3, out), "0 s");
    cr_assert_str_eq(ds_duration_text(59.94, out), "59.9 s");
    cr_assert_str_eq(ds_duration_text(61, out), "1:01 min");
    cr_assert_str_eq(ds_duration_text(3600 * 5 + 7 * 60, out), "5:07 h");
    cr_assert_str_eq(ds_duration_text(86400 * 3 + 3600, out), "3 d 1 h");
    cr_assert_str_eq(ds_duration_text(nan(""), out), "0 s");
    cr_assert_str_eq(ds_time_text(0, out), "1970-01-01 00:00:00");
    cr_assert_str_eq(ds_time_text(1e18, out), "?");
    cr_assert_str_eq(ds_size_text(1023, size), "1023 B");
    cr_assert_str_eq(ds_size_text(1536, size), "1.5 KiB");
    cr_assert_str_eq(ds_size_text(UINT64_MAX, size), "16.0 EiB");
}

Test(text, escaped)
{
    static const struct {
        const char *text, *want;
    } table[] = {
        {"plain \u00e9 text", "plain \u00e9 text"},
        {"<script>alert('x' && \"y\")</script>",
         "&lt;script&gt;alert(&#39;x&#39; &amp;&amp; &quot;y&quot;)&lt;/script&gt;"},
        {"a\nb\n\nc", "a\nb\n\nc"},
        {"\x1b[31m", "\\x1b[31m"},
        {"bad \xff\xc3", "bad \\xff\\xc3"},
        {"\xef\xbf\xbe \xef\xbf\xbf \xef\xbc\x81", "\xef\xbf\xbd \xef\xbf\xbd \xef\xbc\x81"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_buf out;

        ds_buf_init(&out, 4096);
        ds_page_puts(&out, table[i].text);
        cr_assert_str_eq(ds_buf_text(&out), table[i].want, "row %zu", i);
        ds_buf_release(&out);
    }
}

/* A character that stands across the end of a piece is not torn. */
Test(text, long_lines)
{
    char text[1200], want[1200];
    struct ds_buf out;

    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'x', shift);
        for (size_t i = 0; i < 250; i++)
            memcpy(text + shift + 4 * i, "\xf0\x9f\x90\xa7", 4);
        memcpy(want, text, shift + 1000);
        want[shift + 1000] = '\0';
        ds_buf_init(&out, 1 << 16);
        ds_page_text(&out, text, shift + 1000);
        cr_assert_str_eq(ds_buf_text(&out), want, "shift %zu", shift);
        ds_buf_release(&out);
    }
}

/* --- plots ------------------------------------------------------------------------------------- */

static void plot(struct ds_series *s, struct ds_buf *out)
{
    const struct ds_plot_line line = {s, "loss", false};

    ds_buf_init(out, 1 << 20);
    ds_plot_lines(out, "p", "loss", &line, 1);
    ds_plot_table(out, &line, 1);
    ds_plot_marks(out, "m", "marks", &line, 1);
    cr_assert(!out->failed);
    cr_assert(strstr(ds_buf_text(out), "nan") == NULL && strstr(ds_buf_text(out), "inf") == NULL,
              "%s", ds_buf_text(out));
}

Test(plot, edges)
{
    static const struct {
        uint64_t x[3];
        double y[3];
        size_t n;
    } table[] = {
        {{0}, {0.0}, 1},
        {{5}, {2.5}, 1},
        {{0, 1}, {3.0, 3.0}, 2},
        {{0, 1}, {1e300, -1e300}, 2},
        {{0, INT64_MAX}, {1e-300, 2e-300}, 2},
        {{1, 2, 3}, {-0.0, 0.0, 1e-320}, 3},
        {{INT64_MAX}, {5e-324}, 1},
        {{INT64_MAX - 1, INT64_MAX}, {5e-324, 1e-323}, 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_series *s = calloc(1, sizeof(*s));
        struct ds_buf out;

        for (size_t k = 0; k < table[i].n; k++)
            ds_series_add(s, table[i].x[k], table[i].y[k]);
        plot(s, &out);
        ds_buf_release(&out);
        free(s);
    }
}

Test(plot, millions_are_small)
{
    struct ds_series *s = calloc(1, sizeof(*s));
    struct ds_buf out;

    for (uint64_t x = 0; x < 3000000; x++)
        ds_series_add(s, x, wave(x));
    plot(s, &out);
    cr_assert_lt(out.len, 60000);
    ds_buf_release(&out);
    free(s);
}

/* --- what lines say ---------------------------------------------------------------------------- */

#define METRIC(page, text) ds_page_metrics_line(page, text, strlen(text))
#define EVENT(page, text)  ds_page_event_line(page, text, strlen(text))

Test(page, metrics)
{
    struct ds_page *page = calloc(1, sizeof(*page));

    METRIC(page, "{\"step\":0,\"loss\":5.5,\"lr\":0.1,\"tokens\":128,\"time\":1000.5}");
    METRIC(page, "{\"step\":1,\"loss\":null,\"tokens\":256}");
    METRIC(page, "{\"step\":2,\"loss\":1e301,\"tokens\":-1}");
    METRIC(page, "{\"step\":2,\"valid_loss\":4.5}");
    METRIC(page, "{\"step\":3,\"valid_loss\":4.75}");
    METRIC(page, "{\"step\":3,\"valid_loss\":4.75,\"valid_loss/a\":2.5,\"valid_loss/<b>\":7}");
    METRIC(page, "{\"step\":4,\"valid_loss\":4.75,\"valid_loss/a\":3,\"valid_loss/<b>\":null}");
    METRIC(page, "{\"step\":-1,\"loss\":1}");
    METRIC(page, "{\"step\":\"1\",\"loss\":1}");
    METRIC(page, "{\"step\":4,\"lo");
    METRIC(page, "");
    cr_assert(page->lines == 11 && page->damaged == 4 && page->not_finite == 1);
    cr_assert(page->metric[DS_PAGE_LOSS].count == 1 && page->metric[DS_PAGE_VALID].count == 4);
    cr_assert(page->names == 2 && page->more_names == 0);
    cr_assert_str_eq(page->named[0].name, "a");
    cr_assert_str_eq(page->named[1].name, "<b>");
    cr_assert(page->named[0].loss.count == 2 && page->named[0].best == 2.5 &&
              page->named[0].best_step == 3);
    cr_assert(page->named[1].loss.count == 1 && page->named[1].loss.last == 7.0);
    cr_assert(page->made == 3 && page->tokens == 256 && page->last_s == 1000.5);
    cr_assert(page->best_valid == 4.5 && page->best_step == 2);
    ds_page_release(page);
    free(page);
}

Test(page, states)
{
    static const struct {
        const char *event[4];
        bool running;
        const char *state, *why;
    } table[] = {
        {{"{\"event\":\"launch\",\"time\":10}"}, true, "running", ""},
        {{"{\"event\":\"launch\",\"time\":10}"}, false, "broken off", "dsrun ended without a word"},
        {{"{\"event\":\"launch\",\"time\":10}", "{\"event\":\"exit\",\"code\":0,\"time\":12}"},
         false,
         "done",
         ""},
        {{"{\"event\":\"launch\",\"time\":10}", "{\"event\":\"exit\",\"code\":75,\"time\":12}"},
         false,
         "stopped",
         "by a signal"},
        {{"{\"event\":\"failure\",\"cause\":\"rank 3 fell\",\"time\":11}",
          "{\"event\":\"exit\",\"code\":9,\"time\":12}"},
         false,
         "failed",
         "exit code 9: rank 3 fell"},
        {{"{\"event\":\"failure\",\"cause\":\"old\",\"time\":11}",
          "{\"event\":\"exit\",\"code\":9,\"time\":12}", "{\"event\":\"launch\",\"time\":13}",
          "{\"event\":\"exit\",\"code\":65,\"time\":14}"},
         false,
         "failed",
         "exit code 65"},
        {{"{\"event\":\"failure\",\"cause\":7,\"time\":11}",
          "{\"event\":\"exit\",\"code\":\"x\",\"time\":12}"},
         false,
         "done",
         ""},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_page *page = calloc(1, sizeof(*page));
        char why[DS_PAGE_WHY];

        for (size_t k = 0; k < 4 && table[i].event[k] != NULL; k++)
            EVENT(page, table[i].event[k]);
        page->running = table[i].running;
        cr_assert_str_eq(ds_page_state(page, why), table[i].state, "row %zu", i);
        cr_assert(strncmp(why, table[i].why, strlen(table[i].why)) == 0, "row %zu: %s", i, why);
        ds_page_release(page);
        free(page);
    }
}

/* The first and the last ones are kept, in their order. */
Test(page, many_events)
{
    static const size_t counts[] = {1,
                                    DS_PAGE_FIRST,
                                    DS_PAGE_FIRST + 1,
                                    DS_PAGE_FIRST + DS_PAGE_LAST,
                                    DS_PAGE_FIRST + DS_PAGE_LAST + 1,
                                    1000};

    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        struct ds_page *page = calloc(1, sizeof(*page));
        size_t kept = 0;

        for (size_t i = 0; i < counts[c]; i++) {
            char text[200];

            (void)snprintf(text, sizeof(text),
                           "{\"event\":\"checkpoint\",\"step\":%zu,\"time\":%zu}", i, i + 1);
            EVENT(page, text);
            EVENT(page, "{\"event\":\"cores\",\"time\":5}");
        }
        for (const struct ds_page_event *e; (e = ds_page_event(page, kept)) != NULL; kept++) {
            size_t step = kept < DS_PAGE_FIRST || counts[c] <= DS_PAGE_FIRST + DS_PAGE_LAST
                              ? kept
                              : counts[c] - DS_PAGE_LAST + kept - DS_PAGE_FIRST;
            char want[40];

            (void)snprintf(want, sizeof(want), "{\"step\":%zu}", step);
            cr_assert_str_eq(e->detail, want, "event %zu of %zu", kept, counts[c]);
        }
        cr_assert_eq(kept, counts[c] < DS_PAGE_FIRST + DS_PAGE_LAST ? counts[c]
                                                                    : DS_PAGE_FIRST + DS_PAGE_LAST);
        cr_assert(page->told == counts[c] && page->events == 2 * counts[c]);
        ds_page_release(page);
        free(page);
    }
}
