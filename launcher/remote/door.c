/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * door.c - the contract is in door.h.
 */
#include "launcher/remote/door.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define PROOF_NS   UINT64_C(10000000000)
#define HEARING_NS UINT64_C(3000000000)

enum { SPARE_LINKS = 64 };

/* --- who knocks ------------------------------------------------------------------------------- */

static void forget(struct ds_door *door, const struct ds_remote *remote)
{
    struct ds_remote **at = &door->waiting;

    while (*at != NULL && *at != remote)
        at = &(*at)->next;
    if (*at != NULL)
        *at = remote->next;
}

/* The peer has the key: which host is it? */
static void on_opened(struct ds_sealed *sealed)
{
    struct ds_door_link *link = sealed->user;
    struct ds_door *door = link->door;
    struct ds_remote *remote = door->waiting;

    link->taken = true;
    while (remote != NULL && strcmp(remote->host->name, sealed->seal.identity) != 0)
        remote = remote->next;
    if (remote == NULL) { /* not of this job, or it is connected already */
        link->dead = true;
        return;
    }
    forget(door, remote);
    remote->state = link;
    remote->stream = &sealed->stream;
    door->ops->up(remote);
}

static void on_failed(struct ds_sealed *sealed)
{
    struct ds_door_link *link = sealed->user;

    link->dead = true;
}

/* When there is a place for one more: now, or later than `now_ns`.  The oldest that has not proven
 * itself gives its up, as those who hold places with silence are strangers; but not before it
 * could be heard, or a crowd would push out an agent between its first word and its proof. */
static uint64_t place_ns(const struct ds_door *door, uint64_t now_ns, struct ds_door_link **oldest)
{
    uint64_t heard_ns;

    *oldest = NULL;
    if (door->links < door->expected + SPARE_LINKS)
        return now_ns;
    for (struct ds_door_link *link = door->link; link != NULL; link = link->next)
        if (!link->taken && !link->dead)
            *oldest = link; /* new ones are put in front */
    if (*oldest == NULL)
        return now_ns + 1; /* what is dead is freed first */
    heard_ns = (*oldest)->proof_ns - PROOF_NS + HEARING_NS;
    return heard_ns > now_ns ? heard_ns : now_ns;
}

static void evict(struct ds_door *door, struct ds_door_link *link)
{
    ds_sealed_close(&link->sealed); /* freed later: this turn's events may still name it */
    link->dead = link->evicted = true;
    door->links--;
}

/* Open the door again as soon as there is a place.  Returns when that will be; 0: it is open. */
static uint64_t mind_places(struct ds_door *door, uint64_t now_ns)
{
    struct ds_door_link *oldest;
    uint64_t when_ns = door->full ? place_ns(door, now_ns, &oldest) : 0;

    if (when_ns > now_ns || !door->full)
        return when_ns;
    door->full = false;
    ds_loop_want(door->loop, &door->listener, EPOLLIN);
    return 0;
}

/* The next in the queue, for whom there is a place; -1: there is none of either. */
static int take_next(struct ds_door *door)
{
    uint64_t now_ns = ds_clock_mono_ns();
    struct ds_door_link *oldest;
    int fd;

    if (place_ns(door, now_ns, &oldest) > now_ns) {
        door->full = true;
        ds_loop_want(door->loop, &door->listener, 0);
        return -1;
    }
    fd = accept4(door->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0 && oldest != NULL)
        evict(door, oldest);
    return fd;
}

static void on_connection(struct ds_watch *watch, uint32_t events)
{
    struct ds_door *door = watch->user;
    int fd, on = 1;

    (void)events;
    while ((fd = take_next(door)) >= 0) {
        struct ds_door_link *link = calloc(1, sizeof(*link));
        const struct ds_sealed_args args = {
            .fd = fd, .key = door->key, .opened = on_opened, .failed = on_failed, .user = link};

        if (link == NULL) {
            (void)close(fd);
            continue;
        }
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (ds_sealed_open(&link->sealed, door->loop, &args, NULL) != 0) {
            free(link);
            continue;
        }
        link->door = door;
        link->proof_ns = ds_clock_mono_ns() + PROOF_NS;
        link->next = door->link;
        door->link = link;
        door->links++;
    }
}

static void free_link(struct ds_door *door, struct ds_door_link **at)
{
    struct ds_door_link *link = *at;

    *at = link->next;
    door->links -= !link->evicted;
    ds_sealed_close(&link->sealed);
    free(link);
}

/* Returns when the next undecided one is to be dropped. */
static uint64_t sweep(struct ds_door *door, uint64_t now_ns)
{
    uint64_t due_ns = 0;

    for (struct ds_door_link **at = &door->link; *at != NULL;) {
        struct ds_door_link *link = *at;

        if (link->dead || (!link->taken && now_ns >= link->proof_ns)) {
            free_link(door, at);
            continue;
        }
        if (!link->taken && (due_ns == 0 || link->proof_ns < due_ns))
            due_ns = link->proof_ns;
        at = &link->next;
    }
    return due_ns;
}

/* --- the door --------------------------------------------------------------------------------- */

/* A socket bound to the address and a port of it; or a negative errno. */
static int bound_to(const struct sockaddr *address, socklen_t len)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int off = 0, on = 1, code;

    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if ((address->sa_family != AF_INET6 ||
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0) &&
        bind(fd, address, len) == 0)
        return fd;
    code = errno;
    (void)close(fd);
    return -code;
}

static int bound(const char *address, unsigned port)
{
    struct sockaddr_in6 six = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd;

    if (address != NULL && inet_pton(AF_INET, address, &four.sin_addr) == 1)
        return bound_to((struct sockaddr *)&four, sizeof(four));
    if (address != NULL && inet_pton(AF_INET6, address, &six.sin6_addr) != 1)
        return -EINVAL;
    fd = bound_to((struct sockaddr *)&six, sizeof(six));
    if (fd >= 0 || address != NULL || fd == -EADDRINUSE)
        return fd;
    return bound_to((struct sockaddr *)&four, sizeof(four)); /* a kernel without IPv6 */
}

int ds_door_open(struct ds_door *door, struct ds_loop *loop, const char *address, unsigned port,
                 struct ds_error *err)
{
    struct sockaddr_storage here = {0};
    socklen_t len = sizeof(here);
    int fd = bound(address, port);

    door->loop = loop;
    door->listener = (struct ds_watch){.fd = -1, .ready = on_connection, .user = door};
    if (fd < 0)
        return ds_fail(err, -fd, "cannot listen for agents%s%s%s: %s",
                       address != NULL ? " at '" : "", address != NULL ? address : "",
                       address != NULL ? "'" : "",
                       fd == -EINVAL ? "that is no address" : strerror(-fd));
    if (listen(fd, SOMAXCONN) != 0 || getsockname(fd, (struct sockaddr *)&here, &len) != 0 ||
        ds_loop_add(loop, &door->listener, fd, EPOLLIN, err) != 0) {
        (void)close(fd);
        return ds_fail(err, EIO, "cannot listen for agents");
    }
    return ntohs(here.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&here)->sin6_port
                                            : ((struct sockaddr_in *)&here)->sin_port);
}

/* Of two times, of which 0 is never. */
static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

uint64_t ds_door_tick(struct ds_door *door, uint64_t now_ns)
{
    uint64_t due_ns = sweep(door, now_ns);

    return sooner(due_ns, mind_places(door, now_ns));
}

void ds_door_expect(struct ds_door *door, struct ds_remote *remote)
{
    remote->next = door->waiting;
    door->waiting = remote;
    door->expected++;
}

void ds_door_give_up(struct ds_door *door, int rc, const struct ds_error *err)
{
    while (door->waiting != NULL) {
        struct ds_remote *remote = door->waiting;

        door->waiting = remote->next;
        door->ops->down(remote, rc, err);
    }
}

void ds_door_finish(struct ds_door *door, struct ds_remote *remote)
{
    forget(door, remote);
    for (struct ds_door_link **at = &door->link; *at != NULL; at = &(*at)->next)
        if (*at == remote->state) {
            free_link(door, at);
            break;
        }
    remote->state = NULL;
    remote->stream = NULL;
}

void ds_door_hang_up(struct ds_door *door)
{
    for (struct ds_door_link *link = door->link; link != NULL; link = link->next)
        if (link->sealed.fd >= 0)
            (void)shutdown(link->sealed.fd, SHUT_RDWR);
}

void ds_door_close(struct ds_door *door)
{
    int fd = door->listener.fd;

    while (door->link != NULL)
        free_link(door, &door->link);
    if (door->loop == NULL)
        return;
    ds_loop_remove(door->loop, &door->listener);
    if (fd >= 0)
        (void)close(fd);
    door->loop = NULL;
}
