/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_etc_hosts.c - which names are taken from /etc/hosts without asking further, and which are not.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "launcher/remote/etc_hosts.h"
#include "tests/tempdir.h"

TestSuite(etc_hosts, .init = tempdir_make, .fini = tempdir_remove);

static const char *found(const char *nsswitch, const char *text, size_t len, const char *name)
{
    static char address[DS_ETC_HOSTS_ADDRESS];
    struct ds_etc_hosts hosts = {0};
    bool there;

    ds_etc_hosts_read(&hosts, tempdir_write("nsswitch.conf", nsswitch, strlen(nsswitch)),
                      tempdir_write("hosts", text, len));
    there = ds_etc_hosts_find(&hosts, name, address);
    ds_etc_hosts_release(&hosts);
    return there ? address : "-";
}

/* clang-format off */
static const struct { const char *text, *name, *want; } lines[] = {
    {"10.0.0.1 node1\n10.0.0.2 node2\n", "node2", "10.0.0.2"},
    {"10.0.0.1\tnode1.site node1\talias", "alias", "10.0.0.1"},
    {"10.0.0.1 node1.site node1\n", "NODE1.Site", "10.0.0.1"},
    {"  10.0.0.1   node1  \r\n", "node1", "10.0.0.1"},
    {"10.0.0.1 node1 node1\n", "node1", "10.0.0.1"},
    {"fd00::1 node1\n", "node1", "fd00::1"},
    {"# 10.0.0.1 node1\n10.0.0.2 other # node1\n", "node1", "-"},
    {"10.0.0.1 node10 xnode1 node1x\n", "node1", "-"},
    {"node1 10.0.0.1\n", "node1", "-"},
    {"10.0.0.1\n\n \nnode1\n", "node1", "-"},
    {"10.0.0.1 node1\nfd00::1 node1\n", "node1", "-"}, /* an order is to be chosen */
    {"10.0.0.1 node1\n10.0.0.1 node1\n", "node1", "-"},
    {"0123456789012345678901234567890123456789012345678901234567890123 node1\n", "node1", "-"},
    {"", "node1", "-"},
    {"10.0.0.1 node1\n", "", "-"},
};
static const struct { const char *nsswitch, *want; } orders[] = {
    {"hosts: files dns\n", "10.0.0.1"},
    {"hosts:files dns\n", "-"}, /* glibc reads it; we do not say */
    {"passwd: files\nhosts:\t files\n", "10.0.0.1"},
    {"# hosts: dns\nHOSTS: FILES mdns4_minimal [NOTFOUND=return] dns\n", "10.0.0.1"},
    {"hosts: dns files\n", "-"},
    {"hosts: resolve [!UNAVAIL=return] files dns\n", "-"},
    {"hosts: files [SUCCESS=continue] dns\n", "-"},
    {"hosts: files [success=merge] dns\n", "-"},
    {"hosts: files dns\nhosts: dns\n", "-"},
    {"hosts: dns\nhosts: files\n", "-"},
    {"hosts:\n", "-"},
    {"passwd: files\n", "-"},
    {"", "-"},
};
/* clang-format on */

Test(etc_hosts, a_name_that_one_line_has)
{
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        cr_assert_str_eq(
            found("hosts: files\n", lines[i].text, strlen(lines[i].text), lines[i].name),
            lines[i].want, "%s in: %s", lines[i].name, lines[i].text);
    cr_assert_str_eq(found("hosts: files\n", "10.0.0.1 a\0b node1\n", 19, "node1"), "10.0.0.1");
}

Test(etc_hosts, where_the_site_asks_it_first)
{
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
        cr_assert_str_eq(found(orders[i].nsswitch, "10.0.0.1 node1\n", 15, "node1"), orders[i].want,
                         "%s", orders[i].nsswitch);
}

Test(etc_hosts, files_that_are_not_there_or_too_large)
{
    static char large[DS_ETC_HOSTS_BYTES + 32] = "10.0.0.1 node1\n#";
    struct ds_etc_hosts hosts = {0};
    char out[DS_ETC_HOSTS_ADDRESS];

    cr_assert_not(ds_etc_hosts_find(&hosts, "node1", out), "nothing was read yet");
    ds_etc_hosts_read(&hosts, tempdir_path("none"), tempdir_write("hosts", "10.0.0.1 node1\n", 15));
    cr_assert_not(ds_etc_hosts_find(&hosts, "node1", out));
    ds_etc_hosts_release(&hosts);
    ds_etc_hosts_read(&hosts, tempdir_write("nsswitch", "hosts: files\n", 13),
                      tempdir_path("none"));
    cr_assert_not(ds_etc_hosts_find(&hosts, "node1", out));
    ds_etc_hosts_release(&hosts);
    memset(large + 16, 'x', sizeof(large) - 16);
    cr_assert_str_eq(found("hosts: files\n", large, DS_ETC_HOSTS_BYTES, "node1"), "10.0.0.1");
    cr_assert_str_eq(found("hosts: files\n", large, DS_ETC_HOSTS_BYTES + 1, "node1"), "-");
}
