/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * env.c - the contract is in env.h.
 */
#include "cli/env.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/envfile.h"
#include "launcher/spec.h"

enum { PIPE_BYTES = 4096 };

struct list {
    struct ds_env *env;
    struct ds_arena *arena;
    size_t cap;
    struct ds_error *err;
};

static int add(struct list *list, const char *entry)
{
    struct ds_env *env = list->env;

    if (entry == NULL)
        return ds_fail(list->err, ENOMEM, "no memory for the environment");
    if (env->count == list->cap)
        return ds_fail(list->err, EINVAL, "more than %zu variables for the ranks", list->cap);
    env->item[env->count++] = entry;
    return 0;
}

/* A file, or all that a pipe has to say: what a shell makes of "<(...)" lies on no disk. */
static int read_all(const char *path, struct ds_buf *text, struct ds_error *err)
{
    struct stat st;
    ssize_t n = 1;
    int fd, rc = 0;

    if (stat(path, &st) != 0 || !S_ISFIFO(st.st_mode))
        return ds_fs_read(path, DS_MAX_YAML_BYTES, text, err);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    while (rc == 0 && n != 0) {
        char *at = ds_buf_reserve(text, PIPE_BYTES);

        n = at != NULL ? read(fd, at, PIPE_BYTES) : 0;
        if (n > 0)
            ds_buf_commit(text, (size_t)n);
        if (at == NULL || text->len > DS_MAX_YAML_BYTES)
            rc = ds_fail(err, EFBIG, "'%s' says more than %d bytes", path, DS_MAX_YAML_BYTES);
        else if (n < 0 && errno != EINTR)
            rc = ds_fail(err, errno, "cannot read '%s': %s", path, strerror(errno));
    }
    (void)close(fd);
    return rc;
}

static int add_file(struct list *list, const char *path)
{
    struct ds_envfile file;
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_YAML_BYTES + PIPE_BYTES);
    rc = read_all(path, &text, list->err);
    if (rc == 0)
        rc = ds_envfile_parse(&file, path, ds_buf_text(&text), text.len, list->arena, list->err);
    ds_buf_release(&text);
    for (size_t i = 0; rc == 0 && i < file.count; i++)
        rc = add(list, file.item[i]);
    return rc;
}

/* A variable that dsrun sets for each rank. */
static bool is_own(const char *name, size_t len)
{
    static const char *const own[] = {
#define X(text) text,
        DS_RANK_VARS(X)
#undef X
    };

    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        if (strlen(own[i]) == len && memcmp(own[i], name, len) == 0)
            return true;
    return false;
}

static int add_matching(struct list *list, const char *pattern)
{
    int rc = 0;

    for (char **item = environ; *item != NULL && rc == 0; item++) {
        size_t len = strcspn(*item, "=");
        char *name = ds_arena_strndup(list->arena, *item, len);

        if (name == NULL)
            return add(list, NULL);
        if ((*item)[len] == '=' && len > 0 && fnmatch(pattern, name, 0) == 0 && !is_own(name, len))
            rc = add(list, *item);
    }
    return rc;
}

/* The word of one --env. */
static int add_word(struct list *list, const char *word)
{
    const char *value;

    if (strchr(word, '=') != NULL)
        return add(list, word);
    if (strpbrk(word, "*?[") != NULL)
        return add_matching(list, word);
    value = getenv(word);
    if (value == NULL)
        return ds_fail(list->err, EDOM, "'--env %s': no such variable; use --env %s=VALUE", word,
                       word);
    return add(list, ds_arena_printf(list->arena, "%s=%s", word, value));
}

int ds_cli_env(const struct ds_cli *cli, const char *const *job, size_t jobs,
               struct ds_arena *arena, struct ds_env *env, struct ds_error *err)
{
    struct list list = {.env = env, .arena = arena, .cap = DS_MAX_SPEC_STRINGS, .err = err};
    int rc = 0;

    *env = (struct ds_env){.item = ds_arena_alloc(arena, list.cap, sizeof(*env->item))};
    if (env->item == NULL)
        return ds_fail(err, ENOMEM, "no memory for the environment");
    for (size_t i = 0; rc == 0 && i < jobs; i++)
        rc = add(&list, job[i]);
    for (size_t i = 0; rc == 0 && i < cli->env_files; i++)
        rc = add_file(&list, cli->env_file[i]);
    for (size_t i = 0; rc == 0 && i < cli->envs; i++)
        rc = add_word(&list, cli->env[i]);
    return rc;
}

void ds_cli_env_names(const struct ds_env *env, struct ds_buf *out)
{
    for (size_t i = 0; i < env->count; i++)
        (void)ds_buf_printf(out, "%s%.*s", i == 0 ? "env  " : " ", (int)strcspn(env->item[i], "="),
                            env->item[i]);
    if (env->count > 0)
        (void)ds_buf_puts(out, "\n");
}

void ds_cli_env_json(const struct ds_env *env, struct ds_json *json)
{
    ds_json_array(json, "env");
    for (size_t i = 0; i < env->count; i++)
        ds_json_bytes(json, NULL, env->item[i], strcspn(env->item[i], "="));
    ds_json_end_array(json);
}
