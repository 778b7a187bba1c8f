/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_nodefile.c - any text as the hosts of a batch system's job; the first byte says whose.
 *
 * Beyond "no crash": an accepted roster is in bounds, names are unique and of the allowed letters, and
 * each is found under its name; a refusal says which variable.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/nodefile.h"
#include "tests/fuzz/roster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct ds_nodefile *file = size > 0 ? ds_nodefile_at(data[0] - (size_t)'0') : NULL;
    struct ds_roster roster;
    struct ds_error err = {0};
    int rc;

    if (file == NULL)
        return 0;
    ds_roster_init(&roster);
    rc = ds_nodefile_parse(&roster, file, (const char *)data + 1, size - 1, &err);
    if (rc == 0)
        check_roster(&roster);
    else
        assert(rc == -EINVAL && strncmp(err.text, file->variable, strlen(file->variable)) == 0);
    ds_roster_release(&roster);
    return 0;
}
