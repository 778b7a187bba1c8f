/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * outcome.c - the contract is in outcome.h.
 */
#include "runtime/outcome.h"

#include <errno.h>
#include <string.h>

#include "runtime/flags.h"
#include "runtime/trust.h"

enum { PRIME = DS_OUTCOME_EVENTS, HOST_VERDICTS };

static size_t entries_bytes(const struct ds_outcome *outcome)
{
    return outcome->plan->world * sizeof(*outcome->entry);
}

/* What the device has: verdicts, and the factors behind them. */
static size_t verdicts_bytes(void)
{
    return DS_OUTCOME_EVENTS * sizeof(struct ds_verdict) + DS_LOSS_FACTORS * sizeof(float);
}

static int open_late(struct ds_outcome *outcome, struct ds_error *err)
{
    void *memory = NULL;
    int rc = ds_device_alloc(outcome->device, entries_bytes(outcome), &memory, err);

    outcome->entry = memory;
    if (rc == 0)
        rc = ds_device_alloc(outcome->device, verdicts_bytes(), &memory, err);
    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < DS_OUTCOME_EVENTS; i++)
        outcome->verdict[i] = (struct ds_verdict *)memory + i;
    outcome->loss_factor = (float *)(void *)(outcome->verdict[0] + DS_OUTCOME_EVENTS);
    rc =
        ds_device_host_alloc(outcome->device, HOST_VERDICTS * sizeof(*outcome->host), &memory, err);
    if (rc == 0)
        outcome->host = memory;
    return rc == 0 ? ds_device_events(outcome->device, outcome->event + DS_OUTCOME_EVENTS, err)
                   : rc;
}

int ds_outcome_open(struct ds_outcome *outcome, const struct ds_engine_args *args, uint32_t event,
                    struct ds_error *err)
{
    const struct ds_plan *plan = args->plan;
    uint64_t sequences = plan->holders * plan->micro_batches * plan->micro_batch;
    void *norms = NULL;
    int rc;

    *outcome = (struct ds_outcome){
        .plan = plan,
        .job = args->job,
        .device = args->device,
        .stream = ds_device_stream(args->device),
        .comm = args->comm,
        .size.tokens = (double)(sequences * plan->sequence),
        .event = event,
    };
    rc = ds_tally_open(&outcome->tally, plan, args->device, args->host, err);
    if (rc == 0 && plan->by_tensor) {
        rc = ds_device_alloc(args->device, ds_plan_norms_bytes(plan), &norms, err);
        outcome->norms = norms;
    }
    return rc == 0 && plan->late ? open_late(outcome, err) : rc;
}

void ds_outcome_close(struct ds_outcome *outcome)
{
    if (outcome->device == NULL)
        return;
    ds_tally_close(&outcome->tally);
    ds_device_free(outcome->device, outcome->norms, ds_plan_norms_bytes(outcome->plan));
    ds_device_free(outcome->device, outcome->entry, entries_bytes(outcome));
    ds_device_free(outcome->device, outcome->verdict[0], verdicts_bytes());
    ds_device_host_free(outcome->device, outcome->host, HOST_VERDICTS * sizeof(*outcome->host));
    memset(outcome, 0, sizeof(*outcome));
}

static struct ds_scale_rule rule_of(const struct ds_step_args *step, const struct ds_job *job)
{
    return step->scaler != NULL ? ds_scaler_rule(step->scaler, job) : (struct ds_scale_rule){0};
}

/* As if a step before had left it so. */
static struct ds_verdict before_first(const struct ds_outcome *outcome,
                                      const struct ds_step_args *step)
{
    struct ds_verdict before = {0};

    if (step->scaler != NULL)
        before.scale = step->scaler->now;
    else
        before.scale.factor = step->loss_scale > 0.0 ? step->loss_scale : 1.0;
    before.loss_factor = (float)(before.scale.factor / outcome->size.tokens);
    return before;
}

int ds_outcome_expect(struct ds_outcome *outcome, const struct ds_data *data, uint64_t position,
                      struct ds_error *err)
{
    const struct ds_plan *plan = outcome->plan;
    uint64_t sequences = ds_plan_data_ranks(plan) * plan->micro_batches * plan->micro_batch;
    uint64_t targets = 0;
    int rc = ds_data_targets(data, position, sequences, &targets, err);

    outcome->size.targets = (double)targets;
    return rc;
}

/* By how much a target's factor is larger than a token's. */
static double target_weight(const struct ds_outcome *outcome)
{
    const struct ds_step_size *size = &outcome->size;

    return size->targets > 0.0 ? size->tokens / size->targets : 0.0;
}

float ds_outcome_loss_factor(const struct ds_outcome *outcome, const struct ds_step_args *step,
                             enum ds_loss_factor which)
{
    float factor = before_first(outcome, step).loss_factor;

    if (outcome->plan->late)
        return 0.0f;
    return which == DS_FACTOR_TARGET ? (float)target_weight(outcome) * factor : factor;
}

/* The device's, of a step before which no outcome is pending: as if one before had left them. */
static int prime(struct ds_outcome *outcome, const struct ds_step_args *step, struct ds_error *err)
{
    const struct ds_verdict *host = &outcome->host[PRIME];
    int rc;

    outcome->host[PRIME] = before_first(outcome, step);
    rc = ds_stream_copy(outcome->stream, DS_COPY_UP,
                        outcome->verdict[outcome->made % DS_OUTCOME_EVENTS], host, sizeof(*host),
                        err);
    for (unsigned i = 0; rc == 0 && i < DS_LOSS_FACTORS; i++)
        rc = ds_stream_copy(outcome->stream, DS_COPY_UP, outcome->loss_factor + i,
                            &host->loss_factor, sizeof(host->loss_factor), err);
    return rc;
}

/* They are those of a step whose tokens are all targets. */
static int weigh_targets(struct ds_outcome *outcome, struct ds_error *err)
{
    const struct ds_affine_args args = {
        .rows = 1,
        .cols = 1,
        .x = outcome->loss_factor + DS_FACTOR_TOKEN,
        .y = outcome->loss_factor + DS_FACTOR_TARGET,
        .alpha = target_weight(outcome),
    };

    return outcome->size.targets == outcome->size.tokens ? 0
                                                         : ds_affine(&args, outcome->stream, err);
}

int ds_outcome_begin(struct ds_outcome *outcome, const struct ds_step_args *step,
                     struct ds_error *err)
{
    int rc = ds_tally_begin(&outcome->tally, err);

    if (rc != 0 || !outcome->plan->late)
        return rc;
    if (outcome->told == outcome->made)
        rc = prime(outcome, step, err);
    return rc == 0 ? weigh_targets(outcome, err) : rc;
}

static int tensor_norms(const struct ds_outcome *outcome, const struct ds_engine_lines *lines,
                        struct ds_updater *updater, struct ds_error *err)
{
    const struct ds_trust trust = {
        .plan = outcome->plan,
        .job = outcome->job,
        .comm = outcome->part,
        .lines = *lines,
        .sums = outcome->norms,
        .grad_scale = updater->grad_scale,
        .update = updater->update,
        .verdict = updater->verdict,
    };

    updater->norms = outcome->norms;
    return ds_trust_norms(&trust, outcome->stream, err);
}

/* --- the host decides ------------------------------------------------------------------------- */

static int decide(struct ds_outcome *outcome, const struct ds_entry *like,
                  const struct ds_step_args *step, const struct ds_engine_lines *lines,
                  struct ds_updater *updater, struct ds_error *err)
{
    const struct ds_plan *plan = outcome->plan;
    const struct ds_verdict before = before_first(outcome, step);
    const struct ds_scale_rule rule = rule_of(step, outcome->job);
    struct ds_entry mine, all;
    int rc = ds_tally_read(&outcome->tally, lines->grads, &mine, err);

    if (rc != 0)
        return rc;
    mine.hash = like->hash;
    mine.stop = like->stop;
    mine.writing = like->writing;
    rc = ds_flags_sum(plan, outcome->comm, &mine, &all, &outcome->bad, err);
    if (rc != 0)
        return rc;
    ds_verdict_make(&outcome->last, &all, &before, &outcome->size, outcome->job->optim.clip, &rule);
    updater->grad_scale = (double)outcome->last.grad_scale;
    updater->skip = outcome->last.skip != 0;
    return plan->by_tensor && !updater->skip ? tensor_norms(outcome, lines, updater, err) : 0;
}

/* --- the device decides ----------------------------------------------------------------------- */

static int gather(struct ds_outcome *outcome, struct ds_error *err)
{
    if (outcome->plan->world == 1)
        return 0;
    ds_comm_use_stream(outcome->comm, outcome->stream);
    return ds_comm_all_gather(outcome->comm, outcome->entry, entries_bytes(outcome), err);
}

static int let_decide(struct ds_outcome *outcome, const struct ds_entry *like,
                      const struct ds_step_args *step, const struct ds_engine_lines *lines,
                      struct ds_updater *updater, struct ds_error *err)
{
    unsigned turn = (outcome->made + 1) % DS_OUTCOME_EVENTS;
    const struct ds_verdict_args args = {
        .ranks = outcome->plan->world,
        .entry = outcome->entry,
        .before = outcome->verdict[outcome->made % DS_OUTCOME_EVENTS],
        .size = outcome->size,
        .clip = outcome->job->optim.clip,
        .rule = rule_of(step, outcome->job),
        .verdict = outcome->verdict[turn],
        .loss_factor = outcome->loss_factor,
    };
    int rc = ds_tally_give(&outcome->tally, lines->grads, like,
                           outcome->entry + outcome->plan->rank, err);

    if (rc == 0)
        rc = gather(outcome, err);
    if (rc == 0)
        rc = ds_verdict(&args, outcome->stream, err);
    if (rc == 0)
        rc = ds_stream_copy(outcome->stream, DS_COPY_DOWN, &outcome->host[turn], args.verdict,
                            sizeof(*args.verdict), err);
    updater->verdict = args.verdict;
    if (rc == 0 && outcome->plan->by_tensor)
        rc = tensor_norms(outcome, lines, updater, err);
    return rc == 0 ? ds_stream_signal(outcome->stream, outcome->event + turn, err) : rc;
}

/* --- both ------------------------------------------------------------------------------------- */

int ds_outcome_norm(struct ds_outcome *outcome, const struct ds_step_args *step,
                    const struct ds_engine_lines *lines, struct ds_updater *updater,
                    struct ds_error *err)
{
    const struct ds_entry like = {
        .hash = outcome->plan->hash, .stop = step->stop, .writing = step->writing};
    int rc;

    updater->lr = step->lr;
    updater->update = step->update;
    updater->skip = false;
    rc = (outcome->plan->late ? let_decide : decide)(outcome, &like, step, lines, updater, err);
    outcome->made += rc == 0;
    return rc;
}

/* Wait for a verdict of the device, which is of no use when the ranks have not all come. */
static int fetch(struct ds_outcome *outcome, struct ds_error *err)
{
    unsigned turn = (outcome->told + 1) % DS_OUTCOME_EVENTS;
    int rc = ds_device_await(outcome->device, outcome->event + turn, err);

    if (rc == 0)
        rc = ds_comm_check(outcome->comm, err);
    if (rc != 0)
        return rc;
    outcome->last = outcome->host[turn];
    outcome->bad = ds_tally_bad(outcome->plan, &outcome->last.all);
    return 0;
}

/* Of how many sequences, or parts of them, and layers peaks are added up in a step. */
static double peaks_of(const struct ds_plan *plan)
{
    return (double)(plan->micro_batches * plan->micro_batch * plan->holders) *
           (double)plan->model.layers;
}

int ds_outcome_tell(struct ds_outcome *outcome, struct ds_step_result *result, struct ds_error *err)
{
    const struct ds_verdict *verdict = &outcome->last;
    int rc = outcome->plan->late ? fetch(outcome, err) : 0;

    if (rc != 0)
        return rc;
    outcome->told++;
    if (verdict->all.differs)
        return ds_fail(err, EPROTO,
                       "the ranks have different plans, is every host running the same version of "
                       "dsrun");
    *result = (struct ds_step_result){
        .loss = verdict->loss,
        .grad_norm = verdict->grad_norm,
        .expert_load = verdict->all.peaks / peaks_of(outcome->plan),
        .nonfinite = (uint64_t)verdict->all.nonfinite + (uint64_t)(!isfinite(verdict->loss)),
        .stop = verdict->all.stop != 0,
        .writing = verdict->all.writing != 0,
    };
    result->empty = verdict->skip && result->nonfinite == 0;
    if (result->nonfinite > 0)
        result->bad = ds_tally_name(outcome->plan, outcome->bad);
    return 0;
}

int ds_outcome_eval(struct ds_outcome *outcome, struct ds_eval_result *result, struct ds_error *err)
{
    const struct ds_step_size *size = &outcome->size;
    struct ds_entry mine = {0};
    int rc = ds_tally_read(&outcome->tally, NULL, &mine, err);

    if (rc == 0)
        rc = ds_comm_all_reduce_f64(outcome->comm, &mine.loss, 1, err);
    result->loss = size->targets > 0.0 ? mine.loss / size->targets : 0.0;
    result->share = size->targets / size->tokens;
    return rc;
}
