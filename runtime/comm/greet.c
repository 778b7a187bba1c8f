/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * greet.c - the contract is in greet.h.  HMAC and comparison are libsodium's.
 */
#include "runtime/comm/greet.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "base/wire.h"

static const char MAGIC[8] = {'D', 'S', 'C', 'O', 'M', 'M', '1', '\n'};

enum { AT_VERSION = 8, AT_WORLD = 12, AT_FROM = 16, AT_TO = 20, AT_NONCE = 24 };
enum role { CHALLENGE = 1, PROOF = 2, WELCOME = 3 };

static_assert(DS_GREET_MAC == crypto_auth_hmacsha256_BYTES, "the whole MAC");
static_assert(DS_JOB_KEY_BYTES == crypto_auth_hmacsha256_KEYBYTES, "the whole key");
static_assert(AT_NONCE + DS_GREET_NONCE == DS_GREET_HELLO, "the whole HELLO");

static void make_mac(const struct ds__greet *greet, enum role role, uint8_t mac[DS_GREET_MAC])
{
    const unsigned char label = (unsigned char)role;
    crypto_auth_hmacsha256_state state;

    (void)crypto_auth_hmacsha256_init(&state, greet->key, DS_JOB_KEY_BYTES);
    (void)crypto_auth_hmacsha256_update(&state, &label, 1);
    (void)crypto_auth_hmacsha256_update(&state, greet->said, sizeof(greet->said));
    (void)crypto_auth_hmacsha256_final(&state, mac);
    sodium_memzero(&state, sizeof(state));
}

static int check_mac(const struct ds__greet *greet, enum role role, const uint8_t *given,
                     struct ds_error *err)
{
    uint8_t mac[DS_GREET_MAC];

    make_mac(greet, role, mac);
    if (sodium_memcmp(mac, given, sizeof(mac)) == 0)
        return 0;
    return ds_fail(err, EACCES, "it does not hold this job's key");
}

void ds__greet_listen(struct ds__greet *greet, const struct ds__greet_args *args)
{
    *greet = (struct ds__greet){
        .key = args->key, .me = args->me, .world = args->world, .want = DS_GREET_HELLO};
    memcpy(greet->said + DS_GREET_HELLO, args->nonce, DS_GREET_NONCE);
}

void ds__greet_connect(struct ds__greet *greet, const struct ds__greet_args *args,
                       uint8_t out[DS_GREET_MAX], size_t *out_len)
{
    *greet = (struct ds__greet){.key = args->key,
                                .me = args->me,
                                .world = args->world,
                                .peer = args->peer,
                                .connector = true,
                                .want = DS_GREET_NONCE + DS_GREET_MAC};
    memcpy(greet->said, MAGIC, sizeof(MAGIC));
    ds_put_u32(greet->said + AT_VERSION, DS_GREET_VERSION);
    ds_put_u32(greet->said + AT_WORLD, args->world);
    ds_put_u32(greet->said + AT_FROM, args->me);
    ds_put_u32(greet->said + AT_TO, args->peer);
    memcpy(greet->said + AT_NONCE, args->nonce, DS_GREET_NONCE);
    memcpy(out, greet->said, DS_GREET_HELLO);
    *out_len = DS_GREET_HELLO;
}

static int take_hello(struct ds__greet *greet, const uint8_t *in, uint8_t *out, size_t *out_len,
                      struct ds_error *err)
{
    uint32_t from = ds_get_u32(in + AT_FROM), to = ds_get_u32(in + AT_TO);

    if (memcmp(in, MAGIC, sizeof(MAGIC)) != 0 || ds_get_u32(in + AT_VERSION) != DS_GREET_VERSION)
        return ds_fail(err, EPROTO, "it does not speak as a rank");
    if (ds_get_u32(in + AT_WORLD) != greet->world || to != greet->me || from <= greet->me ||
        from >= greet->world)
        return ds_fail(err, EPROTO, "it looks for another job or rank");
    greet->peer = from;
    memcpy(greet->said, in, DS_GREET_HELLO);
    memcpy(out, greet->said + DS_GREET_HELLO, DS_GREET_NONCE);
    make_mac(greet, CHALLENGE, out + DS_GREET_NONCE);
    *out_len = DS_GREET_NONCE + DS_GREET_MAC;
    greet->want = DS_GREET_MAC;
    return 0;
}

static int take_challenge(struct ds__greet *greet, const uint8_t *in, uint8_t *out, size_t *out_len,
                          struct ds_error *err)
{
    int rc;

    memcpy(greet->said + DS_GREET_HELLO, in, DS_GREET_NONCE);
    rc = check_mac(greet, CHALLENGE, in + DS_GREET_NONCE, err);
    if (rc != 0)
        return rc;
    make_mac(greet, PROOF, out);
    *out_len = DS_GREET_MAC;
    greet->want = DS_GREET_MAC;
    return 0;
}

int ds__greet_take(struct ds__greet *greet, const uint8_t *in, uint8_t out[DS_GREET_MAX],
                   size_t *out_len, struct ds_error *err)
{
    int rc;

    assert(!greet->done);
    *out_len = 0;
    if (greet->want == DS_GREET_HELLO)
        return take_hello(greet, in, out, out_len, err);
    if (greet->want == DS_GREET_NONCE + DS_GREET_MAC)
        return take_challenge(greet, in, out, out_len, err);
    rc = check_mac(greet, greet->connector ? WELCOME : PROOF, in, err);
    if (rc != 0)
        return rc;
    if (!greet->connector) {
        make_mac(greet, WELCOME, out);
        *out_len = DS_GREET_MAC;
    }
    greet->want = 0;
    greet->done = true;
    return 0;
}
