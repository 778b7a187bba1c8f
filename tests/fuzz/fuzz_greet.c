/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_greet.c - any bytes as what a stranger says to a listening rank, or answers to a calling one.
 *
 * The first byte chooses the role.  Beyond "no crash": without the key nobody is ever welcome.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/comm/greet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t key[DS_JOB_KEY_BYTES] = "what no stranger knows";
static const uint8_t nonce[DS_GREET_NONCE] = "fresh, as far as it goes";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct ds__greet_args args = {.key = key, .nonce = nonce, .me = 1, .world = 4, .peer = 0};
    uint8_t out[DS_GREET_MAX];
    struct ds__greet greet;
    size_t len = 0;

    if (size < 1)
        return 0;
    if ((data[0] & 1) != 0)
        ds__greet_connect(&greet, &args, out, &len);
    else
        ds__greet_listen(&greet, &args);
    data++;
    size--;
    while (size >= greet.want) {
        struct ds_error err = {0};
        size_t want = greet.want;
        int rc = ds__greet_take(&greet, data, out, &len, &err);

        assert(!greet.done && len <= sizeof(out));
        if (rc != 0) {
            assert((rc == -EPROTO || rc == -EACCES) && err.text[0] != '\0' && len == 0);
            return 0;
        }
        assert(!greet.connector && greet.peer > 1 && greet.peer < 4);
        data += want;
        size -= want;
    }
    return 0;
}
