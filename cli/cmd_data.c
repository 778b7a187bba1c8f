/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_data.c - dsrun data: make files of token ids, and look into them.
 *
 * Tests   tests/e2e/tokenizer.py
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "cli/tokenize.h"

enum { BLOCK_IDS = 1 << 16, SHOWN_IDS = 20, TEXT_BYTES = 1 << 26 };

static int fail(const struct ds_error *err, int rc)
{
    if (rc == -ECANCELED && ds_cli_tokenizing_signal() != 0)
        return 128 + ds_cli_tokenizing_signal();
    ds_log(DS_LOG_ERROR, "%s%s", ds_error_text(err, rc),
           rc == -EEXIST ? "; take another name, or --force to replace it" : "");
    return rc == -EEXIST ? DS_EXIT_USAGE : ds_exit_from_errno(rc);
}

/* Output that was lost (a full disk, say) is a failure of the command. */
static int finish(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return DS_EXIT_OK;
    ds_log(DS_LOG_ERROR, "cannot write to standard output: %s", strerror(errno));
    return DS_EXIT_FAILURE;
}

/* The separator that --eot names; DS_NO_TOKEN is none. */
static int find_separator(const struct ds_cli *cli, const struct ds_tokenizer *tokenizer,
                          uint32_t *id, struct ds_error *err)
{
    const char *name = cli->eot == NULL ? "auto" : cli->eot;

    *id = DS_NO_TOKEN;
    if (strcmp(name, "none") == 0)
        return 0;
    if (strcmp(name, "auto") != 0) {
        *id = ds_tokenizer_find(tokenizer, name);
        return *id != DS_NO_TOKEN ? 0
                                  : ds_fail(err, EDOM, "'--eot': tokenizer '%s' has no token '%s'",
                                            cli->tokenizer, name);
    }
    *id = ds_tokenizer_separator(tokenizer);
    return *id != DS_NO_TOKEN
               ? 0
               : ds_fail(err, EDOM,
                         "tokenizer '%s' has no token that is known to end a document; name it "
                         "with --eot, or say '--eot none'",
                         cli->tokenizer);
}

/* --- tokenize -------------------------------------------------------------------------------- */

static void print_summary(const struct ds_cli *cli, const struct ds_corpus_count *count,
                          enum ds_token_type type, const struct ds_cli_tokenizing *t)
{
    if (count->dropped > 0)
        ds_log(DS_LOG_WARNING, "%ju characters have no token and were left out",
               (uintmax_t)count->dropped);
    if (cli->quiet)
        return;
    (void)printf("'%s': %ju documents, %ju tokens of %zu bytes, %.2f bytes of text a token, "
                 "%.1f s, %.1f MB/s\n",
                 cli->arg[0], (uintmax_t)count->documents, (uintmax_t)count->tokens,
                 ds_token_bytes(type),
                 count->tokens == 0 ? 0.0 : (double)count->text_bytes / (double)count->tokens,
                 ds_cli_tokenizing_s(t), ds_cli_tokenizing_rate(t, count));
}

static void print_samples(const struct ds_cli *cli, const struct ds_corpus_count *count,
                          const struct ds_cli_tokenizing *t)
{
    if (count->dropped > 0)
        ds_log(DS_LOG_WARNING, "%ju characters have no token and were left out",
               (uintmax_t)count->dropped);
    if (count->passed > 0)
        ds_log(DS_LOG_WARNING,
               "%ju of %ju documents have nothing to train on within %ju tokens and were left out",
               (uintmax_t)count->passed, (uintmax_t)count->documents, (uintmax_t)cli->sequence + 1);
    if (cli->pack && count->inside > 0)
        ds_log(DS_LOG_WARNING,
               "%ju samples have the separator within: with data.documents apart what is behind "
               "it does not see what is before; another '--eot' would do",
               (uintmax_t)count->inside);
    if (cli->quiet)
        return;
    (void)printf("'%s': %ju samples", cli->arg[0], (uintmax_t)(count->documents - count->passed));
    if (cli->pack)
        (void)printf(" in %ju sequences", (uintmax_t)count->sequences);
    (void)printf(" of %ju tokens, %ju of them cut, %ju tokens, ", (uintmax_t)cli->sequence + 1,
                 (uintmax_t)count->cut, (uintmax_t)count->tokens);
    if (cli->pack)
        (void)printf("%.1f%% full, ", 100.0 * (double)count->tokens /
                                          ((double)count->sequences * (double)(cli->sequence + 1)));
    (void)printf("%ju to train on, %.1f s, %.1f MB/s\n", (uintmax_t)count->targets,
                 ds_cli_tokenizing_s(t), ds_cli_tokenizing_rate(t, count));
}

/* Of samples, too, at least one. */
static int commit(const struct ds_cli *cli, struct ds_token_writer *writer,
                  const struct ds_corpus_count *count, struct ds_error *err)
{
    if (cli->sequence > 0 && count->documents == count->passed)
        return ds_fail(err, EINVAL,
                       "none of %ju documents has anything to train on within %ju tokens",
                       (uintmax_t)count->documents, (uintmax_t)cli->sequence + 1);
    return ds_token_writer_commit(writer, err);
}

static int open_writer(const struct ds_cli *cli, const struct ds_tokenizer *tokenizer,
                       struct ds_token_writer *writer, struct ds_error *err)
{
    const char *path = cli->arg[0];
    uint32_t vocab = ds_tokenizer_size(tokenizer);

    return cli->sequence > 0 ? ds_token_writer_open_samples(writer, path, vocab, cli->sequence + 1,
                                                            cli->force, err)
                             : ds_token_writer_open(writer, path, vocab, cli->force, err);
}

static int write_tokens(const struct ds_cli *cli, const struct ds_tokenizer *tokenizer,
                        struct ds_error *err)
{
    struct ds_cli_tokenizing live;
    struct ds_corpus_args args = {
        .tokenizer = tokenizer,
        .path = cli->arg + 1,
        .paths = cli->args - 1,
        .format = cli->text_format,
        .key = cli->text_key != NULL     ? cli->text_key
               : cli->chat != NULL       ? "messages"
               : cli->prompt_key != NULL ? "completion"
                                         : "text",
        .chat = cli->chat == NULL ? NULL : ds_chat_find(cli->chat),
        .prompt = cli->prompt_key,
        .length = cli->sequence > 0 ? cli->sequence + 1 : 0,
        .pack = cli->pack,
        .threads = cli->threads == 0 ? ds_cli_own_cores() : (unsigned)cli->threads,
        .go_on = ds_cli_tokenizing_go_on,
        .user = &live,
    };
    struct ds_corpus_count count;
    struct ds_token_writer writer = {.fd = -1};
    enum ds_token_type type;
    int rc = find_separator(cli, tokenizer, &args.separator, err);

    if (rc == 0 && cli->pack && args.separator == DS_NO_TOKEN)
        rc = ds_fail(err, EDOM, "'--pack' needs a token between samples, and '--eot' is none");
    if (rc == 0 && args.chat != NULL)
        rc =
            ds_error_context(err, ds_chat_check(args.chat, tokenizer, err), "'%s'", cli->tokenizer);
    if (rc != 0)
        return rc;
    ds_cli_tokenizing_begin(&live, cli->quiet);
    rc = open_writer(cli, tokenizer, &writer, err);
    type = writer.type;
    if (rc == 0)
        rc = ds_corpus_tokenize(&args, &writer, &count, err);
    if (rc == 0)
        rc = commit(cli, &writer, &count, err);
    ds_token_writer_abort(&writer);
    ds_cli_tokenizing_end(&live);
    if (rc == 0 && cli->sequence > 0)
        print_samples(cli, &count, &live);
    else if (rc == 0)
        print_summary(cli, &count, type, &live);
    return rc;
}

/* What is wrong with the options, or NULL. */
static const char *wrong_options(const struct ds_cli *cli)
{
    if (cli->tokenizer == NULL)
        return "no tokenizer is given; name one with '--tokenizer FILE'";
    if (cli->prompt_key != NULL && cli->sequence == 0)
        return "'--prompt-key' needs '--sequence': what is not trained on has a place in samples "
               "alone";
    if (cli->chat != NULL && cli->sequence == 0)
        return "'--chat' needs '--sequence': what is not trained on has a place in samples alone";
    if (cli->chat != NULL && cli->prompt_key != NULL)
        return "'--chat' has its prompts among the messages; leave '--prompt-key' out";
    if (cli->pack && cli->sequence == 0)
        return "'--pack' needs '--sequence', which says how long sequences are";
    return NULL;
}

static int tokenize(const struct ds_cli *cli)
{
    const char *wrong = wrong_options(cli);
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    int rc;

    if (wrong != NULL) {
        ds_log(DS_LOG_ERROR, "%s", wrong);
        return DS_EXIT_USAGE;
    }
    if (cli->sequence > 0 && ds_tokens_format(DS_DATA_AUTO, cli->arg[0]) != DS_DATA_SAMPLES) {
        ds_log(DS_LOG_ERROR,
               "'%s' would not be taken for samples; give it a name that ends in "
               "'.safetensors'",
               cli->arg[0]);
        return DS_EXIT_USAGE;
    }
    rc = ds_tokenizer_load(&tokenizer, cli->tokenizer, &err);
    if (rc == 0)
        rc = write_tokens(cli, tokenizer, &err);
    ds_tokenizer_free(tokenizer);
    return rc == 0 ? finish() : fail(&err, rc);
}

/* --- inspect --------------------------------------------------------------------------------- */

struct survey {
    struct ds_map map;
    struct ds_tokens tokens;
    uint64_t distinct, separators, outside, targets;
    int32_t largest; /* -1: there is no id */
    uint8_t *seen;   /* a bit for each id */
    int32_t *block;
};

static void count_block(struct survey *s, size_t n, uint32_t separator, uint32_t vocab)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = s->block[i] < 0 ? ~s->block[i] : s->block[i];
        uint8_t bit = (uint8_t)(1u << (id & 7));

        if (id > s->largest)
            s->largest = id;
        s->distinct += (s->seen[id >> 3] & bit) == 0;
        s->seen[id >> 3] |= bit;
        s->separators += (uint32_t)id == separator;
        s->outside += vocab != 0 && (uint32_t)id >= vocab;
    }
}

static int count_all(struct survey *s, uint32_t separator, uint32_t vocab, struct ds_error *err)
{
    int rc = 0;

    s->largest = -1;
    s->seen = calloc(DS_MAX_VOCAB / 8, 1);
    s->block = calloc(BLOCK_IDS, sizeof(*s->block));
    if (s->seen == NULL || s->block == NULL)
        return ds_fail(err, ENOMEM, "no memory to count ids");
    for (uint64_t at = 0; rc == 0 && at < s->tokens.count; at += BLOCK_IDS) {
        size_t n = s->tokens.count - at < BLOCK_IDS ? (size_t)(s->tokens.count - at) : BLOCK_IDS;

        rc = ds_tokens_copy(&s->tokens, s->map.data, at, n, DS_MAX_VOCAB, s->block, err);
        if (rc == 0)
            count_block(s, n, separator, vocab);
    }
    return rc;
}

/* Of every sample behind its first id. */
static int count_targets(struct survey *s, struct ds_error *err)
{
    int rc = 0;

    for (uint64_t k = 0; rc == 0 && s->tokens.mask_at != 0 && k < s->tokens.samples; k++) {
        uint64_t more = 0;

        rc = ds_tokens_targets(&s->tokens, s->map.data, k * s->tokens.stride + 1,
                               (size_t)s->tokens.stride - 1, &more, err);
        s->targets += more;
    }
    return rc;
}

static void print_token(const struct ds_tokenizer *tokenizer, uint32_t id)
{
    size_t len = 0;
    const char *text = ds_tokenizer_text(tokenizer, id, &len);
    char shown[4 * DS_MAX_TOKEN_BYTES + 1];

    (void)ds_escape_control(shown, sizeof(shown), text == NULL ? "" : text, len);
    (void)printf("'%s'", shown);
}

static bool is_samples(const struct ds_cli *cli)
{
    return ds_tokens_format(DS_DATA_AUTO, cli->arg[0]) == DS_DATA_SAMPLES;
}

static void print_survey(const struct ds_cli *cli, const struct survey *s,
                         const struct ds_tokenizer *tokenizer, uint32_t separator)
{
    (void)printf("file        %s, %zu bytes\n", cli->arg[0], s->map.len);
    (void)printf("format      %s, %zu bytes an id\n",
                 is_samples(cli)    ? "samples"
                 : s->tokens.at > 0 ? "header of llm.c"
                                    : "ids alone",
                 ds_token_bytes(s->tokens.type));
    if (is_samples(cli))
        (void)printf("samples     %ju of %ju ids, for train.sequence %ju\n",
                     (uintmax_t)s->tokens.samples, (uintmax_t)s->tokens.stride,
                     (uintmax_t)s->tokens.stride - 1);
    if (s->tokens.mask_at != 0)
        (void)printf("targets     %ju of %ju\n", (uintmax_t)s->targets,
                     (uintmax_t)(s->tokens.samples * (s->tokens.stride - 1)));
    (void)printf("tokens      %ju\n", (uintmax_t)s->tokens.count);
    if (s->tokens.count > 0)
        (void)printf("ids         %ju distinct, the largest %d\n", (uintmax_t)s->distinct,
                     s->largest);
    if (tokenizer == NULL)
        return;
    (void)printf("vocabulary  %u, %ju ids are outside\n", ds_tokenizer_size(tokenizer),
                 (uintmax_t)s->outside);
    if (separator == DS_NO_TOKEN)
        return;
    (void)printf("separator   ");
    print_token(tokenizer, separator);
    (void)printf(", id %u, %ju times\n", separator, (uintmax_t)s->separators);
}

static int print_text(const struct ds_tokenizer *tokenizer, const int32_t *ids, size_t n,
                      bool begins, struct ds_error *err)
{
    struct ds_buf text;
    char *shown;
    size_t room;

    ds_buf_init(&text, TEXT_BYTES);
    for (size_t i = 0; i < n; i++) {
        uint32_t id = (uint32_t)(ids[i] < 0 ? ~ids[i] : ids[i]);

        ds_decode(tokenizer, &id, 1, begins && i == 0, &text);
    }
    room = 4 * text.len + 1;
    shown = text.failed ? NULL : malloc(room);
    if (shown == NULL) {
        ds_buf_release(&text);
        return ds_fail(err, ENOMEM, "no memory for the text of %zu ids", n);
    }
    (void)ds_escape_control(shown, room, ds_buf_text(&text), text.len);
    (void)printf("text        %s\n", shown);
    free(shown);
    ds_buf_release(&text);
    return 0;
}

static int print_ids(const struct ds_cli *cli, const struct survey *s,
                     const struct ds_tokenizer *tokenizer, struct ds_error *err)
{
    uint64_t left = s->tokens.count > cli->at ? s->tokens.count - cli->at : 0;
    size_t n = cli->count < 0 ? SHOWN_IDS : (size_t)cli->count;
    int32_t *ids;
    int rc;

    if (cli->at > 0 && left == 0)
        return ds_fail(err, EDOM, "'--at' %ju is beyond the last of %ju ids", (uintmax_t)cli->at,
                       (uintmax_t)s->tokens.count);
    n = left < n ? (size_t)left : n;
    ids = calloc(n + 1, sizeof(*ids));
    if (ids == NULL)
        return ds_fail(err, ENOMEM, "no memory for %zu ids", n);
    rc = n == 0 ? 0 : ds_tokens_copy(&s->tokens, s->map.data, cli->at, n, DS_MAX_VOCAB, ids, err);
    if (rc == 0 && n > 0) {
        (void)printf("from %-6ju", (uintmax_t)cli->at);
        for (size_t i = 0; i < n; i++)
            (void)printf(ids[i] < 0 ? " [%d]" : " %d", ids[i] < 0 ? ~ids[i] : ids[i]);
        (void)printf("\n");
        if (tokenizer != NULL)
            rc = print_text(tokenizer, ids, n, cli->at == 0, err);
    }
    free(ids);
    return rc;
}

static int survey_file(const struct ds_cli *cli, const struct ds_tokenizer *tokenizer,
                       struct survey *s, struct ds_error *err)
{
    uint32_t separator = DS_NO_TOKEN;
    int rc = ds_fs_map(cli->arg[0], &s->map, err);

    if (rc == 0)
        rc =
            ds_error_context(err,
                             ds_tokens_parse(&s->tokens, cli->arg[0],
                                             is_samples(cli) ? DS_DATA_SAMPLES : DS_DATA_TOKENS,
                                             s->map.data, s->map.len, is_samples(cli) ? 0 : 1, err),
                             "'%s'", cli->arg[0]);
    if (rc == 0 && tokenizer != NULL && cli->eot == NULL)
        separator = ds_tokenizer_separator(tokenizer);
    else if (rc == 0 && tokenizer != NULL)
        rc = find_separator(cli, tokenizer, &separator, err);
    if (rc == 0)
        rc = ds_error_context(
            err, count_all(s, separator, tokenizer == NULL ? 0 : ds_tokenizer_size(tokenizer), err),
            "'%s'", cli->arg[0]);
    if (rc == 0)
        rc = ds_error_context(err, count_targets(s, err), "'%s'", cli->arg[0]);
    if (rc == 0) {
        print_survey(cli, s, tokenizer, separator);
        rc = print_ids(cli, s, tokenizer, err);
    }
    return rc;
}

static int inspect(const struct ds_cli *cli)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct survey survey = {.map = {.fd = -1}};
    struct ds_error err = {0};
    int rc = 0;

    if (cli->eot != NULL && cli->tokenizer == NULL) {
        ds_log(DS_LOG_ERROR, "'--eot' needs '--tokenizer', which knows the id of a token");
        return DS_EXIT_USAGE;
    }
    if (cli->tokenizer != NULL)
        rc = ds_tokenizer_load(&tokenizer, cli->tokenizer, &err);
    if (rc == 0)
        rc = survey_file(cli, tokenizer, &survey, &err);
    free(survey.seen);
    free(survey.block);
    ds_map_release(&survey.map);
    ds_tokenizer_free(tokenizer);
    return rc == 0 ? finish() : fail(&err, rc);
}

int ds_cmd_data(const struct ds_cli *cli)
{
    return strcmp(cli->command, "data inspect") == 0 ? inspect(cli) : tokenize(cli);
}
