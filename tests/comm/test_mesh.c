/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_mesh - strangers on the listening socket, pairs that cannot meet, and peers that are lost.
 *
 * A rank's `intrude` runs when addresses are known and rank 0 listens: there the stranger speaks.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "runtime/comm/greet.h"
#include "tests/comm/hosts.h"
#include "tests/comm/signalled.h"

enum { ELEMS = 1 << 20, LORIS = 200, END_MS = 20000 };

static struct hosts setup_of(void (*intrude)(const struct hosts_seat *, uint8_t (*)[HOSTS_RECORD]))
{
    return (struct hosts){.count = {1, 1, 1},
                          .arena_bytes = ELEMS * sizeof(float),
                          .timeout_ms = 60000,
                          .intrude = intrude};
}

/* --- what a stranger does --------------------------------------------------------------------- */

static int call(uint8_t (*record)[HOSTS_RECORD], unsigned rank)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(&to.sin_port, record[rank] + 2, 2);
    to.sin_port = htons(to.sin_port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        abort();
    return fd;
}

/* The other side hung up, without another word. */
static void expect_end(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    char byte;

    if (poll(&wait, 1, END_MS) != 1 || recv(fd, &byte, 1, 0) > 0)
        abort();
    (void)close(fd);
}

static void say(int fd, const void *bytes, size_t len)
{
    if (send(fd, bytes, len, MSG_NOSIGNAL) != (ssize_t)len)
        abort();
}

static size_t hear(int fd, uint8_t *bytes, size_t len)
{
    return recv(fd, bytes, len, MSG_WAITALL) == (ssize_t)len ? len : 0;
}

static void garbage(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    static const char text[] =
        "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: a scanner of ports, no rank\r\n";
    int fd;

    if (seat->rank != 2)
        return;
    fd = call(record, 0);
    say(fd, text, sizeof(text) - 1);
    expect_end(fd);
    (void)close(call(record, 0)); /* and one who says nothing and goes */
}

static struct ds__greet start_greeting(int fd, const uint8_t *key, unsigned me, unsigned world)
{
    static const uint8_t nonce[DS_GREET_NONCE] = "a stranger's";
    const struct ds__greet_args args = {
        .key = key, .nonce = nonce, .me = me, .world = world, .peer = 0};
    struct ds__greet greet;
    uint8_t out[DS_GREET_MAX];
    size_t len;

    ds__greet_connect(&greet, &args, out, &len);
    say(fd, out, len);
    return greet;
}

static void wrong_key(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    static const uint8_t guess[DS_COMM_KEY_BYTES] = "a guess";
    uint8_t in[DS_GREET_MAX], proof[DS_GREET_MAC] = {1};
    int fd;

    if (seat->rank != 2)
        return;
    fd = call(record, 0);
    (void)start_greeting(fd, guess, 2, 3);
    if (hear(fd, in, sizeof(in)) == 0)
        abort();
    say(fd, proof, sizeof(proof));
    expect_end(fd);
}

/* HELLO and PROOF of a conversation that was good once. */
static void replay(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    static const uint8_t nonce[DS_GREET_NONCE] = "the listener's, of another day";
    const struct ds__greet_args args = {.key = hosts_key, .nonce = nonce, .me = 0, .world = 3};
    const struct ds__greet_args mine = {
        .key = hosts_key, .nonce = nonce, .me = 2, .world = 3, .peer = 0};
    uint8_t hello[DS_GREET_MAX], challenge[DS_GREET_MAX], proof[DS_GREET_MAX];
    struct ds__greet from, to;
    size_t len;
    int fd;

    if (seat->rank != 2)
        return;
    ds__greet_connect(&from, &mine, hello, &len);
    ds__greet_listen(&to, &args);
    if (ds__greet_take(&to, hello, challenge, &len, NULL) != 0 ||
        ds__greet_take(&from, challenge, proof, &len, NULL) != 0)
        abort();
    fd = call(record, 0);
    say(fd, hello, DS_GREET_HELLO);
    if (hear(fd, challenge, DS_GREET_MAX) == 0)
        abort();
    say(fd, proof, DS_GREET_MAC);
    expect_end(fd);
}

/* Rank 1 is there already; one who holds the key, even, is not a second rank 1. */
static void duplicate(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    uint8_t in[DS_GREET_MAX], out[DS_GREET_MAX];
    struct ds__greet greet;
    struct timespec nap = {.tv_sec = 1};
    size_t len;
    int fd;

    if (seat->rank != 2)
        return;
    (void)nanosleep(&nap, NULL); /* rank 1 needs a moment to connect; it has nothing else to do */
    fd = call(record, 0);
    greet = start_greeting(fd, hosts_key, 1, 3);
    if (hear(fd, in, DS_GREET_MAX) == 0 || ds__greet_take(&greet, in, out, &len, NULL) != 0)
        abort();
    say(fd, out, len);
    expect_end(fd); /* no WELCOME */
}

/* More connections than there are places, each with one byte, all kept open. */
static void slow_loris(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    if (seat->rank != 2)
        return;
    for (unsigned i = 0; i < LORIS; i++)
        say(call(record, 0), "D", 1);
}

static int rank_works(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    float *buf = ds_comm_arena(comm);
    struct ds_error err = {0};

    for (size_t i = 0; i < ELEMS; i++)
        buf[i] = (float)rank;
    EXPECT_OK(ds_comm_all_reduce_f32(comm, buf, ELEMS, &err), &err);
    EXPECT(buf[0] == 3 && buf[ELEMS - 1] == 3);
    return 0;
}

Test(mesh, strangers_do_not_disturb)
{
    cr_assert_eq(hosts_run(setup_of(garbage), rank_works), 0);
    cr_assert_eq(hosts_run(setup_of(wrong_key), rank_works), 0);
    cr_assert_eq(hosts_run(setup_of(replay), rank_works), 0);
    cr_assert_eq(hosts_run(setup_of(slow_loris), rank_works), 0);
}

Test(mesh, a_rank_is_there_once)
{
    cr_assert_eq(hosts_run(setup_of(duplicate), rank_works), 0);
}

/* A guest that says too little is sent away in time, also when nobody needs its place. */
static void lone_loris(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    int fd;

    if (seat->rank != 2)
        return;
    fd = call(record, 0);
    say(fd, "D", 1);
    expect_end(fd);
}

Test(mesh, who_says_nothing_is_sent_away)
{
    cr_assert_eq(hosts_run(setup_of(lone_loris), rank_works), 0);
}

/* --- pairs that cannot meet ------------------------------------------------------------------- */

typedef int open_fn(const struct hosts *setup, unsigned rank, int rc, const struct ds_error *err);

/* As hosts_run(), but opening is what is looked at. */
static int try_opening(const struct hosts *setup, unsigned rank, open_fn *fn, const uint8_t *key)
{
    struct hosts_seat seat = {.setup = setup, .rank = rank};
    struct ds_comm_args args = hosts_args(&seat);
    struct ds_error err = {0};
    struct ds_comm *comm = NULL;
    int rc;

    if (key != NULL)
        seat.meet.key = key;
    rc = ds_comm_open(&comm, &args, &err);
    return fn(setup, rank, rc, &err);
}

static int run_openings(struct hosts setup, open_fn *fn, const uint8_t *key_of_1)
{
    int status, bad = 0;

    setup.page =
        mmap(NULL, sizeof(*setup.page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    setup.world = 2;
    setup.fd[0] = setup.fd[1] = -1;
    for (unsigned rank = 0; rank < 2; rank++)
        if (fork() == 0) {
            (void)alarm(RANKS_LIMIT_S);
            ranks_exit(try_opening(&setup, rank, fn, rank == 1 ? key_of_1 : NULL) != 0);
        }
    while (wait(&status) > 0)
        bad |= status;
    (void)munmap(setup.page, sizeof(*setup.page));
    return bad;
}

static int see_other_key(const struct hosts *setup, unsigned rank, int rc,
                         const struct ds_error *err)
{
    if (rank == 1) {
        EXPECT(rc == -EKEYREJECTED);
        EXPECT(strstr(err->text, "rank 1 on 'h1' (127.0.0.1) reached port ") != NULL);
        EXPECT(strstr(err->text, "rank 0 on 'h0' (127.0.0.1), who does not hold this job's key") !=
               NULL);
    } else {
        EXPECT(rc == -EHOSTUNREACH);
        EXPECT(strstr(err->text, "rank 0 on 'h0' (127.0.0.1) was not reached by rank 1 on 'h1'") !=
               NULL);
    }
    return 0;
}

Test(mesh, a_rank_with_another_key_is_named)
{
    static const uint8_t other[DS_COMM_KEY_BYTES] = "another";
    struct hosts setup = {.count = {1, 1}, .open_ms = 1000};

    cr_assert_eq(run_openings(setup, see_other_key, other), 0);
}

/* Rank 1 is told a port where nobody listens. */
static void wrong_port(const struct hosts_seat *seat, uint8_t (*record)[HOSTS_RECORD])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (seat->rank != 1)
        return;
    if (bind(fd, (struct sockaddr *)&at, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        abort();
    at.sin_port = ntohs(at.sin_port);
    memcpy(record[0] + 2, &at.sin_port, 2);
}

static int see_unreachable(const struct hosts *setup, unsigned rank, int rc,
                           const struct ds_error *err)
{
    EXPECT(rc == -EHOSTUNREACH); /* whoever of the pair tells */
    if (rank == 1) {
        EXPECT(strstr(err->text, "rank 1 on 'h1' (127.0.0.1) cannot reach rank 0 on 'h0' "
                                 "(127.0.0.1), port ") != NULL);
        EXPECT(strstr(err->text, "Connection refused; see 'launch.interface'") != NULL);
    }
    return 0;
}

Test(mesh, the_pair_that_cannot_meet_is_named)
{
    struct hosts setup = {.count = {1, 1}, .open_ms = 4000, .intrude = wrong_port};

    cr_assert_eq(run_openings(setup, see_unreachable, NULL), 0);
}

/* --- peers that are lost ---------------------------------------------------------------------- */

static int see_loss(const struct hosts *setup, unsigned rank, struct ds_comm *comm, unsigned which)
{
    float *buf = ds_comm_arena(comm);
    struct ds_error err = {0};
    int rc = 0;

    (void)which;
    for (unsigned i = 0; rc == 0 && i < 1000; i++)
        rc = ds_comm_all_reduce_f32(comm, buf, ELEMS, &err);
    EXPECT(rc == -ECONNRESET || rc == -ECANCELED);
    if (rc == -ECONNRESET)
        EXPECT(strstr(err.text, "all_reduce_f32: rank ") != NULL &&
               strstr(err.text, " is gone: ") != NULL);
    EXPECT(ds_comm_barrier(comm, &err) == -ECANCELED); /* for good */
    return 0;
}

#ifndef RANKS_AS_THREADS
static int rank_killed(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 1) {
        EXPECT_OK(ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err), &err);
        (void)raise(SIGKILL);
    }
    return see_loss(setup, rank, comm, 1);
}
#endif

static int rank_aborts(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 1) {
        EXPECT_OK(ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err), &err);
        ds_comm_abort(comm);
    }
    return see_loss(setup, rank, comm, 1);
}

Test(mesh, a_peer_that_dies_or_ends_is_known_everywhere)
{
    static const unsigned counts[][RANKS_MAX + 1] = {{1, 1}, {1, 1, 1}, {2, 2}, {2, 1}};

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct hosts setup = setup_of(NULL);

        memcpy(setup.count, counts[i], sizeof(setup.count));
#ifndef RANKS_AS_THREADS
        if (setup.count[0] == 1) /* whoever shares a host with the dead is told by the launcher */
            cr_assert_eq(hosts_run_dying(setup, rank_killed, SIGKILL), 0, "killed, %zu", i);
#endif
        cr_assert_eq(hosts_run(setup, rank_aborts), 0, "aborts, %zu", i);
    }
}

/* Rank 1 stays away: named, after the deadline and not before others do. */
static int rank_absent(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};
    int rc;

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 1) {
        while (atomic_load(&setup->page->word[0]) == 0)
            hosts_nap();
        return 0;
    }
    rc = ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), 100, &err);
    if (rc == -ETIMEDOUT) {
        EXPECT(strstr(err.text, "rank 1 on 'h1' (127.0.0.1) did not come to all_reduce_f32 of 400 "
                                "bytes within 300 ms") != NULL);
        atomic_store(&setup->page->word[0], 1);
    } else {
        EXPECT(rc == -ECONNRESET || rc == -ECANCELED);
    }
    return 0;
}

Test(mesh, a_peer_that_stays_away_is_named)
{
    struct hosts setup = setup_of(NULL);

    setup.timeout_ms = 300;
    cr_assert_eq(hosts_run(setup, rank_absent), 0);
}

static int rank_disagrees(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    float *buf = ds_comm_arena(comm);
    struct ds_error err = {0};
    int rc = rank == 0 ? ds_comm_all_reduce_f32(comm, buf, 300, &err)
                       : ds_comm_reduce_scatter_f32(comm, buf, 600, &err);

    EXPECT(rc == -EPROTO || rc == -ECONNRESET || rc == -ECANCELED);
    if (rc == -EPROTO && rank == 0)
        EXPECT(strstr(err.text, "rank 0 calls all_reduce_f32 of 1200 bytes (root 0), rank ") &&
               strstr(err.text, " calls reduce_scatter of 2400 bytes (root 0)"));
    EXPECT(rank != 0 || rc == -EPROTO || rc == -ECONNRESET);
    return 0;
}

Test(mesh, ranks_that_disagree_are_told)
{
    cr_assert_eq(hosts_run(setup_of(NULL), rank_disagrees), 0);
}

static int rank_signal(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};

    if (rank != 0) {
        while (atomic_load(&setup->page->word[0]) == 0)
            hosts_nap();
        return 0;
    }
    EXPECT(signalled_barrier(comm, &err) == -ECANCELED);
    EXPECT(strstr(err.text, "barrier was stopped") != NULL);
    atomic_store(&setup->page->word[0], 1);
    return 0;
}

Test(mesh, abort_from_a_signal_handler_ends_a_wait_for_the_network)
{
    struct hosts setup = setup_of(NULL);

    setup.timeout_ms = 0;
    cr_assert_eq(hosts_run(setup, rank_signal), 0);
}
