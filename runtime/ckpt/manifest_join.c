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

#include "runtime/ckpt/manifest_format.h"
#include "runtime/ckpt/view.h"

/* --- the columns of a tensor ---------------------------------------------------------------- */

struct run {
    uint64_t first, end;
};

static int by_first(const void *a, const void *b)
{
    const struct run *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static int check_runs(const struct run *run, size_t runs, uint64_t columns, bool part, int code,
                      struct ds_error *err)
{
    uint64_t at = 0;

    for (size_t i = 0; i < runs; i++) {
        if (run[i].first < at)
            return ds_fail(err, code, "columns %ju to %ju are in two of its views",
                           (uintmax_t)run[i].first, (uintmax_t)(run[i].end < at ? run[i].end : at));
        if (run[i].first > at && !part)
            return ds_fail(err, code, "columns %ju to %ju are in none of its views", (uintmax_t)at,
                           (uintmax_t)run[i].first);
        at = run[i].end;
    }
    if (at != columns && !part)
        return ds_fail(err, code, "columns %ju to %ju are in none of its views", (uintmax_t)at,
                       (uintmax_t)columns);
    return 0;
}

int ds__check_views(const struct ds_manifest_view *view, size_t views, uint64_t columns, bool part,
                    int code, struct ds_error *err)
{
    struct run *run;
    size_t runs = 0;
    int rc;

    if (views == 1 && view[0].columns.runs == 0)
        return 0;
    run = calloc(views * DS_CKPT_MAX_RUNS, sizeof(*run));
    if (run == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < views; i++) {
        const struct ds_ckpt_view *is = &view[i].columns;

        if (is->runs == 0)
            run[runs++].end = columns;
        for (unsigned j = 0; j < is->runs; j++)
            run[runs++] =
                (struct run){.first = is->run[j].first, .end = is->run[j].first + is->run[j].count};
    }
    qsort(run, runs, sizeof(*run), by_first);
    rc = check_runs(run, runs, columns, part, code, err);
    free(run);
    return rc;
}

/* --- pieces --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct ds_manifest_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* By their first columns, so that equal ones are neighbours; disjoint ones have no other order. */
static int by_columns(const void *a, const void *b)
{
    const struct ds_ckpt_view *x = &((const struct ds_manifest_view *)a)->columns;
    const struct ds_ckpt_view *y = &((const struct ds_manifest_view *)b)->columns;

    for (unsigned i = 0; i < x->runs && i < y->runs; i++) {
        if (x->run[i].first != y->run[i].first)
            return x->run[i].first < y->run[i].first ? -1 : 1;
        if (x->run[i].count != y->run[i].count)
            return x->run[i].count < y->run[i].count ? -1 : 1;
    }
    return x->runs < y->runs ? -1 : x->runs > y->runs;
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

/* `pieces` views of the same columns as one, with the ranges of all. */
static int join_views(struct ds_manifest *m, const struct ds_manifest_view *piece, size_t pieces,
                      struct ds_manifest_view *out, struct ds_error *err)
{
    struct ds_manifest_view joined = piece[0];

    for (size_t i = 1; i < pieces; i++)
        joined.ranges += piece[i].ranges;
    if (pieces > 1) {
        size_t at = 0;

        joined.range = ds_arena_alloc(&m->arena, joined.ranges + 1, sizeof(*joined.range));
        if (joined.range == NULL)
            return ds_fail(err, ENOMEM, "out of memory");
        for (size_t i = 0; i < pieces; i++)
            for (size_t j = 0; j < piece[i].ranges; j++)
                joined.range[at++] = piece[i].range[j];
        qsort(joined.range, joined.ranges, sizeof(*joined.range), by_place);
    }
    *out = joined;
    return 0;
}

/* Bring the views of a tensor in order, those of the same columns together. */
static int sort_views(struct ds_manifest *m, struct ds_manifest_tensor *t, struct ds_error *err)
{
    size_t count = t->views, joined = 0;
    int rc = 0;

    qsort(t->view, count, sizeof(*t->view), by_columns);
    for (size_t i = 0, next; rc == 0 && i < count; i = next) {
        for (next = i + 1;
             next < count && ds__view_equal(&t->view[i].columns, &t->view[next].columns);)
            next++;
        rc = join_views(m, &t->view[i], next - i, &t->view[joined++], err);
    }
    t->views = joined;
    return rc;
}

/* `pieces` entries of one name as one. */
static int join_one(struct ds_manifest *m, const struct ds_manifest_tensor *piece, size_t pieces,
                    struct ds_manifest_tensor *out, struct ds_error *err)
{
    struct ds_manifest_tensor joined = piece[0];
    size_t at = 0;

    for (size_t i = 1; i < pieces; i++) {
        if (!is_same(&piece[0], &piece[i]))
            return ds_fail(err, EINVAL, "tensor '%s' has another shape or type on another rank",
                           piece[0].name);
        joined.views += piece[i].views;
    }
    if (pieces == 1) {
        *out = joined;
        return 0;
    }
    joined.view = ds_arena_alloc(&m->arena, joined.views, sizeof(*joined.view));
    if (joined.view == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < pieces; i++)
        for (size_t j = 0; j < piece[i].views; j++)
            joined.view[at++] = piece[i].view[j];
    *out = joined;
    return sort_views(m, out, err);
}

/* In a part there may be gaps, in a whole there is neither gap nor overlap. */
static int check_places(const struct ds_manifest *m, const struct ds_manifest_tensor *t,
                        const struct ds_manifest_view *view, struct ds_error *err)
{
    uint64_t at = 0, size = ds_dtype_bytes(t->dtype);
    char columns[DS__VIEW_TEXT];

    for (size_t i = 0; i < view->ranges; i++) {
        uint64_t begin = view->range[i].begin_elem;

        if (begin < at)
            return ds_fail(err, EINVAL, "tensor '%s%s': elements %ju to %ju were given twice",
                           t->name, ds__view_text(&view->columns, columns), (uintmax_t)begin,
                           (uintmax_t)at);
        if (begin > at && !m->part)
            return ds_fail(err, EINVAL, "tensor '%s%s': no rank gave elements %ju to %ju", t->name,
                           ds__view_text(&view->columns, columns), (uintmax_t)at, (uintmax_t)begin);
        at = begin + view->range[i].bytes / size;
    }
    if (at != view->elems && !m->part)
        return ds_fail(err, EINVAL, "tensor '%s%s': no rank gave elements %ju to %ju", t->name,
                       ds__view_text(&view->columns, columns), (uintmax_t)at,
                       (uintmax_t)view->elems);
    return 0;
}

static int check_whole(const struct ds_manifest *m, const struct ds_manifest_tensor *t,
                       struct ds_error *err)
{
    int rc = ds__check_views(t->view, t->views, ds__view_columns(t->shape, t->ndim), m->part,
                             EINVAL, err);

    if (rc < 0)
        return ds_error_context(err, rc, "tensor '%s'", t->name);
    for (size_t i = 0; rc == 0 && i < t->views; i++)
        rc = check_places(m, t, &t->view[i], err);
    return rc;
}

int ds_manifest_join(struct ds_manifest *manifest, struct ds_error *err)
{
    struct ds_manifest_tensor *t = manifest->tensor;
    size_t count = manifest->tensors, joined = 0;
    int rc = 0;

    if (count > 0)
        qsort(t, count, sizeof(*t), by_name);
    for (size_t i = 0, next; rc == 0 && i < count; i = next) {
        for (next = i + 1; next < count && strcmp(t[i].name, t[next].name) == 0;)
            next++;
        rc = join_one(manifest, &t[i], next - i, &t[joined], err);
        if (rc == 0)
            rc = check_whole(manifest, &t[joined++], err);
    }
    manifest->tensors = joined;
    return rc;
}
