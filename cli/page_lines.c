/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_lines.c - what lines of metrics and events say about a run; the contract is in page.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/exit.h"
#include "cli/page.h"
#include "cli/story.h"

#define LARGEST 1e300 /* so that differences are finite */

static const struct {
    const char *name;
    bool bad;
} kinds[] = {
#define X(name, bad) {name, bad},
    DS_PAGE_EVENTS(X)
#undef X
};
static const char *const keys[] = {/* of enum ds_page_metric */
#define X(id, key, title, group) key,
                                   DS_PAGE_METRICS(X)
#undef X
};

const char *ds_page_kind(int kind)
{
    return kinds[kind].name;
}

bool ds_page_is_bad(int kind)
{
    return kinds[kind].bad;
}

/* --- metrics --------------------------------------------------------------------------------- */

static void take_number(struct ds_page *page, enum ds_page_metric metric, uint64_t step,
                        const json_t *value)
{
    double number = json_number_value(value);

    if (json_is_null(value))
        page->not_finite += metric == DS_PAGE_LOSS;
    if (!json_is_number(value) || fabs(number) > LARGEST)
        return;
    ds_series_add(&page->metric[metric], step, number);
    if (metric == DS_PAGE_VALID && (page->metric[metric].count == 1 || number < page->best_valid)) {
        page->best_valid = number;
        page->best_step = step;
    }
}

/* The place of a named evaluation; NULL: there is none left. */
static struct ds_page_valid *find_named(struct ds_page *page, const char *name)
{
    for (size_t i = 0; i < page->names; i++)
        if (strcmp(page->named[i].name, name) == 0)
            return &page->named[i];
    if (page->names == DS_PAGE_NAMED || strlen(name) > DS_MAX_NAME)
        return NULL;
    (void)snprintf(page->named[page->names].name, DS_MAX_NAME + 1, "%s", name);
    return &page->named[page->names++];
}

static void take_named(struct ds_page *page, uint64_t step, json_t *line)
{
    static const char before[] = "valid_loss/";
    size_t more = 0;
    const char *key;
    json_t *value;

    json_object_foreach(line, key, value)
    {
        double number = json_number_value(value);
        struct ds_page_valid *valid;

        if (strncmp(key, before, sizeof(before) - 1) != 0 || !json_is_number(value) ||
            fabs(number) > LARGEST)
            continue;
        valid = find_named(page, key + sizeof(before) - 1);
        more += valid == NULL;
        if (valid == NULL)
            continue;
        ds_series_add(&valid->loss, step, number);
        if (valid->loss.count == 1 || number < valid->best) {
            valid->best = number;
            valid->best_step = step;
        }
    }
    page->more_names = more > page->more_names ? more : page->more_names;
}

static void take_metrics(struct ds_page *page, json_t *line)
{
    int64_t step = ds_story_step(line);
    const json_t *tokens = json_object_get(line, "tokens");
    const json_t *skipped = json_object_get(line, "skipped");
    const json_t *time = json_object_get(line, "time");

    if (step < 0) {
        page->damaged++;
        return;
    }
    for (unsigned i = 0; i < DS_PAGE_METRIC_COUNT; i++)
        take_number(page, i, (uint64_t)step, json_object_get(line, keys[i]));
    take_named(page, (uint64_t)step, line);
    if (json_is_integer(tokens) && json_integer_value(tokens) >= 0)
        page->tokens = (uint64_t)json_integer_value(tokens);
    if (json_is_integer(skipped) && json_integer_value(skipped) >= 0)
        page->skipped = (uint64_t)json_integer_value(skipped);
    if (json_object_get(line, "loss") != NULL)
        page->made = (uint64_t)step + 1;
    if (json_is_number(time) && json_number_value(time) < 1e12)
        page->last_s = fmax(page->last_s, json_number_value(time));
}

void ds_page_metrics_line(struct ds_page *page, const char *text, size_t len)
{
    json_t *line = ds_story_parse(text, len, NULL);

    page->has_metrics = true;
    page->lines++;
    if (line == NULL)
        page->damaged++;
    else
        take_metrics(page, line);
    json_decref(line);
}

/* --- events ---------------------------------------------------------------------------------- */

static void copy_text(char *out, size_t cap, const json_t *text)
{
    (void)snprintf(out, cap, "%s", json_is_string(text) ? json_string_value(text) : "");
}

/* All that it says but its name, its time and what is shown elsewhere. */
static void describe(json_t *event, char out[DS_PAGE_DETAIL + 1])
{
    char *text;

    (void)json_object_del(event, "event");
    (void)json_object_del(event, "time");
    (void)json_object_del(event, "header");
    text = json_dumps(event, JSON_COMPACT);
    (void)snprintf(out, DS_PAGE_DETAIL + 1, "%s", text == NULL ? "" : text);
    if (text != NULL && strlen(text) > DS_PAGE_DETAIL)
        memcpy(out + DS_PAGE_DETAIL - 3, "...", 3);
    free(text);
}

static void begin_launch(struct ds_page *page, const json_t *event, double time)
{
    const json_t *steps = json_object_get(event, "steps"), *ranks = json_object_get(event, "ranks");
    const char *header = json_string_value(json_object_get(event, "header"));

    page->launched_s = time;
    page->exited = false;
    page->cause[0] = '\0';
    page->hosts = json_array_size(json_object_get(event, "hosts"));
    page->program = json_is_true(json_object_get(event, "program"));
    page->steps = json_is_integer(steps) && json_integer_value(steps) > 0
                      ? (uint64_t)json_integer_value(steps)
                      : 0;
    page->ranks = json_is_integer(ranks) && json_integer_value(ranks) > 0
                      ? (uint64_t)json_integer_value(ranks)
                      : 0;
    if (header == NULL)
        return;
    ds_buf_reset(&page->header);
    (void)ds_buf_puts(&page->header, header);
}

/* An attempt is over where the next one begins, or where dsrun has ended. */
void ds__page_end_launch(struct ds_page *page, double time)
{
    if (page->launched_s > 0.0 && time > page->launched_s)
        page->ran_s += time - page->launched_s;
    page->launched_s = 0.0;
}

static void heed(struct ds_page *page, const char *kind, const json_t *event, double time)
{
    if (strcmp(kind, "launch") == 0) {
        ds__page_end_launch(page, page->last_s);
        begin_launch(page, event, time);
    } else if (strcmp(kind, "restart") == 0) {
        page->restarts++;
    } else if (strcmp(kind, "failure") == 0) {
        page->failures++;
        copy_text(page->cause, sizeof(page->cause), json_object_get(event, "cause"));
    } else if (strcmp(kind, "exit") == 0) {
        ds__page_end_launch(page, time);
        page->exited = true;
        page->code = (int)json_integer_value(json_object_get(event, "code"));
    }
}

static void keep(struct ds_page *page, int kind, json_t *event, double time)
{
    struct ds_page_event *place = page->told < DS_PAGE_FIRST
                                      ? &page->first[page->told]
                                      : &page->last[(page->told - DS_PAGE_FIRST) % DS_PAGE_LAST];

    *place = (struct ds_page_event){.kind = kind, .time = time};
    describe(event, place->detail);
    page->told++;
    if (time >= page->first_s)
        ds_series_add(&page->mark[kind], (uint64_t)((time - page->first_s) * 1000.0), 1.0);
}

static void take_event(struct ds_page *page, json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "event"));
    double time = json_number_value(json_object_get(event, "time"));
    int kind = 0;

    while (name != NULL && kind < DS_PAGE_KINDS && strcmp(kinds[kind].name, name) != 0)
        kind++;
    if (name == NULL || !(time > 0.0 && time < 1e12)) {
        page->damaged_events++;
        return;
    }
    if (page->first_s == 0.0)
        page->first_s = time;
    if (kind == DS_PAGE_KINDS)
        return;
    heed(page, name, event, time);
    page->last_s = fmax(page->last_s, time);
    keep(page, kind, event, time);
}

void ds_page_event_line(struct ds_page *page, const char *text, size_t len)
{
    json_t *event = ds_story_parse(text, len, NULL);

    page->events++;
    if (event == NULL)
        page->damaged_events++;
    else
        take_event(page, event);
    json_decref(event);
}

const struct ds_page_event *ds_page_event(const struct ds_page *page, size_t i)
{
    uint64_t kept =
        page->told > DS_PAGE_FIRST + DS_PAGE_LAST ? DS_PAGE_FIRST + DS_PAGE_LAST : page->told;
    uint64_t oldest = page->told > kept ? (page->told - kept) % DS_PAGE_LAST : 0;

    if (i >= kept)
        return NULL;
    return i < DS_PAGE_FIRST ? &page->first[i]
                             : &page->last[(oldest + i - DS_PAGE_FIRST) % DS_PAGE_LAST];
}

/* --- how it stands --------------------------------------------------------------------------- */

void ds_page_release(struct ds_page *page)
{
    ds_buf_release(&page->job);
    ds_buf_release(&page->header);
}

const char *ds_page_state(const struct ds_page *page, char why[DS_PAGE_WHY])
{
    why[0] = '\0';
    if (page->running)
        return "running";
    if (!page->exited) {
        (void)snprintf(why, DS_PAGE_WHY,
                       "dsrun ended without a word: it was killed, or its host was");
        return "broken off";
    }
    if (page->code == DS_EXIT_OK)
        return "done";
    if (page->code == DS_EXIT_STOPPED) {
        (void)snprintf(why, DS_PAGE_WHY, "by a signal, after a checkpoint; run again to go on");
        return "stopped";
    }
    (void)snprintf(why, DS_PAGE_WHY, "exit code %d%s%s", page->code,
                   page->cause[0] == '\0' ? "" : ": ", page->cause);
    return "failed";
}
