/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * address.c - the contract is in address.h.
 */
#include "runtime/comm/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct network {
    int family; /* AF_INET, AF_INET6 */
    uint8_t at[16];
    unsigned bits;
};

static const void *bytes_of(const struct sockaddr *address)
{
    return address->sa_family == AF_INET
               ? (const void *)&((const struct sockaddr_in *)(const void *)address)->sin_addr
               : (const void *)&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
}

/* IPv4, or an IPv6 address that needs no interface beside it. */
static bool usable(const struct sockaddr *address)
{
    if (address == NULL || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
        return false;
    return address->sa_family == AF_INET ||
           !IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)bytes_of(address));
}

/* "10.0.0.0/8" or a single address. */
static bool parse_network(const char *text, struct network *net)
{
    char address[DS_ADDRESS_BYTES];
    const char *slash = strchr(text, '/');
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
    char *end = NULL;
    unsigned long bits = 0;

    if (len == 0 || len >= sizeof(address))
        return false;
    memcpy(address, text, len);
    address[len] = '\0';
    net->family = strchr(address, ':') != NULL ? AF_INET6 : AF_INET;
    net->bits = net->family == AF_INET ? 32 : 128;
    if (inet_pton(net->family, address, net->at) != 1)
        return false;
    if (slash == NULL)
        return true;
    if (slash[1] < '0' || slash[1] > '9')
        return false;
    bits = strtoul(slash + 1, &end, 10);
    if (*end != '\0' || bits > net->bits)
        return false;
    net->bits = (unsigned)bits;
    return true;
}

static bool in_network(const struct network *net, const struct sockaddr *address)
{
    const uint8_t *bytes;
    unsigned whole = net->bits / 8, rest = net->bits % 8;

    if (address->sa_family != net->family)
        return false;
    bytes = bytes_of(address);
    if (memcmp(bytes, net->at, whole) != 0)
        return false;
    return rest == 0 || (bytes[whole] ^ net->at[whole]) >> (8 - rest) == 0;
}

/* The first address that fits; IPv4 before IPv6. */
static const struct sockaddr *choose(const struct ifaddrs *list, const char *interface,
                                     const struct network *net)
{
    const struct sockaddr *found = NULL;

    for (; list != NULL; list = list->ifa_next) {
        if (!usable(list->ifa_addr) || (list->ifa_flags & IFF_UP) == 0)
            continue;
        if (net != NULL ? !in_network(net, list->ifa_addr) : strcmp(list->ifa_name, interface) != 0)
            continue;
        if (found == NULL || (found->sa_family == AF_INET6 && list->ifa_addr->sa_family == AF_INET))
            found = list->ifa_addr;
    }
    return found;
}

/* "lo 127.0.0.1, eth0 10.0.0.2 (down)" for a message. */
static void describe(const struct ifaddrs *list, char *out, size_t size)
{
    char address[DS_ADDRESS_BYTES];
    size_t used = 0;

    out[0] = '\0';
    for (; list != NULL; list = list->ifa_next) {
        if (!usable(list->ifa_addr) || used + DS_ADDRESS_BYTES + IF_NAMESIZE + 16 > size)
            continue;
        (void)inet_ntop(list->ifa_addr->sa_family, bytes_of(list->ifa_addr), address,
                        sizeof(address));
        used += (size_t)snprintf(out + used, size - used, "%s%s %s%s", used > 0 ? ", " : "",
                                 list->ifa_name, address,
                                 (list->ifa_flags & IFF_UP) != 0 ? "" : " (down)");
    }
}

static int pick(const char *interface, char out[DS_ADDRESS_BYTES], struct ds_error *err)
{
    struct network net;
    bool is_net = parse_network(interface, &net);
    const struct sockaddr *found;
    struct ifaddrs *list = NULL;
    char have[512];
    int rc = 0;

    if (getifaddrs(&list) != 0)
        return ds_fail(err, errno, "cannot list the interfaces of this host: %s", strerror(errno));
    found = choose(list, interface, is_net ? &net : NULL);
    if (found != NULL) {
        (void)inet_ntop(found->sa_family, bytes_of(found), out, DS_ADDRESS_BYTES);
    } else {
        describe(list, have, sizeof(have));
        rc = ds_fail(err, EINVAL, "'launch.interface' is '%.100s', this host has: %s", interface,
                     have);
    }
    freeifaddrs(list);
    return rc;
}

/* The server's side of "client port server port". */
static bool from_ssh(char out[DS_ADDRESS_BYTES])
{
    const char *text = getenv("SSH_CONNECTION");
    struct network net;
    char server[DS_ADDRESS_BYTES];

    if (text == NULL || sscanf(text, "%*45s %*7s %45s", server) != 1 || strchr(server, '/') ||
        !parse_network(server, &net) ||
        (net.family == AF_INET6 && net.at[0] == 0xfe && (net.at[1] & 0xc0) == 0x80))
        return false; /* a link-local address needs its interface beside it */
    memcpy(out, server, sizeof(server));
    return true;
}

/* What the node's name means to the other nodes: not a loopback address. */
static bool from_slurm(char out[DS_ADDRESS_BYTES])
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    const char *name = getenv("SLURMD_NODENAME");
    struct addrinfo *list = NULL;
    bool found = false;

    if (name == NULL || getaddrinfo(name, NULL, &hints, &list) != 0)
        return false;
    for (const struct addrinfo *at = list; at != NULL && !found; at = at->ai_next) {
        const uint8_t *bytes = bytes_of(at->ai_addr);
        bool loopback = at->ai_family == AF_INET
                            ? bytes[0] == 127
                            : IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)(const void *)bytes);

        found = usable(at->ai_addr) && !loopback &&
                inet_ntop(at->ai_family, bytes, out, DS_ADDRESS_BYTES) != NULL;
    }
    freeaddrinfo(list);
    return found;
}

int ds_comm_address(const char *interface, char out[DS_ADDRESS_BYTES], struct ds_error *err)
{
    if (strcmp(interface, "auto") != 0)
        return pick(interface, out, err);
    if (from_slurm(out) || from_ssh(out))
        return 0;
    memcpy(out, "127.0.0.1", sizeof("127.0.0.1"));
    return 0;
}
