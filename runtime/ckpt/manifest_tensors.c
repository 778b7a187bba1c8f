/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * manifest_tensors.c - the tensors of a manifest, read: what lies where, and that it is all.
 *
 * Nothing is believed: views must be disjoint and together the tensor, ranges tile their view and
 * lie in their files, and the files have no byte beside them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_read.h"
#include "runtime/ckpt/manifest_format.h"
#include "runtime/ckpt/safetensors.h"
#include "runtime/ckpt/view.h"

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

static int read_sums(struct ds_manifest *m, const json_t *entry, struct ds_manifest_range *range,
                     struct ds_error *err)
{
    uint64_t sums = ds_manifest_sums(m, range->bytes);
    const char *text = "";
    int rc = ds_json_get_string(entry, "xxh3", &text, err);
    size_t len = strlen(text);

    if (rc < 0)
        return rc;
    if (len % DS__SUM_DIGITS != 0 || len / DS__SUM_DIGITS != sums ||
        strspn(text, "0123456789abcdef") != len)
        return ds_fail(err, EBADMSG, "'xxh3' does not hold %ju sums of %d digits in base 16",
                       (uintmax_t)sums, DS__SUM_DIGITS);
    range->xxh3 = ds_arena_alloc(&m->arena, (size_t)sums + 1, sizeof(*range->xxh3));
    if (range->xxh3 == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < sums; i++) {
        char digits[DS__SUM_DIGITS + 1] = "";

        memcpy(digits, text + i * DS__SUM_DIGITS, DS__SUM_DIGITS);
        range->xxh3[i] = strtoull(digits, NULL, 16);
    }
    return 0;
}

/* Where in which file a range lies. */
static int read_place(const struct ds_manifest *m, const json_t *entry,
                      struct ds_manifest_range *range, struct ds_error *err)
{
    uint64_t file = 0;
    int rc = ds_json_get_u64(entry, "file", m->files, &file, err);

    if (rc < 0)
        return rc;
    if (file >= m->files)
        return ds_fail(err, EBADMSG, "range in file %ju of %zu", (uintmax_t)file, m->files);
    range->file = (size_t)file;
    if ((rc = ds_json_get_u64(entry, "offset", INT64_MAX, &range->offset, err)) < 0 ||
        (rc = ds_json_get_u64(entry, "bytes", INT64_MAX, &range->bytes, err)) < 0 ||
        (rc = ds_json_get_u64(entry, "begin", INT64_MAX, &range->begin_elem, err)) < 0)
        return rc;
    if (range->offset < m->file[file].header_bytes ||
        range->bytes > m->file[file].bytes - range->offset || range->offset > m->file[file].bytes)
        return ds_fail(err, EBADMSG, "a range does not lie in the data of file '%s'",
                       m->file[file].name);
    return 0;
}

/* One range of a view; it must start at element `*at`, in a part behind it, and moves it on. */
static int read_range(struct ds_manifest *m, const struct ds_manifest_view *view, size_t size,
                      const json_t *entry, struct ds_manifest_range *range, uint64_t *at,
                      struct ds_error *err)
{
    int rc = read_place(m, entry, range, err);

    if (rc < 0)
        return rc;
    if (m->part && range->begin_elem > *at && range->begin_elem <= view->elems)
        *at = range->begin_elem;
    if (range->begin_elem != *at || range->bytes % size != 0 ||
        range->bytes / size > view->elems - *at)
        return ds_fail(err, EBADMSG, "its ranges do not follow each other at element %ju",
                       (uintmax_t)*at);
    *at += range->bytes / size;
    return read_sums(m, entry, range, err);
}

static int read_ranges(struct ds_manifest *m, const json_t *entry, enum ds_dtype dtype,
                       struct ds_manifest_view *view, struct ds_error *err)
{
    const json_t *list;
    uint64_t at = 0;
    int rc = ds__get_list(entry, "ranges", DS_MAX_RANKS, &list, err);

    if (rc < 0)
        return rc;
    view->ranges = json_array_size(list);
    view->range = ds_arena_alloc(&m->arena, view->ranges + 1, sizeof(*view->range));
    if (view->range == NULL)
        return out_of_memory(err);
    for (size_t i = 0; rc == 0 && i < view->ranges; i++)
        rc = read_range(m, view, ds_dtype_bytes(dtype), json_array_get(list, i), &view->range[i],
                        &at, err);
    if (rc == 0 && at != view->elems && !m->part)
        rc = ds_fail(err, EBADMSG, "its ranges hold %ju of %ju elements", (uintmax_t)at,
                     (uintmax_t)view->elems);
    return rc;
}

/* One run of columns, first and end. */
static int read_run(const json_t *pair, uint64_t *first, uint64_t *count, struct ds_error *err)
{
    const json_t *low = json_array_get(pair, 0), *high = json_array_get(pair, 1);

    if (json_array_size(pair) != 2 || !json_is_integer(low) || !json_is_integer(high) ||
        json_integer_value(low) < 0 || json_integer_value(high) <= json_integer_value(low))
        return ds_fail(err, EBADMSG, "'columns' is not a list of pairs, first and end above it");
    *first = (uint64_t)json_integer_value(low);
    *count = (uint64_t)json_integer_value(high) - *first;
    return 0;
}

/* Which columns a view has; only their shortest form will do, and of all columns there is none. */
static int read_columns(const json_t *entry, const struct ds_manifest_tensor *t,
                        struct ds_manifest_view *view, struct ds_error *err)
{
    struct ds_ckpt_view given = {.runs = 0};
    const json_t *list;
    int rc = ds__get_list(entry, "columns", DS_CKPT_MAX_RUNS, &list, err);

    if (rc < 0)
        return rc;
    given.runs = (unsigned)json_array_size(list);
    for (unsigned i = 0; rc == 0 && i < given.runs; i++)
        rc = read_run(json_array_get(list, i), &given.run[i].first, &given.run[i].count, err);
    if (rc < 0)
        return rc;
    if (ds__view_shorten(&given, t->shape, t->ndim, &view->columns, &view->elems, err) < 0)
        return -EBADMSG;
    if (given.runs == 0 || !ds__view_equal(&given, &view->columns))
        return ds_fail(err, EBADMSG, "the %u runs of its columns are not the fewest that say it",
                       given.runs);
    return 0;
}

static int read_views(struct ds_manifest *m, const json_t *entry, struct ds_manifest_tensor *t,
                      struct ds_error *err)
{
    const json_t *list;
    int rc = ds__get_list(entry, "views", DS_MAX_RANKS, &list, err);

    if (rc < 0)
        return rc;
    t->views = json_array_size(list);
    if (t->views == 0 || json_object_get(entry, "ranges") != NULL)
        return ds_fail(err, EBADMSG, "it has %s", t->views == 0 ? "no view" : "ranges and views");
    t->view = ds_arena_alloc(&m->arena, t->views, sizeof(*t->view));
    if (t->view == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < t->views; i++) {
        rc = read_columns(json_array_get(list, i), t, &t->view[i], err);
        if (rc == 0)
            rc = read_ranges(m, json_array_get(list, i), t->dtype, &t->view[i], err);
        if (rc < 0)
            return ds_error_context(err, rc, "view %zu", i);
        if (i > 0 && t->view[i - 1].columns.run[0].first >= t->view[i].columns.run[0].first)
            return ds_fail(err, EBADMSG, "view %zu stands twice or out of order", i);
    }
    return ds__check_views(t->view, t->views, ds__view_columns(t->shape, t->ndim), m->part, EBADMSG,
                           err);
}

/* A tensor that was not divided is one view. */
static int read_whole(struct ds_manifest *m, const json_t *entry, struct ds_manifest_tensor *t,
                      struct ds_error *err)
{
    t->view = ds_arena_alloc(&m->arena, 1, sizeof(*t->view));
    if (t->view == NULL)
        return out_of_memory(err);
    t->views = 1;
    t->view->elems = t->elems;
    return read_ranges(m, entry, t->dtype, t->view, err);
}

static int read_layout(const json_t *entry, struct ds_manifest_tensor *t, struct ds_error *err)
{
    const json_t *shape;
    const char *dtype = "";
    int type, rc = ds_json_get_string(entry, "dtype", &dtype, err);

    if (rc < 0 || (rc = ds__get_list(entry, "shape", DS_MAX_TENSOR_DIMS, &shape, err)) < 0)
        return rc;
    type = ds_dtype_parse(dtype);
    if (type < 0)
        return ds_fail(err, ENOTSUP, "its type '%.40s' is not supported", dtype);
    t->dtype = (enum ds_dtype)type;
    t->ndim = (unsigned)json_array_size(shape);
    for (unsigned i = 0; i < t->ndim; i++) {
        const json_t *dim = json_array_get(shape, i);

        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return ds_fail(err, EBADMSG, "dimension %u is not a whole number >= 0", i);
        t->shape[i] = (uint64_t)json_integer_value(dim);
    }
    if (!ds_shape_elems(t->shape, t->ndim, &t->elems))
        return ds_fail(err, EBADMSG, "its shape holds more than 2^64 elements");
    return 0;
}

static int read_tensor(struct ds_manifest *m, const json_t *entry, bool has_views,
                       struct ds_manifest_tensor *t, struct ds_error *err)
{
    const char *name = "";
    int rc = ds_json_get_string(entry, "name", &name, err);

    if (rc < 0)
        return rc;
    if (name[0] == '\0' || strlen(name) > DS_MAX_TENSOR_NAME)
        return ds_fail(err, EBADMSG, "tensor name '%.40s' has %zu bytes, 1 to %d are read", name,
                       strlen(name), DS_MAX_TENSOR_NAME);
    t->name = ds_arena_strdup(&m->arena, name);
    if (t->name == NULL)
        return out_of_memory(err);
    rc = read_layout(entry, t, err);
    if (rc == 0)
        rc = has_views && json_object_get(entry, "views") != NULL ? read_views(m, entry, t, err)
                                                                  : read_whole(m, entry, t, err);
    return ds_error_context(err, rc, "tensor '%s'", name);
}

static int read_tensors(struct ds_manifest *m, const json_t *root, bool has_views,
                        struct ds_error *err)
{
    const json_t *list;
    int rc = ds__get_list(root, "tensors", DS_MAX_TENSORS, &list, err);

    if (rc < 0)
        return rc;
    m->tensors = json_array_size(list);
    m->tensor = ds_arena_alloc(&m->arena, m->tensors + 1, sizeof(*m->tensor));
    if (m->tensor == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < m->tensors; i++) {
        rc = read_tensor(m, json_array_get(list, i), has_views, &m->tensor[i], err);
        if (rc < 0)
            return rc;
        if (i > 0 && strcmp(m->tensor[i - 1].name, m->tensor[i].name) >= 0)
            return ds_fail(err, EBADMSG, "tensor '%s' stands twice or out of order",
                           m->tensor[i].name);
    }
    return 0;
}

/* Bytes of a file that a tensor has. */
struct place {
    size_t file;
    uint64_t offset, bytes;
    const char *tensor;
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return strcmp(x->tensor, y->tensor);
}

/* All places, those without bytes left out, file after file and in order; NULL: no memory. */
static struct place *list_places(struct ds_manifest *m, size_t *count)
{
    struct place *place;
    size_t ranges = 0;

    *count = 0;
    for (size_t i = 0; i < m->tensors; i++)
        for (size_t j = 0; j < m->tensor[i].views; j++)
            ranges += m->tensor[i].view[j].ranges;
    place = malloc((ranges + 1) * sizeof(*place));
    for (size_t i = 0; place != NULL && i < m->tensors; i++)
        for (size_t j = 0; j < m->tensor[i].views; j++)
            for (size_t k = 0; k < m->tensor[i].view[j].ranges; k++) {
                const struct ds_manifest_range *range = &m->tensor[i].view[j].range[k];

                if (range->bytes > 0)
                    place[(*count)++] = (struct place){.file = range->file,
                                                       .offset = range->offset,
                                                       .bytes = range->bytes,
                                                       .tensor = m->tensor[i].name};
            }
    if (place != NULL && *count > 0)
        qsort(place, *count, sizeof(*place), by_place);
    return place;
}

static int unsummed(const struct ds_manifest_file *file, uint64_t bytes, struct ds_error *err)
{
    return ds_fail(err, EBADMSG, "%ju bytes of file '%s' belong to no tensor", (uintmax_t)bytes,
                   file->name);
}

/* The next of the places, as many as lie in this file, fill it behind its header. */
static int check_file(const struct ds_manifest *m, size_t file, const struct place *place,
                      size_t count, size_t *next, struct ds_error *err)
{
    uint64_t at = m->file[file].header_bytes, end = m->file[file].bytes;

    for (; *next < count && place[*next].file == file; ++*next) {
        const struct place *is = &place[*next];

        if (is->offset < at)
            return ds_fail(err, EBADMSG, "tensor '%s' shares bytes of file '%s' with another",
                           is->tensor, m->file[file].name);
        if (is->offset > at)
            return unsummed(&m->file[file], is->offset - at, err);
        at += is->bytes;
    }
    return at == end ? 0 : unsummed(&m->file[file], end - at, err);
}

/* Header and ranges must fill each file: a byte that nothing sums over could rot unseen. */
static int check_filled(struct ds_manifest *m, struct ds_error *err)
{
    size_t count = 0, next = 0;
    struct place *place = list_places(m, &count);
    int rc = place == NULL ? out_of_memory(err) : 0;

    for (size_t i = 0; rc == 0 && i < m->files; i++)
        rc = check_file(m, i, place, count, &next, err);
    free(place);
    return rc;
}

int ds__manifest_read_tensors(struct ds_manifest *m, const json_t *root, bool has_views,
                              struct ds_error *err)
{
    int rc = read_tensors(m, root, has_views, err);

    return rc == 0 ? check_filled(m, err) : rc;
}
