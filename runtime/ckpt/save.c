/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * save.c - the current run as a checkpoint: written aside, made durable, put in place.
 *
 *   rank 0   make .step-N.tmp
 *   -------- barrier
 *   rank r   write and fsync the files of part r, and part-r.json: a manifest of these files alone
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
#include "runtime/ckpt/store.h"

struct save {
    const struct ds_ckpt_save_args *args;
    char root[DS_MAX_PATH];  /* run_dir/checkpoints */
    char temp[DS_MAX_PATH];  /* root/.step-N.tmp */
    char final[DS_MAX_PATH]; /* root/step-N */
    char name[DS__STEP_NAME];
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

/* A tensor on its way into a file. */
struct item {
    const struct ds_ckpt_tensor *tensor;
    uint64_t bytes;
    size_t part;
};

static int largest_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return strcmp(x->tensor->name, y->tensor->name);
}

/* Within a part the order of ds_safetensors_build(), so that tables and items stay in step. */
static int by_part_then_place(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    size_t x_bytes = ds_dtype_bytes(x->tensor->dtype), y_bytes = ds_dtype_bytes(y->tensor->dtype);

    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return strcmp(x->tensor->name, y->tensor->name);
}

static size_t lightest(const uint64_t *load, size_t parts)
{
    size_t best = 0;

    for (size_t i = 1; i < parts; i++)
        if (load[i] < load[best])
            best = i;
    return best;
}

/* Share the tensors out over `parts` files, the largest first, each to the lightest part so far;
 * then sort them by part and place. */
static int share_out(struct item *items, const struct ds_ckpt_tensor *tensors, size_t count,
                     size_t parts, struct ds_error *err)
{
    uint64_t *load = calloc(parts, sizeof(*load));

    if (load == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < count; i++) {
        uint64_t elems = 0;

        if (!ds_shape_elems(tensors[i].shape, tensors[i].ndim, &elems) ||
            __builtin_mul_overflow(elems, ds_dtype_bytes(tensors[i].dtype), &items[i].bytes)) {
            free(load);
            return ds_fail(err, EOVERFLOW, "tensor '%s' does not fit in memory", tensors[i].name);
        }
        items[i].tensor = &tensors[i];
    }
    qsort(items, count, sizeof(*items), largest_first);
    for (size_t i = 0; i < count; i++) {
        items[i].part = lightest(load, parts);
        load[items[i].part] += items[i].bytes;
    }
    qsort(items, count, sizeof(*items), by_part_then_place);
    free(load);
    return 0;
}

/* Write one file of `count` tensors in their order. */
static int write_file(const struct save *s, const char *name, const struct item *items,
                      size_t count, struct ds_manifest *m, struct ds_error *err)
{
    struct ds_safetensor *table = ds_arena_alloc(&m->arena, count, sizeof(*table));
    struct ds__part part;
    int rc;

    if (table == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < count; i++) {
        const struct ds_ckpt_tensor *t = items[i].tensor;

        table[i] = (struct ds_safetensor){.name = t->name, .dtype = (int)t->dtype, .ndim = t->ndim};
        memcpy(table[i].shape, t->shape, sizeof(table[i].shape));
    }
    rc = ds__part_create(&part, s->temp, name, table, count, m, err);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = ds__part_write(&part, &table[i], items[i].tensor->data, err);
    return ds__part_close(&part, rc, err);
}

/* This rank's file of one kind; there is none when there are fewer tensors than ranks. */
static int write_kind(const struct save *s, const char *kind, const struct ds_ckpt_tensor *tensors,
                      size_t count, struct ds_manifest *m, struct ds_error *err)
{
    size_t parts = count < s->args->world ? count : s->args->world, first = 0, mine = 0;
    struct item *items;
    char name[64];
    int rc;

    if (s->args->rank >= parts)
        return 0;
    items = calloc(count, sizeof(*items));
    if (items == NULL)
        return out_of_memory(err);
    rc = share_out(items, tensors, count, parts, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        first += items[i].part < s->args->rank;
        mine += items[i].part == s->args->rank;
    }
    (void)snprintf(name, sizeof(name), "%s-%05u-of-%05zu.safetensors", kind, s->args->rank + 1,
                   parts);
    if (rc == 0)
        rc = write_file(s, name, items + first, mine, m, err);
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
    if ((rc = ds__manifest_reserve(m, 2, args->n_weights + args->n_moments, err)) < 0 ||
        (rc = write_kind(s, "weights", args->weights, args->n_weights, m, err)) < 0 ||
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
    for (size_t r = 0; rc == 0 && r < world; r++)
        merge(&whole, &parts[r]);
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
