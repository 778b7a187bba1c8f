/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_cores.c - shares of the allowed cores, and their text.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "launcher/cores.h"

static void set_of(const char *list, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (; *list != '\0'; list++)
        CPU_SET((unsigned)(*list - '0'), set);
}

Test(cores, threads)
{
    static const struct {
        unsigned allowed, ranks, wanted, want;
    } table[] = {{8, 2, 0, 4}, {8, 3, 0, 2}, {2, 4, 0, 1},
                 {8, 2, 7, 7}, {0, 1, 0, 1}, {4, 0, 0, 1}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        cr_assert_eq(ds_cores_per_rank(table[i].allowed, table[i].ranks, table[i].wanted),
                     table[i].want, "row %zu", i);
}

Test(cores, shares)
{
    static const struct {
        const char *allowed;
        unsigned threads, local;
        const char *want;
    } table[] = {
        {"0123", 2, 0, "0-1"},   {"0123", 2, 1, "2-3"}, {"0123", 1, 3, "3"}, {"1357", 2, 1, "5,7"},
        {"01", 1, 2, "0"},       {"01", 1, 3, "1"}, /* more ranks than cores: over again */
        {"012", 2, 1, "0,2"},    {"01", 4, 0, "0-1"},   {"01", 4, 1, "0-1"}, {"", 2, 0, ""},
        {"024678", 3, 1, "6-8"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char text[DS_CORES_TEXT];
        cpu_set_t allowed, mine;

        set_of(table[i].allowed, &allowed);
        ds_cores_share(&allowed, table[i].threads, table[i].local, &mine);
        ds_cores_text(&mine, text);
        cr_assert_str_eq(text, table[i].want, "row %zu", i);
    }
}

Test(cores, lists)
{
    static const struct {
        const char *text, *want; /* NULL: malformed */
    } table[] = {
        {"", ""},           {"\n", ""},        {"0-3,8\n", "0-3,8"},
        {"7,3-4", "3-4,7"}, {"1,1", "1"},      {"1023", "1023"},
        {"1024", NULL},     {"-1", NULL},      {"1-", NULL},
        {"3-1", NULL},      {"1,", NULL},      {",1", NULL},
        {"1,,2", NULL},     {"1 2", NULL},     {"1\n2", NULL},
        {"a", NULL},        {"0-1023x", NULL}, {"18446744073709551617", NULL},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char text[DS_CORES_TEXT];
        cpu_set_t cores;
        bool good = ds_cores_parse(table[i].text, &cores);

        cr_assert_eq(good, table[i].want != NULL, "row %zu", i);
        ds_cores_text(&cores, text);
        if (good)
            cr_assert_str_eq(text, table[i].want, "row %zu", i);
    }
}

Test(cores, the_longest_text_fits)
{
    char text[DS_CORES_TEXT];
    cpu_set_t every_other;

    CPU_ZERO(&every_other);
    for (unsigned i = 0; i < CPU_SETSIZE; i += 2)
        CPU_SET(i, &every_other);
    ds_cores_text(&every_other, text);
    cr_assert(strlen(text) + 16 < sizeof(text));
    cr_assert_str_eq(text + strlen(text) - 5, ",1022");
}
