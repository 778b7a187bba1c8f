/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ssh_key - which private keys are refused, and with which words; those of the fuzz target's
 * seeds, which are made by ssh-keygen's format and by RFC 5958.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fsio.h"
#include "launcher/remote/ssh_key.h"

static const struct {
    const char *seed, *why; /* NULL: may be used */
} keys[] = {
    {"ed25519", NULL},
    {"rsa", "is RSA"},
    {"hardware", "is a hardware key"},
    {"encrypted", "is encrypted"},
    {"cut", "is damaged"},
    {"bad", "is damaged"},
    {"pem_rsa", "is RSA"},
    {"pem_encrypted", "is encrypted"},
    {"pem_ec", NULL},
    {"pkcs8", NULL},
    {"pkcs8_rsa", "is RSA"},
    {"none", "is no private key"},
};

Test(ssh_key, what_cannot_be_used_is_told)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        char path[128];
        const char *why;
        struct ds_buf text;

        (void)snprintf(path, sizeof(path), "tests/fuzz/corpus/ssh_key/%s", keys[i].seed);
        ds_buf_init(&text, 64 * 1024);
        cr_assert_eq(ds_fs_read(path, 64 * 1024, &text, NULL), 0, "%s", path);
        why = ds_ssh_key_refuse(ds_buf_text(&text));
        cr_assert_eq(why == NULL, keys[i].why == NULL, "%s: %s", path, why != NULL ? why : "good");
        if (why != NULL)
            cr_assert_eq(strncmp(why, keys[i].why, strlen(keys[i].why)), 0, "%s: %s", path, why);
        ds_buf_release(&text);
    }
}

/* Every length of a good key: nothing is read behind its end, and nothing but a whole head is good. */
Test(ssh_key, a_key_that_breaks_off_is_damaged_or_whole)
{
    struct ds_buf text;
    size_t good = 0;

    ds_buf_init(&text, 64 * 1024);
    cr_assert_eq(ds_fs_read("tests/fuzz/corpus/ssh_key/ed25519", 64 * 1024, &text, NULL), 0);
    for (size_t len = 0; len < text.len; len++) {
        char *cut = strndup(ds_buf_text(&text), len);
        const char *why = ds_ssh_key_refuse(cut);

        if (why == NULL && good == 0)
            good = len;
        cr_assert(good > 0 ? why == NULL || strcmp(why, "is damaged") == 0 : why != NULL, "%zu",
                  len);
        free(cut);
    }
    cr_assert_gt(good, 60);
    ds_buf_release(&text);
}
