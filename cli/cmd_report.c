/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_report.c - dsrun report: one page about a run, of what is in its run directory.
 *
 * Tests   tests/e2e/report.py
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/page.h"
#include "cli/size.h"

enum { PAGE_BYTES = 64 * 1024 * 1024 };

/* What is replaced must be such a page, or --force must say so. */
static int may_replace(const struct ds_cli *cli, const char *path, struct ds_error *err)
{
    static const char mark[] = DS_PAGE_HEAD;
    struct ds_map map;
    struct ds_error none = {0};
    bool same;

    if (cli->force || ds_fs_map(path, &map, &none) != 0)
        return 0; /* what is no file the rename refuses */
    same = map.len >= sizeof(mark) - 1 && memcmp(map.data, mark, sizeof(mark) - 1) == 0;
    ds_map_release(&map);
    return same ? 0
                : ds_fail(err, EEXIST, "'%s' is there already, and is no page of dsrun report",
                          path);
}

/* Where the page goes: --output, or into the run directory, called as the user called it. */
static int choose_path(const struct ds_cli *cli, const char *run_dir, char *path,
                       struct ds_error *err)
{
    const char *folder = strchr(cli->arg[0], '/') != NULL ? cli->arg[0] : run_dir;

    if (cli->output == NULL)
        return ds_path_join(path, folder, "report.html", err);
    (void)snprintf(path, DS_MAX_PATH, "%s", cli->output); /* not longer: the option has a bound */
    return 0;
}

static int write_page(const struct ds_cli *cli, const struct ds_page *page, const char *run_dir,
                      struct ds_error *err)
{
    char path[DS_MAX_PATH], size[DS_SIZE_TEXT];
    struct ds_buf text;
    int rc = choose_path(cli, run_dir, path, err);

    if (rc == 0)
        rc = may_replace(cli, path, err);
    if (rc != 0)
        return rc;
    ds_buf_init(&text, PAGE_BYTES);
    ds_page_write(page, run_dir, ds_clock_wall_s(), &text);
    if (text.failed)
        rc = ds_fail(err, ENOMEM, "no memory for the page");
    if (rc == 0)
        rc = ds_fs_replace(path, text.data, text.len, err);
    if (rc == 0 && !cli->quiet)
        (void)printf("%s: %s\n", path, ds_size_text(text.len, size));
    ds_buf_release(&text);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = ds_fail(err, EIO, "cannot write to standard output: %s", strerror(errno));
    return rc;
}

int ds_cmd_report(const struct ds_cli *cli)
{
    struct ds_watched watch = {.dir_fd = -1, .lock_fd = -1};
    struct ds_page *page = calloc(1, sizeof(*page));
    struct ds_error err = {0};
    int rc = page != NULL ? 0 : ds_fail(&err, ENOMEM, "out of memory");

    if (rc == 0)
        rc = ds_watch_open(&watch, cli->arg[0], &err);
    if (rc == 0)
        rc = ds_page_read(page, &watch, &err);
    if (rc == 0)
        rc = write_page(cli, page, watch.run_dir, &err);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s%s", ds_error_text(&err, rc),
               rc == -EEXIST ? "; take another name, or --force to replace it" : "");
    if (page != NULL)
        ds_page_release(page);
    free(page);
    ds_watch_close(&watch);
    return rc == -EEXIST ? DS_EXIT_USAGE : ds_exit_from_errno(rc);
}
