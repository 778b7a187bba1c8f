/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * list.c - the checkpoints of a run: found, chosen, thinned out.
 *
 * Only names of the exact form of a finished checkpoint count; everything that a crash may leave
 * behind has a name that starts with a dot.  A removal is a rename first, so that a checkpoint is
 * either whole or gone, whenever the machine stops.
 */
#include "runtime/ckpt/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/store.h"

static int newest_first(const void *a, const void *b)
{
    const struct ds_ckpt_entry *x = a, *y = b;

    return x->step > y->step ? -1 : x->step < y->step;
}

static int append(struct ds_ckpt_list *list, uint64_t step, struct ds_error *err)
{
    if ((list->count & (list->count + 1)) == 0) { /* 0, 1, 3, 7 ...: room for as many again */
        struct ds_ckpt_entry *more =
            realloc(list->entry, (list->count * 2 + 1) * sizeof(*list->entry));

        if (more == NULL)
            return ds_fail(err, ENOMEM, "out of memory");
        list->entry = more;
    }
    list->entry[list->count].step = step;
    ds__step_name(step, list->entry[list->count].name);
    list->count++;
    return 0;
}

static int scan(DIR *dir, struct ds_ckpt_list *list, struct ds_error *err)
{
    struct dirent *entry;
    struct stat info;
    uint64_t step;
    int rc = 0;

    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (ds__step_parse(entry->d_name, &step) &&
            fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(info.st_mode))
            rc = append(list, step, err);
    return rc;
}

int ds_ckpt_list(const char *run_dir, struct ds_ckpt_list *list, struct ds_error *err)
{
    char root[DS_MAX_PATH];
    DIR *dir;
    int rc = ds_path_join(root, run_dir, DS__CHECKPOINTS, err);

    memset(list, 0, sizeof(*list));
    if (rc < 0)
        return rc;
    dir = opendir(root);
    if (dir == NULL && errno == ENOENT)
        return access(run_dir, F_OK) == 0
                   ? 0
                   : ds_fail(err, ENOENT, "there is no run directory '%s'", run_dir);
    if (dir == NULL)
        return ds_fail(err, errno, "cannot list '%s': %s", root, strerror(errno));
    rc = scan(dir, list, err);
    (void)closedir(dir);
    if (rc < 0)
        ds_ckpt_list_release(list);
    else if (list->count > 0)
        qsort(list->entry, list->count, sizeof(*list->entry), newest_first);
    return rc;
}

void ds_ckpt_list_release(struct ds_ckpt_list *list)
{
    free(list->entry);
    memset(list, 0, sizeof(*list));
}

/* --- resolving ------------------------------------------------------------------------------ */

static bool is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Is this a checkpoint's folder, be it whole or not: by its manifest or by its name? */
static bool looks_like_checkpoint(const char *path)
{
    char manifest[DS_MAX_PATH];
    const char *slash = strrchr(path, '/');
    uint64_t step;

    if (ds__step_parse(slash != NULL ? slash + 1 : path, &step))
        return true;
    return ds_path_join(manifest, path, DS_MANIFEST_NAME, NULL) == 0 && access(manifest, F_OK) == 0;
}

/* The name that the link `latest` holds, when it is a step's that is there. */
static bool read_latest(const char *root, char out[DS__STEP_NAME])
{
    char link[DS_MAX_PATH], folder[DS_MAX_PATH];
    uint64_t step;
    ssize_t len;

    if (ds_path_join(link, root, DS__LATEST, NULL) < 0)
        return false;
    len = readlink(link, out, DS__STEP_NAME - 1);
    if (len < 0)
        return false;
    out[len] = '\0';
    return ds__step_parse(out, &step) && ds_path_join(folder, root, out, NULL) == 0 &&
           is_folder(folder);
}

int ds_ckpt_list_line(const char *run_dir, struct ds_ckpt_list *list, struct ds_error *err)
{
    char root[DS_MAX_PATH], name[DS__STEP_NAME];
    uint64_t latest;
    size_t left = 0;
    int rc = ds_ckpt_list(run_dir, list, err);

    if (rc < 0 || ds_path_join(root, run_dir, DS__CHECKPOINTS, NULL) < 0 ||
        !read_latest(root, name) || !ds__step_parse(name, &latest))
        return rc;
    while (left < list->count && list->entry[left].step > latest)
        left++;
    list->count -= left;
    if (left > 0)
        memmove(list->entry, list->entry + left, list->count * sizeof(*list->entry));
    return 0;
}

/* Without slashes at its end, so that its last component is a name. */
static int trimmed(char out[DS_MAX_PATH], const char *path, struct ds_error *err)
{
    int rc = ds_path_join(out, "", path, err);

    for (size_t len = rc == 0 ? strlen(out) : 0; len > 1 && out[len - 1] == '/'; len--)
        out[len - 1] = '\0';
    return rc;
}

static bool has_config(const char *folder)
{
    char path[DS_MAX_PATH];

    return ds_path_join(path, folder, "config.json", NULL) == 0 && access(path, F_OK) == 0;
}

int ds_ckpt_resolve(const char *path, char *out, struct ds_error *err)
{
    char folder[DS_MAX_PATH], root[DS_MAX_PATH], name[DS__STEP_NAME] = "";
    struct ds_ckpt_list list;
    int rc = trimmed(folder, path, err);

    if (rc < 0)
        return rc;
    if (!is_folder(folder))
        return ds_fail(err, ENOENT, "there is no checkpoint or run directory '%s'", path);
    if (looks_like_checkpoint(folder))
        return ds_path_join(out, "", folder, err);
    if ((rc = ds_path_join(root, folder, DS__CHECKPOINTS, err)) < 0)
        return rc;
    if (!is_folder(root))
        return ds_fail(
            err, ENOENT, "'%s' is neither a checkpoint nor a run directory%s", path,
            has_config(folder) ? ", but a folder of Hugging Face: see 'dsrun ckpt import'" : "");
    if (!read_latest(root, name)) {
        if ((rc = ds_ckpt_list(folder, &list, err)) < 0)
            return rc;
        if (list.count == 0)
            return ds_fail(err, ENOENT, "the run directory '%s' has no checkpoint yet", path);
        memcpy(name, list.entry[0].name, sizeof(name));
        ds_ckpt_list_release(&list);
    }
    return ds_path_join(out, root, name, err);
}

/* --- thinning out --------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* A replaced checkpoint goes back to its place when the new one never got there. */
static int put_back(const char *root, const char *from, const char *old, struct ds_error *err)
{
    char name[DS__STEP_NAME], to[DS_MAX_PATH];
    size_t len = strlen(old) - strlen(".old") - 1;
    uint64_t step;
    int rc;

    if (len >= sizeof(name))
        return ds_fs_remove_tree(from, err);
    memcpy(name, old + 1, len);
    name[len] = '\0';
    if ((rc = ds_path_join(to, root, name, err)) < 0)
        return rc;
    if (!ds__step_parse(name, &step) || access(to, F_OK) == 0)
        return ds_fs_remove_tree(from, err);
    if (rename(from, to) < 0)
        return ds_fail(err, errno, "cannot put back '%s': %s", to, strerror(errno));
    return 0;
}

/* Names that saves leave when they are cut off; anything else is somebody's own. */
static int clean_one(const char *root, const char *name, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int rc;

    if (strncmp(name, ".step-", 6) != 0)
        return 0;
    if ((rc = ds_path_join(path, root, name, err)) < 0)
        return rc;
    if (ends_with(name, ".old"))
        return put_back(root, path, name, err);
    if (ends_with(name, ".tmp") || ends_with(name, ".gone"))
        return ds_fs_remove_tree(path, err);
    return 0;
}

int ds__clean_stale(const char *root, struct ds_error *err)
{
    struct dirent *entry;
    DIR *dir = opendir(root);
    int rc = 0;

    if (dir == NULL)
        return ds_fail(err, errno, "cannot list '%s': %s", root, strerror(errno));
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        rc = clean_one(root, entry->d_name, err);
    (void)closedir(dir);
    return rc;
}

static int remove_one(const char *root, const char *name, struct ds_error *err)
{
    char from[DS_MAX_PATH], to[DS_MAX_PATH], gone[DS__STEP_NAME + 8];
    int rc;

    (void)snprintf(gone, sizeof(gone), ".%s.gone", name);
    if ((rc = ds_path_join(from, root, name, err)) < 0 ||
        (rc = ds_path_join(to, root, gone, err)) < 0)
        return rc;
    if (rename(from, to) < 0)
        return ds_fail(err, errno, "cannot remove '%s': %s", from, strerror(errno));
    return ds_fs_remove_tree(to, err);
}

static bool is_whole(const char *root, const char *name)
{
    struct ds_ckpt_state state;
    char path[DS_MAX_PATH];

    return ds_path_join(path, root, name, NULL) == 0 && ds_ckpt_peek(path, &state, NULL) == 0;
}

int ds__prune(const char *run_dir, uint64_t newest, uint64_t keep, uint64_t keep_every,
              struct ds_error *err)
{
    char root[DS_MAX_PATH];
    struct ds_ckpt_list list;
    uint64_t kept = 0;
    int rc = ds_path_join(root, run_dir, DS__CHECKPOINTS, err);

    if (rc < 0 || keep == 0 || (rc = ds_ckpt_list(run_dir, &list, err)) < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < list.count; i++) {
        if (list.entry[i].step > newest)
            continue;
        if (kept < keep)
            kept += is_whole(root, list.entry[i].name);
        else if (keep_every == 0 || list.entry[i].step % keep_every != 0)
            rc = remove_one(root, list.entry[i].name, err);
    }
    ds_ckpt_list_release(&list);
    return rc;
}
