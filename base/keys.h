/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * keys.h - one table that ties named, bounded, documented values to the fields of a struct.
 *
 * A file format or a command line is an array of `struct ds_key`.  The same
 * rows give the reader, the defaults, the bounds and their messages, the
 * writer, the suggestion for a misspelt key, the help and the manual.
 *
 * Text becomes a value by the row's type and by nothing else:
 *   BOOL   true or false
 *   U64    decimal digits, no sign, no leading zero ("auto" is 0 where allowed)
 *   F64    [-]digits[.digits][e[+-]digits], finite
 *   TEXT   any text but null, at least one byte and at most `max` bytes
 *   WORD   one of the choices, kept as text
 *   ENUM   one of the choices, kept as its number (an enum of non-negative values)
 *   SET    a list of choices, kept or'ed in an unsigned
 *   LIST   a text or a list of texts (struct ds_strings)
 *   PAIR   a list of two F64, kept in two adjacent doubles
 *   NUMBERS a list of at most DS_MAX_NUMBERS F64 (struct ds_numbers)
 *   ENV    a map NAME: text, kept as "NAME=text" (struct ds_strings)
 *   ROWS   a list of at most `max` maps, each with the keys of a table of its own (struct ds_rows);
 *          a key that a map leaves out has its default, a DERIVED F64 is NaN then; with SHORT a map
 *          may stand without the list, a text in the place of a map gives the map's first key, a
 *          LIST, and a text or a list of nothing but texts is that key of one map; with NAMED, too,
 *          the table's last key is a TEXT, a name, and a map that has none of the table's keys is
 *          NAME: rows, each of which has that name
 * Numbers, booleans and null in quotes are text.
 *
 * Owner   the table is constant; text that is stored lives in the arena given.
 * Errors  EINVAL, "'path' must be ..., not 'text'".
 * Tests   tests/base/test_keys.c
 */
#ifndef DS_BASE_KEYS_H
#define DS_BASE_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/numbers.h"
#include "base/yaml.h"

struct ds_strings { /* a list of strings, owned by an arena */
    size_t count;
    const char **item;
};

struct ds_rows { /* a list of structs, owned by an arena */
    size_t count;
    void *row;
};

enum ds_key_type {
    DS_KEY_BOOL,
    DS_KEY_U64,
    DS_KEY_F64,
    DS_KEY_TEXT,
    DS_KEY_WORD,
    DS_KEY_ENUM,
    DS_KEY_SET,
    DS_KEY_LIST,
    DS_KEY_PAIR,
    DS_KEY_NUMBERS,
    DS_KEY_ENV,
    DS_KEY_ROWS
};

enum ds_key_flag {
    DS_KEY_REQUIRED = 1, /* has no default and must be given */
    DS_KEY_DERIVED = 2,  /* the default follows from other keys; `def` is prose */
    DS_KEY_AUTO = 4,     /* U64: "auto" is allowed and is 0 */
    DS_KEY_BELOW = 8,    /* F64, PAIR, NUMBERS: `max` itself is not allowed */
    DS_KEY_DIGEST = 64,  /* decides the result: part of the digest */
    DS_KEY_SHORT = 128,  /* ROWS: texts may stand for maps */
    DS_KEY_NAMED = 256,  /* ROWS, with SHORT: names may stand before rows */
    DS_KEY_BY_RULE = 512 /* DERIVED, and from keys of this table alone */
};

struct ds_choice {
    const char *name; /* NULL ends the list */
    unsigned value;
};

struct ds_key {
    const char *path; /* "train.steps" */
    enum ds_key_type type;
    unsigned flags;
    size_t offset;   /* of the field in its struct */
    const char *def; /* default as text; NULL: none (zero bytes) */
    double min, max; /* numbers: bounds, at most 2^53; TEXT, LIST: `max` bytes each */
    const struct ds_choice *choices;
    const char *help;               /* one phrase, no capital, no full stop */
    const struct ds_key_rows *rows; /* of ROWS */
};

struct ds_key_rows { /* the table of one row; its paths have no dots, its keys are not ROWS */
    const struct ds_key *key;
    size_t count, row_bytes;
};

/* --- one value ------------------------------------------------------------------------------- */

/* Give the field of `key` in `base` the value of `node`, or of `text` as a plain scalar.  On
 * failure the field is as it was. */
int ds_key_set(const struct ds_key *key, void *base, struct ds_arena *arena,
               const struct ds_yaml *node, struct ds_error *err) DS_NODISCARD;
/* The same; on failure `*at` is where: at the node, or at what is wrong in one of ROWS. */
int ds_key_set_at(const struct ds_key *key, void *base, struct ds_arena *arena,
                  const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
    DS_NODISCARD;
int ds_key_set_text(const struct ds_key *key, void *base, struct ds_arena *arena, const char *text,
                    struct ds_error *err) DS_NODISCARD;

/* Append the field's value as YAML that ds_key_set() reads back.  Failures stay in out->failed. */
void ds_key_print(const struct ds_key *key, const void *base, struct ds_buf *out);

/* Is this the name of an environment variable: letters, digits and '_', not a digit first? */
bool ds_key_is_env_name(const char *name, size_t len);

/* --- a table --------------------------------------------------------------------------------- */

struct ds_keys_origin { /* where a key was given; all zero: nowhere */
    struct ds_yaml_mark mark;
    const char *override;
};

struct ds_keys { /* a table at work; borrowed pointers, nothing to free */
    const struct ds_key *key;
    size_t count;
    void *base;                    /* the struct to fill */
    struct ds_arena *arena;        /* for texts and trees */
    struct ds_keys_origin *origin; /* [count]; ds_keys_write(): or NULL */
    const char *name;              /* of the file, for positions */
    const struct ds_yaml *root;    /* set by ds_keys_read() */
    const char *skip[2];           /* paths that ds_keys_write() leaves out, or NULL */
};

/* Give every key its default. */
int ds_keys_defaults(struct ds_keys *keys, struct ds_error *err) DS_NODISCARD;

/* Take every key of a tree; an unknown one is refused with the nearest known one. */
int ds_keys_read(struct ds_keys *keys, const struct ds_yaml *root, struct ds_error *err)
    DS_NODISCARD;

/* Take "path=value".  A value that starts with [ { " or ' is read as YAML, any other is the text
 * itself.  `word` must live as long as the table is at work. */
int ds_keys_override(struct ds_keys *keys, const char *word, struct ds_error *err) DS_NODISCARD;

/* Every REQUIRED key must have been given. */
int ds_keys_require(const struct ds_keys *keys, struct ds_error *err) DS_NODISCARD;

/* Index of a path; `count` when there is none. */
size_t ds_keys_find(const struct ds_keys *keys, const char *path);

/* Was it given by file or override; by an override?  The path must exist. */
bool ds_keys_given(const struct ds_keys *keys, const char *path);
bool ds_keys_overridden(const struct ds_keys *keys, const char *path);

/* Put the place where `path` was given (or where it would belong) before the message of `err`;
 * returns `rc`.  For checks over several keys. */
int ds_keys_place(const struct ds_keys *keys, const char *path, int rc, struct ds_error *err);

/* The struct as YAML, keys in table order, sections nested; a text that is NULL is left out.  With
 * `origin` what follows by rule is a comment: who changes what it follows from wants it anew. */
void ds_keys_write(const struct ds_keys *keys, struct ds_buf *out);

#endif
