/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_select.c - --include and --exclude, and ranks dealt to what is left.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "launcher/hosts/placement.h"

static void three_hosts(struct ds_roster *roster)
{
    static const char text[] = "a slots=2\nb slots=4\nn[1-2] slots=2\n";

    ds_roster_init(roster);
    cr_assert_eq(ds_hostfile_parse(roster, "hosts", text, sizeof(text) - 1, NULL), 0);
}

/* "a:0,1 b:0" of the placement: the slots of every host that is used. */
static void describe(const struct ds_placement *placement, char *out, size_t cap)
{
    size_t len = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < placement->places; i++) {
        const struct ds_place *place = &placement->place[i];

        len += (size_t)snprintf(out + len, cap - len, "%s%s", i > 0 ? " " : "", place->host);
        for (uint32_t k = 0; k < place->ranks; k++)
            len += (size_t)snprintf(out + len, cap - len, "%c%u", k > 0 ? ',' : ':',
                                    ds_placement_slot(place, k));
    }
}

Test(select, left)
{
    static const struct {
        const char *include, *exclude, *want;
    } table[] = {
        {NULL, NULL, "a:0,1 b:0,1,2,3 n1:0,1 n2:0,1"},
        {"b", NULL, "b:0,1,2,3"},
        {"b@a", NULL, "a:0,1 b:0,1,2,3"}, /* the order is the hostfile's */
        {"b:3,1", NULL, "b:1,3"},
        {"b:0@b:2", NULL, "b:0,2"},
        {"n[1-2]:1@a:0", NULL, "a:0 n1:1 n2:1"},
        {NULL, "b", "a:0,1 n1:0,1 n2:0,1"},
        {NULL, "b:0,1@n[1-2]", "a:0,1 b:2,3"},
        {NULL, "a:0,1", "b:0,1,2,3 n1:0,1 n2:0,1"}, /* no slot is left: no host */
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_placement_args args = {0};
        struct ds_placement placement;
        struct ds_roster roster;
        struct ds_error err = {0};
        char got[256];

        three_hosts(&roster);
        cr_assert_eq(ds_roster_select(&roster, table[i].include, table[i].exclude, &err), 0,
                     "row %zu: %s", i, err.text);
        cr_assert_eq(ds_placement_build(&placement, &roster, &args, &err), 0, "row %zu: %s", i,
                     err.text);
        describe(&placement, got, sizeof(got));
        cr_assert_str_eq(got, table[i].want, "row %zu", i);
        ds_roster_release(&roster);
    }
}

/* Nobody said how many slots n1 has: it has those that are named, and else as many as are assumed. */
Test(select, open)
{
    static const struct {
        const char *include, *exclude, *want;
    } table[] = {
        {NULL, NULL, "a:0,1 n1:0 n2:0"},
        {"n1", NULL, "n1:0"},
        {"n1:5,3", NULL, "n1:3,5"},
        {"n1:1023@a:0", NULL, "a:0 n1:1023"},
        {NULL, "a", "n1:0 n2:0"},
        {NULL, "n1:3", "a:0,1 n1:0 n2:0"},
        {"n1:1024", NULL, "host 'n1' has no slot 1024: its slots are 0 to 1023"},
        {"n2:2", NULL, "n2:2"},
        {"n2:3", NULL, "host 'n2' has no slot 3: its slots are 0 to 2"},
        {"a:2", NULL, "host 'a' has no slot 2: its slots are 0 to 1"},
    };
    static const char text[] = "a slots=2\nn1\nn2 max_slots=3\n";

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_placement_args args = {0};
        struct ds_placement placement;
        struct ds_roster roster;
        struct ds_error err = {0};
        char got[256];

        ds_roster_init(&roster);
        cr_assert_eq(ds_hostfile_parse(&roster, "hosts", text, sizeof(text) - 1, NULL), 0);
        roster.host[1].open = roster.host[2].open = true;
        roster.host[1].slots = roster.host[2].slots = 1;
        if (ds_roster_select(&roster, table[i].include, table[i].exclude, &err) == 0) {
            cr_assert_eq(ds_placement_build(&placement, &roster, &args, &err), 0, "row %zu", i);
            describe(&placement, got, sizeof(got));
            cr_assert_str_eq(got, table[i].want, "row %zu", i);
        } else
            cr_assert(strstr(err.text, table[i].want) != NULL, "row %zu: %s", i, err.text);
        ds_roster_release(&roster);
    }
}

Test(select, mistakes)
{
    static const struct {
        const char *include, *exclude, *want;
    } table[] = {
        {"mars", NULL, "--include: unknown host 'mars'"},
        {NULL, "n3", "--exclude: unknown host 'n3'"},
        {"a:2", NULL, "host 'a' has no slot 2: its slots are 0 to 1"},
        {"a:4294967296", NULL, "is not a list of slots|no slot"},
        {"a:", NULL, "'' is not a list of slots"},
        {"a:x", NULL, "'x' is not a list of slots"},
        {"a:0,", NULL, "'0,' is not a list of slots"},
        {"a:0 1", NULL, "'0 1' is not a list of slots"},
        {"", NULL, "'' is not a host name"},
        {"a@", NULL, "'' is not a host name"},
        {"@a", NULL, "'' is not a host name"},
        {"n[1-", NULL, "bad range"},
        {NULL, "a@b@n[1-2]", "leaves no host"},
        {"a", "b", "exclude each other"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};
        const char *want = table[i].want, *bar = strchr(want, '|');

        three_hosts(&roster);
        cr_assert_eq(ds_roster_select(&roster, table[i].include, table[i].exclude, &err), -EINVAL,
                     "row %zu", i);
        cr_assert(bar != NULL ? strstr(err.text, bar + 1) != NULL : strstr(err.text, want) != NULL,
                  "row %zu: %s", i, err.text);
        ds_roster_release(&roster);
    }
}
