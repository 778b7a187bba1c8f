/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tokenize.c - the contract is in tokenize.h.
 */
#include "cli/tokenize.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "base/log.h"
#include "runtime/data/kept.h"

enum { DRAW_MS = 200 };

static const int numbers[DS_CLI_TOKENIZE_SIGNALS] = {SIGINT, SIGTERM, SIGHUP};
static volatile sig_atomic_t stopped_by;

static void on_signal(int number)
{
    stopped_by = number;
}

void ds_cli_tokenizing_begin(struct ds_cli_tokenizing *t, bool quiet)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    *t = (struct ds_cli_tokenizing){.draw = !quiet && isatty(STDERR_FILENO),
                                    .start_ns = ds_clock_mono_ns()};
    for (size_t i = 0; i < DS_CLI_TOKENIZE_SIGNALS; i++) {
        (void)sigaction(numbers[i], NULL, &t->before[i]);
        if (t->before[i].sa_handler != SIG_IGN)
            (void)sigaction(numbers[i], &action, NULL);
    }
}

void ds_cli_tokenizing_end(struct ds_cli_tokenizing *t)
{
    if (t->drawn_ns != 0)
        (void)fputs("\r\x1b[K", stderr);
    for (size_t i = 0; i < DS_CLI_TOKENIZE_SIGNALS; i++)
        (void)sigaction(numbers[i], &t->before[i], NULL);
    t->end_ns = ds_clock_mono_ns();
}

int ds_cli_tokenizing_signal(void)
{
    return (int)stopped_by;
}

double ds_cli_tokenizing_s(const struct ds_cli_tokenizing *t)
{
    uint64_t end = t->end_ns != 0 ? t->end_ns : ds_clock_mono_ns();

    return (double)(end - t->start_ns) / 1e9;
}

double ds_cli_tokenizing_rate(const struct ds_cli_tokenizing *t,
                              const struct ds_corpus_count *count)
{
    double seconds = ds_cli_tokenizing_s(t);

    return seconds > 0.0 ? (double)count->input_bytes / 1e6 / seconds : 0.0;
}

bool ds_cli_tokenizing_go_on(void *user, const struct ds_corpus_count *count)
{
    struct ds_cli_tokenizing *t = user;
    uint64_t now = ds_clock_mono_ns();

    if (!t->draw || now - t->drawn_ns < (uint64_t)DRAW_MS * 1000000)
        return stopped_by == 0;
    t->drawn_ns = now;
    (void)fputs("\r", stderr);
    if (count->total_bytes > 0 && count->input_bytes <= count->total_bytes)
        (void)fprintf(stderr, "%3.0f%%  ",
                      100.0 * (double)count->input_bytes / (double)count->total_bytes);
    (void)fprintf(stderr, "%ju documents  %ju tokens  %.1f MB/s\x1b[K", (uintmax_t)count->documents,
                  (uintmax_t)count->tokens, ds_cli_tokenizing_rate(t, count));
    return stopped_by == 0;
}

unsigned ds_cli_own_cores(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return count > DS_MAX_THREADS ? DS_MAX_THREADS : (unsigned)count;
}

/* --- the text of a job ----------------------------------------------------------------------- */

static void tell(const struct ds_cli *cli, const char *what, const char *path,
                 const struct ds_corpus_count *count, const struct ds_cli_tokenizing *live)
{
    if (count->dropped > 0)
        ds_log(DS_LOG_WARNING, "%s: %ju characters have no token and were left out", what,
               (uintmax_t)count->dropped);
    if (!cli->quiet && !cli->json)
        (void)printf("tokens    %s: %ju of %ju documents in %.1f s, kept in %s\n", what,
                     (uintmax_t)count->tokens, (uintmax_t)count->documents,
                     ds_cli_tokenizing_s(live), path);
    (void)fflush(stdout);
}

struct text { /* "train" or "valid" of a job */
    const struct ds_cli *cli;
    struct ds_job *job;
    const char *name;
    bool look; /* nothing is made */
};

/* `list` becomes the file of its ids; `what` is it for messages. */
static int make_ids(const struct text *text, const char *what, struct ds_strings *list,
                    struct ds_error *err)
{
    struct ds_job *job = text->job;
    char folder[DS_MAX_PATH], path[DS_MAX_PATH];
    struct ds_cli_tokenizing live;
    struct ds_kept_args args = {.tokenizer = job->data.tokenizer,
                                .folder = folder,
                                .name = text->name,
                                .paths = list,
                                .vocab = job->model.shape.vocab,
                                .threads = ds_cli_own_cores(),
                                .look = text->look,
                                .go_on = ds_cli_tokenizing_go_on,
                                .user = &live};
    struct ds_corpus_count count = {0};
    bool made = false;
    int rc = ds_path_join(folder, job->run_dir, "tokens", err);

    ds_cli_tokenizing_begin(&live, text->cli->quiet);
    if (rc == 0)
        rc = ds_kept_ids(&args, path, &made, &count, err);
    ds_cli_tokenizing_end(&live);
    if (rc != 0)
        return ds_error_context(err, rc, "%s", what);
    if (made)
        tell(text->cli, what, path, &count, &live);
    list->item = ds_arena_alloc(&job->arena, 1, sizeof(*list->item));
    if (list->item != NULL)
        list->item[0] = ds_arena_strdup(&job->arena, path);
    list->count = 1;
    return list->item == NULL || list->item[0] == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

/* Of all its sets, which become copies. */
static int make_all(const struct text *text, struct ds_rows *sets, struct ds_error *err)
{
    const struct ds_data_set *from = sets->row;
    struct ds_data_set *set = ds_arena_alloc(&text->job->arena, sets->count, sizeof(*set));
    char what[64] = "";
    int rc = set == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;

    for (size_t k = 0; rc == 0 && k < sets->count; k++) {
        int len = snprintf(what, sizeof(what), "data.%s", text->name);

        if (sets->count > 1)
            (void)snprintf(what + len, sizeof(what) - (size_t)len, " item %zu", k + 1);
        set[k] = from[k];
        rc = make_ids(text, what, &set[k].path, err);
    }
    sets->row = set;
    return rc;
}

static int keep_tokenizer(const struct ds_job *job, const char *from, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    struct ds_buf text;
    int rc = ds_path_join(path, job->run_dir, "tokenizer.json", err);

    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    if (rc == 0)
        rc = ds_fs_read(from, DS_MAX_JSON_BYTES, &text, err);
    if (rc == 0)
        rc = ds_fs_replace(path, text.data, text.len, err);
    ds_buf_release(&text);
    return rc;
}

static bool has_ids(const struct ds_job *job)
{
    return strcmp(job->data.tokenizer, "bytes") == 0;
}

/* What ranks read has ids, and needs no tokenizer. */
static void take_ids(struct ds_job *ranks)
{
    ranks->data.format = DS_DATA_TOKENS;
    ranks->data.tokenizer = "bytes";
}

int ds_cli_tokenize_train(const struct ds_cli *cli, struct ds_job *job, bool look,
                          struct ds_job *ranks, struct ds_error *err)
{
    const struct text train = {cli, job, "train", look};
    int rc;

    *ranks = *job;
    ranks->data.valid.count = 0;
    if (has_ids(job))
        return 0;
    rc = make_all(&train, &ranks->data.train, err);
    take_ids(ranks);
    return rc;
}

int ds_cli_keep_base_tokenizer(const struct ds_job *job, struct ds_error *err)
{
    char from[DS_MAX_PATH];
    int rc;

    if (!has_ids(job) || job->model.init_from == NULL)
        return 0;
    rc = ds_path_join(from, job->model.init_from, "tokenizer.json", err);
    return rc != 0 || access(from, F_OK) != 0 ? rc : keep_tokenizer(job, from, err);
}

int ds_cli_tokenize_job(const struct ds_cli *cli, struct ds_job *job, struct ds_job *ranks,
                        struct ds_error *err)
{
    const struct text valid = {cli, job, "valid", false};
    struct ds_rows sets = job->data.valid;
    int rc = ds_cli_tokenize_train(cli, job, false, ranks, err);

    if (rc == 0 && !has_ids(job))
        rc = make_all(&valid, &sets, err);
    if (rc == 0 && !has_ids(job))
        rc = keep_tokenizer(job, job->data.tokenizer, err);
    ranks->data.valid = sets;
    return rc;
}
