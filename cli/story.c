/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * story.c - the contract is in story.h.
 */
#include "cli/story.h"

#include <errno.h>
#include <stdio.h>

#include "base/exit.h"
#include "base/json_read.h"

json_t *ds_story_parse(const char *text, size_t len, struct ds_error *err)
{
    json_t *object = NULL;
    int rc = 0;

    for (size_t i = 0; i < len && rc == 0; i++)
        if ((unsigned char)text[i] < 0x20)
            rc = ds_fail(err, EPROTO, "a control character in a record");
    if (rc == 0)
        object = ds_json_parse(text, len, err);
    if (object != NULL && !json_is_object(object)) {
        json_decref(object);
        object = NULL;
        (void)ds_fail(err, EPROTO, "a record that is not an object");
    }
    return object;
}

int64_t ds_story_step(const json_t *object)
{
    const json_t *step = json_object_get(object, "step");

    return json_is_integer(step) ? (int64_t)json_integer_value(step) : -1;
}

void ds_story_stop(struct ds_console *console, bool program, bool saves)
{
    if (program)
        ds_console_note(console, "stopping: every rank gets SIGTERM; once more to kill");
    else
        ds_console_note(console, "stopping: %s; once more to kill",
                        saves ? "every rank saves at the same step"
                              : "checkpoints are off, nothing is saved");
}

void ds_story_where(struct ds_console *console, const json_t *event, uint32_t rank,
                    const char *host)
{
    const char *at = json_string_value(json_object_get(event, "at"));

    ds_console_warn(console, "rank %u on %s is at step %lld%s%s", rank, host,
                    (long long)ds_story_step(event), at != NULL && at[0] != '\0' ? ", " : "",
                    at != NULL ? at : "");
}

void ds_story_failure(struct ds_console *console, const char *cause, unsigned victims)
{
    char more[64] = "";

    if (victims > 0)
        (void)snprintf(more, sizeof(more), "; %u other rank%s ended because of it", victims,
                       victims == 1 ? "" : "s");
    ds_console_error(console, "%s%s", cause, more);
}

void ds_story_restart(struct ds_console *console, const struct ds_story_restart *restart)
{
    unsigned hosts = restart->hosts, ranks = restart->ranks;
    char with[64] = "";

    if (restart->lack != NULL)
        ds_console_warn(console, "%s", restart->lack);
    if (hosts > 0)
        (void)snprintf(with, sizeof(with), " with %u host%s, %u rank%s", hosts,
                       hosts == 1 ? "" : "s", ranks, ranks == 1 ? "" : "s");
    ds_console_warn(console, "starting again in %g s (restart %u)%s", restart->delay_ms / 1000.0,
                    restart->attempt, with);
}

void ds_story_exit(struct ds_console *console, bool program, int code, const char *run_dir)
{
    ds_console_settle(console);
    if (program) {
        if (run_dir != NULL)
            ds_console_note(console, "the record is in %s", run_dir);
    } else if (code == DS_EXIT_OK)
        ds_console_note(console, "done; the record is in %s", run_dir);
    else if (code == DS_EXIT_STOPPED)
        ds_console_note(console, "stopped after a checkpoint; run again to go on");
    else if (code == DS_EXIT_INTERRUPT || code == DS_EXIT_TERMINATED)
        ds_console_note(console, "stopped without a checkpoint");
}
