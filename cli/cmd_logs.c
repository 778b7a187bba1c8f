/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_logs.c - dsrun logs: what the ranks of a job wrote, with their hosts and ranks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/ranklogs.h"
#include "cli/watch.h"

struct view {
    struct ds_watched watch;
    struct ds_ranklogs logs;
    struct ds_console console;
};

static void show(void *user, uint32_t rank, const char *text)
{
    struct view *view = user;
    char host[DS_HOST_LABEL_BYTES];

    ds_console_rank(&view->console, ds_watch_host(&view->watch, rank, host), rank, false, text,
                    true);
}

/* Where ranks are after a restart. */
static int read_events(struct ds_watched *watch, struct ds_error *err)
{
    int rc;

    while ((rc = ds_records_fill(&watch->events, false, err)) > 0) {
        ds_watch_heed(watch, watch->events.object);
        ds_records_pass(&watch->events);
    }
    return rc;
}

static int follow(struct view *view, struct ds_error *err)
{
    const struct timespec pause = {.tv_nsec = DS_WATCH_MS * 1000000L};
    bool ended = false;
    int rc = 0;

    while (rc == 0 && !ended && !view->console.gone[0]) {
        ended = ds_watch_ended(&view->watch);
        rc = read_events(&view->watch, err);
        if (rc == 0)
            rc = ds_ranklogs_look(&view->logs, ended, err);
        if (rc == 0 && !ended)
            (void)nanosleep(&pause, NULL);
    }
    return rc;
}

static int open_view(struct view *view, const struct ds_cli *cli, struct ds_error *err)
{
    struct ds_ranklogs_args logs = {.rank = cli->rank,
                                    .lines = cli->lines < 0 ? DS_TAIL_LINES : (uint64_t)cli->lines,
                                    .line = show,
                                    .user = view};
    const struct ds_console_args console = {.out_fd = STDOUT_FILENO,
                                            .err_fd = STDERR_FILENO,
                                            .interrupt_fd = -1,
                                            .color = ds_cli_color(cli, STDOUT_FILENO)};
    int rc = ds_watch_open(&view->watch, cli->arg[0], err);
    uint64_t world;

    if (rc != 0)
        return rc;
    world = ds_watch_world(&view->watch);
    if (world > 0 && cli->rank >= (int64_t)world)
        return ds_fail(err, EINVAL, "job '%s' has no rank %" PRId64 ": its ranks are 0 to %" PRIu64,
                       cli->arg[0], cli->rank, world - 1);
    ds_console_init(&view->console, &console);
    logs.run_dir_fd = view->watch.dir_fd;
    return ds_ranklogs_init(&view->logs, &logs, err);
}

int ds_cmd_logs(const struct ds_cli *cli)
{
    struct view view = {0};
    struct ds_error err = {0};
    int rc = open_view(&view, cli, &err), code = DS_EXIT_OK;

    if (rc != 0)
        code = DS_EXIT_USAGE;
    else if ((rc = cli->follow ? follow(&view, &err) : ds_ranklogs_look(&view.logs, true, &err)) !=
             0)
        code = DS_EXIT_FAILURE;
    else if (ds_console_lost(&view.console))
        code = DS_EXIT_FAILURE;
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    ds_ranklogs_release(&view.logs);
    ds_console_release(&view.console);
    ds_watch_close(&view.watch);
    return code;
}
