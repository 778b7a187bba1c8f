/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_series.h - any number of points in the memory of a thousand, for a plot.
 *
 * Points come one by one, their x never below the first one.  They fall into bins of one width, a
 * power of two; when one lies beyond the last bin, neighbours are joined and the width doubles.  So
 * between half of the bins and all of them are in use, whatever the length, and the least and the
 * largest value of every bin, which is what a plot of that many columns can show, are exact.
 *
 * Tests   tests/cli/test_page.c
 */
#ifndef DS_CLI_PAGE_SERIES_H
#define DS_CLI_PAGE_SERIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DS_BINS = 1024 };

struct ds_bin {
    uint64_t count; /* 0: the rest means nothing */
    double min, max;
    uint64_t at_min, at_max; /* x of these */
};

struct ds_series { /* all zero: empty; plain data */
    uint64_t first_x, last_x, width;
    uint64_t count, dropped; /* dropped: x below the first */
    double min, max, last;
    struct ds_bin bin[DS_BINS];
};

/* `y` is finite. */
void ds_series_add(struct ds_series *series, uint64_t x, double y);

/* The bins from `*at` on that share the next `share` of DS_BINS, as one; false: there is none left.
 * `*at` starts at 0. */
bool ds_series_next(const struct ds_series *series, size_t *at, size_t share, struct ds_bin *bin,
                    uint64_t *from_x);

#endif
