/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * roster.c - the contract is in roster.h.
 */
#include "launcher/hosts/roster.h"

#include <errno.h>
#include <string.h>

void ds_roster_init(struct ds_roster *roster)
{
    *roster = (struct ds_roster){0};
    ds_arena_init(&roster->arena);
}

void ds_roster_release(struct ds_roster *roster)
{
    ds_arena_release(&roster->arena);
    *roster = (struct ds_roster){0};
}

static size_t hash(const char *name)
{
    uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */

    for (; *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * UINT64_C(1099511628211);
    return (size_t)h;
}

/* The slot of the table where `name` is or would be. */
static uint32_t *lookup(const struct ds_roster *roster, const char *name)
{
    size_t at = hash(name) & (roster->table_cap - 1);

    while (roster->table[at] != 0 && strcmp(roster->host[roster->table[at] - 1].name, name) != 0)
        at = (at + 1) & (roster->table_cap - 1);
    return &roster->table[at];
}

struct ds_host_spec *ds_roster_find(const struct ds_roster *roster, const char *name)
{
    uint32_t index = roster->table_cap == 0 ? 0 : *lookup(roster, name);

    return index == 0 ? NULL : &roster->host[index - 1];
}

/* Room for `more` hosts; the old arrays stay in the arena, which doubles at most. */
static int grow(struct ds_roster *roster, size_t more, struct ds_error *err)
{
    size_t cap = roster->cap == 0 ? 16 : roster->cap;
    struct ds_host_spec *host;

    if (more > DS_MAX_HOSTS || roster->hosts + more > DS_MAX_HOSTS)
        return ds_fail(err, EINVAL, "more than %d hosts", DS_MAX_HOSTS);
    while (cap < roster->hosts + more)
        cap *= 2;
    if (cap == roster->cap)
        return 0;
    host = ds_arena_alloc(&roster->arena, cap, sizeof(*host));
    roster->table = ds_arena_alloc(&roster->arena, 2 * cap, sizeof(*roster->table));
    if (host == NULL || roster->table == NULL)
        return ds_fail(err, ENOMEM, "no memory for %zu hosts", cap);
    if (roster->hosts > 0)
        memcpy(host, roster->host, roster->hosts * sizeof(*host));
    roster->host = host;
    roster->cap = cap;
    roster->table_cap = 2 * cap;
    for (size_t i = 0; i < roster->hosts; i++)
        *lookup(roster, host[i].name) = (uint32_t)i + 1;
    return 0;
}

static const char *copy(struct ds_arena *arena, const char *text)
{
    return text == NULL ? NULL : ds_arena_strdup(arena, text);
}

int ds_roster_add(struct ds_roster *roster, const char *pattern, const struct ds_host_spec *host,
                  struct ds_error *err)
{
    struct ds_host_spec entry = *host;
    char name[DS_MAX_HOST_NAME + 1];
    struct ds_range range;
    size_t count;
    int rc = ds_range_count(pattern, &count, err);

    if (rc == 0)
        rc = grow(roster, count, err);
    if (rc != 0)
        return rc;
    if (count > 1 && host->address != NULL)
        return ds_fail(err, EINVAL, "%zu hosts cannot have one address", count);
    entry.address = copy(&roster->arena, host->address);
    entry.user = copy(&roster->arena, host->user);
    ds_range_start(&range, pattern);
    while (ds_range_next(&range, name)) {
        uint32_t *slot = lookup(roster, name);

        if (*slot != 0)
            return ds_fail(err, EINVAL, "host '%s' is named twice", name);
        entry.name = ds_arena_strdup(&roster->arena, name);
        if (entry.name == NULL)
            return ds_fail(err, ENOMEM, "no memory for host '%s'", name);
        roster->host[roster->hosts++] = entry;
        *slot = (uint32_t)roster->hosts;
    }
    return 0;
}

/* Same name, or one is the other's with a domain. */
static bool same_name(const char *a, const char *b)
{
    size_t n = strcspn(a, "."), m = strcspn(b, ".");

    if (strcmp(a, b) == 0)
        return true;
    return n == m && strncmp(a, b, n) == 0 && (a[n] == '\0' || b[m] == '\0');
}

bool ds_host_is_here(const struct ds_host_spec *host, const char *hostname)
{
    const char *name = host->address != NULL ? host->address : host->name;

    return strcmp(name, "localhost") == 0 || strncmp(name, "127.", 4) == 0 ||
           strcmp(name, "::1") == 0 || same_name(name, hostname);
}
