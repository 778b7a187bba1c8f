/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * metrics.c - the contract is in metrics.h.
 */
#include "cli/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/rundir.h"
#include "runtime/job.h" /* enum ds_sink */

/* The columns of metrics.csv, in their order; those of named evaluations come behind them. */
static const char first_columns[] =
    "step,loss,grad_norm,lr,tokens,tokens_per_s,step_ms,mfu,skipped,time,valid_loss";
static const char named[] = "valid_loss/";
enum { LINE_BYTES = DS_MAX_FRAME_BYTES + 1 };

/* The shortest decimal that reads back as `value`. */
static void put_number(struct ds_buf *out, double value)
{
    char text[40];

    for (int digits = 9; digits <= 17; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    (void)ds_buf_puts(out, text);
}

/* The name at `*at`, of *len bytes, and on to the next one; false: there is none. */
static bool next_column(const char **at, const char **name, size_t *len)
{
    if (**at == '\0')
        return false;
    *name = *at;
    *len = strcspn(*at, ",");
    *at += *len + ((*at)[*len] == ',');
    return true;
}

int ds_metrics_csv_row(const char *columns, const json_t *object, struct ds_buf *out)
{
    const char *name, *at = columns;
    size_t len;

    while (next_column(&at, &name, &len)) {
        const json_t *value;
        char key[DS_MAX_NAME + sizeof(named)];

        (void)snprintf(key, sizeof(key), "%.*s", (int)(len < sizeof(key) ? len : 0), name);
        value = json_object_get(object, key);
        if (name > columns)
            (void)ds_buf_puts(out, ",");
        if (json_is_integer(value))
            (void)ds_buf_printf(out, "%lld", (long long)json_integer_value(value));
        else if (json_is_real(value))
            put_number(out, json_real_value(value));
    }
    (void)ds_buf_puts(out, "\n");
    return out->failed ? -ENOMEM : 0;
}

static bool has_column(const char *columns, const char *key)
{
    const char *name;
    size_t len;

    while (next_column(&columns, &name, &len))
        if (strlen(key) == len && memcmp(key, name, len) == 0)
            return true;
    return false;
}

bool ds_metrics_columns(struct ds_buf *columns, json_t *object)
{
    size_t before = columns->len;
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) if (strncmp(key, named, sizeof(named) - 1) == 0 &&
                                                strpbrk(key, ",\"\r\n") == NULL &&
                                                !has_column(ds_buf_text(columns), key))(void)
        ds_buf_printf(columns, ",%s", key);
    return columns->len > before;
}

/* --- cutting ---------------------------------------------------------------------------------- */

struct line {
    uint64_t step;
    bool valid; /* of an evaluation */
};

static bool read_csv_line(const char *text, size_t len, struct line *line)
{
    static const char no_lr[] = ",,,,"; /* a step's loss and norm may be empty: not finite */
    char *end;

    line->step = strtoull(text, &end, 10);
    line->valid = (size_t)(end - text) + sizeof(no_lr) - 1 <= len &&
                  memcmp(end, no_lr, sizeof(no_lr) - 1) == 0;
    return end > text && (size_t)(end - text) < len && *end == ',';
}

static bool read_json_line(const char *text, size_t len, struct line *line)
{
    static const char step_key[] = "\"step\":", valid_key[] = "\"valid_loss\":";
    const char *step = memmem(text, len, step_key, sizeof(step_key) - 1);
    char *end;

    if (step == NULL || text[0] != '{' || text[len - 1] != '}')
        return false;
    step += sizeof(step_key) - 1;
    line->step = strtoull(step, &end, 10);
    line->valid = memmem(text, len, valid_key, sizeof(valid_key) - 1) != NULL;
    return end > step;
}

int ds_metrics_cut(const char *text, size_t len, bool csv, uint64_t updates, struct ds_buf *out)
{
    bool first = true;

    while (len > 0) {
        const char *end = memchr(text, '\n', len);
        size_t line_len;
        struct line line;
        bool keep;

        if (end == NULL)
            break; /* torn */
        line_len = (size_t)(end - text);
        if (csv && first)
            keep = true; /* the names of the columns */
        else
            keep = line_len > 0 && updates > 0 &&
                   (csv ? read_csv_line(text, line_len, &line)
                        : read_json_line(text, line_len, &line)) &&
                   (line.valid ? line.step <= updates : line.step < updates);
        if (keep)
            (void)ds_buf_put(out, text, line_len + 1);
        first = false;
        text += line_len + 1;
        len -= line_len + 1;
    }
    return out->failed ? -ENOMEM : 0;
}

/* Replace the file by what stays of it, unless all of it does. */
static int cut_file(const char *path, bool csv, uint64_t updates, struct ds_error *err)
{
    struct ds_map map;
    struct ds_buf kept;
    int rc = ds_fs_map(path, &map, err);

    if (rc != 0)
        return rc;
    ds_buf_init(&kept, map.len);
    if (ds_metrics_cut(map.data, map.len, csv, updates, &kept) != 0)
        rc = ds_fail(err, ENOMEM, "no memory for '%s'", path);
    else if (kept.len < map.len)
        rc = ds_fs_replace(path, ds_buf_text(&kept), kept.len, err);
    ds_buf_release(&kept);
    ds_map_release(&map);
    return rc;
}

/* --- the files -------------------------------------------------------------------------------- */

/* The columns of the file that is there, which an earlier run may have begun, or of a new one. */
static int read_columns(struct ds_metrics *metrics, struct ds_error *err)
{
    struct ds_map map;
    const char *end;
    int rc = ds_fs_map(metrics->csv_path, &map, err);

    if (rc != 0)
        return rc;
    ds_buf_reset(&metrics->columns);
    end = map.len > 0 ? memchr(map.data, '\n', map.len) : NULL;
    if (end != NULL)
        rc = ds_buf_put(&metrics->columns, map.data, (size_t)(end - (const char *)map.data));
    else
        rc = ds_buf_puts(&metrics->columns, first_columns);
    if (rc == 0 && map.len == 0) {
        struct ds_buf *line = &metrics->line;

        ds_buf_reset(line);
        (void)ds_buf_printf(line, "%s\n", first_columns);
        rc = ds_fs_write_all(metrics->csv_fd, ds_buf_text(line), line->len, err);
    } else if (rc != 0) {
        rc = ds_fail(err, ENOMEM, "no memory for its columns");
    }
    ds_map_release(&map);
    return ds_error_context(err, rc, "'%s'", metrics->csv_path);
}

/* The file again, with the columns that there are now; rows that were there end before new ones. */
static int write_columns(struct ds_metrics *metrics, struct ds_error *err)
{
    struct ds_map map;
    struct ds_buf text;
    const char *rest;
    int rc = ds_fs_map(metrics->csv_path, &map, err);

    if (rc != 0)
        return rc;
    ds_buf_init(&text, map.len + metrics->columns.len + 1);
    rest = map.len > 0 ? memchr(map.data, '\n', map.len) : NULL;
    (void)ds_buf_put(&text, metrics->columns.data, metrics->columns.len);
    if (rest != NULL)
        (void)ds_buf_put(&text, rest, map.len - (size_t)(rest - (const char *)map.data));
    rc = text.failed || metrics->columns.failed
             ? ds_fail(err, ENOMEM, "no memory for '%s'", metrics->csv_path)
             : ds_fs_replace(metrics->csv_path, text.data, text.len, err);
    ds_buf_release(&text);
    ds_map_release(&map);
    if (rc != 0)
        return rc;
    (void)close(metrics->csv_fd);
    metrics->csv_fd = -1;
    return ds_append_open(metrics->csv_path, &metrics->csv_fd, err);
}

static int open_files(struct ds_metrics *metrics, struct ds_error *err)
{
    int rc = 0;

    if (metrics->jsonl_path[0] != '\0')
        rc = ds_append_open(metrics->jsonl_path, &metrics->jsonl_fd, err);
    if (rc == 0 && metrics->csv_path[0] != '\0')
        rc = ds_append_open(metrics->csv_path, &metrics->csv_fd, err);
    if (rc == 0 && metrics->csv_fd >= 0)
        rc = read_columns(metrics, err);
    return rc;
}

static void close_files(struct ds_metrics *metrics)
{
    if (metrics->jsonl_fd >= 0)
        (void)close(metrics->jsonl_fd);
    if (metrics->csv_fd >= 0)
        (void)close(metrics->csv_fd);
    metrics->jsonl_fd = metrics->csv_fd = -1;
}

int ds_metrics_open(struct ds_metrics *metrics, const char *run_dir, unsigned sinks,
                    struct ds_error *err)
{
    int rc = 0;

    *metrics = (struct ds_metrics){.jsonl_fd = -1, .csv_fd = -1};
    ds_buf_init(&metrics->line, LINE_BYTES);
    ds_buf_init(&metrics->columns, LINE_BYTES);
    if ((sinks & DS_SINK_JSONL) != 0)
        rc = ds_path_join(metrics->jsonl_path, run_dir, "metrics.jsonl", err);
    if (rc == 0 && (sinks & DS_SINK_CSV) != 0)
        rc = ds_path_join(metrics->csv_path, run_dir, "metrics.csv", err);
    if (rc == 0)
        rc = open_files(metrics, err);
    if (rc == 0 && (sinks & DS_SINK_TENSORBOARD) != 0)
        rc = ds_tfevents_open(&metrics->events, run_dir, err);
    if (rc != 0)
        ds_metrics_close(metrics);
    return rc;
}

void ds_metrics_close(struct ds_metrics *metrics)
{
    if (metrics->line.max == 0)
        return;
    close_files(metrics);
    ds_tfevents_close(&metrics->events);
    ds_buf_release(&metrics->line);
    ds_buf_release(&metrics->columns);
}

static int append(struct ds_metrics *metrics, int fd, const char *path, struct ds_error *err)
{
    int rc;

    if (metrics->line.failed)
        return ds_fail(err, ENOMEM, "no memory for a line of '%s'", path);
    rc = ds_fs_write_all(fd, metrics->line.data, metrics->line.len, err);
    return ds_error_context(err, rc, "'%s'", path);
}

int ds_metrics_add(struct ds_metrics *metrics, const char *json, size_t len, json_t *object,
                   struct ds_error *err)
{
    int rc = 0;

    if (metrics->jsonl_fd >= 0) {
        ds_buf_reset(&metrics->line);
        (void)ds_buf_put(&metrics->line, json, len);
        (void)ds_buf_puts(&metrics->line, "\n");
        rc = append(metrics, metrics->jsonl_fd, metrics->jsonl_path, err);
    }
    if (rc == 0 && metrics->csv_fd >= 0 && ds_metrics_columns(&metrics->columns, object))
        rc = write_columns(metrics, err);
    if (rc == 0 && metrics->csv_fd >= 0) {
        ds_buf_reset(&metrics->line);
        (void)ds_metrics_csv_row(ds_buf_text(&metrics->columns), object, &metrics->line);
        rc = append(metrics, metrics->csv_fd, metrics->csv_path, err);
    }
    if (rc == 0)
        rc = ds_tfevents_add(&metrics->events, object, err);
    return rc;
}

int ds_metrics_resume(struct ds_metrics *metrics, uint64_t updates, struct ds_error *err)
{
    int rc = 0;

    close_files(metrics);
    if (metrics->jsonl_path[0] != '\0')
        rc = cut_file(metrics->jsonl_path, false, updates, err);
    if (rc == 0 && metrics->csv_path[0] != '\0')
        rc = cut_file(metrics->csv_path, true, updates, err);
    if (rc == 0)
        rc = open_files(metrics, err);
    if (rc == 0)
        rc = ds_tfevents_resume(&metrics->events, updates, err);
    return rc;
}

int ds_metrics_flush(struct ds_metrics *metrics, struct ds_error *err)
{
    const struct {
        int fd;
        const char *path;
    } file[] = {{metrics->jsonl_fd, metrics->jsonl_path}, {metrics->csv_fd, metrics->csv_path}};

    for (int i = 0; i < 2; i++)
        if (file[i].fd >= 0 && fdatasync(file[i].fd) != 0)
            return ds_fail(err, errno, "cannot write '%s': %s", file[i].path, strerror(errno));
    return ds_tfevents_flush(&metrics->events, err);
}
