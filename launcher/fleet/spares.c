/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spares.c - the contract is in spares.h.
 */
#include "launcher/fleet/spares.h"

#include <errno.h>

static uint32_t slots_of(const struct ds_host_spec *host)
{
    return host->slot != NULL ? host->chosen : host->slots;
}

static struct ds_spare_host *entry_of(struct ds_spares *spares, const struct ds_place *place)
{
    return &spares->host[place->spec - spares->roster->host];
}

int ds_spares_init(struct ds_spares *spares, struct ds_roster *roster,
                   struct ds_placement *placement, struct ds_error *err)
{
    *spares = (struct ds_spares){.placement = placement, .roster = roster};
    spares->host = ds_arena_alloc(&roster->arena, roster->hosts, sizeof(*spares->host));
    if (spares->host == NULL)
        return ds_fail(err, ENOMEM, "no memory for %zu hosts", roster->hosts);
    for (uint32_t i = 0; i < placement->places; i++)
        entry_of(spares, &placement->place[i])->used = true;
    return 0;
}

/* Was this failure the host's, or is it too often the host where ranks fail? */
static bool is_to_go(struct ds_spares *spares, const bool *lost, uint32_t place,
                     const struct ds_failure *first)
{
    struct ds_spare_host *entry = entry_of(spares, &spares->placement->place[place]);

    if (lost[place])
        return true;
    if (first->host != place)
        return false;
    if (first->held)
        return true;
    switch (first->kind) {
    case DS_FAILURE_HOST:
    case DS_FAILURE_SILENT:
    case DS_FAILURE_START: return true;
    case DS_FAILURE_RANK:
    case DS_FAILURE_HANG:
        entry->strikes = entry->strikes < UINT8_MAX ? (uint8_t)(entry->strikes + 1) : UINT8_MAX;
        return entry->strikes >= DS_SPARE_STRIKES;
    case DS_FAILURE_NONE:
    case DS_FAILURE_SLEPT:
    case DS_FAILURE_LAUNCHER:
    case DS_FAILURE_KINDS: break;
    }
    return false;
}

/* A free host for the ranks of `place`, or NULL. */
static const struct ds_host_spec *find_spare(const struct ds_spares *spares,
                                             const struct ds_place *place)
{
    uint32_t own = slots_of(place->spec), need = place->ranks < own ? place->ranks : own;

    for (size_t i = 0; i < spares->roster->hosts; i++) {
        const struct ds_host_spec *host = &spares->roster->host[i];

        if (!host->excluded && !spares->host[i].used && !spares->host[i].failed &&
            slots_of(host) >= need)
            return host;
    }
    return NULL;
}

uint32_t ds_spares_replace(struct ds_spares *spares, const bool *lost,
                           const struct ds_failure *first, bool *first_replaced)
{
    uint32_t replaced = 0;

    *first_replaced = false;
    for (uint32_t i = 0; i < spares->placement->places; i++) {
        struct ds_place *place = &spares->placement->place[i];
        const struct ds_host_spec *spare =
            is_to_go(spares, lost, i, first) ? find_spare(spares, place) : NULL;

        if (spare == NULL)
            continue;
        entry_of(spares, place)->used = false;
        entry_of(spares, place)->failed = true;
        place->spec = spare;
        place->host = spare->name;
        entry_of(spares, place)->used = true;
        replaced++;
        *first_replaced = *first_replaced || i == first->host;
    }
    return replaced;
}
