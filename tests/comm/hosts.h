/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hosts.h - ranks.h for several hosts: processes on loopback that share memory only with those of
 * their own "host".
 *
 * A page that all processes share stands for the control channel.
 */
#ifndef DS_TESTS_COMM_HOSTS_H
#define DS_TESTS_COMM_HOSTS_H

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "tests/comm/ranks.h"

enum { HOSTS_RECORD = 64 };

struct hosts_page {
    _Atomic unsigned told;
    uint8_t record[RANKS_MAX][HOSTS_RECORD];
    _Atomic uint32_t word[8]; /* for the tests */
};

struct hosts_seat;

struct hosts {
    unsigned count[RANKS_MAX + 1]; /* ranks on each host, in order; 0 ends */
    size_t arena_bytes, common_bytes;
    uint64_t timeout_ms;
    unsigned open_ms;
    const void *user;
    /* After everybody's addresses are known and before this rank connects. */
    void (*intrude)(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD]);
    struct hosts_page *page; /* set by hosts_run(), as what follows */
    int fd[RANKS_MAX];
    unsigned world;
};

typedef int hosts_fn(const struct hosts *setup, unsigned rank, struct ds_comm *comm);

struct hosts_seat { /* one process */
    const struct hosts *setup;
    unsigned rank, host, local;
    char name[8];
    struct ds_comm_meet meet;
};

static const uint8_t hosts_key[DS_COMM_KEY_BYTES] = "the key of this test's job, say";

static inline void hosts_nap(void)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    (void)nanosleep(&nap, NULL);
}

static inline int hosts_gather(void *user, const void *mine, size_t bytes, void *all,
                               struct ds_error *err)
{
    const struct hosts_seat *seat = user;
    struct hosts_page *page = seat->setup->page;

    if (bytes != HOSTS_RECORD)
        return ds_fail(err, EIO, "a record of %zu bytes", bytes);
    memcpy(page->record[seat->rank], mine, bytes);
    atomic_fetch_add(&page->told, 1);
    while (atomic_load(&page->told) < seat->setup->world)
        hosts_nap();
    memcpy(all, page->record, seat->setup->world * bytes);
    if (seat->setup->intrude != NULL)
        seat->setup->intrude(seat, all);
    return 0;
}

static inline struct ds_comm_args hosts_args(struct hosts_seat *seat)
{
    const struct hosts *setup = seat->setup;
    unsigned first = 0;

    while (seat->rank >= first + setup->count[seat->host])
        first += setup->count[seat->host++];
    seat->local = seat->rank - first;
    (void)snprintf(seat->name, sizeof(seat->name), "h%u", seat->host);
    seat->meet = (struct ds_comm_meet){.host = seat->name,
                                       .address = "127.0.0.1",
                                       .node = 100 + seat->host,
                                       .key = hosts_key,
                                       .timeout_ms = setup->open_ms > 0 ? setup->open_ms : 60000,
                                       .gather = hosts_gather,
                                       .user = seat};
    return (struct ds_comm_args){.backend = "host",
                                 .rank = seat->rank,
                                 .world = setup->world,
                                 .local_rank = seat->local,
                                 .local_world = setup->count[seat->host],
                                 .meet = &seat->meet,
                                 .shm_fd = setup->fd[seat->host],
                                 .arena_bytes = setup->arena_bytes,
                                 .common_bytes = setup->common_bytes,
                                 .timeout_ms = setup->timeout_ms};
}

static inline int hosts_child(const void *of, unsigned rank, void (*fn)(void))
{
    const struct hosts *setup = of;
    struct hosts_seat seat = {.setup = setup, .rank = rank};
    struct ds_comm_args args = hosts_args(&seat);
    struct ds_error err = {0};
    struct ds_comm *comm = NULL;
    int line;

    EXPECT_OK(ds_comm_open(&comm, &args, &err), &err);
    line = ((hosts_fn *)fn)(setup, rank, comm);
    ds_comm_close(comm);
    return line;
}

/* The page and every host's memory. */
static inline int hosts_prepare(struct hosts *setup, unsigned *hosts)
{
    setup->page =
        mmap(NULL, sizeof(*setup->page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *hosts = 0;
    for (setup->world = 0; setup->count[*hosts] > 0; ++*hosts) {
        setup->fd[*hosts] = memfd_create("host", MFD_CLOEXEC);
        setup->world += setup->count[*hosts];
    }
    return setup->page == MAP_FAILED ? -1 : 0;
}

static inline void hosts_clear(const struct hosts *setup, unsigned hosts)
{
    for (unsigned host = 0; host < hosts; host++)
        (void)close(setup->fd[host]);
    (void)munmap(setup->page, sizeof(*setup->page));
}

/* As ranks_all(). */
static inline int hosts_run_dying(struct hosts setup, hosts_fn *fn, int allowed_signal)
{
    unsigned hosts;
    int line;

    if (hosts_prepare(&setup, &hosts) != 0)
        return -1;
    line = ranks_all(&setup, setup.world, hosts_child, (void (*)(void))fn, allowed_signal);
    hosts_clear(&setup, hosts);
    return line;
}

static inline int hosts_run(struct hosts setup, hosts_fn *fn)
{
    return hosts_run_dying(setup, fn, 0);
}

#endif
