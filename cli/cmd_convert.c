/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_convert.c - dsrun convert: a DeepSpeed configuration becomes a job file.
 *
 * Nothing is written unless all of it can be, and the result is tried as a job first.
 *
 * Tests   tests/e2e/convert.py
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/convert.h"

enum { OUT_BYTES = 4 * 1024 * 1024 };

/* What the reader should look at, on standard error; the rest is in the file alone. */
static void tell(const struct ds_cli *cli, const struct ds_convert *c)
{
    const char *where = cli->output == NULL ? "the job file" : cli->output;
    size_t fills = ds_convert_fills(c), silent = 0;

    for (const struct ds_convert_note *n = c->note; n != NULL; n = n->next) {
        static const char *const what[] = {[DS_NOTE_CHANGED] = ": ",
                                           [DS_NOTE_WITHOUT] = " has no counterpart: ",
                                           [DS_NOTE_UNKNOWN] = " is unknown: "};
        char at[32] = "";

        silent += n->kind == DS_NOTE_NOTHING;
        if (n->kind == DS_NOTE_NOTHING)
            continue;
        if (n->at.line > 0)
            (void)snprintf(at, sizeof(at), ":%u:%u", n->at.line, n->at.column);
        ds_log(DS_LOG_WARNING, "%s%s: '%s'%s%s", c->name, at, n->path, what[n->kind], n->text);
    }
    if (cli->quiet)
        return;
    if (silent > 0)
        (void)fprintf(stderr, "%zu key%s nothing here; %s says why\n", silent,
                      silent == 1 ? " needs" : "s need", where);
    if (fills > 0)
        (void)fprintf(stderr, "%zu line%s to fill in: look for FILL IN in %s\n", fills,
                      fills == 1 ? "" : "s", where);
}

static int put(const struct ds_cli *cli, const struct ds_buf *text, struct ds_error *err)
{
    char temp[DS_MAX_PATH];
    int fd, rc;

    if (cli->output == NULL) {
        if (fwrite(text->data, 1, text->len, stdout) != text->len || fflush(stdout) != 0)
            return ds_fail(err, EIO, "cannot write to standard output: %s", strerror(errno));
        return 0;
    }
    fd = ds_fs_create_beside(cli->output, temp, err);
    if (fd < 0)
        return fd;
    rc = ds_fs_write_all(fd, text->data, text->len, err);
    if (rc == 0 && fsync(fd) != 0)
        rc = ds_fail(err, errno, "cannot write '%s': %s", cli->output, strerror(errno));
    (void)close(fd);
    if (rc != 0) {
        (void)unlink(temp);
        return rc;
    }
    return ds_fs_publish(temp, cli->output, cli->force, err);
}

static int convert(const struct ds_cli *cli, struct ds_convert *c, const struct ds_buf *text,
                   struct ds_error *err)
{
    const struct ds_convert_args args = {
        .name = cli->arg[0],
        .text = ds_buf_text(text),
        .len = text->len,
        .word = cli->arg + 1,
        .words = cli->args - 1,
        .ranks = cli->slots == 0 && cli->nodes == 0
                     ? 0
                     : (cli->slots == 0 ? 1 : cli->slots) * (cli->nodes == 0 ? 1 : cli->nodes),
    };
    struct ds_buf job;
    int rc = ds_convert_init(c, &args, err);

    ds_buf_init(&job, OUT_BYTES);
    if (rc == 0)
        rc = ds_convert_write(c, &job, err);
    if (rc == 0)
        rc = ds_convert_try(c, ds_buf_text(&job), job.len, err);
    if (rc == 0)
        rc = put(cli, &job, err);
    ds_buf_release(&job);
    return rc;
}

int ds_cmd_convert(const struct ds_cli *cli)
{
    struct ds_convert c = {.name = NULL};
    struct ds_error err = {0};
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds_fs_read(cli->arg[0], DS_MAX_YAML_BYTES, &text, &err);
    if (rc == -EFBIG)
        rc = ds_fail(&err, EBADMSG, "'%s' is larger than %d bytes", cli->arg[0], DS_MAX_YAML_BYTES);
    if (rc == 0)
        rc = convert(cli, &c, &text, &err);
    if (rc == 0)
        tell(cli, &c);
    else
        ds_log(DS_LOG_ERROR, "%s%s", ds_error_text(&err, rc),
               rc == -EEXIST ? "; take another name, or --force to replace it" : "");
    ds_convert_release(&c);
    ds_buf_release(&text);
    return rc == -EEXIST ? DS_EXIT_USAGE : ds_exit_from_errno(rc);
}
