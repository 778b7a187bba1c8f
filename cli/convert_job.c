/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert_job.c - from values by row to keys of the job; the contract is in convert.h.
 *
 * Batch    train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x ranks,
 *          as DeepSpeed completes it; where that needs the number of ranks and nobody said it, a
 *          line is left to fill in.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/limits.h"
#include "base/yaml.h"
#include "cli/convert.h"
#include "runtime/job_table.h"

#define MICRO "train_micro_batch_size_per_gpu"
#define ACCUM "gradient_accumulation_steps"
#define TOTAL "train_batch_size"

/* --- keys of the job ------------------------------------------------------------------------- */

int ds__convert_set(struct ds_convert *c, const char *key, const char *path, struct ds_error *err,
                    const char *fmt, ...)
{
    size_t rows, row = ds_convert_find(path), i = ds_keys_find(&c->keys, key);
    struct ds_yaml *node = NULL;
    char text[DS_MAX_PATH];
    va_list args;
    int rc;

    if (ds_keys_overridden(&c->keys, key))
        return 0;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    c->from[i] = ds_arena_strdup(&c->job.arena, path);
    if (c->from[i] == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    rc = ds_yaml_parse(&c->job.arena, key, text, strlen(text), &node, err);
    if (rc == 0)
        rc = ds_key_set(&c->keys.key[i], &c->job, &c->job.arena, node, err);
    c->keys.origin[i].mark = (struct ds_yaml_mark){1, 1}; /* where no key can be */
    (void)ds_convert_rows(&rows);
    if (row < rows && c->given[row].at.line > 0)
        c->keys.origin[i].mark = c->given[row].at;
    return rc == 0 ? 0 : ds__convert_place(c, path, rc, err);
}

int ds__convert_set_f64(struct ds_convert *c, const char *key, const char *path, double value,
                        struct ds_error *err)
{
    char text[40];

    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return ds__convert_set(c, key, path, err, "%s", text);
}

static int fill(struct ds_convert *c, const char *key, struct ds_error *err, const char *fmt, ...)
    DS_PRINTF(4, 5);

static int fill(struct ds_convert *c, const char *key, struct ds_error *err, const char *fmt, ...)
{
    size_t i = ds_keys_find(&c->keys, key);
    char text[256];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    c->fill[i] = ds_arena_strdup(&c->job.arena, text);
    return c->fill[i] != NULL ? 0 : ds_fail(err, ENOMEM, "out of memory");
}

/* --- batch ----------------------------------------------------------------------------------- */

struct batch {
    uint64_t total, micro, accum; /* 0: not given */
};

static int read_size(const struct ds_convert *c, const char *path, uint64_t *out,
                     struct ds_error *err)
{
    int rc = ds__convert_u64(c, path, 0, out, err);

    if (rc == 0 && ds__convert_has(c, path) && (*out < 1 || *out > DS_MAX_BATCH))
        rc = ds__convert_place(c, path,
                               ds_fail(err, EINVAL, "'%s' must be from 1 to %d, not %ju", path,
                                       DS_MAX_BATCH, (uintmax_t)*out),
                               err);
    return rc;
}

static int fail_batch(const struct ds_convert *c, const struct batch *b, struct ds_error *err)
{
    char ranks[64] = "";

    if (c->ranks > 0)
        (void)snprintf(ranks, sizeof(ranks), " x %ju ranks", (uintmax_t)c->ranks);
    return ds__convert_place(
        c, ds__convert_has(c, TOTAL) ? TOTAL : MICRO,
        ds_fail(err, EINVAL, "'" TOTAL "' %ju is no multiple of " MICRO " %ju x " ACCUM " %ju%s",
                (uintmax_t)b->total, (uintmax_t)(b->micro > 0 ? b->micro : 1),
                (uintmax_t)(b->accum > 0 ? b->accum : 1), ranks),
        err);
}

static int set_global(struct ds_convert *c, const struct batch *b, struct ds_error *err)
{
    uint64_t global = b->micro * (b->accum > 0 ? b->accum : 1);

    if (b->total > 0)
        return ds__convert_set(c, "train.global_batch", TOTAL, err, "%ju", (uintmax_t)b->total);
    if (b->micro == 0)
        return fill(c, "train.global_batch", err, "sequences per update, over all ranks");
    if (c->ranks == 0)
        return fill(c, "train.global_batch", err,
                    "%ju x the number of ranks; or convert with --slots, --nodes",
                    (uintmax_t)global);
    return ds__convert_set(c, "train.global_batch", MICRO, err, "%ju",
                           (uintmax_t)(global * c->ranks));
}

static int set_micro(struct ds_convert *c, const struct batch *b, struct ds_error *err)
{
    uint64_t share = b->total / (b->accum > 0 ? b->accum : 1);

    if (b->micro > 0)
        return ds__convert_set(c, "train.micro_batch", MICRO, err, "%ju", (uintmax_t)b->micro);
    if (b->total == 0)
        return fill(c, "train.micro_batch", err, "sequences per rank and pass");
    if (c->ranks == 0)
        return fill(c, "train.micro_batch", err,
                    "%ju / the number of ranks, or less; or convert with --slots, --nodes",
                    (uintmax_t)share);
    return ds__convert_set(c, "train.micro_batch", TOTAL, err, "%ju",
                           (uintmax_t)(share / c->ranks));
}

static int convert_batch(struct ds_convert *c, struct ds_error *err)
{
    struct batch b;
    uint64_t unit;
    int rc = read_size(c, TOTAL, &b.total, err);

    if (rc == 0)
        rc = read_size(c, MICRO, &b.micro, err);
    if (rc == 0)
        rc = read_size(c, ACCUM, &b.accum, err);
    if (rc != 0)
        return rc;
    /* At most 2^24 twice, and 2^26 ranks: no product overflows 64 bits where the first two are
     * checked. */
    unit = (b.micro > 0 ? b.micro : 1) * (b.accum > 0 ? b.accum : 1);
    if (b.total > 0 && (b.total % unit != 0 || (c->ranks > 0 && b.total / unit % c->ranks != 0)))
        return fail_batch(c, &b, err);
    if (b.total > 0 && c->ranks > 0 && b.micro > 0 && b.accum > 0 && b.total / unit != c->ranks)
        return fail_batch(c, &b, err);
    if (unit > DS_MAX_BATCH)
        return ds__convert_place(c, MICRO,
                                 ds_fail(err, EINVAL,
                                         "%ju sequences per rank and update are more than %d",
                                         (uintmax_t)unit, DS_MAX_BATCH),
                                 err);
    rc = set_global(c, &b, err);
    return rc != 0 ? rc : set_micro(c, &b, err);
}

/* --- precision ------------------------------------------------------------------------------- */

static int convert_scale(struct ds_convert *c, struct ds_error *err)
{
    static const struct {
        const char *path, *key;
    } rows[] = {{"fp16.initial_scale_power", "precision.scaler.init_power"},
                {"fp16.loss_scale_window", "precision.scaler.window"},
                {"fp16.hysteresis", "precision.scaler.hysteresis"},
                {"fp16.min_loss_scale", "precision.scaler.min"}};
    uint64_t value;
    int rc = ds__convert_u64(c, "fp16.loss_scale", 0, &value, err);

    if (rc == 0 && value > 0)
        rc = ds__convert_set(c, "precision.loss_scale", "fp16.loss_scale", err, "%ju",
                             (uintmax_t)value);
    for (size_t i = 0; rc == 0 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        rc = ds__convert_u64(c, rows[i].path, 0, &value, err);
        if (rc == 0 && ds__convert_has(c, rows[i].path))
            rc = ds__convert_set(c, rows[i].key, rows[i].path, err, "%ju", (uintmax_t)value);
    }
    return rc;
}

/* torch_autocast says a type of PyTorch. */
static int autocast_type(struct ds_convert *c, const char **compute, struct ds_error *err)
{
    const char *type;
    int rc = ds__convert_text(c, "torch_autocast.dtype", "bfloat16", &type, err);

    if (rc != 0)
        return rc;
    if (strstr(type, "bfloat16") != NULL || strcmp(type, "bf16") == 0)
        *compute = "bf16";
    else if (strstr(type, "float16") != NULL || strcmp(type, "fp16") == 0)
        *compute = "fp16";
    else
        return ds__convert_place(c, "torch_autocast.dtype",
                                 ds_fail(err, EINVAL,
                                         "'%.60s' is no type of torch_autocast; use "
                                         "bfloat16 or float16",
                                         type),
                                 err);
    return ds__convert_note(
        c, DS_NOTE_CHANGED, "torch_autocast.enabled", err,
        "precision.compute is the type of activations and products in all of the model");
}

static int convert_compute(struct ds_convert *c, struct ds_error *err)
{
    const char *compute = "fp32", *path = "neither fp16 nor bf16 is on";
    bool fp16, bf16, old, autocast;
    int rc = ds__convert_bool(c, "fp16.enabled", false, &fp16, err);

    if (rc == 0)
        rc = ds__convert_bool(c, "bf16.enabled", false, &bf16, err);
    if (rc == 0)
        rc = ds__convert_bool(c, "bfloat16.enabled", false, &old, err);
    if (rc == 0)
        rc = ds__convert_bool(c, "torch_autocast.enabled", false, &autocast, err);
    if (rc != 0)
        return rc;
    if (fp16 && (bf16 || old))
        return ds__convert_place(c, "fp16.enabled",
                                 ds_fail(err, EINVAL, "fp16 and bf16 are both on; turn one off"),
                                 err);
    if (fp16 || bf16 || old) {
        compute = fp16 ? "fp16" : "bf16";
        path = fp16 ? "fp16.enabled" : bf16 ? "bf16.enabled" : "bfloat16.enabled";
    } else if (autocast) {
        path = "torch_autocast.enabled";
        rc = autocast_type(c, &compute, err);
    }
    if (rc == 0)
        rc = ds__convert_set(c, "precision.compute", path, err, "%s", compute);
    return rc == 0 && fp16 ? convert_scale(c, err) : rc;
}

/* Types in which gradients travel and are added up. */
static int convert_grads(struct ds_convert *c, struct ds_error *err)
{
    const char *wire, *sum, *op;
    int rc = ds__convert_text(c, "communication_data_type", NULL, &wire, err);

    if (rc == 0)
        rc = ds__convert_text(c, "data_types.grad_accum_dtype", "fp32", &sum, err);
    if (rc == 0)
        rc = ds__convert_text(c, "gradient_allreduce_op", "mean", &op, err);
    if (rc != 0)
        return rc;
    if (wire != NULL &&
        (strcmp(wire, "fp32") == 0 || strcmp(wire, "bf16") == 0 || strcmp(wire, "bfp16") == 0))
        rc = ds__convert_set(c, "precision.grad_wire", "communication_data_type", err, "%s",
                             wire[0] == 'f' ? "fp32" : "bf16");
    else if (wire != NULL)
        rc = ds__convert_note(
            c, DS_NOTE_WITHOUT, "communication_data_type", err,
            "gradients travel in fp32; precision.grad_wire: bf16 has the size of %.20s and a "
            "range that needs no scale",
            wire);
    if (rc == 0 && strcmp(sum, "fp32") != 0)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, "data_types.grad_accum_dtype", err,
                              "gradients are added up in fp32 always");
    if (rc == 0 && strcasecmp(op, "mean") != 0)
        rc = ds__convert_note(
            c, DS_NOTE_WITHOUT, "gradient_allreduce_op", err,
            "gradients are the mean over ranks; multiply optim.lr for sgd, others do not "
            "depend on the size but through optim.clip");
    return rc;
}

/* --- ZeRO ------------------------------------------------------------------------------------ */

/* What stage 3 shares, and among whom. */
static int convert_sharing(struct ds_convert *c, uint64_t stage, struct ds_error *err)
{
    const char *small = DS_CONVERT_ZERO "stage3_param_persistence_threshold",
               *group = DS_CONVERT_ZERO "mics_shard_size";
    const json_t *mics = c->given[ds_convert_find(group)].value;
    uint64_t elements, copies;
    int rc = ds__convert_u64(c, DS_CONVERT_ZERO "zero_hpz_partition_size", 1, &copies, err);

    if (rc == 0 && copies > 1)
        rc = ds__convert_note(
            c, DS_NOTE_WITHOUT, DS_CONVERT_ZERO "zero_hpz_partition_size", err,
            "parameters are held once; zero.shard_group: node keeps gathers within a host");
    if (rc == 0)
        rc = ds__convert_u64(c, small, 0, &elements, err);

    if (rc == 0 && ds__convert_has(c, small) && stage == 3)
        rc = ds__convert_set(c, "zero.replicate_below", small, err, "%ju",
                             (uintmax_t)(elements + 1));
    if (rc != 0 || mics == NULL)
        return rc;
    if (!json_is_integer(mics))
        return ds__convert_place(c, group,
                                 ds_fail(err, EINVAL, "'%s' must be a whole number", group), err);
    if (json_integer_value(mics) <= 1)
        return 0;
    rc = ds__convert_set(c, "zero.shard_group", group, err, "node");
    return rc != 0 ? rc
                   : ds__convert_note(c, DS_NOTE_CHANGED, group, err,
                                      "a group is the ranks of one host, not %" JSON_INTEGER_FORMAT
                                      "; --slots says how many these are",
                                      json_integer_value(mics));
}

static int convert_zero(struct ds_convert *c, struct ds_error *err)
{
    const char *bucket = DS_CONVERT_ZERO "reduce_bucket_size";
    uint64_t stage, elements;
    int rc = ds__convert_u64(c, DS_CONVERT_ZERO "stage", 0, &stage, err);

    if (rc == 0 && ds__convert_has(c, DS_CONVERT_ZERO "stage"))
        rc =
            ds__convert_set(c, "zero.stage", DS_CONVERT_ZERO "stage", err, "%ju", (uintmax_t)stage);
    if (rc == 0)
        rc = ds__convert_u64(c, bucket, 0, &elements, err);
    if (rc == 0 && elements > 0)
        rc = ds__convert_note(
            c, DS_NOTE_CHANGED, bucket, err,
            "zero.bucket_mb is left to auto, which goes by the model; %ju elements are %ju MiB "
            "of fp32",
            (uintmax_t)elements, (uintmax_t)(elements / 262144));
    if (rc == 0)
        rc = ds__convert_offload(c, stage, err);
    return rc == 0 ? convert_sharing(c, stage, err) : rc;
}

/* --- the rest -------------------------------------------------------------------------------- */

/* How many parts there are the script says there, most of the time. */
static int convert_pipeline(struct ds_convert *c, struct ds_error *err)
{
    const json_t *section = c->given[ds_convert_find("pipeline")].value;
    const json_t *stages = json_object_get(section, "stages");

    if (section == NULL)
        return 0;
    if (json_is_integer(stages) && json_integer_value(stages) > 1)
        return ds__convert_set(c, "parallel.pipeline", "pipeline", err, "%jd",
                               (intmax_t)json_integer_value(stages));
    return ds__convert_note(c, DS_NOTE_WITHOUT, "pipeline", err,
                            "how many parts the layers have is in the script (PipelineModule); set "
                            "parallel.pipeline to that");
}

/* Its other keys say how a script's modules are divided: here the model's are. */
static int convert_tensor(struct ds_convert *c, struct ds_error *err)
{
    const json_t *section = c->given[ds_convert_find("tensor_parallel")].value;
    const json_t *size = json_object_get(section, "autotp_size");

    if (section == NULL)
        return 0;
    if (json_is_integer(size) && json_integer_value(size) > 1)
        return ds__convert_set(c, "parallel.tensor", "tensor_parallel", err, "%jd",
                               (intmax_t)json_integer_value(size));
    return ds__convert_note(c, DS_NOTE_NOTHING, "tensor_parallel", err,
                            "no autotp_size above 1: every rank has whole layers");
}

/* Its other keys say how experts of a script's model are found: here they are the model's. */
static int convert_experts(struct ds_convert *c, struct ds_error *err)
{
    const json_t *section = c->given[ds_convert_find("expert_parallel")].value;
    const json_t *size = json_object_get(section, "autoep_size");

    if (section == NULL)
        return 0;
    if (json_is_integer(size) && json_integer_value(size) > 1)
        return ds__convert_set(c, "parallel.expert", "expert_parallel", err, "%jd",
                               (intmax_t)json_integer_value(size));
    return ds__convert_note(c, DS_NOTE_NOTHING, "expert_parallel", err,
                            "no autoep_size above 1: every rank has all experts");
}

static int convert_parallel(struct ds_convert *c, struct ds_error *err)
{
    uint64_t sequence;
    int rc = ds__convert_u64(c, "sequence_parallel_size", 1, &sequence, err);

    if (rc == 0 && sequence > 1)
        rc = ds__convert_set(c, "parallel.sequence", "sequence_parallel_size", err, "%ju",
                             (uintmax_t)sequence);
    if (rc == 0)
        rc = convert_tensor(c, err);
    if (rc == 0)
        rc = convert_experts(c, err);
    return rc == 0 ? convert_pipeline(c, err) : rc;
}

/* Which layers compute again is the script's there; the section only says how. */
static int convert_activations(struct ds_convert *c, struct ds_error *err)
{
    const json_t *section = c->given[ds_convert_find("activation_checkpointing")].value;
    int rc;

    if (section == NULL)
        return 0;
    if (json_is_true(json_object_get(section, "cpu_checkpointing"))) {
        rc = ds__convert_set(c, "activation.recompute", "activation_checkpointing", err, "full");
        return rc == 0 ? ds__convert_set(c, "activation.offload", "activation_checkpointing", err,
                                         "cpu")
                       : rc;
    }
    rc = ds__convert_set(c, "activation.recompute", "activation_checkpointing", err, "auto");
    return rc != 0 ? rc
                   : ds__convert_note(
                         c, DS_NOTE_CHANGED, "activation_checkpointing", err,
                         "the script says there which layers compute again; auto is the least that "
                         "fits in memory, activation.recompute: full is every layer");
}

static int convert_logs(struct ds_convert *c, struct ds_error *err)
{
    const json_t *print = c->given[ds_convert_find("steps_per_print")].value;
    bool breakdown, board, comms;
    uint64_t every = 0;
    int rc = ds__convert_bool(c, "wall_clock_breakdown", false, &breakdown, err);

    if (rc == 0)
        rc = ds__convert_bool(c, "tensorboard.enabled", false, &board, err);
    if (rc == 0)
        rc = ds__convert_bool(c, "comms_logger.enabled", false, &comms, err);
    if (rc == 0 && !json_is_string(print)) /* "inf" is never */
        rc = ds__convert_u64(c, "steps_per_print", 0, &every, err);
    if (rc == 0 && every > 0)
        rc = ds__convert_set(c, "log.every", "steps_per_print", err, "%ju", (uintmax_t)every);
    if (rc == 0 && json_is_string(print))
        rc = ds__convert_note(c, DS_NOTE_CHANGED, "steps_per_print", err,
                              "log.every is left at 1; -q keeps the console quiet");
    if (rc == 0 && comms)
        rc = ds__convert_set(c, "log.comm", "comms_logger.enabled", err, "true");
    if (rc == 0 && breakdown)
        rc = ds__convert_set(c, "log.trace", "wall_clock_breakdown", err, "step");
    if (rc == 0 && board)
        rc = ds__convert_set(c, "log.sinks", "tensorboard.enabled", err,
                             "[console, jsonl, csv, tensorboard]");
    return rc;
}

/* Rows that are one key of the job each. */
static int convert_taken(struct ds_convert *c, struct ds_error *err)
{
    const struct ds_convert_row *row;
    size_t rows;
    int rc = 0;

    row = ds_convert_rows(&rows);
    for (size_t i = 0; rc == 0 && i < rows; i++) {
        double value;

        if (row[i].act != DS_CONVERT_TAKE || c->given[i].value == NULL)
            continue;
        rc = ds__convert_f64(c, row[i].path, 0.0, &value, err);
        if (rc == 0)
            rc = ds__convert_set_f64(c, row[i].key, row[i].path, value, err);
    }
    if (rc == 0 && !ds_keys_given(&c->keys, "optim.clip"))
        rc = ds__convert_set_f64(c, "optim.clip", "DeepSpeed's default", 1.0, err);
    return rc;
}

/* --- what it does not say -------------------------------------------------------------------- */

static bool any_given(const struct ds_convert *c, const char *section)
{
    for (size_t i = 0; i < c->keys.count; i++)
        if (strncmp(c->keys.key[i].path, section, strlen(section)) == 0 &&
            ds_keys_given(&c->keys, c->keys.key[i].path))
            return true;
    return false;
}

/* The run is called as the file is, without its folder and what follows the last dot. */
static int set_name(struct ds_convert *c, struct ds_error *err)
{
    const char *slash = strrchr(c->name, '/'), *base = slash == NULL ? c->name : slash + 1;
    size_t len = strlen(base), n = 0;
    char name[DS_MAX_NAME + 1];

    if (strrchr(base, '.') != NULL && strrchr(base, '.') > base)
        len = (size_t)(strrchr(base, '.') - base);
    for (size_t i = 0; i < len && n < DS_MAX_NAME; i++)
        if (isalnum((unsigned char)base[i]) || (n > 0 && strchr("._-", base[i]) != NULL))
            name[n++] = base[i];
    name[n] = '\0';
    return ds__convert_set(c, "name", "the file's name", err, "\"%s\"", n > 0 ? name : "converted");
}

static int set_unsaid(struct ds_convert *c, struct ds_error *err)
{
    int rc = set_name(c, err);

    if (rc == 0 && !any_given(c, "model."))
        rc = fill(c, "model.init.from", err,
                  "a folder of Hugging Face; or, for random weights, "
                  "model: {arch, layers, hidden, heads, context}");
    if (rc == 0)
        rc = fill(c, "data.train", err, "files of text, or of token ids ('dsrun data tokenize')");
    if (rc != 0 || ds_keys_given(&c->keys, "train.steps") ||
        ds_keys_given(&c->keys, "train.epochs"))
        return rc;
    return c->trainer ? fill(c, "train.epochs", err,
                             "num_train_epochs, 3 where nobody said it; or train.steps: max_steps")
                      : fill(c, "train.steps", err,
                             "optimizer updates to make; or train.epochs, passes over the data");
}

int ds__convert_job(struct ds_convert *c, struct ds_error *err)
{
    static int (*const parts[])(struct ds_convert *, struct ds_error *) = {
        convert_batch, ds__convert_optim, convert_compute,     convert_grads, convert_taken,
        convert_zero,  convert_parallel,  convert_activations, convert_logs,  set_unsaid,
    };
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(parts) / sizeof(parts[0]); i++)
        rc = parts[i](c, err);
    return rc;
}
