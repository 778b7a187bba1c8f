/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_gather.c - the meeting point: its bytes, its port, its address.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher/gather.h"

Test(gather, bytes)
{
    const struct ds_gather given = {.port = 0x1234, .address = "fe80::1%eth0"};
    unsigned char bytes[DS_GATHER_BYTES];
    struct ds_gather got;
    size_t len = ds_gather_write(&given, bytes);

    cr_expect_eq(len, 2 + strlen("fe80::1%eth0"));
    cr_expect(bytes[0] == 0x34 && bytes[1] == 0x12);
    cr_assert_eq(ds_gather_read(&got, bytes, len, NULL), 0);
    cr_expect_eq(got.port, 0x1234);
    cr_expect_str_eq(got.address, given.address);
    cr_assert_eq(ds_gather_read(&got, bytes, 2, NULL), 0);
    cr_expect_str_eq(got.address, "");
}

Test(gather, hostile_bytes)
{
    unsigned char bytes[DS_GATHER_BYTES + 1] = {0};
    struct ds_gather got;

    memset(bytes, 'a', sizeof(bytes));
    cr_expect_eq(ds_gather_read(&got, bytes, 0, NULL), -EPROTO);
    cr_expect_eq(ds_gather_read(&got, bytes, 1, NULL), -EPROTO);
    cr_expect_eq(ds_gather_read(&got, bytes, DS_GATHER_BYTES, NULL), 0);
    cr_expect_eq(ds_gather_read(&got, bytes, DS_GATHER_BYTES + 1, NULL), -EPROTO);
    for (const char *bad = "\n =\"$\x7f\xff"; *bad != '\0'; bad++) {
        bytes[5] = (unsigned char)*bad;
        cr_expect_eq(ds_gather_read(&got, bytes, 9, NULL), -EPROTO);
    }
    bytes[5] = '\0';
    cr_expect_eq(ds_gather_read(&got, bytes, 9, NULL), -EPROTO);
}

/* Can a listener have it, as torch's store would? */
static bool can_listen(uint16_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool good = fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
                listen(fd, 1) == 0;

    (void)close(fd);
    return good;
}

Test(gather, ports)
{
    uint16_t port, other;
    int fd, second;

    cr_assert_eq(ds_gather_port(&fd, &port, NULL), 0);
    cr_assert_eq(ds_gather_port(&second, &other, NULL), 0);
    cr_expect_neq(port, other);
    cr_expect_geq(port, 1024);
    cr_expect(!can_listen(port), "it is held");
    (void)close(fd);
    (void)close(second);
    cr_expect(can_listen(port), "and then free");
}

Test(gather, the_address_of_a_connection)
{
    static const struct {
        const char *connection, *want;
    } table[] = {
        {"10.0.0.1 50000 10.0.0.7 22", "10.0.0.7"},
        {"fe80::1 50000 2001:db8::7 22", "2001:db8::7"},
        {"10.0.0.1 50000", ""},
        {"a b $(x) d", ""},
        {"a b c d", ""},
        {"", ""},
        {NULL, ""},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char out[DS_MAX_HOST_NAME + 1];

        ds_gather_here(table[i].connection, out);
        cr_expect_str_eq(out, table[i].want);
    }
}

Test(gather, loopback)
{
    cr_expect(ds_gather_is_loopback("localhost") && ds_gather_is_loopback("127.1.2.3") &&
              ds_gather_is_loopback("::1"));
    cr_expect(!ds_gather_is_loopback("10.0.0.1") && !ds_gather_is_loopback("127.host") &&
              !ds_gather_is_loopback(""));
}
