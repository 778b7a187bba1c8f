/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * watch.c - the contract is in watch.h.
 */
#include "cli/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/jobs.h"
#include "cli/story.h"

/* --- records ---------------------------------------------------------------------------------- */

void ds_records_pass(struct ds_records *records)
{
    json_decref(records->object);
    records->object = NULL;
}

void ds_records_close(struct ds_records *records)
{
    ds_records_pass(records);
    ds_tail_close(&records->tail);
}

int ds_records_fill(struct ds_records *records, bool last, struct ds_error *err)
{
    while (records->object == NULL) {
        int rc = ds_tail_next(&records->tail, last, &records->text, &records->len, err);

        if (rc <= 0)
            return rc;
        records->object = ds_story_parse(records->text, records->len, NULL);
    }
    return 1;
}

/* --- how it began ----------------------------------------------------------------------------- */

static bool is_event(const json_t *event, const char *name)
{
    const char *text = json_string_value(json_object_get(event, "event"));

    return text != NULL && strcmp(text, name) == 0;
}

void ds_watch_heed(struct ds_watched *watch, const json_t *event)
{
    if (!is_event(event, "launch"))
        return;
    json_decref(watch->launch);
    watch->launch = json_deep_copy(event);
}

/* Is this the first launch of the job that is watched? */
static bool begins(const struct ds_watched *watch, const json_t *event)
{
    return is_event(event, "launch") &&
           json_integer_value(json_object_get(event, "attempt")) == 0 &&
           (watch->pid == 0 || json_integer_value(json_object_get(event, "pid")) == watch->pid);
}

/* Read a line of what has been.  Few of them are of interest here, and only those are parsed. */
static void look_at(struct ds_watched *watch, const char *line, size_t len, uint64_t at)
{
    static const char launch[] = "\"launch\"", resumed[] = "\"resumed\"";
    json_t *event = NULL;

    if (memmem(line, len, launch, sizeof(launch) - 1) != NULL ||
        memmem(line, len, resumed, sizeof(resumed) - 1) != NULL)
        event = ds_story_parse(line, len, NULL);
    if (event != NULL && begins(watch, event)) {
        watch->begin = at;
        watch->first_step = -1;
    }
    ds_watch_heed(watch, event);
    if (is_event(event, "resumed") && watch->begin != UINT64_MAX && watch->first_step < 0)
        watch->first_step = ds_story_step(event);
    json_decref(event);
}

static int look_back(struct ds_watched *watch, struct ds_error *err)
{
    struct ds_tail *tail = &watch->events.tail;
    const char *line;
    size_t len;
    uint64_t at = 0;
    int rc = ds_tail_open(tail, watch->dir_fd, "events.jsonl", DS_RECORD_BYTES, err);

    watch->begin = UINT64_MAX;
    watch->first_step = -1;
    while (rc == 0 && (rc = ds_tail_next(tail, false, &line, &len, err)) > 0) {
        look_at(watch, line, len, at);
        at = tail->at;
        rc = 0;
    }
    if (rc == 0 && watch->begin == UINT64_MAX) { /* it has not come to that yet */
        watch->begin = tail->at;
        json_decref(watch->launch);
        watch->launch = NULL;
    }
    return rc;
}

/* --- which job -------------------------------------------------------------------------------- */

static int open_dir(struct ds_watched *watch, struct ds_error *err)
{
    watch->dir_fd = open(watch->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return watch->dir_fd >= 0
               ? 0
               : ds_fail(err, errno, "cannot open '%s': %s", watch->run_dir, strerror(errno));
}

static int open_job(struct ds_watched *watch, const struct ds_job_found *job, const char *word,
                    struct ds_error *err)
{
    if (job->run_dir[0] == '\0')
        return ds_fail(err, ENODATA,
                       "job '%s' was started without --run-dir and keeps no record: what it writes "
                       "is on its own console only, 'dsrun ps' shows its state, 'dsrun kill %d' "
                       "stops it",
                       word, (int)job->pid);
    watch->pid = job->pid;
    (void)snprintf(watch->run_dir, sizeof(watch->run_dir), "%s", job->run_dir);
    return ds_jobs_watch(job->pid, &watch->lock_fd, err);
}

/* A run directory, perhaps of a job that runs here. */
static int open_run(struct ds_watched *watch, const char *word, struct ds_error *err)
{
    char real[PATH_MAX];
    struct ds_job_found job;
    struct ds_error none = {0};

    if (realpath(word, real) == NULL)
        return ds_fail(err, ENOENT, "no run directory '%s': %s", word, strerror(errno));
    (void)snprintf(watch->run_dir, sizeof(watch->run_dir), "%s", real);
    if (ds_jobs_find_run(real, &job, &none) == 0 &&
        ds_jobs_watch(job.pid, &watch->lock_fd, &none) == 0)
        watch->pid = job.pid;
    return 0;
}

static bool is_folder(const char *word)
{
    int fd = open(word, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0)
        (void)close(fd);
    return fd >= 0;
}

static int find(struct ds_watched *watch, const char *word, struct ds_error *err)
{
    struct ds_job_found job;
    int rc = -ENOENT;

    if (strchr(word, '/') == NULL)
        rc = ds_jobs_find(word, &job, err);
    if (rc == 0)
        return open_job(watch, &job, word, err);
    if (strchr(word, '/') == NULL && !(rc == -ENOENT && is_folder(word)))
        return rc;
    ds_error_clear(err);
    return open_run(watch, word, err);
}

int ds_watch_open(struct ds_watched *watch, const char *word, struct ds_error *err)
{
    int rc;

    *watch = (struct ds_watched){.dir_fd = -1, .lock_fd = -1, .events.tail.fd = -1};
    rc = find(watch, word, err);
    if (rc == 0)
        rc = open_dir(watch, err);
    if (rc == 0 && watch->lock_fd < 0) /* without one: a copy, of a job that has ended */
        watch->lock_fd =
            openat(watch->dir_fd, ".lock", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (rc == 0) {
        rc = look_back(watch, err);
        if (rc == -ENOENT)
            rc = ds_fail(err, EINVAL, "'%s' is not a run directory: it has no events.jsonl", word);
    }
    if (rc != 0)
        ds_watch_close(watch);
    return rc;
}

void ds_watch_close(struct ds_watched *watch)
{
    if (watch->run_dir[0] == '\0')
        return;
    ds_records_close(&watch->events);
    json_decref(watch->launch);
    if (watch->dir_fd >= 0)
        (void)close(watch->dir_fd);
    if (watch->lock_fd >= 0)
        (void)close(watch->lock_fd);
    *watch = (struct ds_watched){.dir_fd = -1, .lock_fd = -1};
}

bool ds_watch_ended(struct ds_watched *watch)
{
    return watch->lock_fd < 0 || ds_jobs_ended(watch->lock_fd);
}

/* --- who runs where --------------------------------------------------------------------------- */

uint64_t ds_watch_world(const struct ds_watched *watch)
{
    json_int_t ranks = json_integer_value(json_object_get(watch->launch, "ranks"));

    return ranks > 0 && ranks <= DS_MAX_RANKS ? (uint64_t)ranks : 0;
}

const char *ds_watch_host(const struct ds_watched *watch, uint32_t rank,
                          char out[DS_HOST_LABEL_BYTES])
{
    const json_t *hosts = json_object_get(watch->launch, "hosts");
    const json_t *local = json_object_get(watch->launch, "local");
    const char *name = NULL;
    json_int_t first = 0;

    for (size_t i = 0; name == NULL && i < json_array_size(hosts); i++) {
        json_int_t ranks = json_integer_value(json_array_get(local, i));

        if (ranks >= 0 && ranks <= DS_MAX_RANKS)
            first += ranks;
        if (rank < first || json_array_size(hosts) == 1)
            name = json_string_value(json_array_get(hosts, i));
    }
    if (name == NULL)
        name = "?";
    (void)ds_escape_control(out, DS_HOST_LABEL_BYTES, name, strlen(name));
    return out;
}
