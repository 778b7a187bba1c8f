/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * store.c - the contract is in store.h.
 *
 * A rank that waits counts what is missing once, when it asks; every put counts it down.
 */
#include "launcher/fleet/store.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char OWN_PREFIX[] = "job/"; /* keys of the launcher */

enum { OWN_KEYS = 4 };

static int keep(struct ds_store *store, const struct ds_store_entry *given, struct ds_error *err);

static int draw_key(struct ds_store *store, struct ds_error *err)
{
    uint8_t key[DS_JOB_KEY_BYTES];
    const struct ds_store_entry entry = {.key = DS_JOB_KEY,
                                         .key_bytes = sizeof(DS_JOB_KEY) - 1,
                                         .value = key,
                                         .value_bytes = sizeof(key)};
    int rc = 0;

    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
        rc = ds_fail(err, EIO, "cannot get random bytes: %s", strerror(errno));
    if (rc == 0)
        rc = keep(store, &entry, err);
    explicit_bzero(key, sizeof(key));
    return rc;
}

int ds_store_init(struct ds_store *store, uint32_t world, ds_store_answer_fn *answer, void *user,
                  struct ds_error *err)
{
    int rc;

    *store = (struct ds_store){.world = world, .answer = answer, .user = user};
    ds_arena_init(&store->arena);
    store->room = world * DS_MAX_STORE_PUTS + OWN_KEYS;
    store->wait = calloc(world, sizeof(*store->wait));
    store->entry = calloc(store->room, sizeof(*store->entry));
    rc = store->wait != NULL && store->entry != NULL
             ? draw_key(store, err)
             : ds_fail(err, ENOMEM, "no memory for the rendezvous of %u ranks", world);
    if (rc != 0)
        ds_store_release(store);
    return rc;
}

void ds_store_release(struct ds_store *store)
{
    free(store->wait);
    free(store->entry);
    ds_arena_release(&store->arena);
    *store = (struct ds_store){0};
}

static bool begins_with(const char *key, size_t key_bytes, const char *with, size_t with_bytes)
{
    return key_bytes >= with_bytes && memcmp(key, with, with_bytes) == 0;
}

/* Does `wait` want this entry? */
static bool wants(const struct ds_store_wait *wait, const struct ds_store_entry *entry)
{
    return begins_with(entry->key, entry->key_bytes, wait->key, wait->key_bytes) &&
           (wait->count > 0 || entry->key_bytes == wait->key_bytes);
}

static int answer(struct ds_store *store, uint32_t rank, struct ds_error *err)
{
    const struct ds_store_wait *wait = &store->wait[rank];
    const struct ds_store_note note = {.what = DS_STORE_ANSWER,
                                       .count = wait->count,
                                       .key = wait->key,
                                       .key_bytes = wait->key_bytes,
                                       .rest = ""};
    uint32_t left = wait->count > 0 ? wait->count : 1;
    struct ds_buf out;
    int rc;

    ds_buf_init(&out, DS_MAX_FRAME_BYTES);
    (void)ds_store_note_put(&out, &note);
    for (uint32_t i = 0; left > 0 && i < store->entries; i++)
        if (wants(wait, &store->entry[i])) {
            (void)ds_store_entry_put(&out, &store->entry[i]);
            left--;
        }
    rc = out.failed
             ? ds_fail(err, EMSGSIZE, "%u rendezvous values do not fit in a frame", wait->count)
             : 0;
    if (rc == 0)
        store->answer(store->user, rank, out.data, out.len);
    ds_buf_release(&out);
    return rc;
}

static struct ds_store_entry *find(const struct ds_store *store, const char *key, size_t bytes)
{
    for (uint32_t i = 0; i < store->entries; i++)
        if (store->entry[i].key_bytes == bytes && memcmp(store->entry[i].key, key, bytes) == 0)
            return &store->entry[i];
    return NULL;
}

/* Keep an entry and give it to those who wait. */
static int keep(struct ds_store *store, const struct ds_store_entry *given, struct ds_error *err)
{
    struct ds_store_entry *entry = &store->entry[store->entries];
    char *copy;
    int rc = 0;

    if (find(store, given->key, given->key_bytes) != NULL)
        return ds_fail(err, EPROTO, "the rendezvous key '%.*s' is put twice", (int)given->key_bytes,
                       given->key);
    copy = ds_arena_alloc(&store->arena, (size_t)given->key_bytes + given->value_bytes, 1);
    if (copy == NULL || store->entries == store->room)
        return ds_fail(err, ENOMEM, "no memory for a rendezvous value");
    memcpy(copy, given->key, given->key_bytes);
    memcpy(copy + given->key_bytes, given->value, given->value_bytes);
    *entry = *given;
    entry->key = copy;
    entry->value = copy + given->key_bytes;
    store->entries++;
    for (uint32_t rank = 0; rc == 0 && store->waiting > 0 && rank < store->world; rank++) {
        struct ds_store_wait *wait = &store->wait[rank];

        if (wait->missing == 0 || !wants(wait, entry) || --wait->missing > 0)
            continue;
        store->waiting--;
        rc = answer(store, rank, err);
    }
    return rc;
}

static int take_put(struct ds_store *store, uint32_t rank, const struct ds_store_note *note,
                    struct ds_error *err)
{
    const struct ds_store_entry entry = {.key = note->key,
                                         .key_bytes = note->key_bytes,
                                         .value = note->rest,
                                         .value_bytes = note->rest_bytes};

    if (begins_with(note->key, note->key_bytes, OWN_PREFIX, sizeof(OWN_PREFIX) - 1))
        return ds_fail(err, EPROTO, "rank %u puts a rendezvous key that is not a rank's", rank);
    if (store->wait[rank].puts == DS_MAX_STORE_PUTS)
        return ds_fail(err, EPROTO, "rank %u puts more than %d rendezvous keys", rank,
                       DS_MAX_STORE_PUTS);
    store->wait[rank].puts++;
    return keep(store, &entry, err);
}

static int take_get(struct ds_store *store, uint32_t rank, const struct ds_store_note *note,
                    struct ds_error *err)
{
    struct ds_store_wait *wait = &store->wait[rank];

    if (wait->missing > 0) /* it waits for that no longer: its time was over */
        store->waiting--;
    wait->count = note->count;
    wait->missing = note->count > 0 ? note->count : 1;
    wait->key_bytes = note->key_bytes;
    memcpy(wait->key, note->key, note->key_bytes);
    for (uint32_t i = 0; wait->missing > 0 && i < store->entries; i++)
        if (wants(wait, &store->entry[i]))
            wait->missing--;
    if (wait->missing == 0)
        return answer(store, rank, err);
    store->waiting++;
    return 0;
}

int ds_store_take(struct ds_store *store, uint32_t rank, const void *payload, size_t len,
                  struct ds_error *err)
{
    struct ds_store_note note;
    int rc;

    if (rank >= store->world)
        return ds_fail(err, EPROTO, "there is no rank %u", rank);
    rc = ds_store_note_get(payload, len, &note, err);
    if (rc != 0)
        return rc;
    if (note.what == DS_STORE_PUT)
        return take_put(store, rank, &note, err);
    if (note.what == DS_STORE_GET)
        return take_get(store, rank, &note, err);
    return ds_fail(err, EPROTO, "rank %u gives a rendezvous answer", rank);
}
