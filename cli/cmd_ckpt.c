/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_ckpt.c - dsrun ckpt: list, verify, export, import and compare checkpoints.
 *
 * `ls` and the sizes it prints come from the manifests; reading every byte is what `verify` does.
 *
 * Tests   tests/ckpt/test_cmd.c
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/of_run.h"
#include "cli/size.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/inspect.h"
#include "runtime/text/tokenizer.h"

/* A folder that is in the way is a mistake on the command line. */
static int fail(const struct ds_error *err, int rc)
{
    ds_log(DS_LOG_ERROR, "%s", ds_error_text(err, rc));
    return rc == -EEXIST ? DS_EXIT_USAGE : ds_exit_from_errno(rc);
}

/* Output that was lost (a full disk, say) is a failure of the command. */
static int finish(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    ds_log(DS_LOG_ERROR, "cannot write to standard output: %s", strerror(errno));
    return DS_EXIT_FAILURE;
}

static int print_json(struct ds_buf *text, int code)
{
    if (text->failed) {
        ds_log(DS_LOG_ERROR, "out of memory");
        code = DS_EXIT_FAILURE;
    } else {
        (void)printf("%s\n", ds_buf_text(text));
    }
    ds_buf_release(text);
    return finish(code);
}

/* --- ls ------------------------------------------------------------------------------------- */

struct row {
    const struct ds_ckpt_entry *entry;
    struct ds_ckpt_info info;
    struct ds_error err;
    bool whole;
};

static int inspect_row(const char *run_dir, const struct ds_ckpt_entry *entry, struct row *row)
{
    char root[DS_MAX_PATH], path[DS_MAX_PATH];
    int rc;

    memset(row, 0, sizeof(*row));
    row->entry = entry;
    if ((rc = ds_path_join(root, run_dir, "checkpoints", &row->err)) < 0 ||
        (rc = ds_path_join(path, root, entry->name, &row->err)) < 0)
        return rc;
    row->whole = ds_ckpt_inspect(path, &row->info, &row->err) == 0;
    return 0;
}

/* Ranks among which a tensor is divided: without ZeRO each has all of it. */
static unsigned shards_of(const struct ds_ckpt_info *info)
{
    return info->state.shard_ranks > 0 ? info->state.shard_ranks : 1;
}

/* What else ranks divide; of what is older than these numbers none is known. */
static void put_divided(const struct ds_ckpt_state *state, char out[64])
{
    if (state->tensor_ranks == 0)
        (void)snprintf(out, 64, "%6s  %3s  %4s  %6s", "-", "-", "-", "-");
    else
        (void)snprintf(out, 64, "%6u  %3u  %4u  %6u", state->tensor_ranks, state->sequence_ranks,
                       state->pipeline_ranks, state->expert_ranks);
}

static void print_row(const struct row *row)
{
    char size[DS_SIZE_TEXT], divided[64], why[2 * DS_MAX_ERROR_TEXT];
    const struct ds_ckpt_state *state = &row->info.state;

    if (row->whole) {
        put_divided(state, divided);
        (void)printf("%10ju  %12s  %5zu  %5u  %5u  %6u  %s  whole\n", (uintmax_t)row->entry->step,
                     ds_size_text(row->info.bytes, size), row->info.parts, state->world,
                     state->stage, shards_of(&row->info), divided);
        return;
    }
    (void)ds_escape_control(why, sizeof(why), row->err.text, strlen(row->err.text));
    (void)printf("%10ju  %12s  %5s  %5s  %5s  %6s  %6s  %3s  %4s  %6s  damaged: %s\n",
                 (uintmax_t)row->entry->step, "-", "-", "-", "-", "-", "-", "-", "-", "-", why);
}

static void put_info(struct ds_json *json, const struct ds_ckpt_info *info)
{
    ds_json_u64(json, "bytes", info->bytes);
    ds_json_u64(json, "parts", info->parts);
    ds_json_u64(json, "world", info->state.world);
    ds_json_u64(json, "stage", info->state.stage);
    ds_json_u64(json, "shard_ranks", shards_of(info));
    if (info->state.tensor_ranks > 0) {
        ds_json_u64(json, "tensor_ranks", info->state.tensor_ranks);
        ds_json_u64(json, "sequence_ranks", info->state.sequence_ranks);
        ds_json_u64(json, "pipeline_ranks", info->state.pipeline_ranks);
        ds_json_u64(json, "expert_ranks", info->state.expert_ranks);
    }
    ds_json_u64(json, "tensors", info->tensors);
    ds_json_u64(json, "tokens", info->state.tokens);
}

static void put_row(struct ds_json *json, const struct row *row)
{
    ds_json_object(json, NULL);
    ds_json_u64(json, "step", row->entry->step);
    ds_json_string(json, "name", row->entry->name);
    ds_json_bool(json, "whole", row->whole);
    if (row->whole) {
        put_info(json, &row->info);
    } else {
        ds_json_string(json, "error", row->err.text);
    }
    ds_json_end_object(json);
}

static void print_none(const char *path)
{
    struct ds_ckpt_info info;

    if (ds_ckpt_inspect(path, &info, NULL) == 0)
        (void)printf(
            "'%s' is a checkpoint itself, of step %ju: look at it with 'dsrun ckpt verify'\n", path,
            (uintmax_t)info.state.step);
    else
        (void)printf("no checkpoints in '%s'\n", path);
}

static int list(const struct ds_cli *cli)
{
    struct ds_error err = {0};
    struct ds_ckpt_list found;
    struct ds_buf text;
    struct ds_json json;
    int rc = ds_ckpt_list(cli->arg[0], &found, &err);

    if (rc < 0)
        return fail(&err, rc);
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    ds_json_init(&json, &text);
    ds_json_array(&json, NULL);
    if (!cli->json && found.count > 0)
        (void)printf("%10s  %12s  %5s  %5s  %5s  %6s  %6s  %3s  %4s  %6s  %s\n", "STEP", "SIZE",
                     "PARTS", "RANKS", "STAGE", "SHARDS", "TENSOR", "SEQ", "PIPE", "EXPERT",
                     "STATE");
    for (size_t i = 0; rc == 0 && i < found.count; i++) {
        struct row row;

        rc = inspect_row(cli->arg[0], &found.entry[i], &row);
        if (rc < 0)
            err = row.err;
        else if (cli->json)
            put_row(&json, &row);
        else
            print_row(&row);
    }
    ds_json_end_array(&json);
    if (!cli->json && !cli->quiet && found.count == 0)
        print_none(cli->arg[0]);
    ds_ckpt_list_release(&found);
    if (rc == 0 && cli->json)
        return print_json(&text, DS_EXIT_OK);
    ds_buf_release(&text);
    return rc < 0 ? fail(&err, rc) : finish(DS_EXIT_OK);
}

/* --- verify, export, import ----------------------------------------------------------------- */

/* An object, whole or not; what is wrong with it is logged as well. */
static int verified_json(const char *path, const struct ds_ckpt_info *info,
                         const struct ds_error *err, int rc)
{
    struct ds_buf text;
    struct ds_json json;

    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    ds_json_init(&json, &text);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "path", path);
    ds_json_bool(&json, "whole", rc == 0);
    if (info != NULL) {
        ds_json_u64(&json, "step", info->state.step);
        put_info(&json, info);
    }
    if (rc < 0)
        ds_json_string(&json, "error", ds_error_text(err, rc));
    ds_json_end_object(&json);
    return print_json(&text, rc < 0 ? fail(err, rc) : DS_EXIT_OK);
}

static int verify(const struct ds_cli *cli)
{
    char path[DS_MAX_PATH], size[DS_SIZE_TEXT];
    struct ds_ckpt_info info;
    struct ds_error err = {0};
    bool known = false;
    int rc = ds_ckpt_resolve(cli->arg[0], path, &err);

    if (rc < 0)
        return fail(&err, rc);
    rc = ds_ckpt_inspect(path, &info, &err);
    known = rc == 0;
    if (rc == 0)
        rc = ds_ckpt_verify(path, &err);
    if (cli->json)
        return verified_json(path, known ? &info : NULL, &err, rc);
    if (rc < 0)
        return fail(&err, rc);
    if (!cli->quiet)
        (void)printf("'%s' is whole: step %ju, %zu tensors, %s\n", path, (uintmax_t)info.state.step,
                     info.tensors, ds_size_text(info.bytes, size));
    return finish(DS_EXIT_OK);
}

static int64_t id_of(uint32_t token)
{
    return token == DS_NO_TOKEN ? -1 : (int64_t)token;
}

/* The tokenizer of the run that the checkpoint is of, and its ids with a meaning.  A checkpoint
 * need not lie in a run directory, and a job need not have a tokenizer: then `text` is empty. */
static void read_tokenizer(const char *ckpt, struct ds_hf_tokens *tokens, struct ds_buf *text)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    struct ds_of_run run;
    int rc = ds_cli_of_run(ckpt, &run, &err);

    *tokens = (struct ds_hf_tokens){-1, -1, -1};
    if (rc == 0 && run.tokenizer[0] == '\0')
        return;
    if (rc == 0)
        rc = ds_fs_read(run.tokenizer, DS_MAX_JSON_BYTES, text, &err);
    if (rc == 0)
        rc = ds_tokenizer_parse(&tokenizer, text->data, text->len, &err);
    if (rc == 0)
        *tokens = (struct ds_hf_tokens){.begin = id_of(ds_tokenizer_begin(tokenizer)),
                                        .end = id_of(ds_tokenizer_separator(tokenizer)),
                                        .pad = id_of(ds_tokenizer_pad(tokenizer))};
    else
        ds_buf_reset(text);
    ds_tokenizer_free(tokenizer);
    if (rc != 0)
        ds_log(DS_LOG_WARNING, "tokenizer.json is left out: %s", ds_error_text(&err, rc));
}

/* The weights first, whose folder must be empty. */
static int export_all(const struct ds_cli *cli, const char *ckpt, enum ds_dtype dtype,
                      struct ds_error *err)
{
    const char *out_dir = cli->arg[1];
    struct ds_hf_tokens tokens;
    char to[DS_MAX_PATH];
    struct ds_buf text;
    int rc;

    if (cli->adapters)
        return ds_hf_export_adapters(ckpt, out_dir, dtype, err);
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    read_tokenizer(ckpt, &tokens, &text);
    rc = ds_hf_export(ckpt, out_dir, dtype, &tokens, cli->base, err);
    if (rc == 0 && text.len > 0) {
        rc = ds_path_join(to, out_dir, "tokenizer.json", err);
        if (rc == 0)
            rc = ds_fs_replace(to, text.data, text.len, err);
    }
    ds_buf_release(&text);
    return rc;
}

static int export(const struct ds_cli *cli)
{
    enum ds_dtype dtype = DS_F32;
    char path[DS_MAX_PATH];
    struct ds_error err = {0};
    int rc;

    if (cli->adapters && cli->base != NULL) {
        ds_log(DS_LOG_ERROR, "'--adapters' writes nothing of the base; leave out '--base'");
        return DS_EXIT_USAGE;
    }
    if (cli->dtype != NULL && strcmp(cli->dtype, "bf16") == 0) {
        dtype = DS_BF16;
    } else if (cli->dtype != NULL && strcmp(cli->dtype, "fp32") != 0) {
        ds_log(DS_LOG_ERROR, "'--dtype' is '%s', must be fp32 or bf16", cli->dtype);
        return DS_EXIT_USAGE;
    }
    if ((rc = ds_ckpt_resolve(cli->arg[0], path, &err)) < 0 ||
        (rc = export_all(cli, path, dtype, &err)) < 0)
        return fail(&err, rc);
    if (!cli->quiet)
        (void)printf("exported '%s' to '%s'\n", path, cli->arg[1]);
    return finish(DS_EXIT_OK);
}

static int import(const struct ds_cli *cli)
{
    struct ds_error err = {0};
    int rc = ds_hf_import(cli->arg[0], cli->arg[1], &err);

    if (rc < 0)
        return fail(&err, rc);
    if (!cli->quiet)
        (void)printf("imported '%s' as checkpoint '%s', step 0\n", cli->arg[0], cli->arg[1]);
    return finish(DS_EXIT_OK);
}

/* --- diff ----------------------------------------------------------------------------------- */

static const char *const how_names[] = {
    [DS_DIFF_VALUES] = "values",
    [DS_DIFF_SHAPE] = "other shape or type",
    [DS_DIFF_ONLY_A] = "only in the first",
    [DS_DIFF_ONLY_B] = "only in the second",
};

static void print_difference(const struct ds_ckpt_diff_entry *entry)
{
    char name[4 * DS_MAX_TENSOR_NAME + 1];

    (void)ds_escape_control(name, sizeof(name), entry->name, strlen(entry->name));
    if (entry->how == DS_DIFF_VALUES)
        (void)printf("%12.6g  %12.6g  %12ju  %s\n", entry->relative, entry->largest,
                     (uintmax_t)entry->elems, name);
    else
        (void)printf("%12s  %12s  %12s  %s: %s\n", "-", "-", "-", name, how_names[entry->how]);
}

static void put_difference(struct ds_json *json, const struct ds_ckpt_diff_entry *entry)
{
    ds_json_object(json, NULL);
    ds_json_string(json, "name", entry->name);
    ds_json_string(json, "difference", how_names[entry->how]);
    if (entry->how == DS_DIFF_VALUES) {
        ds_json_f64(json, "relative", entry->relative, 17);
        ds_json_f64(json, "largest", entry->largest, 17);
        ds_json_u64(json, "elements", entry->elems);
    }
    ds_json_end_object(json);
}

static int show_diff(const struct ds_cli *cli, const struct ds_ckpt_diff *diff)
{
    struct ds_buf text;
    struct ds_json json;

    if (cli->json) {
        ds_buf_init(&text, DS_MAX_JSON_BYTES);
        ds_json_init(&json, &text);
        ds_json_array(&json, NULL);
        for (size_t i = 0; i < diff->count; i++)
            put_difference(&json, &diff->entry[i]);
        ds_json_end_array(&json);
        return print_json(&text, DS_EXIT_OK);
    }
    if (diff->count > 0 && !cli->quiet)
        (void)printf("%12s  %12s  %12s  %s\n", "RELATIVE", "LARGEST", "ELEMENTS", "TENSOR");
    for (size_t i = 0; i < diff->count && !cli->quiet; i++)
        print_difference(&diff->entry[i]);
    if (!cli->quiet)
        (void)printf("%zu tensors compared, %zu differ\n", diff->compared, diff->count);
    return finish(DS_EXIT_OK);
}

/* As diff(1) has it: 1 says that they differ and nothing else. */
static int trouble(int code)
{
    return code == DS_EXIT_FAILURE ? DS_EXIT_USAGE : code;
}

static int compare(const struct ds_cli *cli)
{
    char a[DS_MAX_PATH], b[DS_MAX_PATH];
    struct ds_ckpt_diff diff;
    struct ds_error err = {0};
    int rc, code;

    if ((rc = ds_ckpt_resolve(cli->arg[0], a, &err)) < 0 ||
        (rc = ds_ckpt_resolve(cli->arg[1], b, &err)) < 0 ||
        (rc = ds_ckpt_diff(a, b, &diff, &err)) < 0)
        return trouble(fail(&err, rc));
    code = trouble(show_diff(cli, &diff));
    if (code == DS_EXIT_OK && diff.count > 0)
        code = DS_EXIT_FAILURE;
    ds_ckpt_diff_release(&diff);
    return code;
}

int ds_cmd_ckpt(const struct ds_cli *cli)
{
    static const struct {
        const char *name;
        size_t words;
        int (*run)(const struct ds_cli *cli);
    } commands[] = {
        {"ckpt ls", 1, list},       {"ckpt verify", 1, verify}, {"ckpt export", 2, export},
        {"ckpt import", 2, import}, {"ckpt diff", 2, compare},
    };

    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(cli->command, commands[i].name) == 0 && cli->args == commands[i].words)
            return commands[i].run(cli);
    ds_log(DS_LOG_ERROR, "'%s' with %zu words is not a command", cli->command, cli->args);
    return DS_EXIT_USAGE;
}
