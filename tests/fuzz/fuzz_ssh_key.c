/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_ssh_key.c - any bytes as the file of a private key, and as the blob of a public one.
 *
 * Beyond "no crash": a key is refused with a reason and holds nothing, or has a public half and
 * signs; the name of a type can stand in a line of a file.
 */
#include <assert.h>
#include <ctype.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/remote/known_hosts.h"
#include "launcher/remote/ssh_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_ssh_key key = {0};
    unsigned char *sig = NULL;
    char type[64];
    size_t len = 0;

    if (size > DS_SSH_KEY_FILE)
        return 0;
    ds_ssh_key_parse(&key, (const char *)data, size);
    assert((key.err.code == 0) == (key.len > 0));
    assert(key.len <= sizeof(key.blob));
    assert(key.err.code == 0 || (key.pkey == NULL && key.err.text[0] != '\0'));
    if (key.err.code == 0 && ds_ssh_key_sign(&key, data, size, &sig, &len) == 0)
        assert(sig != NULL && len > 0);
    free(sig);
    ds_key_type(type, data, size);
    for (size_t i = 0; type[i] != '\0'; i++)
        assert(isalnum((unsigned char)type[i]) || strchr("@.-", type[i]) != NULL);
    EVP_PKEY_free(key.pkey);
    return 0;
}
