/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_read.c - the files of a run directory, each in one pass; the contract is in page.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "base/yaml.h"
#include "cli/page.h"
#include "runtime/ckpt/ckpt.h"

/* --- the job, the checkpoints ---------------------------------------------------------------- */

static int read_job(struct ds_page *page, const char *run_dir, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    struct ds_arena arena;
    struct ds_yaml *root = NULL;
    const struct ds_yaml *name;
    int rc = ds_path_join(path, run_dir, "job.yaml", err);

    if (rc == 0)
        rc = ds_fs_read(path, DS_MAX_YAML_BYTES, &page->job, err);
    if (rc == -ENOENT || rc == -EFBIG || rc == -EINVAL) { /* the page says that it is not there */
        ds_error_clear(err);
        ds_buf_reset(&page->job);
        return 0;
    }
    if (rc != 0)
        return rc;
    ds_arena_init(&arena);
    if (ds_yaml_parse(&arena, "job.yaml", ds_buf_text(&page->job), page->job.len, &root, NULL) ==
            0 &&
        root->kind == DS_YAML_MAP && (name = ds_yaml_get(root, "name")) != NULL &&
        name->text != NULL)
        (void)snprintf(page->name, sizeof(page->name), "%s", name->text);
    ds_arena_release(&arena);
    return 0;
}

static int read_ckpt(struct ds_page_ckpt *ckpt, const char *folder,
                     const struct ds_ckpt_entry *entry, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    struct ds_error why = {0};
    int rc = ds_path_join(path, folder, entry->name, err);

    if (rc != 0)
        return rc;
    ckpt->step = entry->step;
    ckpt->whole = ds_ckpt_inspect(path, &ckpt->info, &why) == 0;
    (void)snprintf(ckpt->why, sizeof(ckpt->why), "%s", ckpt->whole ? "" : why.text);
    return 0;
}

static int read_ckpts(struct ds_page *page, const char *run_dir, struct ds_error *err)
{
    char folder[DS_MAX_PATH];
    struct ds_ckpt_list list = {0};
    int rc = ds_path_join(folder, run_dir, "checkpoints", err);

    if (rc == 0)
        rc = ds_ckpt_list(run_dir, &list, err);
    if (rc == -ENOENT) { /* it has made none */
        ds_error_clear(err);
        return 0;
    }
    page->all_ckpts = list.count;
    for (size_t i = 0; rc == 0 && i < list.count && i < DS_PAGE_CKPTS; i++)
        rc = read_ckpt(&page->ckpt[page->ckpts++], folder, &list.entry[i], err);
    ds_ckpt_list_release(&list);
    return rc;
}

/* Every line of a file; one that is missing has none. */
static int read_lines(struct ds_page *page, int dir_fd, const char *name,
                      void (*take)(struct ds_page *page, const char *text, size_t len),
                      struct ds_error *err)
{
    struct ds_tail tail = {.fd = -1};
    const char *text;
    size_t len;
    int rc = ds_tail_open(&tail, dir_fd, name, DS_RECORD_BYTES, err);

    if (rc == -ENOENT) {
        ds_error_clear(err);
        return 0;
    }
    while (rc == 0 && (rc = ds_tail_next(&tail, false, &text, &len, err)) > 0) {
        take(page, text, len);
        rc = 0;
    }
    ds_tail_close(&tail);
    return rc;
}

/* --- all of it ------------------------------------------------------------------------------- */

int ds_page_read(struct ds_page *page, struct ds_watched *watch, struct ds_error *err)
{
    int rc;

    ds_buf_init(&page->job, DS_MAX_YAML_BYTES);
    ds_buf_init(&page->header, DS_RECORD_BYTES);
    page->running = !ds_watch_ended(watch); /* before what it wrote is read */
    rc = read_lines(page, watch->dir_fd, "events.jsonl", ds_page_event_line, err);
    if (rc == 0)
        rc = read_lines(page, watch->dir_fd, "metrics.jsonl", ds_page_metrics_line, err);
    if (rc == 0)
        rc = read_job(page, watch->run_dir, err);
    if (rc == 0)
        rc = read_ckpts(page, watch->run_dir, err);
    ds__page_end_launch(page, page->last_s); /* of one that runs, or that was killed */
    return rc;
}
