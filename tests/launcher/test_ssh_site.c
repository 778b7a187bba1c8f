/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ssh_site.c - a user's files, in a home of the test's own, turned into how to reach a host.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/remote/ssh_site.h"
#include "tests/tempdir.h"

static struct ds_ssh_site site;
static struct ds_error err;

static void make_home(void)
{
    tempdir_make();
    cr_assert_eq(mkdir(tempdir_path(".ssh"), 0700), 0);
    cr_assert_eq(setenv("HOME", tempdir, 1), 0);
    cr_assert_eq(setenv("SSH_AUTH_SOCK", "/run/keys", 1), 0);
    cr_assert_eq(ds_ssh_site_init(&site, &err), 0, "%s", err.text);
}

static void remove_home(void)
{
    ds_ssh_site_release(&site);
    tempdir_remove();
}

TestSuite(ssh_site, .init = make_home, .fini = remove_home, .timeout = 60);

static void write_text(const char *name, const char *text)
{
    (void)tempdir_write(name, text, strlen(text));
}

static int resolve(const char *name, struct ds_ssh_target *target)
{
    const struct ds_host_spec host = {.name = name};

    ds_error_clear(&err);
    return ds_ssh_site_resolve(&site, &host, target, &err);
}

/* The config anew, as a new attempt would find it. */
static int resolve_with(const char *config, const char *name, struct ds_ssh_target *target)
{
    ds_ssh_site_release(&site);
    write_text(".ssh/config", config);
    cr_assert_eq(ds_ssh_site_init(&site, &err), 0);
    return resolve(name, target);
}

static void expect_path(const char *got, const char *in_home)
{
    cr_assert_not_null(got);
    cr_assert_str_eq(got, tempdir_path(in_home));
}

Test(ssh_site, without_files_it_is_what_ssh_does)
{
    const struct passwd *user = getpwuid(getuid());
    struct ds_ssh_target target;

    cr_assert_eq(resolve("node1", &target), 0, "%s", err.text);
    cr_assert_str_eq(target.name, "node1");
    cr_assert_str_eq(target.address, "node1");
    cr_assert_str_eq(target.key_name, "node1");
    cr_assert_str_eq(target.user, user != NULL ? user->pw_name : "");
    cr_assert_str_eq(target.agent, "/run/keys");
    cr_assert_eq(target.port, 22);
    cr_assert_eq(target.hops, 0);
    cr_assert_eq(target.identity.count, 3);
    cr_assert(!target.identities_given && !target.identities_only);
    expect_path(target.identity.item[0], ".ssh/id_ed25519");
    cr_assert_eq(target.known.count, 2);
    expect_path(target.known_own, ".ssh/known_hosts");
    cr_assert_str_eq(target.known.item[1], "/etc/ssh/ssh_known_hosts");
}

Test(ssh_site, a_home_that_is_no_path_is_the_user_lists)
{
    const struct passwd *user = getpwuid(getuid());

    ds_ssh_site_release(&site);
    cr_assert_eq(setenv("HOME", "not/a/path", 1), 0);
    cr_assert_eq(ds_ssh_site_init(&site, &err), 0);
    cr_assert_str_eq(site.home, user != NULL ? user->pw_dir : "/");
    ds_ssh_site_release(&site);
    cr_assert_eq(unsetenv("HOME"), 0);
    cr_assert_eq(ds_ssh_site_init(&site, &err), 0);
    cr_assert_str_eq(site.home, user != NULL ? user->pw_dir : "/");
}

Test(ssh_site, the_hostfile_goes_before_the_config)
{
    const struct ds_host_spec host = {
        .name = "node1", .address = "10.1.1.1", .user = "me", .port = 2222};
    struct ds_ssh_target target;

    cr_assert_eq(resolve_with("Host node*\n  HostName %h.cluster\n  User you\n  Port 2200\n"
                              "  ConnectTimeout 7\n  IdentitiesOnly yes\n"
                              "  IdentityFile ~/keys/%r-%p\n  UserKnownHostsFile ~/known none\n"
                              "  GlobalKnownHostsFile none\n",
                              "node1", &target),
                 0, "%s", err.text);
    cr_assert_str_eq(target.address, "node1.cluster");
    cr_assert_str_eq(target.key_name, "[node1.cluster]:2200");
    cr_assert_str_eq(target.user, "you");
    cr_assert_eq(target.connect_s, 7);
    cr_assert(target.identities_given && target.identities_only);
    cr_assert_eq(target.identity.count, 1);
    expect_path(target.identity.item[0], "keys/you-2200");
    cr_assert_eq(target.known.count, 1);
    expect_path(target.known_own, "known");
    cr_assert_eq(ds_ssh_site_resolve(&site, &host, &target, &err), 0, "%s", err.text);
    cr_assert_str_eq(target.address, "10.1.1.1");
    cr_assert_str_eq(target.key_name, "[10.1.1.1]:2222");
    cr_assert_str_eq(target.user, "me");
    expect_path(target.identity.item[0], "keys/me-2222");
}

Test(ssh_site, files_are_included_from_where_they_lie)
{
    struct ds_ssh_target target;
    char config[2 * DS_MAX_PATH];

    cr_assert_eq(mkdir(tempdir_path(".ssh/more"), 0700), 0);
    write_text(".ssh/more/a", "Host *\n  User a\n");
    write_text(".ssh/more/b", "Host *\n  User b\n  Port 30\n");
    write_text("tilde", "Host *\n  HostKeyAlias the-alias\n");
    write_text("absolute", "Host *\n  ConnectTimeout 9\n");
    (void)snprintf(config, sizeof(config),
                   "Include more/*\nInclude ~/tilde\nInclude %s\n"
                   "Include nothing-there\n",
                   tempdir_path("absolute"));
    cr_assert_eq(resolve_with(config, "node1", &target), 0, "%s", err.text);
    cr_assert_str_eq(target.user, "a");
    cr_assert_eq(target.port, 30);
    cr_assert_eq(target.connect_s, 9);
    cr_assert_str_eq(target.key_name, "the-alias");
}

Test(ssh_site, includes_have_an_end)
{
    static char config[DS_MAX_PATH + 64];
    struct ds_ssh_target target;

    cr_assert_eq(resolve_with("Include config\n", "node1", &target), -EINVAL);
    cr_assert(strstr(err.text, "too deeply") != NULL, "%s", err.text);
    (void)snprintf(config, sizeof(config), "Include %0*d\n", 900, 1);
    cr_assert_eq(resolve_with(config, "node1", &target), 0, "%s", err.text);
    (void)snprintf(config, sizeof(config), "Include %0*d\n", DS_MAX_PATH, 1);
    cr_assert_eq(resolve_with(config, "node1", &target), -EINVAL);
}

Test(ssh_site, an_agent_is_where_it_is_said_to_be)
{
    struct ds_ssh_target target;

    cr_assert_eq(setenv("MY_AGENT", "/run/mine", 1), 0);
    cr_assert_eq(resolve_with("IdentityAgent none\n", "node1", &target), 0);
    cr_assert_null(target.agent);
    cr_assert_eq(resolve_with("IdentityAgent SSH_AUTH_SOCK\n", "node1", &target), 0);
    cr_assert_str_eq(target.agent, "/run/keys");
    cr_assert_eq(resolve_with("IdentityAgent $MY_AGENT\n", "node1", &target), 0);
    cr_assert_str_eq(target.agent, "/run/mine");
    cr_assert_eq(resolve_with("IdentityAgent $NOT_THERE\n", "node1", &target), 0);
    cr_assert_null(target.agent);
    cr_assert_eq(resolve_with("IdentityAgent ~/agent-%n\n", "node1", &target), 0);
    expect_path(target.agent, "agent-node1");
}

Test(ssh_site, jumps)
{
    static const char *const bad[] = {"@b", "a/b", "[::1", "[::1]x", "b:0", "b:99999", "b:x", ","};
    struct ds_ssh_target target;

    cr_assert_eq(resolve_with("ProxyJump me@a:23,[::1]:24,c\n", "node1", &target), 0, "%s",
                 err.text);
    cr_assert_eq(target.hops, 3);
    cr_assert_str_eq(target.hop[0].user, "me");
    cr_assert_eq(target.hop[0].port, 23);
    cr_assert_str_eq(target.hop[1].host, "::1");
    cr_assert_eq(target.hop[1].port, 24);
    cr_assert_str_eq(target.hop[2].host, "c");
    cr_assert_eq(resolve_with("ProxyJump none\n", "node1", &target), 0, "%s", err.text);
    cr_assert_eq(target.hops, 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char config[64];

        (void)snprintf(config, sizeof(config), "ProxyJump %s\n", bad[i]);
        cr_assert_eq(resolve_with(config, "node1", &target), -EINVAL, "%s", bad[i]);
        cr_assert(err.text[0] != '\0', "%s", bad[i]);
    }
}

Test(ssh_site, what_cannot_be_expanded_is_named)
{
    static const char *const bad[] = {"HostName %q", "IdentityFile %q", "UserKnownHostsFile %",
                                      "GlobalKnownHostsFile %z"};
    struct ds_ssh_target target;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_eq(resolve_with(bad[i], "node1", &target), -EINVAL, "%s", bad[i]);
        cr_assert(strstr(err.text, "cannot expand '%") != NULL, "%s: %s", bad[i], err.text);
    }
}

Test(ssh_site, known_hosts_that_cannot_be_read_are_no_empty_ones)
{
    struct ds_ssh_target target;
    struct ds_known known;

    write_text("known", "node1 ssh-ed25519 AAAA\n@revoked * ssh-rsa AAAA\n");
    cr_assert_eq(resolve_with("UserKnownHostsFile ~/known ~/none\nGlobalKnownHostsFile /dev/null\n",
                              "node1", &target),
                 0, "%s", err.text);
    cr_assert_eq(ds_ssh_site_known(&site, &target, &known, &err), 0, "%s", err.text);
    cr_assert_eq(known.entries, 2);
    cr_assert_eq(ds_ssh_site_known(&site, &target, &known, &err), 0, "the second time from memory");
    cr_assert_eq(known.entries, 2);
    cr_assert_eq(mkdir(tempdir_path("folder"), 0700), 0);
    cr_assert_eq(resolve_with("UserKnownHostsFile ~/folder\n", "node1", &target), 0);
    cr_assert_lt(ds_ssh_site_known(&site, &target, &known, &err), 0);
    cr_assert(strstr(err.text, "folder") != NULL, "%s", err.text);
}

Test(ssh_site, a_config_that_cannot_be_read_is_an_error)
{
    struct ds_ssh_target target;

    cr_assert_eq(mkdir(tempdir_path(".ssh/config"), 0700), 0);
    cr_assert_lt(resolve("node1", &target), 0);
    cr_assert(strstr(err.text, ".ssh/config") != NULL, "%s", err.text);
}

Test(ssh_site, what_may_be_given_to_ssh)
{
    static const char *const bad[] = {"-oProxyCommand=x", "a b", "$(x)", "a;b", "", "a\nb",
                                      "\303\244"};
    struct ds_ssh_target target;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const struct ds_host_spec named = {.name = bad[i]};
        const struct ds_host_spec addressed = {.name = "a", .address = bad[i]};
        const struct ds_host_spec used = {.name = "a", .user = bad[i]};

        cr_assert_eq(ds_ssh_check_host(&named, &err), -EINVAL, "%s", bad[i]);
        cr_assert_eq(ds_ssh_check_host(&addressed, &err), -EINVAL, "%s", bad[i]);
        cr_assert_eq(ds_ssh_site_resolve(&site, &used, &target, &err), -EINVAL, "%s", bad[i]);
    }
    cr_assert_eq(ds_ssh_check_host(
                     &(struct ds_host_spec){.name = "n-1.x_y", .address = "[fe80::1%eth0]"}, &err),
                 0);
}
