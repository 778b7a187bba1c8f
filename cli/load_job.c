/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * load_job.c - the job of a command line; the contract is in cli.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/log.h"
#include "cli/cli.h"
#include "runtime/job.h"
#include "runtime/job_table.h"
#include "runtime/text/size.h"

/* What an option says counts for more than the job. */
static int apply_options(const struct ds_cli *cli, struct ds_job *job, struct ds_error *err)
{
    struct ds_buf quoted;
    int rc;

    if (cli->slots > 0)
        job->launch.slots = cli->slots;
    if (cli->restarts >= 0)
        job->launch.restarts = (uint64_t)cli->restarts;
    if (cli->restart_on != 0)
        job->launch.restart_on = cli->restart_on;
    if (cli->restart_backoff_s >= 0)
        job->launch.restart_backoff = cli->restart_backoff_s;
    if (cli->heartbeat_s >= 0)
        job->launch.heartbeat = cli->heartbeat_s;
    if (cli->run_dir == NULL)
        return 0;
    ds_buf_init(&quoted, (size_t)8 * DS_MAX_PATH); /* can it be written into job.yaml? */
    rc = ds_yaml_quote(cli->run_dir, &quoted);
    ds_buf_release(&quoted);
    if (rc == -EINVAL)
        return ds_fail(err, EINVAL, "'--run-dir' must be valid UTF-8, not '%s'", cli->run_dir);
    job->run_dir = ds_arena_strdup(&job->arena, cli->run_dir);
    return rc != 0 || job->run_dir == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

/* "A, B" of "A=1", "B=2": values may be secrets, which are not shown. */
static void put_names(const struct ds_strings *env, struct ds_buf *out)
{
    for (size_t i = 0; i < env->count; i++)
        (void)ds_buf_printf(out, "%s%.*s", i > 0 ? ", " : "", (int)strcspn(env->item[i], "="),
                            env->item[i]);
}

int ds_cli_job_record(const struct ds_job *job, struct ds_buf *out, struct ds_error *err)
{
    struct ds_job copy = *job;

    if (job->launch.env.count > 0) {
        (void)ds_buf_puts(out, "# launch.env is not kept here; it had ");
        put_names(&job->launch.env, out);
        (void)ds_buf_puts(out, "\n");
    }
    copy.launch.env.count = 0;
    return ds_job_record(&copy, out, err);
}

/* --verbose: what each key that was given is, and where. */
static void tell_origins(const struct ds_job *job)
{
    const struct ds_keys *keys = &job->source->keys;
    struct ds_buf value;

    ds_buf_init(&value, DS_MAX_YAML_BYTES);
    for (size_t i = 0; i < keys->count; i++) {
        const struct ds_keys_origin *origin = &keys->origin[i];

        ds_buf_reset(&value);
        if (keys->key[i].type == DS_KEY_ENV)
            put_names(&job->launch.env, &value);
        else
            ds_key_print(&keys->key[i], job, &value);
        if (origin->override != NULL)
            ds_log(DS_LOG_INFO, "%s is %s by the command line", keys->key[i].path,
                   ds_buf_text(&value));
        else if (origin->mark.line != 0)
            ds_log(DS_LOG_INFO, "%s is %s by %s:%u:%u", keys->key[i].path, ds_buf_text(&value),
                   keys->name, origin->mark.line, origin->mark.column);
    }
    ds_buf_release(&value);
}

/* A vocabulary that was given has room for all ids of the tokenizer.  The job of an earlier run is
 * read without: its tokenizer may have gone. */
static int check_vocab(const struct ds_job *job, struct ds_error *err)
{
    const struct ds_keys *keys = &job->source->keys;
    uint64_t size = 0, vocab = job->model.shape.vocab;
    int rc;

    if (strcmp(job->data.tokenizer, "bytes") == 0)
        return 0;
    rc = ds_text_size(job->data.tokenizer, &size, err);
    if (rc != 0)
        return ds_keys_place(keys, "data.tokenizer", rc, err);
    if (vocab >= size)
        return 0;
    rc = ds_fail(err, EINVAL,
                 "tokenizer '%s' has %" PRIu64 " ids, and 'model.vocab' is %" PRIu64
                 "; it must be at least that",
                 job->data.tokenizer, size, vocab);
    return ds_keys_place(keys, "model.vocab", rc, err);
}

int ds_cli_load_job(const struct ds_cli *cli, struct ds_job *job, struct ds_error *err)
{
    int rc;

    ds_job_init(job);
    rc = ds_job_load(job, cli->arg[0], cli->arg + 1, cli->args - 1, err);
    if (rc == -ENOENT && cli->implied && strpbrk(cli->arg[0], "./") == NULL) {
        *err = (struct ds_error){0};
        return ds_fail(err, ENOENT,
                       "'%s' is neither a command nor a job file; 'dsrun --help' lists commands",
                       cli->arg[0]);
    }
    if (rc == 0)
        rc = check_vocab(job, err);
    if (rc == 0 && cli->verbose)
        tell_origins(job);
    return rc != 0 ? rc : apply_options(cli, job, err);
}

/* Does the value follow from another key whose own change is told? */
static bool follows(const struct ds_job *job, const struct ds_key *key)
{
    const struct ds_keys *keys = &job->source->keys;
    size_t from = (key->flags & DS_KEY_DERIVED) && key->def != NULL ? ds_keys_find(keys, key->def)
                                                                    : keys->count;

    return from < keys->count && (keys->key[from].flags & DS_KEY_DIGEST) &&
           !ds_keys_given(keys, key->path);
}

void ds_cli_job_changes(const struct ds_job *job, const char *run_dir, struct ds_buf *out)
{
    char path[DS_MAX_PATH];
    struct ds_buf was, is;
    struct ds_job last;
    size_t count, found = 0;
    const struct ds_key *keys = ds_job_keys(&count);
    int rc = ds_path_join(path, run_dir, "job.yaml", NULL);

    ds_buf_init(&was, DS_MAX_YAML_BYTES);
    ds_buf_init(&is, DS_MAX_YAML_BYTES);
    ds_job_init(&last);
    if (rc == 0)
        rc = ds_job_load(&last, path, NULL, 0, NULL);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (!(keys[i].flags & DS_KEY_DIGEST) || follows(job, &keys[i]))
            continue;
        ds_buf_reset(&was);
        ds_buf_reset(&is);
        ds_key_print(&keys[i], &last, &was);
        ds_key_print(&keys[i], job, &is);
        if (strcmp(ds_buf_text(&was), ds_buf_text(&is)) != 0)
            (void)ds_buf_printf(out, "%s%s %s, was %s", found++ == 0 ? "" : "; ", keys[i].path,
                                ds_buf_text(&is), ds_buf_text(&was));
    }
    ds_job_release(&last);
    ds_buf_release(&was);
    ds_buf_release(&is);
}

bool ds_cli_color(const struct ds_cli *cli, int fd)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    if (cli->color != DS_COLOR_AUTO)
        return cli->color == DS_COLOR_ALWAYS;
    if (no_color != NULL && no_color[0] != '\0')
        return false;
    return isatty(fd) && term != NULL && strcmp(term, "dumb") != 0;
}
