/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_restart.c - when a job is started again.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "launcher/fleet/restart.h"

enum { ANY = 0xffff };
#define CRASH .code = 1, .cause = DS_CAUSE_RANK

Test(restart, backs_off_and_ends)
{
    static const unsigned want[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    struct ds_restart restart = {0};
    unsigned delay_ms;
    const char *why;

    for (int i = 0; i < 7; i++) {
        struct ds_restart_facts facts = {
            .limit = 7, .on = ANY, .first_ms = 1000, CRASH, .step = i, .checkpoint = -1};

        cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why), "restart %d", i);
        cr_assert_eq(delay_ms, want[i], "restart %d: %u ms", i, delay_ms);
    }
    cr_assert(!ds_restart_next(&restart,
                               &(struct ds_restart_facts){.limit = 7, .on = ANY, CRASH, .step = 9},
                               &delay_ms, &why));
    cr_assert(strstr(why, "used up") != NULL);
}

Test(restart, the_first_pause_is_the_users)
{
    static const struct {
        unsigned first_ms, after[4]; /* 0, 1, 5 and 40 restarts */
    } table[] = {
        {0, {0, 0, 0, 0}},
        {1, {1, 2, 32, 30000}},
        {20000, {20000, 30000, 30000, 30000}},
        {86400000, {86400000, 86400000, 86400000, 86400000}},
    };
    static const unsigned made[] = {0, 1, 5, 40};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (size_t k = 0; k < sizeof(made) / sizeof(made[0]); k++) {
            struct ds_restart restart = {.restarts = made[k]};
            struct ds_restart_facts facts = {
                .limit = 50, .on = ANY, .first_ms = table[i].first_ms, CRASH};
            unsigned delay_ms;
            const char *why;

            cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why));
            cr_assert_eq(delay_ms, table[i].after[k], "%u ms after %u: %u", facts.first_ms, made[k],
                         delay_ms);
        }
}

/* Every class of failure alone in the list, and every other one that fails then. */
Test(restart, after_what_the_user_wants)
{
#define X(id, bit, name) {DS_CAUSE_##id, "'" name "' is not in launch.restart_on"},
    static const struct {
        enum ds_cause cause;
        const char *why;
    } all[] = {DS_CAUSES(X)};
#undef X
    size_t count = sizeof(all) / sizeof(all[0]);

    for (size_t on = 0; on < count; on++)
        for (size_t k = 0; k < count; k++) {
            struct ds_restart restart = {0};
            struct ds_restart_facts facts = {
                .limit = 1, .on = all[on].cause, .cause = all[k].cause, .code = 1};
            unsigned delay_ms;
            const char *why;
            bool again = ds_restart_next(&restart, &facts, &delay_ms, &why);

            cr_assert_eq(again, on == k, "%s, %s", all[on].why, all[k].why);
            cr_assert(again ? why == NULL : strstr(why, all[k].why) != NULL, "%s", why);
        }
}

Test(restart, not_for_everything)
{
    static const struct {
        struct ds_restart_facts facts;
        const char *why; /* part of the reason; NULL: none is given */
    } table[] = {
        {{.limit = 0, .on = ANY, CRASH}, NULL},
        {{.limit = 3, .on = ANY, .code = 0}, NULL},
        {{.limit = 3, .on = ANY, .code = 75, .stopped = true}, NULL},
        {{.limit = 3, .on = ANY, .code = 130, .stopped = true}, NULL},
        {{.limit = 3, .on = DS_CAUSES_DEFAULT, .code = 2, .cause = DS_CAUSE_INPUT},
         "'input' is not"},
        {{.limit = 3, .on = DS_CAUSES_DEFAULT, .code = 137, .cause = DS_CAUSE_OOM}, "'oom' is not"},
        {{.limit = 3, .on = DS_CAUSES_DEFAULT, .code = 1, .cause = DS_CAUSE_DISK_FULL},
         "'disk-full' is not"},
        {{.limit = 3, .on = 0, CRASH}, "'rank' is not"},
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
                                             .on = ANY,
                                             CRASH,
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
    struct ds_restart_facts facts = {.limit = 9,
                                     .on = ANY,
                                     .code = 70,
                                     .cause = DS_CAUSE_HOST_LOST,
                                     .step = -1,
                                     .checkpoint = -1,
                                     .replaced = true};
    unsigned delay_ms;
    const char *why;

    for (int i = 0; i < 3; i++)
        cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why), "restart %d", i);
    facts.replaced = false;
    cr_assert(!ds_restart_next(&restart, &facts, &delay_ms, &why));
    cr_assert(strstr(why, "same step twice") != NULL);
}

/* Nothing was tried: it is no loop, and no reason to call the first real failure one. */
Test(restart, a_held_gpu_is_waited_for)
{
    struct ds_restart restart = {0};
    struct ds_restart_facts facts = {.limit = 9,
                                     .on = DS_CAUSES_DEFAULT,
                                     .code = 69,
                                     .cause = DS_CAUSE_START,
                                     .held = true,
                                     .step = -1,
                                     .checkpoint = -1};
    unsigned delay_ms;
    const char *why;

    for (int i = 0; i < 4; i++)
        cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why), "restart %d", i);
    facts.held = false;
    cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why), "the first failure");
    facts.held = true;
    cr_assert(ds_restart_next(&restart, &facts, &delay_ms, &why));
    facts.held = false;
    cr_assert(!ds_restart_next(&restart, &facts, &delay_ms, &why));
    cr_assert(strstr(why, "same step twice") != NULL);
    restart = (struct ds_restart){0};
    facts.held = true;
    facts.on = DS_CAUSES_DEFAULT & ~(unsigned)DS_CAUSE_START;
    cr_assert(!ds_restart_next(&restart, &facts, &delay_ms, &why));
    cr_assert(strstr(why, "'start' is not") != NULL, "%s", why);
}
