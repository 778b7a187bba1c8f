/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * prompts.h - what dsrun generate goes on from: one text, or those of a file of JSON lines; with a
 * form of --chat what a user says, or messages, for the assistant to answer.
 *
 * Tests   tests/e2e/generate.py
 */
#ifndef DS_CLI_PROMPTS_H
#define DS_CLI_PROMPTS_H

#include "base/buf.h"
#include "cli/cli.h"
#include "runtime/data/chat.h"
#include "runtime/generate/request.h"
#include "runtime/model/model.h"
#include "runtime/text/tokenizer.h"

struct ds_prompts {
    const struct ds_cli *cli;
    const struct ds_tokenizer *tokenizer; /* NULL: bytes are ids */
    const struct ds_model_shape *shape;
    const struct ds_chat *chat;   /* NULL: texts are as they are */
    struct ds_chat_room messages; /* that it takes */
    struct ds_buf text;           /* of the last one */
};

/* All that the command line names, as ids, into the request.  Errors of files and of text say which
 * line it is. */
int ds_prompts_read(struct ds_prompts *prompts, struct ds_generate_request *request,
                    struct ds_error *err) DS_NODISCARD;
void ds_prompts_release(struct ds_prompts *prompts);

/* Is a prompt the end of another text alone, behind which one begins? */
bool ds_prompts_begins(const struct ds_prompts *prompts, const struct ds_generate_prompt *prompt);

#endif
