/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_seal.c - any bytes to a listening launcher; the first byte says in which pieces they come.
 *
 * Beyond "no crash": without the key nobody gets further than the proof, nothing is believed, what is
 * kept of the input is bounded, and once refused a peer stays refused.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/remote/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t key[DS_SEAL_KEY_BYTES] = {42};
    struct ds_seal seal;
    struct ds_error err = {0};
    size_t step;
    int rc = 0;

    if (size < 1 || ds_seal_init(&seal, key, NULL, NULL) != 0)
        return 0;
    step = data[0] == 0 ? size : data[0];
    for (size_t at = 1; rc == 0 && at < size; at += step)
        rc = ds_seal_feed(&seal, data + at, size - at < step ? size - at : step, &err);
    assert(seal.state != DS_SEAL_OPEN && seal.plain.len == 0);
    assert(seal.in.len <= DS_SEAL_RECORD_BYTES + 1024 || rc != 0);
    if (rc != 0) {
        assert((rc == -EPROTO || rc == -EACCES) && err.text[0] != '\0');
        assert(ds_seal_feed(&seal, "x", 1, NULL) == -EPROTO);
    }
    ds_seal_release(&seal);
    return 0;
}
