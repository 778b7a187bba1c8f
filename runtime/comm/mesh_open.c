/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mesh_open.c - the contract is in mesh_open.h.
 *
 * One loop over poll(): `calls` are connections to lower ranks, each repeated until it is greeted
 * or time is up; `guests` are connections from anybody, few, each with a deadline.
 */
#include "runtime/comm/mesh_open.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/wire.h"
#include "runtime/comm/greet.h"

#define NS_PER_MS UINT64_C(1000000)
enum { RETRY_MS = 100, BACKLOG = 1024, TURN_MS = 100 };
enum { KEEP_IDLE_S = 10, KEEP_EVERY_S = 5, KEEP_TRIES = 3, UNACKED_MS = 30000 };

/* What a rank tells the others: u8 family (4, 6) | u8 0 | u16 port | u32 node | address | host */
enum { AT_PORT = 2, AT_NODE = 4, AT_ADDRESS = 8, AT_HOST = 24, RECORD_BYTES = 64 };

struct line { /* a connection that is not greeted yet */
    int fd;   /* -1: none */
    bool connecting, ours;
    unsigned rank;     /* ours: whom we call */
    int why;           /* ours: errno of the last failure */
    uint64_t began_ns; /* ours: of the first try; else when it came */
    uint64_t again_ns; /* ours: when to try again */
    struct ds__greet greet;
    uint8_t in[DS_GREET_MAX], out[DS_GREET_MAX];
    size_t got, out_len, sent;
};

struct opening {
    struct ds__mesh *mesh;
    const struct ds_comm_meet *meet;
    int listener;
    unsigned calls, callers; /* still to be connected: by us, by others */
    unsigned lines;          /* calls from 0, guests behind them */
    unsigned first_guest;
    struct line *line;
    struct pollfd *poll;
    uint64_t deadline_ns;
};

/* --- addresses -------------------------------------------------------------------------------- */

/* Numeric text to a socket address with that port; its size, or 0. */
static socklen_t parse_address(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof(*v4);
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1 && !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof(*v6);
    }
    return 0;
}

/* On loopback there is no network whose queues could be spared: congestion control that paces what
 * it sends, as bbr does, only makes ranks wait.  Before a socket listens or connects: what paces
 * once does so for good. */
static void choose_control(int fd, const struct sockaddr_storage *at)
{
    static const char reno[] = "reno";
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)at;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)at;
    bool inside = at->ss_family == AF_INET
                      ? ntohl(v4->sin_addr.s_addr) >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET
                      : IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);

    if (inside)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, reno, sizeof(reno) - 1);
}

static int start_listening(struct opening *opening, uint16_t *port, struct ds_error *err)
{
    const char *address = opening->meet->address;
    struct sockaddr_storage at;
    socklen_t len = parse_address(address, 0, &at);

    if (len == 0)
        return ds_fail(err, EINVAL, "'%s' is not an address to listen on", address);
    opening->listener = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (opening->listener >= 0)
        choose_control(opening->listener, &at);
    if (opening->listener < 0 || bind(opening->listener, (struct sockaddr *)&at, len) != 0 ||
        listen(opening->listener, BACKLOG) != 0 ||
        getsockname(opening->listener, (struct sockaddr *)&at, &len) != 0)
        return ds_fail(err, errno, "rank %u cannot listen on %s of host '%s': %s",
                       opening->mesh->rank, address, opening->meet->host, strerror(errno));
    *port = ntohs(at.ss_family == AF_INET ? ((struct sockaddr_in *)&at)->sin_port
                                          : ((struct sockaddr_in6 *)&at)->sin6_port);
    return 0;
}

static void write_record(const struct ds_comm_meet *meet, uint16_t port,
                         uint8_t record[RECORD_BYTES])
{
    struct sockaddr_storage at;

    (void)parse_address(meet->address, port, &at);
    memset(record, 0, RECORD_BYTES);
    record[0] = at.ss_family == AF_INET ? 4 : 6;
    record[AT_PORT] = (uint8_t)port;
    record[AT_PORT + 1] = (uint8_t)(port >> 8);
    ds_put_u32(record + AT_NODE, meet->node);
    if (at.ss_family == AF_INET)
        memcpy(record + AT_ADDRESS, &((struct sockaddr_in *)&at)->sin_addr, 4);
    else
        memcpy(record + AT_ADDRESS, &((struct sockaddr_in6 *)&at)->sin6_addr, 16);
    (void)strncpy((char *)record + AT_HOST, meet->host, RECORD_BYTES - AT_HOST - 1);
}

static int read_record(const uint8_t *record, unsigned rank, struct ds__mesh_peer *peer,
                       struct ds_error *err)
{
    int family = record[0] == 4 ? AF_INET : AF_INET6;

    peer->node = ds_get_u32(record + AT_NODE);
    peer->port = (uint16_t)(record[AT_PORT] | record[AT_PORT + 1] << 8);
    if ((record[0] != 4 && record[0] != 6) || peer->port == 0 ||
        inet_ntop(family, record + AT_ADDRESS, peer->address, sizeof(peer->address)) == NULL ||
        memchr(record + AT_HOST, '\0', RECORD_BYTES - AT_HOST) == NULL)
        return ds_fail(err, EPROTO, "rank %u tells no address", rank);
    memcpy(peer->host, record + AT_HOST, RECORD_BYTES - AT_HOST);
    return 0;
}

/* Everybody's address. */
static int tell_all(struct opening *opening, uint16_t port, struct ds_error *err)
{
    const struct ds_comm_meet *meet = opening->meet;
    struct ds__mesh *mesh = opening->mesh;
    uint8_t mine[RECORD_BYTES], *all = calloc(mesh->world, RECORD_BYTES);
    int rc;

    if (all == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u addresses", mesh->world);
    write_record(meet, port, mine);
    rc = meet->gather(meet->user, mine, sizeof(mine), all, err);
    for (unsigned rank = 0; rc == 0 && rank < mesh->world; rank++)
        rc = read_record(all + (size_t)rank * RECORD_BYTES, rank, &mesh->peer[rank], err);
    free(all);
    return rc;
}

/* --- one line --------------------------------------------------------------------------------- */

static void hang_up(struct line *line)
{
    if (line->fd >= 0)
        (void)close(line->fd);
    line->fd = -1;
    line->connecting = false;
    line->got = line->out_len = line->sent = 0;
}

/* Our call did not get through: try again in a while. */
static void redial(struct line *line, int why)
{
    hang_up(line);
    line->why = why;
    line->again_ns = ds_clock_mono_ns() + RETRY_MS * NS_PER_MS;
}

static int draw_nonce(uint8_t nonce[DS_GREET_NONCE], struct ds_error *err)
{
    if (getrandom(nonce, DS_GREET_NONCE, 0) == DS_GREET_NONCE)
        return 0;
    return ds_fail(err, EIO, "cannot get random bytes: %s", strerror(errno));
}

static void set_options(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEP_EVERY_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEP_TRIES},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKED_MS},
    };

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof(options[i].value));
}

static int dial(struct opening *opening, struct line *line, struct ds_error *err)
{
    const struct ds__mesh_peer *peer = &opening->mesh->peer[line->rank];
    uint8_t nonce[DS_GREET_NONCE];
    const struct ds__greet_args args = {.key = opening->meet->key,
                                        .nonce = nonce,
                                        .me = opening->mesh->rank,
                                        .world = opening->mesh->world,
                                        .peer = line->rank};
    struct sockaddr_storage from, to;
    socklen_t from_len = parse_address(opening->meet->address, 0, &from);
    socklen_t len = parse_address(peer->address, peer->port, &to);
    int rc = draw_nonce(nonce, err);

    if (rc != 0)
        return rc;
    line->fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (line->fd < 0)
        return ds_fail(err, errno, "cannot create a socket: %s", strerror(errno));
    set_options(line->fd);
    choose_control(line->fd, &to);
    ds__greet_connect(&line->greet, &args, line->out, &line->out_len);
    line->connecting = true;
    /* From the chosen address, too: what two networks of a host are for is the user's to say. */
    if ((from.ss_family == to.ss_family &&
         bind(line->fd, (struct sockaddr *)&from, from_len) != 0) ||
        (connect(line->fd, (struct sockaddr *)&to, len) != 0 && errno != EINPROGRESS))
        redial(line, errno);
    return 0;
}

static void adopt(struct opening *opening, struct line *line)
{
    opening->mesh->fd[line->greet.peer] = line->fd;
    line->fd = -1;
    if (line->ours)
        opening->calls--;
    else
        opening->callers--;
    hang_up(line);
}

/* A listener's last word: is the one who proved itself awaited? */
static bool awaited(const struct opening *opening, unsigned rank)
{
    const struct ds__mesh *mesh = opening->mesh;

    return mesh->fd[rank] < 0 && mesh->peer[rank].node != opening->meet->node;
}

static void turn_away(struct opening *opening, struct line *line)
{
    opening->mesh->refused++;
    hang_up(line);
}

/* Send what is left to say.  False: the line is gone. */
static bool flush(struct line *line)
{
    while (line->sent < line->out_len) {
        ssize_t n =
            send(line->fd, line->out + line->sent, line->out_len - line->sent, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        line->sent += (size_t)n;
    }
    return true;
}

/* Read one message and answer it: 1 go on, 0 wait, negative: the line is no good. */
static int converse(struct opening *opening, struct line *line)
{
    ssize_t n = recv(line->fd, line->in + line->got, line->greet.want - line->got, 0);
    int rc;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET;
    line->got += (size_t)n;
    if (line->got < line->greet.want)
        return 0;
    line->got = line->sent = 0;
    rc = ds__greet_take(&line->greet, line->in, line->out, &line->out_len, NULL);
    if (rc == 0 && line->greet.done && !line->ours && !awaited(opening, line->greet.peer))
        rc = -EEXIST;
    return rc == 0 ? 1 : rc;
}

static void on_line(struct opening *opening, struct line *line)
{
    int rc = 1, error = 0;
    socklen_t len = sizeof(error);

    if (line->connecting) {
        (void)getsockopt(line->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        line->connecting = false;
        rc = error == 0 ? 1 : -error;
    }
    while (rc > 0) {
        if (!flush(line))
            rc = -ECONNRESET;
        else if (line->sent < line->out_len)
            rc = 0;
        else if (line->greet.done) {
            adopt(opening, line);
            return;
        } else
            rc = converse(opening, line);
    }
    if (rc < 0 && line->ours)
        redial(line, -rc);
    else if (rc < 0)
        turn_away(opening, line);
}

/* --- guests ----------------------------------------------------------------------------------- */

/* A free place, or that of the guest who has been greeting for longest. */
static struct line *guest_place(struct opening *opening)
{
    struct line *oldest = &opening->line[opening->first_guest];

    for (unsigned i = opening->first_guest; i < opening->lines; i++) {
        struct line *line = &opening->line[i];

        if (line->fd < 0)
            return line;
        if (line->began_ns < oldest->began_ns)
            oldest = line;
    }
    turn_away(opening, oldest);
    return oldest;
}

static int welcome_guests(struct opening *opening, struct ds_error *err)
{
    for (unsigned i = 0; i < DS_MESH_GUESTS; i++) {
        uint8_t nonce[DS_GREET_NONCE];
        const struct ds__greet_args args = {.key = opening->meet->key,
                                            .nonce = nonce,
                                            .me = opening->mesh->rank,
                                            .world = opening->mesh->world};
        int fd = accept4(opening->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct line *line;
        int rc;

        if (fd < 0) /* gone again, or out of files: strangers' connections end in time */
            return 0;
        line = guest_place(opening);
        *line = (struct line){.fd = fd, .began_ns = ds_clock_mono_ns()};
        set_options(fd);
        rc = draw_nonce(nonce, err);
        if (rc != 0)
            return rc;
        ds__greet_listen(&line->greet, &args);
    }
    return 0;
}

/* --- all together ----------------------------------------------------------------------------- */

static int give_up(const struct opening *opening, const struct line *line, struct ds_error *err)
{
    char me[DS_MESH_NAME], other[DS_MESH_NAME];
    const struct ds__mesh *mesh = opening->mesh;
    int why = line->why != 0 ? line->why : ETIMEDOUT;

    (void)ds__mesh_name(mesh, mesh->rank, me);
    (void)ds__mesh_name(mesh, line->rank, other);
    if (why == EACCES || why == EPROTO)
        return ds_fail(err, EKEYREJECTED,
                       "%s reached port %u of %s, who does not hold this job's key", me,
                       mesh->peer[line->rank].port, other);
    return ds_fail(err, EHOSTUNREACH, "%s cannot reach %s, port %u: %s; see 'launch.interface'", me,
                   other, mesh->peer[line->rank].port, strerror(why));
}

/* The pair's other end says the same of it at about the same time: whoever is heard first, the job
 * ends with one code. */
static int missing_caller(const struct opening *opening, struct ds_error *err)
{
    char me[DS_MESH_NAME], other[DS_MESH_NAME];
    const struct ds__mesh *mesh = opening->mesh;
    unsigned rank = mesh->rank + 1;

    while (rank + 1 < mesh->world && !awaited(opening, rank))
        rank++;
    return ds_fail(err, EHOSTUNREACH,
                   "%s was not reached by %s within %u ms; see 'launch.interface'",
                   ds__mesh_name(mesh, mesh->rank, me), ds__mesh_name(mesh, rank, other),
                   opening->meet->timeout_ms);
}

/* Deadlines of calls and guests, and calls that are due. */
static int on_time(struct opening *opening, struct ds_error *err)
{
    uint64_t now = ds_clock_mono_ns();
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < opening->lines; i++) {
        struct line *line = &opening->line[i];
        bool wanted = line->ours && opening->mesh->fd[line->rank] < 0;
        uint64_t patience = line->why == ECONNREFUSED ? DS_MESH_REFUSED_MS * NS_PER_MS
                                                      : opening->deadline_ns - line->began_ns;

        if (wanted &&
            (line->why == EACCES || line->why == EPROTO || now >= line->began_ns + patience))
            rc = give_up(opening, line, err);
        else if (wanted && line->fd < 0 && now >= line->again_ns)
            rc = dial(opening, line, err);
        else if (!line->ours && line->fd >= 0 &&
                 now >= line->began_ns + DS_MESH_PATIENCE_MS * NS_PER_MS)
            turn_away(opening, line);
    }
    if (rc == 0 && now >= opening->deadline_ns)
        rc = missing_caller(opening, err);
    return rc;
}

static int turn(struct opening *opening, struct ds_error *err)
{
    int n, rc = 0;

    opening->poll[0] = (struct pollfd){.fd = opening->listener, .events = POLLIN};
    for (unsigned i = 0; i < opening->lines; i++) {
        const struct line *line = &opening->line[i];
        bool talks = line->connecting || line->sent < line->out_len;

        opening->poll[i + 1] = (struct pollfd){.fd = line->fd, .events = talks ? POLLOUT : POLLIN};
    }
    do
        n = poll(opening->poll, opening->lines + 1, TURN_MS);
    while (n < 0 && errno == EINTR);
    for (unsigned i = 0; n > 0 && i < opening->lines; i++)
        if (opening->poll[i + 1].revents != 0)
            on_line(opening, &opening->line[i]);
    if (n > 0 && opening->poll[0].revents != 0)
        rc = welcome_guests(opening, err);
    return rc;
}

static int make_lines(struct opening *opening, struct ds_error *err)
{
    const struct ds__mesh *mesh = opening->mesh;
    uint64_t now = ds_clock_mono_ns();
    unsigned next = 0;

    for (unsigned rank = 0; rank < mesh->world; rank++)
        if (mesh->peer[rank].node != opening->meet->node)
            *(rank < mesh->rank ? &opening->calls : &opening->callers) += 1;
    opening->first_guest = opening->calls;
    opening->lines = opening->calls + DS_MESH_GUESTS;
    opening->line = calloc(opening->lines, sizeof(*opening->line));
    opening->poll = calloc((size_t)opening->lines + 1, sizeof(*opening->poll));
    if (opening->line == NULL || opening->poll == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u connections", opening->lines);
    for (unsigned i = 0; i < opening->lines; i++)
        opening->line[i].fd = -1;
    for (unsigned rank = 0; rank < mesh->rank; rank++)
        if (mesh->peer[rank].node != opening->meet->node)
            opening->line[next++] =
                (struct line){.fd = -1, .ours = true, .rank = rank, .began_ns = now};
    opening->deadline_ns = now + opening->meet->timeout_ms * NS_PER_MS;
    return 0;
}

int ds__mesh_connect(struct ds__mesh *mesh, const struct ds_comm_meet *meet, struct ds_error *err)
{
    struct opening opening = {.mesh = mesh, .meet = meet, .listener = -1};
    uint16_t port = 0;
    int rc = start_listening(&opening, &port, err);

    if (rc == 0)
        rc = tell_all(&opening, port, err);
    if (rc == 0)
        rc = make_lines(&opening, err);
    while (rc == 0 && opening.calls + opening.callers > 0) {
        rc = on_time(&opening, err);
        if (rc == 0)
            rc = turn(&opening, err);
    }
    for (unsigned i = 0; opening.line != NULL && i < opening.lines; i++)
        hang_up(&opening.line[i]);
    if (opening.listener >= 0)
        (void)close(opening.listener);
    free(opening.line);
    free(opening.poll);
    return rc;
}
