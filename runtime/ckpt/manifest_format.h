/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * manifest_format.h - what the reader and the writer of manifests must agree on, and what the
 * reader's two files ask of each other.
 *
 * Tests   tests/ckpt/test_manifest.c
 */
#ifndef DS_RUNTIME_MANIFEST_FORMAT_H
#define DS_RUNTIME_MANIFEST_FORMAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/ckpt/manifest.h"
#include "runtime/job.h"

#define DS__MANIFEST_FORMAT "dsrun-checkpoint"
#define DS__PART_FORMAT     DS__MANIFEST_FORMAT "-part"

enum { DS__SUM_DIGITS = 16 };                           /* hexadecimal digits of a sum */
enum { DS__BLOCKS_VERSION = 2, DS__VIEWS_VERSION = 3 }; /* the first that have them */

/* Members that are plain u64 fields of ds_model_shape and ds_ckpt_state, or unsigned ones of the
 * latter's layout: one table, both ways.  Of the layout only the first must be there. */
enum { DS__SHAPE_KEYS = 8, DS__STATE_KEYS = 4, DS__LAYOUT_KEYS = 7 };
struct ds__manifest_key {
    const char *name;
    size_t offset;
    uint64_t max;
};
extern const struct ds__manifest_key ds__shape_keys[DS__SHAPE_KEYS];
extern const struct ds__manifest_key ds__state_keys[DS__STATE_KEYS];
extern const struct ds__manifest_key ds__layout_keys[DS__LAYOUT_KEYS];

/* The kind of a name, DS_ROPE_KINDS of any other. */
enum ds_rope_kind ds__rope_kind(const char *name);

/* A member that is a list of at most `max` elements. */
int ds__get_list(const json_t *object, const char *key, size_t max, const json_t **out,
                 struct ds_error *err) DS_NODISCARD;

/* The member "tensors", whose ranges lie in the files that were read before and fill them. */
int ds__manifest_read_tensors(struct ds_manifest *m, const json_t *root, bool has_views,
                              struct ds_error *err) DS_NODISCARD;

/* Are the views of a tensor disjoint, and all of its columns, or in a part some?  Else fails with
 * `code` and says which columns. */
int ds__check_views(const struct ds_manifest_view *view, size_t views, uint64_t columns, bool part,
                    int code, struct ds_error *err) DS_NODISCARD;

/* The last bytes of a manifest: a newline, the member "xxh3" over all before it, "}", a newline. */
enum { DS__SEAL_BYTES = 29 };
void ds__seal_text(const void *bytes, size_t len, char out[DS__SEAL_BYTES + 1]);

#endif
