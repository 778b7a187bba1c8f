/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * write.h - a token file, written as ids come, and there as a whole or not at all.
 *
 * A stream has llm.c's header (tokens.h), samples are safetensors (data.h).  Their mask is behind
 * all ids, and so it is kept in a file without a name until these are there.  Until it is committed
 * a file has another name beside its own.
 *
 * Errors  EEXIST, ENOSPC, ...; the text names the file.
 * Tests   tests/data/test_corpus.c, tests/data/test_prompts.c, tests/data/test_faults.c
 */
#ifndef DS_RUNTIME_DATA_WRITE_H
#define DS_RUNTIME_DATA_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/data/tokens.h"

#define DS_NOT_TARGET (UINT32_C(1) << 31) /* the bit that only complements of ids have */

struct ds_token_writer {
    enum ds_token_type type; /* DS_TOKEN_U16 or DS_TOKEN_U32; of samples DS_TOKEN_I32 */
    uint64_t length;         /* ids of a sample; 0: it is a stream */
    uint64_t count;          /* ids so far */
    bool replace;
    int fd, mask_fd;
    uint8_t *block, *mask; /* mask NULL: a stream, without mask_fd */
    size_t used, masked;
    char path[DS_MAX_PATH], temp[DS_MAX_PATH];
};

/* Ids are below `vocab`.  A file that is there is -EEXIST, unless it is to be replaced. */
int ds_token_writer_open(struct ds_token_writer *writer, const char *path, uint64_t vocab,
                         bool replace, struct ds_error *err) DS_NODISCARD;
/* The same, of samples of `length` ids. */
int ds_token_writer_open_samples(struct ds_token_writer *writer, const char *path, uint64_t vocab,
                                 uint64_t length, bool replace, struct ds_error *err) DS_NODISCARD;
/* Of samples an id that is no target is its complement. */
int ds_token_writer_put(struct ds_token_writer *writer, const uint32_t *ids, size_t count,
                        struct ds_error *err) DS_NODISCARD;
/* The file has its name now.  Whatever it returns, the writer is closed. */
int ds_token_writer_commit(struct ds_token_writer *writer, struct ds_error *err) DS_NODISCARD;
/* Nothing is left of it.  Of one that is closed, or was never opened, nothing happens. */
void ds_token_writer_abort(struct ds_token_writer *writer);

#endif
