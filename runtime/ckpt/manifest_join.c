/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * manifest_join.c - pieces of tensors, as the parts of a save have them, as whole tensors.
 *
 * What the ranks of a run hold is known to each of them alone; here is seen whether it was all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ckpt/manifest.h"

static int by_name_then_place(const void *a, const void *b)
{
    const struct ds_manifest_tensor *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    if (order != 0 || x->ranges == 0 || y->ranges == 0)
        return order;
    return x->range[0].begin_elem < y->range[0].begin_elem
               ? -1
               : x->range[0].begin_elem > y->range[0].begin_elem;
}

static int by_place(const void *a, const void *b)
{
    const struct ds_manifest_range *x = a, *y = b;

    return x->begin_elem < y->begin_elem ? -1 : x->begin_elem > y->begin_elem;
}

static bool is_same(const struct ds_manifest_tensor *a, const struct ds_manifest_tensor *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, a->ndim * sizeof(a->shape[0])) == 0;
}

/* `pieces` entries of one name as one. */
static int join_one(struct ds_manifest *m, const struct ds_manifest_tensor *piece, size_t pieces,
                    struct ds_manifest_tensor *out, struct ds_error *err)
{
    struct ds_manifest_tensor joined = piece[0];
    size_t ranges = 0;

    for (size_t i = 0; i < pieces; i++) {
        if (!is_same(&piece[0], &piece[i]))
            return ds_fail(err, EINVAL, "tensor '%s' has another shape or type on another rank",
                           piece[0].name);
        ranges += piece[i].ranges;
    }
    if (pieces > 1) {
        joined.range = ds_arena_alloc(&m->arena, ranges, sizeof(*joined.range));
        if (joined.range == NULL)
            return ds_fail(err, ENOMEM, "out of memory");
        joined.ranges = 0;
        for (size_t i = 0; i < pieces; i++)
            for (size_t j = 0; j < piece[i].ranges; j++)
                joined.range[joined.ranges++] = piece[i].range[j];
        qsort(joined.range, joined.ranges, sizeof(*joined.range), by_place);
    }
    *out = joined;
    return 0;
}

/* In a part there may be gaps, in a whole there is neither gap nor overlap. */
static int check_places(const struct ds_manifest *m, const struct ds_manifest_tensor *t,
                        struct ds_error *err)
{
    uint64_t at = 0, size = ds_dtype_bytes(t->dtype);

    for (size_t i = 0; i < t->ranges; i++) {
        uint64_t begin = t->range[i].begin_elem;

        if (begin < at)
            return ds_fail(err, EINVAL, "tensor '%s': elements %ju to %ju were given twice",
                           t->name, (uintmax_t)begin, (uintmax_t)at);
        if (begin > at && !m->part)
            return ds_fail(err, EINVAL, "tensor '%s': no rank gave elements %ju to %ju", t->name,
                           (uintmax_t)at, (uintmax_t)begin);
        at = begin + t->range[i].bytes / size;
    }
    if (at != t->elems && !m->part)
        return ds_fail(err, EINVAL, "tensor '%s': no rank gave elements %ju to %ju", t->name,
                       (uintmax_t)at, (uintmax_t)t->elems);
    return 0;
}

int ds_manifest_join(struct ds_manifest *manifest, struct ds_error *err)
{
    struct ds_manifest_tensor *t = manifest->tensor;
    size_t count = manifest->tensors, joined = 0;
    int rc = 0;

    if (count > 0)
        qsort(t, count, sizeof(*t), by_name_then_place);
    for (size_t i = 0, next; rc == 0 && i < count; i = next) {
        for (next = i + 1; next < count && strcmp(t[i].name, t[next].name) == 0;)
            next++;
        rc = join_one(manifest, &t[i], next - i, &t[joined], err);
        if (rc == 0)
            rc = check_places(manifest, &t[joined++], err);
    }
    manifest->tensors = joined;
    return rc;
}
