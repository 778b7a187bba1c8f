/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * load_job.c - the job of a command line; the contract is in cli.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "runtime/job.h"

/* What an option says counts for more than the job. */
static int apply_options(const struct ds_cli *cli, struct ds_job *job, struct ds_error *err)
{
    struct ds_buf quoted;
    int rc;

    if (cli->slots > 0)
        job->launch.slots = cli->slots;
    if (cli->restarts >= 0)
        job->launch.restarts = (uint64_t)cli->restarts;
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

int ds_cli_load_job(const struct ds_cli *cli, struct ds_job *job, struct ds_error *err)
{
    int rc;

    ds_job_init(job);
    rc = ds_job_load(job, cli->arg[0], cli->arg + 1, cli->args - 1, err);
    return rc != 0 ? rc : apply_options(cli, job, err);
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
