/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * board.c - the contract is in board.h.
 */
#include "runtime/board.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/rendezvous.h"

static void key_of(char key[DS_MAX_STORE_KEY], unsigned rank)
{
    (void)snprintf(key, DS_MAX_STORE_KEY, "late/%u", rank);
}

static int tell(void *user, const void *note, size_t bytes)
{
    const struct ds_board *board = user;
    char key[DS_MAX_STORE_KEY];

    key_of(key, board->rank);
    return ds_link_put(board->link, key, note, bytes, NULL);
}

static int ask(void *user, unsigned rank, void *note, size_t bytes, unsigned timeout_ms)
{
    const struct ds_board *board = user;
    struct ds_store_note answer;
    struct ds_store_entry entry;
    struct ds_buf text;
    char key[DS_MAX_STORE_KEY];
    size_t at = 0;
    int rc;

    key_of(key, rank);
    ds_buf_init(&text, DS_MAX_FRAME_BYTES);
    rc = ds_link_get(board->link, key, 0, timeout_ms, &text, NULL);
    if (rc == 0)
        rc = ds_store_note_get(text.data, text.len, &answer, NULL);
    if (rc == 0 && (!ds_store_entry_next(&answer, &at, &entry) || entry.value_bytes != bytes))
        rc = -EPROTO;
    if (rc == 0)
        memcpy(note, entry.value, bytes);
    ds_buf_release(&text);
    return rc;
}

void ds_board_init(struct ds_board *board, struct ds_link *link, unsigned rank)
{
    *board = (struct ds_board){.link = link, .rank = rank};
    board->comm = (struct ds_comm_board){.tell = tell, .ask = ask, .user = board};
}
