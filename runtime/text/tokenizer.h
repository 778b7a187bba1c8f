/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.h - text to token ids and back, as a tokenizer.json of Hugging Face says.
 *
 * Byte-pair encodings: those of bytes (GPT-2, Llama 3, Qwen) and those of characters (Llama 2,
 * Mistral).  The way of a text, with the same ids as `encode(text, add_special_tokens=False)` has:
 *
 *     added tokens that want it as it is ─► normalizer ─► added tokens ─► pre-tokenizer, in
 *     stages ─► pieces ─► bytes or characters, merged in the order of the merges
 *
 * What a file asks for is done or refused by name.  Not done are post-processors: they add tokens
 * around a prompt, and training data has a separator of its own.  Nor are merges dropped at random.
 *
 * A long text can be encoded in parts: ds_encode() is given where a part ends and some of the text
 * behind it, and says when the ids would not be those of the whole text (-EAGAIN).  Places worth
 * trying are those of ds_tokenizer_cut().
 *
 * Threads   a tokenizer is only read; each thread has an encoder of its own.
 * Limits    100 MB of JSON, DS_MAX_VOCAB ids, 65536 added tokens of up to 1024 bytes, 16 stages and
 *           16 normalizers, patterns of 2 KiB, pieces of 16 MiB.
 * Errors    ENOTSUP not supported, EBADMSG damaged, ENOENT, ENOMEM
 * Source    huggingface/tokenizers 0.23 for the behaviour; Sennrich et al., ACL 2016
 * Tests     tests/text/, tests/fuzz/fuzz_tokenizer.c, tests/fuzz/fuzz_encode.c,
 *           tests/e2e/tokenizer.py
 */
#ifndef DS_RUNTIME_TEXT_TOKENIZER_H
#define DS_RUNTIME_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "runtime/text/vocab.h" /* DS_NO_TOKEN */

struct ds_tokenizer;
struct ds_encoder;

struct ds_ids { /* a zeroed one is empty; ds_ids_release() frees */
    uint32_t *id;
    size_t count, cap;
};

int ds_ids_put(struct ds_ids *ids, uint32_t id) DS_NODISCARD; /* -ENOMEM */
void ds_ids_release(struct ds_ids *ids);

/* Read `path`; the error names it. */
int ds_tokenizer_load(struct ds_tokenizer **tokenizer, const char *path, struct ds_error *err)
    DS_NODISCARD;
int ds_tokenizer_parse(struct ds_tokenizer **tokenizer, const void *json, size_t len,
                       struct ds_error *err) DS_NODISCARD;
void ds_tokenizer_free(struct ds_tokenizer *tokenizer);

/* The largest id + 1, added tokens counted. */
uint32_t ds_tokenizer_size(const struct ds_tokenizer *tokenizer);
/* The id of a token's text, added or not; or DS_NO_TOKEN. */
uint32_t ds_tokenizer_find(const struct ds_tokenizer *tokenizer, const char *text);
/* The token that ends a document, by the names that are in use; or DS_NO_TOKEN. */
uint32_t ds_tokenizer_separator(const struct ds_tokenizer *tokenizer);
/* Likewise the one that begins a text, the separator where none is named so, and the one that fills
 * up a batch. */
uint32_t ds_tokenizer_begin(const struct ds_tokenizer *tokenizer);
uint32_t ds_tokenizer_pad(const struct ds_tokenizer *tokenizer);
/* The text of a token as the file has it; NULL where there is none.  Borrowed. */
const char *ds_tokenizer_text(const struct ds_tokenizer *tokenizer, uint32_t id, size_t *len);

/* Can text be cut at all?  And the last place in text[1 .. most], most < len, where it may well be:
 * behind a newline, before a letter or digit; 0: there is none. */
bool ds_tokenizer_cuts(const struct ds_tokenizer *tokenizer);
size_t ds_tokenizer_cut(const char *text, size_t len, size_t most);

/* --- encoding -------------------------------------------------------------------------------- */

int ds_encoder_new(struct ds_encoder **encoder, const struct ds_tokenizer *tokenizer,
                   struct ds_error *err) DS_NODISCARD;
void ds_encoder_free(struct ds_encoder *encoder);

struct ds_encode_args {
    const char *text; /* valid UTF-8, all `len` bytes of it */
    size_t len;
    size_t end;     /* encode up to here; what follows is looked at.  len: the text ends there */
    bool continued; /* it begins where another part has ended */
};

/* Append the ids.  On failure some may have been appended.  -EAGAIN, without a text: at `end` the
 * text cannot be cut; EOVERFLOW: a piece is too long, or a pattern gave up. */
int ds_encode(struct ds_encoder *encoder, const struct ds_encode_args *args, struct ds_ids *ids,
              struct ds_error *err) DS_NODISCARD;

/* Characters so far for which there is no token, which are passed over. */
uint64_t ds_encoder_dropped(const struct ds_encoder *encoder);

/* Append the bytes that the ids stand for; one that is no token adds nothing.  Added tokens are
 * their own text.  `begins`: the first of a text, whose prefix is taken off. */
void ds_decode(const struct ds_tokenizer *tokenizer, const uint32_t *ids, size_t count, bool begins,
               struct ds_buf *out);

#endif
