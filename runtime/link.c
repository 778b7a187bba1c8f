/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * link.c - the contract is in link.h.
 *
 * Writers share one buffer that is made at open, so a step that reports allocates nothing.  The
 * reading thread owns the input buffer after open.  A flush is a BEAT frame that wants an ACK; acks
 * come in the order of the requests, so two counters are all the bookkeeping.
 */
#include "runtime/link.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/rendezvous.h"
#include "base/wire.h"

enum { READ_CHUNK = 64 * 1024, MAX_INPUT = DS_MAX_FRAME_BYTES + DS_WIRE_HEADER_BYTES + READ_CHUNK };

struct ds_link {
    int fd;
    uint32_t rank;
    struct ds_buf in;         /* of the reading thread */
    pthread_mutex_t out_lock; /* guards out and the order of frames on the line */
    struct ds_buf out;
    uint64_t last_step; /* of the last beat, under out_lock */
    enum ds_wire_phase phase;
    pthread_t reader;
    bool reading;
    pthread_mutex_t lock; /* guards the members below */
    pthread_cond_t changed;
    uint64_t asked, acked;
    bool over, closing;
    const char *wanted;    /* the key that a ds_link_get() waits for, or NULL */
    uint32_t wanted_count; /* of it */
    struct ds_buf answer;  /* what it gets; empty: nothing yet */
    void (*on_abort)(void *user);
    void *user;
    void (*where)(void *user, char *out, size_t cap);
    void *where_user;
    atomic_bool stop;
};

/* The one global a signal handler needs. */
static volatile sig_atomic_t signal_seen;

static void on_signal(int signum)
{
    (void)signum;
    signal_seen = 1;
}

static int install_signals(struct ds_error *err)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    (void)sigemptyset(&action.sa_mask);
    signal_seen = 0;
    if (sigaction(SIGTERM, &action, NULL) != 0 || sigaction(SIGINT, &action, NULL) != 0)
        return ds_fail(err, errno, "cannot catch SIGTERM and SIGINT");
    return 0;
}

/* More bytes into link->in; -ECANCELED at the end of the line. */
static int receive(struct ds_link *link, struct ds_error *err)
{
    void *room = ds_buf_reserve(&link->in, READ_CHUNK);
    ssize_t got;

    if (room == NULL)
        return ds_fail(err, ENOBUFS, "a frame from the agent does not fit in memory");
    do
        got = recv(link->fd, room, READ_CHUNK, 0);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return ds_fail(err, ECANCELED, "the line to the agent has ended");
    ds_buf_commit(&link->in, (size_t)got);
    return 0;
}

static int receive_spec(struct ds_link *link, struct ds_buf *spec, struct ds_error *err)
{
    struct ds_frame frame;
    size_t used;
    int rc;

    for (;;) {
        rc = ds_wire_decode(link->in.data, link->in.len, &frame, &used, err);
        if (rc < 0)
            return rc;
        if (rc > 0)
            break;
        if ((rc = receive(link, err)) != 0)
            return rc;
    }
    if (frame.type != DS_WIRE_SPEC)
        return ds_fail(err, EPROTO, "the agent's first frame is not SPEC");
    if (ds_buf_put(spec, frame.payload, frame.len) != 0)
        return ds_fail(err, ENOBUFS, "a job of %u bytes is too large", frame.len);
    ds_buf_consume(&link->in, used);
    return 0;
}

/* The job is over for this rank: wake who waits, tell the one who asked to be told.  That is done
 * under the lock, so that who takes the wish back knows that nobody is told any more. */
static void end_line(struct ds_link *link)
{
    (void)pthread_mutex_lock(&link->lock);
    if (!link->over && !link->closing && link->on_abort != NULL)
        link->on_abort(link->user);
    link->over = true;
    (void)pthread_cond_broadcast(&link->changed);
    (void)pthread_mutex_unlock(&link->lock);
}

static int send_all(int fd, const char *bytes, size_t len, struct ds_error *err)
{
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return ds_fail(err, ECANCELED, "the line to the agent has ended");
        bytes += sent;
        len -= (size_t)sent;
    }
    return 0;
}

/* out_lock is held. */
static int send_frame(struct ds_link *link, enum ds_wire_type type, uint16_t flags,
                      const void *payload, size_t len, struct ds_error *err)
{
    const struct ds_frame frame = {.type = (uint16_t)type,
                                   .flags = flags,
                                   .rank = link->rank,
                                   .payload = payload,
                                   .len = (uint32_t)len};
    int rc;

    if (len > DS_MAX_FRAME_BYTES)
        return ds_fail(err, EMSGSIZE, "a report of %zu bytes does not fit in a frame", len);
    ds_buf_reset(&link->out);
    rc = ds_wire_encode(&link->out, &frame);
    if (rc != 0)
        return ds_fail(err, -rc, "cannot encode a frame for the agent");
    return send_all(link->fd, link->out.data, link->out.len, err);
}

/* Say where this rank is.  A line that has ended needs no answer. */
static void answer_where(struct ds_link *link)
{
    static const char *const phases[DS_PHASES] = {"step",      "evaluate",  "save",
                                                  "disk full", "no memory", "comm"};
    char at[128] = "", json[256];

    (void)pthread_mutex_lock(&link->lock);
    if (link->where != NULL)
        link->where(link->where_user, at, sizeof(at));
    (void)pthread_mutex_unlock(&link->lock);
    (void)pthread_mutex_lock(&link->out_lock);
    (void)snprintf(json, sizeof(json),
                   "{\"event\":\"where\",\"rank\":%u,\"step\":%llu,\"phase\":\"%s\",\"at\":\"%s\"}",
                   link->rank, (unsigned long long)link->last_step, phases[link->phase], at);
    (void)send_frame(link, DS_WIRE_EVENT, 0, json, strlen(json), NULL);
    (void)pthread_mutex_unlock(&link->out_lock);
}

/* lock is held: not so for an answer that came too late.  What is no answer at all is for whoever
 * waits to refuse. */
static bool is_wanted(const struct ds_link *link, const struct ds_frame *frame)
{
    struct ds_store_note note;

    if (link->wanted == NULL || link->answer.len > 0)
        return false;
    if (ds_store_note_get(frame->payload, frame->len, &note, NULL) != 0)
        return true;
    return note.count == link->wanted_count && note.key_bytes == strlen(link->wanted) &&
           memcmp(note.key, link->wanted, note.key_bytes) == 0;
}

static void take_answer(struct ds_link *link, const struct ds_frame *frame)
{
    (void)pthread_mutex_lock(&link->lock);
    if (is_wanted(link, frame))
        (void)ds_buf_put(&link->answer, frame->payload, frame->len);
    (void)pthread_cond_broadcast(&link->changed);
    (void)pthread_mutex_unlock(&link->lock);
}

static void take_frame(struct ds_link *link, const struct ds_frame *frame)
{
    uint32_t signum = 0;

    if (frame->type == DS_WIRE_ACK) {
        (void)pthread_mutex_lock(&link->lock);
        link->acked++;
        (void)pthread_cond_broadcast(&link->changed);
        (void)pthread_mutex_unlock(&link->lock);
        return;
    }
    if (frame->type == DS_WIRE_STORE) {
        take_answer(link, frame);
        return;
    }
    if (frame->type == DS_WIRE_SIGNAL && frame->len == sizeof(signum))
        signum = ds_get_u32(frame->payload);
    if (signum == DS_SIGNAL_STOP)
        atomic_store(&link->stop, true);
    else if (signum == DS_SIGNAL_WHERE)
        answer_where(link);
    else if (signum == DS_SIGNAL_ABORT)
        end_line(link);
}

static void *read_frames(void *arg)
{
    struct ds_link *link = arg;
    struct ds_frame frame;
    size_t used;
    int rc = 0;

    for (;;) {
        rc = ds_wire_decode(link->in.data, link->in.len, &frame, &used, NULL);
        if (rc < 0)
            break;
        if (rc > 0) {
            take_frame(link, &frame);
            ds_buf_consume(&link->in, used);
        } else if (receive(link, NULL) != 0) {
            break;
        }
    }
    end_line(link);
    return NULL;
}

/* Start the reading thread with every signal blocked: they belong to the main thread. */
static int start_reader(struct ds_link *link, struct ds_error *err)
{
    sigset_t all, before;
    int rc;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&link->reader, NULL, read_frames, link);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return ds_fail(err, rc, "cannot start the thread that reads from the agent");
    link->reading = true;
    return 0;
}

int ds_link_open(struct ds_link **out, int fd, uint32_t rank, struct ds_buf *spec,
                 struct ds_error *err)
{
    struct ds_link *link = calloc(1, sizeof(*link));
    int rc;

    *out = NULL;
    if (link == NULL) {
        (void)close(fd);
        return ds_fail(err, ENOMEM, "no memory for the line to the agent");
    }
    link->fd = fd;
    link->rank = rank;
    ds_buf_init(&link->in, MAX_INPUT);
    ds_buf_init(&link->out, MAX_INPUT);
    ds_buf_init(&link->answer, DS_MAX_FRAME_BYTES);
    (void)pthread_mutex_init(&link->out_lock, NULL);
    (void)pthread_mutex_init(&link->lock, NULL);
    (void)pthread_cond_init(&link->changed, NULL);
    rc = ds_buf_reserve(&link->out, READ_CHUNK) == NULL
             ? ds_fail(err, ENOMEM, "no memory for the line to the agent")
             : install_signals(err);
    if (rc == 0)
        rc = receive_spec(link, spec, err);
    if (rc == 0)
        rc = start_reader(link, err);
    if (rc != 0) {
        ds_link_close(link);
        return rc;
    }
    *out = link;
    return 0;
}

void ds_link_close(struct ds_link *link)
{
    if (link == NULL)
        return;
    if (link->reading) {
        (void)pthread_mutex_lock(&link->lock);
        link->closing = true;
        (void)pthread_mutex_unlock(&link->lock);
        (void)shutdown(link->fd, SHUT_RD); /* what was written still arrives */
        (void)pthread_join(link->reader, NULL);
    }
    (void)close(link->fd);
    (void)pthread_cond_destroy(&link->changed);
    (void)pthread_mutex_destroy(&link->lock);
    (void)pthread_mutex_destroy(&link->out_lock);
    ds_buf_release(&link->in);
    ds_buf_release(&link->out);
    if (link->answer.data != NULL)
        explicit_bzero(link->answer.data, link->answer.cap); /* it may hold the job's key */
    ds_buf_release(&link->answer);
    free(link);
}

void ds_link_on_abort(struct ds_link *link, void (*on_abort)(void *user), void *user)
{
    bool over;

    (void)pthread_mutex_lock(&link->lock);
    over = link->over && !link->closing;
    link->on_abort = on_abort;
    link->user = user;
    (void)pthread_mutex_unlock(&link->lock);
    if (over && on_abort != NULL)
        on_abort(user);
}

static int send_text(struct ds_link *link, enum ds_wire_type type, const char *json,
                     struct ds_error *err)
{
    int rc;

    (void)pthread_mutex_lock(&link->out_lock);
    rc = send_frame(link, type, 0, json, strlen(json), err);
    (void)pthread_mutex_unlock(&link->out_lock);
    return rc;
}

int ds_link_metric(struct ds_link *link, const char *json, struct ds_error *err)
{
    return send_text(link, DS_WIRE_METRIC, json, err);
}

int ds_link_event(struct ds_link *link, const char *json, struct ds_error *err)
{
    return send_text(link, DS_WIRE_EVENT, json, err);
}

/* A beat; with WANT_ACK it also counts as a question, under out_lock so that answers match. */
static int send_beat(struct ds_link *link, uint16_t flags, uint64_t *ticket, struct ds_error *err)
{
    uint8_t payload[DS_WIRE_BEAT_BYTES];

    ds_put_u64(payload, link->last_step);
    ds_put_u32(payload + 8, (uint32_t)link->phase);
    if (ticket != NULL) {
        (void)pthread_mutex_lock(&link->lock);
        *ticket = ++link->asked;
        (void)pthread_mutex_unlock(&link->lock);
    }
    return send_frame(link, DS_WIRE_BEAT, flags, payload, sizeof(payload), err);
}

int ds_link_beat(struct ds_link *link, uint64_t step, struct ds_error *err)
{
    int rc;

    (void)pthread_mutex_lock(&link->out_lock);
    link->last_step = step;
    link->phase = DS_PHASE_STEP;
    rc = send_beat(link, 0, NULL, err);
    (void)pthread_mutex_unlock(&link->out_lock);
    return rc;
}

int ds_link_phase(struct ds_link *link, enum ds_wire_phase phase, struct ds_error *err)
{
    int rc;

    (void)pthread_mutex_lock(&link->out_lock);
    link->phase = phase;
    rc = send_beat(link, 0, NULL, err);
    (void)pthread_mutex_unlock(&link->out_lock);
    return rc;
}

void ds_link_on_where(struct ds_link *link, void (*where)(void *user, char *out, size_t cap),
                      void *user)
{
    (void)pthread_mutex_lock(&link->lock);
    link->where = where;
    link->where_user = user;
    (void)pthread_mutex_unlock(&link->lock);
}

int ds_link_flush(struct ds_link *link, struct ds_error *err)
{
    uint64_t ticket = 0;
    int rc;

    (void)pthread_mutex_lock(&link->out_lock);
    rc = send_beat(link, DS_WIRE_WANT_ACK, &ticket, err);
    (void)pthread_mutex_unlock(&link->out_lock);
    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&link->lock);
    while (!link->over && link->acked < ticket)
        (void)pthread_cond_wait(&link->changed, &link->lock);
    if (link->acked < ticket)
        rc = ds_fail(err, ECANCELED, "the line to the agent has ended");
    (void)pthread_mutex_unlock(&link->lock);
    return rc;
}

/* The time in `timeout_ms` as the condition variable counts it. */
static struct timespec deadline(unsigned timeout_ms)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return until;
}

bool ds_link_wait_over(struct ds_link *link, unsigned timeout_ms)
{
    struct timespec until = deadline(timeout_ms);
    bool over;

    (void)pthread_mutex_lock(&link->lock);
    while (!link->over && pthread_cond_timedwait(&link->changed, &link->lock, &until) == 0)
        continue;
    over = link->over;
    (void)pthread_mutex_unlock(&link->lock);
    return over;
}

/* --- rendezvous ------------------------------------------------------------------------------- */

static int send_note(struct ds_link *link, const struct ds_store_note *note, struct ds_error *err)
{
    struct ds_buf bytes;
    int rc;

    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    rc = ds_store_note_put(&bytes, note);
    if (rc != 0)
        rc = ds_fail(err, -rc, "no memory for a rendezvous note");
    (void)pthread_mutex_lock(&link->out_lock);
    if (rc == 0)
        rc = send_frame(link, DS_WIRE_STORE, 0, bytes.data, bytes.len, err);
    (void)pthread_mutex_unlock(&link->out_lock);
    ds_buf_release(&bytes);
    return rc;
}

int ds_link_put(struct ds_link *link, const char *key, const void *value, size_t bytes,
                struct ds_error *err)
{
    const struct ds_store_note note = {.what = DS_STORE_PUT,
                                       .key = key,
                                       .key_bytes = (uint32_t)strlen(key),
                                       .rest = value,
                                       .rest_bytes = (uint32_t)bytes};

    return send_note(link, &note, err);
}

/* lock is held: until an answer is there, the line ends, or time is up. */
static int wait_answer(struct ds_link *link, const char *key, unsigned timeout_ms,
                       struct ds_error *err)
{
    struct timespec until = deadline(timeout_ms);
    bool late = false;

    while (link->answer.len == 0 && !link->over && !link->answer.failed && !late)
        late = pthread_cond_timedwait(&link->changed, &link->lock, &until) == ETIMEDOUT;
    if (link->answer.len > 0)
        return 0;
    if (link->over)
        return ds_fail(err, ECANCELED, "the line to the agent has ended");
    if (link->answer.failed)
        return ds_fail(err, ENOMEM, "no memory for the rendezvous answer '%s'", key);
    return ds_fail(err, ETIMEDOUT, "the rendezvous '%s' was not answered within %u ms", key,
                   timeout_ms);
}

int ds_link_get(struct ds_link *link, const char *key, uint32_t count, unsigned timeout_ms,
                struct ds_buf *answer, struct ds_error *err)
{
    const struct ds_store_note note = {.what = DS_STORE_GET,
                                       .count = count,
                                       .key = key,
                                       .key_bytes = (uint32_t)strlen(key),
                                       .rest = ""};
    int rc;

    (void)pthread_mutex_lock(&link->lock);
    ds_buf_reset(&link->answer);
    link->wanted = key;
    link->wanted_count = count;
    (void)pthread_mutex_unlock(&link->lock);
    rc = send_note(link, &note, err);
    (void)pthread_mutex_lock(&link->lock);
    if (rc == 0)
        rc = wait_answer(link, key, timeout_ms, err);
    link->wanted = NULL;
    if (rc == 0 && ds_buf_put(answer, link->answer.data, link->answer.len) != 0)
        rc = ds_fail(err, ENOMEM, "no memory for the rendezvous answer '%s'", key);
    (void)pthread_mutex_unlock(&link->lock);
    return rc;
}

bool ds_link_stop_requested(const struct ds_link *link)
{
    return signal_seen != 0 || atomic_load(&link->stop);
}
