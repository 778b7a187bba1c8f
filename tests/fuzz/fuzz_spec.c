/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_spec.c - any bytes as the start specification that an agent gets.
 *
 * Beyond "no crash": what is accepted keeps its promises (ranks fit, strings end, environment is
 * NAME=VALUE) and encodes to the very bytes it came from.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "launcher/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct ds_spec *spec, const uint8_t *data, size_t size)
{
    struct ds_buf again;

    assert(spec->ranks >= 1 && spec->ranks <= DS_MAX_SLOTS && spec->node < spec->nodes);
    assert(spec->first_rank < spec->world && spec->ranks <= spec->world - spec->first_rank);
    assert(spec->argc >= 1 && spec->argv[spec->argc] == NULL && spec->env[spec->envc] == NULL);
    for (size_t i = 0; i < spec->envc; i++)
        assert(strchr(spec->env[i], '=') > spec->env[i]);
    ds_buf_init(&again, DS_MAX_FRAME_BYTES);
    assert(ds_spec_encode(spec, &again, NULL) == 0);
    assert(again.len == size && memcmp(again.data, data, size) == 0);
    ds_buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_error err = {0};
    struct ds_arena arena;
    struct ds_spec spec;
    int rc;

    if (size > DS_MAX_FRAME_BYTES)
        return 0;
    ds_arena_init(&arena);
    rc = ds_spec_decode(data, size, &arena, &spec, &err);
    if (rc == 0)
        check(&spec, data, size);
    else
        assert(rc == -EPROTO && err.text[0] != '\0');
    ds_arena_release(&arena);
    return 0;
}
