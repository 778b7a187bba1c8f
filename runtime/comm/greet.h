/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * greet.h - how two ranks prove to each other that they belong to one job.
 *
 *     connector (the higher rank)                            listener (the lower rank)
 *        HELLO      "DSCOMM1\n" | version | world | from | to | nonce c[32]      ─►
 *        ◄─         CHALLENGE   nonce l[32] | mac(1, HELLO, l)
 *        PROOF      mac(2, HELLO, l)                                             ─►
 *        ◄─         WELCOME     mac(3, HELLO, l)
 *
 * mac(n, ...) is HMAC-SHA-256 under the job's key over the byte n, the HELLO and the listener's
 * nonce, so that roles, ranks and both nonces are bound: nothing said once can be said again, to
 * another rank, or in the other role.  Compared in constant time.  u32 are little endian.
 *
 * Pure: bytes in, bytes out; nonces are given.
 * Tests   tests/comm/test_greet.c, tests/fuzz/fuzz_greet.c
 */
#ifndef DS_RUNTIME_COMM_GREET_H
#define DS_RUNTIME_COMM_GREET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/rendezvous.h"

enum {
    DS_GREET_NONCE = 32,
    DS_GREET_MAC = 32,
    DS_GREET_HELLO = 8 + 4 * 4 + DS_GREET_NONCE,
    DS_GREET_MAX = DS_GREET_NONCE + DS_GREET_MAC, /* the longest message */
    DS_GREET_VERSION = 2,
};

struct ds__greet_args {
    const uint8_t *key;   /* DS_JOB_KEY_BYTES; borrowed for the whole greeting */
    const uint8_t *nonce; /* DS_GREET_NONCE fresh random bytes */
    unsigned me, world;
    unsigned peer; /* connector: whom it expects */
};

struct ds__greet {
    const uint8_t *key;
    unsigned me, world, peer; /* listener: peer is claimed by HELLO, proven once done */
    bool connector;
    uint8_t said[DS_GREET_HELLO + DS_GREET_NONCE]; /* HELLO and the listener's nonce */
    size_t want;                                   /* bytes of the message that comes next */
    bool done;
};

/* Begin; a connector's HELLO goes to `out`, a listener says nothing yet. */
void ds__greet_listen(struct ds__greet *greet, const struct ds__greet_args *args);
void ds__greet_connect(struct ds__greet *greet, const struct ds__greet_args *args,
                       uint8_t out[DS_GREET_MAX], size_t *out_len);

/* Take `want` bytes from the peer, give what to say next.  `done` is set when the peer has proven
 * itself; a listener may still turn it away instead of sending `out`.
 * -EPROTO not a greeting of this job's kind; -EACCES a wrong proof.  Then say nothing, hang up. */
int ds__greet_take(struct ds__greet *greet, const uint8_t *in, uint8_t out[DS_GREET_MAX],
                   size_t *out_len, struct ds_error *err) DS_NODISCARD;

#endif
