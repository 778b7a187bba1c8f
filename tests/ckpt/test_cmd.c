/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_cmd.c - dsrun ckpt: what each command prints, and the code it ends with.
 */
#include <fcntl.h>

#include "base/json_read.h"
#include "cli/cli.h"
#include "runtime/ckpt/inspect.h"
#include "runtime/model/model.h"
#include "tests/ckpt/support.h"

TestSuite(cmd, .init = tempdir_make, .fini = tempdir_remove);

/* What the last command wrote to standard output and standard error. */
static char out[16384], errors[16384];

static int redirect(int fd, const char *path)
{
    int was = dup(fd), file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert(was >= 0 && file >= 0 && dup2(file, fd) == fd);
    (void)close(file);
    return was;
}

static void put_back(int fd, int was, const char *path, char *text, size_t cap)
{
    struct ds_buf bytes;

    cr_assert(dup2(was, fd) == fd);
    (void)close(was);
    bytes = slurp(path);
    (void)snprintf(text, cap, "%s", ds_buf_text(&bytes));
    ds_buf_release(&bytes);
}

/* Run a command with one or two words. */
static int ckpt(struct ds_cli cli, const char *command, const char *a, const char *b)
{
    const char *words[] = {a, b};
    int was_out, was_err, code;

    cli.command = command;
    cli.arg = words;
    cli.args = b != NULL ? 2 : 1;
    (void)fflush(stdout);
    was_out = redirect(STDOUT_FILENO, tempdir_path("stdout"));
    was_err = redirect(STDERR_FILENO, tempdir_path("stderr"));
    code = ds_cmd_ckpt(&cli);
    (void)fflush(stdout);
    put_back(STDOUT_FILENO, was_out, tempdir_path("stdout"), out, sizeof(out));
    put_back(STDERR_FILENO, was_err, tempdir_path("stderr"), errors, sizeof(errors));
    return code;
}

static const struct ds_cli plain;

static uint64_t vocab = 7;
static unsigned stage = 3, shards = 2, tensor = 2, pipeline = 4;

/* A run whose checkpoints are those of a real, tiny model; the weights of `step` start at `first`. */
static const char *save_model(uint64_t step, float first)
{
    static struct path run;
    struct set set;
    struct ds_ckpt_tensor weight[32];
    struct ds_ckpt_save_args args;
    struct ds_error err = {0};

    run = held("run");
    set_init(&set, first);
    args = save_args(run.text, &set, step);
    args.state.shape.vocab = vocab;
    args.state.stage = stage;
    args.state.shard_ranks = shards;
    args.state.tensor_ranks = tensor;
    args.state.sequence_ranks = args.state.expert_ranks = 1;
    args.state.pipeline_ranks = pipeline;
    args.n_weights = ds_model_param_count(&args.state.shape);
    cr_assert(args.n_weights <= 32);
    for (size_t i = 0; i < args.n_weights; i++) {
        struct ds_param p;

        ds_model_param(&args.state.shape, i, &p);
        init_tensor(&weight[i], "", p.name, (unsigned)p.shape[0],
                    p.ndim == 2 ? (unsigned)p.shape[1] : 0, first);
    }
    args.weights = weight;
    cr_assert(ds_ckpt_save(&args, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < args.n_weights; i++)
        free(weight[i].data);
    set_release(&set);
    return run.text;
}

#define must_say(text, what) cr_assert(strstr(text, what) != NULL, "'%s' not in '%s'", what, text)

Test(cmd, ls_shows_whole_and_damaged)
{
    const char *run = save_model(1, 1.0f);
    struct ds_cli json = {.json = true};
    json_t *rows;

    (void)save_model(20, 1.0f);
    cr_assert(truncate(at(run, "checkpoints/step-00000001/manifest.json"), 9) == 0);
    cr_assert(ckpt(plain, "ckpt ls", run, NULL) == 0);
    must_say(out, "STEP          SIZE  PARTS  RANKS  STAGE  SHARDS  TENSOR  SEQ  PIPE  EXPERT  "
                  "STATE\n        20      ");
    must_say(out,
             " KiB      2      1      3       2       2    1     4       1  whole\n         1   "
             "          -      -      -      -       -       -    -     -       -  damaged: ");
    must_say(out, "manifest.json': cut off after 9 bytes\n");
    cr_assert(errors[0] == '\0');
    cr_assert(ckpt(json, "ckpt ls", run, NULL) == 0);
    rows = ds_json_parse(out, strlen(out), NULL);
    cr_assert(rows != NULL && json_array_size(rows) == 2);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "step")) == 20);
    cr_assert(json_is_true(json_object_get(json_array_get(rows, 0), "whole")));
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "parts")) == 2);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "shard_ranks")) == 2);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "tensor_ranks")) == 2);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "sequence_ranks")) == 1);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "pipeline_ranks")) == 4);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "expert_ranks")) == 1);
    cr_assert(json_is_false(json_object_get(json_array_get(rows, 1), "whole")));
    cr_assert(json_is_string(json_object_get(json_array_get(rows, 1), "error")));
    json_decref(rows);
}

Test(cmd, ls_says_the_same_of_shards_in_text_and_json)
{
    const char *run;
    json_t *rows;

    stage = shards = 0; /* as a run without ZeRO writes it */
    tensor = 0;         /* as one did before it was kept */
    run = save_model(5, 1.0f);
    cr_assert(ckpt(plain, "ckpt ls", run, NULL) == 0);
    must_say(out, "      0       1       -    -     -       -  whole\n");
    cr_assert(ckpt((struct ds_cli){.json = true}, "ckpt ls", run, NULL) == 0);
    rows = ds_json_parse(out, strlen(out), NULL);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "stage")) == 0);
    cr_assert(json_integer_value(json_object_get(json_array_get(rows, 0), "shard_ranks")) == 1);
    cr_assert(json_object_get(json_array_get(rows, 0), "tensor_ranks") == NULL);
    json_decref(rows);
}

Test(cmd, ls_of_nothing)
{
    cr_assert(mkdir(tempdir_path("empty"), 0755) == 0);
    cr_assert(ckpt(plain, "ckpt ls", tempdir_path("empty"), NULL) == 0);
    must_say(out, "no checkpoints in '");
    cr_assert(ckpt((struct ds_cli){.json = true}, "ckpt ls", tempdir_path("empty"), NULL) == 0);
    cr_assert(strcmp(out, "[]\n") == 0, "%s", out);
    cr_assert(ckpt(plain, "ckpt ls", tempdir_path("none"), NULL) == 2);
    must_say(errors, "there is no run directory '");
}

Test(cmd, verify_reads_every_byte)
{
    const char *run = save_model(1, 1.0f);
    const char *file = at(run, "checkpoints/step-00000001/optim-00001-of-00001.safetensors");
    struct ds_buf bytes = slurp(file);

    cr_assert(ckpt(plain, "ckpt verify", run, NULL) == 0);
    must_say(out, "step-00000001' is whole: step 1, 26 tensors, ");
    cr_assert(ckpt((struct ds_cli){.quiet = true}, "ckpt verify", run, NULL) == 0 &&
              out[0] == '\0');
    cr_assert(ckpt((struct ds_cli){.json = true}, "ckpt verify", run, NULL) == 0);
    must_say(out, "step-00000001\",\"whole\":true,\"step\":1,\"bytes\":");
    must_say(out, "\"tensors\":26,");
    bytes.data[bytes.len - 1] ^= 1;
    spill(file, bytes.data, bytes.len);
    cr_assert(ckpt(plain, "ckpt verify", run, NULL) == 65);
    must_say(errors, "damaged: file 'optim-00001-of-00001.safetensors', tensor '");
    cr_assert(ckpt((struct ds_cli){.json = true}, "ckpt verify", run, NULL) == 65);
    must_say(out, "\"whole\":false,\"step\":1,");
    must_say(out, "\"error\":\"");
    must_say(errors, "damaged: file 'optim-00001-of-00001.safetensors', tensor '");
    cr_assert(ckpt(plain, "ckpt verify", tempdir_path("none"), NULL) == 2);
    must_say(errors, "there is no checkpoint or run directory '");
    ds_buf_release(&bytes);
}

Test(cmd, export_and_import)
{
    const char *run = save_model(3, 2.0f);
    const struct path hf = held("hf"), half = held("half"), again = held("again");
    struct ds_cli bf16 = {.dtype = "bf16"};

    cr_assert(ckpt(plain, "ckpt export", run, hf.text) == 0, "%s", errors);
    must_say(out, "exported '");
    cr_assert(exists(at(hf.text, "config.json")) && exists(at(hf.text, "model.safetensors")));
    cr_assert(ckpt(plain, "ckpt export", run, hf.text) == 2);
    must_say(errors, "is not empty, name a new one");
    cr_assert(ckpt(bf16, "ckpt export", run, half.text) == 0, "%s", errors);
    cr_assert(ckpt((struct ds_cli){.dtype = "fp8"}, "ckpt export", run, half.text) == 2);
    must_say(errors, "must be fp32 or bf16");
    cr_assert(ckpt(plain, "ckpt export", tempdir_path("none"), tempdir_path("x")) == 2);
    cr_assert(ckpt(plain, "ckpt import", hf.text, again.text) == 0, "%s", errors);
    must_say(out, "step 0");
    cr_assert(ckpt(plain, "ckpt import", tempdir_path("none"), tempdir_path("x")) == 2);
    spill(at(hf.text, "config.json"), "{", 1);
    cr_assert(ckpt(plain, "ckpt import", hf.text, tempdir_path("x")) == 65);
    must_say(errors, "config.json'");
    cr_assert(!exists(tempdir_path("x")));
}

Test(cmd, diff_names_what_differs_most_first)
{
    const struct path hf = held("hf"), a = held("a"), b = held("b");
    struct ds_cli bf16 = {.dtype = "bf16"};
    const char *run = save_model(3, 2.0f);
    struct ds_ckpt_diff diff;
    json_t *rows;

    cr_assert(ckpt(plain, "ckpt diff", run, run) == 0);
    must_say(out, "26 tensors compared, 0 differ");
    cr_assert(ckpt(plain, "ckpt export", run, hf.text) == 0);
    cr_assert(ckpt(plain, "ckpt import", hf.text, a.text) == 0);
    remove_dir(hf.text);
    cr_assert(ckpt(bf16, "ckpt export", run, hf.text) == 0);
    cr_assert(ckpt(plain, "ckpt import", hf.text, b.text) == 0);
    cr_assert(ckpt(plain, "ckpt diff", a.text, b.text) == 1);
    must_say(out, "RELATIVE");
    cr_assert(ds_ckpt_diff(a.text, b.text, &diff, NULL) == 0 && diff.count > 1);
    for (size_t i = 0; i < diff.count; i++) {
        cr_assert(diff.entry[i].how == DS_DIFF_VALUES && diff.entry[i].relative > 0.0);
        cr_assert(diff.entry[i].relative < 0.004 && diff.entry[i].elems > 0);
        cr_assert(i == 0 || diff.entry[i - 1].relative >= diff.entry[i].relative);
    }
    ds_ckpt_diff_release(&diff);
    cr_assert(ckpt(plain, "ckpt diff", run, a.text) == 1);
    must_say(out, "exp_avg.h.0.b: only in the first");
    cr_assert(ckpt((struct ds_cli){.json = true}, "ckpt diff", a.text, run) == 1);
    rows = ds_json_parse(out, strlen(out), NULL);
    cr_assert(rows != NULL && json_array_size(rows) == 10, "%s", out);
    must_say(out, "\"only in the second\"");
    json_decref(rows);
    cr_assert(ckpt(plain, "ckpt diff", run, tempdir_path("none")) == 2);
    vocab = 9;
    (void)save_model(4, 2.0f);
    cr_assert(ckpt(plain, "ckpt diff", at(run, "checkpoints/step-00000003"), run) == 1);
    must_say(out, "transformer.wte.weight: other shape or type\n25 tensors compared, 1 differ");
}

/* The code of a command whose output goes to a full disk. */
static int lost(const char *command, const char *first, const char *second)
{
    const char *words[] = {first, second};
    struct ds_cli cli = {.command = command, .arg = words, .args = second != NULL ? 2 : 1};
    int was = dup(STDOUT_FILENO), full = open("/dev/full", O_WRONLY | O_CLOEXEC), code;

    cr_assert(was >= 0 && full >= 0);
    (void)fflush(stdout);
    cr_assert(dup2(full, STDOUT_FILENO) == STDOUT_FILENO);
    code = ds_cmd_ckpt(&cli);
    cr_assert(dup2(was, STDOUT_FILENO) == STDOUT_FILENO);
    (void)close(was);
    (void)close(full);
    return code;
}

Test(cmd, output_that_is_lost_is_a_failure)
{
    cr_assert(lost("ckpt verify", save_model(1, 1.0f), NULL) == 1);
}

/* 1 is an answer of diff, so what goes wrong is not. */
Test(cmd, diff_says_1_of_differences_alone)
{
    const char *run = save_model(1, 1.0f);
    const char *manifest = at(run, "checkpoints/step-00000001/manifest.json");

    cr_assert(lost("ckpt diff", run, run) == 2);
    cr_assert(remove(manifest) == 0 && mkdir(manifest, 0700) == 0);
    cr_assert(ckpt(plain, "ckpt verify", run, NULL) != 0);
    cr_assert(ckpt(plain, "ckpt diff", run, run) != 1);
    cr_assert(rmdir(manifest) == 0 && symlink(manifest, manifest) == 0);
    cr_assert(ckpt(plain, "ckpt verify", run, NULL) == 1);
    cr_assert(ckpt(plain, "ckpt diff", run, run) == 2);
    must_say(errors, "manifest.json");
}

Test(cmd, words_that_are_no_command)
{
    cr_assert(ckpt(plain, "ckpt burn", "x", NULL) == 2);
    must_say(errors, "'ckpt burn' with 1 words is not a command");
    cr_assert(ckpt(plain, "ckpt ls", "x", "y") == 2);
}
