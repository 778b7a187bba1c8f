/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_ps.c - dsrun ps, the jobs of this user on this machine, and dsrun kill, which stops one.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/json_read.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/jobs.h"

static uint64_t whole(const json_t *job, const char *key)
{
    const json_t *value = json_object_get(job, key);

    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (uint64_t)json_integer_value(value)
               : 0;
}

static const char *word(const json_t *job, const char *key)
{
    const char *text = json_string_value(json_object_get(job, key));

    return text != NULL ? text : "?";
}

/* A word for a terminal: it came out of a file. */
static const char *shown(const json_t *job, const char *key, char *out, size_t room)
{
    const char *text = word(job, key);

    (void)ds_escape_control(out, room, text, strlen(text));
    return out;
}

/* --- ps --------------------------------------------------------------------------------------- */

struct list {
    bool json;
    unsigned count;
};

static void age_text(double seconds, char out[32])
{
    uint64_t s = seconds > 0 && seconds < 1e12 ? (uint64_t)seconds : 0; /* a clock that jumped */

    if (s < 3600)
        (void)snprintf(out, 32, "%" PRIu64 ":%02" PRIu64, s / 60, s % 60);
    else
        (void)snprintf(out, 32, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60,
                       s % 60);
}

static int show(void *user, pid_t pid, const char *json, size_t len)
{
    struct list *list = user;
    json_t *job = ds_json_parse(json, len, NULL);
    char age[32], steps[48], name[4 * DS_MAX_NAME], state[64], dir[4 * DS_MAX_PATH];

    if (job == NULL)
        return 0; /* half written: it has just begun */
    if (list->json) {
        (void)printf("%.*s\n", (int)len, json);
    } else {
        if (list->count == 0)
            (void)printf("%-8s %-20s %-10s %6s %6s %15s %10s  %s\n", "JOB", "NAME", "STATE",
                         "HOSTS", "RANKS", "STEP", "AGE", "RUN DIRECTORY");
        age_text(ds_clock_wall_s() - json_number_value(json_object_get(job, "started")), age);
        (void)snprintf(steps, sizeof(steps), "%" PRIu64 "/%" PRIu64, whole(job, "step"),
                       whole(job, "steps"));
        (void)printf("%-8d %-20s %-10s %6" PRIu64 " %6" PRIu64 " %15s %10s  %s\n", (int)pid,
                     shown(job, "name", name, sizeof(name)),
                     shown(job, "state", state, sizeof(state)), whole(job, "hosts"),
                     whole(job, "ranks"), steps, age, shown(job, "run_dir", dir, sizeof(dir)));
    }
    list->count++;
    json_decref(job);
    return 0;
}

int ds_cmd_ps(const struct ds_cli *cli)
{
    struct list list = {.json = cli->json};
    struct ds_error err = {0};
    int rc = ds_jobs_each(show, &list, &err);

    if (rc == 0 && fflush(stdout) != 0)
        rc = ds_fail(&err, errno, "cannot write to standard output: %s", strerror(errno));
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

/* --- kill ------------------------------------------------------------------------------------- */

int ds_cmd_kill(const struct ds_cli *cli)
{
    struct ds_job_found found;
    struct ds_error err = {0};
    int rc = ds_jobs_find(cli->arg[0], &found, &err);

    if (rc == 0)
        rc = ds_jobs_signal(found.pid, SIGTERM, &err);
    if (rc == 0)
        return DS_EXIT_OK;
    ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return rc == -ENOENT || rc == -EINVAL || rc == -ESRCH ? DS_EXIT_USAGE : DS_EXIT_FAILURE;
}
