/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fold.h - texts of many hosts, each different one kept once.
 *
 *     put, put, ... close     of each host, in any order
 *     seal                    then every host that leads stands for itself and those after it
 *
 * Kept are at most DS_MAX_FOLD_BYTES of a host and DS_MAX_FOLD_ALL of all; who is told that there
 * is no more room shows the rest in another way.  Texts are compared byte for byte.
 *
 * Pure.   Tests   tests/cli/test_fold.c
 */
#ifndef DS_CLI_FOLD_H
#define DS_CLI_FOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

#define DS_FOLD_END UINT32_MAX

struct ds_fold_text { /* of one host */
    struct ds_buf bytes;
    uint64_t hash;
    uint32_t owner;      /* the host that keeps the bytes: the first one closed with this text */
    uint32_t head, next; /* once sealed: of an owner, its lowest host; of all, the next one */
    bool closed;
};

struct ds_fold {
    struct ds_fold_text *text; /* [hosts] */
    uint32_t hosts;
    uint32_t *table; /* hash to 1 + owner, open addressing; 0: free */
    size_t table_cap, held_bytes;
};

int ds_fold_init(struct ds_fold *fold, uint32_t hosts, struct ds_error *err) DS_NODISCARD;
void ds_fold_release(struct ds_fold *fold); /* fine on a zeroed struct */

/* Add to the text of a host.  -ENOBUFS: no room, -ENOMEM; nothing was added. */
int ds_fold_put(struct ds_fold *fold, uint32_t host, const void *bytes, size_t len);

/* Forget what was put for a host that is not closed. */
void ds_fold_drop(struct ds_fold *fold, uint32_t host);

/* The text of the host is whole. */
void ds_fold_close(struct ds_fold *fold, uint32_t host);

/* Every text is whole; nothing is put any more. */
void ds_fold_seal(struct ds_fold *fold);

/* The text of a host.  Borrowed until the next put, drop or close. */
const struct ds_buf *ds_fold_text(const struct ds_fold *fold, uint32_t host);

/* Sealed: has the host a text, and is it the lowest one that has this text? */
bool ds_fold_leads(const struct ds_fold *fold, uint32_t host);
/* Sealed: the next host with the text of `host`, or DS_FOLD_END. */
uint32_t ds_fold_after(const struct ds_fold *fold, uint32_t host);

/* Sealed: the hosts with the text of `host`, which leads, as a list of their names. */
void ds_fold_list(const struct ds_fold *fold, uint32_t host, const char *const *names,
                  struct ds_buf *out);

#endif
