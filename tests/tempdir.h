/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tempdir.h - a folder of its own for a test: made before, removed after.
 *
 *     TestSuite(fsio, .init = tempdir_make, .fini = tempdir_remove);
 *     ... open(tempdir_path("a"), ...)
 */
#ifndef DS_TESTS_TEMPDIR_H
#define DS_TESTS_TEMPDIR_H

#include <criterion/criterion.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"

static char tempdir[DS_MAX_PATH / 2];

static inline void tempdir_make(void)
{
    const char *parent = getenv("TMPDIR");

    (void)snprintf(tempdir, sizeof(tempdir), "%s/dsrun-test-XXXXXX",
                   parent != NULL ? parent : "/tmp");
    cr_assert_not_null(mkdtemp(tempdir), "cannot make %s", tempdir);
}

static inline void tempdir_remove(void)
{
    cr_assert_eq(ds_fs_remove_tree(tempdir, NULL), 0);
}

/* Names in a folder, without "." and "..". */
static inline unsigned tempdir_names(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;

    cr_assert_not_null(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n - 2;
}

/* A path inside; one of four buffers in turn, so that two can stand in one call. */
static inline const char *tempdir_path(const char *name)
{
    static char paths[4][DS_MAX_PATH];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", tempdir, name);
    return path;
}

/* A file of these bytes inside; returns its path. */
static inline const char *tempdir_write(const char *name, const void *bytes, size_t len)
{
    const char *path = tempdir_path(name);
    FILE *file = fopen(path, "wb");

    cr_assert_not_null(file, "cannot make %s", path);
    cr_assert_eq(fwrite(bytes, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
    return path;
}

#endif
