/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * placement.c - the contract is in placement.h.
 */
#include "launcher/hosts/placement.h"

#include <errno.h>
#include <stdio.h>

int ds_placement_ranks(const struct ds_host_spec *host, uint64_t slots, uint32_t *ranks,
                       struct ds_error *err)
{
    uint64_t n = slots != 0 ? slots : host->slot != NULL ? host->chosen : host->slots;

    if (host->slot != NULL && n > host->chosen)
        return ds_fail(err, EINVAL,
                       "'--slots %llu' asks for more than the %u slots that are "
                       "selected on host '%s'",
                       (unsigned long long)slots, host->chosen, host->name);
    if (host->max_slots != 0 && n > host->max_slots)
        return ds_fail(err, EINVAL, "%llu slots on host '%s': its max_slots are %u",
                       (unsigned long long)n, host->name, host->max_slots);
    if (n == 0 || n > DS_MAX_SLOTS)
        return ds_fail(err, EINVAL, "%llu slots on host '%s': it must be 1 to %d",
                       (unsigned long long)n, host->name, DS_MAX_SLOTS);
    *ranks = (uint32_t)n;
    return 0;
}

/* Are there as many hosts as are wanted? */
static int check_places(uint32_t places, const struct ds_placement_args *args, struct ds_error *err)
{
    unsigned long long least = args->least, nodes = args->nodes;
    bool fewer = least != 0 && least < nodes;
    char range[48] = "", most[48] = "";

    if (nodes <= places || (fewer && args->up_to && least <= places))
        return 0;
    if (fewer)
        (void)snprintf(range, sizeof(range), "%llu:", least);
    if (fewer && least <= places)
        (void)snprintf(most, sizeof(most), ", so MAX can be %u at most", places);
    return ds_fail(err, EINVAL, "'--nodes %s%llu': there %s only %u host%s%s", range, nodes,
                   places == 1 ? "is" : "are", places, places == 1 ? "" : "s", most);
}

int ds_placement_build(struct ds_placement *placement, struct ds_roster *roster,
                       const struct ds_placement_args *args, struct ds_error *err)
{
    struct ds_placement out = {0};

    out.place = ds_arena_alloc(&roster->arena, roster->hosts, sizeof(*out.place));
    if (out.place == NULL)
        return ds_fail(err, ENOMEM, "no memory for a placement on %zu hosts", roster->hosts);
    for (size_t i = 0; i < roster->hosts; i++) {
        const struct ds_host_spec *host = &roster->host[i];
        struct ds_place *place = &out.place[out.places];
        int rc;

        if (host->excluded)
            continue;
        if (args->nodes != 0 && out.places == args->nodes)
            break;
        *place = (struct ds_place){.host = host->name, .spec = host, .first_rank = out.world};
        rc = ds_placement_ranks(host, args->slots, &place->ranks, err);
        if (rc != 0)
            return rc;
        if (place->ranks > DS_MAX_RANKS - out.world)
            return ds_fail(err, EINVAL, "more than %d ranks", DS_MAX_RANKS);
        out.world += place->ranks;
        out.places++;
    }
    if (check_places(out.places, args, err) != 0)
        return -EINVAL;
    *placement = out;
    return 0;
}

bool ds_placement_cut(struct ds_placement *placement, uint32_t least, const struct ds_fit *fit)
{
    struct ds_placement first = *placement;

    while (first.places >= least && first.places > 0) {
        if (fit->does == NULL || fit->does(fit->user, &first)) {
            *placement = first;
            return true;
        }
        first.places--;
        first.world -= first.place[first.places].ranks;
    }
    return false;
}

uint32_t ds_placement_slot(const struct ds_place *place, uint32_t local)
{
    return place->spec != NULL && place->spec->slot != NULL ? place->spec->slot[local] : local;
}

uint32_t ds_place_of(const struct ds_place *place, uint32_t places, uint32_t rank)
{
    uint32_t lo = 0, hi = places;

    while (hi - lo > 1) { /* places are in the order of their ranks */
        uint32_t middle = lo + (hi - lo) / 2;

        if (place[middle].first_rank <= rank)
            lo = middle;
        else
            hi = middle;
    }
    return lo;
}
