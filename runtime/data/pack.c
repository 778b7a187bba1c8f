/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pack.c - the contract is in pack.h.
 */
#include "runtime/data/pack.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* No sample is shorter: one id in front of a target. */
enum { SHORTEST = 2 };

int ds_pack_open(struct ds_pack *pack, uint64_t length, uint32_t filling,
                 struct ds_token_writer *writer, struct ds_error *err)
{
    uint64_t rows = DS_PACK_IDS / length;

    assert(length >= SHORTEST);
    rows = rows < 1 ? 1 : rows > DS_PACK_ROWS ? DS_PACK_ROWS : rows;
    *pack = (struct ds_pack){
        .writer = writer, .length = length, .filling = filling, .rows = (size_t)rows};
    pack->id = calloc(rows * length, sizeof(*pack->id));
    pack->used = calloc(rows, sizeof(*pack->used));
    if (pack->id != NULL && pack->used != NULL)
        return 0;
    ds_pack_close(pack);
    return ds_fail(err, ENOMEM, "no memory for %ju open sequences", (uintmax_t)rows);
}

void ds_pack_close(struct ds_pack *pack)
{
    free(pack->id);
    free(pack->used);
    *pack = (struct ds_pack){0};
}

/* Fill up a row and write it; the last one takes its place. */
static int write_row(struct ds_pack *pack, size_t row, struct ds_error *err)
{
    uint32_t *ids = pack->id + row * pack->length;
    size_t last = pack->open - 1;
    int rc;

    for (uint64_t i = pack->used[row]; i < pack->length; i++)
        ids[i] = pack->filling;
    rc = ds_token_writer_put(pack->writer, ids, (size_t)pack->length, err);
    if (row != last)
        memcpy(ids, pack->id + last * pack->length, (size_t)pack->used[last] * sizeof(*ids));
    pack->used[row] = pack->used[last];
    pack->open--;
    pack->written++;
    return rc;
}

/* The fullest row with room for `count` more, the first of those; pack->open: there is none. */
static size_t fullest(const struct ds_pack *pack, uint64_t count)
{
    size_t best = pack->open;

    for (size_t i = 0; i < pack->open; i++)
        if (pack->length - pack->used[i] >= count &&
            (best == pack->open || pack->used[i] > pack->used[best]))
            best = i;
    return best;
}

int ds_pack_put(struct ds_pack *pack, const uint32_t *ids, size_t count, struct ds_error *err)
{
    size_t row = fullest(pack, count);
    int rc = 0;

    assert(count >= 1 && count <= pack->length);
    if (row == pack->open && pack->open == pack->rows) {
        rc = write_row(pack, fullest(pack, 0), err);
        row = pack->open;
    }
    if (rc != 0)
        return rc;
    if (row == pack->open)
        pack->used[pack->open++] = 0;
    memcpy(pack->id + row * pack->length + pack->used[row], ids, count * sizeof(*ids));
    pack->used[row] += count;
    return pack->length - pack->used[row] < SHORTEST ? write_row(pack, row, err) : 0;
}

int ds_pack_finish(struct ds_pack *pack, struct ds_error *err)
{
    int rc = 0;

    while (rc == 0 && pack->open > 0)
        rc = write_row(pack, pack->open - 1, err);
    return rc;
}
