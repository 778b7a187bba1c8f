/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_generate.c - dsrun generate: sample text from a checkpoint.
 *
 * Text is this side's: the prompt becomes ids here, and ids text.  The model is the worker's,
 * which is asked once and tells every id as it is made.
 *
 * Tests   tests/e2e/generate.py
 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cli/generator.h"
#include "cli/of_run.h"
#include "cli/text_out.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/text/tokenizer.h"

enum { MAX_PROMPT = 64 << 20, MAX_TOKENS = 128, BYTE_IDS = 256 };

struct generate {
    const struct ds_cli *cli;
    struct ds_ckpt_state state;
    struct ds_tokenizer *tokenizer; /* NULL: bytes are ids */
    struct ds_buf prompt;
    struct ds_generate_request request;
    struct ds_generator worker;
    struct ds_text_out text; /* of the sample */
    struct ds_ids tokens;    /* of the sample */
    uint64_t sample, made, ns, prompt_ns, weights;
    const char *ended; /* what the last sample did for */
    bool begins;       /* the next token is the first of a text */
};

/* --- the tokenizer --------------------------------------------------------------------------- */

static int choose_tokenizer(struct generate *g, const struct ds_of_run *run, struct ds_error *err)
{
    const char *path = g->cli->tokenizer != NULL ? g->cli->tokenizer : run->tokenizer;

    if (path[0] != '\0')
        return ds_tokenizer_load(&g->tokenizer, path, err);
    if (g->state.shape.vocab > BYTE_IDS)
        return ds_fail(err, EDOM,
                       "the model has %" PRIu64 " ids, more than bytes, and no tokenizer is known; "
                       "name its tokenizer.json with '--tokenizer'",
                       g->state.shape.vocab);
    return 0;
}

/* The ids that may be given: those that mean something. */
static uint64_t ids_that_mean(const struct generate *g)
{
    uint64_t known = g->tokenizer == NULL ? BYTE_IDS : ds_tokenizer_size(g->tokenizer);

    return known < g->state.shape.vocab ? known : g->state.shape.vocab;
}

static int choose_end(struct generate *g, struct ds_error *err)
{
    const char *name = g->cli->eot == NULL ? "auto" : g->cli->eot;
    uint32_t id = DS_NO_TOKEN;

    g->request.end = DS_NO_END;
    if (strcmp(name, "none") == 0)
        return 0;
    if (strcmp(name, "auto") == 0 && g->tokenizer != NULL)
        id = ds_tokenizer_separator(g->tokenizer);
    else if (strcmp(name, "auto") != 0 && g->tokenizer == NULL)
        return ds_fail(err, EDOM, "'--eot': the ids of this model are bytes, none ends a text");
    else if (g->tokenizer != NULL && (id = ds_tokenizer_find(g->tokenizer, name)) == DS_NO_TOKEN)
        return ds_fail(err, EDOM, "'--eot': the tokenizer has no token '%s'", name);
    if (id != DS_NO_TOKEN)
        g->request.end = id;
    return 0;
}

/* --- the prompt ------------------------------------------------------------------------------ */

static int read_stdin(struct ds_buf *out, struct ds_error *err)
{
    ssize_t got = 1;

    while (got > 0) {
        char *to = ds_buf_reserve(out, 1 << 16);

        if (to == NULL)
            return ds_fail(err, EINVAL, "the prompt has more than %d bytes", MAX_PROMPT);
        got = read(STDIN_FILENO, to, 1 << 16);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got < 0)
            return ds_fail(err, errno, "cannot read standard input: %s", strerror(errno));
        else
            ds_buf_commit(out, (size_t)got);
    }
    return 0;
}

/* Of a file and of standard input the newline at the end is the editor's or echo's. */
static int read_prompt(struct generate *g, struct ds_error *err)
{
    struct ds_buf *p = &g->prompt;
    int rc;

    if (g->cli->prompt != NULL)
        return ds_buf_puts(p, g->cli->prompt);
    if (g->cli->prompt_file == NULL && isatty(STDIN_FILENO) != 0 && !g->cli->quiet)
        (void)fputs("dsrun: type the prompt, and Ctrl-D on a line of its own\n", stderr);
    rc = g->cli->prompt_file != NULL ? ds_fs_read(g->cli->prompt_file, MAX_PROMPT, p, err)
                                     : read_stdin(p, err);
    if (rc == 0 && p->len > 0 && p->data[p->len - 1] == '\n')
        p->data[--p->len] = '\0';
    return rc;
}

static int encode_text(struct generate *g, struct ds_ids *ids, struct ds_error *err)
{
    const struct ds_encode_args args = {
        .text = ds_buf_text(&g->prompt), .len = g->prompt.len, .end = g->prompt.len};
    struct ds_encoder *encoder = NULL;
    size_t valid = ds_utf8_valid(args.text, args.len);
    int rc;

    if (valid < args.len)
        return ds_fail(err, EINVAL, "byte %zu of the prompt begins no character of UTF-8", valid);
    rc = ds_encoder_new(&encoder, g->tokenizer, err);
    if (rc == 0)
        rc = ds_error_context(err, ds_encode(encoder, &args, ids, err), "the prompt");
    if (rc == 0 && ds_encoder_dropped(encoder) > 0)
        rc = ds_fail(err, EINVAL,
                     "%" PRIu64 " characters of the prompt have no token; leave them out",
                     ds_encoder_dropped(encoder));
    ds_encoder_free(encoder);
    return rc;
}

static int encode_bytes(const struct generate *g, struct ds_ids *ids, struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < g->prompt.len; i++)
        rc = ds_ids_put(ids, (unsigned char)g->prompt.data[i]);
    return rc == 0 ? 0 : ds_fail(err, ENOMEM, "no memory for a prompt of %zu bytes", g->prompt.len);
}

/* A text without a beginning begins behind the end of another. */
static int begin_empty(struct generate *g, struct ds_ids *ids, struct ds_error *err)
{
    uint32_t id = g->tokenizer == NULL ? DS_NO_TOKEN : ds_tokenizer_separator(g->tokenizer);

    g->begins = true;
    if (id != DS_NO_TOKEN)
        return ds_ids_put(ids, id) == 0 ? 0 : ds_fail(err, ENOMEM, "out of memory");
    return ds_fail(err, EDOM,
                   "the prompt is empty, and there is no token that a text begins behind; give at "
                   "least one character");
}

static int encode_prompt(struct generate *g, struct ds_error *err)
{
    struct ds_ids ids = {0};
    int rc = g->tokenizer == NULL ? encode_bytes(g, &ids, err) : encode_text(g, &ids, err);

    if (rc == 0 && ids.count == 0)
        rc = begin_empty(g, &ids, err);
    for (size_t i = 0; rc == 0 && i < ids.count; i++)
        if (ids.id[i] >= g->state.shape.vocab)
            rc = ds_fail(
                err, EINVAL,
                "token %zu of the prompt has the id %u, and the model has ids up to %" PRIu64
                "; it was trained with another tokenizer",
                i, ids.id[i], g->state.shape.vocab - 1);
    if (rc == 0 && ids.count > g->state.shape.context)
        rc =
            ds_fail(err, EDOM,
                    "the prompt has %zu tokens, and the model's context is %" PRIu64 "; shorten it",
                    ids.count, g->state.shape.context);
    if (rc == 0)
        g->request.prompt = calloc(ids.count, sizeof(*g->request.prompt));
    if (rc == 0 && g->request.prompt == NULL)
        rc = ds_fail(err, ENOMEM, "no memory for a prompt of %zu tokens", ids.count);
    for (size_t i = 0; rc == 0 && i < ids.count; i++)
        g->request.prompt[i] = (int32_t)ids.id[i];
    g->request.prompt_ids = ids.count;
    ds_ids_release(&ids);
    return rc;
}

/* --- what is printed ------------------------------------------------------------------------- */

/* Output that was lost (a full disk, say) is a failure of the command. */
static int flush_out(struct ds_error *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    return ds_fail(err, EIO, "cannot write to standard output: %s", strerror(errno));
}

static int print_ready(struct generate *g, struct ds_error *err)
{
    struct ds_buf *ready = &g->text.ready;

    if (!g->cli->json)
        (void)fwrite(ready->data, 1, ready->len, stdout);
    ds_buf_reset(ready);
    return g->cli->json ? 0 : flush_out(err);
}

/* The prompt before a sample, where that is wanted, escaped as the text behind it. */
static int print_prompt(struct generate *g, struct ds_error *err)
{
    struct ds_text_out prompt;
    int rc;

    if (!g->cli->echo || g->cli->json)
        return 0;
    ds_text_out_init(&prompt, NULL, g->text.terminal);
    rc = ds_text_out_put(&prompt, ds_buf_text(&g->prompt), g->prompt.len, err);
    if (rc == 0)
        rc = ds_text_out_end(&prompt, err);
    if (rc == 0)
        (void)fwrite(prompt.ready.data, 1, prompt.ready.len, stdout);
    ds_text_out_release(&prompt);
    return rc;
}

static int print_json(const struct generate *g, struct ds_error *err)
{
    struct ds_buf line;
    struct ds_json json;

    ds_buf_init(&line, DS_MAX_JSON_BYTES);
    ds_json_init(&json, &line);
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "sample", g->sample);
    ds_json_u64(&json, "seed", g->request.seed);
    ds_json_u64(&json, "step", g->state.step);
    ds_json_u64(&json, "prompt_tokens", g->request.prompt_ids);
    ds_json_array(&json, "tokens");
    for (size_t i = 0; i < g->tokens.count; i++)
        ds_json_u64(&json, NULL, g->tokens.id[i]);
    ds_json_end_array(&json);
    ds_json_bytes(&json, "text", ds_buf_text(&g->text.text), g->text.text.len);
    ds_json_string(&json, "ended", g->ended);
    ds_json_end_object(&json);
    if (!line.failed)
        (void)printf("%s\n", ds_buf_text(&line));
    else
        (void)ds_fail(err, ENOMEM, "no memory for the JSON of a sample");
    ds_buf_release(&line);
    return err->code != 0 ? err->code : flush_out(err);
}

/* Behind a text its line ends, and between two texts stands a line that is of none. */
static int print_end(const struct generate *g, struct ds_error *err)
{
    const struct ds_buf *text = &g->text.text;

    if (text->len == 0 || text->data[text->len - 1] != '\n')
        (void)putchar('\n');
    if (g->sample + 1 < g->request.count)
        (void)printf("--- sample %" PRIu64 "\n", g->sample + 1);
    return flush_out(err);
}

static void print_rates(const struct generate *g)
{
    double prompt_s = (double)g->prompt_ns / 1e9, s = (double)g->ns / 1e9;
    double rate = s > 0.0 ? (double)g->made / s : 0.0;

    (void)fprintf(stderr,
                  "dsrun: prompt of %zu tokens in %.2f s, %.0f tokens/s; %" PRIu64
                  " tokens in %.2f s, %.1f tokens/s, %.1f GB/s of parameters; ended by %s\n",
                  g->request.prompt_ids, prompt_s,
                  prompt_s > 0.0 ? (double)g->request.prompt_ids / prompt_s : 0.0, g->made, s, rate,
                  rate * (double)g->weights / 1e9, g->ended);
}

/* --- samples --------------------------------------------------------------------------------- */

static int take_token(struct generate *g, uint32_t id, struct ds_error *err)
{
    struct ds_buf bytes;
    char byte = (char)id;
    int rc;

    if (g->text.stopped)
        return 0; /* made before the worker heard that it is enough */
    if (ds_ids_put(&g->tokens, id) != 0)
        return ds_fail(err, ENOMEM, "no memory for %zu tokens", g->tokens.count);
    ds_buf_init(&bytes, 2 * BYTE_IDS * BYTE_IDS);
    if (g->tokenizer == NULL)
        (void)ds_buf_put(&bytes, &byte, 1);
    else
        ds_decode(g->tokenizer, &id, 1, g->begins && g->tokens.count == 1, &bytes);
    rc = bytes.failed ? ds_fail(err, ENOMEM, "no memory for the text of token %u", id)
                      : ds_text_out_put(&g->text, bytes.data, bytes.len, err);
    ds_buf_release(&bytes);
    if (rc == 0 && g->text.stopped)
        ds_generator_enough(&g->worker, (uint32_t)g->sample);
    return rc != 0 ? rc : print_ready(g, err);
}

static int end_sample(struct generate *g, const struct ds_generate_event *event,
                      struct ds_error *err)
{
    static const char *const names[DS_END_COUNT] = {
#define X(id, name) [DS_END_##id] = (name),
        DS_GENERATE_ENDS(X)
#undef X
    };
    int rc = ds_text_out_end(&g->text, err);

    g->ended = names[g->text.stopped ? DS_END_STOP : event->value];
    g->made += g->tokens.count;
    g->ns += event->number;
    if (rc == 0)
        rc = print_ready(g, err);
    if (rc == 0)
        rc = g->cli->json ? print_json(g, err) : print_end(g, err);
    ds_text_out_reset(&g->text);
    g->tokens.count = 0;
    if (rc == 0 && ++g->sample < g->request.count)
        rc = print_prompt(g, err);
    return rc;
}

static int take_event(struct generate *g, const struct ds_generate_event *event,
                      struct ds_error *err)
{
    switch (event->kind) {
    case DS_GENERATED_LOADED: g->weights = event->number; return 0;
    case DS_GENERATED_PROMPT: g->prompt_ns = event->number; return print_prompt(g, err);
    case DS_GENERATED_TOKEN: return take_token(g, event->value, err);
    default: return end_sample(g, event, err);
    }
}

static int run(struct generate *g, int *code, struct ds_error *err)
{
    struct ds_generate_event event;
    bool there = true;
    int rc = ds_generator_start(&g->worker, &g->request, err);

    if (rc != 0)
        return rc;
    while (rc == 0 && there && g->sample < g->request.count) {
        rc = ds_generator_next(&g->worker, &event, &there, err);
        if (rc == 0 && there)
            rc = take_event(g, &event, err);
    }
    *code = ds_generator_end(&g->worker);
    return rc;
}

/* --- the command ----------------------------------------------------------------------------- */

static int choose_type(struct generate *g, const struct ds_of_run *run, struct ds_error *err)
{
    static const struct {
        const char *name;
        enum ds_dtype type;
    } types[] = {{"fp32", DS_F32}, {"bf16", DS_BF16}, {"fp16", DS_F16}};
    const char *name = g->cli->dtype != NULL ? g->cli->dtype : run->compute;

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(types[i].name, name) == 0) {
            g->request.type = types[i].type;
            return 0;
        }
    }
    return ds_fail(err, EINVAL, "the run computed in '%s', which is not known; give '--dtype'",
                   name);
}

static void fill_request(struct generate *g)
{
    const struct ds_cli *cli = g->cli;

    g->request.cuda = cli->device == DS_DEVICE_CUDA;
    g->request.threads = cli->threads;
    g->request.max_tokens = cli->max_tokens > 0 ? cli->max_tokens : MAX_TOKENS;
    g->request.top_k = cli->top_k;
    g->request.seed = cli->seed;
    g->request.count = cli->count < 0 ? 1 : (uint64_t)cli->count;
    g->request.ids = ids_that_mean(g);
    g->request.temperature = cli->temperature < 0 ? 1.0 : cli->temperature;
    g->request.top_p = cli->top_p < 0 ? 1.0 : cli->top_p;
}

static int prepare(struct generate *g, struct ds_error *err)
{
    struct ds_of_run run;
    int rc = ds_ckpt_resolve(g->cli->arg[0], g->request.ckpt, err);

    if (rc == 0)
        rc = ds_ckpt_peek(g->request.ckpt, &g->state, err);
    if (rc == 0)
        rc = ds_cli_of_run(g->request.ckpt, &run, err);
    if (rc == 0)
        rc = choose_type(g, &run, err);
    if (rc == 0)
        rc = choose_tokenizer(g, &run, err);
    if (rc == 0)
        rc = choose_end(g, err);
    if (rc == 0)
        rc = read_prompt(g, err);
    if (rc == 0)
        rc = encode_prompt(g, err);
    fill_request(g);
    return rc;
}

/* What the table of options does not say. */
static int check_options(const struct ds_cli *cli, struct ds_error *err)
{
    if (cli->prompt != NULL && cli->prompt_file != NULL)
        return ds_fail(err, EDOM, "'--prompt' and '--prompt-file' exclude each other; keep one");
    if (cli->echo && cli->json)
        return ds_fail(err, EDOM, "'--echo' and '--json' exclude each other; keep one");
    if (cli->count == 0)
        return ds_fail(err, EDOM, "'--count' must be at least 1");
    if (cli->top_p == 0.0)
        return ds_fail(err, EDOM, "'--top-p' must be more than 0; '--temperature 0' is greedy");
    return 0;
}

int ds_cmd_generate(const struct ds_cli *cli)
{
    struct generate g = {.cli = cli};
    struct ds_error err = {0};
    int code = DS_EXIT_OK, rc = check_options(cli, &err);

    ds_buf_init(&g.prompt, MAX_PROMPT);
    ds_text_out_init(&g.text, cli->stop, !cli->json && isatty(STDOUT_FILENO) != 0);
    if (rc == 0)
        rc = prepare(&g, &err);
    if (rc == 0)
        rc = run(&g, &code, &err);
    if (rc == 0 && code == DS_EXIT_OK && !cli->quiet)
        print_rates(&g);
    ds_buf_release(&g.prompt);
    ds_text_out_release(&g.text);
    ds_ids_release(&g.tokens);
    ds_generate_request_release(&g.request);
    ds_tokenizer_free(g.tokenizer);
    if (rc == 0)
        return code;
    ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return ds_exit_from_errno(rc);
}
