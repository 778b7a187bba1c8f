/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * view.c - the contract is in view.h.
 */
#include "runtime/ckpt/view.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/ckpt/safetensors.h"

uint64_t ds__view_columns(const uint64_t *shape, unsigned ndim)
{
    return ndim > 0 ? shape[ndim - 1] : 1;
}

uint64_t ds__view_width(const struct ds_ckpt_view *view, uint64_t columns)
{
    uint64_t width = 0;

    for (unsigned i = 0; i < view->runs; i++)
        width += view->run[i].count;
    return view->runs > 0 ? width : columns;
}

static int check_runs(const struct ds_ckpt_view *view, uint64_t columns, struct ds_error *err)
{
    uint64_t at = 0;

    if (view->runs > DS_CKPT_MAX_RUNS)
        return ds_fail(err, EINVAL, "a view has %u runs of columns, at most %d can be", view->runs,
                       DS_CKPT_MAX_RUNS);
    for (unsigned i = 0; i < view->runs; i++) {
        uint64_t first = view->run[i].first, count = view->run[i].count;

        if (count == 0)
            return ds_fail(err, EINVAL, "run %u of a view's columns is empty", i);
        if (first > columns || count > columns - first)
            return ds_fail(err, EINVAL, "run %u of a view, %ju columns from %ju on, is not in %ju",
                           i, (uintmax_t)count, (uintmax_t)first, (uintmax_t)columns);
        if (first < at)
            return ds_fail(err, EINVAL, "run %u of a view's columns does not lie behind run %u", i,
                           i - 1);
        at = first + count;
    }
    return 0;
}

int ds__view_shorten(const struct ds_ckpt_view *view, const uint64_t *shape, unsigned ndim,
                     struct ds_ckpt_view *out, uint64_t *elems, struct ds_error *err)
{
    uint64_t columns = ds__view_columns(shape, ndim), all = 0;
    struct ds_ckpt_view made = {.runs = 0};
    int rc = check_runs(view, columns, err);

    if (rc < 0)
        return rc;
    if (!ds_shape_elems(shape, ndim, &all))
        return ds_fail(err, EOVERFLOW, "its shape holds more than 2^64 elements");
    for (unsigned i = 0; i < view->runs; i++) {
        if (i > 0 && view->run[i - 1].first + view->run[i - 1].count == view->run[i].first)
            made.run[made.runs - 1].count += view->run[i].count;
        else
            made.run[made.runs++] = view->run[i];
    }
    if (made.runs == 1 && made.run[0].count == columns)
        made = (struct ds_ckpt_view){.runs = 0};
    *out = made;
    *elems = made.runs > 0 ? all / columns * ds__view_width(&made, columns) : all;
    return 0;
}

bool ds__view_equal(const struct ds_ckpt_view *a, const struct ds_ckpt_view *b)
{
    return a->runs == b->runs && memcmp(a->run, b->run, a->runs * sizeof(a->run[0])) == 0;
}

const char *ds__view_text(const struct ds_ckpt_view *view, char out[DS__VIEW_TEXT])
{
    size_t at = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < view->runs; i++) {
        int len = snprintf(out + at, DS__VIEW_TEXT - at, "%s%ju:%ju", i == 0 ? "[:," : ",",
                           (uintmax_t)view->run[i].first,
                           (uintmax_t)(view->run[i].first + view->run[i].count));

        at += len > 0 ? (size_t)len : 0;
    }
    if (view->runs > 0)
        (void)snprintf(out + at, DS__VIEW_TEXT - at, "]");
    return out;
}

static struct ds_ckpt_view with_runs(const struct ds_ckpt_view *view, uint64_t columns)
{
    return view->runs > 0
               ? *view
               : (struct ds_ckpt_view){.runs = 1, .run = {{.first = 0, .count = columns}}};
}

void ds__view_map(struct ds__view_map *map, const struct ds_ckpt_view *from,
                  const struct ds_ckpt_view *to, uint64_t columns)
{
    struct ds_ckpt_view a = with_runs(from, columns), b = with_runs(to, columns);
    uint64_t a_at = 0, b_at = 0; /* where run i of a, run j of b start in their rows */
    unsigned i = 0, j = 0;

    *map = (struct ds__view_map){.from_width = ds__view_width(&a, columns),
                                 .to_width = ds__view_width(&b, columns)};
    while (i < a.runs && j < b.runs) {
        uint64_t a_first = a.run[i].first, a_end = a_first + a.run[i].count;
        uint64_t b_first = b.run[j].first, b_end = b_first + b.run[j].count;
        uint64_t first = a_first > b_first ? a_first : b_first;
        uint64_t end = a_end < b_end ? a_end : b_end;

        if (first < end) {
            map->piece[map->pieces].from = a_at + (first - a_first);
            map->piece[map->pieces].to = b_at + (first - b_first);
            map->piece[map->pieces++].count = end - first;
        }
        if (a_end <= b_end)
            a_at += a.run[i++].count;
        else
            b_at += b.run[j++].count;
    }
}

/* The first element of `from` that is element `at` of `to` or behind it. */
static uint64_t first_from(const struct ds__view_map *map, uint64_t at)
{
    uint64_t row = at / map->to_width, column = at % map->to_width;

    for (unsigned i = 0; i < map->pieces; i++) {
        uint64_t to = map->piece[i].to;

        if (column < to + map->piece[i].count)
            return row * map->from_width + map->piece[i].from + (column > to ? column - to : 0);
    }
    return (row + 1) * map->from_width + map->piece[0].from;
}

/* Behind the last element of `from` that is element `at` of `to` or before it; 0: none is. */
static uint64_t end_from(const struct ds__view_map *map, uint64_t at)
{
    uint64_t row = at / map->to_width, column = at % map->to_width;
    unsigned last = map->pieces - 1;

    for (unsigned i = map->pieces; i-- > 0;) {
        uint64_t to = map->piece[i].to, count = map->piece[i].count;

        if (column >= to)
            return row * map->from_width + map->piece[i].from +
                   (column - to < count ? column - to + 1 : count);
    }
    return row == 0 ? 0
                    : (row - 1) * map->from_width + map->piece[last].from + map->piece[last].count;
}

struct ds__view_range ds__view_span(const struct ds__view_map *map, struct ds__view_range wanted)
{
    uint64_t first, end;

    if (map->pieces == 0 || wanted.count == 0)
        return (struct ds__view_range){.count = 0};
    first = first_from(map, wanted.first);
    end = end_from(map, wanted.first + wanted.count - 1);
    return (struct ds__view_range){.first = first, .count = end > first ? end - first : 0};
}

/* Copy one piece of a row as far as both ranges have it; it starts at `from` and `to` of theirs. */
static void copy_piece(struct ds__view_range piece, uint64_t to, struct ds__view_range have,
                       const char *data, struct ds__view_range wanted, char *out, size_t size)
{
    uint64_t skip = have.first > piece.first ? have.first - piece.first : 0, end = piece.count;

    if (wanted.first > to && wanted.first - to > skip)
        skip = wanted.first - to;
    if (piece.first + end > have.first + have.count)
        end = have.first + have.count > piece.first ? have.first + have.count - piece.first : 0;
    if (to + end > wanted.first + wanted.count)
        end = wanted.first + wanted.count > to ? wanted.first + wanted.count - to : 0;
    if (skip < end)
        memcpy(out + (to + skip - wanted.first) * size,
               data + (piece.first + skip - have.first) * size, (end - skip) * size);
}

void ds__view_scatter(const struct ds__view_map *map, struct ds__view_range have, const void *data,
                      struct ds__view_range wanted, void *out, size_t size)
{
    uint64_t row, end;

    if (have.count == 0 || wanted.count == 0)
        return;
    row = have.first / map->from_width;
    end = (have.first + have.count - 1) / map->from_width + 1;
    for (; row < end; row++)
        for (unsigned i = 0; i < map->pieces; i++) {
            const struct ds__view_range piece = {
                .first = row * map->from_width + map->piece[i].from, .count = map->piece[i].count};

            copy_piece(piece, row * map->to_width + map->piece[i].to, have, data, wanted, out,
                       size);
        }
}
