/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * data.h - samples of token ids as a pure function of (seed, position).
 *
 * Data is one set or a mixture of several (mix.h); a set is a source, a list of
 * memory-mapped files of one format.  Text and token
 * streams are cut into sequences of `sequence` + 1 ids that overlap by one
 * (sample i covers ids i*sequence .. i*sequence + sequence of its file, never
 * across two files); `samples` are rows of a safetensors tensor `tokens` whose
 * last dimension is `sequence` + 1.  A tensor `loss_mask` of the same shape, U8 or BOOL, may say
 * which of their ids are trained on as targets, 1, and which are not, 0; what it says of a row's
 * first id, which is no target, counts for nothing.  Position p is one set's n-th turn: epoch
 * n / count of that set, and within it sample n % count, permuted by (seed, set, epoch) when the
 * order is shuffle, or auto and they are no `samples`.  With one set n is p.
 *
 * Formats   text    bytes are ids (vocabulary 256)
 *           tokens  u16 little-endian ids; u32 when the file starts with the header
 *                   or its name ends in ".u32.bin"; with llm.c's 1024-byte header
 *                   (int32 20240520, version 1: u16; version 7: u32; count)
 *           samples safetensors, I32 / I64 / U16, with or without a mask
 *           auto    by extension: .safetensors samples, .bin tokens, else text
 * Errors    ENOENT no file matches, EINVAL no sample at all or wrong shape, or text mixed with ids;
 *           EBADMSG damaged
 *           file, one that was cut while in use, an id outside the vocabulary, or a mask that is
 *           neither 0 nor 1: the text names file and byte offset.
 * Tests     tests/data/, tests/fuzz/fuzz_tokens.c
 */
#ifndef DS_RUNTIME_DATA_H
#define DS_RUNTIME_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/job.h"

struct ds_data;

struct ds_data_args {
    const char *what;           /* "data.train", for messages */
    const struct ds_rows *sets; /* of struct ds_data_set; globs are expanded in order, sorted */
    enum ds_data_format format;
    enum ds_data_order order;
    uint64_t sequence, vocab, seed;
};

int ds_data_open(struct ds_data **data, const struct ds_data_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds_data_close(struct ds_data *data);

struct ds_data_size {
    size_t files;
    uint64_t samples; /* per epoch, >= 1 */
    uint64_t tokens;  /* ids in all files */
};
size_t ds_data_sets(const struct ds_data *data);
struct ds_data_size ds_data_set_size(const struct ds_data *data, size_t set);
struct ds_data_size ds_data_size(const struct ds_data *data); /* of all sets */

/* ids[sequence + 1] of the sample at `position` (counts on over epochs); one that is not trained on
 * as a target is its complement, ~id.  Allocates nothing. */
int ds_data_read(const struct ds_data *data, uint64_t position, int32_t *ids, struct ds_error *err)
    DS_NODISCARD;
/* ids[count] of them, from `first` on; first + count <= sequence + 1. */
int ds_data_read_part(const struct ds_data *data, uint64_t position, uint64_t first, uint64_t count,
                      int32_t *ids, struct ds_error *err) DS_NODISCARD;
/* ids[sequence + 1] of the sample at the set's own n-th turn, whatever the mixture. */
int ds_data_read_set(const struct ds_data *data, size_t set, uint64_t nth, int32_t *ids,
                     struct ds_error *err) DS_NODISCARD;

/* May some ids be no targets? */
bool ds_data_masked(const struct ds_data *data);
/* How many targets `samples` samples have from `position` on: sequence each, less what a mask says.
 * Looks at masks alone, and at none where there are none. */
int ds_data_targets(const struct ds_data *data, uint64_t position, uint64_t samples,
                    uint64_t *targets, struct ds_error *err) DS_NODISCARD;

#endif
