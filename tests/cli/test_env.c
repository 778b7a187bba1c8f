/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_env.c - what ranks are given: files of variables, names, patterns.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/env.h"
#include "cli/envfile.h"

enum { MOST = 6 };

/* clang-format off */
static const struct {
    const char *text;
    const char *want[MOST + 1]; /* the entries ... */
    const char *wrong;          /* ... or the message */
} files[] = {
    {"", {NULL}, NULL},
    {"\n\n  \n# A=1\n   # B=2\n", {NULL}, NULL},
    {"A=1\nB=2", {"A=1", "B=2"}, NULL},
    {"A=1\r\nB=2\r\n", {"A=1", "B=2"}, NULL},
    {"export A=1\n  export\tB=2\n", {"A=1", "B=2"}, NULL},
    {"export=1\nexportA=2\n", {"export=1", "exportA=2"}, NULL},
    {"A=\nB= \nC=''\nD=\"\"\n", {"A=", "B=", "C=", "D="}, NULL},
    {"A= x  y \t\n", {"A=x  y"}, NULL},
    {"A=1 # one\nB=1#2\nC=#3\nD= # four\n", {"A=1", "B=1#2", "C=#3", "D="}, NULL},
    {"A='a b'\nB=\"a b\" # c\nC='#'\n", {"A=a b", "B=a b", "C=#"}, NULL},
    {"A='$HOME \\n \"x\"'\n", {"A=$HOME \\n \"x\""}, NULL},
    {"A=\"\\n\\t\\r\\\"\\\\\\$\\`\"\n", {"A=\n\t\r\"\\$`"}, NULL},
    {"A=$HOME\nB=`ls`\nC=a;b\n", {"A=$HOME", "B=`ls`", "C=a;b"}, NULL},
    {"A='two\nlines'\nB=3\n", {"A=two\nlines", "B=3"}, NULL},
    {"A=a=b\n", {"A=a=b"}, NULL},
    {"A=it's\n", {"A=it's"}, NULL},
    {"A=\xff\xfe\n", {"A=\xff\xfe"}, NULL},
    {"A=1\nA=2\n", {"A=1", "A=2"}, NULL},
    {"just words\n", {NULL}, ".env:1:1: expected NAME=value"},
    {"A=1\n  B\n", {NULL}, ".env:2:3: expected NAME=value"},
    {"A =1\n", {NULL}, ".env:1:1: expected NAME=value"},
    {"=1\n", {NULL}, ".env:1:1: expected NAME=value"},
    {"2A=1\n", {NULL}, ".env:1:1: expected NAME=value"},
    {"export 2A=1\n", {NULL}, ".env:1:8: expected NAME=value"},
    {"A=1\nB='x\ny\n", {NULL}, ".env:2:3: the quote is not closed"},
    {"A=\"x", {NULL}, ".env:1:3: the quote is not closed"},
    {"A=\"\\x\"\n", {NULL}, ".env:1:4: an unknown escape; there are \\n \\t \\r \\\" \\\\ \\$ \\`"},
    {"A=\"x\\", {NULL}, ".env:1:5: an unknown escape; there are \\n \\t \\r \\\" \\\\ \\$ \\`"},
    {"A='x' y\n", {NULL}, ".env:1:7: expected the end of the line after the closing quote"},
    {"A='x\ny'z\n", {NULL}, ".env:2:3: expected the end of the line after the closing quote"},
};
/* clang-format on */

Test(envfile, right_and_wrong)
{
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct ds_arena arena;
        struct ds_envfile env;
        struct ds_error err = {0};
        size_t len = strlen(files[i].text), count = 0;
        char *text = malloc(len + 1); /* exactly so long, for the sanitizers */
        int rc;

        cr_assert(text != NULL);
        memcpy(text, files[i].text, len);
        ds_arena_init(&arena);
        rc = ds_envfile_parse(&env, ".env", text, len, &arena, &err);
        cr_expect_eq(rc, files[i].wrong != NULL ? -EINVAL : 0, "file %zu: %s", i, err.text);
        cr_expect_str_eq(err.text, files[i].wrong != NULL ? files[i].wrong : "");
        while (files[i].want[count] != NULL)
            count++;
        cr_expect(rc != 0 || env.count == count, "file %zu: %zu entries", i, env.count);
        for (size_t k = 0; rc == 0 && k < count && k < env.count; k++)
            cr_expect_str_eq(env.item[k], files[i].want[k], "file %zu: '%s'", i, env.item[k]);
        ds_arena_release(&arena);
        free(text);
    }
}

Test(envfile, bounds)
{
    static char text[8 * (DS_MAX_SPEC_STRINGS + 1)];
    struct ds_arena arena;
    struct ds_envfile env;
    struct ds_error err = {0};
    size_t used = 0;

    for (int i = 0; i < DS_MAX_SPEC_STRINGS; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "A=1\n");
    ds_arena_init(&arena);
    cr_expect_eq(ds_envfile_parse(&env, "f", text, used, &arena, &err), 0);
    cr_expect_eq(env.count, DS_MAX_SPEC_STRINGS);
    (void)snprintf(text + used, sizeof(text) - used, "A=1\n");
    cr_expect_eq(ds_envfile_parse(&env, "f", text, used + 4, &arena, &err), -EINVAL);
    cr_expect_str_eq(err.text, "f:4097:1: more than 4096 variables");
    cr_expect_eq(ds_envfile_parse(&env, "f", "A=\0", 3, &arena, &err), -EINVAL);
    ds_arena_release(&arena);
}

struct scene {
    struct ds_arena arena;
    struct ds_env env;
    struct ds_error err;
    int rc;
};

static void collect(struct scene *scene, const char *const *words, const char *file)
{
    const char *job[] = {"A=job", "B=job"};
    struct ds_cli cli = {
        .env = (const char **)(uintptr_t)words, .env_file = &file, .env_files = file != NULL};

    while (words[cli.envs] != NULL)
        cli.envs++;
    memset(scene, 0, sizeof(*scene));
    ds_arena_init(&scene->arena);
    (void)clearenv();
    (void)setenv("NCCL_A", "1", 1);
    (void)setenv("NCCL_B", "a b\n\xff", 1);
    (void)setenv("OTHER", "", 1);
    (void)setenv("RANK", "7", 1);
    (void)setenv("MASTER_PORT", "29500", 1);
    scene->rc = ds_cli_env(&cli, job, 2, &scene->arena, &scene->env, &scene->err);
}

static void expect(const struct scene *scene, size_t at, const char *want)
{
    cr_assert(at < scene->env.count, "%zu entries", scene->env.count);
    cr_expect_str_eq(scene->env.item[at], want, "'%s'", scene->env.item[at]);
}

Test(env, later_ones_win_by_standing_later)
{
    const char *const words[] = {"A=option", "NCCL_B", "OTHER", "RANK", NULL};
    char path[] = "/tmp/dsrun-env.XXXXXX";
    int fd = mkstemp(path);
    struct scene scene;

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "A=file\nC=file\n", 14), 14);
    (void)close(fd);
    collect(&scene, words, path);
    (void)unlink(path);
    cr_assert_eq(scene.rc, 0, "%s", scene.err.text);
    cr_expect_eq(scene.env.count, 8);
    expect(&scene, 0, "A=job");
    expect(&scene, 2, "A=file");
    expect(&scene, 3, "C=file");
    expect(&scene, 4, "A=option");
    expect(&scene, 5, "NCCL_B=a b\n\xff");
    expect(&scene, 6, "OTHER=");
    expect(&scene, 7, "RANK=7"); /* by name, even what dsrun sets */
    ds_arena_release(&scene.arena);
}

Test(env, patterns)
{
    const char *const words[] = {"NCCL_*", "NONE*", "[OR]*", "MASTER_????", NULL};
    struct scene scene;

    collect(&scene, words, NULL);
    cr_assert_eq(scene.rc, 0, "%s", scene.err.text);
    cr_expect_eq(scene.env.count, 5, "%zu", scene.env.count);
    expect(&scene, 2, "NCCL_A=1");
    expect(&scene, 3, "NCCL_B=a b\n\xff");
    expect(&scene, 4, "OTHER="); /* not RANK and not MASTER_PORT */
    ds_arena_release(&scene.arena);
}

Test(env, wrong)
{
    const char *const none[] = {NULL}, *const missing[] = {"MISSING", NULL};
    struct scene scene;

    collect(&scene, missing, NULL);
    cr_expect_eq(scene.rc, -EDOM);
    cr_expect_str_eq(scene.err.text, "'--env MISSING': no such variable; use --env MISSING=VALUE");
    ds_arena_release(&scene.arena);
    collect(&scene, none, "/nonexistent/.env");
    cr_expect_eq(scene.rc, -ENOENT);
    ds_arena_release(&scene.arena);
}
