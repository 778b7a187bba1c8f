/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gather.h - a range of any view of a tensor, read from whatever views it was saved in.
 *
 * Where that very view was saved, its blocks go straight to their place.  Else whole rows of each
 * view that has some of the columns are read through a room of 1 MiB, and those columns copied to
 * where they belong: a call reads every block once, and the two at the ends of each view's rows
 * again in the next one, so pieces should be large.
 *
 * Tests   tests/ckpt/test_views.c
 */
#ifndef DS_RUNTIME_GATHER_H
#define DS_RUNTIME_GATHER_H

#include <stdint.h>

#include "base/error.h"
#include "runtime/ckpt/store.h"

/* Bytes of a piece for what does not go into memory at once. */
enum { DS__GATHER_PIECE = 8 * 1024 * 1024 };

/* One at a time per store, and no stream beside it. */
struct ds__gather {
    struct ds__store *store; /* borrowed */
    const struct ds_manifest_tensor *tensor;
    struct ds_ckpt_view view;
    bool saved; /* in this view, of which `stream` then is */
    struct ds__stream stream;
    uint64_t at; /* the next element of the view */
};

/* Elements `first` to first + count of a view, in its shortest form, of a tensor that is saved. */
void ds__gather_init(struct ds__gather *gather, struct ds__store *store,
                     const struct ds_manifest_tensor *tensor, const struct ds_ckpt_view *view,
                     uint64_t first, uint64_t count);

/* The next `count` elements, which there are; sound as ds__stream_next() says.  EBADMSG names
 * checkpoint, file and tensor. */
int ds__gather_next(struct ds__gather *gather, void *to, uint64_t count, struct ds_error *err)
    DS_NODISCARD;

/* All elements of a tensor at once. */
int ds__gather_whole(struct ds__store *store, const struct ds_manifest_tensor *tensor, void *to,
                     struct ds_error *err) DS_NODISCARD;

#endif
