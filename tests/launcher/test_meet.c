/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_meet.c - where ranks meet, by what hosts said.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>

#include "launcher/fleet/meet.h"

enum { HOSTS = 3 };

static int ready(struct ds_meet *meet, uint32_t host, uint16_t port, const char *address)
{
    struct ds_gather here = {.port = port};
    unsigned char bytes[DS_GATHER_BYTES];

    (void)snprintf(here.address, sizeof(here.address), "%s", address);
    return ds_meet_ready(meet, host, bytes, ds_gather_write(&here, bytes), NULL);
}

/* clang-format off */
static const struct {
    const char *name, *address;    /* of the first host, in the hostfile */
    const char *said[HOSTS];       /* how the launcher reached each */
    const char *want;              /* NULL: refused */
} table[] = {
    {"n1", NULL, {"", "", ""}, "n1"},
    {"n1", "10.0.0.1", {"", "", ""}, "10.0.0.1"},
    {"n1", "login-ib", {"10.1.0.1", "10.1.0.2", "10.1.0.3"}, "10.1.0.1"},
    {"localhost", NULL, {"", "", ""}, "localhost"},
    {"localhost", NULL, {"127.0.0.1", "127.0.0.1", ""}, "127.0.0.1"},
    {"localhost", NULL, {"127.0.0.1", "10.1.0.2", ""}, NULL},
    {"localhost", NULL, {"", "", "10.1.0.3"}, NULL},
    {"n1", NULL, {"10.1.0.1", "127.0.0.1", ""}, "10.1.0.1"},
};
/* clang-format on */

Test(meet, addresses)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct ds_host_spec spec = {.name = table[i].name, .address = table[i].address};
        const struct ds_place place[HOSTS] = {
            {.host = table[i].name, .spec = &spec}, {.host = "n2"}, {.host = "n3"}};
        struct ds_meet meet;
        struct ds_gather point;
        unsigned char payload[DS_GATHER_BYTES];
        uint32_t len = 0;
        struct ds_error err = {0};
        int rc;

        cr_assert_eq(ds_meet_init(&meet, place, HOSTS, NULL), 0);
        cr_expect_eq(ready(&meet, 1, 0, table[i].said[1]), 0);
        cr_expect_eq(ready(&meet, 0, 4711, table[i].said[0]), 0);
        cr_expect_eq(ready(&meet, 2, 0, table[i].said[2]), 1, "the last one");
        rc = ds_meet_choose(&meet, payload, &len, &err);
        cr_expect_eq(rc, table[i].want != NULL ? 0 : -EDOM, "row %zu: %s", i, err.text);
        if (rc == 0) {
            cr_assert_eq(ds_gather_read(&point, payload, len, NULL), 0);
            cr_expect_str_eq(point.address, table[i].want);
            cr_expect_eq(point.port, 4711);
        }
        ds_meet_release(&meet);
    }
}

Test(meet, hostile_agents)
{
    const struct ds_place place[2] = {{.host = "a"}, {.host = "b"}};
    struct ds_meet meet;

    cr_assert_eq(ds_meet_init(&meet, place, 2, NULL), 0);
    cr_expect_eq(ds_meet_ready(&meet, 1, "x", 1, NULL), -EPROTO);
    cr_expect_eq(ready(&meet, 0, 0, ""), -EPROTO, "rank 0's host without a port");
    cr_expect_eq(ready(&meet, 1, 0, ""), 0);
    cr_expect_eq(ready(&meet, 1, 0, ""), -EPROTO, "twice");
    ds_meet_release(&meet);
}
