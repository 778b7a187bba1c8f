/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * yaml.h - a bounded subset of YAML as a small tree in which every node knows its place.
 *
 * The subset: one document of maps, sequences and scalars in UTF-8.  Refused,
 * each with its position: anchors, aliases, tags, merge keys, duplicate keys,
 * keys that are not scalars, a second document, an empty document, NUL and
 * other control characters.  Bounds are DS_MAX_YAML_BYTES, _DEPTH and _NODES,
 * checked as events arrive, so that libyaml's quadratic cases never start.
 * Scalars stay text: what `1e5` or `yes` means is for the reader's schema.
 *
 * Owner   the arena given; text is borrowed by nobody.
 * Errors  EINVAL "name:line:column: what is wrong"; ENOMEM.  Lines and columns
 *         count from 1, columns in characters.
 * Tests   tests/base/test_yaml.c, tests/fuzz/fuzz_job.c
 */
#ifndef DS_BASE_YAML_H
#define DS_BASE_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"

enum ds_yaml_kind { DS_YAML_SCALAR, DS_YAML_SEQUENCE, DS_YAML_MAP };

struct ds_yaml_mark { /* a place in the text, from 1; line 0: nowhere */
    unsigned line, column;
};

struct ds_yaml {
    enum ds_yaml_kind kind;
    bool plain;               /* scalar: written without quotes, and not as a block */
    struct ds_yaml_mark mark; /* where the value starts */
    const char *text;         /* scalar: its text, terminated, without NUL inside */
    size_t count;             /* map, sequence: how many children */
    struct ds_yaml *child;    /* map, sequence: the first, in the order of the file */
    struct ds_yaml *next;     /* the next one of the same parent */
    const char *key;          /* in a map: its key, else NULL */
    struct ds_yaml_mark key_mark;
};

/* Parse `text`; `name` is what positions show.  The root is never NULL after 0. */
int ds_yaml_parse(struct ds_arena *arena, const char *name, const void *text, size_t len,
                  struct ds_yaml **root, struct ds_error *err) DS_NODISCARD;

/* The value of `key` in a map, or NULL. */
const struct ds_yaml *ds_yaml_get(const struct ds_yaml *map, const char *key);

/* A scalar that says "no value": plain and empty, `~` or `null`. */
bool ds_yaml_is_null(const struct ds_yaml *node);

/* "a map", "a list" or "text", for messages. */
const char *ds_yaml_kind_name(const struct ds_yaml *node);

/* Append `text` in double quotes, so that a parser reads back the same text.  0; -EINVAL when it is
 * not UTF-8 and cannot be written; -ENOBUFS, -ENOMEM from the buffer (out->failed). */
int ds_yaml_quote(const char *text, struct ds_buf *out);

#endif
