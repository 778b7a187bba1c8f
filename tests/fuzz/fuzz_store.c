/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_store.c - any bytes as the STORE frames of the ranks of a job.
 *
 * The input is notes of three ranks, one after the other: u8 rank | u8 length | payload.  Beyond "no
 * crash": an answer is one, goes to a rank that had asked and waited, and holds as many entries as
 * were asked for, each with a key that fits.
 */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "launcher/fleet/store.h"

enum { WORLD = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct watch {
    bool asked[WORLD];
};

static void on_answer(void *user, uint32_t rank, const void *payload, size_t len)
{
    struct watch *watch = user;
    struct ds_store_note note;
    struct ds_store_entry entry;
    size_t at = 0, entries = 0;

    assert(rank < WORLD && watch->asked[rank]);
    watch->asked[rank] = false;
    assert(ds_store_note_get(payload, len, &note, NULL) == 0 && note.what == DS_STORE_ANSWER);
    while (ds_store_entry_next(&note, &at, &entry)) {
        assert(entry.key_bytes >= note.key_bytes);
        assert(memcmp(entry.key, note.key, note.key_bytes) == 0);
        entries++;
    }
    assert(entries == (note.count > 0 ? note.count : 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct watch watch = {0};
    struct ds_store store;

    if (ds_store_init(&store, WORLD, on_answer, &watch, NULL) != 0)
        return 0;
    while (size >= 2) {
        uint32_t rank = data[0] % (WORLD + 1);
        size_t len = data[1] < size - 2 ? data[1] : size - 2;
        struct ds_store_note note;
        struct ds_error err = {0};
        bool asks = ds_store_note_get(data + 2, len, &note, NULL) == 0 &&
                    note.what == DS_STORE_GET && rank < WORLD && !watch.asked[rank];
        int rc;

        if (asks)
            watch.asked[rank] = true;
        rc = ds_store_take(&store, rank, data + 2, len, &err);
        assert(rc == 0 || (rc == -EPROTO && err.text[0] != '\0'));
        assert(!asks || rc == 0);
        data += 2 + len;
        size -= 2 + len;
    }
    assert(store.entries <= WORLD * DS_MAX_STORE_PUTS + 1);
    ds_store_release(&store);
    return 0;
}
