/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_generate.c - dsrun generate: sample text from a checkpoint.
 *
 * Text is this side's: prompts become ids here, and ids text.  The model is the worker's, which is
 * asked once and tells every id as it is made.  Samples are printed in their order, whatever order
 * they are made in.
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

#include "base/exit.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/generator.h"
#include "cli/of_run.h"
#include "cli/prompts.h"
#include "cli/text_out.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/text/tokenizer.h"

enum { MAX_TOKENS = 128, BYTE_IDS = 256 };

struct sample {
    struct ds_text_out text;
    struct ds_ids tokens;
    const char *ended; /* what it did for; NULL: it is still made */
};

struct generate {
    const struct ds_cli *cli;
    struct ds_ckpt_state state;
    struct ds_tokenizer *tokenizer; /* NULL: bytes are ids */
    struct ds_prompts prompts;
    struct ds_generate_request request;
    struct ds_generator worker;
    struct sample *open; /* [opens] in order, the first of which is shown as it is made */
    size_t opens, room;
    uint64_t first; /* its number */
    uint64_t made, reads, ns, prompt_ids, prompts_ns, weights;
    const char *ended; /* what the last sample did for */
    bool done;
};

static uint64_t samples_of(const struct generate *g)
{
    return g->request.prompts * g->request.count;
}

static const struct ds_generate_prompt *prompt_of(const struct generate *g, uint64_t sample)
{
    return &g->request.prompt[sample / g->request.count];
}

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

/* An answer ends as the form has it. */
static const char *usual_end(const struct generate *g)
{
    return g->cli->chat != NULL && g->tokenizer != NULL ? ds_chat_end(ds_chat_find(g->cli->chat))
                                                        : "auto";
}

static int choose_end(struct generate *g, struct ds_error *err)
{
    const char *name = g->cli->eot == NULL ? usual_end(g) : g->cli->eot;
    uint32_t id = DS_NO_TOKEN;

    g->request.end = DS_NO_END;
    if (strcmp(name, "none") == 0)
        return 0;
    if (strcmp(name, "auto") == 0 && g->tokenizer != NULL)
        id = ds_tokenizer_separator(g->tokenizer);
    else if (strcmp(name, "auto") != 0 && g->tokenizer == NULL)
        return ds_fail(err, EDOM, "'--eot': the ids of this model are bytes, none ends a text");
    else if (g->tokenizer != NULL && (id = ds_tokenizer_find(g->tokenizer, name)) == DS_NO_TOKEN &&
             g->cli->eot != NULL)
        return ds_fail(err, EDOM, "'--eot': the tokenizer has no token '%s'", name);
    if (id != DS_NO_TOKEN)
        g->request.end = id;
    return 0;
}

/* --- what is printed ------------------------------------------------------------------------- */

/* Output that was lost (a full disk, say) is a failure of the command. */
static int flush_out(struct ds_error *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    return ds_fail(err, EIO, "cannot write to standard output: %s", strerror(errno));
}

/* What may be shown of the first of those that are open. */
static int print_ready(struct generate *g, struct ds_error *err)
{
    struct ds_buf *ready = &g->open->text.ready;

    if (g->cli->json || ready->len == 0)
        return 0;
    (void)fwrite(ready->data, 1, ready->len, stdout);
    ds_buf_reset(ready);
    return flush_out(err);
}

/* The prompt before a sample, where that is wanted, escaped as the text behind it. */
static int print_prompt(struct generate *g, struct ds_error *err)
{
    struct ds_text_out prompt;
    int rc;

    if (!g->cli->echo || g->cli->json)
        return 0;
    ds_text_out_init(&prompt, NULL, g->open->text.terminal);
    rc = ds_text_out_put(&prompt, ds_buf_text(&g->prompts.text), g->prompts.text.len, err);
    if (rc == 0)
        rc = ds_text_out_end(&prompt, err);
    if (rc == 0)
        (void)fwrite(prompt.ready.data, 1, prompt.ready.len, stdout);
    ds_text_out_release(&prompt);
    return rc;
}

static int print_json(const struct generate *g, struct ds_error *err)
{
    const struct sample *sample = g->open;
    struct ds_buf line;
    struct ds_json json;

    ds_buf_init(&line, DS_MAX_JSON_BYTES);
    ds_json_init(&json, &line);
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "prompt", g->first / g->request.count);
    ds_json_u64(&json, "sample", g->first % g->request.count);
    ds_json_u64(&json, "seed", g->request.seed);
    ds_json_u64(&json, "step", g->state.step);
    ds_json_u64(&json, "prompt_tokens", prompt_of(g, g->first)->count);
    ds_json_array(&json, "tokens");
    for (size_t i = 0; i < sample->tokens.count; i++)
        ds_json_u64(&json, NULL, sample->tokens.id[i]);
    ds_json_end_array(&json);
    ds_json_bytes(&json, "text", ds_buf_text(&sample->text.text), sample->text.text.len);
    ds_json_string(&json, "ended", sample->ended);
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
    const struct ds_buf *text = &g->open->text.text;

    if (text->len == 0 || text->data[text->len - 1] != '\n')
        (void)putchar('\n');
    if (g->first + 1 < samples_of(g))
        (void)printf("--- sample %" PRIu64 "\n", g->first + 1);
    return flush_out(err);
}

static double per_second(uint64_t count, uint64_t ns)
{
    return ns > 0 ? (double)count * 1e9 / (double)ns : 0.0;
}

static void print_rates(const struct generate *g)
{
    const bool several = g->request.prompts > 1;

    if (several)
        (void)fprintf(stderr, "dsrun: %zu prompts", g->request.prompts);
    else
        (void)fputs("dsrun: prompt", stderr);
    (void)fprintf(stderr,
                  " of %" PRIu64 " tokens in %.2f s, %.0f tokens/s; %" PRIu64
                  " tokens in %.2f s, %.1f tokens/s, %.1f GB/s of parameters; ",
                  g->prompt_ids, (double)g->prompts_ns / 1e9,
                  per_second(g->prompt_ids, g->prompts_ns), g->made, (double)g->ns / 1e9,
                  per_second(g->made, g->ns), per_second(g->reads * g->weights, g->ns) / 1e9);
    if (several)
        (void)fprintf(stderr, "%" PRIu64 " samples\n", samples_of(g));
    else
        (void)fprintf(stderr, "ended by %s\n", g->ended);
}

/* --- samples --------------------------------------------------------------------------------- */

/* The sample that an event is of; NULL: there is no memory, or no such one is made. */
static struct sample *sample_at(struct generate *g, uint64_t number, struct ds_error *err)
{
    const bool terminal = !g->cli->json && isatty(STDOUT_FILENO) != 0;

    if (number < g->first || number >= samples_of(g) ||
        number > g->first + g->opens + g->request.batch) {
        (void)ds_fail(err, EPROTO, "the worker tells of sample %" PRIu64 " out of its turn",
                      number);
        return NULL;
    }
    while (g->opens <= number - g->first) {
        if (g->opens == g->room) {
            const size_t room = g->room > 0 ? 2 * g->room : 1;
            struct sample *more = reallocarray(g->open, room, sizeof(*more));

            if (more == NULL) {
                (void)ds_fail(err, ENOMEM, "no memory for %zu samples", room);
                return NULL;
            }
            g->open = more;
            g->room = room;
        }
        g->open[g->opens] = (struct sample){0};
        ds_text_out_init(&g->open[g->opens].text, g->cli->stop, terminal);
        if (g->opens++ == 0 && print_prompt(g, err) != 0)
            return NULL;
    }
    return &g->open[number - g->first];
}

static void release_sample(struct sample *sample)
{
    ds_text_out_release(&sample->text);
    ds_ids_release(&sample->tokens);
}

static int decode(const struct generate *g, const struct sample *sample, uint64_t number,
                  struct ds_buf *bytes)
{
    const uint32_t id = sample->tokens.id[sample->tokens.count - 1];
    const bool begins =
        sample->tokens.count == 1 && ds_prompts_begins(&g->prompts, prompt_of(g, number));
    const char byte = (char)id;

    if (g->tokenizer == NULL)
        (void)ds_buf_put(bytes, &byte, 1);
    else
        ds_decode(g->tokenizer, &id, 1, begins, bytes);
    return bytes->failed ? -ENOMEM : 0;
}

static int take_token(struct generate *g, const struct ds_generate_event *event,
                      struct ds_error *err)
{
    struct sample *sample = sample_at(g, event->number, err);
    struct ds_buf bytes;
    int rc;

    if (sample == NULL)
        return err->code;
    if (sample->text.stopped)
        return 0; /* made before the worker heard that it is enough */
    if (ds_ids_put(&sample->tokens, event->value) != 0)
        return ds_fail(err, ENOMEM, "no memory for %zu tokens", sample->tokens.count);
    ds_buf_init(&bytes, 2 * BYTE_IDS * BYTE_IDS);
    rc = decode(g, sample, event->number, &bytes) != 0
             ? ds_fail(err, ENOMEM, "no memory for the text of token %u", event->value)
             : ds_text_out_put(&sample->text, bytes.data, bytes.len, err);
    ds_buf_release(&bytes);
    if (rc == 0 && sample->text.stopped)
        ds_generator_tell(&g->worker, (uint32_t)event->number);
    return rc == 0 && sample == g->open ? print_ready(g, err) : rc;
}

/* The first one has ended: it is printed, and the next one is the first. */
static int close_first(struct generate *g, struct ds_error *err)
{
    int rc = print_ready(g, err);

    if (rc == 0)
        rc = g->cli->json ? print_json(g, err) : print_end(g, err);
    g->ended = g->open->ended;
    release_sample(g->open);
    g->first++;
    memmove(g->open, g->open + 1, --g->opens * sizeof(*g->open));
    if (rc == 0 && g->opens > 0)
        rc = print_prompt(g, err);
    return rc == 0 && g->opens > 0 ? print_ready(g, err) : rc;
}

static int end_sample(struct generate *g, const struct ds_generate_event *event,
                      struct ds_error *err)
{
    static const char *const names[DS_END_COUNT] = {
#define X(id, name) [DS_END_##id] = (name),
        DS_GENERATE_ENDS(X)
#undef X
    };
    struct sample *sample = sample_at(g, event->number, err);
    int rc = sample == NULL ? err->code : ds_text_out_end(&sample->text, err);

    if (rc != 0)
        return rc;
    sample->ended = names[sample->text.stopped ? DS_END_STOP : event->value];
    g->made += sample->tokens.count;
    while (rc == 0 && g->opens > 0 && g->open->ended != NULL)
        rc = close_first(g, err);
    return rc;
}

static int take_event(struct generate *g, const struct ds_generate_event *event,
                      struct ds_error *err)
{
    switch (event->kind) {
    case DS_GENERATED_LOADED: g->weights = event->number; return 0;
    case DS_GENERATED_PROMPT:
        g->prompt_ids += event->value;
        g->prompts_ns += event->number;
        return 0;
    case DS_GENERATED_TOKEN: g->reads += g->request.batch == 1; return take_token(g, event, err);
    case DS_GENERATED_STEP:
        g->reads++;
        ds_generator_tell(&g->worker, DS_GENERATE_GO_ON);
        return 0;
    case DS_GENERATED_DONE:
        g->ns = event->number;
        g->done = true;
        return 0;
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
    while (rc == 0 && there && !g->done) {
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
    g->request.batch = cli->batch > 0 ? cli->batch : 1;
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
    g->prompts.tokenizer = g->tokenizer;
    g->prompts.shape = &g->state.shape;
    if (rc == 0)
        rc = ds_prompts_read(&g->prompts, &g->request, err);
    fill_request(g);
    if (rc == 0 && g->request.prompts > DS_MAX_SAMPLES / g->request.count)
        rc =
            ds_fail(err, EDOM, "%zu prompts with %" PRIu64 " samples each are more than %d samples",
                    g->request.prompts, g->request.count, DS_MAX_SAMPLES);
    return rc;
}

/* What the table of options does not say. */
static int check_options(const struct ds_cli *cli, struct ds_error *err)
{
    if (cli->prompt != NULL && cli->prompt_file != NULL)
        return ds_fail(err, EDOM, "'--prompt' and '--prompt-file' exclude each other; keep one");
    if (cli->prompts != NULL && (cli->prompt != NULL || cli->prompt_file != NULL))
        return ds_fail(err, EDOM, "'--prompts' and '%s' exclude each other; keep one",
                       cli->prompt != NULL ? "--prompt" : "--prompt-file");
    if (cli->prompts != NULL && !cli->json)
        return ds_fail(err, EDOM, "'--prompts' needs '--json', a line for each sample of each");
    if (cli->text_key != NULL && cli->prompts == NULL)
        return ds_fail(err, EDOM, "'--key' is for '--prompts'; leave it out");
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
    struct generate g = {.cli = cli, .prompts.cli = cli};
    struct ds_error err = {0};
    int code = DS_EXIT_OK, rc = check_options(cli, &err);

    if (rc == 0)
        rc = prepare(&g, &err);
    if (rc == 0)
        rc = run(&g, &code, &err);
    if (rc == 0 && code == DS_EXIT_OK && !cli->quiet)
        print_rates(&g);
    for (size_t i = 0; i < g.opens; i++)
        release_sample(&g.open[i]);
    free(g.open);
    ds_prompts_release(&g.prompts);
    ds_generate_request_release(&g.request);
    ds_tokenizer_free(g.tokenizer);
    if (rc == 0)
        return code;
    ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return ds_exit_from_errno(rc);
}
