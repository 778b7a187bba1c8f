/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * names.c - the contract is in names.h.
 *
 * What the threads share is below one lock, held for a few stores.  Nobody can interrupt
 * getaddrinfo(): a lookup that is forgotten meanwhile is freed by its thread, and what all share by
 * the last thread that is out after everything was closed.
 */
#include "launcher/remote/names.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "launcher/remote/etc_hosts.h"

#define SLOW_NS (DS_NAMES_SLOW_MS * UINT64_C(1000000))

enum state { WAITS, TAKEN, DONE };

struct ds_name {
    struct ds_name *next; /* that waits */
    enum state state;
    bool forgotten; /* its thread frees it */
    int rc;
    struct addrinfo *found;
    char host[DS_MAX_HOST_NAME + 1], port[8];
};

struct ds_names {
    struct ds_names_args args;
    struct ds_watch watch;
    struct ds_etc_hosts hosts;
    pthread_mutex_t lock; /* of all below, and of every lookup's state, forgotten, rc and found */
    struct ds_name *first, *last;
    unsigned threads;
    uint64_t moved_ns; /* when a thread was started, or a lookup was done */
    int event_fd;
    bool closed;
};

static int look_up(const struct ds_names *names, const char *host, const char *port, int flags,
                   struct addrinfo **found)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};

    return names->args.look(host, port, &hints, found);
}

static void free_name(struct ds_name *name)
{
    if (name->found != NULL)
        freeaddrinfo(name->found);
    free(name);
}

static void free_names(struct ds_names *names)
{
    ds_etc_hosts_release(&names->hosts);
    (void)close(names->event_fd);
    (void)pthread_mutex_destroy(&names->lock);
    free(names);
}

/* --- the threads ------------------------------------------------------------------------------ */

static struct ds_name *take(struct ds_names *names)
{
    struct ds_name *name = names->first;

    if (name == NULL)
        return NULL;
    names->first = name->next;
    if (names->first == NULL)
        names->last = NULL;
    name->next = NULL;
    name->state = TAKEN;
    return name;
}

static void finish(struct ds_names *names, struct ds_name *name, int rc, struct addrinfo *found)
{
    name->rc = rc;
    name->found = rc == 0 ? found : NULL;
    name->state = DONE;
    names->moved_ns = ds_clock_mono_ns();
    if (name->forgotten)
        free_name(name);
    else
        (void)eventfd_write(names->event_fd, 1);
}

static void *work(void *user)
{
    struct ds_names *names = user;
    struct ds_name *name;
    bool last;

    (void)pthread_mutex_lock(&names->lock);
    while ((name = take(names)) != NULL) {
        struct addrinfo *found = NULL;
        int rc;

        (void)pthread_mutex_unlock(&names->lock);
        rc = look_up(names, name->host, name->port, AI_ADDRCONFIG, &found);
        (void)pthread_mutex_lock(&names->lock);
        finish(names, name, rc, found);
    }
    last = --names->threads == 0 && names->closed;
    (void)pthread_mutex_unlock(&names->lock);
    if (last)
        free_names(names);
    return NULL;
}

/* Signals are the loop's. */
static int start_thread(struct ds_names *names)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all;
    int rc = pthread_attr_init(&attr);

    if (rc != 0)
        return rc;
    (void)sigfillset(&all);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    rc = pthread_attr_setsigmask_np(&attr, &all);
    if (rc == 0)
        rc = pthread_create(&thread, &attr, work, names);
    (void)pthread_attr_destroy(&attr);
    if (rc == 0)
        names->threads++;
    names->moved_ns = ds_clock_mono_ns();
    return rc;
}

/* --- the public part -------------------------------------------------------------------------- */

static void on_event(struct ds_watch *watch, uint32_t events)
{
    struct ds_names *names = watch->user;
    eventfd_t count;

    (void)events;
    (void)eventfd_read(names->event_fd, &count);
    names->args.done(names->args.user);
}

int ds_names_open(struct ds_names **out, const struct ds_names_args *args, struct ds_error *err)
{
    struct ds_names *names = calloc(1, sizeof(*names));
    int rc;

    *out = NULL;
    if (names == NULL)
        return ds_fail(err, ENOMEM, "no memory to look up addresses");
    names->args = *args;
    names->watch = (struct ds_watch){.fd = -1, .ready = on_event, .user = names};
    (void)pthread_mutex_init(&names->lock, NULL);
    names->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = names->event_fd < 0
             ? ds_fail(err, errno, "cannot look up addresses: %s", strerror(errno))
             : ds_loop_add(args->loop, &names->watch, names->event_fd, EPOLLIN, err);
    if (rc != 0) {
        free_names(names);
        return rc;
    }
    ds_etc_hosts_read(&names->hosts, args->nsswitch, args->hosts);
    *out = names;
    return 0;
}

void ds_names_close(struct ds_names *names)
{
    bool last;

    if (names == NULL)
        return;
    ds_loop_remove(names->args.loop, &names->watch);
    (void)pthread_mutex_lock(&names->lock);
    assert(names->first == NULL);
    names->closed = true;
    last = names->threads == 0;
    (void)pthread_mutex_unlock(&names->lock);
    if (last)
        free_names(names);
}

/* A name that no thread can be had for must not wait for ever. */
static int enqueue(struct ds_names *names, struct ds_name *name)
{
    int rc = 0;

    (void)pthread_mutex_lock(&names->lock);
    *(names->last == NULL ? &names->first : &names->last->next) = name;
    names->last = name;
    if (names->threads == 0)
        rc = start_thread(names);
    if (rc != 0)
        (void)take(names);
    (void)pthread_mutex_unlock(&names->lock);
    return rc;
}

/* Without asking anybody? */
static bool is_known(const struct ds_names *names, struct ds_name *name)
{
    char address[DS_ETC_HOSTS_ADDRESS];

    return look_up(names, name->host, name->port, AI_NUMERICHOST, &name->found) == 0 ||
           (ds_etc_hosts_find(&names->hosts, name->host, address) &&
            look_up(names, address, name->port, AI_NUMERICHOST, &name->found) == 0);
}

int ds_names_ask(struct ds_names *names, const char *host, unsigned port, struct ds_name **out,
                 struct ds_error *err)
{
    struct ds_name *name = calloc(1, sizeof(*name));
    int rc;

    *out = NULL;
    if (name == NULL)
        return ds_fail(err, ENOMEM, "no memory to look up an address");
    (void)snprintf(name->host, sizeof(name->host), "%s", host);
    (void)snprintf(name->port, sizeof(name->port), "%u", port);
    if (is_known(names, name)) {
        name->state = DONE;
        *out = name;
        return 0;
    }
    rc = enqueue(names, name);
    if (rc != 0) {
        free(name);
        return ds_fail(err, rc, "cannot look up addresses: %s", strerror(rc));
    }
    *out = name;
    return 0;
}

bool ds_names_answer(struct ds_names *names, const struct ds_name *name, int *rc,
                     const struct addrinfo **found)
{
    bool done;

    (void)pthread_mutex_lock(&names->lock);
    done = name->state == DONE;
    *rc = name->rc;
    *found = name->found;
    (void)pthread_mutex_unlock(&names->lock);
    return done;
}

static void unlink_name(struct ds_names *names, const struct ds_name *name)
{
    struct ds_name *before = NULL;

    for (struct ds_name *at = names->first; at != name; at = at->next)
        before = at;
    *(before == NULL ? &names->first : &before->next) = name->next;
    if (names->last == name)
        names->last = before;
}

void ds_names_forget(struct ds_names *names, struct ds_name *name)
{
    bool ours;

    if (name == NULL)
        return;
    (void)pthread_mutex_lock(&names->lock);
    ours = name->state != TAKEN;
    if (name->state == WAITS)
        unlink_name(names, name);
    name->forgotten = true;
    (void)pthread_mutex_unlock(&names->lock);
    if (ours)
        free_name(name);
}

uint64_t ds_names_tick(struct ds_names *names, uint64_t now_ns)
{
    uint64_t next_ns = 0;

    if (names == NULL)
        return 0;
    (void)pthread_mutex_lock(&names->lock);
    if (names->first != NULL && names->threads < DS_NAMES_THREADS) {
        if (now_ns >= names->moved_ns + SLOW_NS)
            (void)start_thread(names); /* without it those that run go on */
        next_ns = names->moved_ns + SLOW_NS;
    }
    (void)pthread_mutex_unlock(&names->lock);
    return next_ns;
}
