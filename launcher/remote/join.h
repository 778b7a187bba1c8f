/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * join.h - the transport to hosts that come by themselves: no sshd, no Slurm, as in containers.
 *
 *     host:      dsrun join LAUNCHER:PORT, which starts  dsrun-agent join NAME
 *     launcher:  dsrun --via join  ◄── sealed TCP (sealed.h) ──┘  one per host
 *
 * Whoever starts the containers gives all of them one key, in a file.  A launcher waits at its
 * door (door.h) for the hosts of the hostfile, by name; what it does not wait for is turned away.
 * A host tries until the launcher is there, and again after a job, for that may be started anew.
 * The key travels to the agent through its stdin, which is its lease: never in an argument or a
 * variable.
 *
 * Tests   tests/launcher/test_join.c, tests/e2e/join.py
 */
#ifndef DS_LAUNCHER_REMOTE_JOIN_H
#define DS_LAUNCHER_REMOTE_JOIN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "launcher/remote/seal.h"

struct ds_transport;
extern const struct ds_transport ds_transport_join;

enum { DS_JOIN_PORT = 7475, DS_JOIN_ADDRESS_BYTES = 256 };

/* "ADDRESS", "ADDRESS:PORT", "[ADDRESS]:PORT", ":PORT"; DS_JOIN_PORT where there is none. */
struct ds_join_at {
    char address[DS_JOIN_ADDRESS_BYTES]; /* "": any */
    unsigned port;
};
/* -EINVAL with a sentence. */
int ds_join_at_parse(struct ds_join_at *at, const char *text, struct ds_error *err) DS_NODISCARD;

/* Where a launcher listens, and the key of all. */
struct ds_join_site {
    struct ds_join_at at; /* its address is numeric */
    uint8_t key[DS_SEAL_KEY_BYTES];
};

/* The key of a file: 64 hexadecimal digits and a newline.  -EACCES: others may read it or write to
 * it; -EINVAL: it is no key. */
int ds_join_key_read(const char *path, uint8_t key[DS_SEAL_KEY_BYTES], struct ds_error *err)
    DS_NODISCARD;
/* A new one, in a file that was not there.  -EEXIST. */
int ds_join_key_make(const char *path, struct ds_error *err) DS_NODISCARD;

/* What an agent reads from its stdin, one line:  "dsrun-join 1 PORT KEY\n", the key in hex. */
enum { DS_INVITATION_BYTES = 128 };
struct ds_invitation {
    unsigned port;
    uint8_t key[DS_SEAL_KEY_BYTES];
};
void ds_invitation_write(const struct ds_invitation *invitation, char out[DS_INVITATION_BYTES]);
/* `line` without its newline.  -EPROTO. */
int ds_invitation_read(struct ds_invitation *invitation, const char *line, struct ds_error *err)
    DS_NODISCARD;

/* An agent's way to its launcher. */
struct ds_join {
    int fd; /* a socket that is connecting, or connected; the caller's */
    uint8_t key[DS_SEAL_KEY_BYTES];
    const char *node; /* what the agent is called */
    bool slurm;       /* srun started it, and signals ranks as it does agents */
};

/* Read the invitation from `in_fd`, which blocks. `fd` is connected already.  -EPROTO. */
int ds_join_connected(struct ds_join *join, int in_fd, int fd, const char *name,
                      struct ds_error *err) DS_NODISCARD;
/* The same of an agent that srun started: its name and the launcher's address are in the
 * environment; begin to connect.  -EPROTO: what was read or the environment is not as srun of a
 * dsrun leaves it. */
int ds_join_slurm(struct ds_join *join, int in_fd, struct ds_error *err) DS_NODISCARD;

#endif
