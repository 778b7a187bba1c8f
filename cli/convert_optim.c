/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert_optim.c - optimizer and scheduler of a DeepSpeed configuration; the contract is in
 * convert.h.
 *
 * What a configuration leaves out is DeepSpeed's default, and written: ours may be another.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/nearest.h"
#include "cli/convert.h"

#define P "optimizer.params."
#define S "scheduler.params."

/* --- optimizer ------------------------------------------------------------------------------- */

#define COMPRESSES                                                                                 \
    "gradients are not compressed, and the variance is never frozen; precision.grad_wire: bf16 "   \
    "sends half"
#define MUP "rates do not follow the width (muP); optim.groups gives tensors a rate of their own"

/* clang-format off */
static const struct optim {
    const char *type, *name;
    double lr, beta1, beta2, eps; /* eps 0, beta1 0: it has none */
    const char *changed;          /* NULL: it is the same */
} optims[] = {
    {"Adam", "adam", 1e-3, 0.9, 0.999, 1e-8, NULL}, /* adamw, unless adam_w_mode is false */
    {"AdamW", "adamw", 1e-3, 0.9, 0.999, 1e-8, NULL},
    {"OneBitAdam", "adamw", 1e-3, 0.9, 0.999, 1e-8, COMPRESSES},
    {"ZeroOneAdam", "adamw", 1e-3, 0.9, 0.999, 1e-8, COMPRESSES},
    {"Lamb", "lamb", 1e-3, 0.9, 0.999, 1e-8, "the ratio of norms is not kept within min_coeff and max_coeff (0.01 and 10)"},
    {"OneBitLamb", "lamb", 1e-3, 0.9, 0.999, 1e-8, COMPRESSES "; the ratio of norms has no bounds"},
    {"Lion", "lion", 1e-3, 0.9, 0.99, 0, NULL},
    {"Adagrad", "adagrad", 1e-2, 0, 0, 1e-10, NULL},
    {"Muon", "muon", 1e-3, 0.9, 0.95, 1e-10, "the gradient is clipped before the update is made orthogonal, not after"},
    {"SGD", "sgd", 1e-3, 0, 0, 0, NULL},
    {"MuAdam", "adam", 1e-3, 0.9, 0.999, 1e-8, MUP},
    {"MuAdamW", "adamw", 1e-3, 0.9, 0.999, 1e-8, MUP},
    {"MuSGD", "sgd", 1e-3, 0, 0, 0, MUP},
};
/* clang-format on */

/* What the Trainer makes where the configuration has no optimizer. */
static const struct optim trainers = {"AdamW", "adamw", 5e-5, 0.9, 0.999, 1e-8, NULL};

/* Where a number that is not given is from. */
static const char *by_default(const struct ds_convert *c)
{
    return c->trainer && !ds__convert_has(c, "optimizer.type") ? "the Trainer's default"
                                                               : "DeepSpeed's default";
}

static int unknown_type(struct ds_convert *c, const char *what, const char *path, const char *type,
                        const char *nearest, const char *instead, struct ds_error *err)
{
    return ds__convert_place(c, path,
                             ds_fail(err, EINVAL, "%s '%.60s' has no counterpart%s%s%s; %s", what,
                                     type, nearest == NULL ? "" : ", did you mean '",
                                     nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?",
                                     instead),
                             err);
}

static const struct optim *find_optim(const char *type, const char **nearest)
{
    unsigned best = DS_NEAREST_FAR;

    *nearest = NULL;
    for (size_t i = 0; i < sizeof(optims) / sizeof(optims[0]); i++) {
        unsigned distance = ds_edit_distance(type, optims[i].type);

        if (strcasecmp(type, optims[i].type) == 0)
            return &optims[i];
        if (distance < best && ds_edit_close(distance, type)) {
            best = distance;
            *nearest = optims[i].type;
        }
    }
    return NULL;
}

/* Has `key` of the job this value, and not another that a word gave it? */
static bool is_set(const struct ds_convert *c, const char *key, const char *value)
{
    struct ds_buf text;
    bool same;

    ds_buf_init(&text, 64);
    ds_key_print(&c->keys.key[ds_keys_find(&c->keys, key)], &c->job, &text);
    same = strcmp(ds_buf_text(&text), value) == 0;
    ds_buf_release(&text);
    return same;
}

static int set_betas(struct ds_convert *c, const struct optim *optim, struct ds_error *err)
{
    const json_t *betas = c->given[ds_convert_find(P "betas")].value;
    double beta1 = optim->beta1, beta2 = optim->beta2;
    char text[2][40];

    if (beta1 == 0.0 || ds_keys_overridden(&c->keys, "optim.betas"))
        return 0;
    if (betas != NULL &&
        (json_array_size(betas) != 2 || !json_is_number(json_array_get(betas, 0)) ||
         !json_is_number(json_array_get(betas, 1))))
        return ds__convert_place(c, P "betas",
                                 ds_fail(err, EINVAL, "'" P "betas' must be two numbers"), err);
    if (betas != NULL) {
        beta1 = json_number_value(json_array_get(betas, 0));
        beta2 = json_number_value(json_array_get(betas, 1));
    }
    (void)snprintf(text[0], sizeof(text[0]), "%.12g", beta1);
    (void)snprintf(text[1], sizeof(text[1]), "%.12g", beta2);
    return ds__convert_set(c, "optim.betas", betas != NULL ? P "betas" : by_default(c), err,
                           "[%s, %s]", text[0], text[1]);
}

/* One number of the optimizer: given, or DeepSpeed's default. */
static int set_number(struct ds_convert *c, const char *key, const char *path, double usual,
                      struct ds_error *err)
{
    double value;
    int rc = ds__convert_f64(c, path, usual, &value, err);

    return rc != 0 ? rc
                   : ds__convert_set_f64(c, key, ds__convert_has(c, path) ? path : by_default(c),
                                         value, err);
}

/* Momentum of sgd and muon. */
static int set_momentum(struct ds_convert *c, const struct optim *optim, struct ds_error *err)
{
    bool nesterov, muon = strcmp(optim->name, "muon") == 0;
    int rc;

    if (!muon && strcmp(optim->name, "sgd") != 0)
        return 0;
    rc = set_number(c, "optim.momentum", P "momentum", muon ? 0.95 : 0.0, err);
    if (rc == 0)
        rc = ds__convert_bool(c, P "nesterov", muon, &nesterov, err);
    if (rc == 0 && ds__convert_has(c, P "nesterov"))
        rc = ds__convert_set(c, "optim.nesterov", P "nesterov", err, "%s",
                             nesterov ? "true" : "false");
    return rc;
}

static int set_rate(struct ds_convert *c, const struct optim *optim, double *lr,
                    struct ds_error *err)
{
    const char *path =
        ds__convert_has(c, P "muon_lr") && strcmp(optim->name, "muon") == 0 ? P "muon_lr" : P "lr";
    double other;
    int rc = ds__convert_f64(c, P "lr", optim->lr, &other, err);

    if (rc == 0)
        rc = ds__convert_f64(c, path, optim->lr, lr, err);
    if (rc == 0)
        rc = set_number(c, "optim.lr", path, optim->lr, err);
    if (rc == 0 && is_set(c, "optim.name", "muon"))
        rc = set_number(c, "optim.adamw_lr", ds__convert_has(c, P "adam_lr") ? P "adam_lr" : P "lr",
                        other, err);
    return rc;
}

/* What differs in the step itself. */
static int note_step(struct ds_convert *c, const struct optim *optim, struct ds_error *err)
{
    double decay;
    bool bias;
    int rc = ds__convert_f64(c, P "weight_decay", 0.0, &decay, err);

    if (rc == 0)
        rc = ds__convert_bool(c, P "bias_correction", true, &bias, err);
    if (rc == 0 && optim->changed != NULL)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, "optimizer.type", err, "%s", optim->changed);
    if (rc == 0 && !bias)
        rc = ds__convert_note(c, DS_NOTE_WITHOUT, P "bias_correction", err,
                              "moments are corrected always; a warm-up of schedule.warmup does "
                              "what it was left out for");
    if (rc == 0 && decay > 0.0)
        rc = ds__convert_note(
            c, DS_NOTE_CHANGED, P "weight_decay", err,
            "on tensors of two or more dimensions only; a script that does not say which has it "
            "on all: optim.groups: [{match: '*', weight_decay: %g}]",
            decay);
    return rc;
}

static int set_moments(struct ds_convert *c, const struct optim *optim, struct ds_error *err)
{
    int rc = set_betas(c, optim, err);

    if (rc == 0 && optim->eps > 0.0)
        rc = set_number(c, "optim.eps", P "eps", optim->eps, err);
    return rc != 0 ? rc : set_momentum(c, optim, err);
}

static int no_optimizer(struct ds_convert *c, double *lr, struct ds_error *err)
{
    *lr = c->job.optim.lr;
    return ds__convert_note(c, DS_NOTE_WITHOUT, "optimizer", err,
                            "the script makes the optimizer; say what it is in optim.name, "
                            "optim.lr, optim.betas, optim.weight_decay");
}

static int convert_optimizer(struct ds_convert *c, double *lr, struct ds_error *err)
{
    const struct optim *optim;
    const char *type, *nearest, *name;
    bool decoupled;
    int rc = ds__convert_text(c, "optimizer.type", NULL, &type, err);

    if (rc == 0)
        rc = ds__convert_bool(c, P "adam_w_mode", true, &decoupled, err);
    if (rc != 0)
        return rc;
    if (type == NULL && !c->trainer)
        return no_optimizer(c, lr, err);
    optim = type == NULL ? &trainers : find_optim(type, &nearest);
    if (optim == NULL && !ds_keys_overridden(&c->keys, "optim.name"))
        return unknown_type(c, "optimizer", "optimizer.type", type, nearest,
                            "choose one with a word, 'optim.name=adamw' say", err);
    if (optim == NULL)
        optim = &trainers;
    type = optim->type;
    name = strcasecmp(type, "Adam") == 0 && decoupled ? "adamw" : optim->name;
    if (strcasecmp(type, "Adam") == 0 && decoupled)
        rc = ds__convert_note(c, DS_NOTE_NOTHING, "optimizer.type", err,
                              "DeepSpeed's Adam is AdamW unless adam_w_mode is false");
    if (rc == 0)
        rc = ds__convert_set(c, "optim.name",
                             ds__convert_has(c, "optimizer.type") ? "optimizer.type"
                                                                  : "the Trainer's default",
                             err, "%s", name);
    if (rc == 0)
        rc = set_rate(c, optim, lr, err);
    if (rc == 0)
        rc = set_number(c, "optim.weight_decay", P "weight_decay", 0.0, err);
    /* Of another optimizer than the one that was chosen the rest may mean nothing. */
    if (rc == 0 && is_set(c, "optim.name", name))
        rc = set_moments(c, optim, err);
    return rc != 0 ? rc : note_step(c, optim, err);
}

/* --- scheduler ------------------------------------------------------------------------------- */

/* What the scheduler makes the peak, where it says so. */
static int set_peak(struct ds_convert *c, const char *path, double peak, double lr,
                    struct ds_error *err)
{
    const char *from = by_default(c);
    int rc;

    if (ds__convert_has(c, path))
        from = path;
    else if (peak == lr && ds__convert_has(c, P "lr"))
        from = P "lr";
    rc = ds__convert_set_f64(c, "optim.lr", from, peak, err);
    if (rc == 0 && peak != lr)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, P "lr", err,
                              "the scheduler has the last word there, too: the peak is %g", peak);
    return rc;
}

static int set_warmup(struct ds_convert *c, struct ds_error *err)
{
    const char *kind;
    uint64_t steps;
    int rc = ds__convert_u64(c, S "warmup_num_steps", 1000, &steps, err);

    if (rc == 0)
        rc = ds__convert_text(c, S "warmup_type", "log", &kind, err);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.warmup",
                             ds__convert_has(c, S "warmup_num_steps") ? S "warmup_num_steps"
                                                                      : "DeepSpeed's default",
                             err, "%ju", (uintmax_t)steps);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.warmup_kind",
                             ds__convert_has(c, S "warmup_type") ? S "warmup_type"
                                                                 : "DeepSpeed's default",
                             err, "%s", strcmp(kind, "linear") == 0 ? "linear" : "log");
    if (rc == 0 && strcmp(kind, "linear") != 0 && strcmp(kind, "log") != 0)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, S "warmup_type", err,
                              "'%.40s' is neither linear nor log, and DeepSpeed takes log", kind);
    return rc != 0 ? rc
                   : ds__convert_note(c, DS_NOTE_CHANGED, "scheduler.type", err,
                                      "the rate is that of two updates later: DeepSpeed makes its "
                                      "first two with the "
                                      "rate of the start");
}

/* total_num_steps is how long the run is, too. */
static int set_total(struct ds_convert *c, struct ds_error *err)
{
    const char *path = S "total_num_steps";
    uint64_t steps;
    int rc = ds__convert_u64(c, path, 0, &steps, err);

    if (rc != 0 || steps == 0)
        return rc;
    rc = ds__convert_set(c, "train.steps", path, err, "%ju", (uintmax_t)steps);
    return rc != 0 ? rc : ds__convert_set(c, "schedule.steps", path, err, "%ju", (uintmax_t)steps);
}

static int warmup_lr(struct ds_convert *c, const char *kind, double usual, double lr,
                     struct ds_error *err)
{
    bool decays = strcmp(kind, "warmup_decay_lr") == 0;
    double peak, least;
    int rc = ds__convert_f64(c, S "warmup_max_lr", usual, &peak, err);

    if (rc == 0)
        rc = ds__convert_f64(c, S "warmup_min_lr", 0.0, &least, err);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.kind", "scheduler.type", err, "%s", kind);
    if (rc == 0)
        rc = set_peak(c, S "warmup_max_lr", peak, lr, err);
    if (rc == 0)
        rc = set_warmup(c, err);
    if (rc == 0 && least != 0.0)
        rc = ds__convert_set_f64(c, decays ? "schedule.min_lr" : "schedule.start_lr",
                                 S "warmup_min_lr", least, err);
    return rc == 0 && decays ? set_total(c, err) : rc;
}

static int plain_warmup(struct ds_convert *c, double lr, struct ds_error *err)
{
    return warmup_lr(c, "warmup_lr", lr, lr, err);
}

static int warmup_decay(struct ds_convert *c, double lr, struct ds_error *err)
{
    return warmup_lr(c, "warmup_decay_lr", 1e-3, lr, err);
}

static int warmup_cosine(struct ds_convert *c, double lr, struct ds_error *err)
{
    double start, end;
    int rc = ds__convert_f64(c, S "warmup_min_ratio", 0.0, &start, err);

    if (rc == 0)
        rc = ds__convert_f64(c, S "cos_min_ratio", 1e-4, &end, err);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.kind", "scheduler.type", err, "cosine");
    if (rc == 0)
        rc = set_warmup(c, err);
    if (rc == 0 && start != 0.0)
        rc = ds__convert_set_f64(c, "schedule.start_lr", S "warmup_min_ratio", start * lr, err);
    if (rc == 0)
        rc = ds__convert_set_f64(c, "schedule.min_lr",
                                 ds__convert_has(c, S "cos_min_ratio") ? S "cos_min_ratio"
                                                                       : "DeepSpeed's default",
                                 end * lr, err);
    return rc == 0 ? set_total(c, err) : rc;
}

static int one_cycle(struct ds_convert *c, double lr, struct ds_error *err)
{
    uint64_t first, second;
    double least, peak;
    bool momentum;
    int rc = ds__convert_u64(c, S "cycle_first_step_size", 2000, &first, err);

    if (rc == 0)
        rc = ds__convert_u64(c, S "cycle_second_step_size", first, &second, err);
    if (rc == 0)
        rc = ds__convert_f64(c, S "cycle_min_lr", 0.0, &least, err);
    if (rc == 0)
        rc = ds__convert_f64(c, S "cycle_max_lr", lr, &peak, err);
    if (rc == 0)
        rc = ds__convert_bool(c, S "cycle_momentum", true, &momentum, err);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.kind", "scheduler.type", err, "one_cycle");
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.anneal", "DeepSpeed's flanks are lines", err, "linear");
    if (rc == 0)
        rc = set_peak(c, S "cycle_max_lr", peak, lr, err);
    if (rc == 0)
        rc = ds__convert_set_f64(c, "schedule.start_lr", S "cycle_min_lr", least, err);
    if (rc == 0)
        rc = ds__convert_set_f64(c, "schedule.min_lr", S "cycle_min_lr", least, err);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.warmup", S "cycle_first_step_size", err, "%ju",
                             (uintmax_t)first);
    if (rc == 0)
        rc = ds__convert_set(c, "schedule.steps", S "cycle_second_step_size", err, "%ju",
                             (uintmax_t)(first + second));
    if (rc == 0)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, "scheduler.type", err,
                              "peak and end come one update earlier: flanks begin with their first "
                              "rate and end with their last");
    if (rc == 0 && momentum)
        rc = ds__convert_note(c, DS_NOTE_WITHOUT, S "cycle_momentum", err,
                              "momentum is constant, where OneCycle moves the first of optim.betas "
                              "between 0.9 and 0.8");
    return rc;
}

static int range_test(struct ds_convert *c, double lr, struct ds_error *err)
{
    double least;
    int rc = ds__convert_f64(c, S "lr_range_test_min_lr", lr, &least, err);

    if (rc == 0)
        rc = ds__convert_set(c, "schedule.kind", "scheduler.type", err, "constant");
    if (rc == 0)
        rc = ds__convert_set_f64(c, "optim.lr", S "lr_range_test_min_lr", least, err);
    return rc != 0 ? rc
                   : ds__convert_note(
                         c, DS_NOTE_WITHOUT, "scheduler.type", err,
                         "a rate is not searched for in one run; try some as jobs: 'dsrun job.yaml "
                         "optim.lr=...' with a run_dir each");
}

static const struct {
    const char *type;
    int (*convert)(struct ds_convert *, double lr, struct ds_error *);
} schedulers[] = {
    {"WarmupLR", plain_warmup}, {"WarmupDecayLR", warmup_decay}, {"WarmupCosineLR", warmup_cosine},
    {"OneCycle", one_cycle},    {"LRRangeTest", range_test},
};

static int no_scheduler(struct ds_convert *c, struct ds_error *err)
{
    int rc = ds__convert_set(c, "schedule.kind",
                             c->trainer ? "the Trainer's default" : "there is no scheduler", err,
                             "%s", c->trainer ? "linear" : "constant");

    return rc != 0 || !c->trainer ? rc
                                  : ds__convert_note(c, DS_NOTE_CHANGED, "scheduler", err,
                                                     "the Trainer makes it; lr_scheduler_type "
                                                     "linear without warm-up is its default");
}

static int convert_scheduler(struct ds_convert *c, double lr, struct ds_error *err)
{
    const char *type, *nearest = NULL;
    int rc = ds__convert_text(c, "scheduler.type", NULL, &type, err);

    if (rc != 0)
        return rc;
    if (type == NULL)
        return no_scheduler(c, err);
    for (size_t i = 0; i < sizeof(schedulers) / sizeof(schedulers[0]); i++) {
        if (strcasecmp(type, schedulers[i].type) == 0)
            return schedulers[i].convert(c, lr, err);
        if (ds_edit_close(ds_edit_distance(type, schedulers[i].type), type))
            nearest = schedulers[i].type;
    }
    if (ds_keys_overridden(&c->keys, "schedule.kind"))
        return 0;
    return unknown_type(c, "scheduler", "scheduler.type", type, nearest,
                        "choose one with a word, 'schedule.kind=cosine' say", err);
}

int ds__convert_optim(struct ds_convert *c, struct ds_error *err)
{
    double lr = 0.0;
    int rc = convert_optimizer(c, &lr, err);

    return rc != 0 ? rc : convert_scheduler(c, lr, err);
}
