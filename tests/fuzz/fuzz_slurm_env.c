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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *take_line(char **at)
{
    char *line = strsep(at, "\n");

    return line == NULL || *line == '\0' ? NULL : line;
}

static void check(const struct ds_roster *roster)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

    assert(roster->hosts >= 1 && roster->hosts <= DS_MAX_HOSTS);
    for (size_t i = 0; i < roster->hosts; i++) {
        const struct ds_host_spec *host = &roster->host[i];
        size_t len = strlen(host->name);

        assert(len >= 1 && len <= DS_MAX_HOST_NAME && host->name[0] != '-');
        assert(strspn(host->name, letters) == len);
        assert(host->slots <= DS_MAX_SLOTS && host->cpus <= DS_MAX_CPUS);
        assert(host->gpus <= DS_MAX_SLOTS);
        assert(ds_roster_find(roster, host->name) == host);
    }
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
        check(&roster);
    else
        assert(rc == -EINVAL && err.text[0] != '\0');
    ds_roster_release(&roster);
    free(text);
    return 0;
}
