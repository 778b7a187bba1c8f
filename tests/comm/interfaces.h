/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * interfaces.h - the interfaces of a host that a test makes up.
 *
 * The program is linked with --wrap for getifaddrs, freeifaddrs, getaddrinfo and freeaddrinfo
 * (INTERFACE_WRAPS, files.mk), so that the project's calls come here.
 */
#ifndef DS_TESTS_COMM_INTERFACES_H
#define DS_TESTS_COMM_INTERFACES_H

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { INTERFACES_MAX = 40 };

struct interface {
    const char *name, *address; /* "": of no family that is known here; NULL: it has none */
    bool down;
};

static const struct interface *interfaces_here;
static size_t interfaces_count;
static int interfaces_errno;          /* getifaddrs() fails with it */
static const char *const *names_mean; /* addresses of any name; NULL: it has none */
static size_t names_count;
static int interfaces_held; /* lists that were not freed */

static inline void interfaces_address(const char *text, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)out;

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
        out->ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
        out->ss_family = AF_INET6;
    else
        out->ss_family = AF_UNIX;
}

int __wrap_getifaddrs(struct ifaddrs **list);
int __wrap_getifaddrs(struct ifaddrs **list)
{
    static struct sockaddr_storage address[INTERFACES_MAX];
    static struct ifaddrs all[INTERFACES_MAX];

    if (interfaces_errno != 0) {
        errno = interfaces_errno;
        return -1;
    }
    for (size_t i = 0; i < interfaces_count; i++) {
        const struct interface *from = &interfaces_here[i];

        if (from->address != NULL)
            interfaces_address(from->address, &address[i]);
        all[i] = (struct ifaddrs){
            .ifa_next = i + 1 < interfaces_count ? &all[i + 1] : NULL,
            .ifa_name = (char *)(uintptr_t)from->name,
            .ifa_flags = from->down ? 0 : IFF_UP,
            .ifa_addr = from->address == NULL ? NULL : (struct sockaddr *)(void *)&address[i]};
    }
    interfaces_held++;
    *list = interfaces_count > 0 ? all : NULL;
    return 0;
}

void __wrap_freeifaddrs(struct ifaddrs *list);
void __wrap_freeifaddrs(struct ifaddrs *list)
{
    (void)list;
    interfaces_held--;
}

int __wrap_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                       struct addrinfo **list);
int __wrap_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                       struct addrinfo **list)
{
    static struct sockaddr_storage address[INTERFACES_MAX];
    static struct addrinfo all[INTERFACES_MAX];

    (void)name;
    (void)service;
    (void)hints;
    if (names_mean == NULL)
        return EAI_NONAME;
    for (size_t i = 0; i < names_count; i++) {
        interfaces_address(names_mean[i], &address[i]);
        all[i] = (struct addrinfo){.ai_family = address[i].ss_family,
                                   .ai_addr = (struct sockaddr *)(void *)&address[i],
                                   .ai_next = i + 1 < names_count ? &all[i + 1] : NULL};
    }
    interfaces_held++;
    *list = all;
    return 0;
}

void __wrap_freeaddrinfo(struct addrinfo *list);
void __wrap_freeaddrinfo(struct addrinfo *list)
{
    (void)list;
    interfaces_held--;
}

#endif
