/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_restart.c - when a job is started again.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "launcher/fleet/restart.h"

Test(restart, backs_off_and_ends)
{
    static const unsigned want[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    struct ds_restart restart = {0};
    unsigned delay_ms;
    const char *why;

    for (int i = 0; i < 7; i++) {
        struct ds_restart_facts facts = {.limit = 7, .code = 1, .step = i, .checkpoint = -1};

        cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why), "restart %d", i);
        cr_assert_eq(delay_ms, want[i], "restart %d: %u ms", i, delay_ms);
    }
    cr_assert(!ds_restart_next(
        &restart, &(struct ds_restart_facts){.limit = 7, .code = 1, .step = 9}, &delay_ms, &why));
    cr_assert(strstr(why, "used up") != NULL);
}

Test(restart, not_for_everything)
{
    static const struct {
        struct ds_restart_facts facts;
        const char *why; /* part of the reason; NULL: none is given */
    } table[] = {
        {{.limit = 0, .code = 1}, NULL},
        {{.limit = 3, .code = 0}, NULL},
        {{.limit = 3, .code = 75, .stopped = true}, NULL},
        {{.limit = 3, .code = 130, .stopped = true}, NULL},
        {{.limit = 3, .code = 2}, "same input"},
        {{.limit = 3, .code = 65}, "same input"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_restart restart = {0};
        unsigned delay_ms;
        const char *why;

        cr_assert(!ds_restart_next(&restart, &table[i].facts, &delay_ms, &why), "row %zu", i);
        cr_assert((why == NULL) == (table[i].why == NULL), "row %zu", i);
        cr_assert(why == NULL || strstr(why, table[i].why) != NULL, "row %zu: %s", i, why);
    }
}

Test(restart, the_same_step_twice_ends_it)
{
    static const struct {
        int64_t step[2], checkpoint[2];
        bool again;
    } table[] = {
        {{7, 7}, {-1, -1}, false},   {{7, 8}, {-1, -1}, true}, {{7, 7}, {-1, 5}, true},
        {{-1, -1}, {-1, -1}, false}, {{7, 7}, {5, 5}, false},  {{7, 6}, {5, 5}, true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_restart restart = {0};
        unsigned delay_ms;
        const char *why;
        bool again = false;

        for (int k = 0; k < 2; k++) {
            struct ds_restart_facts facts = {.limit = 9,
                                             .code = 1,
                                             .step = table[i].step[k],
                                             .checkpoint = table[i].checkpoint[k]};

            again = ds_restart_next(&restart, &facts, &delay_ms, &why);
            cr_assert(again || k == 1, "row %zu: the first failure is tried again", i);
        }
        cr_assert_eq(again, table[i].again, "row %zu", i);
    }
}

/* A host that another took the place of: the job may fail at the same step once more. */
Test(restart, a_replaced_host_is_not_a_loop)
{
    struct ds_restart restart = {0};
    struct ds_restart_facts facts = {
        .limit = 9, .code = 70, .step = -1, .checkpoint = -1, .replaced = true};
    unsigned delay_ms;
    const char *why;

    for (int i = 0; i < 3; i++)
        cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why), "restart %d", i);
    facts.replaced = false;
    cr_assert(!ds_restart_next(&restart, &facts, &delay_ms, &why));
    cr_assert(strstr(why, "same step twice") != NULL);
}
