/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_hostfile.c - any bytes as a hostfile, YAML or one host a line; the first line is a selection,
 * for --include, or for --exclude when it begins with '!'.
 *
 * Beyond "no crash": an accepted roster is in bounds, names are unique, of the allowed letters and found;
 * a selection leaves some host with some slot; a refusal says why.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "launcher/hosts/roster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct ds_roster *roster)
{
    assert(roster->hosts >= 1 && roster->hosts <= DS_MAX_HOSTS);
    for (size_t i = 0; i < roster->hosts; i++) {
        const struct ds_host_spec *host = &roster->host[i];
        size_t len = strlen(host->name);

        assert(len >= 1 && len <= DS_MAX_HOST_NAME && host->name[0] != '-');
        for (size_t k = 0; k < len; k++)
            assert((unsigned char)host->name[k] > ' ' && (unsigned char)host->name[k] < 127);
        assert(host->port <= 65535 && host->slots <= DS_MAX_SLOTS && host->cpus <= DS_MAX_CPUS);
        assert(host->devices <= DS_MAX_SLOTS && (host->devices == 0) == (host->device == NULL));
        assert(ds_roster_find(roster, host->name) == host);
    }
}

static void check_selection(const struct ds_roster *roster)
{
    uint64_t slots = 0;

    for (size_t i = 0; i < roster->hosts; i++) {
        const struct ds_host_spec *host = &roster->host[i];

        for (uint32_t k = 0; host->slot != NULL && k < host->chosen; k++)
            assert(host->slot[k] < host->slots && (k == 0 || host->slot[k - 1] < host->slot[k]));
        if (!host->excluded)
            slots += host->slot == NULL ? host->slots : host->chosen;
    }
    assert(slots > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size > 0 ? memchr(data, '\n', size) : NULL;
    size_t first = end != NULL ? (size_t)(end - data) : 0;
    char *choice = calloc(first + 1, 1);
    bool exclude = first > 0 && data[0] == '!';
    struct ds_error err = {0};
    struct ds_roster roster;
    int rc;

    if (choice == NULL)
        return 0;
    memcpy(choice, data + exclude, first - exclude);
    data += end != NULL ? first + 1 : 0;
    size -= end != NULL ? first + 1 : 0;
    ds_roster_init(&roster);
    rc = ds_hostfile_parse(&roster, "hosts", (const char *)data, size, &err);
    assert(rc == 0 || err.text[0] != '\0');
    if (rc == 0) {
        check(&roster);
        for (size_t i = 0; i < roster.hosts; i++)
            roster.host[i].slots += roster.host[i].slots == 0;
        rc = ds_roster_select(&roster, exclude ? NULL : choice, exclude ? choice : NULL, &err);
        assert(rc == 0 || err.text[0] != '\0');
        if (rc == 0)
            check_selection(&roster);
    }
    ds_roster_release(&roster);
    free(choice);
    return 0;
}
