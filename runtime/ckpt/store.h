/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * store.h - what the files of this folder share: names on disk, a checkpoint opened for reading.
 *
 *   checkpoints/step-00000100        a finished checkpoint
 *   checkpoints/.step-00000100.tmp   one being written; after a crash the next save removes it
 *   checkpoints/.step-00000100.old   one that a new one of its step takes the place of
 *   checkpoints/.step-00000100.gone  one being removed
 *
 * Tests   tests/ckpt/test_save.c, tests/ckpt/test_views.c
 */
#ifndef DS_RUNTIME_STORE_H
#define DS_RUNTIME_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "runtime/ckpt/manifest.h"
#include "runtime/ckpt/reads.h"

#define DS__CHECKPOINTS "checkpoints"
#define DS__LATEST      "latest"
enum { DS__STEP_NAME = 32 }; /* bytes for the name of a step's folder, with its NUL */

void ds__step_name(uint64_t step, char out[DS__STEP_NAME]);

/* Is this exactly the name of a step's folder? */
bool ds__step_parse(const char *name, uint64_t *step);

/* A checkpoint opened for reading: the manifest, and at most one file at a time. */
struct ds__store {
    char path[DS_MAX_PATH];
    struct ds_manifest manifest;
    size_t open_file; /* index of the file that `fd` is, when fd >= 0 */
    int fd;
    bool *header_read;    /* per file: its header's checksum was compared */
    unsigned char *piece; /* scratch; NULL until needed */
    void *room;           /* of ds__gather_next(); NULL until needed */
    void *hash;           /* an XXH3_state_t */
};

/* Read the manifest of the folder `path` and compare the sizes of its files.
 * Errors  ENOENT no such folder; EBADMSG; the text names folder and file.  Nothing is left open. */
int ds__store_open(struct ds__store *store, const char *path, struct ds_error *err) DS_NODISCARD;
void ds__store_close(struct ds__store *store); /* a zeroed one is not fine: open first */

/* A range of a saved view, read from its first byte to its last in pieces of the caller's size.
 * Each byte is read once and hashed, and with them those of the first and the last block that were
 * not asked for.  One at a time per store. */
struct ds__stream {
    struct ds__store *store; /* borrowed */
    const struct ds_manifest_tensor *tensor;
    struct ds__reads reads;
    struct ds__read block; /* under way */
    uint64_t done;         /* of its bytes that are asked for */
};
/* Elements `first` to first + count of one of the views of `tensor`, which is of this manifest. */
void ds__stream_init(struct ds__stream *stream, struct ds__store *store,
                     const struct ds_manifest_tensor *tensor, const struct ds_manifest_view *view,
                     uint64_t first, uint64_t count);
/* The next `bytes` bytes, which there are; to NULL: only to be checked.  The checksum of a block is
 * compared when its last byte was read: only behind the last byte that was asked for are all known
 * to be sound.  EBADMSG names file and tensor. */
int ds__stream_next(struct ds__stream *stream, void *to, uint64_t bytes, struct ds_error *err)
    DS_NODISCARD;

/* Compare the checksum of a file's header. */
int ds__store_check_header(struct ds__store *store, size_t file, struct ds_error *err) DS_NODISCARD;

/* Remove what crashed saves left in the folder of checkpoints. */
int ds__clean_stale(const char *root, struct ds_error *err) DS_NODISCARD;

/* Keep `keep` whole checkpoints up to step `newest` and remove older ones, but those of multiples
 * of `keep_every` steps; keep 0 keeps all, keep_every 0 none for that. */
int ds__prune(const char *run_dir, uint64_t newest, uint64_t keep, uint64_t keep_every,
              struct ds_error *err) DS_NODISCARD;

#endif
