/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reads.h - which bytes of which files fill a range of a view of a tensor, as it was saved.
 *
 * The range is cut by the ranges of the manifest and these by their blocks: a block is what can be
 * read and checked on its own.  Every byte asked for comes once; only the first and the last block
 * of each saved range may bring bytes beside it, which are read to be checked and dropped.
 *
 * Pure.
 * Tests   tests/ckpt/test_reads.c
 */
#ifndef DS_RUNTIME_READS_H
#define DS_RUNTIME_READS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/ckpt/manifest.h"

struct ds__read {
    size_t file;
    uint64_t offset, bytes; /* of a block: in the file */
    uint64_t xxh3;
    uint64_t skip, take; /* of the block's bytes, those that are asked for */
    uint64_t to;         /* where they go, in bytes from the start of what was asked for */
};

struct ds__reads {
    const struct ds_manifest *manifest; /* borrowed */
    const struct ds_manifest_view *view;
    size_t elem_bytes;
    size_t range;            /* of the view: where the next block is */
    uint64_t block;          /* of the range */
    uint64_t from, at, last; /* bytes of the view: asked for from `from`, still from `at` on */
};

/* Elements `first` to first + count, which the view has, of `elem_bytes` bytes each. */
void ds__reads_init(struct ds__reads *reads, const struct ds_manifest *manifest,
                    const struct ds_manifest_view *view, size_t elem_bytes, uint64_t first,
                    uint64_t count);

/* The next read, in the order of the view's elements; false when there are no more. */
bool ds__reads_next(struct ds__reads *reads, struct ds__read *read);

#endif
