/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_known_hosts.c - lines written by ssh-keygen(1), plain and hashed, markers, patterns, ports.
 */
#include <criterion/criterion.h>

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "launcher/remote/known_hosts.h"

#define KEY_A "AAAAC3NzaC1lZDI1NTE5AAAAIMrG6u2kQ6YpD4MvzhH5I8u8jXgevtgiDR0peG2sUlFr"
#define KEY_B "AAAAC3NzaC1lZDI1NTE5AAAAIFfQUCpUsQpTEGrjZu4CMiJaeneEQDzYxAltiISNGgYT"
#define KEY_C                                                                                      \
    "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBOUU/wjCFWaupJEAup2jXjObtEDmwrFKjw/"      \
    "sazyMTOU+cKXSJWAuSfwqWgWir0sw1MuHo1yOsyYYIBqm03OFxc8="
#define HASHED                                                                                     \
    "|1|2Z9R+/4Vko1yr/F3X48BCOFlN1Y=|tCu9NvdiiwnOTzNtErxSJgtntGs= ssh-ed25519 " KEY_A "\n"         \
    "|1|Px1rHi4kJcAZcfq6kGGqokazp8Y=|9O4tUUraSiWNhaCFZauyaFw3Y+U= ssh-ed25519 " KEY_B "\n"

struct blob {
    unsigned char bytes[256];
    size_t len;
};

static struct blob blob_of(const char *base64)
{
    struct blob blob = {0};
    size_t len = strlen(base64);
    int n = EVP_DecodeBlock(blob.bytes, (const unsigned char *)base64, (int)len);

    blob.len = (size_t)n - (base64[len - 1] == '=');
    return blob;
}

/* What `text` says of `host` showing `key`. */
static enum ds_known_answer ask(const char *text, const char *host, unsigned port, const char *key)
{
    struct blob blob = blob_of(key);
    const struct ds_known_entry *entry;
    struct ds_known known = {0};
    char name[DS_MAX_HOST_NAME + 16];

    ds_known_name(name, host, port);
    ds_known_add(&known, "file", text, strlen(text), name);
    return ds_known_check(&known, blob.bytes, blob.len, &entry);
}

Test(known_hosts, a_key_is_trusted_for_its_names_and_port_only)
{
    static const char text[] = "# one ssh-ed25519 " KEY_B "\n"
                               "one,10.0.0.1 ssh-ed25519 " KEY_A " comment words\r\n"
                               "\t [two]:2222   ssh-ed25519\t" KEY_B;

    cr_expect_eq(ask(text, "one", 22, KEY_A), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(text, "ONE", 0, KEY_A), DS_KNOWN_TRUSTED, "names have no case");
    cr_expect_eq(ask(text, "10.0.0.1", 22, KEY_A), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(text, "one", 22, KEY_B), DS_KNOWN_CHANGED);
    cr_expect_eq(ask(text, "one", 22, KEY_C), DS_KNOWN_OTHER_TYPE);
    cr_expect_eq(ask(text, "one", 2222, KEY_A), DS_KNOWN_UNKNOWN, "another port is another host");
    cr_expect_eq(ask(text, "two", 22, KEY_B), DS_KNOWN_UNKNOWN);
    cr_expect_eq(ask(text, "two", 2222, KEY_B), DS_KNOWN_TRUSTED, "the last line needs no end");
    cr_expect_eq(ask(text, "on", 22, KEY_A), DS_KNOWN_UNKNOWN);
    cr_expect_eq(ask("", "one", 22, KEY_A), DS_KNOWN_UNKNOWN);
}

Test(known_hosts, hashed_names_are_found)
{
    cr_expect_eq(ask(HASHED, "one", 22, KEY_A), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(HASHED, "one", 22, KEY_B), DS_KNOWN_CHANGED);
    cr_expect_eq(ask(HASHED, "two", 2222, KEY_B), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(HASHED, "two", 22, KEY_B), DS_KNOWN_UNKNOWN);
    cr_expect_eq(ask("|1|2Z9R+/4Vko1yr|tCu9= ssh-ed25519 " KEY_A "\n", "one", 22, KEY_A),
                 DS_KNOWN_UNKNOWN, "a damaged line is passed over");
}

Test(known_hosts, patterns_and_exclusions)
{
    static const char text[] = "node*,!node9,10.0.?.1 ssh-ed25519 " KEY_A "\n";

    cr_expect_eq(ask(text, "node1", 22, KEY_A), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(text, "node", 22, KEY_A), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(text, "node9", 22, KEY_A), DS_KNOWN_UNKNOWN);
    cr_expect_eq(ask(text, "10.0.7.1", 22, KEY_A), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(text, "10.0.77.1", 22, KEY_A), DS_KNOWN_UNKNOWN);
}

Test(known_hosts, a_revoked_key_is_revoked_whatever_else_trusts_it)
{
    static const char before[] = "@revoked * ssh-ed25519 " KEY_A "\none ssh-ed25519 " KEY_A "\n";
    static const char after[] = "one ssh-ed25519 " KEY_A "\n@revoked one ssh-ed25519 " KEY_A "\n";

    cr_expect_eq(ask(before, "one", 22, KEY_A), DS_KNOWN_IS_REVOKED);
    cr_expect_eq(ask(after, "one", 22, KEY_A), DS_KNOWN_IS_REVOKED);
    cr_expect_eq(ask(before, "one", 22, KEY_B), DS_KNOWN_CHANGED);
}

Test(known_hosts, an_authority_is_no_key)
{
    static const char text[] = "@cert-authority *.site ssh-ed25519 " KEY_A "\n"
                               "@unheard-of *.site ssh-ed25519 " KEY_B "\n";
    static const char both[] = "@cert-authority * ssh-ed25519 " KEY_A "\n"
                               "one ssh-ed25519 " KEY_B "\n";

    cr_expect_eq(ask(text, "a.site", 22, KEY_A), DS_KNOWN_CA_ONLY);
    cr_expect_eq(ask(text, "a.site", 22, KEY_B), DS_KNOWN_CA_ONLY);
    cr_expect_eq(ask(both, "one", 22, KEY_B), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(both, "one", 22, KEY_A), DS_KNOWN_CHANGED);
}

Test(known_hosts, a_line_that_is_written_is_read_again)
{
    static const unsigned char salt[20] = "twenty bytes of salt";
    struct blob blob = blob_of(KEY_C);
    struct ds_buf out;

    ds_buf_init(&out, 4096);
    cr_assert_eq(ds_known_line(&out, "[one]:2222", blob.bytes, blob.len, NULL), 0);
    cr_expect_eq(ask(ds_buf_text(&out), "one", 2222, KEY_C), DS_KNOWN_TRUSTED);
    ds_buf_reset(&out);
    cr_assert_eq(ds_known_line(&out, "one", blob.bytes, blob.len, salt), 0);
    cr_expect(strncmp(ds_buf_text(&out), "|1|", 3) == 0);
    cr_expect_null(strstr(ds_buf_text(&out), "one"));
    cr_expect_eq(ask(ds_buf_text(&out), "one", 22, KEY_C), DS_KNOWN_TRUSTED);
    cr_expect_lt(ds_known_line(&out, "one", "\0\0\0\377x", 5, NULL), 0, "no key");
    cr_expect_lt(ds_known_line(&out, "one", "\0\0\0\3a\nb", 7, NULL), 0, "a line of its own");
    cr_expect_lt(ds_known_line(&out, "one", "\0\0\0\3a b", 7, NULL), 0, "two words");
    cr_expect_lt(ds_known_line(&out, "one", "\0\0\0\3a\0b", 7, NULL), 0, "an end");
    ds_buf_release(&out);
}

Test(known_hosts, fingerprints_are_those_of_ssh_keygen)
{
    struct blob blob = blob_of(KEY_A);
    char text[64];

    ds_key_fingerprint(text, blob.bytes, blob.len);
    cr_expect_str_eq(text, "SHA256:yJxCMBf8CN7+Eq8S1x7nqMtZNLvk0NEGqqf9/bbdFH4");
    ds_key_type(text, blob.bytes, blob.len);
    cr_expect_str_eq(text, "ssh-ed25519");
    ds_key_type(text, blob.bytes, 3);
    cr_expect_str_eq(text, "");
}
