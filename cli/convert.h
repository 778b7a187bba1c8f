/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert.h - a DeepSpeed configuration becomes a job file.
 *
 * One table has every key that DeepSpeed reads (convert_table.c).  A key either says what a key of
 * the job says, or is read together with others, or needs nothing here, or has no counterpart; of
 * the last two the table has a sentence.  The way:
 *
 *   convert.c        the whole
 *   convert_read.c   JSON; which row each key is, where it stands; notes on what has no counterpart
 *   convert_job.c    keys that are read together: batch, precision, ZeRO, logs
 *   convert_offload.c  what goes to the host's memory or to a disk
 *   convert_optim.c  the same of optimizer and scheduler
 *   convert_write.c  the job file with a comment on every line, what is left to fill in, the notes
 *
 * "auto" is the word of Hugging Face's integration for "what the Trainer was told": it becomes the
 * Trainer's own default, and a note says which argument to look up.
 *
 * Source  DeepSpeed 0.19: docs/_pages/config-json.md, runtime/constants.py, runtime/lr_schedules.py
 * Owner   struct ds_convert owns all; texts live in its job's arena.
 * Errors  EBADMSG for JSON, EINVAL for a value that cannot be: "file:line:column: ...".
 * Tests   tests/cli/test_convert.c, tests/e2e/convert.py, tests/fuzz/fuzz_convert.c
 */
#ifndef DS_CLI_CONVERT_H
#define DS_CLI_CONVERT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/keys.h"
#include "runtime/job.h"

enum ds_convert_act {
    DS_CONVERT_SECTION, /* its keys have rows of their own */
    DS_CONVERT_TAKE,    /* the value of one key of the job */
    DS_CONVERT_READ,    /* read together with others */
    DS_CONVERT_SAME,    /* nothing to do, whatever its value is */
    DS_CONVERT_NONE     /* no counterpart, unless its value turns it off */
};

struct ds_convert_row {
    const char *path; /* in the configuration */
    enum ds_convert_act act;
    const char *key;     /* TAKE: of the job */
    const char *say;     /* SAME, NONE: why, or what to do instead */
    const char *trainer; /* argument that "auto" stands for; NULL: it cannot be auto */
    const char *usual;   /* the Trainer's default as JSON, NULL: it has none */
};

/* All rows, keys of a section behind it; constant. */
const struct ds_convert_row *ds_convert_rows(size_t *count);
/* Index of a path; `count` when there is none. */
size_t ds_convert_find(const char *path);

enum ds_convert_kind {
    DS_NOTE_CHANGED, /* it means something else here */
    DS_NOTE_WITHOUT, /* no counterpart */
    DS_NOTE_UNKNOWN, /* not a key of DeepSpeed either */
    DS_NOTE_NOTHING  /* nothing to do */
};

struct ds_convert_note {
    enum ds_convert_kind kind;
    struct ds_yaml_mark at; /* line 0: nowhere */
    const char *path, *text;
    struct ds_convert_note *next;
};

struct ds_convert_given { /* of one row */
    json_t *value;        /* borrowed; NULL: not given, or null; of "auto" the Trainer's default */
    struct ds_yaml_mark at;
    bool is_auto;
};

struct ds_convert {
    const char *name; /* of the file, for positions */
    json_t *root;
    struct ds_job job; /* what is known of it, through `keys` */
    struct ds_keys keys;
    const char **from;              /* per job key: what its value follows from */
    const char **fill;              /* per job key: what is to be filled in */
    struct ds_convert_given *given; /* per row */
    json_t *usual;                  /* defaults of the Trainer that are in use */
    struct ds_yaml_mark *mark;      /* per key of the text, in its order */
    size_t marks, next_mark;
    struct ds_convert_note *note, **last_note;
    uint64_t ranks; /* 0: not known */
    bool trainer;   /* some value is auto */
};

struct ds_convert_args {
    const char *name; /* of the configuration */
    const char *text;
    size_t len;
    const char *const *word; /* key=value of the job; they win */
    size_t words;
    uint64_t ranks; /* 0: not known */
};

/* Read and translate; `c` is released in any case.  Writes nothing. */
int ds_convert_init(struct ds_convert *c, const struct ds_convert_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds_convert_release(struct ds_convert *c); /* fine on a zeroed struct */

/* The job file as text; what it lacks stands in it as comments with FILL IN. */
int ds_convert_write(const struct ds_convert *c, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

/* Is `text`, the job file, a valid job once it is filled in? */
int ds_convert_try(const struct ds_convert *c, const char *text, size_t len, struct ds_error *err)
    DS_NODISCARD;

/* How many keys the text says are to be filled in. */
size_t ds_convert_fills(const struct ds_convert *c);

/* --- between the files ------------------------------------------------------------------------ */

int ds__convert_read(struct ds_convert *c, const char *text, size_t len, struct ds_error *err)
    DS_NODISCARD;
int ds__convert_job(struct ds_convert *c, struct ds_error *err) DS_NODISCARD;
int ds__convert_optim(struct ds_convert *c, struct ds_error *err) DS_NODISCARD;
/* After the precision. */
int ds__convert_offload(struct ds_convert *c, uint64_t stage, struct ds_error *err) DS_NODISCARD;

/* What the keys of that section begin with. */
#define DS_CONVERT_ZERO "zero_optimization."

/* Remember a sentence about `path`; its text is made like printf's. */
int ds__convert_note(struct ds_convert *c, enum ds_convert_kind kind, const char *path,
                     struct ds_error *err, const char *fmt, ...) DS_PRINTF(5, 6);

/* A value by path, which must be in the table.  `*out` is `fallback` where it is not given. */
int ds__convert_u64(const struct ds_convert *c, const char *path, uint64_t fallback, uint64_t *out,
                    struct ds_error *err) DS_NODISCARD;
int ds__convert_f64(const struct ds_convert *c, const char *path, double fallback, double *out,
                    struct ds_error *err) DS_NODISCARD;
int ds__convert_bool(const struct ds_convert *c, const char *path, bool fallback, bool *out,
                     struct ds_error *err) DS_NODISCARD;
int ds__convert_text(const struct ds_convert *c, const char *path, const char *fallback,
                     const char **out, struct ds_error *err) DS_NODISCARD;
bool ds__convert_has(const struct ds_convert *c, const char *path);
/* "file:line:column" before the message; returns `rc`. */
int ds__convert_place(const struct ds_convert *c, const char *path, int rc, struct ds_error *err);

/* Give a key of the job its value as YAML, unless a word did; `path` is where it follows from, or
 * a few words where that is nowhere. */
int ds__convert_set(struct ds_convert *c, const char *key, const char *path, struct ds_error *err,
                    const char *fmt, ...) DS_PRINTF(5, 6);
int ds__convert_set_f64(struct ds_convert *c, const char *key, const char *path, double value,
                        struct ds_error *err) DS_NODISCARD;

#endif
