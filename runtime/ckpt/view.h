/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * view.h - which elements of a tensor some of its columns are, and where they lie in others.
 *
 *    0  1  2  3  4  5  6  7     the view of columns 1:3 and 6:7, 3 wide, has of this tensor
 *    8  9 10 11 12 13 14 15     1 2 6 9 10 14: its elements 0 to 5
 *
 * What was saved in one division of the columns comes to another one by way of a map: which pieces
 * of a row the two have in common.  Elements of the one that lie one behind the other are read
 * into a room, and what the other wants of them is copied to its place.
 *
 * Pure.
 * Tests   tests/ckpt/test_view.c
 */
#ifndef DS_RUNTIME_VIEW_H
#define DS_RUNTIME_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/ckpt/ckpt.h"

/* Of a row of such a tensor; 1 of a scalar. */
uint64_t ds__view_columns(const uint64_t *shape, unsigned ndim);

/* Of a row of a view of it. */
uint64_t ds__view_width(const struct ds_ckpt_view *view, uint64_t columns);

/* Check a view of a tensor of this shape and bring it into its shortest form in *out: runs that
 * touch become one, all columns are no runs.  *elems: how many elements it has.
 * Errors  EINVAL what is no view of it; EOVERFLOW its shape. */
int ds__view_shorten(const struct ds_ckpt_view *view, const uint64_t *shape, unsigned ndim,
                     struct ds_ckpt_view *out, uint64_t *elems, struct ds_error *err) DS_NODISCARD;

/* Of two views in their shortest form. */
bool ds__view_equal(const struct ds_ckpt_view *a, const struct ds_ckpt_view *b);

/* "[:,0:256,768:1024]", or "" of all columns; returns out. */
enum { DS__VIEW_TEXT = DS_CKPT_MAX_RUNS * 42 + 4 };
const char *ds__view_text(const struct ds_ckpt_view *view, char out[DS__VIEW_TEXT]);

/* What two views have in common in a row: pieces in rising order, by their places in the row of
 * either view. */
struct ds__view_map {
    uint64_t from_width, to_width;
    unsigned pieces;
    struct {
        uint64_t from, to, count;
    } piece[2 * DS_CKPT_MAX_RUNS];
};

/* Of views in their shortest form, of tensors with `columns` columns. */
void ds__view_map(struct ds__view_map *map, const struct ds_ckpt_view *from,
                  const struct ds_ckpt_view *to, uint64_t columns);

/* A range of a view's elements. */
struct ds__view_range {
    uint64_t first, count;
};

/* The elements of `from` that hold all that is in it of the range `wanted` of `to`: none between
 * the first and the last that are needed are left out. */
struct ds__view_range ds__view_span(const struct ds__view_map *map, struct ds__view_range wanted);

/* Copy what `have`, elements of `from` that lie at `data`, has of the range `wanted` of `to`, whose
 * elements lie at `out`; elements are `size` bytes. */
void ds__view_scatter(const struct ds__view_map *map, struct ds__view_range have, const void *data,
                      struct ds__view_range wanted, void *out, size_t size);

#endif
