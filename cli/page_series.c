/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_series.c - the contract is in page_series.h.
 */
#include "cli/page_series.h"

#include <string.h>

static void join(struct ds_bin *into, const struct ds_bin *bin)
{
    if (bin->count == 0)
        return;
    if (into->count == 0) {
        *into = *bin;
        return;
    }
    into->count += bin->count;
    if (bin->min < into->min) {
        into->min = bin->min;
        into->at_min = bin->at_min;
    }
    if (bin->max > into->max) {
        into->max = bin->max;
        into->at_max = bin->at_max;
    }
}

static void widen(struct ds_series *series)
{
    for (size_t i = 0; i < DS_BINS / 2; i++) {
        struct ds_bin both = series->bin[2 * i];

        join(&both, &series->bin[2 * i + 1]);
        series->bin[i] = both;
    }
    memset(&series->bin[DS_BINS / 2], 0, sizeof(series->bin) / 2);
    series->width *= 2;
}

void ds_series_add(struct ds_series *series, uint64_t x, double y)
{
    const struct ds_bin point = {.count = 1, .min = y, .max = y, .at_min = x, .at_max = x};

    if (series->count == 0) {
        series->first_x = x;
        series->width = 1;
        series->min = series->max = y;
    }
    if (x < series->first_x) {
        series->dropped++;
        return;
    }
    while ((x - series->first_x) / series->width >= DS_BINS)
        widen(series);
    join(&series->bin[(x - series->first_x) / series->width], &point);
    series->count++;
    series->last_x = x > series->last_x ? x : series->last_x;
    series->last = y;
    series->min = y < series->min ? y : series->min;
    series->max = y > series->max ? y : series->max;
}

bool ds_series_next(const struct ds_series *series, size_t *at, size_t share, struct ds_bin *bin,
                    uint64_t *from_x)
{
    while (*at < DS_BINS && series->count > 0) {
        *bin = (struct ds_bin){.count = 0};
        *from_x = series->first_x + *at * series->width;
        for (size_t end = *at + share; *at < end && *at < DS_BINS; ++*at)
            join(bin, &series->bin[*at]);
        if (bin->count > 0)
            return true;
    }
    return false;
}
