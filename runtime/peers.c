/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * peers.c - the contract is in peers.h.
 */
#include "runtime/peers.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rendezvous.h"

/* Ranks start at different times, the last one after its host was pushed its programs. */
enum { GATHER_MS = 10 * 60 * 1000, CONNECT_MS = 60 * 1000 };
static const char PREFIX[] = "comm/";

/* The rank in "comm/12"; false: there is none below `world`. */
static bool rank_of(const struct ds_store_entry *entry, unsigned world, unsigned *rank)
{
    size_t at = sizeof(PREFIX) - 1;

    *rank = 0;
    for (; at < entry->key_bytes && entry->key[at] >= '0' && entry->key[at] <= '9'; at++)
        if (*rank < world)
            *rank = *rank * 10 + (unsigned)(entry->key[at] - '0');
    return at == entry->key_bytes && at >= sizeof(PREFIX) && *rank < world;
}

static int read_answer(const struct ds_peers *meet, const struct ds_buf *answer, size_t bytes,
                       uint8_t *all, struct ds_error *err)
{
    struct ds_store_note note;
    struct ds_store_entry entry;
    size_t at = 0;
    unsigned rank, found = 0;
    int rc = ds_store_note_get(answer->data, answer->len, &note, err);

    while (rc == 0 && ds_store_entry_next(&note, &at, &entry)) {
        if (!rank_of(&entry, meet->world, &rank) || entry.value_bytes != bytes)
            rc = ds_fail(err, EPROTO, "a rank told '%.*s' in the rendezvous", (int)entry.key_bytes,
                         entry.key);
        else
            memcpy(all + rank * bytes, entry.value, bytes);
        found++;
    }
    if (rc == 0 && found != meet->world)
        rc = ds_fail(err, EPROTO, "%u of %u ranks are in the rendezvous", found, meet->world);
    return rc;
}

static int gather(void *user, const void *mine, size_t bytes, void *all, struct ds_error *err)
{
    struct ds_peers *meet = user;
    struct ds_buf answer;
    char key[DS_MAX_STORE_KEY];
    int rc;

    ds_buf_init(&answer, DS_MAX_FRAME_BYTES);
    (void)snprintf(key, sizeof(key), "%s%u", PREFIX, meet->rank);
    rc = ds_link_put(meet->link, key, mine, bytes, err);
    if (rc == 0)
        rc = ds_link_get(meet->link, PREFIX, meet->world, GATHER_MS, &answer, err);
    if (rc == 0)
        rc = read_answer(meet, &answer, bytes, all, err);
    ds_buf_release(&answer);
    return rc;
}

static int get_key(struct ds_peers *meet, struct ds_error *err)
{
    struct ds_store_entry entry;
    struct ds_store_note note;
    struct ds_buf answer;
    size_t at = 0;
    int rc;

    ds_buf_init(&answer, DS_MAX_FRAME_BYTES);
    rc = ds_link_get(meet->link, DS_JOB_KEY, 0, GATHER_MS, &answer, err);
    if (rc == 0)
        rc = ds_store_note_get(answer.data, answer.len, &note, err);
    if (rc == 0 &&
        (!ds_store_entry_next(&note, &at, &entry) || entry.value_bytes != sizeof(meet->key)))
        rc = ds_fail(err, EPROTO, "the launcher gave no key for the job");
    if (rc == 0)
        memcpy(meet->key, entry.value, sizeof(meet->key));
    if (answer.data != NULL)
        explicit_bzero(answer.data, answer.cap);
    ds_buf_release(&answer);
    return rc;
}

int ds_peers_init(struct ds_peers *meet, struct ds_link *link, unsigned rank, unsigned world,
                  unsigned node, const char *interface, struct ds_error *err)
{
    int rc;

    *meet = (struct ds_peers){.link = link, .rank = rank, .world = world};
    if (gethostname(meet->host, sizeof(meet->host) - 1) != 0)
        memcpy(meet->host, "?", 2);
    meet->comm = (struct ds_comm_meet){.host = meet->host,
                                       .address = meet->address,
                                       .node = node,
                                       .key = meet->key,
                                       .timeout_ms = CONNECT_MS,
                                       .gather = gather,
                                       .user = meet};
    rc = ds_comm_address(interface, meet->address, err);
    return rc == 0 ? get_key(meet, err) : rc;
}

void ds_peers_release(struct ds_peers *meet)
{
    explicit_bzero(meet->key, sizeof(meet->key));
}
