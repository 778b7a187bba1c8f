/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ssh_config.c - blocks, patterns, first value wins, refusals, tokens, jumps.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "launcher/remote/pattern.h"
#include "launcher/remote/ssh_config.h"

static struct ds_arena arena;

static void setup(void)
{
    ds_arena_init(&arena);
}

static void teardown(void)
{
    ds_arena_release(&arena);
}

TestSuite(ssh_config, .init = setup, .fini = teardown);

/* One other file there is: "more". */
static int include(struct ds_ssh_reader *reader, const char *pattern, unsigned depth,
                   struct ds_error *err)
{
    static const char more[] = "User more\nHost other\n  Port 7\n";
    static const char loop[] = "Include loop\n";

    if (strcmp(pattern, "loop") == 0)
        return ds_ssh_config_apply(reader, "loop", loop, strlen(loop), depth, err);
    return strcmp(pattern, "more") == 0
               ? ds_ssh_config_apply(reader, "more", more, strlen(more), depth, err)
               : 0;
}

static int apply(const char *host, const char *text, struct ds_ssh_config *config,
                 struct ds_error *err)
{
    struct ds_ssh_reader reader = {
        .host = host, .home = "/home/me", .arena = &arena, .config = config, .include = include};

    *config = (struct ds_ssh_config){0};
    return ds_ssh_config_apply(&reader, "config", text, strlen(text), 0, err);
}

Test(ssh_config, the_first_value_of_a_block_that_matches_wins)
{
    static const char text[] = "# comment\n"
                               "Host node1 node2\n"
                               "  HostName = 10.0.0.%n\n"
                               "\tport 2201\r\n"
                               "Host *.far !*.not.far node*\n"
                               "  User=\"far away\"\n"
                               "  Port 2222   # not this\n"
                               "Host *\n"
                               "  User nobody\n"
                               "  IdentityFile ~/a\n"
                               "  IdentityFile ~/b\n"
                               "  UserKnownHostsFile k1 \"k 2\"\n"
                               "  Compression whatever\n";
    struct ds_ssh_config config;

    cr_assert_eq(apply("node1", text, &config, NULL), 0);
    cr_expect_str_eq(config.hostname, "10.0.0.%n");
    cr_expect_str_eq(config.user, "far away");
    cr_expect(config.port == 2201 && config.identity.count == 2 && config.known.count == 2);
    cr_expect_str_eq(config.identity.item[1], "~/b");
    cr_expect_str_eq(config.known.item[1], "k 2");
    cr_assert_eq(apply("x.not.far", text, &config, NULL), 0);
    cr_expect_str_eq(config.user, "nobody", "an excluded name is not in the block");
    cr_assert_eq(apply("x.far", text, &config, NULL), 0);
    cr_expect(strcmp(config.user, "far away") == 0 && config.port == 2222);
}

Test(ssh_config, files_stand_where_they_are_included)
{
    struct ds_ssh_config config;
    struct ds_error err = {0};

    cr_assert_eq(apply("a", "Host a\nInclude none more\nUser mine\nPort 9\n", &config, NULL), 0);
    cr_expect(strcmp(config.user, "more") == 0 && config.port == 9);
    cr_assert_eq(apply("b", "Host a\nInclude more\nHost b\nUser mine\n", &config, NULL), 0);
    cr_expect_str_eq(config.user, "mine", "a block of another host includes nothing");
    cr_assert_eq(apply("a", "Include loop\n", &config, &err), -EINVAL);
    cr_expect_not_null(strstr(err.text, "deeply"));
}

Test(ssh_config, match_takes_all_host_and_originalhost)
{
    struct ds_ssh_config config;
    struct ds_error err = {0};

    cr_assert_eq(apply("a", "HostName b\nMatch host b\nUser x\n", &config, NULL), 0);
    cr_expect_str_eq(config.user, "x");
    cr_assert_eq(apply("a", "Match !originalhost a,b\nUser x\nMatch all\nUser y\n", &config, NULL),
                 0);
    cr_expect_str_eq(config.user, "y");
    cr_assert_eq(apply("a", "Match exec \"true\"\nUser x\n", &config, &err), -EINVAL);
    cr_expect_str_eq(err.text, "config:1: 'Match exec' is not supported; use --via openssh");
}

Test(ssh_config, what_cannot_be_honoured_is_an_error_where_it_applies)
{
    struct ds_ssh_config config;
    struct ds_error err = {0};

    cr_assert_eq(apply("a", "Host b\nProxyCommand nc %h %p\n", &config, NULL), 0);
    cr_assert_eq(apply("b", "Host b\nProxyCommand nc %h %p\n", &config, &err), -EINVAL);
    cr_expect_str_eq(err.text, "config:2: 'ProxyCommand' is not supported; use --via openssh");
    cr_assert_eq(apply("b", "ProxyCommand none\n", &config, NULL), 0);
}

Test(ssh_config, lines_that_make_no_sense_are_errors)
{
    static const char *const wrong[] = {"Port 0",
                                        "Port 65536",
                                        "Port x",
                                        "Port",
                                        "Host",
                                        "User \"me",
                                        "Port 22x",
                                        "Match host",
                                        "IdentitiesOnly maybe",
                                        "ConnectTimeout -1"};
    struct ds_ssh_config config;
    struct ds_error err;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        err = (struct ds_error){0};
        cr_expect_eq(apply("a", wrong[i], &config, &err), -EINVAL, "%s", wrong[i]);
        cr_expect(strncmp(err.text, "config:1: ", 10) == 0, "%s", err.text);
    }
}

Test(ssh_config, tokens_and_the_home_folder)
{
    const struct ds_ssh_tokens tokens = {.home = "/home/me",
                                         .host = "10.0.0.1",
                                         .name = "n1",
                                         .user = "you",
                                         .local_user = "me",
                                         .port = 22};

    cr_expect_str_eq(ds_ssh_expand(&arena, "~/k/%n-%h-%p-%r-%u%%", &tokens),
                     "/home/me/k/n1-10.0.0.1-22-you-me%");
    cr_expect_str_eq(ds_ssh_expand(&arena, "%d/x~", &tokens), "/home/me/x~");
    cr_expect_null(ds_ssh_expand(&arena, "%z", &tokens));
    cr_expect_null(ds_ssh_expand(&arena, "100%", &tokens));
}

Test(ssh_config, jumps)
{
    struct ds_ssh_hop hop[3];
    struct ds_error err = {0};

    cr_assert_eq(ds_ssh_jumps(&arena, "me@gate:2222,[fe80::1]:23,c", hop, 3, NULL), 3);
    cr_expect(strcmp(hop[0].user, "me") == 0 && strcmp(hop[0].host, "gate") == 0 &&
              hop[0].port == 2222);
    cr_expect(hop[1].user == NULL && strcmp(hop[1].host, "fe80::1") == 0 && hop[1].port == 23);
    cr_expect(strcmp(hop[2].host, "c") == 0 && hop[2].port == 0);
    cr_expect_eq(ds_ssh_jumps(&arena, "a,b,c,d", hop, 3, &err), -EINVAL);
    cr_expect_eq(ds_ssh_jumps(&arena, "a,,b", hop, 3, &err), -EINVAL);
    cr_expect_eq(ds_ssh_jumps(&arena, "a:0", hop, 3, &err), -EINVAL);
    cr_expect_eq(ds_ssh_jumps(&arena, "ssh://a", hop, 3, &err), -EINVAL);
    cr_expect_eq(ds_ssh_jumps(&arena, "@a", hop, 3, &err), -EINVAL);
}

Test(ssh_config, patterns)
{
    static const struct {
        const char *pattern, *name;
        bool match;
    } cases[] = {{"*", "", true},          {"a*b*c", "aXbYbc", true}, {"a*b*c", "aXbYb", false},
                 {"?", "", false},         {"??", "ab", true},        {"", "a", false},
                 {"A.b", "a.B", true},     {"**a**", "xxaxx", true},  {"a*", "b", false},
                 {"*.far", "x.far", true}, {"*.far", "far", false}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_eq(ds_pattern_match(cases[i].pattern, strlen(cases[i].pattern), cases[i].name),
                     cases[i].match, "%s on %s", cases[i].pattern, cases[i].name);
}
