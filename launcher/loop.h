/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loop.h - one epoll loop for descriptors; who needs deadlines gives the next one as a timeout.
 *
 * A watch is embedded in the object it belongs to and must outlive the turn that removes it:
 * callbacks never free, they mark, and the owner frees after ds_loop_turn().
 *
 * Tests   tests/launcher/test_channel.c
 */
#ifndef DS_LAUNCHER_LOOP_H
#define DS_LAUNCHER_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/error.h"

struct ds_watch {
    int fd;          /* borrowed; -1: not in a loop */
    uint32_t events; /* EPOLLIN, EPOLLOUT, or 0: known, but reports nothing, not even HUP */
    void (*ready)(struct ds_watch *watch, uint32_t events);
    void *user;
    struct ds_watch *next; /* of those to run again */
    uint64_t again;        /* asked in this turn; 0: not asked */
};

struct ds_loop {
    int epoll_fd;
    struct ds_watch *again, *last; /* to run again, in this order */
    uint64_t turn;                 /* counts from 1 */
};

int ds_loop_init(struct ds_loop *loop, struct ds_error *err) DS_NODISCARD;
void ds_loop_release(struct ds_loop *loop);

/* Watch `fd`; watch->ready and watch->user are set by the caller. */
int ds_loop_add(struct ds_loop *loop, struct ds_watch *watch, int fd, uint32_t events,
                struct ds_error *err) DS_NODISCARD;
void ds_loop_want(struct ds_loop *loop, struct ds_watch *watch, uint32_t events);
void ds_loop_remove(struct ds_loop *loop, struct ds_watch *watch); /* fine when not added */

/* Run watch->ready(watch, 0) in the next turn, which then does not wait: for who has more to do
 * than is fair in one turn. */
void ds_loop_again(struct ds_loop *loop, struct ds_watch *watch);

/* Wait at most `timeout_ms` (-1: for ever) and run what is ready. */
int ds_loop_turn(struct ds_loop *loop, int timeout_ms, struct ds_error *err) DS_NODISCARD;

/* Milliseconds until `deadline_ns` (0: none) for ds_loop_turn(), rounded up. */
int ds_loop_timeout_ms(uint64_t deadline_ns, uint64_t now_ns);

#endif
