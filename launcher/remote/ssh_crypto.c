/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_crypto.c - OpenSSL, as far as SSH needs it; a launch of a few milliseconds spends most of
 * them here.
 *
 * Left to itself OpenSSL fills tables with the old names of all its algorithms, and the first one
 * of a kind that is asked for makes an object of each of its kind: a hundred ciphers, for one.  So
 *
 *     names    libssh2 asks by name for three digests; only these are added
 *     AES-CTR  the three ciphers that are offered (ssh_link.c) are libcrypto's own, handed out from
 *              its table as an engine's are and not looked for among the hundred
 *     random   is getrandom(2)'s; OpenSSL's generator needs a cipher of the hundred
 *
 * The last two hold only where the site's openssl.cnf leaves everything to the default provider:
 * where it names another one, an engine or FIPS, that is what is used.
 *
 * OpenSSL calls what this takes deprecated; where it is gone nothing is replaced.
 *
 * Source  provider(7), OPENSSL_init_crypto(3), engine(3)
 * Tests   tests/launcher/test_ssh_crypto.c, tests/e2e/ssh.py
 */
#define OPENSSL_SUPPRESS_DEPRECATED

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/random.h>
#ifndef OPENSSL_NO_ENGINE
#include <openssl/engine.h>
#endif

#include "launcher/remote/ssh.h"

#ifndef OPENSSL_NO_ENGINE

static const int aes[] = {NID_aes_128_ctr, NID_aes_192_ctr, NID_aes_256_ctr};

/* As an engine tells what it has, and hands it out. */
static int aes_of(ENGINE *engine, const EVP_CIPHER **cipher, const int **list, int nid)
{
    (void)engine;
    if (cipher == NULL) {
        *list = aes;
        return (int)(sizeof(aes) / sizeof(aes[0]));
    }
    *cipher = nid == NID_aes_128_ctr   ? EVP_aes_128_ctr()
              : nid == NID_aes_192_ctr ? EVP_aes_192_ctr()
              : nid == NID_aes_256_ctr ? EVP_aes_256_ctr()
                                       : NULL;
    return *cipher != NULL;
}

static int random_bytes(unsigned char *out, int len)
{
    for (int at = 0; at < len;) {
        ssize_t n = getrandom(out + at, (size_t)(len - at), 0);

        if (n < 0 && errno != EINTR)
            return 0;
        at += n < 0 ? 0 : (int)n;
    }
    return 1;
}

static int random_status(void)
{
    return 1;
}

static const RAND_METHOD kernel_random = {
    .bytes = random_bytes, .pseudorand = random_bytes, .status = random_status};

static int is_default(OSSL_PROVIDER *provider, void *user)
{
    bool *plain = user;

    *plain = *plain && strcmp(OSSL_PROVIDER_get0_name(provider), "default") == 0;
    return 1;
}

/* Does the site leave ciphers and random numbers to OpenSSL's default? */
static bool is_plain(void)
{
    bool plain = OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL) == 1 &&
                 EVP_default_properties_is_fips_enabled(NULL) == 0;
    ENGINE *random = plain ? ENGINE_get_default_RAND() : NULL;

    if (random != NULL)
        (void)ENGINE_finish(random);
    plain = plain && random == NULL;
    for (size_t i = 0; plain && i < sizeof(aes) / sizeof(aes[0]); i++) {
        ENGINE *engine = ENGINE_get_cipher_engine(aes[i]);

        if (engine != NULL)
            (void)ENGINE_finish(engine);
        plain = engine == NULL;
    }
    if (plain && OSSL_PROVIDER_do_all(NULL, is_default, &plain) != 1)
        plain = false;
    return plain;
}

/* What does not work out is as it was: slower. */
static void take_short_ways(void)
{
    ENGINE *engine = is_plain() ? ENGINE_new() : NULL;

    if (engine == NULL)
        return;
    if (ENGINE_set_id(engine, "dsrun") == 1 &&
        ENGINE_set_name(engine, "AES-CTR of libcrypto") == 1 &&
        ENGINE_set_ciphers(engine, aes_of) == 1 && ENGINE_set_default_ciphers(engine) == 1)
        (void)RAND_set_rand_method(&kernel_random);
    (void)ENGINE_free(engine); /* the table of ciphers holds it */
}

#else

static void take_short_ways(void)
{
}

#endif

bool ds__ssh_crypto_init(void)
{
    const uint64_t options = OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS |
                             OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_ADD_ALL_DIGESTS;

    /* Texts of errors are shown to nobody, and what it holds the system takes back sooner. */
    if (OPENSSL_init_crypto(options, NULL) != 1 || EVP_add_digest(EVP_sha256()) != 1 ||
        EVP_add_digest(EVP_sha384()) != 1 || EVP_add_digest(EVP_sha512()) != 1)
        return false;
    take_short_ways();
    return true;
}
