/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * link.h - a worker's line to its agent: frames over an inherited socket.
 *
 * The agent starts a rank with the environment of launcher/spec.h (RANK, WORLD_SIZE, LOCAL_RANK,
 * LOCAL_WORLD_SIZE, ...) and, for a dsrun-worker, DSRUN_LINK_FD (a stream socket, frames of
 * base/wire.h both ways), DSRUN_SHM_FD (an empty memfd shared by the ranks of the host) and
 * DSRUN_CORES ("0-3,8": the cores of this rank).  The first frame from the agent is SPEC, whose
 * payload is the launcher's opaque blob; for a training job that is runtime/spec.h's text.
 *
 * A beat tells the launcher the step that was made and what the rank does next (enum
 * ds_wire_phase); without a step for too long the launcher asks with SIGNAL(WHERE), and the reading
 * thread answers with an event "where", whatever the others wait for.
 *
 * One thread of the worker reads: SIGNAL(STOP) sets a flag, SIGNAL(ABORT) or the end of the line
 * calls `on_abort` once, ACK wakes ds_link_flush(), STORE ds_link_get().  Writing is done under a
 * lock by any thread.  SIGTERM and SIGINT of the process count as SIGNAL(STOP).
 *
 * Tests   tests/engine/test_link.c
 */
#ifndef DS_RUNTIME_LINK_H
#define DS_RUNTIME_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/wire.h"

struct ds_link;

/* `fd` is taken.  Waits for the SPEC frame and appends its payload to `spec`. */
int ds_link_open(struct ds_link **link, int fd, uint32_t rank, struct ds_buf *spec,
                 struct ds_error *err) DS_NODISCARD;
void ds_link_close(struct ds_link *link);

/* Called once when the job is over for this rank: from the reading thread, or from here when that
 * was the case before.  It must not call the link.  Once a call with NULL has returned, what was
 * wished before is not under way and does not come. */
void ds_link_on_abort(struct ds_link *link, void (*on_abort)(void *user), void *user);

/* One JSON object as text; it becomes a line of metrics.jsonl / events.jsonl. */
int ds_link_metric(struct ds_link *link, const char *json, struct ds_error *err) DS_NODISCARD;
int ds_link_event(struct ds_link *link, const char *json, struct ds_error *err) DS_NODISCARD;
int ds_link_beat(struct ds_link *link, uint64_t step, struct ds_error *err) DS_NODISCARD;
/* A beat that says what is done until the next one. */
int ds_link_phase(struct ds_link *link, enum ds_wire_phase phase, struct ds_error *err)
    DS_NODISCARD;

/* `where` writes a few words, terminated, at most `cap` bytes: what the rank is at.  Called by the
 * reading thread; NULL: nothing more is known than the step. */
void ds_link_on_where(struct ds_link *link, void (*where)(void *user, char *out, size_t cap),
                      void *user);

/* Wait until the launcher has on disk everything sent so far.  -ECANCELED when the line ends. */
int ds_link_flush(struct ds_link *link, struct ds_error *err) DS_NODISCARD;

/* Rendezvous with the other ranks through the launcher (base/rendezvous.h).  Put a key once. */
int ds_link_put(struct ds_link *link, const char *key, const void *value, size_t bytes,
                struct ds_error *err) DS_NODISCARD;
/* Wait for the value of `key` (count 0) or for `count` keys that begin with it; `answer` becomes
 * the payload of the frame, read with ds_store_note_get(); a late answer to an earlier question is
 * not taken for it.  One thread at a time.
 * -ECANCELED when the line ends, -ETIMEDOUT. */
int ds_link_get(struct ds_link *link, const char *key, uint32_t count, unsigned timeout_ms,
                struct ds_buf *answer, struct ds_error *err) DS_NODISCARD;

/* Wait until the job is over for this rank, at most `timeout_ms`; true when it is. */
bool ds_link_wait_over(struct ds_link *link, unsigned timeout_ms);

/* Was a stop asked for (frame or signal)?  Cheap; from any thread. */
bool ds_link_stop_requested(const struct ds_link *link);

#endif
