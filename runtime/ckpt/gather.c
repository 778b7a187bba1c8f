/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gather.c - the contract is in gather.h.
 */
#include "runtime/ckpt/gather.h"

#include <errno.h>
#include <stdlib.h>

#include "runtime/ckpt/view.h"

enum { ROOM_BYTES = 1024 * 1024 }; /* a multiple of every type's size */

void ds__gather_init(struct ds__gather *gather, struct ds__store *store,
                     const struct ds_manifest_tensor *tensor, const struct ds_ckpt_view *view,
                     uint64_t first, uint64_t count)
{
    *gather = (struct ds__gather){.store = store, .tensor = tensor, .view = *view, .at = first};
    for (size_t i = 0; i < tensor->views && !gather->saved; i++)
        if (ds__view_equal(&tensor->view[i].columns, view)) {
            gather->saved = true;
            ds__stream_init(&gather->stream, store, tensor, &tensor->view[i], first, count);
        }
}

/* What one saved view has of `wanted`, which lies at `to`. */
static int take(const struct ds__gather *gather, const struct ds_manifest_view *saved,
                struct ds__view_range wanted, void *to, struct ds_error *err)
{
    const struct ds_manifest_tensor *tensor = gather->tensor;
    size_t size = ds_dtype_bytes(tensor->dtype), most = ROOM_BYTES / size;
    struct ds__view_range span, have;
    struct ds__view_map map;
    struct ds__stream stream;
    int rc = 0;

    ds__view_map(&map, &saved->columns, &gather->view,
                 ds__view_columns(tensor->shape, tensor->ndim));
    span = ds__view_span(&map, wanted);
    ds__stream_init(&stream, gather->store, tensor, saved, span.first, span.count);
    for (have.first = span.first; rc == 0 && span.count > 0; have.first += have.count) {
        have.count = span.count < most ? span.count : most;
        rc = ds__stream_next(&stream, gather->store->room, have.count * size, err);
        if (rc == 0)
            ds__view_scatter(&map, have, gather->store->room, wanted, to, size);
        span.count -= have.count;
    }
    return rc;
}

static int take_all(struct ds__gather *gather, uint64_t count, void *to, struct ds_error *err)
{
    const struct ds__view_range wanted = {.first = gather->at, .count = count};
    struct ds__store *store = gather->store;
    int rc = 0;

    if (store->room == NULL)
        store->room = malloc(ROOM_BYTES);
    if (store->room == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && i < gather->tensor->views; i++)
        rc = take(gather, &gather->tensor->view[i], wanted, to, err);
    return rc;
}

int ds__gather_next(struct ds__gather *gather, void *to, uint64_t count, struct ds_error *err)
{
    int rc = gather->saved ? ds__stream_next(&gather->stream, to,
                                             count * ds_dtype_bytes(gather->tensor->dtype), err)
                           : take_all(gather, count, to, err);

    gather->at += count;
    return ds_error_context(err, rc, "checkpoint '%s'", gather->store->path);
}

int ds__gather_whole(struct ds__store *store, const struct ds_manifest_tensor *tensor, void *to,
                     struct ds_error *err)
{
    const struct ds_ckpt_view all = {.runs = 0};
    struct ds__gather gather;

    ds__gather_init(&gather, store, tensor, &all, 0, tensor->elems);
    return ds__gather_next(&gather, to, tensor->elems, err);
}
