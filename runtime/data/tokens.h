/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tokens.h - where in the bytes of one data file the token ids lie.
 *
 * Pure: looks at nothing but the bytes it is given.  The formats are listed in data.h.
 *
 * llm.c's header is 256 little-endian int32: magic, version, number of ids, then nothing that
 * is read here (llm.c, dev/data/data_common.py).  More than 2^31 - 1 ids are -1 there and a
 * 64-bit number at byte 16, which is dsrun's own.
 *
 * Samples may have a mask: which of their ids are trained on as targets.  As a number an id that is
 * none is the complement of itself, which is negative.
 *
 * Tests   tests/data/test_tokens.c, tests/fuzz/fuzz_tokens.c
 */
#ifndef DS_RUNTIME_DATA_TOKENS_H
#define DS_RUNTIME_DATA_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/job.h"

enum {
    DS_TOKENS_MAGIC = 20240520,
    DS_TOKENS_HEADER = 256 * 4, /* bytes */
    DS_TOKENS_U16 = 1,          /* versions */
    DS_TOKENS_U32 = 7,
    DS_TOKENS_LONG_AT = 16 /* byte of the 64-bit number */
};
#define DS_TOKENS_LONG UINT32_MAX /* in the place of the 32-bit one */

enum ds_token_type { DS_TOKEN_U8, DS_TOKEN_U16, DS_TOKEN_U32, DS_TOKEN_I32, DS_TOKEN_I64 };

struct ds_tokens { /* plain data */
    enum ds_token_type type;
    uint64_t at;     /* byte of the first id in the file */
    uint64_t count;  /* ids */
    uint64_t stride; /* ids from one sample's start to the next */
    uint64_t samples;
    uint64_t mask_at; /* of the first id's mask, a byte for each id; 0: all are targets */
};

/* The format that DS_DATA_AUTO means for a file of this name; any other is returned as it is. */
enum ds_data_format ds_tokens_format(enum ds_data_format format, const char *path);

/* Understand the `len` bytes of a file called `path` for samples of `sequence` + 1 ids
 * (1 <= sequence <= DS_MAX_CONTEXT; 0: of DS_DATA_SAMPLES, as many as the file says).  A stream too
 * short for one sample has 0 samples.
 * Errors   EBADMSG damaged, EINVAL wrong shape or type of `tokens` or `loss_mask`, ENOMEM; without
 *          the path. */
int ds_tokens_parse(struct ds_tokens *tokens, const char *path, enum ds_data_format format,
                    const void *bytes, size_t len, uint64_t sequence, struct ds_error *err)
    DS_NODISCARD;

size_t ds_token_bytes(enum ds_token_type type);

/* Copy `n` ids from `first` on; what is no target is its complement.  On an id that is not below
 * `vocab`, which is at most DS_MAX_VOCAB, or a mask that is neither 0 nor 1: -EBADMSG, `err` names
 * value and byte, and of an id `ids` is filled up to it. */
int ds_tokens_copy(const struct ds_tokens *tokens, const void *bytes, uint64_t first, size_t n,
                   uint64_t vocab, int32_t *ids, struct ds_error *err) DS_NODISCARD;

/* How many of those ids are targets.  Errors as above, of the mask. */
int ds_tokens_targets(const struct ds_tokens *tokens, const void *bytes, uint64_t first, size_t n,
                      uint64_t *targets, struct ds_error *err) DS_NODISCARD;

#endif
