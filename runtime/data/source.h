/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * source.h - the files of one data source: found, mapped, understood.
 *
 * Files are mapped and their descriptors closed, so that a source of many files needs none.  A file
 * that somebody truncates afterwards would kill the reader (SIGBUS); ds_source_check() looks at
 * its size before each use and turns that into an error, all but the instant between the two.  A
 * file that is replaced or removed by name is read on as it was.
 *
 * Tests   tests/data/test_data.c
 */
#ifndef DS_RUNTIME_DATA_SOURCE_H
#define DS_RUNTIME_DATA_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/fsio.h"
#include "runtime/data/tokens.h"
#include "runtime/job.h"

struct ds_data_file {
    const char *path;
    struct ds_map map;
    dev_t device; /* which file was mapped */
    ino_t inode;
    struct ds_tokens tokens;
    uint64_t first_sample; /* of this file, in the numbering of the source */
};

struct ds_source {
    struct ds_arena arena;     /* paths */
    struct ds_data_file *file; /* in order */
    size_t count;
    enum ds_data_format format; /* of all files; never DS_DATA_AUTO */
    uint64_t samples, tokens;   /* of all files */
    bool masked;                /* some file has a mask */
};

/* Expand `paths` alone: of the files only file[i].path is set.  On failure `source` is released. */
int ds_source_list(struct ds_source *source, const struct ds_strings *paths, struct ds_error *err)
    DS_NODISCARD;

/* Expand `paths`, map every file and find its samples.  On failure `source` is released. */
int ds_source_open(struct ds_source *source, const struct ds_strings *paths,
                   enum ds_data_format format, uint64_t sequence, struct ds_error *err)
    DS_NODISCARD;
void ds_source_release(struct ds_source *source);

/* The file that holds `sample`, which is below source->samples. */
const struct ds_data_file *ds_source_find(const struct ds_source *source, uint64_t sample);

/* -EBADMSG when the file is shorter than it was. */
int ds_source_check(const struct ds_data_file *file, struct ds_error *err) DS_NODISCARD;

#endif
