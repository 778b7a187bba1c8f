/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gather.c - the contract is in gather.h.
 */
#include "launcher/gather.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PORT_FIRST = 20000,
    PORT_END = 32768, /* where the kernel's own usually begin */
    PORT_TRIES = 100,
};

size_t ds_gather_write(const struct ds_gather *gather, unsigned char *out)
{
    size_t len = strlen(gather->address);

    out[0] = (unsigned char)(gather->port & 255);
    out[1] = (unsigned char)(gather->port >> 8);
    memcpy(out + 2, gather->address, len);
    return 2 + len;
}

int ds_gather_read(struct ds_gather *gather, const void *payload, size_t len, struct ds_error *err)
{
    static const char allowed[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  ".:_%-";
    const unsigned char *bytes = payload;

    if (len < 2 || len > DS_GATHER_BYTES)
        return ds_fail(err, EPROTO, "a meeting point of %zu bytes", len);
    gather->port = (uint16_t)(bytes[0] | bytes[1] << 8);
    memcpy(gather->address, bytes + 2, len - 2);
    gather->address[len - 2] = '\0';
    if (strspn(gather->address, allowed) != len - 2)
        return ds_fail(err, EPROTO, "a meeting point with a malformed address");
    return 0;
}

/* --- a free port ------------------------------------------------------------------------------ */

/* Where the ports that the kernel gives to connections begin. */
static unsigned kernel_first(void)
{
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    unsigned first = PORT_END;

    if (file != NULL) {
        if (fscanf(file, "%u", &first) != 1)
            first = PORT_END;
        (void)fclose(file);
    }
    return first;
}

/* Bind to a port of every address, IPv6 too where there is such a thing; 0 is any port. */
static int bind_port(uint16_t port)
{
    const struct sockaddr_in6 all6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    const struct sockaddr_in all4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), off = 0, rc;

    if (fd >= 0) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        rc = bind(fd, (const struct sockaddr *)&all6, sizeof(all6));
    } else {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        rc = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&all4, sizeof(all4));
    }
    if (rc == 0)
        return fd;
    rc = -errno;
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    in_port_t port;

    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return 0;
    port = address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                         : ((struct sockaddr_in *)&address)->sin_port;
    return ntohs(port);
}

int ds_gather_port(int *fd, uint16_t *port, struct ds_error *err)
{
    unsigned end = kernel_first();

    if (end > PORT_END)
        end = PORT_END;
    *fd = -EADDRINUSE;
    for (int i = 0; i < PORT_TRIES && *fd < 0; i++) {
        uint32_t dice = 0;

        /* the second half of the tries takes what the kernel gives */
        if (getrandom(&dice, sizeof(dice), 0) < 0 || end <= PORT_FIRST + 1000 ||
            i >= PORT_TRIES / 2)
            *fd = bind_port(0);
        else
            *fd = bind_port((uint16_t)(PORT_FIRST + dice % (end - PORT_FIRST)));
    }
    if (*fd < 0)
        return ds_fail(err, -*fd, "no free port for the ranks to meet at: %s", strerror(-*fd));
    *port = bound_port(*fd);
    return 0;
}

/* --- addresses -------------------------------------------------------------------------------- */

static bool is_address(const char *text)
{
    unsigned char bytes[16];

    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

void ds_gather_here(const char *connection, char *out)
{
    char server[64];

    out[0] = '\0';
    if (connection != NULL && sscanf(connection, "%*s %*s %63s %*s", server) == 1 &&
        is_address(server))
        (void)snprintf(out, DS_MAX_HOST_NAME + 1, "%s", server);
}

bool ds_gather_is_loopback(const char *address)
{
    return strcmp(address, "localhost") == 0 || strcmp(address, "::1") == 0 ||
           (strncmp(address, "127.", 4) == 0 && is_address(address));
}
