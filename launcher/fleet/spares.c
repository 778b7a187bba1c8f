/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spares.c - the contract is in spares.h.
 */
#include "launcher/fleet/spares.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"

enum { NUMBERS = 6 }; /* of hosts that would do, to be told */

static uint32_t slots_of(const struct ds_host_spec *host)
{
    return host->slot != NULL ? host->chosen : host->slots;
}

static struct ds_spare_host *entry_of(struct ds_spares *spares, const struct ds_place *place)
{
    return &spares->host[place->spec - spares->roster->host];
}

int ds_spares_init(struct ds_spares *spares, struct ds_roster *roster,
                   struct ds_placement *placement, const struct ds_spares_args *args,
                   struct ds_error *err)
{
    *spares = (struct ds_spares){.placement = placement, .roster = roster};
    if (args != NULL)
        spares->args = *args;
    spares->host = ds_arena_alloc(&roster->arena, roster->hosts, sizeof(*spares->host));
    spares->next = ds_arena_alloc(&roster->arena, roster->hosts, sizeof(*spares->next));
    if (spares->host == NULL || spares->next == NULL)
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

static bool is_free(const struct ds_spares *spares, size_t host)
{
    return !spares->roster->host[host].excluded && !spares->host[host].used &&
           !spares->host[host].failed;
}

/* A free host for the ranks of `place`, or NULL. */
static const struct ds_host_spec *find_spare(const struct ds_spares *spares,
                                             const struct ds_place *place)
{
    uint32_t own = slots_of(place->spec), need = place->ranks < own ? place->ranks : own;

    for (size_t i = 0; i < spares->roster->hosts; i++) {
        const struct ds_host_spec *host = &spares->roster->host[i];

        if (is_free(spares, i) && slots_of(host) >= need)
            return host;
    }
    return NULL;
}

static void put(struct ds_placement *next, const struct ds_host_spec *host, uint32_t ranks)
{
    if (ranks > DS_MAX_RANKS - next->world)
        return;
    next->place[next->places++] = (struct ds_place){
        .host = host->name, .spec = host, .first_rank = next->world, .ranks = ranks};
    next->world += ranks;
}

/* All hosts that can be used: the places that stay, then what is free. */
static struct ds_placement gather(struct ds_spares *spares)
{
    struct ds_placement next = {.place = spares->next};
    uint32_t ranks;

    for (uint32_t i = 0; i < spares->placement->places; i++) {
        const struct ds_place *place = &spares->placement->place[i];

        if (!entry_of(spares, place)->failed)
            put(&next, place->spec, place->ranks);
    }
    for (size_t i = 0; i < spares->roster->hosts; i++)
        if (is_free(spares, i) &&
            ds_placement_ranks(&spares->roster->host[i], spares->args.slots, &ranks, NULL) == 0)
            put(&next, &spares->roster->host[i], ranks);
    return next;
}

static void mark(struct ds_spares *spares, bool used)
{
    for (uint32_t i = 0; i < spares->placement->places; i++)
        entry_of(spares, &spares->placement->place[i])->used = used;
}

/* The largest number of hosts that will do takes the places, of which those that failed have no
 * other host.  Where none does, these keep theirs. */
static void divide(struct ds_spares *spares, struct ds_spares_change *change)
{
    struct ds_placement next = gather(spares), *placement = spares->placement;

    change->left = next.places;
    while (next.places > spares->args.most)
        next.world -= next.place[--next.places].ranks;
    change->too_few = !ds_placement_cut(&next, spares->args.least, &spares->args.fit);
    for (uint32_t i = 0; change->too_few && i < placement->places; i++)
        entry_of(spares, &placement->place[i])->failed = false;
    if (change->too_few)
        return;
    mark(spares, false);
    memcpy(placement->place, next.place, next.places * sizeof(*next.place));
    placement->places = next.places;
    placement->world = next.world;
    mark(spares, true);
}

static void replace(struct ds_spares *spares, struct ds_place *place,
                    const struct ds_host_spec *spare)
{
    entry_of(spares, place)->used = false;
    entry_of(spares, place)->failed = true;
    place->spec = spare;
    place->host = spare->name;
    entry_of(spares, place)->used = true;
}

void ds_spares_replace(struct ds_spares *spares, const bool *lost, const struct ds_failure *first,
                       struct ds_spares_change *change)
{
    const bool fewer = spares->args.least != 0 && spares->args.least < spares->args.most;
    bool first_out = false;

    *change = (struct ds_spares_change){0};
    for (uint32_t i = 0; i < spares->placement->places; i++) {
        struct ds_place *place = &spares->placement->place[i];
        const struct ds_host_spec *spare;

        if (!is_to_go(spares, lost, i, first))
            continue;
        spare = find_spare(spares, place);
        if (spare != NULL) {
            replace(spares, place, spare);
            change->replaced++;
            change->first = change->first || i == first->host;
        } else if (fewer) {
            entry_of(spares, place)->failed = true;
            change->out++;
            first_out = first_out || i == first->host;
        }
    }
    if (change->out == 0)
        return;
    divide(spares, change);
    change->out = change->too_few ? 0 : change->out;
    change->first = change->first || (first_out && !change->too_few);
}

/* "2 or 4": first places of the placement that would do. */
static void list_numbers(const struct ds_spares *spares, char *out, size_t size)
{
    struct ds_placement first = {.place = spares->placement->place};
    uint32_t number[NUMBERS], count = 0;
    size_t used = 0;

    while (first.places < spares->placement->places && count < NUMBERS) {
        first.world += first.place[first.places++].ranks;
        if (first.places >= spares->args.least &&
            spares->args.fit.does(spares->args.fit.user, &first))
            number[count++] = first.places;
    }
    for (uint32_t i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%u",
                                 i == 0           ? ""
                                 : i + 1 == count ? " or "
                                                  : ", ",
                                 number[i]);
}

void ds_spares_too_few(const struct ds_spares *spares, const struct ds_spares_change *change,
                       char *out)
{
    char numbers[128] = "";

    if (change->left >= spares->args.least && spares->args.fit.does != NULL)
        list_numbers(spares, numbers, sizeof(numbers));
    (void)snprintf(out, DS_MAX_ERROR_TEXT,
                   "%u host%s left, and '--nodes' is %u:%u%s%s: all are tried again", change->left,
                   change->left == 1 ? " is" : "s are", spares->args.least, spares->args.most,
                   numbers[0] != '\0' ? ", of which the job can use " : "", numbers);
}
