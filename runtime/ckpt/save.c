/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * save.c - the current run as a checkpoint: written aside, made durable, put in place.
 *
 *   rank 0   make .step-N.tmp
 *   -------- barrier
 *   rank r   write and fsync the files of part r, which hold its share of what it holds, and
 *            part-r.json: a manifest of these files alone
 *   -------- barrier
 *   rank 0   merge the parts into manifest.json, fsync all, rename the folder to step-N, swap
 *            `latest`, remove what is beyond `keep`
 *   -------- barrier
 *
 * A rank that fails still comes to every barrier, so that nobody waits for it; rank 0 then finds
 * its part missing.  Whether there is a checkpoint is what rank 0 returns; the others know of their
 * own failures only.
 */
#include "runtime/ckpt/ckpt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/part.h"
#include "runtime/ckpt/share.h"
#include "runtime/ckpt/store.h"

struct save {
    const struct ds_ckpt_save_args *args;
    char root[DS_MAX_PATH];  /* run_dir/checkpoints */
    char temp[DS_MAX_PATH];  /* root/.step-N.tmp */
    char final[DS_MAX_PATH]; /* root/step-N */
    char name[DS__STEP_NAME];
    uint64_t block_bytes;
    bool temp_made; /* by this rank, so it removes it */
    bool broken;    /* a barrier has failed: nobody waits any more */
};

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

static int init(struct save *s, const struct ds_ckpt_save_args *args, struct ds_error *err)
{
    char temp[DS__STEP_NAME + 8];
    int rc;

    memset(s, 0, sizeof(*s));
    s->args = args;
    s->block_bytes = args->block_bytes > 0 ? args->block_bytes : DS_CKPT_BLOCK_BYTES;
    ds__step_name(args->state.step, s->name);
    (void)snprintf(temp, sizeof(temp), ".%s.tmp", s->name);
    if ((rc = ds_path_join(s->root, args->run_dir, DS__CHECKPOINTS, err)) < 0 ||
        (rc = ds_path_join(s->temp, s->root, temp, err)) < 0)
        return rc;
    return ds_path_join(s->final, s->root, s->name, err);
}

/* Come to the barrier whatever happened here, unless the barrier itself is broken; the first
 * failure wins. */
static int meet(struct save *s, int rc, struct ds_error *err)
{
    int met;

    if (s->args->barrier == NULL || s->broken)
        return rc;
    met = s->args->barrier(s->args->user, rc < 0 ? NULL : err);
    s->broken = met < 0;
    return rc < 0 ? rc : met;
}

/* --- phase 1: rank 0 makes the folder ------------------------------------------------------- */

static int prepare(struct save *s, struct ds_error *err)
{
    int rc;

    if ((rc = ds_fs_mkdirs(s->root, err)) < 0 || (rc = ds__clean_stale(s->root, err)) < 0)
        return rc;
    if (mkdir(s->temp, 0755) < 0)
        return ds_fail(err, errno, "cannot create '%s': %s", s->temp, strerror(errno));
    s->temp_made = true;
    return 0;
}

/* --- phase 2: every rank writes its part ---------------------------------------------------- */

/* Something on its way into a file, under the name that it has there. */
struct item {
    struct ds__share share;
    const char *entry;
};

/* The order of ds_safetensors_build(), so that its table and the items stay in step. */
static int by_place(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    size_t x_bytes = ds_dtype_bytes(x->share.tensor->dtype);
    size_t y_bytes = ds_dtype_bytes(y->share.tensor->dtype);

    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return strcmp(x->entry, y->entry);
}

/* Is it all of its tensor? */
static bool is_whole(const struct ds__share *share)
{
    const struct ds_ckpt_tensor *t = share->tensor;
    uint64_t elems = 0;

    return ds_shape_elems(t->shape, t->ndim, &elems) && share->count == elems;
}

static int name_items(struct ds_manifest *m, struct item *items, size_t count, struct ds_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct ds__share *share = &items[i].share;

        items[i].entry = is_whole(share)
                             ? share->tensor->name
                             : ds_arena_printf(&m->arena, "%s[%ju:%ju]", share->tensor->name,
                                               (uintmax_t)share->first,
                                               (uintmax_t)(share->first + share->count));
        if (items[i].entry == NULL)
            return out_of_memory(err);
    }
    qsort(items, count, sizeof(*items), by_place);
    return 0;
}

/* The table of a file: whole tensors in their shape, pieces in one dimension. */
static struct ds_safetensor *make_table(struct ds_manifest *m, const struct item *items,
                                        size_t count)
{
    struct ds_safetensor *table = ds_arena_alloc(&m->arena, count, sizeof(*table));

    for (size_t i = 0; table != NULL && i < count; i++) {
        const struct ds_ckpt_tensor *t = items[i].share.tensor;

        table[i] = (struct ds_safetensor){.name = items[i].entry,
                                          .dtype = (int)t->dtype,
                                          .ndim = 1,
                                          .shape = {items[i].share.count}};
        if (is_whole(&items[i].share)) {
            table[i].ndim = t->ndim;
            memcpy(table[i].shape, t->shape, t->ndim * sizeof(t->shape[0]));
        }
    }
    return table;
}

/* Write one file of `count` items in their order. */
static int write_file(const struct save *s, const char *name, const struct item *items,
                      size_t count, struct ds_manifest *m, struct ds_error *err)
{
    struct ds_safetensor *table = make_table(m, items, count);
    struct ds__part part;
    int rc;

    if (table == NULL)
        return out_of_memory(err);
    rc = ds__part_create(&part, s->temp, name, table, count, m, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct ds__share *share = &items[i].share;
        const struct ds_ckpt_tensor *t = share->tensor;
        const struct ds__piece piece = {
            .name = t->name, .ndim = t->ndim, .shape = t->shape, .first = share->first};

        rc = ds__part_write(
            &part, &table[i], &piece,
            (const char *)t->data + (share->first - t->first) * ds_dtype_bytes(t->dtype), err);
    }
    return ds__part_close(&part, rc, err);
}

/* What this rank writes of one kind, as items; free() them. */
static int make_items(const struct save *s, const struct ds_ckpt_tensor *tensors, size_t count,
                      struct ds_manifest *m, struct item **out, size_t *mine, struct ds_error *err)
{
    const struct ds__share_args args = {.tensors = tensors,
                                        .count = count,
                                        .rank = s->args->rank,
                                        .world = s->args->world,
                                        .block_bytes = m->block_bytes};
    struct ds__share *shares = calloc(count + 1, sizeof(*shares));
    struct item *items = calloc(count + 1, sizeof(*items));
    int rc = shares == NULL || items == NULL ? out_of_memory(err)
                                             : ds__share_out(&args, shares, mine, err);

    for (size_t i = 0; rc == 0 && i < *mine; i++)
        items[i].share = shares[i];
    free(shares);
    if (rc == 0)
        rc = name_items(m, items, *mine, err);
    if (rc < 0)
        free(items);
    else
        *out = items;
    return rc;
}

/* This rank's file of one kind; there is none when nothing of it is this rank's to write. */
static int write_kind(const struct save *s, const char *kind, const struct ds_ckpt_tensor *tensors,
                      size_t count, struct ds_manifest *m, struct ds_error *err)
{
    struct item *items = NULL;
    size_t mine = 0;
    char name[64];
    int rc = make_items(s, tensors, count, m, &items, &mine, err);

    if (rc < 0)
        return rc;
    (void)snprintf(name, sizeof(name), "%s-%05u-of-%05u.safetensors", kind, s->args->rank + 1,
                   s->args->world);
    if (mine > 0)
        rc = write_file(s, name, items, mine, m, err);
    free(items);
    return rc;
}

static int fragment_path(const struct save *s, unsigned rank, char out[DS_MAX_PATH],
                         struct ds_error *err)
{
    char name[32];

    (void)snprintf(name, sizeof(name), "part-%05u.json", rank + 1);
    return ds_path_join(out, s->temp, name, err);
}

/* Hand this part's table to rank 0. */
static int write_fragment(const struct save *s, struct ds_manifest *m, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    struct ds_buf text;
    int rc = fragment_path(s, s->args->rank, path, err);

    if (rc < 0)
        return rc;
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    m->part = true;
    rc = ds_manifest_join(m, err);
    if (rc == 0)
        rc = ds_manifest_write(m, &text, err);
    if (rc == 0)
        rc = ds_fs_replace(path, text.data, text.len, err);
    ds_buf_release(&text);
    return rc;
}

static int write_part(const struct save *s, struct ds_manifest *m, struct ds_error *err)
{
    const struct ds_ckpt_save_args *args = s->args;
    int rc;

    m->state = args->state;
    m->state.world = args->world;
    if (args->rank > 0 && access(s->temp, F_OK) < 0)
        return ds_fail(err, ECANCELED, "rank 0 has not made '%s'", s->temp);
    if ((rc = ds__manifest_reserve(m, 2, args->n_weights + args->n_moments, err)) < 0)
        return rc;
    m->block_bytes = s->block_bytes;
    if ((rc = write_kind(s, "weights", args->weights, args->n_weights, m, err)) < 0 ||
        (rc = write_kind(s, "optim", args->moments, args->n_moments, m, err)) < 0)
        return rc;
    return args->rank == 0 ? 0 : write_fragment(s, m, err);
}

/* --- phase 3: rank 0 commits ---------------------------------------------------------------- */

/* Append the tables of `part`, whose memory must outlive `whole`. */
static void merge(struct ds_manifest *whole, const struct ds_manifest *part)
{
    size_t first = whole->files;

    for (size_t i = 0; i < part->files; i++)
        whole->file[whole->files++] = part->file[i];
    for (size_t i = 0; i < part->tensors; i++) {
        struct ds_manifest_tensor *to = &whole->tensor[whole->tensors++];

        *to = part->tensor[i];
        for (size_t j = 0; j < to->ranges; j++)
            to->range[j].file += first;
    }
}

static int load_fragment(const struct save *s, unsigned rank, struct ds_manifest *part,
                         struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int rc = fragment_path(s, rank, path, err);

    if (rc < 0)
        return rc;
    rc = ds_manifest_load(part, path, err);
    if (rc == -ENOENT)
        return ds_fail(err, ECANCELED, "rank %u has not written its part", rank);
    if (rc == 0 && (!part->part || part->block_bytes != s->block_bytes))
        return ds_fail(err, EBADMSG, "'%s' is not a part of this checkpoint", path);
    if (rc == 0 && unlink(path) < 0)
        return ds_fail(err, errno, "cannot remove '%s': %s", path, strerror(errno));
    return rc;
}

/* All parts in one manifest, written to the folder. */
static int write_manifest(const struct save *s, struct ds_manifest *parts, struct ds_error *err)
{
    struct ds_manifest whole;
    size_t files = 0, tensors = 0, world = s->args->world;
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
    whole.block_bytes = s->block_bytes;
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

static int rename_to_final(const struct save *s, struct ds_error *err)
{
    if (rename(s->temp, s->final) < 0)
        return ds_fail(err, errno, "cannot rename '%s' to '%s': %s", s->temp, s->final,
                       strerror(errno));
    return 0;
}

/* For file systems that cannot exchange two names; ds__clean_stale() mends what a crash between the
 * renames leaves. */
static int replace_by_two_renames(struct save *s, struct ds_error *err)
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
static int publish(struct save *s, struct ds_error *err)
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

static int swap_latest(const struct save *s, struct ds_error *err)
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

static int commit(struct save *s, struct ds_manifest *parts, struct ds_error *err)
{
    const struct ds_ckpt_save_args *args = s->args;
    int rc = write_manifest(s, parts, err);

    if (rc == 0 && args->before_commit != NULL)
        rc = args->before_commit(args->user, err);
    if (rc < 0 || (rc = publish(s, err)) < 0 || (rc = swap_latest(s, err)) < 0)
        return rc;
    return ds__prune(args->run_dir, args->state.step, args->keep, err);
}

/* Rank 0 waits for the parts and commits; the others just pass the barriers. */
static int save(struct save *s, struct ds_manifest *parts, struct ds_error *err)
{
    bool commits = s->args->rank == 0;
    int rc = meet(s, commits ? prepare(s, err) : 0, err);

    if (rc == 0)
        rc = write_part(s, &parts[0], err);
    rc = meet(s, rc, err);
    if (commits && rc == 0)
        rc = commit(s, parts, err);
    if (s->temp_made) {
        int removed = ds_fs_remove_tree(s->temp, rc < 0 ? NULL : err);

        rc = rc < 0 ? rc : removed;
    }
    return meet(s, rc, err);
}

int ds_ckpt_save(const struct ds_ckpt_save_args *args, struct ds_error *err)
{
    size_t count = args->rank == 0 ? args->world : 1;
    struct ds_manifest *parts;
    struct save s;
    int rc;

    if (args->world == 0 || args->rank >= args->world || args->world > DS_MAX_RANKS)
        return ds_fail(err, EINVAL, "rank %u of %u cannot save", args->rank, args->world);
    if (args->state.step > DS_MAX_STEPS)
        return ds_fail(err, EINVAL, "step %ju is above %d", (uintmax_t)args->state.step,
                       DS_MAX_STEPS);
    if (args->block_bytes % 8 != 0 || args->block_bytes > DS_CKPT_MAX_BLOCK_BYTES)
        return ds_fail(err, EINVAL, "blocks of %ju bytes cannot be summed",
                       (uintmax_t)args->block_bytes);
    if ((rc = init(&s, args, err)) < 0)
        return rc;
    parts = calloc(count, sizeof(*parts));
    if (parts == NULL)
        return out_of_memory(err);
    rc = save(&s, parts, err);
    for (size_t i = 0; i < count; i++)
        ds_manifest_release(&parts[i]);
    free(parts);
    return ds_error_context(err, rc, "cannot save checkpoint '%s'", s.final);
}
