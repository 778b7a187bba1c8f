/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_placement.c - ranks to hosts: first ranks, limits, and the bounds.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "launcher/hosts/placement.h"

static void hosts(struct ds_roster *roster, const char *text)
{
    ds_roster_init(roster);
    cr_assert_eq(ds_hostfile_parse(roster, "hosts", text, strlen(text), NULL), 0);
}

Test(placement, deals_host_by_host)
{
    struct ds_placement_args args = {0};
    struct ds_placement placement;
    struct ds_roster roster;

    hosts(&roster, "a slots=3\nb slots=2\nc slots=4");
    cr_assert_eq(ds_placement_build(&placement, &roster, &args, NULL), 0);
    cr_assert(placement.places == 3 && placement.world == 9);
    cr_assert(placement.place[0].first_rank == 0 && placement.place[0].ranks == 3);
    cr_assert(placement.place[1].first_rank == 3 && placement.place[1].ranks == 2);
    cr_assert(placement.place[2].first_rank == 5 && placement.place[2].ranks == 4);
    args = (struct ds_placement_args){.nodes = 2, .slots = 1};
    cr_assert_eq(ds_placement_build(&placement, &roster, &args, NULL), 0);
    cr_assert(placement.places == 2 && placement.world == 2 && placement.place[1].first_rank == 1);
    ds_roster_release(&roster);
}

Test(placement, limits)
{
    static const struct {
        const char *text, *include;
        struct ds_placement_args args;
        const char *want;
    } table[] = {
        {"a slots=2", NULL, {.nodes = 2}, "'--nodes 2': there is only 1 host"},
        {"a slots=2", NULL, {.least = 2, .nodes = 2, .up_to = true}, "'--nodes 2': there is only"},
        {"a slots=2",
         NULL,
         {.least = 2, .nodes = 4, .up_to = true},
         "'--nodes 2:4': there is only"},
        {"a[1-3] slots=2",
         NULL,
         {.least = 2, .nodes = 4},
         "'--nodes 2:4': there are only 3 hosts, so MAX can be 3 at most"},
        {"a slots=4", "a:1,2", {.slots = 3}, "more than the 2 slots that are selected"},
        {"a slots=4", NULL, {.slots = 1025}, "1025 slots on host 'a'"},
        {"a slots=4", NULL, {.slots = UINT64_MAX}, "slots on host 'a'"},
        {"a slots=2 max_slots=3", NULL, {.slots = 4}, "4 slots on host 'a': its max_slots are 3"},
        {"a", NULL, {0}, "0 slots on host 'a'"},
        {"n[1-65] slots=1024", NULL, {0}, "more than 65536 ranks"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_placement placement = {.world = 77};
        struct ds_roster roster;
        struct ds_error err = {0};

        hosts(&roster, table[i].text);
        cr_assert_eq(ds_roster_select(&roster, table[i].include, NULL, NULL), 0);
        cr_assert_eq(ds_placement_build(&placement, &roster, &table[i].args, &err), -EINVAL,
                     "row %zu", i);
        cr_assert(strstr(err.text, table[i].want) != NULL, "row %zu: %s", i, err.text);
        cr_assert_eq(placement.world, 77, "row %zu: untouched on failure", i);
        ds_roster_release(&roster);
    }
}

/* An allocation may have any number of hosts that is in the range. */
Test(placement, up_to_so_many_hosts)
{
    static const struct {
        const char *text;
        uint32_t places;
    } table[] = {{"n[1-2] slots=1", 2}, {"n[1-3] slots=1", 3}, {"n[1-5] slots=1", 4}};
    const struct ds_placement_args args = {.least = 2, .nodes = 4, .up_to = true};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_placement placement;
        struct ds_roster roster;

        hosts(&roster, table[i].text);
        cr_assert_eq(ds_placement_build(&placement, &roster, &args, NULL), 0);
        cr_assert_eq(placement.places, table[i].places);
        ds_roster_release(&roster);
    }
}

/* Ranks that are a multiple of *user. */
static bool is_multiple(const void *user, const struct ds_placement *placement)
{
    return placement->world % *(const uint32_t *)user == 0;
}

Test(placement, the_largest_number_that_fits)
{
    static const struct {
        uint32_t least, of;
        uint32_t places, world; /* 0: none does */
    } table[] = {
        {1, 1, 4, 10}, {1, 4, 2, 4},  {1, 3, 3, 6}, {2, 4, 2, 4},
        {3, 4, 0, 0},  {4, 5, 4, 10}, {1, 7, 0, 0},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct ds_fit fit = {.does = is_multiple, .user = &table[i].of};
        struct ds_placement placement;
        struct ds_roster roster;

        hosts(&roster, "a slots=2\nb slots=2\nc slots=2\nd slots=4\n");
        cr_assert_eq(ds_placement_build(&placement, &roster, &(struct ds_placement_args){0}, NULL),
                     0);
        cr_assert_eq(ds_placement_cut(&placement, table[i].least, &fit), table[i].places > 0);
        cr_assert_eq(placement.places, table[i].places > 0 ? table[i].places : 4, "row %zu", i);
        cr_assert_eq(placement.world, table[i].places > 0 ? table[i].world : 10, "row %zu", i);
        ds_roster_release(&roster);
    }
}

Test(placement, the_place_of_a_rank_is_found)
{
    static const struct ds_place place[] = {{.first_rank = 0, .ranks = 3},
                                            {.first_rank = 3, .ranks = 1},
                                            {.first_rank = 4, .ranks = 8},
                                            {.first_rank = 12, .ranks = 2}};
    static const uint32_t expected[] = {0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3};

    for (uint32_t rank = 0; rank < 14; rank++)
        cr_assert_eq(ds_place_of(place, 4, rank), expected[rank], "rank %u", rank);
    cr_assert_eq(ds_place_of(place, 1, 2), 0);
}
