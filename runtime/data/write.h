/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * write.h - a token file, written as ids come, and there as a whole or not at all.
 *
 * It has llm.c's header (tokens.h).  Until it is committed it has another name beside its own.
 *
 * Errors  EEXIST, ENOSPC, ...; the text names the file.
 * Tests   tests/data/test_corpus.c, tests/data/test_faults.c
 */
#ifndef DS_RUNTIME_DATA_WRITE_H
#define DS_RUNTIME_DATA_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/data/tokens.h"

struct ds_token_writer {
    enum ds_token_type type; /* DS_TOKEN_U16 or DS_TOKEN_U32 */
    uint64_t count;          /* ids so far */
    bool replace;
    int fd;
    uint8_t *block;
    size_t used;
    char path[DS_MAX_PATH], temp[DS_MAX_PATH];
};

/* Ids are below `vocab`.  A file that is there is -EEXIST, unless it is to be replaced. */
int ds_token_writer_open(struct ds_token_writer *writer, const char *path, uint64_t vocab,
                         bool replace, struct ds_error *err) DS_NODISCARD;
int ds_token_writer_put(struct ds_token_writer *writer, const uint32_t *ids, size_t count,
                        struct ds_error *err) DS_NODISCARD;
/* The file has its name now.  Whatever it returns, the writer is closed. */
int ds_token_writer_commit(struct ds_token_writer *writer, struct ds_error *err) DS_NODISCARD;
/* Nothing is left of it.  Of one that is closed, or was never opened, nothing happens. */
void ds_token_writer_abort(struct ds_token_writer *writer);

#endif
