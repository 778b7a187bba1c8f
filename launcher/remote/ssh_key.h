/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_key.h - the private keys that lie in the user's files, and what they sign.
 *
 * A file is read and understood once, however many hosts are logged into with it: libssh2 would do
 * so twice for each, which costs more than all else of a login.  Understood are ed25519 and ECDSA
 * (nistp256, nistp384, nistp521) without a passphrase, in OpenSSH's own form, PKCS8 or PEM.
 *
 * Owner   keys belong to the list that they were found in, until ds_ssh_keys_free().
 * Source  openssh/PROTOCOL.key; RFC 5656, RFC 8709
 * Tests   tests/launcher/test_ssh_key.c, tests/fuzz/fuzz_ssh_key.c, tests/e2e/keys.py
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_KEY_H
#define DS_LAUNCHER_REMOTE_SSH_KEY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { DS_SSH_KEY_BLOB = 192, DS_SSH_KEY_FILE = 64 * 1024 };

struct ds_ssh_key {
    struct ds_ssh_key *next;
    const char *path;                    /* borrowed */
    bool absent;                         /* there is no such file */
    struct ds_error err;                 /* why it cannot be used; code 0: it can */
    unsigned char blob[DS_SSH_KEY_BLOB]; /* the public half as it travels: its type first */
    size_t len;
    struct evp_pkey_st *pkey; /* ECDSA: OpenSSL's; NULL: ed25519, and ... */
    unsigned char secret[64]; /* ... libsodium's, seed and public key */
};

/* The key in the file `path`: found in the list, or read and put there.  NULL: no memory. */
const struct ds_ssh_key *ds_ssh_key_find(struct ds_ssh_key **keys, const char *path);
void ds_ssh_keys_free(struct ds_ssh_key **keys);

/* Pure: what is signed with and blob, or err, out of the text of a file. */
void ds_ssh_key_parse(struct ds_ssh_key *key, const char *text, size_t len);

/* The signature of `data` without its type, malloc'ed.  -EIO: it cannot be made; -ENOMEM. */
int ds_ssh_key_sign(const struct ds_ssh_key *key, const void *data, size_t len, unsigned char **sig,
                    size_t *sig_len) DS_NODISCARD;

#endif
