/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_slurm_env.c - any text in Slurm's variables; lines are the variables in the order of
 * DS_SLURM_VARS, an empty one is not set.
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

#include "launcher/hosts/slurm_env.h"
#include "tests/fuzz/roster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *take_line(char **at)
{
    char *line = strsep(at, "\n");

    return line == NULL || *line == '\0' ? NULL : line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(size + 1, 1), *at = text; /* not strndup(): strict string checks read on */
    struct ds_slurm_env env;
    struct ds_roster roster;
    struct ds_error err = {0};
    int rc;

    if (text == NULL)
        return 0;
    memcpy(text, data, size);
#define X(field, name, form) env.field = take_line(&at);
    DS_SLURM_VARS(X)
#undef X
    ds_roster_init(&roster);
    rc = ds_slurm_env_parse(&roster, &env, &err);
    if (rc == 0)
        check_roster(&roster);
    else
        assert(rc == -EINVAL && err.text[0] != '\0');
    ds_roster_release(&roster);
    free(text);
    return 0;
}
