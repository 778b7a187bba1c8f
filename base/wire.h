/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * wire.h - the frames between dsrun, agent and worker.
 *
 *      0        4       6       8        12
 *      +--------+-------+-------+--------+--------------------+
 *      | length | type  | flags | rank   | payload (length B) |   little endian
 *      +--------+-------+-------+--------+--------------------+
 *
 * The first frame each side sends is HELLO.  Bytes before HELLO's magic are a
 * login banner and are dropped, at most DS_MAX_BANNER_BYTES.  A length above
 * DS_MAX_FRAME_BYTES or an unknown type ends the connection with -EPROTO.
 *
 * HELLO payload:  "DSRUN\r\n\032" | u32 protocol version | char build_id[32] | u8 nonce[16]
 *
 * The codec is pure: no descriptor, no clock, no allocation but the buffer's.
 * Tests   tests/base/test_wire.c, tests/fuzz/fuzz_wire.c
 */
#ifndef DS_BASE_WIRE_H
#define DS_BASE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum { DS_WIRE_HEADER_BYTES = 12, DS_WIRE_VERSION = 1, DS_WIRE_BUILD_BYTES = 32 };
#define DS_WIRE_NO_RANK UINT32_MAX /* the frame is about the host, not a rank */

/* clang-format off */
#define DS_WIRE_TYPES(X) \
    X(HELLO,   1, "who speaks: protocol version, build id, nonce") \
    X(SPEC,    2, "launcher to agent: what to start; agent to worker: the job") \
    X(SPAWNED, 3, "agent: a rank runs; payload u32 pid") \
    X(OUT,     4, "bytes a rank wrote to stdout") \
    X(ERR,     5, "bytes a rank wrote to stderr") \
    X(STORE,   6, "rendezvous: put, get, answer (base/rendezvous.h)") \
    X(METRIC,  7, "rank 0: one line of metrics.jsonl, a JSON object") \
    X(EVENT,   8, "a rank or agent: one line of events.jsonl, a JSON object") \
    X(BEAT,    9, "both ways: alive; of a rank: payload u64 step, u32 enum ds_wire_phase") \
    X(SIGNAL, 10, "to ranks; payload u32 enum ds_wire_signal") \
    X(EXIT,   11, "agent: a rank ended; payload u32 code, u32 signal, u32 enum ds_wire_why, or'ed") \
    X(ACK,    12, "launcher to rank: everything up to your WANT_ACK frame is on disk") \
    X(READY,  13, "agent: its host can start its ranks; payload in launcher/gather.h") \
    X(GO,     14, "launcher to agent: start them, and where they meet; the same payload")
/* clang-format on */

enum ds_wire_type {
#define X(id, number, text) DS_WIRE_##id = (number),
    DS_WIRE_TYPES(X)
#undef X
};

enum ds_wire_flag { DS_WIRE_WANT_ACK = 1 };

/* clang-format off */
#define DS_WIRE_SIGNALS(X) \
    X(STOP,  1, "save at the next step that all ranks agree on, exit 75") \
    X(ABORT, 2, "another rank failed: give up waiting, exit at once") \
    X(KILL,  3, "to agents only: SIGKILL to this rank, or to all of the host") \
    X(WHERE, 4, "no step for too long: answer with an EVENT that says where you are") \
    X(USR1,  5, "to programs of dsrun launch: SIGUSR1, to each rank's own process") \
    X(USR2,  6, "the same, SIGUSR2")
/* clang-format on */

enum ds_wire_signal {
#define X(id, number, text) DS_SIGNAL_##id = (number),
    DS_WIRE_SIGNALS(X)
#undef X
};

/* clang-format off */
enum ds_wire_why { DS_WHY_OOM = 1,  /* killed: the host ran out of memory */
                   DS_WHY_HELD = 2 /* never started: another job has a GPU that it asks for */ };
/* clang-format on */

enum ds_wire_phase { /* what a rank does after the step it has made */
                     DS_PHASE_STEP,
                     DS_PHASE_EVALUATE,
                     DS_PHASE_SAVE,
                     DS_PHASE_DISK_FULL, /* it ends, because a disk is full, */
                     DS_PHASE_NO_MEMORY, /* there is no memory left, */
                     DS_PHASE_COMM,      /* or a collective timed out or lost a peer */
                     DS_PHASES
};
enum { DS_WIRE_BEAT_BYTES = 12 };

struct ds_frame {
    uint16_t type;       /* enum ds_wire_type */
    uint16_t flags;      /* enum ds_wire_flag, or'ed */
    uint32_t rank;       /* global rank or DS_WIRE_NO_RANK */
    const void *payload; /* borrowed from the bytes decoded */
    uint32_t len;
};

/* Append one frame.  -EMSGSIZE above DS_MAX_FRAME_BYTES, else as ds_buf_put(). */
int ds_wire_encode(struct ds_buf *out, const struct ds_frame *frame);

/* Look for one frame at the start of `bytes`.  1: `*frame` is set and `*used` bytes are
 * consumed; 0: more bytes are needed; -EPROTO: `bytes` cannot be the start of a frame. */
int ds_wire_decode(const void *bytes, size_t len, struct ds_frame *frame, size_t *used,
                   struct ds_error *err) DS_NODISCARD;

/* Offset of the HELLO frame in what a login may have printed before it: >= 0; -EAGAIN: not
 * there yet; -EPROTO: not within DS_MAX_BANNER_BYTES. */
long ds_wire_find_hello(const void *bytes, size_t len);

struct ds_hello {
    uint32_t version;
    char build_id[DS_WIRE_BUILD_BYTES + 1];
    uint8_t nonce[16];
};
int ds_wire_put_hello(struct ds_buf *out, const struct ds_hello *hello);
int ds_wire_get_hello(const struct ds_frame *frame, struct ds_hello *hello, struct ds_error *err)
    DS_NODISCARD;

/* "HELLO", ...; NULL for an unknown type. */
const char *ds_wire_type_name(uint16_t type);

/* Little-endian scalars in payloads. */
void ds_put_u32(void *at, uint32_t value);
void ds_put_u64(void *at, uint64_t value);
uint32_t ds_get_u32(const void *at);
uint64_t ds_get_u64(const void *at);

#endif
