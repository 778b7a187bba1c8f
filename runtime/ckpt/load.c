/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * load.c - checkpoints into memory: range reads straight to where the tensors live.
 *
 * Which ranges and columns the checkpoint was saved in, and which ones are asked for, do not matter
 * to each other: every caller reads the blocks that its ranges touch, and nothing else.
 */
#include "runtime/ckpt/ckpt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ckpt/gather.h"
#include "runtime/ckpt/safetensors.h"
#include "runtime/ckpt/store.h"
#include "runtime/ckpt/view.h"

static bool same_shape(const struct ds_manifest_tensor *saved, const struct ds_ckpt_tensor *wanted)
{
    return saved->ndim == wanted->ndim &&
           memcmp(saved->shape, wanted->shape, saved->ndim * sizeof(saved->shape[0])) == 0;
}

/* Are the elements of `wanted` some of its tensor? */
static int check_range(const struct ds_ckpt_tensor *wanted, struct ds_ckpt_view *view,
                       struct ds_error *err)
{
    uint64_t elems = 0;
    int rc = ds__view_shorten(&wanted->view, wanted->shape, wanted->ndim, view, &elems, err);

    if (rc < 0)
        return ds_error_context(err, rc, "tensor '%s'", wanted->name);
    if (wanted->first > elems || wanted->count > elems - wanted->first)
        return ds_fail(err, EINVAL, "tensor '%s' has no elements %ju to %ju", wanted->name,
                       (uintmax_t)wanted->first, (uintmax_t)(wanted->first + wanted->count));
    return 0;
}

/* The saved tensor that fills `wanted`; of it the range that does. */
static int find_tensor(struct ds__store *store, const struct ds_ckpt_tensor *wanted,
                       struct ds__gather *out, struct ds_error *err)
{
    const struct ds_manifest_tensor *saved = ds_manifest_find(&store->manifest, wanted->name);
    char is[DS_SHAPE_TEXT], must[DS_SHAPE_TEXT];
    struct ds_ckpt_view view;
    int rc;

    if (saved == NULL)
        return ds_fail(
            err, EINVAL,
            "checkpoint '%s' has no tensor '%s': it was saved by another model or optimizer",
            store->path, wanted->name);
    if (!same_shape(saved, wanted))
        return ds_fail(err, EINVAL,
                       "checkpoint '%s': tensor '%s' has the shape %s, the model's has %s",
                       store->path, wanted->name, ds_shape_text(saved->shape, saved->ndim, is),
                       ds_shape_text(wanted->shape, wanted->ndim, must));
    if (saved->dtype != wanted->dtype)
        return ds_fail(err, EINVAL, "checkpoint '%s': tensor '%s' has the type %s, not %s",
                       store->path, wanted->name, ds_dtype_name(saved->dtype),
                       ds_dtype_name(wanted->dtype));
    if ((rc = check_range(wanted, &view, err)) < 0)
        return rc;
    ds__gather_init(out, store, saved, &view, wanted->first, wanted->count);
    return 0;
}

/* Fill a tensor that is not in memory from the checkpoint; with zeros where `gather` is NULL. */
static int fill_line(struct ds__gather *gather, const struct ds_ckpt_tensor *tensor,
                     struct ds_error *err)
{
    size_t size = ds_dtype_bytes(tensor->dtype), most = DS__GATHER_PIECE / size;
    char *room;
    int rc;

    if (tensor->count == 0)
        return 0;
    if (tensor->count < most)
        most = (size_t)tensor->count;
    room = calloc(most, size);
    rc = room == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
    for (uint64_t done = 0; rc == 0 && done < tensor->count; done += most) {
        uint64_t count = tensor->count - done < most ? tensor->count - done : most;

        if (gather != NULL)
            rc = ds__gather_next(gather, room, count, err);
        if (rc == 0)
            rc = tensor->line->write(tensor->line->user, tensor->line_at + done * size, room,
                                     (size_t)count * size, err);
    }
    free(room);
    return rc;
}

static int load_all(struct ds__store *store, struct ds_ckpt_tensor *tensors, size_t count,
                    struct ds_error *err)
{
    struct ds__gather gather;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++) /* all must fit before any is touched */
        rc = find_tensor(store, &tensors[i], &gather, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = find_tensor(store, &tensors[i], &gather, err);
        if (rc != 0)
            break;
        rc = tensors[i].line != NULL
                 ? fill_line(&gather, &tensors[i], err)
                 : ds__gather_next(&gather, tensors[i].data, tensors[i].count, err);
    }
    return rc;
}

/* Before the first update the moments are zero, and an imported checkpoint leaves them out. */
static bool has_no_moments(const struct ds__store *store, const struct ds_ckpt_tensor *moments,
                           size_t count)
{
    if (store->manifest.state.step != 0)
        return false;
    for (size_t i = 0; i < count; i++)
        if (ds_manifest_find(&store->manifest, moments[i].name) != NULL)
            return false;
    return true;
}

static int zero_all(struct ds_ckpt_tensor *tensors, size_t count, struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (tensors[i].line != NULL)
            rc = fill_line(NULL, &tensors[i], err);
        else if (tensors[i].count > 0)
            memset(tensors[i].data, 0, (size_t)tensors[i].count * ds_dtype_bytes(tensors[i].dtype));
    }
    return rc;
}

int ds_ckpt_load(const char *path, struct ds_ckpt_state *state, struct ds_ckpt_tensor *weights,
                 size_t n_weights, struct ds_ckpt_tensor *moments, size_t n_moments,
                 struct ds_error *err)
{
    struct ds__store store;
    int rc = ds__store_open(&store, path, err);

    if (rc < 0)
        return rc;
    rc = load_all(&store, weights, n_weights, err);
    if (rc == 0 && has_no_moments(&store, moments, n_moments))
        rc = zero_all(moments, n_moments, err);
    else if (rc == 0)
        rc = load_all(&store, moments, n_moments, err);
    if (rc == 0)
        *state = store.manifest.state;
    ds__store_close(&store);
    return rc;
}

int ds_ckpt_peek(const char *path, struct ds_ckpt_state *state, struct ds_error *err)
{
    struct ds__store store;
    int rc = ds__store_open(&store, path, err);

    if (rc < 0)
        return rc;
    *state = store.manifest.state;
    ds__store_close(&store);
    return 0;
}

/* Every byte of a tensor, in the order in which it was saved. */
static int verify(struct ds__store *store, const struct ds_manifest_tensor *tensor,
                  struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < tensor->views; i++) {
        const struct ds_manifest_view *view = &tensor->view[i];
        struct ds__stream stream;

        ds__stream_init(&stream, store, tensor, view, 0, view->elems);
        rc = ds__stream_next(&stream, NULL, view->elems * ds_dtype_bytes(tensor->dtype), err);
    }
    return ds_error_context(err, rc, "checkpoint '%s'", store->path);
}

int ds_ckpt_verify(const char *path, struct ds_error *err)
{
    struct ds__store store;
    int rc = ds__store_open(&store, path, err);

    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < store.manifest.files; i++)
        rc = ds__store_check_header(&store, i, err);
    for (size_t i = 0; rc == 0 && i < store.manifest.tensors; i++)
        rc = verify(&store, &store.manifest.tensor[i], err);
    ds__store_close(&store);
    return rc;
}
