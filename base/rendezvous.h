/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rendezvous.h - what STORE frames carry: how ranks find each other through the launcher.
 *
 *     u32 what | u32 count | u32 key_bytes | key | rest          little endian
 *
 *     PUT     rank to launcher   rest is the value; a key is put once
 *     GET     rank to launcher   count 0: the value of `key`; n: n keys that begin with `key`.
 *                                Answered as soon as they are there
 *     ANSWER  launcher to rank   count and key as asked; rest is entries, in the order they came:
 *                                u32 key_bytes | u32 value_bytes | key | value
 *
 * Keys that begin with "job/" are the launcher's own: "job/key" is the job's secret.
 *
 * Pure: no descriptor, no clock.
 * Tests   tests/launcher/test_store.c, tests/fuzz/fuzz_store.c
 */
#ifndef DS_BASE_RENDEZVOUS_H
#define DS_BASE_RENDEZVOUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum { DS_JOB_KEY_BYTES = 32 };
#define DS_JOB_KEY "job/key"

enum ds_store_what { DS_STORE_PUT = 1, DS_STORE_GET = 2, DS_STORE_ANSWER = 3 };

struct ds_store_note {
    enum ds_store_what what;
    uint32_t count, key_bytes, rest_bytes;
    const char *key;  /* not terminated; borrowed from the bytes read, as is rest */
    const void *rest; /* PUT: the value; ANSWER: entries; GET: nothing */
};

struct ds_store_entry {
    uint32_t key_bytes, value_bytes;
    const char *key;
    const void *value;
};

/* Append a note, or an entry to the rest of an answer.  As ds_buf_put(). */
int ds_store_note_put(struct ds_buf *out, const struct ds_store_note *note);
int ds_store_entry_put(struct ds_buf *out, const struct ds_store_entry *entry);

/* -EPROTO: not a note, a key of no or more than DS_MAX_STORE_KEY bytes, a value of more than
 * DS_MAX_STORE_VALUE bytes, or an answer whose entries do not fit it. */
int ds_store_note_get(const void *bytes, size_t len, struct ds_store_note *note,
                      struct ds_error *err) DS_NODISCARD;

/* The next entry of an answer that ds_store_note_get() took: *at runs from 0.  False at the end. */
bool ds_store_entry_next(const struct ds_store_note *answer, size_t *at,
                         struct ds_store_entry *entry);

#endif
