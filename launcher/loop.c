/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loop.c - the contract is in loop.h.
 *
 * epoll reports HUP and ERR even for an empty mask, so a watch that wants nothing is taken out of
 * the epoll set and put back when it wants something again.
 */
#include "launcher/loop.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { EVENTS_PER_TURN = 64 };

int ds_loop_init(struct ds_loop *loop, struct ds_error *err)
{
    *loop = (struct ds_loop){.turn = 1};
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0)
        return ds_fail(err, errno, "cannot create an event loop: %s", strerror(errno));
    return 0;
}

void ds_loop_release(struct ds_loop *loop)
{
    if (loop->epoll_fd >= 0)
        (void)close(loop->epoll_fd);
    loop->epoll_fd = -1;
}

static int control(struct ds_loop *loop, int op, struct ds_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    return epoll_ctl(loop->epoll_fd, op, watch->fd, &event);
}

int ds_loop_add(struct ds_loop *loop, struct ds_watch *watch, int fd, uint32_t events,
                struct ds_error *err)
{
    watch->fd = fd;
    watch->events = events;
    if (events != 0 && control(loop, EPOLL_CTL_ADD, watch, events) != 0) {
        int code = errno;

        watch->fd = -1;
        return ds_fail(err, code, "cannot watch descriptor %d: %s", fd, strerror(code));
    }
    return 0;
}

void ds_loop_want(struct ds_loop *loop, struct ds_watch *watch, uint32_t events)
{
    if (watch->fd < 0 || watch->events == events)
        return;
    if (events == 0)
        (void)control(loop, EPOLL_CTL_DEL, watch, 0);
    else
        (void)control(loop, watch->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, watch, events);
    watch->events = events;
}

static void forget(struct ds_loop *loop, struct ds_watch *watch)
{
    struct ds_watch *before = NULL;

    for (struct ds_watch *at = loop->again; at != watch; at = at->next)
        before = at;
    if (before == NULL)
        loop->again = watch->next;
    else
        before->next = watch->next;
    if (loop->last == watch)
        loop->last = before;
    watch->again = 0;
}

void ds_loop_remove(struct ds_loop *loop, struct ds_watch *watch)
{
    ds_loop_want(loop, watch, 0);
    watch->fd = -1;
    if (watch->again != 0)
        forget(loop, watch);
}

void ds_loop_again(struct ds_loop *loop, struct ds_watch *watch)
{
    if (watch->again != 0 || watch->fd < 0)
        return;
    watch->again = loop->turn;
    watch->next = NULL;
    if (loop->last == NULL)
        loop->again = watch;
    else
        loop->last->next = watch;
    loop->last = watch;
}

/* Those that asked before this turn; each may ask once more, or remove any other. */
static void run_again(struct ds_loop *loop)
{
    while (loop->again != NULL && loop->again->again < loop->turn) {
        struct ds_watch *watch = loop->again;

        forget(loop, watch);
        watch->ready(watch, 0);
    }
}

int ds_loop_turn(struct ds_loop *loop, int timeout_ms, struct ds_error *err)
{
    struct epoll_event event[EVENTS_PER_TURN];
    int n =
        epoll_wait(loop->epoll_fd, event, EVENTS_PER_TURN, loop->again != NULL ? 0 : timeout_ms);

    loop->turn++;
    if (n < 0 && errno != EINTR)
        return ds_fail(err, errno, "cannot wait for events: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct ds_watch *watch = event[i].data.ptr;

        if (watch->fd >= 0 && watch->events != 0) /* else an earlier callback removed it */
            watch->ready(watch, event[i].events);
    }
    run_again(loop);
    return 0;
}

int ds_loop_timeout_ms(uint64_t deadline_ns, uint64_t now_ns)
{
    uint64_t left_ns, left_ms;

    if (deadline_ns == 0)
        return -1;
    if (deadline_ns <= now_ns)
        return 0;
    left_ns = deadline_ns - now_ns;
    left_ms = left_ns / 1000000 + (left_ns % 1000000 != 0);
    return left_ms > 3600 * 1000 ? 3600 * 1000 : (int)left_ms;
}
