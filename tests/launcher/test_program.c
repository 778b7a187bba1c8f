/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_program.c - which file a program's name means, and where it runs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/program.h"

/* A folder with bin/tool, plain/tool (not executable), more/tool, folder/tool/. */
static void make_folder(char *top)
{
    static const char *const folders[] = {"bin", "plain", "more", "folder", "folder/tool"};
    static const struct {
        const char *path;
        mode_t mode;
    } files[] = {{"bin/tool", 0755}, {"plain/tool", 0644}, {"more/tool", 0755}};
    char path[256];

    cr_assert(mkdtemp(top) != NULL);
    for (size_t i = 0; i < 5; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", top, folders[i]);
        cr_assert_eq(mkdir(path, 0755), 0);
    }
    for (size_t i = 0; i < 3; i++) {
        int fd;

        (void)snprintf(path, sizeof(path), "%s/%s", top, files[i].path);
        fd = open(path, O_CREAT | O_WRONLY, files[i].mode);
        cr_assert_geq(fd, 0);
        (void)close(fd);
    }
}

static void remove_folder(const char *top)
{
    static const char *const names[] = {
        "bin/tool", "plain/tool", "more/tool", "folder/tool", "bin", "plain", "more", "folder", ""};
    char path[256];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", top, names[i]);
        (void)remove(path);
    }
}

Test(program, names_and_paths)
{
    char top[] = "/tmp/dsrun-program.XXXXXX";
    /* clang-format off */
    static const struct { /* paths without a first '/' are below the folder */
        const char *name, *path, *want;
        int code;
    } table[] = {
        {"tool", "bin:more", "bin/tool", 0},
        {"tool", "more:bin", "more/tool", 0},
        {"tool", "plain:more", "more/tool", 0},     /* not executable: the next one */
        {"tool", "folder:bin", "bin/tool", 0},      /* a folder is no program */
        {"tool", "plain", NULL, EACCES},
        {"tool", "nowhere", NULL, ENOENT},
        {"tool", "", NULL, ENOENT},                 /* an empty part is the working directory */
        {"tool", ":bin", "bin/tool", 0},
        {"bin/tool", "nowhere", "bin/tool", 0},     /* a slash: no search */
        {"./more/tool", "bin", "./more/tool", 0},
        {"bin/none", "bin", NULL, ENOENT},
        {"plain/tool", "bin", NULL, EACCES},
        {"folder/tool", "bin", NULL, EACCES},
    };
    /* clang-format on */

    make_folder(top);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char out[DS_MAX_PATH], want[DS_MAX_PATH];
        struct ds_error err = {0};
        int rc = ds_program_find(out, table[i].name, top, table[i].path, &err);

        cr_expect_eq(rc, -table[i].code, "row %zu: %s", i, err.text);
        (void)snprintf(want, sizeof(want), "%s/%s", top,
                       table[i].want != NULL ? table[i].want : "");
        cr_expect(table[i].want == NULL || strcmp(out, want) == 0, "row %zu: %s", i, out);
    }
    remove_folder(top);
}

Test(program, an_environment_without_a_path)
{
    char out[DS_MAX_PATH];

    cr_expect_eq(ds_program_find(out, "sh", "", NULL, NULL), 0);
    cr_expect_str_eq(out, "/usr/bin/sh");
}

Test(program, a_path_of_any_length)
{
    static char path[3 * DS_MAX_PATH];
    char out[DS_MAX_PATH];

    memset(path, 'a', sizeof(path) - 1);
    cr_expect_eq(ds_program_find(out, "sh", "", path, NULL), -ENOENT);
    memcpy(path + 2 * DS_MAX_PATH, ":/bin", 6);
    cr_expect_eq(ds_program_find(out, "sh", "", path, NULL), 0);
    cr_expect_str_eq(out, "/bin/sh");
}

Test(program, working_directories)
{
    char out[DS_MAX_PATH];
    struct ds_error err = {0};

    cr_expect_eq(ds_program_cwd(out, "", &err), 0);
    cr_expect_str_eq(out, "");
    cr_expect_eq(ds_program_cwd(out, "/usr", &err), 0);
    cr_expect_str_eq(out, "/usr");
    cr_expect_eq(ds_program_cwd(out, "/nonexistent", &err), -ENOENT);
    cr_expect_str_eq(err.text, "working directory '/nonexistent': No such file or directory");
    cr_assert_eq(setenv("HOME", "/etc", 1), 0);
    cr_expect_eq(ds_program_cwd(out, "~", &err), 0);
    cr_expect_str_eq(out, "/etc");
    cr_assert_eq(setenv("HOME", "here", 1), 0);
    cr_expect_eq(ds_program_cwd(out, "~", &err), -ENOENT);
}
