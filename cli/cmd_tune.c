/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_tune.c - dsrun tune: the layouts of a job by predicted speed, the best few tried.
 *
 * The cost model ranks every micro-batch, stage, shard group, way to keep activations, place of
 * the optimizer's state, and who shares layers and sequences (runtime/cost/search.h).  The first
 * that fit are tried for some steps each, one after the other in the same workers, with the job's
 * data and without a run directory; what is printed last is the fastest of those as overrides.
 *
 * Tests   tests/e2e/tune.py
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/device.h"
#include "cli/machine.h"
#include "cli/once.h"
#include "cli/place.h"
#include "cli/sets.h"
#include "runtime/cost/search.h"
#include "runtime/job_table.h"

enum { WAYS = DS_COMM_MAX_GROUPS / DS_PLAN_GROUPS };
enum { TRIALS = 3, SHOWN = 10, TEXT_BYTES = 1 << 20 };

struct tune {
    const struct ds_cli *cli;
    struct ds_job job;
    struct ds_arena arena;
    struct ds_cli_place place;
    struct ds_cluster cluster;
    struct ds_candidate *candidate;
    size_t candidates;
    struct ds_run_spec facts;
    size_t tried[DS_MAX_TRIALS];   /* candidates */
    double step_ms[DS_MAX_TRIALS]; /* measured; 0: not yet */
    struct ds_once once;
};

/* {"trial":0,"step_ms":12.5} */
static int on_metric(void *user, const char *json, size_t len, struct ds_error *err)
{
    struct tune *tune = user;
    json_t *root = ds_json_parse(json, len, err);
    uint64_t trial = 0;
    double step_ms = 0.0;
    int rc;

    if (root == NULL)
        return -EBADMSG;
    rc = ds_json_get_u64(root, "trial", tune->facts.trials - 1, &trial, err);
    if (rc == 0)
        rc = ds_json_get_f64(root, "step_ms", &step_ms, err);
    if (rc == 0)
        tune->step_ms[trial] = step_ms;
    json_decref(root);
    return rc;
}

/* --- trials ----------------------------------------------------------------------------------- */

static bool share_alike(const struct ds_candidate *a, const struct ds_candidate *b)
{
    return a->tensor == b->tensor && a->sequence == b->sequence && a->pipeline == b->pipeline;
}

/* Do the ranks share in a way that no trial has yet? */
static bool is_new_way(const struct tune *tune, const struct ds_candidate *candidate)
{
    for (unsigned i = 0; i < tune->facts.trials; i++)
        if (share_alike(&tune->candidate[tune->tried[i]], candidate))
            return false;
    return true;
}

/* The first candidates that fit, as overrides.  Each way to share has groups of ranks of its own,
 * and a worker has room for those of some ways. */
static void choose_trials(struct tune *tune)
{
    uint64_t most = tune->cli->trials >= 0 ? (uint64_t)tune->cli->trials : TRIALS;
    unsigned ways = 0;

    for (size_t i = 0; i < tune->candidates && tune->facts.trials < most; i++) {
        bool new_way = is_new_way(tune, &tune->candidate[i]);
        struct ds_buf text;

        if (!tune->candidate[i].fits)
            break;
        if (new_way && ways == WAYS)
            continue;
        ways += new_way ? 1 : 0;
        tune->tried[tune->facts.trials] = i;
        ds_buf_init(&text, DS_MAX_TRIAL_TEXT);
        ds_candidate_print(&tune->job, &tune->candidate[i], &text);
        (void)snprintf(tune->facts.trial[tune->facts.trials++], DS_MAX_TRIAL_TEXT, "%s",
                       ds_buf_text(&text));
        ds_buf_release(&text);
    }
}

/* Returns the exit code. */
static int try_them(struct tune *tune, struct ds_error *err)
{
    tune->once.cli = tune->cli;
    tune->once.job = &tune->job;
    tune->once.place = &tune->place;
    tune->once.facts = &tune->facts;
    tune->once.metric = on_metric;
    tune->once.user = tune;
    if (strcmp(tune->job.data.tokenizer, "bytes") != 0)
        return ds_exit_from_errno(
            ds_fail(err, ENOTSUP,
                    "'data.tokenizer' is not supported with trials; make ids of the text with "
                    "'dsrun data tokenize', or say '--trials 0'"));
    return ds_once_run(&tune->once, "a trial", err);
}

/* --- what is shown ---------------------------------------------------------------------------- */

/* Of candidate `i`; 0: it was not tried. */
static double measured_ms(const struct tune *tune, size_t i)
{
    for (unsigned k = 0; k < tune->facts.trials; k++)
        if (tune->tried[k] == i)
            return tune->step_ms[k];
    return 0.0;
}

static void print_one(const struct tune *tune, size_t i, struct ds_buf *out)
{
    const struct ds_candidate *c = &tune->candidate[i];
    double step_ms = measured_ms(tune, i);
    char measured[32] = "-";

    if (step_ms > 0.0)
        (void)snprintf(measured, sizeof(measured), "%.3f", step_ms);
    (void)ds_buf_printf(out, "%4zu %12.3f %12s %12.1f  %s", i + 1, c->step_s * 1e3, measured,
                        (double)c->bytes / (1 << 20), c->fits ? "" : "does not fit: ");
    ds_candidate_print(&tune->job, c, out);
    (void)ds_buf_puts(out, "\n");
}

/* The fastest that was tried, else the first. */
static size_t best_of(const struct tune *tune)
{
    unsigned best = 0;

    for (unsigned i = 1; i < tune->facts.trials; i++)
        if (tune->step_ms[i] > 0.0 &&
            (tune->step_ms[best] <= 0.0 || tune->step_ms[i] < tune->step_ms[best]))
            best = i;
    return tune->facts.trials > 0 ? tune->tried[best] : 0;
}

static void print(const struct tune *tune, struct ds_buf *out)
{
    size_t shown = tune->candidates < SHOWN ? tune->candidates : SHOWN;

    (void)ds_buf_printf(out, "%zu layouts, %zu shown, %u tried\n", tune->candidates, shown,
                        tune->facts.trials);
    (void)ds_buf_printf(out, "%4s %12s %12s %12s  %s\n", "", "predicted ms", "measured ms",
                        "MiB a rank", "overrides");
    for (size_t i = 0; i < shown; i++)
        print_one(tune, i, out);
    if (!tune->candidate[0].fits)
        return;
    (void)ds_buf_puts(out, "\nbest: ");
    ds_candidate_print(&tune->job, &tune->candidate[best_of(tune)], out);
    (void)ds_buf_puts(out, "\n");
}

static void print_json(const struct tune *tune, struct ds_buf *out)
{
    struct ds_json json;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_array(&json, "layouts");
    for (size_t i = 0; i < tune->candidates; i++) {
        const struct ds_candidate *c = &tune->candidate[i];
        struct ds_buf text;

        ds_buf_init(&text, DS_MAX_TRIAL_TEXT);
        ds_candidate_print(&tune->job, c, &text);
        ds_json_object(&json, NULL);
        ds_json_string(&json, "overrides", ds_buf_text(&text));
        ds_json_bool(&json, "fits", c->fits);
        ds_json_u64(&json, "bytes", c->bytes);
        ds_json_f64(&json, "predicted_ms", c->step_s * 1e3, 6);
        if (measured_ms(tune, i) > 0.0)
            ds_json_f64(&json, "measured_ms", measured_ms(tune, i), 6);
        ds_json_end_object(&json);
        ds_buf_release(&text);
    }
    ds_json_end_array(&json);
    if (tune->candidate[0].fits)
        ds_json_u64(&json, "best", best_of(tune));
    else
        ds_json_null(&json, "best");
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
}

static int show(const struct tune *tune, struct ds_error *err)
{
    struct ds_buf out;
    int rc;

    ds_buf_init(&out, TEXT_BYTES);
    if (tune->cli->json)
        print_json(tune, &out);
    else
        print(tune, &out);
    rc = out.failed ? ds_fail(err, ENOMEM, "no memory for the list of layouts")
                    : ds_fs_write_all(STDOUT_FILENO, out.data, out.len, err);
    ds_buf_release(&out);
    return rc;
}

/* --- the command ------------------------------------------------------------------------------ */

static bool is_open(const struct ds_job *job, const char *path)
{
    return !ds_keys_given(&job->source->keys, path);
}

/* Layouts for a described cluster are ranked only; those for the hosts of the job can be tried. */
static int prepare(struct tune *tune, struct ds_error *err)
{
    struct ds_search_args args = {
        .job = &tune->job, .cluster = &tune->cluster, .threads = 1, .arena = &tune->arena};
    struct ds_cli_memory memory;
    bool rates = false;
    int rc;

    args.tensor = is_open(&tune->job, "parallel.tensor");
    args.sequence = is_open(&tune->job, "parallel.sequence");
    args.pipeline = is_open(&tune->job, "parallel.pipeline");
    if (tune->cli->cluster != NULL && tune->cli->trials > 0)
        return ds_fail(
            err, EDOM,
            "'--trials' needs the hosts themselves; for a '--cluster' layouts are ranked "
            "only");
    if (tune->cli->cluster != NULL) {
        rc = ds_cluster_load(&tune->cluster, tune->cli->cluster, err);
        args.available_bytes = (uint64_t)tune->cluster.device.memory;
        return rc == 0 ? ds_search(&args, &tune->candidate, &tune->candidates, err) : rc;
    }
    rc = ds_cli_place(tune->cli, &tune->job, !tune->cli->dry_run, &tune->place, err);
    ds_cli_place_warn(&tune->place);
    if (rc == 0)
        rc = ds_cli_memory(&tune->job, &tune->place, &memory, err);
    if (rc == 0)
        rc = ds_cli_machine(&tune->cluster, &tune->job, &tune->place.placement, &rates, err);
    if (rc != 0)
        return rc;
    if (!rates)
        return ds_fail(err, EINVAL,
                       "the rates of this machine are not known: keep what 'dsrun bench machine "
                       "%" PRIu64 "' prints in ~/.config/dsrun/machine.yaml, or give '--cluster'",
                       (uint64_t)tune->place.placement.place[0].ranks);
    args.threads = tune->place.threads;
    args.available_bytes = memory.bytes == UINT64_MAX ? 0 : memory.bytes / memory.ranks;
    args.apart = memory.apart;
    args.common = !memory.apart;
    return ds_search(&args, &tune->candidate, &tune->candidates, err);
}

static int tune_all(struct tune *tune, struct ds_error *err)
{
    int rc = ds_cli_load_job(tune->cli, &tune->job, err), code = DS_EXIT_OK;

    if (rc == 0)
        rc = ds_cli_sets_settle(tune->cli, &tune->job, true, err);
    if (rc == 0)
        rc = prepare(tune, err);
    if (rc != 0)
        return ds_exit_from_errno(rc);
    if (!tune->candidate[0].fits) {
        rc = show(tune, err);
        if (rc == 0)
            rc = ds_fail(err, ENOMEM,
                         "no layout fits in the memory of a rank: the least takes %" PRIu64 " MiB",
                         tune->candidate[0].bytes >> 20);
        return ds_exit_from_errno(rc);
    }
    if (tune->cli->cluster == NULL && !tune->cli->dry_run)
        choose_trials(tune);
    if (tune->facts.trials > 0)
        code = try_them(tune, err);
    if (code != DS_EXIT_OK)
        return code;
    return ds_exit_from_errno(show(tune, err));
}

int ds_cmd_tune(const struct ds_cli *cli)
{
    struct tune *tune = calloc(1, sizeof(*tune));
    struct ds_error err = {0};
    int code;

    if (tune == NULL) {
        ds_log(DS_LOG_ERROR, "no memory to tune");
        return DS_EXIT_FAILURE;
    }
    tune->cli = cli;
    ds_arena_init(&tune->arena);
    ds_job_init(&tune->job);
    ds_cluster_init(&tune->cluster);
    code = tune_all(tune, &err);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_once_release(&tune->once);
    ds_cli_place_release(&tune->place);
    ds_cluster_release(&tune->cluster);
    ds_job_release(&tune->job);
    ds_arena_release(&tune->arena);
    free(tune);
    return code;
}
