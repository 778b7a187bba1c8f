/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ssh_crypto.c - OpenSSL set up for SSH computes what it always does, and a site's openssl.cnf
 * goes before.  Each test is a process of its own.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <criterion/criterion.h>

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/remote/ssh.h"
#include "tests/tempdir.h"

TestSuite(ssh_crypto, .init = tempdir_make, .fini = tempdir_remove);

enum { BLOCK = 16 };

/* NIST SP 800-38A, F.5: the first block of CTR-AES128, 192 and 256. */
static const unsigned char counter[BLOCK] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
                                             0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff};
static const unsigned char plain[BLOCK] = {0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96,
                                           0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a};
static const struct {
    const EVP_CIPHER *(*cipher)(void);
    const char *key, *want;
} blocks[] = {
    {EVP_aes_128_ctr, "2b7e151628aed2a6abf7158809cf4f3c", "874d6191b620e3261bef6864990db6ce"},
    {EVP_aes_192_ctr, "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
     "1abc932417521ca24f2b0459fe7e6e0b"},
    {EVP_aes_256_ctr, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
     "601ec313775789a5b7a7f504bbf3d228"},
};

static const char *hex(const unsigned char *bytes, size_t len)
{
    static char text[2 * EVP_MAX_MD_SIZE + 1];

    for (size_t i = 0; i < len; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return text;
}

/* As libssh2 does it: both ways, by the names it uses. */
static void compute_everything(void)
{
    unsigned char key[32], out[EVP_MAX_MD_SIZE], back[BLOCK], other[BLOCK];
    unsigned int len = 0;
    long key_len;

    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
        unsigned char *bytes = OPENSSL_hexstr2buf(blocks[i].key, &key_len);

        memcpy(key, bytes, (size_t)key_len);
        OPENSSL_free(bytes);
        cr_assert_eq(EVP_CipherInit(ctx, blocks[i].cipher(), key, counter, 1), 1);
        cr_assert_gt(EVP_Cipher(ctx, out, plain, BLOCK), 0);
        cr_assert_str_eq(hex(out, BLOCK), blocks[i].want);
        EVP_CIPHER_CTX_free(ctx);
        ctx = EVP_CIPHER_CTX_new();
        cr_assert_eq(EVP_CipherInit(ctx, blocks[i].cipher(), key, counter, 0), 1);
        cr_assert_gt(EVP_Cipher(ctx, back, out, BLOCK), 0);
        cr_assert_arr_eq(back, plain, BLOCK);
        EVP_CIPHER_CTX_free(ctx);
    }
    cr_assert_eq(EVP_Digest("abc", 3, out, &len, EVP_get_digestbyname("sha256"), NULL), 1);
    cr_assert_str_eq(hex(out, len),
                     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    cr_assert_not_null(EVP_get_digestbyname("sha384"));
    cr_assert_not_null(EVP_get_digestbyname("sha512"));
    cr_assert_eq(RAND_bytes(back, BLOCK), 1);
    cr_assert_eq(RAND_priv_bytes(other, BLOCK), 1);
    cr_assert_arr_neq(back, other, BLOCK);
}

static bool random_is_the_kernels(void)
{
    return RAND_get_rand_method() != RAND_OpenSSL();
}

static void configure(const char *text)
{
    cr_assert_eq(setenv("OPENSSL_CONF", tempdir_write("openssl.cnf", text, strlen(text)), 1), 0);
    cr_assert(ds__ssh_crypto_init());
}

Test(ssh_crypto, with_the_default_provider)
{
    configure("");
#ifndef OPENSSL_NO_ENGINE
    cr_assert(random_is_the_kernels());
#endif
    compute_everything();
}

Test(ssh_crypto, a_site_that_names_its_providers)
{
    configure("openssl_conf = all\n[all]\nproviders = some\n[some]\ndefault = on\nbase = on\n"
              "[on]\nactivate = 1\n");
    cr_assert_not(random_is_the_kernels());
    compute_everything();
}

Test(ssh_crypto, a_site_that_demands_fips)
{
    configure(
        "openssl_conf = all\n[all]\nalg_section = how\n[how]\ndefault_properties = fips=yes\n");
    cr_assert_not(random_is_the_kernels());
}
