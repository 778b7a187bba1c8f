/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * prompts.c - the contract is in prompts.h.
 */
#include "cli/prompts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/json_read.h"
#include "base/utf8.h"

enum { MAX_PROMPTS_BYTES = 64 << 20 };

/* --- one text -------------------------------------------------------------------------------- */

static int read_stdin(struct ds_buf *out, struct ds_error *err)
{
    ssize_t got = 1;

    while (got > 0) {
        char *to = ds_buf_reserve(out, 1 << 16);

        if (to == NULL)
            return ds_fail(err, EINVAL, "the prompt has more than %d bytes", MAX_PROMPTS_BYTES);
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
static int read_text(struct ds_prompts *prompts, struct ds_error *err)
{
    const struct ds_cli *cli = prompts->cli;
    struct ds_buf *p = &prompts->text;
    int rc;

    if (cli->prompt != NULL)
        return ds_buf_puts(p, cli->prompt);
    if (cli->prompt_file == NULL && isatty(STDIN_FILENO) != 0 && !cli->quiet)
        (void)fputs("dsrun: type the prompt, and Ctrl-D on a line of its own\n", stderr);
    rc = cli->prompt_file != NULL ? ds_fs_read(cli->prompt_file, MAX_PROMPTS_BYTES, p, err)
                                  : read_stdin(p, err);
    if (rc == 0 && p->len > 0 && p->data[p->len - 1] == '\n')
        p->data[--p->len] = '\0';
    return rc;
}

/* --- ids ------------------------------------------------------------------------------------- */

static int encode_text(struct ds_prompts *prompts, struct ds_ids *ids, struct ds_error *err)
{
    const struct ds_encode_args args = {
        .text = ds_buf_text(&prompts->text), .len = prompts->text.len, .end = prompts->text.len};
    struct ds_encoder *encoder = NULL;
    size_t valid = ds_utf8_valid(args.text, args.len);
    int rc;

    if (valid < args.len)
        return ds_fail(err, EINVAL, "byte %zu of the prompt begins no character of UTF-8", valid);
    rc = ds_encoder_new(&encoder, prompts->tokenizer, err);
    if (rc == 0)
        rc = ds_error_context(err, ds_encode(encoder, &args, ids, err), "the prompt");
    if (rc == 0 && ds_encoder_dropped(encoder) > 0)
        rc = ds_fail(err, EINVAL,
                     "%" PRIu64 " characters of the prompt have no token; leave them out",
                     ds_encoder_dropped(encoder));
    ds_encoder_free(encoder);
    return rc;
}

static int encode_bytes(const struct ds_prompts *prompts, struct ds_ids *ids, struct ds_error *err)
{
    const struct ds_buf *text = &prompts->text;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < text->len; i++)
        rc = ds_ids_put(ids, (unsigned char)text->data[i]);
    return rc == 0 ? 0 : ds_fail(err, ENOMEM, "no memory for a prompt of %zu bytes", text->len);
}

static uint32_t separator_of(const struct ds_prompts *prompts)
{
    return prompts->tokenizer == NULL ? DS_NO_TOKEN : ds_tokenizer_separator(prompts->tokenizer);
}

/* A text without a beginning begins behind the end of another. */
static int begin_empty(const struct ds_prompts *prompts, struct ds_ids *ids, struct ds_error *err)
{
    const uint32_t id = separator_of(prompts);

    if (id != DS_NO_TOKEN)
        return ds_ids_put(ids, id) == 0 ? 0 : ds_fail(err, ENOMEM, "out of memory");
    return ds_fail(err, EDOM,
                   "the prompt is empty, and there is no token that a text begins behind; give at "
                   "least one character");
}

bool ds_prompts_begins(const struct ds_prompts *prompts, const struct ds_generate_prompt *prompt)
{
    return prompt->count == 1 && (uint32_t)prompt->ids[0] == separator_of(prompts);
}

static int check_ids(const struct ds_prompts *prompts, const struct ds_ids *ids,
                     struct ds_error *err)
{
    const uint64_t vocab = prompts->shape->vocab, context = prompts->shape->context;

    for (size_t i = 0; i < ids->count; i++)
        if (ids->id[i] >= vocab)
            return ds_fail(
                err, EINVAL,
                "token %zu of the prompt has the id %u, and the model has ids up to %" PRIu64
                "; it was trained with another tokenizer",
                i, ids->id[i], vocab - 1);
    if (ids->count > context)
        return ds_fail(err, EDOM,
                       "the prompt has %zu tokens, and the model's context is %" PRIu64
                       "; shorten it",
                       ids->count, context);
    return 0;
}

/* Messages, whose text becomes that of the prompt. */
static int encode_messages(struct ds_prompts *prompts, const json_t *messages, struct ds_ids *ids,
                           struct ds_error *err)
{
    struct ds_encoder *encoder = NULL;
    int rc = ds_encoder_new(&encoder, prompts->tokenizer, err);

    if (rc == 0)
        rc = ds_chat_ask(prompts->chat, messages, encoder, &prompts->messages, ids, err);
    ds_encoder_free(encoder);
    ds_buf_reset(&prompts->text);
    return rc != 0 ? rc
                   : ds_buf_put(&prompts->text, prompts->messages.text.data,
                                prompts->messages.text.len);
}

/* What the user alone says. */
static int encode_said(struct ds_prompts *prompts, struct ds_ids *ids, struct ds_error *err)
{
    json_t *said = json_stringn(ds_buf_text(&prompts->text), prompts->text.len);
    json_t *messages = json_pack("[{s:s,s:o}]", "role", "user", "content", said);
    int rc = said == NULL       ? ds_fail(err, EINVAL, "the prompt is not UTF-8")
             : messages == NULL ? ds_fail(err, ENOMEM, "no memory for the prompt")
                                : encode_messages(prompts, messages, ids, err);

    json_decref(messages);
    return rc;
}

static int add_ids(const struct ds_prompts *prompts, struct ds_generate_request *request,
                   struct ds_ids *ids, struct ds_error *err)
{
    int rc = ids->count == 0 ? begin_empty(prompts, ids, err) : 0;
    int32_t *to;

    if (rc == 0)
        rc = check_ids(prompts, ids, err);
    if (rc != 0)
        return rc;
    to = ds_generate_request_add(request, ids->count);
    for (size_t i = 0; to != NULL && i < ids->count; i++)
        to[i] = (int32_t)ids->id[i];
    return to != NULL ? 0
                      : ds_fail(err, ENOMEM, "no memory for a prompt of %zu tokens", ids->count);
}

/* The text, or messages where there are some, become a prompt of the request. */
static int add(struct ds_prompts *prompts, const json_t *messages,
               struct ds_generate_request *request, struct ds_error *err)
{
    struct ds_ids ids = {0};
    int rc = messages != NULL             ? encode_messages(prompts, messages, &ids, err)
             : prompts->chat != NULL      ? encode_said(prompts, &ids, err)
             : prompts->tokenizer == NULL ? encode_bytes(prompts, &ids, err)
                                          : encode_text(prompts, &ids, err);

    if (rc == 0)
        rc = add_ids(prompts, request, &ids, err);
    ds_ids_release(&ids);
    return rc;
}

/* --- JSON lines ------------------------------------------------------------------------------ */

static int add_line(struct ds_prompts *prompts, struct ds_generate_request *request,
                    const char *line, size_t len, struct ds_error *err)
{
    const char *usual = prompts->chat != NULL ? "messages" : "prompt";
    const char *key = prompts->cli->text_key != NULL ? prompts->cli->text_key : usual;
    json_t *root = ds_json_parse(line, len, err), *value = json_object_get(root, key);
    const bool listed = prompts->chat != NULL && json_is_array(value);
    int rc = root == NULL ? -EBADMSG : 0;

    if (rc == 0 && value == NULL)
        rc = ds_fail(err, EBADMSG, "there is no key '%s'; name the right one with --key", key);
    else if (rc == 0 && !listed && !json_is_string(value))
        rc = ds_fail(err, EBADMSG, "key '%s' is not a string%s", key,
                     prompts->chat != NULL ? " and no list of messages" : "");
    ds_buf_reset(&prompts->text);
    if (rc == 0 && !listed)
        rc = ds_buf_put(&prompts->text, json_string_value(value), json_string_length(value));
    if (rc == 0)
        rc = add(prompts, listed ? value : NULL, request, err);
    json_decref(root);
    return rc;
}

static int add_lines(struct ds_prompts *prompts, struct ds_generate_request *request,
                     struct ds_error *err)
{
    const char *path = prompts->cli->prompts, *at, *end;
    struct ds_buf file;
    int rc;

    ds_buf_init(&file, MAX_PROMPTS_BYTES);
    rc = ds_fs_read(path, MAX_PROMPTS_BYTES, &file, err);
    at = ds_buf_text(&file);
    end = at + file.len;
    for (size_t number = 1; rc == 0 && at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const size_t len = (size_t)((newline == NULL ? end : newline) - at);

        if (strspn(at, " \t\r") < len) /* else it is blank */
            rc = ds_error_context(err, add_line(prompts, request, at, len, err), "'%s':%zu", path,
                                  number);
        at += len + 1;
    }
    ds_buf_release(&file);
    return rc == 0 && request->prompts == 0 ? ds_fail(err, EDOM, "'%s' has no prompts", path) : rc;
}

int ds_prompts_read(struct ds_prompts *prompts, struct ds_generate_request *request,
                    struct ds_error *err)
{
    const char *form = prompts->cli->chat;
    int rc = 0;

    ds_buf_init(&prompts->text, MAX_PROMPTS_BYTES);
    ds_chat_room_init(&prompts->messages);
    if (form != NULL && prompts->tokenizer == NULL)
        return ds_fail(err, EDOM,
                       "'--chat': the ids of this model are bytes, which have no form; leave it "
                       "out, or name another tokenizer.json with '--tokenizer'");
    prompts->chat = form != NULL ? ds_chat_find(form) : NULL;
    if (prompts->chat != NULL)
        rc = ds_chat_check(prompts->chat, prompts->tokenizer, err);
    if (rc == 0 && prompts->cli->prompts != NULL)
        return add_lines(prompts, request, err);
    if (rc == 0)
        rc = read_text(prompts, err);
    return rc == 0 ? add(prompts, NULL, request, err) : rc;
}

void ds_prompts_release(struct ds_prompts *prompts)
{
    ds_chat_room_release(&prompts->messages);
    ds_buf_release(&prompts->text);
}
