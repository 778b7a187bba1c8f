/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_known_hosts.c - any bytes as a known_hosts file.
 *
 * Beyond "no crash": entries lie within the text; a key that is said to be trusted is there; a line
 * that is written for a host makes that key trusted unless it is revoked.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/remote/known_hosts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char blob[] = "\0\0\0\13ssh-ed25519\0\0\0\4four";
    const struct ds_known_entry *entry;
    struct ds_known known = {0};
    enum ds_known_answer answer;
    struct ds_buf out;
    const char *text = (const char *)data;

    ds_known_add(&known, "f", text, size, "node1");
    for (size_t i = 0; i < known.entries; i++) {
        entry = &known.entry[i];
        assert(entry->key >= text && entry->key + entry->key_len <= text + size);
        assert(entry->type >= text && entry->type + entry->type_len <= entry->key);
    }
    answer = ds_known_check(&known, blob, sizeof(blob) - 1, &entry);
    assert((answer == DS_KNOWN_UNKNOWN) == (entry == NULL));
    if (known.entries == DS_MAX_KNOWN_KEYS)
        return 0;
    ds_buf_init(&out, size + 4096);
    (void)ds_buf_put(&out, text, size);
    (void)ds_buf_puts(&out, "\n");
    assert(ds_known_line(&out, "node1", blob, sizeof(blob) - 1, NULL) == 0);
    memset(&known, 0, sizeof(known));
    ds_known_add(&known, "f", out.data, out.len, "node1");
    answer = ds_known_check(&known, blob, sizeof(blob) - 1, &entry);
    assert(answer == DS_KNOWN_TRUSTED || answer == DS_KNOWN_IS_REVOKED);
    ds_buf_release(&out);
    return 0;
}
