/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_spares.c - which host takes the place of which.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "launcher/fleet/spares.h"

enum { PLACES = 3 };

struct scene {
    struct ds_roster roster;
    struct ds_placement placement;
    struct ds_spares spares;
    bool lost[PLACES];
    bool held; /* ranks fail because another job has a GPU */
};

static void begin(struct scene *scene, const char *text, const char *exclude, uint64_t slots)
{
    const struct ds_placement_args args = {.nodes = PLACES, .slots = slots};

    memset(scene, 0, sizeof(*scene));
    ds_roster_init(&scene->roster);
    cr_assert_eq(ds_hostfile_parse(&scene->roster, "hosts", text, strlen(text), NULL), 0);
    cr_assert_eq(ds_roster_select(&scene->roster, NULL, exclude, NULL), 0);
    cr_assert_eq(ds_placement_build(&scene->placement, &scene->roster, &args, NULL), 0);
    cr_assert_eq(ds_spares_init(&scene->spares, &scene->roster, &scene->placement, NULL), 0);
}

/* One attempt that fails; `lost` are places, one bit each.  The hosts after it, as one word. */
static const char *fail(struct scene *scene, enum ds_failure_kind kind, uint32_t place,
                        unsigned lost, bool *first)
{
    static char text[64];
    size_t used = 0;
    const struct ds_failure failure = {
        .kind = kind, .host = place, .held = scene->held && kind == DS_FAILURE_RANK};

    for (uint32_t i = 0; i < PLACES; i++)
        scene->lost[i] = (lost >> i & 1) != 0;
    (void)ds_spares_replace(&scene->spares, scene->lost, &failure, first);
    for (uint32_t i = 0; i < PLACES; i++) {
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
