/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pack.h - short samples laid end to end in rows of one length.
 *
 * Best fit: a sample goes into the fullest of the open rows that has room for it, else into a new
 * one.  Of open rows there are as many as DS_PACK_IDS ids, at most DS_PACK_ROWS; where there is no
 * more, the fullest is filled up and written.  So memory is bounded, and the rows depend on the
 * samples and their order alone.
 *
 * Tests   tests/data/test_pack.c
 */
#ifndef DS_RUNTIME_DATA_PACK_H
#define DS_RUNTIME_DATA_PACK_H

#include "runtime/data/write.h"

enum { DS_PACK_IDS = 1 << 24, DS_PACK_ROWS = 1024 };

struct ds_pack {
    struct ds_token_writer *writer; /* borrowed */
    uint64_t length;
    uint32_t filling; /* what rows are filled up with, as it is */
    size_t rows, open;
    uint32_t *id;     /* [rows][length] */
    uint64_t *used;   /* [rows] */
    uint64_t written; /* rows */
};

/* Rows of `length` ids, 2 or more. */
int ds_pack_open(struct ds_pack *pack, uint64_t length, uint32_t filling,
                 struct ds_token_writer *writer, struct ds_error *err) DS_NODISCARD;
/* A sample of 1 to `length` ids. */
int ds_pack_put(struct ds_pack *pack, const uint32_t *ids, size_t count, struct ds_error *err)
    DS_NODISCARD;
/* Write what is open. */
int ds_pack_finish(struct ds_pack *pack, struct ds_error *err) DS_NODISCARD;
void ds_pack_close(struct ds_pack *pack); /* fine on a zeroed struct */

#endif
