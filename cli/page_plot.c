/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_plot.c - the contract is in page_plot.h.
 */
#include "cli/page_plot.h"

#include <math.h>

#include "cli/page_text.h"

enum {
    WIDTH = 760,
    HEIGHT = 240,
    LEFT = 64,
    RIGHT = 12,
    TOP = 10,
    BOTTOM = 26,
    ROW = 20,
    NAMES = 90
};
enum { TABLE_ROWS = 16 };
#define LEAST 1e-290 /* ranges below are too small to be divided */

struct frame { /* from values to places */
    double x0, x1, y0, y1;
    double left, right, top, bottom;
};

static double place_x(const struct frame *f, double x)
{
    return f->left + (x - f->x0) / (f->x1 - f->x0) * (f->right - f->left);
}

static double place_y(const struct frame *f, double y)
{
    return f->bottom - (y - f->y0) / (f->y1 - f->y0) * (f->bottom - f->top);
}

/* Room for all lines; a range of one value is made wide enough to be divided by. */
static void fit(struct frame *f, const struct ds_plot_line *line, size_t lines)
{
    bool first = true;

    for (size_t i = 0; i < lines; i++) {
        const struct ds_series *s = line[i].series;

        if (s->count == 0)
            continue;
        f->x0 = first ? (double)s->first_x : fmin(f->x0, (double)s->first_x);
        f->x1 = first ? (double)s->last_x : fmax(f->x1, (double)s->last_x);
        f->y0 = first ? s->min : fmin(f->y0, s->min);
        f->y1 = first ? s->max : fmax(f->y1, s->max);
        first = false;
    }
    if (f->x1 - f->x0 < fmax(1.0, 1e-9 * f->x0)) /* a whole step may be no difference */
        f->x1 = f->x0 + fmax(1.0, 1e-9 * f->x0);
    if (f->y1 - f->y0 <= fmax(LEAST, 1e-9 * fmax(fabs(f->y0), fabs(f->y1)))) {
        double half = f->y0 == 0.0 ? 1.0 : fmax(LEAST, fabs(f->y0) * 0.1);

        f->y0 -= half;
        f->y1 += half;
    }
}

/* --- lines ------------------------------------------------------------------------------------ */

static void put_x_axis(struct ds_buf *out, const struct frame *f)
{
    double tick[DS_TICKS];
    int digits;
    size_t n = ds_ticks(f->x0, f->x1, 8, tick, &digits);
    char text[DS_NUMBER_TEXT];

    for (size_t i = 0; i < n; i++)
        ds_buf_printf(
            out, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%s</text>",
            place_x(f, tick[i]), (int)f->bottom + 16, ds_number_text(tick[i], digits, text));
}

static void put_y_axis(struct ds_buf *out, const struct frame *f)
{
    double tick[DS_TICKS];
    int digits;
    size_t n = ds_ticks(f->y0, f->y1, 5, tick, &digits);
    char text[DS_NUMBER_TEXT];

    for (size_t i = 0; i < n; i++) {
        double y = place_y(f, tick[i]);

        ds_buf_printf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>",
                      (int)f->left, (int)f->right, y, y);
        ds_buf_printf(out, "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%s</text>",
                      (int)f->left - 6, y + 4.0, ds_number_text(tick[i], digits, text));
    }
}

/* Least and largest of a bin, in the order in which they came. */
static void put_path(struct ds_buf *out, const struct frame *f, const struct ds_series *s,
                     size_t which)
{
    struct ds_bin bin;
    const char *verb = "M";
    uint64_t from;

    ds_buf_printf(out, "<path class=\"line c%zu\" d=\"", which);
    for (size_t at = 0; ds_series_next(s, &at, 1, &bin, &from); verb = "L") {
        bool up = bin.at_min <= bin.at_max;
        double x = place_x(f, (double)(up ? bin.at_min : bin.at_max));

        ds_buf_printf(out, "%s%.1f,%.1f", verb, x, place_y(f, up ? bin.min : bin.max));
        if (bin.count > 1 && bin.at_min != bin.at_max)
            ds_buf_printf(out, "L%.1f,%.1f", place_x(f, (double)(up ? bin.at_max : bin.at_min)),
                          place_y(f, up ? bin.max : bin.min));
        if (s->count == 1) /* a point is a dot: round ends make it visible */
            ds_buf_puts(out, "h0.1");
    }
    ds_buf_puts(out, "\"/>");
}

static void put_legend(struct ds_buf *out, const struct ds_plot_line *line, size_t lines)
{
    for (size_t i = 0; i < lines && lines > 1; i++)
        if (line[i].series->count > 0)
            ds_buf_printf(
                out, "<text class=\"name c%zu\" text-anchor=\"end\" x=\"%d\" y=\"%d\">%s</text>", i,
                WIDTH - RIGHT - 4, TOP + 14 + 16 * (int)i, line[i].name);
}

static void put_summary(struct ds_buf *out, const struct ds_plot_line *line, size_t lines)
{
    char least[DS_NUMBER_TEXT], largest[DS_NUMBER_TEXT], last[DS_NUMBER_TEXT];

    for (size_t i = 0; i < lines; i++) {
        const struct ds_series *s = line[i].series;

        if (s->count > 0)
            ds_buf_printf(out, "%s%s over steps %ju to %ju: least %s, largest %s, last %s",
                          i > 0 ? "; " : "", line[i].name, (uintmax_t)s->first_x,
                          (uintmax_t)s->last_x, ds_number_text(s->min, 5, least),
                          ds_number_text(s->max, 5, largest), ds_number_text(s->last, 5, last));
    }
}

static void open_svg(struct ds_buf *out, const char *id, const char *title, int height)
{
    ds_buf_printf(out,
                  "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"%s-t %s-d\">"
                  "<title id=\"%s-t\">%s</title><desc id=\"%s-d\">",
                  WIDTH, height, id, id, id, title, id);
}

void ds_plot_lines(struct ds_buf *out, const char *id, const char *title,
                   const struct ds_plot_line *line, size_t lines)
{
    struct frame f = {.left = LEFT, .right = WIDTH - RIGHT, .top = TOP, .bottom = HEIGHT - BOTTOM};

    fit(&f, line, lines);
    open_svg(out, id, title, HEIGHT);
    put_summary(out, line, lines);
    ds_buf_puts(out, "</desc>");
    put_y_axis(out, &f);
    put_x_axis(out, &f);
    for (size_t i = 0; i < lines; i++)
        if (line[i].series->count > 0)
            put_path(out, &f, line[i].series, i);
    put_legend(out, line, lines);
    ds_buf_puts(out, "</svg>\n");
}

/* --- marks ------------------------------------------------------------------------------------ */

static void put_time_axis(struct ds_buf *out, const struct frame *f)
{
    double tick[DS_TICKS];
    size_t n = ds_time_ticks((f->x1 - f->x0) / 1000.0, 8, tick);
    char text[DS_NUMBER_TEXT];

    for (size_t i = 0; i < n; i++) {
        double x = place_x(f, tick[i] * 1000.0);

        ds_buf_printf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x,
                      x, (int)f->top, (int)f->bottom);
        ds_buf_printf(out,
                      "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%s</text>",
                      x, (int)f->bottom + 16, ds_duration_text(tick[i], text));
    }
}

static void put_marks(struct ds_buf *out, const struct frame *f, const struct ds_plot_line *line,
                      double y)
{
    struct ds_bin bin;
    uint64_t from;

    ds_buf_printf(out, "<path class=\"mark%s\" d=\"", line->bad ? " wrong" : "");
    for (size_t at = 0; ds_series_next(line->series, &at, 1, &bin, &from);)
        ds_buf_printf(out, "M%.1f,%.1fv%d", place_x(f, (double)bin.at_min), y + 3.0, ROW - 6);
    ds_buf_puts(out, "\"/>");
}

void ds_plot_marks(struct ds_buf *out, const char *id, const char *title,
                   const struct ds_plot_line *line, size_t lines)
{
    struct frame f = {.left = NAMES, .right = WIDTH - 3 * RIGHT, .top = TOP};
    int height = TOP + BOTTOM;

    for (size_t i = 0; i < lines; i++)
        height += line[i].series->count > 0 ? ROW : 0;
    f.bottom = height - BOTTOM;
    fit(&f, line, lines);
    f.x0 = 0.0; /* from the start on */
    open_svg(out, id, title, height);
    for (size_t i = 0; i < lines; i++)
        if (line[i].series->count > 0)
            ds_buf_printf(out, "%s: %ju. ", line[i].name, (uintmax_t)line[i].series->count);
    ds_buf_puts(out, "</desc>");
    put_time_axis(out, &f);
    for (size_t i = 0, row = 0; i < lines; i++) {
        double y = TOP + ROW * (double)row;

        if (line[i].series->count == 0)
            continue;
        ds_buf_printf(out, "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%s</text>",
                      NAMES - 8, y + ROW - 6.0, line[i].name);
        put_marks(out, &f, &line[i], y);
        row++;
    }
    ds_buf_puts(out, "</svg>\n");
}

/* --- the table -------------------------------------------------------------------------------- */

void ds_plot_table(struct ds_buf *out, const struct ds_plot_line *line, size_t lines)
{
    char least[DS_NUMBER_TEXT], largest[DS_NUMBER_TEXT];

    ds_buf_puts(
        out,
        "<details><summary>as a table</summary><table><thead><tr><th scope=\"col\">from step</th>"
        "<th scope=\"col\">of</th><th scope=\"col\">points</th><th scope=\"col\">least</th>"
        "<th scope=\"col\">largest</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < lines; i++) {
        const struct ds_series *s = line[i].series;
        size_t used = s->count > 0 ? (size_t)((s->last_x - s->first_x) / s->width) + 1 : 0;
        struct ds_bin bin;
        uint64_t from;

        for (size_t at = 0;
             ds_series_next(s, &at, (used + TABLE_ROWS - 1) / TABLE_ROWS, &bin, &from);)
            ds_buf_printf(out,
                          "<tr><td>%ju</td><td>%s</td><td>%ju</td><td>%s</td><td>%s</td></tr>\n",
                          (uintmax_t)from, line[i].name, (uintmax_t)bin.count,
                          ds_number_text(bin.min, 5, least), ds_number_text(bin.max, 5, largest));
    }
    ds_buf_puts(out, "</tbody></table></details>\n");
}
