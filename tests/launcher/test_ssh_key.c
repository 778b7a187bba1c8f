/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ssh_key.c - keys made by ssh-keygen(1) and openssl(1): what they sign is verified with the
 * public half that was written down; what cannot be used is named.
 *
 * The keys were made for these tests and open nothing.
 */
#include <criterion/criterion.h>

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "launcher/remote/ssh_key.h"
#include "tests/tempdir.h"

/* clang-format off */
static const char ed25519[] =
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
    "QyNTUxOQAAACAyigiuQ7v0F2l855yRlfBaC55R+IkfID6XzeUa4H8I3wAAAIjR2esv0dnr\n"
    "LwAAAAtzc2gtZWQyNTUxOQAAACAyigiuQ7v0F2l855yRlfBaC55R+IkfID6XzeUa4H8I3w\n"
    "AAAEAQth+ojl6h4QjRxTiIfV+CLL4eiEGB6TqbblYa/skBTTKKCK5Du/QXaXznnJGV8FoL\n"
    "nlH4iR8gPpfN5RrgfwjfAAAABHRlc3QB\n"
    "-----END OPENSSH PRIVATE KEY-----\n";
static const char p256[] =
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS\n"
    "1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQRa0cx9LbSyLiFTErKYr49cOeQqbPma\n"
    "aveLwK3DCc6BWT3qCDhKuRTWsJAdk7i5M0fCYhBCq0NEoAH8yFukS0a/AAAAoB6qndoeqp\n"
    "3aAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFrRzH0ttLIuIVMS\n"
    "spivj1w55Cps+Zpq94vArcMJzoFZPeoIOEq5FNawkB2TuLkzR8JiEEKrQ0SgAfzIW6RLRr\n"
    "8AAAAgBDoL80xoV4otbA3ekCvzAKK0IyCXxFU6ifsuwWK7FaMAAAAEdGVzdAECAwQ=\n"
    "-----END OPENSSH PRIVATE KEY-----\n";
static const char p384[] =
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAiAAAABNlY2RzYS\n"
    "1zaGEyLW5pc3RwMzg0AAAACG5pc3RwMzg0AAAAYQTCRSWNr1YK9OvOqcv0YIrysYQZ/+rg\n"
    "LOZKEFHg5k5pPbedH53cRtcaPMNPRM+7bi+WcAm5lKwKmsRbz2/JC46yvl8OqqXNDOFw37\n"
    "Q7Q/nLFtK7Tp7yi4HG7KO3bFWZRQYAAADQDCZN3AwmTdwAAAATZWNkc2Etc2hhMi1uaXN0\n"
    "cDM4NAAAAAhuaXN0cDM4NAAAAGEEwkUlja9WCvTrzqnL9GCK8rGEGf/q4CzmShBR4OZOaT\n"
    "23nR+d3EbXGjzDT0TPu24vlnAJuZSsCprEW89vyQuOsr5fDqqlzQzhcN+0O0P5yxbSu06e\n"
    "8ouBxuyjt2xVmUUGAAAAMBalozUNeSFSdgidqw72VycCnGhwlV506W1e2KJvvjyKOspgmi\n"
    "UqSBCgZXKIq6jPGwAAAAR0ZXN0AQIDBA==\n"
    "-----END OPENSSH PRIVATE KEY-----\n";
static const char p521[] =
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAArAAAABNlY2RzYS\n"
    "1zaGEyLW5pc3RwNTIxAAAACG5pc3RwNTIxAAAAhQQBNAnzOpAKRzR9UhhslWnjtKXAvh2k\n"
    "mfuTKtqCiwl6S/J//Z5mH/DCOXrd4g98RA+EXlG42ZjqBBEFylMQcAFbSlEBiG68M4xY0f\n"
    "u7WNyv9sUGbY6uRr1vNx0vBm0NZMy6sASfczgEBrgRGHeoKlzhrMWgdaxT2zQMZBfIBlsZ\n"
    "dtM3FbwAAAEIRTlkAkU5ZAIAAAATZWNkc2Etc2hhMi1uaXN0cDUyMQAAAAhuaXN0cDUyMQ\n"
    "AAAIUEATQJ8zqQCkc0fVIYbJVp47SlwL4dpJn7kyragosJekvyf/2eZh/wwjl63eIPfEQP\n"
    "hF5RuNmY6gQRBcpTEHABW0pRAYhuvDOMWNH7u1jcr/bFBm2Orka9bzcdLwZtDWTMurAEn3\n"
    "M4BAa4ERh3qCpc4azFoHWsU9s0DGQXyAZbGXbTNxW8AAAAQgDz+ukkMDwPCZCM9dUQ9v5B\n"
    "BubasUyIHpHimKMwKGb8FzBnwQgtvhls7PPYI7siX8c/v0P7oxy/OCjZm40bh2ew8AAAAA\n"
    "R0ZXN0AQIDBAUG\n"
    "-----END OPENSSH PRIVATE KEY-----\n";
static const char p256_pkcs8[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBDoL80xoV4otbA3e\n"
    "kCvzAKK0IyCXxFU6ifsuwWK7FaOhRANCAARa0cx9LbSyLiFTErKYr49cOeQqbPma\n"
    "aveLwK3DCc6BWT3qCDhKuRTWsJAdk7i5M0fCYhBCq0NEoAH8yFukS0a/\n"
    "-----END PRIVATE KEY-----\n";
static const char p521_pem[] =
    "-----BEGIN EC PRIVATE KEY-----\n"
    "MIHcAgEBBEIA8/rpJDA8DwmQjPXVEPb+QQbm2rFMiB6R4pijMChm/BcwZ8EILb4Z\n"
    "bOzz2CO7Il/HP79D+6Mcvzgo2ZuNG4dnsPCgBwYFK4EEACOhgYkDgYYABAE0CfM6\n"
    "kApHNH1SGGyVaeO0pcC+HaSZ+5Mq2oKLCXpL8n/9nmYf8MI5et3iD3xED4ReUbjZ\n"
    "mOoEEQXKUxBwAVtKUQGIbrwzjFjR+7tY3K/2xQZtjq5GvW83HS8GbQ1kzLqwBJ9z\n"
    "OAQGuBEYd6gqXOGsxaB1rFPbNAxkF8gGWxl20zcVvA==\n"
    "-----END EC PRIVATE KEY-----\n";
static const char ed25519_pkcs8[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIJLzlhcED5dSi0PKgped74tGx4tpSvXj3gM8bSGO7zJa\n"
    "-----END PRIVATE KEY-----\n";
static const char rsa_pkcs8[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBAMRnBmUE5SOJzP0P\n"
    "X5hNzVmAwGTqM7bHFb6PL5ccxlVaMXo0UU0JFiU5MAzk0Y4qhOcRvfotEptPuM47\n"
    "po0QOphU/qmEy5bUWL/ozzRPKKpM5JLUuuGNGZlCf7qDjcvKNM5M8dHC3GQKED7p\n"
    "oJMQ5my8bh6sLm4i7trsabmyuBq3AgMBAAECgYA0k3/auxy8Dr+ZXuwwUWOPejAG\n"
    "08tUOqdPg/UxdrqBTsu/8xFwleYfwNdkHD0c2bUKRm2c80Pv37+RNda4HIgSlnfr\n"
    "CDezIxmlSmI4g2CkHxjJXXFmtC2aNBUJ6AGdqIsEsU7ajPWDhswLoC6my0w5wujX\n"
    "WfwQIPiVUeoRJNIJAQJBAP2ULlOIdVtI0bE3ZzhR1Unh0Urwxr2WeGAFi13bG6j6\n"
    "qfKgf3oyUTLc7nGTBRgZY0YhGq9BYCoJT9cGcv/3+jECQQDGRxaueqXPQnibLNRc\n"
    "oUILz56LJmG0QAeHUXkVa6FjwZhTB0FNN1DheriI8kDl9mdySztHeEnmjxFK3ITv\n"
    "LEFnAkATHjHj8FzQtgvBLaklkN3gxRqvaLnDH24R5zkbqWJLeiKH/Vu/Db4bdJax\n"
    "j2EJ8RgP+Hz3i5lBchRH5N+UttBxAkEAkoAeEycN8jiz8jvKYPLJYP6zry7ZzBvv\n"
    "NB2PsLMI2TNGwDpBFrODcEaDqLQOHZvVTU6m6yTGvbMB3OVY13tEiwJBAN2wJDFK\n"
    "NjQ0dzDM99Tm/nDML+vcoCiM35iwdYZi1oopgXeBpruhQX3pvyX+R4H52Bslnn8e\n"
    "LUWQXYThnVlEqqE=\n"
    "-----END PRIVATE KEY-----\n";
static const char sealed[] =
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABBumb5Myz\n"
    "TDgyqzHsn/MIONAAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIGDfSaOk2+RUcR5v\n"
    "F0+TzWa22z49PG+ka6DO3/ihlfiMAAAAkIbeJtafsmun6eBPy2QrmoUP0l/B8qtW/7eGFk\n"
    "x3LmOp3JsPo3AKh74DOkEAAI+GBkACUfvAgIiQuW2QOGPzEpeLD2VScW3vNlpTrIIl7HfV\n"
    "0zaTlTUqkWSuinF9nNLSE/LPiwq9UjpQ5Jios5wlVWAvGw6JmvKyBsd5Z4CJSWL/yEyY2j\n"
    "2SqLo0/3zazSiXdw==\n"
    "-----END OPENSSH PRIVATE KEY-----\n";
static const char sealed_pkcs8[] =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjgIHc5uXDbigICCAAw\n"
    "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEOqfRyWf+UaDuJ6rkMc6BnMEQAtv\n"
    "Opqhh5C8uKXy6CJRDEagHZb02KLlQQlh/XiKNDy3wVu5CBfwzr79c5hCdr4nSRte\n"
    "Bcy70sPx9AOhOLyJYCk=\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n";
static const char ed448[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MEcCAQAwBQYDK2VxBDsEOfuj7u2mvEydWKq0vuDxtO2aIsoaTuUrEc8hoaHJYDpl\n"
    "ityVYAoMgeLydoPFBlMXQRHnD15tiHI7iw==\n"
    "-----END PRIVATE KEY-----\n";
static const char koblitz[] =
    "-----BEGIN EC PRIVATE KEY-----\n"
    "MHQCAQEEIHpMafy8bI5pK8mgc4NBvOeycj75icG0RwWb61/2dbmPoAcGBSuBBAAK\n"
    "oUQDQgAEKz4aKfm8UmcEnmBhaaUc2y/jbUmFBdNizCG4lgdWKDpCLYMZH2YW3hDZ\n"
    "DjV9HUp3B6l2+EFzBVlGlAtrXQe79w==\n"
    "-----END EC PRIVATE KEY-----\n";
static const char ed25519_public[] =
    "AAAAC3NzaC1lZDI1NTE5AAAAIDKKCK5Du/QXaXznnJGV8FoLnlH4iR8gPpfN5Rrgfwjf";
static const char p256_public[] =
    "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFrRzH0ttLIuIVMSsp"
    "ivj1w55Cps+Zpq94vArcMJzoFZPeoIOEq5FNawkB2TuLkzR8JiEEKrQ0SgAfzIW6RLRr8=";
static const char p384_public[] =
    "AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBMJFJY2vVgr0686py/"
    "RgivKxhBn/6uAs5koQUeDmTmk9t50fndxG1xo8w09Ez7tuL5ZwCbmUrAqaxFvPb8kLjrK+"
    "Xw6qpc0M4XDftDtD+csW0rtOnvKLgcbso7dsVZlFBg==";
static const char p521_public[] =
    "AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAE0CfM6kApHNH1SGG"
    "yVaeO0pcC+HaSZ+5Mq2oKLCXpL8n/9nmYf8MI5et3iD3xED4ReUbjZmOoEEQXKUxBwAVtK"
    "UQGIbrwzjFjR+7tY3K/2xQZtjq5GvW83HS8GbQ1kzLqwBJ9zOAQGuBEYd6gqXOGsxaB1rF"
    "PbNAxkF8gGWxl20zcVvA==";
/* clang-format on */

/* Is `key` the private half of the base64 `public`, and its signature one of this key? */
static bool encoded_as(const struct ds_ssh_key *key, const char *public)
{
    unsigned char text[(DS_SSH_KEY_BLOB + 2) / 3 * 4 + 1];

    (void)EVP_EncodeBlock(text, key->blob, (int)key->len);
    return strcmp((const char *)text, public) == 0;
}

/* The last string of a blob: the point or the key. */
static const unsigned char *point_of(const struct ds_ssh_key *key, size_t len)
{
    return key->blob + key->len - len;
}

static EVP_PKEY *public_of(const struct ds_ssh_key *key, const char *group, size_t len)
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)(uintptr_t)group, 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY,
                                          (void *)(uintptr_t)point_of(key, len), len),
        OSSL_PARAM_construct_end()};
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    EVP_PKEY *pkey = NULL;

    cr_assert_eq(EVP_PKEY_fromdata_init(ctx), 1);
    cr_assert_eq(EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params), 1);
    EVP_PKEY_CTX_free(ctx);
    return pkey;
}

/* A number of ssh's, off the front; it is as short as can be. */
static BIGNUM *number(const unsigned char **at)
{
    size_t len = (size_t)(*at)[2] << 8 | (*at)[3];
    BIGNUM *out = BN_bin2bn(*at + 4, (int)len, NULL);

    cr_expect((*at)[0] == 0 && (*at)[1] == 0 && len > 0);
    cr_expect((*at)[4] < 0x80, "not negative");
    cr_expect((*at)[4] != 0 || (*at)[5] >= 0x80, "no zero too many");
    *at += 4 + len;
    return out;
}

static int verify(EVP_PKEY *pkey, const EVP_MD *digest, const unsigned char *sig, size_t len,
                  const void *data, size_t bytes)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int rc;

    cr_assert_eq(EVP_DigestVerifyInit(ctx, NULL, digest, NULL, pkey), 1);
    rc = EVP_DigestVerify(ctx, sig, len, data, bytes);
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    return rc;
}

static void expect_signs(const char *text, const char *public, const char *group, size_t point,
                         const EVP_MD *digest)
{
    struct ds_ssh_key key = {0}, *list = NULL;
    unsigned char *sig, *der = NULL;
    size_t len;

    ds_ssh_key_parse(&key, text, strlen(text));
    cr_assert_eq(key.err.code, 0, "%s", key.err.text);
    cr_expect(public == NULL || encoded_as(&key, public));
    for (int i = 0; i < 40; i++) { /* numbers of every length come up */
        cr_assert_eq(ds_ssh_key_sign(&key, "data", 4, &sig, &len), 0);
        if (group == NULL) {
            cr_expect_eq(
                verify(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, point_of(&key, 32), 32),
                       NULL, sig, len, "data", 4),
                1);
        } else {
            const unsigned char *at = sig;
            ECDSA_SIG *pair = ECDSA_SIG_new();
            BIGNUM *r = number(&at), *s = number(&at);
            int bytes;

            cr_expect_eq(at, sig + len);
            cr_assert_eq(ECDSA_SIG_set0(pair, r, s), 1);
            bytes = i2d_ECDSA_SIG(pair, &der);
            cr_assert_gt(bytes, 0);
            cr_expect_eq(
                verify(public_of(&key, group, point), digest, der, (size_t)bytes, "data", 4), 1);
            ECDSA_SIG_free(pair);
            OPENSSL_free(der);
            der = NULL;
        }
        free(sig);
    }
    list = calloc(1, sizeof(*list));
    *list = key;
    ds_ssh_keys_free(&list);
    cr_expect_null(list);
}

Test(ssh_key, openssh_keys_sign)
{
    expect_signs(ed25519, ed25519_public, NULL, 0, NULL);
    expect_signs(p256, p256_public, "prime256v1", 65, EVP_sha256());
    expect_signs(p384, p384_public, "secp384r1", 97, EVP_sha384());
    expect_signs(p521, p521_public, "secp521r1", 133, EVP_sha512());
}

Test(ssh_key, keys_of_other_forms_sign)
{
    expect_signs(ed25519_pkcs8, NULL, NULL, 0, NULL);
    expect_signs(p256_pkcs8, p256_public, "prime256v1", 65, EVP_sha256());
    expect_signs(p521_pem, p521_public, "secp521r1", 133, EVP_sha512());
}

static void expect_refused(const char *text, size_t len, const char *why)
{
    struct ds_ssh_key key = {0};

    ds_ssh_key_parse(&key, text, len);
    cr_expect_neq(key.err.code, 0);
    cr_expect_not_null(strstr(key.err.text, why), "'%s', not '%s'", key.err.text, why);
    cr_expect_null(key.pkey);
    cr_expect_eq(key.len, 0);
}

/* Seeds of the fuzz target. */
static const struct {
    const char *seed, *why;
} seeds[] = {
    {"rsa", "is RSA"},
    {"hardware", "is a hardware key"},
    {"encrypted", "is encrypted"},
    {"cut", "is damaged"},
    {"bad", "is damaged"},
    {"pem_encrypted", "is encrypted"},
    {"none", "is no private key"},
};

Test(ssh_key, what_cannot_be_used_is_told)
{
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
        char path[128];
        struct ds_buf text;

        (void)snprintf(path, sizeof(path), "tests/fuzz/corpus/ssh_key/%s", seeds[i].seed);
        ds_buf_init(&text, DS_SSH_KEY_FILE);
        cr_assert_eq(ds_fs_read(path, DS_SSH_KEY_FILE, &text, NULL), 0, "%s", path);
        expect_refused(ds_buf_text(&text), text.len, seeds[i].why);
        ds_buf_release(&text);
    }
}

Test(ssh_key, what_cannot_be_used_is_named)
{
    expect_refused("", 0, "is no private key");
    expect_refused("hello\n", 6, "is no private key");
    expect_refused(rsa_pkcs8, strlen(rsa_pkcs8), "is RSA");
    expect_refused(sealed, strlen(sealed), "is encrypted");
    expect_refused(sealed_pkcs8, strlen(sealed_pkcs8), "is encrypted");
    expect_refused(ed448, strlen(ed448), "of a type that cannot be used");
    expect_refused(koblitz, strlen(koblitz), "of a type that cannot be used");
}

Test(ssh_key, a_damaged_key_is_refused)
{
    char text[1024];

    for (size_t n = strlen("-----BEGIN OPENSSH PRIVATE KEY-----"); n < strlen(p256) - 1; n += 7)
        expect_refused(p256, n, "is damaged");
    for (size_t at = 0; at < 3; at++) { /* the type, the outer and the inner public half */
        static const size_t where[] = {78, 150, 260};

        memcpy(text, ed25519, sizeof(ed25519));
        text[where[at]] = text[where[at]] == 'A' ? 'B' : 'A';
        expect_refused(text, strlen(text), "is");
    }
}

Test(ssh_key, a_file_is_read_once, .init = tempdir_make, .fini = tempdir_remove)
{
    const char *path = tempdir_path("key"), *none = tempdir_path("none");
    struct ds_ssh_key *keys = NULL;
    const struct ds_ssh_key *key;

    cr_assert_eq(ds_fs_replace(path, ed25519, strlen(ed25519), NULL), 0);
    cr_assert_eq(chmod(path, 0600), 0);
    key = ds_ssh_key_find(&keys, path);
    cr_assert_not_null(key);
    cr_expect_eq(key->err.code, 0, "%s", key->err.text);
    cr_assert_eq(unlink(path), 0);
    cr_expect_eq(ds_ssh_key_find(&keys, path), key);
    key = ds_ssh_key_find(&keys, none);
    cr_assert_not_null(key);
    cr_expect(key->absent && key->err.code != 0);
    ds_ssh_keys_free(&keys);
}

Test(ssh_key, a_key_that_others_can_read_is_refused, .init = tempdir_make, .fini = tempdir_remove)
{
    const char *path = tempdir_path("key");
    struct ds_ssh_key *keys = NULL;
    const struct ds_ssh_key *key;

    cr_assert_eq(ds_fs_replace(path, ed25519, strlen(ed25519), NULL), 0);
    cr_assert_eq(chmod(path, 0640), 0);
    key = ds_ssh_key_find(&keys, path);
    cr_assert_not_null(key);
    cr_expect_not_null(strstr(key->err.text, "can be read by others"));
    cr_expect_not(key->absent);
    ds_ssh_keys_free(&keys);
}
