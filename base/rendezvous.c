/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rendezvous.c - the contract is in rendezvous.h.
 */
#include "base/rendezvous.h"

#include <errno.h>

#include "base/limits.h"
#include "base/wire.h"

enum { NOTE_BYTES = 12, ENTRY_BYTES = 8 };

int ds_store_note_put(struct ds_buf *out, const struct ds_store_note *note)
{
    unsigned char head[NOTE_BYTES];

    ds_put_u32(head, note->what);
    ds_put_u32(head + 4, note->count);
    ds_put_u32(head + 8, note->key_bytes);
    (void)ds_buf_put(out, head, sizeof(head));
    (void)ds_buf_put(out, note->key, note->key_bytes);
    return ds_buf_put(out, note->rest, note->rest_bytes);
}

int ds_store_entry_put(struct ds_buf *out, const struct ds_store_entry *entry)
{
    unsigned char head[ENTRY_BYTES];

    ds_put_u32(head, entry->key_bytes);
    ds_put_u32(head + 4, entry->value_bytes);
    (void)ds_buf_put(out, head, sizeof(head));
    (void)ds_buf_put(out, entry->key, entry->key_bytes);
    return ds_buf_put(out, entry->value, entry->value_bytes);
}

bool ds_store_entry_next(const struct ds_store_note *answer, size_t *at,
                         struct ds_store_entry *entry)
{
    const unsigned char *bytes = answer->rest;
    size_t left = answer->rest_bytes - *at;

    if (left < ENTRY_BYTES)
        return false;
    bytes += *at;
    *entry = (struct ds_store_entry){.key_bytes = ds_get_u32(bytes),
                                     .value_bytes = ds_get_u32(bytes + 4)};
    left -= ENTRY_BYTES;
    if (entry->key_bytes == 0 || entry->key_bytes > DS_MAX_STORE_KEY || entry->key_bytes > left ||
        entry->value_bytes > DS_MAX_STORE_VALUE || entry->value_bytes > left - entry->key_bytes)
        return false;
    entry->key = (const char *)bytes + ENTRY_BYTES;
    entry->value = entry->key + entry->key_bytes;
    *at += (size_t)ENTRY_BYTES + entry->key_bytes + entry->value_bytes;
    return true;
}

/* Every byte of an answer belongs to one of as many entries as it says. */
static bool answer_fits(const struct ds_store_note *note)
{
    struct ds_store_entry entry;
    size_t at = 0, entries = 0;

    while (ds_store_entry_next(note, &at, &entry))
        entries++;
    return at == note->rest_bytes && entries == (note->count == 0 ? 1 : note->count);
}

int ds_store_note_get(const void *bytes, size_t len, struct ds_store_note *note,
                      struct ds_error *err)
{
    const unsigned char *at = bytes;
    struct ds_store_note out;

    if (len < NOTE_BYTES)
        return ds_fail(err, EPROTO, "a rendezvous note of %zu bytes", len);
    out = (struct ds_store_note){.what = (enum ds_store_what)ds_get_u32(at),
                                 .count = ds_get_u32(at + 4),
                                 .key_bytes = ds_get_u32(at + 8)};
    len -= NOTE_BYTES;
    if (out.key_bytes == 0 || out.key_bytes > DS_MAX_STORE_KEY || out.key_bytes > len)
        return ds_fail(err, EPROTO, "a rendezvous key of %u bytes, must be 1 to %d", out.key_bytes,
                       DS_MAX_STORE_KEY);
    out.key = (const char *)at + NOTE_BYTES;
    out.rest = out.key + out.key_bytes;
    out.rest_bytes = (uint32_t)(len - out.key_bytes);
    switch (out.what) {
    case DS_STORE_PUT:
        if (out.rest_bytes > DS_MAX_STORE_VALUE || out.count != 0)
            return ds_fail(err, EPROTO, "a rendezvous value of %u bytes, at most %d are taken",
                           out.rest_bytes, DS_MAX_STORE_VALUE);
        break;
    case DS_STORE_GET:
        if (out.rest_bytes != 0 || out.count > DS_MAX_RANKS)
            return ds_fail(err, EPROTO, "a malformed rendezvous question");
        break;
    case DS_STORE_ANSWER:
        if (!answer_fits(&out))
            return ds_fail(err, EPROTO, "a malformed rendezvous answer");
        break;
    default: return ds_fail(err, EPROTO, "a rendezvous note of an unknown kind");
    }
    *note = out;
    return 0;
}
