/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * store.h - the launcher's side of rendezvous.h: what ranks put, and who waits for what.
 *
 * No descriptor, no clock; answers go to a callback.  A rank puts at most DS_MAX_STORE_PUTS
 * keys and waits for one answer at a time, the one that it asked for last, so memory is bounded by
 * the number of ranks.
 *
 * Tests   tests/launcher/test_store.c, tests/fuzz/fuzz_store.c
 */
#ifndef DS_LAUNCHER_FLEET_STORE_H
#define DS_LAUNCHER_FLEET_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/rendezvous.h"

struct ds_store_wait {        /* of one rank */
    uint32_t count, missing;  /* as asked; keys that are not there yet; 0: it waits not */
    uint32_t key_bytes, puts; /* puts: how many it has made */
    char key[DS_MAX_STORE_KEY];
};

/* An answer for `rank`; the payload is borrowed. */
typedef void ds_store_answer_fn(void *user, uint32_t rank, const void *payload, size_t len);

struct ds_store {
    struct ds_arena arena; /* keys and values */
    struct ds_store_entry *entry;
    uint32_t entries, room;
    struct ds_store_wait *wait; /* per rank */
    uint32_t world, waiting;
    ds_store_answer_fn *answer;
    void *user;
};

/* Begins with one value, the job's secret, drawn here: nobody sees it but the ranks that ask.  On
 * failure nothing is left to release. */
int ds_store_init(struct ds_store *store, uint32_t world, ds_store_answer_fn *answer, void *user,
                  struct ds_error *err) DS_NODISCARD;
void ds_store_release(struct ds_store *store); /* fine on a zeroed struct */

/* The payload of a STORE frame of `rank`.  -EPROTO: the rank may not do this; -ENOMEM.  Answers
 * that became possible are given before this returns. */
int ds_store_take(struct ds_store *store, uint32_t rank, const void *payload, size_t len,
                  struct ds_error *err) DS_NODISCARD;

#endif
