/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * known_hosts.h - which host keys the user trusts, from files in OpenSSH's format.
 *
 * Pure: text in, answers out.  A line is
 *
 *     [@revoked|@cert-authority] NAMES KEYTYPE BASE64 [comment]
 *
 * NAMES are patterns with * and ?, comma separated, !pattern excludes; or |1|salt|hash.  A host on
 * another port than 22 is looked up as [host]:port and nothing else.  A line that cannot be read is
 * skipped, as ssh(1) does; a revoked key is revoked whatever else says so.
 *
 * Source  sshd(8), SSH_KNOWN_HOSTS FILE FORMAT
 * Tests   tests/launcher/test_known_hosts.c, tests/fuzz/fuzz_known_hosts.c
 */
#ifndef DS_LAUNCHER_REMOTE_KNOWN_HOSTS_H
#define DS_LAUNCHER_REMOTE_KNOWN_HOSTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

enum ds_known_mark { DS_KNOWN_KEY, DS_KNOWN_REVOKED, DS_KNOWN_AUTHORITY };

struct ds_known_entry { /* of the host that was asked for; borrowed from the text */
    enum ds_known_mark mark;
    const char *type, *key; /* not terminated */
    size_t type_len, key_len;
    const char *file;
    unsigned line;
};

struct ds_known {
    struct ds_known_entry entry[DS_MAX_KNOWN_KEYS];
    size_t entries;
    bool hashed; /* some name in the files is hashed */
};

enum ds_known_answer {
    DS_KNOWN_TRUSTED,
    DS_KNOWN_UNKNOWN,    /* the host is in no file */
    DS_KNOWN_OTHER_TYPE, /* it is, with other types of keys only */
    DS_KNOWN_CHANGED,    /* it is, with another key of this type */
    DS_KNOWN_IS_REVOKED,
    DS_KNOWN_CA_ONLY /* it is trusted by certificate only, which is not supported */
};

/* The name under which a host stands in the files, into out[DS_MAX_HOST_NAME + 16]. */
void ds_known_name(char *out, const char *host, unsigned port);

/* Append the entries that `text` has for `name`, and every revoked key.  `file` is borrowed. */
void ds_known_add(struct ds_known *known, const char *file, const char *text, size_t len,
                  const char *name);

/* What the entries say about a key blob (as it travels: a string of its type first).  `*entry` is
 * the one that decided, or NULL. */
enum ds_known_answer ds_known_check(const struct ds_known *known, const void *blob, size_t len,
                                    const struct ds_known_entry **entry);

/* Is a key of this type among the trusted? */
bool ds_known_has(const struct ds_known *known, const char *type);

/* One line for a file: `name` plain or hashed with `salt` (20 bytes). */
int ds_known_line(struct ds_buf *out, const char *name, const void *blob, size_t len,
                  const void *salt);

/* The type at the start of a key blob into out[64]; "" when malformed. */
void ds_key_type(char *out, const void *blob, size_t len);

/* "SHA256:..." into out[64]. */
void ds_key_fingerprint(char *out, const void *blob, size_t len);

#endif
