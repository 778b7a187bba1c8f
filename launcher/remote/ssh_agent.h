/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_agent.h - the keys that a running ssh-agent holds.
 *
 * One connection serves all hosts.  An answer takes an agent about a millisecond; one that does not
 * come within ten seconds (a key that asks for a confirmation, a hardware key) is an error.
 *
 * Source  draft-miller-ssh-agent
 * Tests   tests/e2e/ssh.py
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_AGENT_H
#define DS_LAUNCHER_REMOTE_SSH_AGENT_H

#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"

struct ds_ssh_agent_key {
    const unsigned char *blob; /* borrowed from the agent */
    size_t len;
};

struct ds_ssh_agent {
    int fd; /* -1: not connected */
    struct ds_buf answer;
    struct ds_buf list; /* its keys */
    struct ds_ssh_agent_key key[64];
    size_t keys;
};

/* Connect and list the keys. */
int ds_ssh_agent_open(struct ds_ssh_agent *agent, const char *socket, struct ds_error *err)
    DS_NODISCARD;
void ds_ssh_agent_close(struct ds_ssh_agent *agent);

/* The signature of `data`, without its type: malloc'ed, freed by the caller. */
int ds_ssh_agent_sign(struct ds_ssh_agent *agent, const struct ds_ssh_agent_key *key,
                      const void *data, size_t len, unsigned char **sig, size_t *sig_len,
                      struct ds_error *err) DS_NODISCARD;

#endif
