/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page.h - what a run directory says about its run, and a page that shows it.
 *
 * Reading is one pass over each file, in memory that does not depend on their length: metrics fall
 * into bins (page_series.h), of events the first and the last are kept, and all are counted.  Lines
 * that are damaged are counted and passed over.  The page is one file of HTML and SVG, without
 * scripts and without anything to load; it is well-formed XML, too.
 *
 * Tests   tests/cli/test_page.c, tests/e2e/report.py
 */
#ifndef DS_CLI_PAGE_H
#define DS_CLI_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"
#include "cli/page_series.h"
#include "cli/watch.h"
#include "runtime/ckpt/inspect.h"

/* X(id, key in metrics.jsonl, what the plot is called, group: keys of one group share a plot) */
/* clang-format off */
#define DS_PAGE_METRICS(X) \
    X(LOSS, "loss", "loss", 0) \
    X(VALID, "valid_loss", "validation loss", 0) \
    X(RATE, "lr", "learning rate", 1) \
    X(NORM, "grad_norm", "gradient norm", 2) \
    X(SPEED, "tokens_per_s", "tokens per second", 3) \
    X(MFU, "mfu", "MFU", 4) \
    X(STEP_MS, "step_ms", "milliseconds per step", 5)
/* clang-format on */

enum ds_page_metric {
#define X(id, key, title, group) DS_PAGE_##id,
    DS_PAGE_METRICS(X)
#undef X
        DS_PAGE_METRIC_COUNT
};

/* Events that are told one by one; those of every rank or step are in events.jsonl alone. */
/* clang-format off */
#define DS_PAGE_EVENTS(X) \
    X("launch", false) \
    X("resumed", false) \
    X("ready", false) \
    X("checkpoint", false) \
    X("warning", true) \
    X("stop", false) \
    X("failing", true) \
    X("kill", true) \
    X("failure", true) \
    X("restart", false) \
    X("end", false) \
    X("exit", false)
/* clang-format on */

enum {
#define X(name, bad) +1
    DS_PAGE_KINDS = 0 DS_PAGE_EVENTS(X),
#undef X
    DS_PAGE_FIRST = 50,   /* events kept from the start */
    DS_PAGE_LAST = 200,   /* and from the end */
    DS_PAGE_DETAIL = 400, /* bytes of one that are shown */
    DS_PAGE_CKPTS = 100,  /* newest checkpoints that are looked into */
    DS_PAGE_NAMED = 16    /* named evaluations that are plotted, the first */
};

struct ds_page_valid { /* what a named evaluation has said */
    char name[DS_MAX_NAME + 1];
    struct ds_series loss;
    double best;
    uint64_t best_step;
};

struct ds_page_event {
    int kind;
    double time;
    char detail[DS_PAGE_DETAIL + 1];
};

struct ds_page_ckpt {
    uint64_t step;
    bool whole;
    struct ds_ckpt_info info;
    char why[DS_MAX_ERROR_TEXT]; /* it is damaged */
};

struct ds_page {
    char name[DS_MAX_NAME + 1]; /* of the job, "" if it is not known */
    struct ds_buf job, header;  /* job.yaml; the console's first lines */
    bool program;               /* ranks are any program: there are no metrics */

    struct ds_series metric[DS_PAGE_METRIC_COUNT];
    bool has_metrics;                    /* the file is there */
    uint64_t lines, damaged, not_finite; /* of metrics.jsonl */
    uint64_t skipped;                    /* updates */
    uint64_t steps, made, tokens;        /* wanted, made (last step + 1) */
    double best_valid;
    uint64_t best_step;
    struct ds_page_valid named[DS_PAGE_NAMED];
    size_t names, more_names;

    struct ds_series mark[DS_PAGE_KINDS]; /* milliseconds from `first_s` */
    struct ds_page_event first[DS_PAGE_FIRST], last[DS_PAGE_LAST];
    uint64_t events, told, damaged_events; /* lines; those of DS_PAGE_EVENTS; damaged ones */
    double first_s, last_s;                /* of the clock */
    double ran_s;                          /* sum over launches */
    double launched_s;                     /* of the launch that is open; 0: none */
    uint64_t hosts, ranks, restarts, failures;
    bool running, exited;
    int code;
    char cause[DS_PAGE_DETAIL + 1]; /* of the newest failure since the last start */

    struct ds_page_ckpt ckpt[DS_PAGE_CKPTS]; /* the newest first */
    size_t ckpts, all_ckpts;
};

/* Read the run of `watch`.  `page` is zeroed; released in any case. */
int ds_page_read(struct ds_page *page, struct ds_watched *watch, struct ds_error *err) DS_NODISCARD;
void ds_page_release(struct ds_page *page); /* fine on a zeroed struct */

/* One line of metrics.jsonl or events.jsonl. */
void ds_page_metrics_line(struct ds_page *page, const char *text, size_t len);
void ds_page_event_line(struct ds_page *page, const char *text, size_t len);

/* An attempt is over: where the next one begins, dsrun has ended, or the files do. */
void ds__page_end_launch(struct ds_page *page, double time);

/* The name of an event's kind, and is it one of what went wrong? */
const char *ds_page_kind(int kind);
bool ds_page_is_bad(int kind);

/* Event `i` of those that are kept, from the oldest; NULL behind the last. */
const struct ds_page_event *ds_page_event(const struct ds_page *page, size_t i);

/* "done", "running", ... and in `why` a sentence, or nothing. */
enum { DS_PAGE_WHY = DS_PAGE_DETAIL + 200 };
const char *ds_page_state(const struct ds_page *page, char why[DS_PAGE_WHY]);

/* What every page begins with, so that one is known again. */
#define DS_PAGE_HEAD "<!DOCTYPE html>\n<!-- dsrun report -->\n"

void ds_page_write(const struct ds_page *page, const char *run_dir, double now_s,
                   struct ds_buf *out);

#endif
