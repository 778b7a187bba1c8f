/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_convert.c - a DeepSpeed configuration as a job: every row of the table, numbers that belong
 * together, what is refused and where.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/convert.h"

enum { TEXT = 1 << 16 };

/* No folder of weights is there. */
int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    (void)shape;
    return ds_fail(err, ENOENT, "'%s' is not there", dir);
}

struct outcome {
    struct ds_convert c;
    struct ds_buf job;
    struct ds_error err;
    int rc;
};

static void convert(struct outcome *o, const char *json, uint64_t ranks, const char *const *word,
                    size_t words)
{
    const struct ds_convert_args args = {.name = "dir/a b.json",
                                         .text = json,
                                         .len = strlen(json),
                                         .word = word,
                                         .words = words,
                                         .ranks = ranks};

    memset(o, 0, sizeof(*o));
    ds_buf_init(&o->job, TEXT);
    o->rc = ds_convert_init(&o->c, &args, &o->err);
    if (o->rc == 0)
        o->rc = ds_convert_write(&o->c, &o->job, &o->err);
    if (o->rc == 0)
        o->rc = ds_convert_try(&o->c, ds_buf_text(&o->job), o->job.len, &o->err);
}

static void release(struct outcome *o)
{
    ds_convert_release(&o->c);
    ds_buf_release(&o->job);
}

#define ADAMW "\"type\":\"AdamW\""
#define CYCLE "\"type\":\"OneCycle\""

/* {"a":{"b":VALUE}} of "a.b"; an optimizer or scheduler has its type, too. */
static void nest(char *out, size_t cap, const char *path, const char *value)
{
    size_t used = 0, depth = 1;
    const char *name = path;

    for (const char *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1, depth++)
        used += (size_t)snprintf(out + used, cap - used, "{\"%.*s\":", (int)(dot - name), name);
    used += (size_t)snprintf(out + used, cap - used, "{\"%s\":%s", name, value);
    for (; depth > 2; depth--)
        used += (size_t)snprintf(out + used, cap - used, "}");
    if (strncmp(path, "optimizer.", 10) == 0)
        used += (size_t)snprintf(out + used, cap - used, "," ADAMW);
    if (strncmp(path, "scheduler.", 10) == 0)
        used += (size_t)snprintf(out + used, cap - used, "," CYCLE);
    (void)snprintf(out + used, cap - used, "%s", depth > 1 ? "}}" : "}");
}

static const struct ds_convert_note *find_note(const struct outcome *o, const char *path,
                                               enum ds_convert_kind kind)
{
    for (const struct ds_convert_note *n = o->c.note; n != NULL; n = n->next)
        if (n->kind == kind && strcmp(n->path, path) == 0)
            return n;
    return NULL;
}

/* What needs nothing and what has no counterpart says so, in the file, too. */
Test(convert, rows_without_a_key)
{
    size_t rows, seen = 0;
    const struct ds_convert_row *row = ds_convert_rows(&rows);

    for (size_t i = 0; i < rows; i++) {
        bool none = row[i].act == DS_CONVERT_NONE;
        char json[512], line[512];
        struct outcome o;

        cr_assert_eq(ds_convert_find(row[i].path), i, "'%s' is there twice", row[i].path);
        if (row[i].act != DS_CONVERT_SAME && !none)
            continue;
        seen++;
        nest(json, sizeof(json), row[i].path, "true");
        convert(&o, json, 0, NULL, 0);
        cr_assert_eq(o.rc, 0, "%s: %s", json, o.err.text);
        cr_assert(find_note(&o, row[i].path, none ? DS_NOTE_WITHOUT : DS_NOTE_NOTHING) != NULL,
                  "%s", json);
        (void)snprintf(line, sizeof(line), "# %s: ", row[i].path);
        cr_assert(strstr(ds_buf_text(&o.job), line) != NULL, "%s", ds_buf_text(&o.job));
        release(&o);
        nest(json, sizeof(json), row[i].path, "{\"enabled\":false,\"x\":[{\"y\":5}]}");
        convert(&o, json, 0, NULL, 0);
        cr_assert_eq(o.rc, 0, "%s: %s", json, o.err.text);
        cr_assert(find_note(&o, row[i].path, DS_NOTE_NOTHING) != NULL, "%s", json);
        release(&o);
    }
    cr_assert_gt(seen, 100);
}

#define OPT(type, params) "{\"optimizer\":{\"type\":\"" type "\",\"params\":{" params "}}}"
#define SCHED(type, params)                                                                        \
    "{\"optimizer\":{" ADAMW ",\"params\":{\"lr\":0.01}},\"scheduler\":{\"type\":\"" type          \
    "\",\"params\":{" params "}}}"
#define ZERO(more) "{\"zero_optimization\":{" more "}}"

/* Configuration, ranks, lines of the job file that must be there; each names the rows it is of. */
static const struct {
    const char *json;
    uint64_t ranks;
    const char *want[5];
    const char *rows;
} table[] = {
    {"{\"train_batch_size\":32,\"train_micro_batch_size_per_gpu\":4}",
     0,
     {"\n  global_batch: 32 ", "\n  micro_batch: 4 "},
     "train_batch_size train_micro_batch_size_per_gpu"},
    {"{\"train_batch_size\":32,\"train_micro_batch_size_per_gpu\":4,\"gradient_accumulation_"
     "steps\":2}",
     4,
     {"\n  global_batch: 32 ", "\n  micro_batch: 4 "},
     "gradient_accumulation_steps"},
    {"{\"train_micro_batch_size_per_gpu\":4,\"gradient_accumulation_steps\":2}",
     3,
     {"\n  global_batch: 24 ", "\n  micro_batch: 4 "},
     NULL},
    {"{\"train_micro_batch_size_per_gpu\":4,\"gradient_accumulation_steps\":2}",
     0,
     {"\n#  global_batch: FILL IN  # 8 x the number of ranks", "\n  micro_batch: 4 "},
     NULL},
    {"{\"train_batch_size\":32,\"gradient_accumulation_steps\":2}",
     4,
     {"\n  global_batch: 32 ", "\n  micro_batch: 4 "},
     NULL},
    {"{\"train_batch_size\":32,\"gradient_accumulation_steps\":2}",
     0,
     {"\n  global_batch: 32 ", "\n#  micro_batch: FILL IN  # 16 / the number"},
     NULL},
    {"{\"train_batch_size\":32}", 2, {"\n  global_batch: 32 ", "\n  micro_batch: 16 "}, NULL},
    {"{}",
     2,
     {"\n#train:\n#  steps: FILL IN", "\n#  global_batch: FILL IN", "\n#  micro_batch: FILL IN",
      "\nname: ab "},
     NULL},
    {OPT("Adam", "\"lr\":0.002,\"betas\":[0.8,0.99],\"eps\":1e-6,\"weight_decay\":0.03"),
     0,
     {"\n  name: adamw ", "\n  lr: 0.002 ", "\n  betas: [0.8, 0.99] ", "\n  eps: 1e-06 ",
      "\n  weight_decay: 0.03 "},
     "optimizer.type optimizer.params.lr optimizer.params.betas optimizer.params.eps "
     "optimizer.params.weight_decay"},
    {OPT("Adam", "\"adam_w_mode\":false,\"torch_adam\":true"),
     0,
     {"\n  name: adam ", "\n  lr: 0.001  ", "\n  weight_decay: 0 ", "\n  betas: [0.9, 0.999] "},
     "optimizer.params.adam_w_mode optimizer.params.torch_adam"},
    {OPT("adamw", "\"bias_correction\":false"),
     0,
     {"\n  name: adamw ", "# optimizer.params.bias_correction: moments"},
     "optimizer.params.bias_correction"},
    {OPT("SGD", "\"momentum\":0.9,\"nesterov\":true"),
     0,
     {"\n  name: sgd ", "\n  momentum: 0.9 ", "\n  nesterov: true "},
     "optimizer.params.momentum optimizer.params.nesterov"},
    {OPT("Muon", "\"lr\":0.1,\"muon_lr\":0.02,\"adam_lr\":0.003"),
     0,
     {"\n  name: muon ", "\n  lr: 0.02 ", "\n  adamw_lr: 0.003 ", "\n  momentum: 0.95 ",
      "\n  betas: [0.9, 0.95] "},
     "optimizer.params.muon_lr optimizer.params.adam_lr"},
    {OPT("Muon", "\"lr\":0.1"), 0, {"\n  lr: 0.1 ", "\n  adamw_lr: 0.1 "}, NULL},
    {OPT("Lion", ""), 0, {"\n  name: lion ", "\n  betas: [0.9, 0.99] "}, NULL},
    {OPT("Adagrad", ""), 0, {"\n  name: adagrad ", "\n  lr: 0.01 ", "\n  eps: 1e-10 "}, NULL},
    {OPT("Lamb", "\"max_coeff\":0.3"),
     0,
     {"\n  name: lamb ", "# optimizer.type: the ratio", "# optimizer.params.max_coeff: "},
     NULL},
    {OPT("OneBitLamb", ""),
     0,
     {"\n  name: lamb ", "# optimizer.type: gradients are not compressed"},
     NULL},
    {OPT("OneBitAdam", "\"freeze_step\":400"),
     0,
     {"\n  name: adamw ", "# optimizer.type: gradients are not compressed"},
     NULL},
    {OPT("ZeroOneAdam", ""), 0, {"\n  name: adamw "}, NULL},
    {OPT("MuAdamW", ""),
     0,
     {"\n  name: adamw ", "# optimizer.type: rates do not follow the width"},
     NULL},
    {OPT("MuAdam", ""), 0, {"\n  name: adam "}, NULL},
    {OPT("MuSGD", ""), 0, {"\n  name: sgd "}, NULL},
    {SCHED("WarmupLR", "\"warmup_min_lr\":0.001,\"warmup_max_lr\":0.02,\"warmup_num_steps\":50,"
                       "\"warmup_type\":\"linear\""),
     0,
     {"\n  kind: warmup_lr ", "\n  lr: 0.02 ", "\n  start_lr: 0.001 ", "\n  warmup: 50 ",
      "\n  warmup_kind: linear "},
     "scheduler.type scheduler.params.warmup_min_lr scheduler.params.warmup_max_lr "
     "scheduler.params.warmup_num_steps scheduler.params.warmup_type"},
    {SCHED("WarmupLR", "\"warmup_type\":\"cubic\""),
     0,
     {"\n  lr: 0.01                            # optimizer.params.lr\n", "\n  warmup: 1000 ",
      "\n  warmup_kind: log ", "# scheduler.params.warmup_type: 'cubic'"},
     NULL},
    {SCHED("WarmupDecayLR", "\"total_num_steps\":5000"),
     0,
     {"\n  kind: warmup_decay_lr ", "\n  lr: 0.001 ", "\n  steps: 5000 ",
      "# optimizer.params.lr: the scheduler has the last word"},
     "scheduler.params.total_num_steps"},
    {SCHED("WarmupCosineLR",
           "\"total_num_steps\":5000,\"warmup_min_ratio\":0.1,\"cos_min_ratio\":0.01"),
     0,
     {"\n  kind: cosine ", "\n  lr: 0.01 ", "\n  start_lr: 0.001 ", "\n  min_lr: 0.0001 ",
      "\n  warmup: 1000 "},
     "scheduler.params.warmup_min_ratio scheduler.params.cos_min_ratio"},
    {SCHED("OneCycle", "\"cycle_min_lr\":0.001,\"cycle_max_lr\":0.1,\"cycle_first_step_size\":30,"
                       "\"cycle_second_step_size\":60,\"cycle_momentum\":false"),
     0,
     {"\n  lr: 0.1 ", "\n  warmup: 30 ", "\n  steps: 90 ", "\n  anneal: linear ",
      "\n  start_lr: 0.001 "},
     "scheduler.params.cycle_min_lr scheduler.params.cycle_max_lr "
     "scheduler.params.cycle_first_step_size "
     "scheduler.params.cycle_second_step_size scheduler.params.cycle_momentum"},
    {SCHED("OneCycle", ""),
     0,
     {"\n  warmup: 2000 ", "\n  steps: 4000 ", "# scheduler.params.cycle_momentum: "},
     NULL},
    {SCHED("LRRangeTest", "\"lr_range_test_min_lr\":0.0002"),
     0,
     {"\n  kind: constant ", "\n  lr: 0.0002 ", "# scheduler.type: a rate is not searched"},
     "scheduler.params.lr_range_test_min_lr"},
    {"{\"communication_data_type\":\"bf16\"}",
     0,
     {"\n  grad_wire: bf16 "},
     "communication_data_type"},
    {"{\"communication_data_type\":\"fp16\"}",
     0,
     {"# communication_data_type: gradients travel in fp32"},
     NULL},
    {"{\"gradient_allreduce_op\":\"sum\"}",
     0,
     {"# gradient_allreduce_op: gradients are the mean"},
     "gradient_allreduce_op"},
    {"{\"fp16\":{\"enabled\":true,\"loss_scale\":128,\"initial_scale_power\":12,\"loss_scale_"
     "window\":500,\"hysteresis\":3,\"min_loss_scale\":2}}",
     0,
     {"\n  compute: fp16 ", "\n  loss_scale: 128 ", "    init_power: 12 ", "    window: 500 ",
      "    hysteresis: 3 "},
     "fp16.enabled fp16.loss_scale fp16.initial_scale_power fp16.loss_scale_window "
     "fp16.hysteresis"},
    {"{\"fp16\":{\"enabled\":true,\"loss_scale\":0,\"min_loss_scale\":2}}",
     0,
     {"\n    min: 2 "},
     "fp16.min_loss_scale"},
    {"{\"fp16\":{\"enabled\":false,\"loss_scale\":128}}", 0, {"\n  compute: fp32 "}, NULL},
    {"{\"bf16\":{\"enabled\":true}}", 0, {"\n  compute: bf16 "}, "bf16.enabled"},
    {"{\"bfloat16\":{\"enabled\":true}}", 0, {"\n  compute: bf16 "}, "bfloat16.enabled"},
    {"{\"torch_autocast\":{\"enabled\":true,\"dtype\":\"torch.float16\"}}",
     0,
     {"\n  compute: fp16 "},
     "torch_autocast.enabled torch_autocast.dtype"},
    {"{\"gradient_clipping\":0.5}", 0, {"\n  clip: 0.5 "}, "gradient_clipping"},
    {"{}", 0, {"\n  clip: 1 ", "# DeepSpeed's default"}, NULL},
    {"{\"data_types\":{\"grad_accum_dtype\":\"bf16\"}}",
     0,
     {"# data_types.grad_accum_dtype: gradients are added"},
     "data_types.grad_accum_dtype"},
    {ZERO("\"stage\":3,\"stage3_param_persistence_threshold\":1e5,\"mics_shard_size\":8"),
     0,
     {"\n  stage: 3 ", "\n  replicate_below: 100001 ", "\n  shard_group: node ",
      "# zero_optimization.mics_shard_size: a group"},
     "zero_optimization.stage zero_optimization.stage3_param_persistence_threshold "
     "zero_optimization.mics_shard_size"},
    {ZERO("\"stage\":1,\"reduce_bucket_size\":5e8"),
     0,
     {"\n  stage: 1 ", "500000000 elements are 1907 MiB"},
     "zero_optimization.reduce_bucket_size"},
    {ZERO("\"stage\":1,\"cpu_offload\":true"),
     0,
     {"\n  optim: cpu "},
     "zero_optimization.cpu_offload"},
    {"{\"bf16\":{\"enabled\":true},\"zero_optimization\":{\"stage\":3,\"offload_param\":{"
     "\"device\":\"nvme\"}}}",
     0,
     {"\n  params: cpu ", "not on a disk"},
     "zero_optimization.stage zero_optimization.offload_param.device"},
    {ZERO("\"stage\":3,\"cpu_offload\":true,\"cpu_offload_params\":true"),
     0,
     {"\n  optim: cpu ", "\n  params: cpu "},
     "zero_optimization.cpu_offload zero_optimization.cpu_offload_params"},
    {ZERO("\"stage\":3,\"cpu_offload\":true,\"cpu_offload_param\":true"),
     0,
     {"\n  params: cpu "},
     "zero_optimization.cpu_offload_param"},
    {ZERO("\"stage\":3,\"offload_param\":{\"device\":\"cpu\"}"),
     0,
     {"# zero_optimization.offload_param.device: parameters of fp32 are"},
     "zero_optimization.stage zero_optimization.offload_param.device"},
    {ZERO("\"stage\":2,\"offload_param\":{\"device\":\"cpu\"}"),
     0,
     {"# zero_optimization.offload_param.device: parameters come from the host at"},
     "zero_optimization.stage zero_optimization.offload_param.device"},
    {ZERO("\"stage\":1,\"offload_optimizer\":{\"device\":\"cpu\",\"ratio\":0.5}"),
     0,
     {"\n  optim: cpu ", "# zero_optimization.offload_optimizer.ratio: all of the"},
     "zero_optimization.offload_optimizer.device zero_optimization.offload_optimizer.ratio"},
    {ZERO("\"offload_optimizer\":{\"device\":\"nvme\",\"nvme_path\":\"/x\"}"),
     0,
     {"\n  optim: nvme ", "\n  path: /x "},
     "zero_optimization.offload_optimizer.device zero_optimization.offload_optimizer.nvme_path"},
    {ZERO("\"offload_optimizer\":{\"device\":\"nvme\"}"),
     0,
     {"# zero_optimization.offload_optimizer.device: it says no nvme_path"},
     NULL},
    {"{\"optimizer\":{\"type\":\"Lamb\",\"params\":{\"lr\":0.1}},\"zero_optimization\":{\"stage\":"
     "1,"
     "\"offload_optimizer\":{\"device\":\"nvme\",\"nvme_path\":\"/x\"}}}",
     0,
     {"\n  optim: cpu ", "# zero_optimization.offload_optimizer.device: lamb would read"},
     NULL},
    {"{\"activation_checkpointing\":{\"cpu_checkpointing\":true}}",
     0,
     {"\n  recompute: full ", "\n  offload: cpu "},
     "activation_checkpointing"},
    {"{\"activation_checkpointing\":{\"partition_activations\":false}}",
     0,
     {"\n  recompute: auto "},
     "activation_checkpointing"},
    {"{\"tensor_parallel\":{\"autotp_size\":4},\"sequence_parallel_size\":2}",
     0,
     {"\n  tensor: 4 ", "\n  sequence: 2 "},
     "tensor_parallel sequence_parallel_size"},
    {"{\"tensor_parallel\":{\"autotp_size\":1}}",
     0,
     {"# tensor_parallel: no autotp_size above 1"},
     NULL},
    {"{\"expert_parallel\":{\"enabled\":true,\"autoep_size\":4},\"tensor_parallel\":{\"autotp_"
     "size\":2}}",
     0,
     {"\n  expert: 4 ", "\n  tensor: 2 "},
     "expert_parallel tensor_parallel"},
    {"{\"expert_parallel\":{\"enabled\":false}}",
     0,
     {"# expert_parallel: no autoep_size above 1"},
     NULL},
    {"{\"pipeline\":{\"stages\":4}}", 0, {"\n  pipeline: 4 "}, "pipeline"},
    {"{\"pipeline\":{\"stages\":\"auto\"}}",
     0,
     {"# pipeline: how many parts the layers have"},
     "pipeline"},
    {"{\"steps_per_print\":20,\"wall_clock_breakdown\":true,\"comms_logger\":{\"enabled\":true}}",
     0,
     {"\n  every: 20 ", "\n  comm: true ", "\n  trace: step "},
     "steps_per_print wall_clock_breakdown comms_logger.enabled"},
    {ZERO("\"zero_hpz_partition_size\":8"),
     0,
     {"# zero_optimization.zero_hpz_partition_size: parameters are held"},
     "zero_optimization.zero_hpz_partition_size"},
    {"{\"steps_per_print\":\"inf\"}", 0, {"# steps_per_print: log.every is left"}, NULL},
    {"{\"tensorboard\":{\"enabled\":true}}",
     0,
     {"\n  sinks: [console, jsonl, csv, tensorboard]"},
     "tensorboard.enabled"},
    {"{\"train_micro_batch_size_per_gpu\":\"auto\",\"gradient_accumulation_steps\":\"auto\"}",
     2,
     {"\n  global_batch: 16 ", "\n  micro_batch: 8 ", "\n  kind: linear ",
      "taken as 8, its default"},
     NULL},
    {"{\"steps_per_prnt\":5,\"zero_optimization\":{\"stgae\":1},\"my "
     "own\":{\"a\":[{\"b\":1}]},\"bf16\":{\"enabled\":true}}",
     0,
     {"# steps_per_prnt: DeepSpeed passes over what it does not know; did you mean "
      "'steps_per_print'?",
      "did you mean", "'zero_optimization.stage'?", "# my own: no key of DeepSpeed; left out",
      "\n  compute: bf16 "},
     NULL},
    {"{\"a\\nname: evil\":1,\"optimizer.type\":2}",
     0,
     {"# a\\x0aname: evil: no key", "# optimizer.type: no key"},
     NULL},
};
enum { ROWS = sizeof(table) / sizeof(table[0]) };

Test(convert, rows_with_a_key)
{
    for (size_t i = 0; i < ROWS; i++) {
        struct outcome o;

        convert(&o, table[i].json, table[i].ranks, NULL, 0);
        cr_assert_eq(o.rc, 0, "%s: %s", table[i].json, o.err.text);
        for (size_t k = 0; k < 5 && table[i].want[k] != NULL; k++)
            cr_assert(strstr(ds_buf_text(&o.job), table[i].want[k]) != NULL, "%s lacks '%s':\n%s",
                      table[i].json, table[i].want[k], ds_buf_text(&o.job));
        release(&o);
    }
}

/* No row that is read is left out of the table above. */
Test(convert, every_row_is_tried)
{
    size_t rows;
    const struct ds_convert_row *row = ds_convert_rows(&rows);

    for (size_t i = 0; i < rows; i++) {
        bool tried = row[i].act != DS_CONVERT_TAKE && row[i].act != DS_CONVERT_READ;

        for (size_t k = 0; k < ROWS; k++) {
            const char *at = table[k].rows == NULL ? NULL : strstr(table[k].rows, row[i].path);
            size_t len = strlen(row[i].path);

            for (; at != NULL && !tried; at = strstr(at + 1, row[i].path))
                tried =
                    (at[len] == '\0' || at[len] == ' ') && (at == table[k].rows || at[-1] == ' ');
        }
        cr_assert(tried, "no configuration of the table has '%s'", row[i].path);
    }
}

Test(convert, words_win)
{
    static const char *const words[] = {"optim.lr=0.5", "train.global_batch=64", "optim.name=lion",
                                        "model.arch=gpt2", "data.train=[x, y]"};
    struct outcome o;

    convert(&o, OPT("Adafactor", "\"lr\":0.1"), 0, words, 5);
    cr_assert_eq(o.rc, -EINVAL, "a model needs more"); /* arch alone is no model */
    cr_assert(strstr(o.err.text, "'model.layers' is required") != NULL, "%s", o.err.text);
    release(&o);
    convert(&o, OPT("Adafactor", "\"lr\":0.1,\"eps\":1e-7"), 0, words, 3);
    cr_assert_eq(o.rc, 0, "%s", o.err.text);
    cr_assert(strstr(ds_buf_text(&o.job), "\n  lr: 0.5\n") != NULL, "%s", ds_buf_text(&o.job));
    cr_assert(strstr(ds_buf_text(&o.job), "\n  global_batch: 64\n") != NULL);
    release(&o);
}

static const struct {
    const char *json;
    uint64_t ranks;
    int rc;
    const char *text;
} bad[] = {
    {"", 0, -EBADMSG, "dir/a b.json:1:1: not valid JSON: "},
    {"[]", 0, -EBADMSG, "dir/a b.json:1:1: a DeepSpeed configuration is an object"},
    {"{\n \"a\": 1,\n \"a\": 2}", 0, -EBADMSG, "dir/a b.json:3:"},
    {"{\"a\": 1} x", 0, -EBADMSG, "dir/a b.json:1:"},
    {"{\"train_batch_size\": 99999999999999999999}", 0, -EBADMSG, "dir/a b.json:1:"},
    {"{\n  \"train_batch_size\": \"32\"}", 0, -EINVAL,
     "dir/a b.json:2:3: 'train_batch_size' must be a whole number"},
    {"{\"\u00e9\": 1, \"train_batch_size\": 0}", 0, -EINVAL,
     "dir/a b.json:1:10: 'train_batch_size' must be from 1 to 16777216, not 0"},
    {"{\"train_batch_size\": 33, \"train_micro_batch_size_per_gpu\": 4}", 0, -EINVAL,
     "dir/a b.json:1:2: 'train_batch_size' 33 is no multiple of"},
    {"{\"train_batch_size\": 32, \"train_micro_batch_size_per_gpu\": 4}", 3, -EINVAL, "x 3 ranks"},
    {"{\"train_batch_size\":32,\"train_micro_batch_size_per_gpu\":4,\"gradient_accumulation_"
     "steps\":2}",
     2, -EINVAL, "x 2 ranks"},
    {"{\"train_micro_batch_size_per_gpu\":16777216,\"gradient_accumulation_steps\":16777216}",
     67108864, -EINVAL, "are more than"},
    {"{\"train_micro_batch_size_per_gpu\":16777216}", 67108864, -EINVAL,
     "'train.global_batch' must be"},
    {"{\"optimizer\": []}", 0, -EINVAL, "dir/a b.json:1:2: 'optimizer' must be an object"},
    {OPT("AdamV", ""), 0, -EINVAL,
     "dir/a b.json:1:15: optimizer 'AdamV' has no counterpart, did you mean 'Adam'?; choose "
     "one"},
    {OPT("Rprop", ""), 0, -EINVAL, "optimizer 'Rprop' has no counterpart; choose one with a word"},
    {OPT("AdamW", "\"lr\":5000"), 0, -EINVAL,
     "'optim.lr' must be a number between 0 and 1000, not '5000'"},
    {OPT("AdamW", "\"betas\":[0.9]"), 0, -EINVAL, "'optimizer.params.betas' must be two numbers"},
    {OPT("AdamW", "\"betas\":[0.9,1.0]"), 0, -EINVAL, "'optim.betas'"},
    {OPT("SGD", "\"nesterov\":true"), 0, -EINVAL,
     "dir/a b.json:1:38: it becomes no valid job: 'optim.nesterov' needs"},
    {SCHED("WarmupLRR", ""), 0, -EINVAL,
     "scheduler 'WarmupLRR' has no counterpart, did you mean 'WarmupLR'?"},
    {SCHED("WarmupCosineLR", "\"total_num_steps\":10"), 0, -EINVAL,
     "dir/a b.json: it becomes no valid job: 'schedule.warmup' must be at most"},
    {"{\"fp16\":{\"enabled\":true},\"bf16\":{\"enabled\":true}}", 0, -EINVAL,
     "fp16 and bf16 are both on"},
    {"{\"fp16\":{\"enabled\":1}}", 0, -EINVAL, "'fp16.enabled' must be true or false"},
    {"{\"fp16\":{\"hysteresis\":\"auto\"}}", 0, -EINVAL, "'fp16.hysteresis' cannot be auto"},
    {"{\"torch_autocast\":{\"enabled\":true,\"dtype\":\"int8\"}}", 0, -EINVAL, "'int8' is no type"},
    {ZERO("\"stage\":4"), 0, -EINVAL, "dir/a b.json:1:23: 'zero.stage' must be a whole number "},
    {ZERO("\"mics_shard_size\":1.5"), 0, -EINVAL,
     "'zero_optimization.mics_shard_size' must be a whole number"},
};

Test(convert, refused)
{
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct outcome o;

        convert(&o, bad[i].json, bad[i].ranks, NULL, 0);
        cr_assert_eq(o.rc, bad[i].rc, "%s: %d %s", bad[i].json, o.rc, o.err.text);
        cr_assert(strstr(o.err.text, bad[i].text) != NULL, "%s: %s", bad[i].json, o.err.text);
        release(&o);
    }
}
