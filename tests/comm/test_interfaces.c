/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_interfaces - the address a host speaks on, on hosts of all kinds: interfaces that are down or
 * have no address, both families, networks that end within a byte, names with many meanings.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "runtime/comm/address.h"
#include "tests/comm/interfaces.h"

static const struct interface host[] = {
    {.name = "tun0"},
    {.name = "wg0", .address = ""},
    {.name = "lo", .address = "127.0.0.1"},
    {.name = "eth9", .address = "10.9.0.1", .down = true},
    {.name = "eth0", .address = "fe80::1"},
    {.name = "eth0", .address = "2001:db8:0:80::7"},
    {.name = "eth0", .address = "10.1.2.3"},
    {.name = "eth0", .address = "10.1.2.4"},
    {.name = "ib0", .address = "2001:db8:0:c0::9"},
    {.name = "ib0", .address = "fe80::2"},
};

static void on_host(void)
{
    interfaces_here = host;
    interfaces_count = sizeof(host) / sizeof(host[0]);
    (void)unsetenv("SSH_CONNECTION");
    (void)unsetenv("SLURMD_NODENAME");
}

static void nothing_is_kept(void)
{
    cr_assert_eq(interfaces_held, 0, "%d lists", interfaces_held);
}

TestSuite(interfaces, .init = on_host, .fini = nothing_is_kept);

/* What launch.interface may be, and the address it means here; NULL: none. */
static const struct {
    const char *interface, *address;
} rows[] = {
    {"eth0", "10.1.2.3"}, /* IPv4 before IPv6, the first of them */
    {"ib0", "2001:db8:0:c0::9"},
    {"lo", "127.0.0.1"},
    {"eth9", NULL}, /* down */
    {"tun0", NULL},
    {"wg0", NULL},
    {"10.1.2.4", "10.1.2.4"},
    {"10.1.2.0/24", "10.1.2.3"},
    {"10.1.2.4/31", "10.1.2.4"},
    {"10.1.2.2/31", "10.1.2.3"},
    {"10.1.2.4/30", "10.1.2.4"},
    {"0.0.0.0/0", "127.0.0.1"},
    {"10.9.0.0/16", NULL}, /* down */
    {"11.1.2.3/8", NULL},
    {"10.1.2.9/29", NULL},
    {"2001:db8::/32", "2001:db8:0:80::7"},
    {"2001:db8:0:c0::/58", "2001:db8:0:c0::9"},
    {"2001:db8:0:80::/57", "2001:db8:0:80::7"},
    {"2001:db8:0:c0::9", "2001:db8:0:c0::9"},
    {"2001:db8:1::/48", NULL},
    {"fe80::/10", NULL}, /* needs its interface beside it */
    {"::/0", "2001:db8:0:80::7"},
    {"10.1.2.0/", NULL},
    {"10.1.2.0/-1", NULL},
    {"10.1.2.0/24x", NULL},
    {"10.1.2.0/33", NULL},
    {"2001:db8::/129", NULL},
    {"/24", NULL},
    {"10.1.2/24", NULL},
    {"2001:db8::x", NULL},
    {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc", NULL},
};

Test(interfaces, a_name_an_address_a_network)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char found[DS_ADDRESS_BYTES] = "";
        struct ds_error err = {0};
        int rc = ds_comm_address(rows[i].interface, found, &err);

        if (rows[i].address != NULL) {
            cr_expect(rc == 0, "'%s': %s", rows[i].interface, err.text);
            cr_expect_str_eq(found, rows[i].address, "'%s': '%s'", rows[i].interface, found);
        } else {
            const char *have = strstr(err.text, "this host has: ");

            cr_expect(rc == -EINVAL && have != NULL, "'%s'", rows[i].interface);
            cr_expect_str_eq(have,
                             "this host has: lo 127.0.0.1, eth9 10.9.0.1 (down), "
                             "eth0 2001:db8:0:80::7, eth0 10.1.2.3, eth0 10.1.2.4, "
                             "ib0 2001:db8:0:c0::9",
                             "'%s': %s", rows[i].interface, err.text);
        }
    }
}

Test(interfaces, more_than_a_message_holds)
{
    static struct interface many[INTERFACES_MAX];
    char found[DS_ADDRESS_BYTES];
    struct ds_error err = {0};

    for (size_t i = 0; i < INTERFACES_MAX; i++)
        many[i] = (struct interface){.name = "a-long-name-0", .address = "2001:db8:1:2:3:4:5:6"};
    interfaces_here = many;
    interfaces_count = INTERFACES_MAX;
    cr_assert_eq(ds_comm_address("eth0", found, &err), -EINVAL);
    cr_assert(strstr(err.text, "a-long-name-0 2001:db8:1:2:3:4:5:6, a-long-name-0") != NULL, "%s",
              err.text);
    interfaces_count = 0;
    cr_assert_eq(ds_comm_address("eth0", found, &err), -EINVAL);
}

Test(interfaces, that_cannot_be_listed)
{
    char found[DS_ADDRESS_BYTES];
    struct ds_error err = {0};

    interfaces_errno = ENOBUFS;
    cr_assert_eq(ds_comm_address("eth0", found, &err), -ENOBUFS);
    cr_assert(strstr(err.text, "interfaces") != NULL, "%s", err.text);
}

/* A node's name, as the resolver of the host knows it. */
Test(interfaces, the_name_of_a_node_is_where_others_reach_it)
{
    static const struct {
        const char *means[3];
        size_t count;
        const char *address;
    } nodes[] = {
        {{"10.1.2.3"}, 1, "10.1.2.3"},
        {{"127.0.1.1", "10.1.2.3"}, 2, "10.1.2.3"},
        {{"::1", "fe80::2", "2001:db8::5"}, 3, "2001:db8::5"},
        {{"2001:db8::5", "10.1.2.3"}, 2, "2001:db8::5"},
        {{"127.0.1.1", "::1"}, 2, "127.0.0.1"},
        {{NULL}, 0, "127.0.0.1"},
    };

    (void)setenv("SLURMD_NODENAME", "n1", 1);
    for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
        char found[DS_ADDRESS_BYTES] = "";

        names_mean = nodes[i].count > 0 ? nodes[i].means : NULL;
        names_count = nodes[i].count;
        cr_assert_eq(ds_comm_address("auto", found, NULL), 0);
        cr_expect_str_eq(found, nodes[i].address, "row %zu: '%s'", i, found);
    }
    names_mean = NULL;
    (void)setenv("SSH_CONNECTION", "10.0.0.9 40000 10.0.0.1 22", 1);
    {
        char found[DS_ADDRESS_BYTES] = "";

        cr_assert_eq(ds_comm_address("auto", found, NULL), 0);
        cr_assert_str_eq(found, "10.0.0.1", "a node whose name means nothing was reached by ssh");
    }
}
