/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_eval.c - dsrun eval: the loss of a job's weights on its data.valid, and nothing else.
 *
 * The ranks are those of a run and read the weights that it would go on from: the newest whole
 * checkpoint of its run directory, the one that checkpoint.resume names, or those of model.init.
 * Nothing is written but ids of text that has none yet (data.tokenizer).
 *
 * Tests   tests/e2e/eval.py
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
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
#include "cli/env.h"
#include "cli/once.h"
#include "cli/sets.h"
#include "cli/tokenize.h"
#include "runtime/plan/plan.h"

enum { TEXT_BYTES = 1 << 20, DIGITS = 12 };

struct eval {
    const struct ds_cli *cli;
    struct ds_job job, ranks; /* ranks: as they read it, in the first one's arena */
    struct ds_cli_place place;
    struct ds_plan plan;
    struct ds_run_spec facts;
    struct ds_once once;
    char from[DS_MAX_PATH]; /* the checkpoint; "": the weights are those of model.init */
    json_t *losses;         /* the line of metrics */
};

/* --- what the workers tell -------------------------------------------------------------------- */

/* {"step":300,"valid_loss":2.36,"valid_loss/wiki":2.1,...} */
static int on_metric(void *user, const char *json, size_t len, struct ds_error *err)
{
    struct eval *eval = user;

    json_decref(eval->losses);
    eval->losses = ds_json_parse(json, len, err);
    return eval->losses != NULL ? 0 : -EBADMSG;
}

/* {"event":"resumed","from":...}, {"event":"warning","text":...} */
static int on_event(void *user, const char *json, size_t len, struct ds_error *err)
{
    struct eval *eval = user;
    json_t *root = ds_json_parse(json, len, err);
    const char *event, *from, *text;

    if (root == NULL)
        return -EBADMSG;
    event = json_string_value(json_object_get(root, "event"));
    from = json_string_value(json_object_get(root, "from"));
    text = json_string_value(json_object_get(root, "text"));
    if (event != NULL && strcmp(event, "resumed") == 0 && from != NULL)
        (void)snprintf(eval->from, sizeof(eval->from), "%s", from);
    if (event != NULL && strcmp(event, "warning") == 0 && text != NULL)
        ds_log(DS_LOG_WARNING, "%s", text);
    json_decref(root);
    return 0;
}

/* --- what is shown ---------------------------------------------------------------------------- */

static const char prefix[] = "valid_loss/";

/* The name of a set, of which this is the key; NULL: of none. */
static const char *set_of(const char *key)
{
    return strncmp(key, prefix, sizeof(prefix) - 1) == 0 ? key + sizeof(prefix) - 1 : NULL;
}

static void print_row(struct ds_buf *out, const char *name, double loss)
{
    (void)ds_buf_printf(out, "%-24s %12.6f %14.6g\n", name, loss, exp(loss));
}

static void print(const struct eval *eval, uint64_t step, double loss, struct ds_buf *out)
{
    const char *init = eval->job.model.init_from, *key;
    json_t *value;

    if (eval->from[0] != '\0')
        (void)ds_buf_printf(out, "weights of %s, step %" PRIu64 "\n", eval->from, step);
    else if (init != NULL)
        (void)ds_buf_printf(out, "weights of %s, before the first step\n", init);
    else
        (void)ds_buf_puts(out, "initial weights, before the first step\n");
    (void)ds_buf_printf(out, "%-24s %12s %14s\n", "", "loss", "perplexity");
    json_object_foreach(eval->losses, key, value) if (set_of(key) != NULL)
        print_row(out, set_of(key), json_number_value(value));
    print_row(out, "data.valid", loss);
}

static void print_one_json(struct ds_json *json, double loss)
{
    ds_json_f64(json, "loss", loss, DIGITS);
    ds_json_f64(json, "perplexity", exp(loss), DIGITS);
}

static void print_json(const struct eval *eval, uint64_t step, double loss, struct ds_buf *out)
{
    struct ds_json json;
    const char *key;
    json_t *value;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    if (eval->from[0] != '\0')
        ds_json_string(&json, "from", eval->from);
    else
        ds_json_null(&json, "from");
    ds_json_u64(&json, "step", step);
    print_one_json(&json, loss);
    ds_json_object(&json, "sets");
    json_object_foreach(eval->losses, key, value)
    {
        if (set_of(key) == NULL)
            continue;
        ds_json_object(&json, set_of(key));
        print_one_json(&json, json_number_value(value));
        ds_json_end_object(&json);
    }
    ds_json_end_object(&json);
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
}

static int show(const struct eval *eval, struct ds_error *err)
{
    struct ds_buf out;
    uint64_t step = 0;
    double loss = 0.0;
    int rc = ds_json_get_u64(eval->losses, "step", UINT64_MAX, &step, err);

    if (rc == 0)
        rc = ds_json_get_f64(eval->losses, "valid_loss", &loss, err);
    if (rc != 0)
        return ds_fail(err, ERANGE, "the loss is not finite");
    ds_buf_init(&out, TEXT_BYTES);
    (eval->cli->json ? print_json : print)(eval, step, loss, &out);
    rc = out.failed ? ds_fail(err, ENOMEM, "no memory for the losses")
                    : ds_fs_write_all(STDOUT_FILENO, out.data, out.len, err);
    ds_buf_release(&out);
    return rc;
}

/* --- the command ------------------------------------------------------------------------------ */

/* Passes go forward alone: of what is for the way back the least is kept, and nothing is saved. */
static int take_job(struct eval *eval, struct ds_error *err)
{
    struct ds_job *job = &eval->job;
    int rc = ds_cli_load_job(eval->cli, job, err);

    if (rc != 0)
        return rc;
    if (job->data.valid.count == 0)
        return ds_fail(err, EINVAL, "there is nothing to evaluate on, name it in 'data.valid'");
    job->activation.recompute = DS_RECOMPUTE_FULL;
    job->activation.layers = 0;
    job->activation.offload = DS_OFFLOAD_NONE;
    job->checkpoint.every = 0;
    job->eval.every = 1;
    job->eval.batches = job->eval.batches > 0 ? job->eval.batches : 1;
    return 0;
}

static int prepare(struct eval *eval, struct ds_error *err)
{
    struct ds_plan_args args = {.job = &eval->job};
    struct ds_cli_memory memory;
    struct ds_cli_sets sets;
    int rc = ds_cli_place(eval->cli, &eval->job, !eval->cli->dry_run, &eval->place, err);

    ds_cli_place_warn(&eval->place);
    if (rc == 0)
        rc = ds_job_check_world(&eval->job, eval->place.placement.world, err);
    if (rc == 0)
        rc = ds_cli_sets_settle(eval->cli, &eval->job, eval->cli->dry_run, err);
    if (rc == 0)
        rc = ds_cli_memory(&eval->job, &eval->place, &memory, err);
    if (rc != 0)
        return rc;
    args.common = eval->job.launch.device != DS_DEVICE_CUDA;
    args.world = eval->place.placement.world;
    args.threads = eval->place.threads;
    args.local_world = eval->place.placement.place[0].ranks;
    args.apart = memory.apart;
    rc = ds_plan_build(&eval->plan, &args, err);
    if (rc == 0)
        rc = ds_cli_memory_holds(&memory, &eval->plan, err);
    return rc == 0 ? ds_cli_sets_check(&eval->job, &sets, err) : rc;
}

static int run(struct eval *eval, struct ds_error *err)
{
    char cwd[DS_MAX_PATH];
    int rc = getcwd(cwd, sizeof(cwd)) != NULL
                 ? ds_path_join(eval->facts.run_dir, cwd, eval->job.run_dir, err)
                 : ds_fail(err, errno, "the working directory: %s", strerror(errno));

    if (rc == 0)
        rc = ds_cli_tokenize_job(eval->cli, &eval->job, &eval->ranks, err);
    if (rc == -ECANCELED && ds_cli_tokenizing_signal() != 0)
        return 128 + ds_cli_tokenizing_signal();
    if (rc != 0)
        return ds_exit_from_errno(rc);
    eval->facts.evaluate = true;
    eval->once.cli = eval->cli;
    eval->once.job = &eval->ranks;
    eval->once.place = &eval->place;
    eval->once.facts = &eval->facts;
    eval->once.metric = on_metric;
    eval->once.event = on_event;
    eval->once.user = eval;
    return ds_once_run(&eval->once, "the evaluation", err);
}

static void dry_text(const void *user, struct ds_buf *text)
{
    const struct eval *eval = user;

    ds_plan_describe(&eval->plan, &eval->job, text);
    ds_cli_place_print(&eval->place, text);
    ds_cli_env_names(&eval->place.env, text);
}

static void dry_json(const void *user, struct ds_json *json)
{
    const struct eval *eval = user;

    ds_plan_print_json(&eval->plan, false, json);
    ds_cli_place_json(&eval->place, "placement", json);
    ds_cli_env_json(&eval->place.env, json);
}

static int eval_all(struct eval *eval, struct ds_error *err)
{
    int rc = take_job(eval, err), code;

    if (rc == 0)
        rc = prepare(eval, err);
    if (rc != 0)
        return ds_exit_from_errno(rc);
    if (eval->cli->dry_run)
        return ds_cli_place_dry(&eval->place, eval->cli->json ? NULL : dry_text,
                                eval->cli->json ? dry_json : NULL, eval);
    code = run(eval, err);
    return code == DS_EXIT_OK ? ds_exit_from_errno(show(eval, err)) : code;
}

int ds_cmd_eval(const struct ds_cli *cli)
{
    struct eval *eval = calloc(1, sizeof(*eval));
    struct ds_error err = {0};
    int code;

    if (eval == NULL) {
        ds_log(DS_LOG_ERROR, "no memory to evaluate");
        return DS_EXIT_FAILURE;
    }
    eval->cli = cli;
    ds_job_init(&eval->job);
    code = eval_all(eval, &err);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_once_release(&eval->once);
    json_decref(eval->losses);
    ds_plan_release(&eval->plan);
    ds_cli_place_release(&eval->place);
    ds_job_release(&eval->job);
    free(eval);
    return code;
}
