/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * seal.h - bytes between two programs that share a key: encrypted, and each proves the key to the
 * other before a byte is believed.
 *
 *     client                                        server
 *     magic, nonce c                ───────────►
 *                                   ◄───────────    magic, nonce s, header s, sealed("")
 *     header c, sealed(identity)    ───────────►
 *                 records, both ways:  u32 length | sealed bytes
 *
 * Keys: BLAKE2b over both nonces under the shared key, one key for each direction; so a recording
 * of an earlier connection opens nothing, and a peer's own bytes cannot be sent back to it.
 * Records: libsodium's secretstream (XChaCha20-Poly1305), which refuses what is lost, repeated or
 * moved. What it does not hide is how much is sent, and when.
 *
 * A codec: no descriptor, no clock.  What is to go out collects in `out`; what came in, opened, in
 * `plain`; both are consumed by the caller.
 *
 * Tests   tests/launcher/test_seal.c, tests/fuzz/fuzz_seal.c
 */
#ifndef DS_LAUNCHER_REMOTE_SEAL_H
#define DS_LAUNCHER_REMOTE_SEAL_H

#include <sodium.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum {
    DS_SEAL_KEY_BYTES = 32,
    DS_SEAL_RECORD_BYTES = 16 * 1024, /* of plain bytes in one record, at most */
    DS_SEAL_IDENTITY_BYTES = 256,
};

enum ds_seal_state { DS_SEAL_HELLO, DS_SEAL_HEADER, DS_SEAL_PROOF, DS_SEAL_OPEN, DS_SEAL_BROKEN };

struct ds_seal {
    enum ds_seal_state state; /* what is waited for */
    bool server;
    uint8_t key[DS_SEAL_KEY_BYTES], nonce[32];
    uint8_t tx_key[DS_SEAL_KEY_BYTES], rx_key[DS_SEAL_KEY_BYTES];
    crypto_secretstream_xchacha20poly1305_state tx, rx;
    struct ds_buf in, out, plain;
    char identity[DS_SEAL_IDENTITY_BYTES + 1]; /* of the client: what to say, or what it said */
};

/* `identity` is what a client calls itself; NULL for a server.  A client has its first bytes in
 * `out` at once.  Fails when the library or random bytes cannot be had. */
int ds_seal_init(struct ds_seal *seal, const uint8_t key[DS_SEAL_KEY_BYTES], const char *identity,
                 struct ds_error *err) DS_NODISCARD;
void ds_seal_release(struct ds_seal *seal); /* forgets the keys; fine on a zeroed struct */

/* Bytes from the line.  -EACCES: the peer does not have the key; -EPROTO: damaged or no such
 * protocol; -ENOMEM.  After an error nothing more is taken. */
int ds_seal_feed(struct ds_seal *seal, const void *bytes, size_t len, struct ds_error *err)
    DS_NODISCARD;

/* Seal bytes for the line; only once `state` is OPEN.  -ENOBUFS: `out` is full, none were taken. */
int ds_seal_put(struct ds_seal *seal, const void *bytes, size_t len);

#endif
