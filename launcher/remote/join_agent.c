/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * join_agent.c - the agent's half of join.h: the invitation, and the way to the launcher.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher/remote/join.h"

#define GREETING "dsrun-join 1 "

void ds_invitation_write(const struct ds_invitation *invitation, char out[DS_INVITATION_BYTES])
{
    char hex[2 * DS_SEAL_KEY_BYTES + 1];

    (void)sodium_bin2hex(hex, sizeof(hex), invitation->key, sizeof(invitation->key));
    (void)snprintf(out, DS_INVITATION_BYTES, GREETING "%u %s\n", invitation->port, hex);
    sodium_memzero(hex, sizeof(hex));
}

int ds_invitation_read(struct ds_invitation *invitation, const char *line, struct ds_error *err)
{
    const char *at = line + strlen(GREETING), *end;
    size_t digits, len;

    if (strncmp(line, GREETING, strlen(GREETING)) != 0)
        return ds_fail(err, EPROTO, "what came on stdin is no invitation");
    digits = strspn(at, "0123456789");
    if (digits == 0 || digits > 5 || at[digits] != ' ')
        return ds_fail(err, EPROTO, "an invitation without a port");
    invitation->port = (unsigned)strtoul(at, NULL, 10);
    if (invitation->port == 0 || invitation->port > 65535)
        return ds_fail(err, EPROTO, "an invitation without a port");
    at += digits + 1;
    if (strlen(at) != 2 * DS_SEAL_KEY_BYTES ||
        sodium_hex2bin(invitation->key, sizeof(invitation->key), at, strlen(at), NULL, &len,
                       &end) != 0 ||
        *end != '\0' || len != sizeof(invitation->key))
        return ds_fail(err, EPROTO, "an invitation without a key");
    return 0;
}

/* One line; byte by byte, so that nothing behind it is taken. */
static int read_line(int fd, char line[DS_INVITATION_BYTES], struct ds_error *err)
{
    for (size_t len = 0; len < DS_INVITATION_BYTES; len++) {
        ssize_t n;

        do
            n = read(fd, &line[len], 1);
        while (n < 0 && errno == EINTR);
        if (n <= 0)
            return ds_fail(err, EPROTO, "stdin ended before the invitation");
        if (line[len] == '\n') {
            line[len] = '\0';
            return 0;
        }
    }
    return ds_fail(err, EPROTO, "what came on stdin is no invitation");
}

/* Begin to connect to a numeric address. */
static int begin_connect(int *fd, const char *address, unsigned port, struct ds_error *err)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    bool is_four = inet_pton(AF_INET, address, &four.sin_addr) == 1;
    const struct sockaddr *to = is_four ? (struct sockaddr *)&four : (struct sockaddr *)&six;
    socklen_t len = is_four ? sizeof(four) : sizeof(six);
    int on = 1;

    if (!is_four && inet_pton(AF_INET6, address, &six.sin6_addr) != 1)
        return ds_fail(err, EPROTO, "SLURM_LAUNCH_NODE_IPADDR='%.64s' is no address", address);
    *fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0)
        return ds_fail(err, errno, "cannot create a socket: %s", strerror(errno));
    (void)setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(*fd, to, len) != 0 && errno != EINPROGRESS) {
        int code = errno;

        (void)close(*fd);
        *fd = -1;
        return ds_fail(err, code, "cannot reach dsrun at %s port %u: %s", address, port,
                       strerror(code));
    }
    return 0;
}

static int be_invited(struct ds_invitation *invitation, int in_fd, struct ds_error *err)
{
    char line[DS_INVITATION_BYTES];
    int rc = read_line(in_fd, line, err);

    if (rc == 0)
        rc = ds_invitation_read(invitation, line, err);
    sodium_memzero(line, sizeof(line));
    return rc;
}

/* What sshd would say of this connection: from it the ranks know the interface on which they are
 * reached. */
static int tell_connection(int fd, struct ds_error *err)
{
    char host[2][NI_MAXHOST], port[2][NI_MAXSERV];
    char text[2 * NI_MAXHOST + 2 * NI_MAXSERV + 4];
    struct sockaddr_storage end[2] = {0};
    socklen_t len[2] = {sizeof(end[0]), sizeof(end[1])};

    if (getpeername(fd, (struct sockaddr *)&end[0], &len[0]) != 0 ||
        getsockname(fd, (struct sockaddr *)&end[1], &len[1]) != 0)
        return ds_fail(err, errno, "what stdout is connected to: %s", strerror(errno));
    for (int i = 0; i < 2; i++)
        if (getnameinfo((struct sockaddr *)&end[i], len[i], host[i], sizeof(host[i]), port[i],
                        sizeof(port[i]), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
            return ds_fail(err, EPROTO, "stdout is no connection to a launcher");
    (void)snprintf(text, sizeof(text), "%s %s %s %s", host[0], port[0], host[1], port[1]);
    return setenv("SSH_CONNECTION", text, 1) == 0 ? 0
                                                  : ds_fail(err, errno, "no memory for a variable");
}

int ds_join_connected(struct ds_join *join, int in_fd, int fd, const char *name,
                      struct ds_error *err)
{
    struct ds_invitation invitation;
    int rc = be_invited(&invitation, in_fd, err);

    *join = (struct ds_join){.fd = fd, .node = name};
    if (rc == 0)
        rc = tell_connection(fd, err);
    if (rc == 0)
        memcpy(join->key, invitation.key, sizeof(join->key));
    sodium_memzero(&invitation, sizeof(invitation));
    return rc;
}

int ds_join_slurm(struct ds_join *join, int in_fd, struct ds_error *err)
{
    const char *address = getenv("SLURM_LAUNCH_NODE_IPADDR");
    struct ds_invitation invitation;
    int rc;

    *join = (struct ds_join){.fd = -1, .slurm = true, .node = getenv("SLURMD_NODENAME")};
    if (address == NULL || join->node == NULL)
        return ds_fail(err, EPROTO,
                       "SLURM_LAUNCH_NODE_IPADDR and SLURMD_NODENAME must be set: only srun starts "
                       "'dsrun-agent slurm'");
    rc = be_invited(&invitation, in_fd, err);
    if (rc == 0)
        rc = begin_connect(&join->fd, address, invitation.port, err);
    if (rc == 0)
        memcpy(join->key, invitation.key, sizeof(join->key));
    sodium_memzero(&invitation, sizeof(invitation));
    return rc;
}
