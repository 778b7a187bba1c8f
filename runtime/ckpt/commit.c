/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * commit.c - rank 0's end of a save: the parts become one checkpoint, which gets its name.
 *
 * A crash at any point leaves the checkpoint before it, and after the rename this one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/part.h"
#include "runtime/ckpt/saving.h"

/* Append the tables of `part`, whose memory must outlive `whole`. */
static void merge(struct ds_manifest *whole, const struct ds_manifest *part)
{
    size_t first = whole->files;

    for (size_t i = 0; i < part->files; i++)
        whole->file[whole->files++] = part->file[i];
    for (size_t i = 0; i < part->tensors; i++) {
        struct ds_manifest_tensor *to = &whole->tensor[whole->tensors++];

        *to = part->tensor[i];
        for (size_t j = 0; j < to->views; j++)
            for (size_t k = 0; k < to->view[j].ranges; k++)
                to->view[j].range[k].file += first;
    }
}

static int load_fragment(const struct ds__saving *s, unsigned rank, struct ds_manifest *part,
                         struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int rc = ds__fragment_path(s, rank, path, err);

    if (rc < 0)
        return rc;
    rc = ds_manifest_load(part, path, err);
    if (rc == -ENOENT)
        return ds_fail(err, ECANCELED, "rank %u has not written its part", rank);
    if (rc == 0 && (!part->part || part->block_bytes != s->args.block_bytes))
        return ds_fail(err, EBADMSG, "'%s' is not a part of this checkpoint", path);
    if (rc == 0 && unlink(path) < 0)
        return ds_fail(err, errno, "cannot remove '%s': %s", path, strerror(errno));
    return rc;
}

/* All parts in one manifest, written to the folder. */
static int write_manifest(const struct ds__saving *s, struct ds_error *err)
{
    struct ds_manifest whole, *parts = s->parts;
    size_t files = 0, tensors = 0, world = s->args.world;
    char path[DS_MAX_PATH];
    struct ds_buf text;
    int rc = ds_path_join(path, s->temp, DS_MANIFEST_NAME, err);

    if (rc < 0)
        return rc;
    for (unsigned r = 1; rc == 0 && r < world; r++)
        rc = load_fragment(s, r, &parts[r], err);
    for (size_t r = 0; r < world; r++) {
        files += parts[r].files;
        tensors += parts[r].tensors;
    }
    ds_manifest_init(&whole);
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    whole.state = parts[0].state;
    if (rc == 0)
        rc = ds__manifest_reserve(&whole, files, tensors, err);
    whole.block_bytes = s->args.block_bytes;
    for (size_t r = 0; rc == 0 && r < world; r++)
        merge(&whole, &parts[r]);
    if (rc == 0)
        rc = ds_manifest_join(&whole, err);
    if (rc == 0)
        rc = ds_manifest_write(&whole, &text, err);
    if (rc == 0)
        rc = ds_fs_replace(path, text.data, text.len, err);
    ds_buf_release(&text);
    ds_manifest_release(&whole);
    return rc;
}

static int rename_to_final(const struct ds__saving *s, struct ds_error *err)
{
    if (rename(s->temp, s->final) < 0)
        return ds_fail(err, errno, "cannot rename '%s' to '%s': %s", s->temp, s->final,
                       strerror(errno));
    return 0;
}

/* For file systems that cannot exchange two names; ds__clean_stale() mends what a crash between the
 * renames leaves. */
static int replace_by_two_renames(struct ds__saving *s, struct ds_error *err)
{
    char old[DS_MAX_PATH], name[DS__STEP_NAME + 8];
    int rc;

    (void)snprintf(name, sizeof(name), ".%s.old", s->name);
    if ((rc = ds_path_join(old, s->root, name, err)) < 0)
        return rc;
    if (rename(s->final, old) < 0)
        return ds_fail(err, errno, "cannot move '%s' aside: %s", s->final, strerror(errno));
    rc = rename_to_final(s, err);
    if (rc < 0) {
        (void)rename(old, s->final); /* as it was; if this fails too, the next save puts it back */
        return rc;
    }
    s->temp_made = false;
    return ds_fs_remove_tree(old, err);
}

/* Give the folder its final name.  A checkpoint of the same step that was there already changes
 * names with it, and is then removed as the temporary folder. */
static int publish(struct ds__saving *s, struct ds_error *err)
{
    int rc = 0;

    if (access(s->final, F_OK) < 0) {
        rc = rename_to_final(s, err);
        s->temp_made = rc < 0;
    } else if (renameat2(AT_FDCWD, s->temp, AT_FDCWD, s->final, RENAME_EXCHANGE) < 0) {
        rc = replace_by_two_renames(s, err);
    }
    return rc < 0 ? rc : ds_fs_sync_dir(s->root, err);
}

static int swap_latest(const struct ds__saving *s, struct ds_error *err)
{
    char temp[DS_MAX_PATH], latest[DS_MAX_PATH];
    int rc;

    if ((rc = ds_path_join(temp, s->root, "." DS__LATEST ".tmp", err)) < 0 ||
        (rc = ds_path_join(latest, s->root, DS__LATEST, err)) < 0)
        return rc;
    if (unlink(temp) < 0 && errno != ENOENT)
        return ds_fail(err, errno, "cannot remove '%s': %s", temp, strerror(errno));
    if (symlink(s->name, temp) < 0 || rename(temp, latest) < 0)
        return ds_fail(err, errno, "cannot point '%s' to '%s': %s", latest, s->name,
                       strerror(errno));
    return ds_fs_sync_dir(s->root, err);
}

int ds__saving_commit(struct ds__saving *saving, struct ds_error *err)
{
    const struct ds_ckpt_save_args *args = &saving->args;
    int rc = write_manifest(saving, err);

    if (rc == 0 && args->before_commit != NULL)
        rc = args->before_commit(args->user, err);
    if (rc < 0 || (rc = publish(saving, err)) < 0 || (rc = swap_latest(saving, err)) < 0)
        return rc;
    return ds__prune(args->run_dir, args->state.step, args->keep, args->keep_every, err);
}
