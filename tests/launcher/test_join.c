/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_join - where hosts join, and the file of their key.  The transport is tried in tests/e2e/join.py.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/remote/join.h"

TestSuite(join, .timeout = 60);

Test(join, addresses_and_ports)
{
    static const struct {
        const char *text, *address;
        unsigned port; /* 0: refused */
    } cases[] = {
        {"node1", "node1", DS_JOIN_PORT},
        {"node1:9", "node1", 9},
        {"10.0.0.1:65535", "10.0.0.1", 65535},
        {":80", "", 80},
        {"", "", DS_JOIN_PORT},
        {"fe80::1", "fe80::1", DS_JOIN_PORT},
        {"[fe80::1]", "fe80::1", DS_JOIN_PORT},
        {"[fe80::1]:81", "fe80::1", 81},
        {"node1:", "", 0},
        {"node1:0", "", 0},
        {"node1:65536", "", 0},
        {"node1:99999999999999999999", "", 0},
        {"node1:-1", "", 0},
        {"node1:1x", "", 0},
        {"[fe80::1", "", 0},
        {"[fe80::1]x", "", 0},
        {"[fe80::1]:", "", 0},
    };
    struct ds_join_at at;
    char longer[DS_JOIN_ADDRESS_BYTES + 1];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};
        int rc = ds_join_at_parse(&at, cases[i].text, &err);

        if (cases[i].port == 0)
            cr_assert(rc == -EINVAL && err.text[0] != '\0', "'%s': %d", cases[i].text, rc);
        else
            cr_assert(rc == 0 && strcmp(at.address, cases[i].address) == 0 &&
                          at.port == cases[i].port,
                      "'%s': %d '%s' %u", cases[i].text, rc, at.address, at.port);
    }
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    cr_assert_eq(ds_join_at_parse(&at, longer, NULL), -EINVAL);
}

/* A file of these bytes and this mode. */
static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "we");

    cr_assert(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0 &&
              chmod(path, mode) == 0);
}

Test(join, keys)
{
    char folder[] = "/tmp/dsrun-join.XXXXXX", path[64], text[80];
    uint8_t key[DS_SEAL_KEY_BYTES], again[DS_SEAL_KEY_BYTES];
    const struct {
        const char *text;
        mode_t mode;
        int rc;
    } cases[] = {
        {text, 0600, 0},       {text, 0400, 0},       {text, 0640, -EACCES},
        {text, 0604, -EACCES}, {text, 0620, -EACCES}, {text + 1, 0600, -EINVAL},
        {"", 0600, -EINVAL},
    };

    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/key", folder);
    cr_assert_eq(ds_join_key_make(path, NULL), 0);
    cr_assert_eq(ds_join_key_make(path, NULL), -EEXIST);
    cr_assert_eq(ds_join_key_read(path, key, NULL), 0);
    (void)sodium_bin2hex(text, sizeof(text), key, sizeof(key));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int rc;

        cr_assert_eq(unlink(path), 0);
        write_file(path, cases[i].text, cases[i].mode);
        rc = ds_join_key_read(path, again, NULL);
        cr_assert(rc == cases[i].rc, "case %zu: %d", i, rc);
        cr_assert(rc != 0 || memcmp(again, key, sizeof(key)) == 0, "case %zu", i);
    }
    memcpy(text + 64, "\n0", 3); /* more than a key */
    cr_assert_eq(unlink(path), 0);
    write_file(path, text, 0600);
    cr_assert_eq(ds_join_key_read(path, again, NULL), -EINVAL);
    text[10] = 'x';
    text[64] = '\0';
    write_file(path, text, 0600);
    cr_assert_eq(ds_join_key_read(path, again, NULL), -EINVAL);
    cr_assert_eq(ds_join_key_read(folder, again, NULL), -EINVAL);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(ds_join_key_read(path, again, NULL), -ENOENT);
    cr_assert_eq(symlink("elsewhere", path), 0);
    cr_assert_eq(ds_join_key_make(path, NULL), -EEXIST);
    cr_assert(unlink(path) == 0 && rmdir(folder) == 0);
}
