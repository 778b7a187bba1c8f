/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_address - on which address a host speaks, from the job's key and the agent's environment.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/comm/address.h"

static char found[DS_ADDRESS_BYTES];

static int ask(const char *interface, struct ds_error *err)
{
    memset(found, 0, sizeof(found));
    return ds_comm_address(interface, found, err);
}

static void forget(void)
{
    (void)unsetenv("SSH_CONNECTION");
    (void)unsetenv("SLURMD_NODENAME");
}

Test(address, the_side_of_the_login_that_is_this_host, .init = forget)
{
    (void)setenv("SSH_CONNECTION", "10.1.2.3 55555 10.9.8.7 22", 1);
    cr_assert_eq(ask("auto", NULL), 0);
    cr_assert_str_eq(found, "10.9.8.7");
    (void)setenv("SSH_CONNECTION", "2001:db8::1 5 2001:db8::2 22", 1);
    cr_assert_eq(ask("auto", NULL), 0);
    cr_assert_str_eq(found, "2001:db8::2");
}

Test(address, a_login_that_says_nothing_usable_is_not_believed, .init = forget)
{
    static const char *const texts[] = {"",
                                        "10.0.0.1",
                                        "1 2 $(x) 4",
                                        "1 2 10.0.0.0/8 4",
                                        "fe80::1 5 fe80::2 22",
                                        "1 2 999.0.0.1 4"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        (void)setenv("SSH_CONNECTION", texts[i], 1);
        cr_assert_eq(ask("auto", NULL), 0);
        cr_assert_str_eq(found, "127.0.0.1", "'%s' gave '%s'", texts[i], found);
    }
}

Test(address, loopback_where_nothing_is_said, .init = forget)
{
    cr_assert_eq(ask("auto", NULL), 0);
    cr_assert_str_eq(found, "127.0.0.1");
    (void)setenv("SLURMD_NODENAME", "localhost", 1); /* means a loopback address: no use */
    cr_assert_eq(ask("auto", NULL), 0);
    cr_assert_str_eq(found, "127.0.0.1");
}

Test(address, an_interface_an_address_a_network)
{
    cr_assert_eq(ask("lo", NULL), 0);
    cr_assert_str_eq(found, "127.0.0.1");
    cr_assert_eq(ask("127.0.0.1", NULL), 0);
    cr_assert_str_eq(found, "127.0.0.1");
    cr_assert_eq(ask("127.0.0.0/8", NULL), 0);
    cr_assert_str_eq(found, "127.0.0.1");
    cr_assert_eq(ask("127.0.0.0/31", NULL), 0);
    cr_assert_str_eq(found, "127.0.0.1");
}

Test(address, what_the_host_has_not_is_an_error_that_says_what_it_has)
{
    static const char *const wrong[] = {"no0", "240.1.2.3",    "240.1.2.0/24", "127.0.0.0/33",
                                        "",    "127.0.0.2/31", "127.0.0.1/x"};
    struct ds_error err = {0};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        cr_assert_eq(ask(wrong[i], &err), -EINVAL, "'%s'", wrong[i]);
        cr_assert(strstr(err.text, "this host has: ") != NULL);
        cr_assert(strstr(err.text, "lo 127.0.0.1") != NULL);
    }
}
