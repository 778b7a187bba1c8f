/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fold.c - the contract is in fold.h.
 */
#include "cli/fold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/hostlist.h"

/* FNV-1a; equal hashes are compared byte for byte. */
#define HASH_BASIS UINT64_C(0xcbf29ce484222325)
#define HASH_PRIME UINT64_C(0x100000001b3)

int ds_fold_init(struct ds_fold *fold, uint32_t hosts, struct ds_error *err)
{
    *fold = (struct ds_fold){.hosts = hosts, .table_cap = 8};
    while (fold->table_cap < 2 * (size_t)hosts)
        fold->table_cap *= 2;
    fold->text = calloc(hosts, sizeof(*fold->text));
    fold->table = calloc(fold->table_cap, sizeof(*fold->table));
    if (fold->text == NULL || fold->table == NULL) {
        ds_fold_release(fold);
        return ds_fail(err, ENOMEM, "no memory for the output of %u hosts", hosts);
    }
    for (uint32_t i = 0; i < hosts; i++) {
        ds_buf_init(&fold->text[i].bytes, DS_MAX_FOLD_BYTES);
        fold->text[i].hash = HASH_BASIS;
        fold->text[i].owner = i;
    }
    return 0;
}

void ds_fold_release(struct ds_fold *fold)
{
    for (uint32_t i = 0; fold->text != NULL && i < fold->hosts; i++)
        ds_buf_release(&fold->text[i].bytes);
    free(fold->text);
    free(fold->table);
    *fold = (struct ds_fold){0};
}

int ds_fold_put(struct ds_fold *fold, uint32_t host, const void *bytes, size_t len)
{
    struct ds_fold_text *text = &fold->text[host];
    const unsigned char *at = bytes;
    size_t was = text->bytes.len;
    int rc =
        len > DS_MAX_FOLD_ALL - fold->held_bytes ? -ENOBUFS : ds_buf_put(&text->bytes, bytes, len);

    if (rc != 0) {
        text->bytes.len = was;
        text->bytes.failed = false;
        return rc;
    }
    fold->held_bytes += len;
    for (size_t i = 0; i < len; i++)
        text->hash = (text->hash ^ at[i]) * HASH_PRIME;
    return 0;
}

void ds_fold_drop(struct ds_fold *fold, uint32_t host)
{
    struct ds_fold_text *text = &fold->text[host];

    fold->held_bytes -= text->bytes.len;
    ds_buf_release(&text->bytes);
    ds_buf_init(&text->bytes, DS_MAX_FOLD_BYTES);
    text->hash = HASH_BASIS;
}

static bool equal(const struct ds_fold_text *a, const struct ds_fold_text *b)
{
    return a->hash == b->hash && a->bytes.len == b->bytes.len &&
           (a->bytes.len == 0 || memcmp(a->bytes.data, b->bytes.data, a->bytes.len) == 0);
}

void ds_fold_close(struct ds_fold *fold, uint32_t host)
{
    struct ds_fold_text *text = &fold->text[host];
    size_t at = (size_t)text->hash & (fold->table_cap - 1);

    if (text->closed)
        return;
    text->closed = true;
    while (fold->table[at] != 0) {
        uint32_t owner = fold->table[at] - 1;

        if (equal(&fold->text[owner], text)) {
            text->owner = owner;
            ds_fold_drop(fold, host);
            return;
        }
        at = (at + 1) & (fold->table_cap - 1);
    }
    fold->table[at] = host + 1;
}

void ds_fold_seal(struct ds_fold *fold)
{
    for (uint32_t i = 0; i < fold->hosts; i++) {
        ds_fold_close(fold, i);
        fold->text[i].head = DS_FOLD_END;
    }
    for (uint32_t i = fold->hosts; i-- > 0;) {
        struct ds_fold_text *owner = &fold->text[fold->text[i].owner];

        fold->text[i].next = owner->head;
        owner->head = i;
    }
}

const struct ds_buf *ds_fold_text(const struct ds_fold *fold, uint32_t host)
{
    return &fold->text[fold->text[host].owner].bytes;
}

bool ds_fold_leads(const struct ds_fold *fold, uint32_t host)
{
    const struct ds_fold_text *owner = &fold->text[fold->text[host].owner];

    return owner->bytes.len > 0 && owner->head == host;
}

uint32_t ds_fold_after(const struct ds_fold *fold, uint32_t host)
{
    return fold->text[host].next;
}

void ds_fold_list(const struct ds_fold *fold, uint32_t host, const char *const *names,
                  struct ds_buf *out)
{
    const char **name = calloc(fold->hosts, sizeof(*name));
    size_t count = 0;

    for (uint32_t i = host; name != NULL && i != DS_FOLD_END; i = ds_fold_after(fold, i))
        name[count++] = names[i];
    if (name == NULL || ds_hostlist_print(name, count, out) != 0)
        (void)ds_buf_puts(out, names[host]);
    free(name);
}
