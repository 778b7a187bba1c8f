/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * program.c - the contract is in program.h.
 */
#include "launcher/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"

/* 0, or the errno that execve() would give. */
static int executable(const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return errno;
    if (!S_ISREG(info.st_mode))
        return EACCES;
    return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

/* name in the folder that is the first `len` bytes of `folder`. */
static int join_in(char *out, const char *cwd, const char *folder, size_t len, const char *name)
{
    char text[DS_MAX_PATH], absolute[DS_MAX_PATH];

    if (len >= sizeof(text))
        return -ENAMETOOLONG;
    memcpy(text, folder, len);
    text[len] = '\0';
    if (ds_path_join(absolute, cwd[0] != '\0' ? cwd : ".", len > 0 ? text : ".", NULL) != 0)
        return -ENAMETOOLONG;
    return ds_path_join(out, absolute, name, NULL);
}

static int search(char *out, const char *name, const char *cwd, const char *path,
                  struct ds_error *err)
{
    int worst = ENOENT;

    for (;;) {
        size_t len = strcspn(path, ":");

        if (join_in(out, cwd, path, len, name) == 0) {
            int code = executable(out);

            if (code == 0)
                return 0;
            worst = code == EACCES ? EACCES : worst;
        }
        if (path[len] == '\0')
            break;
        path += len + 1;
    }
    return ds_fail(err, worst, "cannot start '%.300s': %s", name,
                   worst == EACCES ? "the file in PATH may not be executed"
                                   : "no such program in PATH");
}

int ds_program_find(char *out, const char *name, const char *cwd, const char *path,
                    struct ds_error *err)
{
    int rc, code;

    if (strchr(name, '/') == NULL)
        return search(out, name, cwd, path != NULL ? path : DS_PROGRAM_PATH, err);
    rc = ds_path_join(out, cwd[0] != '\0' ? cwd : ".", name, err);
    if (rc != 0)
        return rc;
    code = executable(out);
    if (code == 0)
        return 0;
    return ds_fail(err, code, "cannot start '%.800s': %s", out, strerror(code));
}

int ds_program_cwd(char *out, const char *cwd, struct ds_error *err)
{
    struct stat info;
    int code = 0;

    if (strcmp(cwd, "~") == 0) {
        cwd = getenv("HOME");
        if (cwd == NULL || cwd[0] != '/')
            return ds_fail(err, ENOENT, "no home folder: HOME is not set to a path");
    }
    if (snprintf(out, DS_MAX_PATH, "%s", cwd) >= DS_MAX_PATH)
        return ds_fail(err, ENAMETOOLONG, "working directory '%.200s...' is too long", cwd);
    if (out[0] == '\0')
        return 0;
    if (stat(out, &info) != 0)
        code = errno;
    else if (!S_ISDIR(info.st_mode))
        code = ENOTDIR;
    else if (faccessat(AT_FDCWD, out, X_OK, AT_EACCESS) != 0)
        code = errno;
    return code == 0 ? 0
                     : ds_fail(err, code, "working directory '%.800s': %s", out, strerror(code));
}
