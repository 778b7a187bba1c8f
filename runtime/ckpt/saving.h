/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * saving.h - one rank's part in one save, in the steps that save.c takes at once and saver.c behind
 * the run's back.
 *
 *   ds__saving_init     what this rank writes: computed, nothing touched
 *   ds__saving_stage    that, copied aside (or written from where it lies)
 *   ds__saving_prepare  rank 0: the folder .step-N.tmp
 *   -- all ranks know --
 *   ds__saving_write    the files of this part, and part-r.json: a manifest of these files alone
 *   -- all ranks have --
 *   ds__saving_commit   rank 0: parts merged into manifest.json, all on disk, folder renamed to
 *                       step-N, `latest` swapped, what is beyond `keep` removed
 *
 * Tests   tests/ckpt/test_save.c, test_layout.c, test_torture.c
 */
#ifndef DS_RUNTIME_SAVING_H
#define DS_RUNTIME_SAVING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/manifest.h"
#include "runtime/ckpt/part.h"
#include "runtime/ckpt/share.h"
#include "runtime/ckpt/store.h"

/* Something on its way into a file, under the name that it has there. */
struct ds__item {
    struct ds__share share;
    const char *entry;
    struct ds__source source;
};

struct ds__items { /* of one file, in its order */
    struct ds__item *item;
    size_t count;
};

struct ds__saving {
    struct ds_ckpt_save_args args; /* a copy; what it points to is borrowed, with the tensors */
    char root[DS_MAX_PATH];        /* run_dir/checkpoints */
    char temp[DS_MAX_PATH];        /* root/.step-N.tmp */
    char final[DS_MAX_PATH];       /* root/step-N */
    char name[DS__STEP_NAME];
    struct ds__items weights, moments;
    struct ds_manifest *parts; /* this rank's; on rank 0 behind it those of the others, [world] */
    size_t n_parts;
    bool temp_made; /* by this rank, so it removes it */
};

/* EINVAL what is given cannot be saved.  Release it, failed or not. */
int ds__saving_init(struct ds__saving *saving, const struct ds_ckpt_save_args *args,
                    struct ds_error *err) DS_NODISCARD;
void ds__saving_release(struct ds__saving *saving);

/* Bytes of tensors that this rank writes. */
uint64_t ds__saving_bytes(const struct ds__saving *saving);

/* Copy them to `to`, which has room; they are then written from there. */
int ds__saving_stage(struct ds__saving *saving, void *to, struct ds_error *err) DS_NODISCARD;

int ds__saving_prepare(struct ds__saving *saving, struct ds_error *err) DS_NODISCARD;
int ds__saving_write(struct ds__saving *saving, struct ds_error *err) DS_NODISCARD;
int ds__saving_commit(struct ds__saving *saving, struct ds_error *err) DS_NODISCARD;

/* Remove the temporary folder, if this rank has made it and it is still there; `rc` is the outcome
 * so far and wins over errors here. */
int ds__saving_clean(struct ds__saving *saving, int rc, struct ds_error *err) DS_NODISCARD;

/* Where rank `rank` hands the table of its part to rank 0. */
int ds__fragment_path(const struct ds__saving *saving, unsigned rank, char out[DS_MAX_PATH],
                      struct ds_error *err) DS_NODISCARD;

#endif
