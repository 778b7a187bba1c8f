/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reads.c - the contract is in reads.h.
 */
#include "runtime/ckpt/reads.h"

#include <string.h>

static uint64_t begin_of(const struct ds__reads *reads, size_t range)
{
    return reads->view->range[range].begin_elem * reads->elem_bytes;
}

static uint64_t block_of(const struct ds__reads *reads, const struct ds_manifest_range *range)
{
    return reads->manifest->block_bytes > 0 ? reads->manifest->block_bytes : range->bytes;
}

/* The last range that starts at byte `at` or before it. */
static size_t find_range(const struct ds__reads *reads, uint64_t at)
{
    size_t low = 0, high = reads->view->ranges;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (begin_of(reads, middle) <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void ds__reads_init(struct ds__reads *reads, const struct ds_manifest *manifest,
                    const struct ds_manifest_view *view, size_t elem_bytes, uint64_t first,
                    uint64_t count)
{
    *reads = (struct ds__reads){.manifest = manifest,
                                .view = view,
                                .elem_bytes = elem_bytes,
                                .from = first * elem_bytes,
                                .at = first * elem_bytes,
                                .last = (first + count) * elem_bytes};
    if (count == 0)
        return;
    reads->range = find_range(reads, reads->at);
    reads->block =
        (reads->at - begin_of(reads, reads->range)) / block_of(reads, &view->range[reads->range]);
}

bool ds__reads_next(struct ds__reads *reads, struct ds__read *read)
{
    const struct ds_manifest_range *range;
    uint64_t block, start, left, begin;

    if (reads->at >= reads->last)
        return false;
    while (reads->view->range[reads->range].bytes == 0)
        reads->range++; /* an empty range: what is asked for lies behind it */
    range = &reads->view->range[reads->range];
    block = block_of(reads, range);
    start = reads->block * block;
    left = range->bytes - start;
    begin = begin_of(reads, reads->range) + start; /* in the view */
    *read = (struct ds__read){.file = range->file,
                              .offset = range->offset + start,
                              .bytes = left < block ? left : block,
                              .xxh3 = range->xxh3[reads->block],
                              .skip = reads->at - begin,
                              .to = reads->at - reads->from};
    read->take = read->bytes - read->skip;
    if (read->take > reads->last - reads->at)
        read->take = reads->last - reads->at;
    reads->at += read->take;
    reads->block++;
    if (start + read->bytes == range->bytes) {
        reads->range++;
        reads->block = 0;
    }
    return true;
}
