/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * session.h - a checkpoint's model that reads sequences of ids and says what may follow.
 *
 * It holds the parameters in one type, the keys and values of all rows read so far, and activations
 * of CHUNK rows, in the memory of its device.  Sequences are read one at a time, or one id of each
 * at once: then the parameters are read once for all of them.  Of the checkpoint only the
 * parameters are read.  Memory is looked for before it is taken.
 *
 * Tests   tests/engine/test_generate.c
 */
#ifndef DS_RUNTIME_GENERATE_SESSION_H
#define DS_RUNTIME_GENERATE_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/dtype.h"
#include "runtime/job.h"

struct ds_session;

enum { DS_SESSION_CHUNK = 256 }; /* rows that are read at once */

struct ds_session_args {
    const char *device; /* as ds_device_open() has it; the first of its kind */
    const char *ckpt;   /* a checkpoint's folder */
    enum ds_dtype type; /* of parameters, activations, keys and values: F32, BF16 or F16 */
    unsigned threads;
    uint64_t rows;      /* of a sequence that will be read; at most the model's context counts */
    unsigned sequences; /* up to DS_SESSION_CHUNK; 0: one */
};

/* -ENOENT, -EBADMSG no checkpoint, a damaged one; -ENOMEM. */
int ds_session_open(struct ds_session **session, const struct ds_session_args *args,
                    struct ds_error *err) DS_NODISCARD;
void ds_session_close(struct ds_session *session);

const struct ds_model_shape *ds_session_shape(const struct ds_session *session);
/* Bytes of parameters that a row reads: all, but of a table of tokens that is no classifier, and of
 * experts those that it is given to. */
uint64_t ds_session_bytes(const struct ds_session *session);

/* Whose turn it is: what is said below of rows is said of this sequence, of 0 until then. */
void ds_session_turn(struct ds_session *session, unsigned sequence);
/* Rows read so far, and how many there is room for. */
uint64_t ds_session_rows(const struct ds_session *session);
uint64_t ds_session_room(const struct ds_session *session);

/* Read more ids.  -EDOM: one is not of the vocabulary; -ENOSPC: no room for so many; nothing is
 * read then. */
int ds_session_read(struct ds_session *session, const int32_t *ids, size_t count,
                    struct ds_error *err) DS_NODISCARD;
/* Forget all but the first rows.  What ds_session_logits() gives is of the row that was read last,
 * until another is. */
void ds_session_rewind(struct ds_session *session, uint64_t rows);
/* Forget all, and take over the first rows of another sequence, which has as many. */
int ds_session_copy(struct ds_session *session, unsigned from, uint64_t rows, struct ds_error *err)
    DS_NODISCARD;

/* Whoever's turn it is: one more id of each of these sequences, which differ and have room. */
struct ds_session_next {
    unsigned sequence;
    int32_t id; /* of the vocabulary */
};
int ds_session_step(struct ds_session *session, const struct ds_session_next *next, size_t count,
                    struct ds_error *err) DS_NODISCARD;

/* Logits of what follows, [vocab], of a step [count, vocab].  Borrowed until the next read. */
int ds_session_logits(struct ds_session *session, const float **logits, struct ds_error *err)
    DS_NODISCARD;

#endif
