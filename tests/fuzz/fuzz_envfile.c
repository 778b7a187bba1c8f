/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_envfile.c - any bytes as a file of variables: entries are NAME=..., or one error.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/keys.h"
#include "cli/envfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_arena arena;
    struct ds_envfile env;
    struct ds_error err = {0};
    int rc;

    ds_arena_init(&arena);
    rc = ds_envfile_parse(&env, "f", (const char *)data, size, &arena, &err);
    assert((rc == 0) == (err.code == 0));
    for (size_t i = 0; rc == 0 && i < env.count; i++)
        assert(ds_key_is_env_name(env.item[i], strcspn(env.item[i], "=")) &&
               strchr(env.item[i], '=') != NULL);
    ds_arena_release(&arena);
    return 0;
}
