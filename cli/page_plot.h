/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_plot.h - lines over steps, and marks over time, as SVG inside a page.
 *
 * Colours are the page's, by class; title and description are for who cannot see the picture.
 *
 * Tests   tests/cli/test_page.c, tests/e2e/report.py
 */
#ifndef DS_CLI_PAGE_PLOT_H
#define DS_CLI_PAGE_PLOT_H

#include <stddef.h>

#include "base/buf.h"
#include "cli/page_series.h"

struct ds_plot_line {
    const struct ds_series *series;
    const char *name; /* a word, not escaped here */
    bool bad;         /* of marks: what went wrong */
};

/* At least one of the lines has a point.  `id` is unique in the page. */
void ds_plot_lines(struct ds_buf *out, const char *id, const char *title,
                   const struct ds_plot_line *line, size_t lines);

/* Marks, a row for each kind; x are milliseconds from the start. */
void ds_plot_marks(struct ds_buf *out, const char *id, const char *title,
                   const struct ds_plot_line *line, size_t lines);

/* The same lines as a table of at most sixteen rows each. */
void ds_plot_table(struct ds_buf *out, const struct ds_plot_line *line, size_t lines);

#endif
