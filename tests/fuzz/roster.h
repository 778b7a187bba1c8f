/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * roster.h - what holds of every list of hosts, whatever it was read from.
 */
#ifndef DS_TESTS_FUZZ_ROSTER_H
#define DS_TESTS_FUZZ_ROSTER_H

#include <assert.h>
#include <string.h>

#include "launcher/hosts/roster.h"

static inline void check_roster(const struct ds_roster *roster)
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

#endif
