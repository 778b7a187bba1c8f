/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_spares.c - which host takes the place of which.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "launcher/fleet/spares.h"

enum { PLACES = 3, MOST_PLACES = 8 };

struct scene {
    struct ds_roster roster;
    struct ds_placement placement;
    struct ds_spares spares;
    struct ds_spares_change change; /* the last one */
    bool lost[MOST_PLACES];
    bool held; /* ranks fail because another job has a GPU */
};

static void begin_with(struct scene *scene, const char *text, const char *exclude,
                       const struct ds_spares_args *more)
{
    const struct ds_placement_args args = {.nodes = more->most, .slots = more->slots};

    memset(scene, 0, sizeof(*scene));
    ds_roster_init(&scene->roster);
    cr_assert_eq(ds_hostfile_parse(&scene->roster, "hosts", text, strlen(text), NULL), 0);
    cr_assert_eq(ds_roster_select(&scene->roster, NULL, exclude, NULL), 0);
    cr_assert_eq(ds_placement_build(&scene->placement, &scene->roster, &args, NULL), 0);
    cr_assert_eq(ds_spares_init(&scene->spares, &scene->roster, &scene->placement, more, NULL), 0);
}

/* There are always PLACES hosts. */
static void begin(struct scene *scene, const char *text, const char *exclude, uint64_t slots)
{
    begin_with(scene, text, exclude,
               &(struct ds_spares_args){.least = PLACES, .most = PLACES, .slots = slots});
}

/* One attempt that fails; `lost` are places, one bit each.  The hosts after it, as one word. */
static const char *fail(struct scene *scene, enum ds_failure_kind kind, uint32_t place,
                        unsigned lost, bool *first)
{
    static char text[64];
    size_t used = 0;
    const struct ds_failure failure = {
        .kind = kind, .host = place, .held = scene->held && kind == DS_FAILURE_RANK};

    text[0] = '\0';
    for (uint32_t i = 0; i < MOST_PLACES; i++)
        scene->lost[i] = (lost >> i & 1) != 0;
    ds_spares_replace(&scene->spares, scene->lost, &failure, &scene->change);
    *first = scene->change.first;
    for (uint32_t i = 0, rank = 0; i < scene->placement.places; i++) {
        cr_assert_eq(scene->placement.place[i].first_rank, rank);
        rank += scene->placement.place[i].ranks;
        cr_assert(rank <= scene->placement.world);
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s",
                                 scene->placement.place[i].host);
        cr_assert_str_eq(scene->placement.place[i].spec->name, scene->placement.place[i].host);
    }
    return text;
}

Test(spares, a_lost_host_is_replaced_in_the_order_of_the_roster)
{
    struct scene scene;
    bool first;

    begin(&scene, "a slots=2\nb slots=2\nc slots=2\nd slots=1\ne slots=2\nf slots=4\n", NULL, 0);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_SILENT, 1, 2, &first), "aec");
    cr_assert(first);
    cr_assert_eq(scene.placement.place[1].first_rank, 2);
    cr_assert_eq(scene.placement.place[1].ranks, 2);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 0, 5, &first), "fec");
    cr_assert(first, "two were lost, one spare was left");
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 2, 4, &first), "fec");
    cr_assert(!first, "no spare is left: the host is tried again");
    ds_roster_release(&scene.roster);
}

Test(spares, ranks_that_fail_have_two_tries)
{
    struct scene scene;
    bool first;

    begin(&scene, "a\nb\nc\nd\ne\n", NULL, 1);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_RANK, 2, 0, &first), "abc");
    cr_assert(!first);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HANG, 0, 0, &first), "abc");
    cr_assert_str_eq(fail(&scene, DS_FAILURE_RANK, 2, 0, &first), "abd");
    cr_assert(first);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_RANK, 2, 0, &first), "abd", "it starts afresh");
    ds_roster_release(&scene.roster);
}

Test(spares, a_host_whose_gpu_is_held_is_replaced_at_once)
{
    struct scene scene;
    bool first;

    begin(&scene, "a\nb\nc\nd\n", NULL, 1);
    scene.held = true;
    cr_assert_str_eq(fail(&scene, DS_FAILURE_RANK, 1, 0, &first), "adc");
    cr_assert(first);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_RANK, 1, 0, &first), "adc", "no spare is left");
    cr_assert(!first);
    ds_roster_release(&scene.roster);
}

Test(spares, what_is_not_a_hosts_fault_replaces_nothing)
{
    static const enum ds_failure_kind kinds[] = {DS_FAILURE_NONE, DS_FAILURE_SLEPT,
                                                 DS_FAILURE_LAUNCHER};
    struct scene scene;
    bool first;

    begin(&scene, "a\nb\nc\nd\n", NULL, 1);
    for (size_t i = 0; i < 9; i++)
        cr_assert_str_eq(fail(&scene, kinds[i % 3], 0, 0, &first), "abc");
    cr_assert_str_eq(fail(&scene, DS_FAILURE_START, 1, 0, &first), "adc");
    ds_roster_release(&scene.roster);
}

Test(spares, excluded_hosts_and_hosts_with_too_few_slots_are_none)
{
    struct scene scene;
    bool first;

    begin(&scene, "a slots=2\nb slots=2\nc slots=2\nd slots=2\ne slots=2\n", "d@e:1", 0);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 0, 1, &first), "abc");
    cr_assert(!first);
    ds_roster_release(&scene.roster);
    begin(&scene, "a slots=2\nb slots=2\nc slots=2\nd slots=2\n", NULL, 4);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 0, 1, &first), "dbc", "--slots 4 on all alike");
    ds_roster_release(&scene.roster);
}

/* --- fewer hosts ------------------------------------------------------------------------------ */

static bool is_power_of_two(const void *user, const struct ds_placement *placement)
{
    (void)user;
    return (placement->world & (placement->world - 1)) == 0;
}

/* Attempts that fail, one after the other, and the hosts then. */
static const struct {
    const char *hosts;
    uint32_t least, most;
    bool powers; /* ranks must be a power of two */
    struct {
        enum ds_failure_kind kind;
        uint32_t place;
        unsigned lost;
        const char *want; /* hosts then */
        uint32_t world, left;
        bool too_few;
    } step[4]; /* until want is NULL */
} fewer[] = {
    /* one after the other, to the least, which is tried again */
    {"a slots=2\nb slots=2\nc slots=2\nd slots=2\n",
     2,
     4,
     false,
     {{DS_FAILURE_HOST, 1, 2, "acd", 6, 3, false},
      {DS_FAILURE_SILENT, 0, 1, "cd", 4, 2, false},
      {DS_FAILURE_HOST, 1, 2, "cd", 4, 1, true},
      {DS_FAILURE_HOST, 0, 1, "cd", 4, 1, true}}},
    /* spares first */
    {"a slots=1\nb slots=1\nc slots=1\nd slots=1\n",
     1,
     3,
     false,
     {{DS_FAILURE_HOST, 0, 1, "dbc", 3, 0, false},
      {DS_FAILURE_HOST, 0, 1, "bc", 2, 2, false},
      {DS_FAILURE_HOST, 0, 3, "bc", 2, 0, true}}},
    /* two at once, one of which a spare replaces */
    {"a slots=1\nb slots=1\nc slots=1\nd slots=1\n",
     1,
     3,
     false,
     {{DS_FAILURE_HOST, 2, 6, "ad", 2, 2, false}}},
    /* a number that will not do: what is left over is a spare, and is used */
    {"a slots=1\nb slots=1\nc slots=1\nd slots=1\n",
     1,
     4,
     true,
     {{DS_FAILURE_HOST, 3, 8, "ab", 2, 3, false},
      {DS_FAILURE_HOST, 1, 2, "ac", 2, 0, false},
      {DS_FAILURE_HOST, 0, 1, "c", 1, 1, false}}},
    /* none of the numbers will do: hosts keep their places */
    {"a slots=1\nb slots=1\nc slots=1\nd slots=1\n",
     3,
     4,
     true,
     {{DS_FAILURE_HOST, 2, 4, "abcd", 4, 3, true}, {DS_FAILURE_RANK, 1, 0, "abcd", 4, 0, false}}},
    /* a spare with too few slots for a place makes one of its own */
    {"a slots=2\nb slots=2\nc slots=1\n",
     1,
     2,
     false,
     {{DS_FAILURE_HOST, 0, 1, "bc", 3, 2, false}}},
    /* ranks that fail first on a host twice, and a start that is late */
    {"a slots=1\nb slots=1\nc slots=1\nd slots=1\n",
     1,
     4,
     false,
     {{DS_FAILURE_RANK, 1, 0, "abcd", 4, 0, false},
      {DS_FAILURE_HANG, 1, 0, "acd", 3, 3, false},
      {DS_FAILURE_START, 1, 0, "ad", 2, 2, false},
      {DS_FAILURE_LAUNCHER, 1, 0, "ad", 2, 0, false}}},
};

Test(spares, where_fewer_will_do_a_host_is_left_out)
{
    for (size_t i = 0; i < sizeof(fewer) / sizeof(fewer[0]); i++) {
        const struct ds_spares_args args = {
            .least = fewer[i].least,
            .most = fewer[i].most,
            .fit = {.does = fewer[i].powers ? is_power_of_two : NULL}};
        struct scene scene;
        bool first;

        begin_with(&scene, fewer[i].hosts, NULL, &args);
        for (size_t k = 0; k < 4 && fewer[i].step[k].want != NULL; k++) {
            uint32_t places = scene.placement.places;
            const char *hosts = fail(&scene, fewer[i].step[k].kind, fewer[i].step[k].place,
                                     fewer[i].step[k].lost, &first);

            cr_assert_str_eq(hosts, fewer[i].step[k].want, "row %zu step %zu: %s", i, k, hosts);
            cr_assert_eq(scene.placement.world, fewer[i].step[k].world, "row %zu step %zu", i, k);
            cr_assert_eq(scene.change.left, fewer[i].step[k].left, "row %zu step %zu: %u are left",
                         i, k, scene.change.left);
            cr_assert_eq(scene.change.too_few, fewer[i].step[k].too_few, "row %zu step %zu", i, k);
            cr_assert(scene.placement.places == places || scene.change.out > 0);
            cr_assert(scene.change.out == 0 || (first && !scene.change.too_few));
        }
        ds_roster_release(&scene.roster);
    }
}

/* With a range a host that others took the place of is not used again, nor one that was left out. */
Test(spares, a_host_that_was_left_out_stays_out)
{
    const struct ds_spares_args args = {.least = 1, .most = 4};
    struct scene scene;
    bool first;

    begin_with(&scene, "a slots=1\nb slots=1\nc slots=1\nd slots=1\n", NULL, &args);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 0, 1, &first), "bcd");
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 0, 1, &first), "cd");
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 1, 3, &first), "cd");
    cr_assert(scene.change.too_few && scene.change.left == 0);
    cr_assert_str_eq(fail(&scene, DS_FAILURE_HOST, 1, 2, &first), "c", "and is then left out");
    ds_roster_release(&scene.roster);
}

Test(spares, too_few_hosts_are_a_sentence)
{
    static const struct {
        uint32_t least, most;
        bool powers;
        unsigned lost;
        const char *want;
    } table[] = {
        {3, 4, false, 3, "2 hosts are left, and '--nodes' is 3:4: all are tried again"},
        {2, 4, false, 7, "1 host is left, and '--nodes' is 2:4: all are tried again"},
        {1, 4, true, 15, "0 hosts are left, and '--nodes' is 1:4: all are tried again"},
        {3, 4, true, 1,
         "3 hosts are left, and '--nodes' is 3:4, of which the job can use 4: all are tried again"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct ds_spares_args args = {
            .least = table[i].least,
            .most = table[i].most,
            .fit = {.does = table[i].powers ? is_power_of_two : NULL}};
        char said[DS_MAX_ERROR_TEXT];
        struct scene scene;
        bool first;

        begin_with(&scene, "a slots=1\nb slots=1\nc slots=1\nd slots=1\n", NULL, &args);
        (void)fail(&scene, DS_FAILURE_HOST, 0, table[i].lost, &first);
        cr_assert(scene.change.too_few && !first);
        ds_spares_too_few(&scene.spares, &scene.change, said);
        cr_assert_str_eq(said, table[i].want);
        ds_roster_release(&scene.roster);
    }
}
