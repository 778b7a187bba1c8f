/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * select.c - --include and --exclude; the contract is in roster.h.
 *
 * A specification is read into one mark per slot of each host it names; what is left of a host is
 * then its marked slots (include) or the others (exclude).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/roster.h"

struct marks {  /* of one host */
    bool *slot; /* NULL: the host is not named */
};

/* Slots that a selection may name. */
static uint32_t most_slots(const struct ds_host_spec *host)
{
    if (!host->open)
        return host->slots;
    return host->max_slots != 0 ? host->max_slots : DS_MAX_SLOTS;
}

/* "0,1,3" after the colon. */
static int mark_slots(const struct ds_host_spec *host, const char *list, size_t len, bool *slot,
                      struct ds_error *err)
{
    const uint32_t most = most_slots(host);
    const char *at = list, *end = list + len;

    for (;;) {
        size_t digits = strspn(at, "0123456789");
        unsigned long n = digits > 0 && digits <= 9 ? strtoul(at, NULL, 10) : DS_MAX_SLOTS;

        if (digits == 0 || (at[digits] != ',' && at + digits != end))
            return ds_fail(err, EINVAL, "'%.*s' is not a list of slots like '0,1'", (int)len, list);
        if (n >= most)
            return ds_fail(err, EINVAL, "host '%s' has no slot %.*s: its slots are 0 to %u",
                           host->name, (int)digits, at, most - 1);
        slot[n] = true;
        at += digits;
        if (at == end)
            return 0;
        at++;
    }
}

static int mark_host(struct ds_roster *roster, struct marks *marks, const char *name,
                     const char *slots, size_t slots_len, struct ds_error *err)
{
    const struct ds_host_spec *host = ds_roster_find(roster, name);
    struct marks *mark;

    if (host == NULL)
        return ds_fail(err, EINVAL, "unknown host '%s'", name);
    mark = &marks[host - roster->host];
    if (mark->slot == NULL)
        mark->slot = ds_arena_alloc(&roster->arena, most_slots(host), sizeof(*mark->slot));
    if (mark->slot == NULL)
        return ds_fail(err, ENOMEM, "no memory for the slots of '%s'", name);
    if (slots != NULL)
        return mark_slots(host, slots, slots_len, mark->slot, err);
    memset(mark->slot, 1, host->slots);
    return 0;
}

/* One "HOST[:SLOTS]" of `len` bytes; the name may be a range. */
static int mark_item(struct ds_roster *roster, struct marks *marks, const char *item, size_t len,
                     struct ds_error *err)
{
    const char *colon = memchr(item, ':', len);
    size_t name_len = colon != NULL ? (size_t)(colon - item) : len;
    const char *pattern = ds_arena_strndup(&roster->arena, item, name_len);
    char name[DS_MAX_HOST_NAME + 1];
    struct ds_range range;
    size_t count;
    int rc;

    if (pattern == NULL)
        return ds_fail(err, ENOMEM, "no memory for a selection");
    rc = ds_range_count(pattern, &count, err);
    if (rc != 0)
        return rc;
    ds_range_start(&range, pattern);
    while (rc == 0 && ds_range_next(&range, name))
        rc = mark_host(roster, marks, name, colon != NULL ? colon + 1 : NULL,
                       colon != NULL ? len - name_len - 1 : 0, err);
    return rc;
}

static int mark_all(struct ds_roster *roster, struct marks *marks, const char *spec,
                    struct ds_error *err)
{
    int rc;

    for (;;) {
        size_t len = strcspn(spec, "@");

        rc = mark_item(roster, marks, spec, len, err);
        if (rc != 0 || spec[len] == '\0')
            return rc;
        spec += len + 1;
    }
}

/* What is left of one host. */
static int narrow(struct ds_roster *roster, struct ds_host_spec *host, const bool *marked,
                  bool include, struct ds_error *err)
{
    uint32_t most = include && marked != NULL ? most_slots(host) : host->slots, n = 0;
    uint32_t *slot = ds_arena_alloc(&roster->arena, most, sizeof(*slot));

    if (slot == NULL)
        return ds_fail(err, ENOMEM, "no memory for the slots of '%s'", host->name);
    for (uint32_t i = 0; i < most; i++)
        if ((marked != NULL && marked[i]) == include)
            slot[n++] = i;
    host->slot = slot;
    host->chosen = n;
    host->excluded = n == 0;
    return 0;
}

int ds_roster_select(struct ds_roster *roster, const char *include, const char *exclude,
                     struct ds_error *err)
{
    const char *spec = include != NULL ? include : exclude;
    const char *option = include != NULL ? "--include" : "--exclude";
    struct marks *marks;
    size_t left = 0;
    int rc;

    if (include != NULL && exclude != NULL)
        return ds_fail(err, EINVAL, "'--include' and '--exclude' exclude each other");
    if (spec == NULL)
        return 0;
    marks = ds_arena_alloc(&roster->arena, roster->hosts, sizeof(*marks));
    if (marks == NULL)
        return ds_fail(err, ENOMEM, "no memory for a selection");
    rc = mark_all(roster, marks, spec, err);
    for (size_t i = 0; i < roster->hosts && rc == 0; i++) {
        rc = narrow(roster, &roster->host[i], marks[i].slot, include != NULL, err);
        left += !roster->host[i].excluded;
    }
    if (rc == 0 && left == 0)
        return ds_fail(err, EINVAL, "'%s %.200s' leaves no host", option, spec);
    return ds_error_context(err, rc, "%s", option);
}
