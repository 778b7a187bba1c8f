/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * seal.c - the contract is in seal.h.
 */
#include "launcher/remote/seal.h"

#include <errno.h>
#include <string.h>

#include "base/wire.h"

#define MAGIC "DSSEAL1\n"

enum {
    MAGIC_BYTES = 8,
    HELLO_BYTES = MAGIC_BYTES + 32,
    HEADER_BYTES = crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    TAG_BYTES = crypto_secretstream_xchacha20poly1305_ABYTES,
    MAX_SEALED = DS_SEAL_RECORD_BYTES + TAG_BYTES,
    OUT_BYTES = 256 * 1024,
    PLAIN_BYTES = 1024 * 1024,
};

static int put_hello(struct ds_seal *seal)
{
    (void)ds_buf_put(&seal->out, MAGIC, MAGIC_BYTES);
    return ds_buf_put(&seal->out, seal->nonce, sizeof(seal->nonce));
}

int ds_seal_init(struct ds_seal *seal, const uint8_t key[DS_SEAL_KEY_BYTES], const char *identity,
                 struct ds_error *err)
{
    *seal = (struct ds_seal){.server = identity == NULL};
    ds_buf_init(&seal->in, MAX_SEALED + HELLO_BYTES + HEADER_BYTES + PLAIN_BYTES);
    ds_buf_init(&seal->out, OUT_BYTES);
    ds_buf_init(&seal->plain, PLAIN_BYTES + DS_SEAL_RECORD_BYTES);
    if (sodium_init() < 0)
        return ds_fail(err, EIO, "libsodium cannot be used here");
    if (identity != NULL && strlen(identity) > DS_SEAL_IDENTITY_BYTES)
        return ds_fail(err, EINVAL, "'%.40s...' is too long a name", identity);
    memcpy(seal->key, key, sizeof(seal->key));
    randombytes_buf(seal->nonce, sizeof(seal->nonce));
    if (identity == NULL)
        return 0;
    memcpy(seal->identity, identity, strlen(identity) + 1);
    return put_hello(seal) == 0 ? 0 : ds_fail(err, ENOMEM, "no memory for a connection");
}

void ds_seal_release(struct ds_seal *seal)
{
    ds_buf_release(&seal->in);
    ds_buf_release(&seal->out);
    ds_buf_release(&seal->plain);
    sodium_memzero(seal, sizeof(*seal));
    seal->state = DS_SEAL_BROKEN;
}

/* One key for each direction, from the shared key and both nonces. */
static void derive(struct ds_seal *seal, const uint8_t peer[32])
{
    uint8_t both[MAGIC_BYTES + 64], keys[2 * DS_SEAL_KEY_BYTES];
    const uint8_t *client = seal->server ? peer : seal->nonce;
    const uint8_t *server = seal->server ? seal->nonce : peer;

    memcpy(both, MAGIC, MAGIC_BYTES);
    memcpy(both + MAGIC_BYTES, client, 32);
    memcpy(both + MAGIC_BYTES + 32, server, 32);
    (void)crypto_generichash(keys, sizeof(keys), both, sizeof(both), seal->key, sizeof(seal->key));
    memcpy(seal->tx_key, keys + (seal->server ? DS_SEAL_KEY_BYTES : 0), DS_SEAL_KEY_BYTES);
    memcpy(seal->rx_key, keys + (seal->server ? 0 : DS_SEAL_KEY_BYTES), DS_SEAL_KEY_BYTES);
    sodium_memzero(keys, sizeof(keys));
}

/* Append one record. */
static int put_record(struct ds_seal *seal, const void *bytes, size_t len)
{
    unsigned char *at = ds_buf_reserve(&seal->out, 4 + len + TAG_BYTES);

    if (at == NULL) {
        seal->out.failed = false;
        return -ENOBUFS;
    }
    ds_put_u32(at, (uint32_t)(len + TAG_BYTES));
    (void)crypto_secretstream_xchacha20poly1305_push(&seal->tx, at + 4, NULL, bytes, len, at, 4, 0);
    ds_buf_commit(&seal->out, 4 + len + TAG_BYTES);
    return 0;
}

/* The header of our direction, and the first record: the proof that we have the key. */
static int put_proof(struct ds_seal *seal, const char *text)
{
    uint8_t header[HEADER_BYTES];

    (void)crypto_secretstream_xchacha20poly1305_init_push(&seal->tx, header, seal->tx_key);
    if (ds_buf_put(&seal->out, header, sizeof(header)) != 0)
        return -ENOMEM;
    return put_record(seal, text, strlen(text));
}

static int on_hello(struct ds_seal *seal, const uint8_t *bytes, struct ds_error *err)
{
    if (memcmp(bytes, MAGIC, MAGIC_BYTES) != 0)
        return ds_fail(err, EPROTO, "the peer is no program of this kind");
    derive(seal, bytes + MAGIC_BYTES);
    if (seal->server && (put_hello(seal) != 0 || put_proof(seal, "") != 0))
        return ds_fail(err, ENOMEM, "no memory for a connection");
    seal->state = DS_SEAL_HEADER;
    return HELLO_BYTES;
}

static int on_header(struct ds_seal *seal, const uint8_t *bytes, struct ds_error *err)
{
    if (crypto_secretstream_xchacha20poly1305_init_pull(&seal->rx, bytes, seal->rx_key) != 0)
        return ds_fail(err, EPROTO, "the peer sent a bad header");
    seal->state = DS_SEAL_PROOF;
    return HEADER_BYTES;
}

static int on_proof(struct ds_seal *seal, const char *text, size_t len, struct ds_error *err)
{
    if (seal->server) {
        if (len > DS_SEAL_IDENTITY_BYTES || memchr(text, '\0', len) != NULL)
            return ds_fail(err, EPROTO, "the peer gave a bad name");
        if (len > 0)
            memcpy(seal->identity, text, len);
        seal->identity[len] = '\0';
    } else if (put_proof(seal, seal->identity) != 0) {
        return ds_fail(err, ENOMEM, "no memory for a connection");
    }
    seal->state = DS_SEAL_OPEN;
    return 0;
}

/* One record at `bytes`, its length known to be there.  Returns the bytes used, 0: more are
 * needed. */
static int on_record(struct ds_seal *seal, const uint8_t *bytes, size_t len, struct ds_error *err)
{
    uint32_t sealed = ds_get_u32(bytes);
    bool proof = seal->state == DS_SEAL_PROOF;
    uint8_t first[MAX_SEALED];
    unsigned char tag;
    uint8_t *to;
    int rc = 0;

    if (sealed < TAG_BYTES || sealed > MAX_SEALED)
        return ds_fail(err, proof ? EACCES : EPROTO, "the peer sent a record of %u bytes", sealed);
    if (len - 4 < sealed)
        return 0;
    to = proof ? first : ds_buf_reserve(&seal->plain, sealed - TAG_BYTES + 1);
    if (to == NULL)
        return ds_fail(err, ENOMEM, "no memory for the input of a connection");
    if (crypto_secretstream_xchacha20poly1305_pull(&seal->rx, to, NULL, &tag, bytes + 4, sealed,
                                                   bytes, 4) != 0)
        return ds_fail(err, proof ? EACCES : EPROTO, "%s",
                       proof ? "the peer does not have this job's key"
                             : "a record was damaged on its way");
    if (proof)
        rc = on_proof(seal, (const char *)to, sealed - TAG_BYTES, err);
    else
        ds_buf_commit(&seal->plain, sealed - TAG_BYTES);
    return rc < 0 ? rc : (int)(4 + sealed);
}

/* What lies at the start of `in`.  Returns the bytes used; 0: more are needed; or an error. */
static int step(struct ds_seal *seal, const uint8_t *bytes, size_t len, struct ds_error *err)
{
    switch (seal->state) {
    case DS_SEAL_HELLO: return len < HELLO_BYTES ? 0 : on_hello(seal, bytes, err);
    case DS_SEAL_HEADER: return len < HEADER_BYTES ? 0 : on_header(seal, bytes, err);
    case DS_SEAL_PROOF:
    case DS_SEAL_OPEN: return len < 4 ? 0 : on_record(seal, bytes, len, err);
    case DS_SEAL_BROKEN: break;
    }
    return ds_fail(err, EPROTO, "the connection is broken");
}

int ds_seal_feed(struct ds_seal *seal, const void *bytes, size_t len, struct ds_error *err)
{
    size_t at = 0;
    int rc = 0;

    if (ds_buf_put(&seal->in, bytes, len) != 0)
        rc = ds_fail(err, ENOMEM, "no memory for the input of a connection");
    while (rc == 0 && at < seal->in.len) {
        rc = step(seal, (const uint8_t *)seal->in.data + at, seal->in.len - at, err);
        if (rc <= 0)
            break;
        at += (size_t)rc;
        rc = 0;
    }
    ds_buf_consume(&seal->in, at);
    if (rc < 0)
        seal->state = DS_SEAL_BROKEN;
    return rc;
}

int ds_seal_put(struct ds_seal *seal, const void *bytes, size_t len)
{
    if (seal->state != DS_SEAL_OPEN)
        return -EAGAIN;
    if (len > DS_SEAL_RECORD_BYTES)
        return -EMSGSIZE;
    return put_record(seal, bytes, len);
}
