/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * dsrun.c - the main of dsrun: read the command line, run the command.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/log.h"
#include "cli/opt.h"
#include "runtime/job_table.h"

enum { PRINTED_BYTES = 1 << 20 };

static int (*const commands[DS_COMMAND_COUNT])(const struct ds_cli *) = {
#define X(id, name, fn, words, fewest, most, help) [DS_COMMAND_##id] = (fn),
    DS_COMMANDS(X)
#undef X
};

/* A file opened later must not become stdin, stdout or stderr; children keep these three. */
static bool open_standard(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return false;
    }
    return true;
}

/* --help, --version or --completion. */
static int print_about(const struct ds_cli *cli, const struct ds_command *command)
{
    size_t count;
    const struct ds_key *keys = ds_job_keys(&count);
    struct ds_buf out;
    int code = DS_EXIT_OK;

    ds_buf_init(&out, PRINTED_BYTES);
    if (cli->version)
        ds_version_print(&out);
    else if (cli->completion != NULL)
        ds_completion_print(cli->completion, keys, count, &out);
    else
        ds_help_print(command, cli->args > 0 ? cli->arg[0] : NULL, &out);
    if (out.failed || fputs(ds_buf_text(&out), stdout) < 0 || fflush(stdout) != 0) {
        ds_log(DS_LOG_ERROR, "cannot write to standard output: %s", strerror(errno));
        code = DS_EXIT_FAILURE;
    }
    ds_buf_release(&out);
    return code;
}

int main(int argc, char **argv)
{
    const struct ds_command *command = NULL;
    struct ds_error err = {0};
    struct ds_arena arena;
    struct ds_cli cli;
    int rc, code;

    if (!open_standard())
        return DS_EXIT_FAILURE;
    ds_log_init("dsrun", DS_LOG_WARNING);
    ds_arena_init(&arena);
    rc = ds_opt_parse(argc, argv, &arena, &cli, &command, &err);
    if (rc != 0) {
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
        code = DS_EXIT_USAGE;
    } else if (cli.help || cli.version || cli.completion != NULL) {
        code = print_about(&cli, command);
    } else {
        if (cli.quiet || cli.verbose)
            ds_log_init("dsrun", cli.quiet ? DS_LOG_ERROR : DS_LOG_INFO);
        code = commands[command - ds_commands](&cli);
    }
    ds_arena_release(&arena);
    return code;
}
