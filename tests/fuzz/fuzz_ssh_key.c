/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_ssh_key.c - any bytes as the file of a private key, and as the blob of a public one.
 *
 * Beyond "no crash": the name of a type can stand in a line of a file.
 */
#include <assert.h>
#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/remote/known_hosts.h"
#include "launcher/remote/ssh_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(size + 1, 1), type[64];
    const char *why;

    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    why = ds_ssh_key_refuse(text);
    assert(why == NULL || strncmp(why, "is ", 3) == 0);
    ds_key_type(type, data, size);
    for (size_t i = 0; type[i] != '\0'; i++)
        assert(isalnum((unsigned char)type[i]) || strchr("@.-", type[i]) != NULL);
    free(text);
    return 0;
}
