/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_agent.c - the contract is in ssh_agent.h.
 *
 * A message is u32 length | u8 type | rest, big endian.  Every length is compared with what is
 * there before it is used; an answer that nobody asked for is the end of the agent.
 */
#include "launcher/remote/ssh_agent.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    ASK_IDENTITIES = 11,
    IDENTITIES = 12,
    ASK_SIGN = 13,
    SIGNATURE = 14,
    HEAD_BYTES = 4,
    RETRY_MS = 50,
    MAX_MESSAGE = 256 * 1024
};
#define NS_PER_MS   UINT64_C(1000000)
#define PATIENCE_NS (DS_SSH_AGENT_PATIENCE_S * 1000 * NS_PER_MS)

/* --- bytes ------------------------------------------------------------------------------------ */

static void put_u32(struct ds_buf *out, uint32_t value)
{
    const unsigned char bytes[4] = {(unsigned char)(value >> 24), (unsigned char)(value >> 16),
                                    (unsigned char)(value >> 8), (unsigned char)value};

    (void)ds_buf_put(out, bytes, sizeof(bytes));
}

static void put_string(struct ds_buf *out, const void *bytes, size_t len)
{
    put_u32(out, (uint32_t)len);
    (void)ds_buf_put(out, bytes, len);
}

static uint32_t get_u32(const void *bytes)
{
    const unsigned char *at = bytes;

    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

struct cursor {
    const unsigned char *at;
    size_t left;
};

/* The next string, or NULL when there is none. */
static const unsigned char *get_string(struct cursor *cursor, size_t *len)
{
    const unsigned char *bytes = cursor->at + 4;

    if (cursor->left < 4 || get_u32(cursor->at) > cursor->left - 4)
        return NULL;
    *len = get_u32(cursor->at);
    cursor->at += 4 + *len;
    cursor->left -= 4 + *len;
    return bytes;
}

static int nonsense(struct ds_error *err)
{
    return ds_fail(err, EPROTO, "the ssh-agent sent nonsense");
}

/* --- requests --------------------------------------------------------------------------------- */

static void finish_ask(struct ds_ssh_agent_ask *ask, int rc)
{
    ask->rc = rc;
    ask->state = DS_SSH_ASK_DONE;
    ask->next = NULL;
    ds_buf_release(&ask->request);
}

/* For good: all that is asked ends, and whoever waits for anything is told. */
static void fail(struct ds_ssh_agent *agent, int rc)
{
    struct ds_ssh_agent_ask *next, *ask = agent->first;

    ds_loop_remove(agent->loop, &agent->watch);
    if (agent->fd >= 0)
        (void)close(agent->fd);
    agent->fd = -1;
    agent->state = DS_SSH_AGENT_FAILED;
    agent->deadline_ns = 0;
    agent->busy = false;
    if (agent->asked != NULL)
        finish_ask(agent->asked, rc);
    for (; ask != NULL; ask = next) {
        next = ask->next;
        finish_ask(ask, rc);
    }
    agent->asked = agent->first = agent->last = NULL;
}

/* `request` moves into agent->out. */
static void send_request(struct ds_ssh_agent *agent, struct ds_buf *request)
{
    ds_buf_release(&agent->out);
    agent->out = *request;
    ds_buf_init(request, 0);
    ds_buf_reset(&agent->in);
    agent->busy = true;
    agent->deadline_ns = ds_clock_mono_ns() + PATIENCE_NS;
}

static void ask_next(struct ds_ssh_agent *agent)
{
    struct ds_ssh_agent_ask *ask = agent->first;

    if (agent->busy || ask == NULL || agent->state != DS_SSH_AGENT_LISTED)
        return;
    agent->first = ask->next;
    if (agent->first == NULL)
        agent->last = NULL;
    ask->next = NULL;
    agent->asked = ask;
    send_request(agent, &ask->request);
}

/* --- answers ---------------------------------------------------------------------------------- */

static int take_list(struct ds_ssh_agent *agent)
{
    struct cursor cursor;
    size_t len, count;

    agent->list = agent->in; /* moved */
    ds_buf_init(&agent->in, MAX_MESSAGE);
    if (agent->list.data[HEAD_BYTES] != IDENTITIES || agent->list.len < HEAD_BYTES + 5)
        return nonsense(&agent->err);
    count = get_u32(agent->list.data + HEAD_BYTES + 1);
    cursor = (struct cursor){(const unsigned char *)agent->list.data + HEAD_BYTES + 5,
                             agent->list.len - HEAD_BYTES - 5};
    while (count-- > 0 && agent->keys < DS_SSH_AGENT_KEYS) {
        struct ds_ssh_agent_key *key = &agent->key[agent->keys];

        key->blob = get_string(&cursor, &key->len);
        if (key->blob == NULL || get_string(&cursor, &len) == NULL) {
            agent->keys = 0;
            return nonsense(&agent->err);
        }
        agent->keys++;
    }
    agent->state = DS_SSH_AGENT_LISTED;
    return 0;
}

/* What stands in an answer: 0, -EACCES the agent refuses this one, -EPROTO, -ENOMEM. */
static int take_signature(const struct ds_buf *in, struct ds_ssh_agent_ask *ask)
{
    struct cursor cursor = {(const unsigned char *)in->data + HEAD_BYTES + 1,
                            in->len - HEAD_BYTES - 1};
    struct cursor inner;
    const unsigned char *bytes;
    size_t n;

    if (in->data[HEAD_BYTES] != SIGNATURE)
        return -EACCES;
    inner.at = get_string(&cursor, &inner.left); /* string type, string signature */
    if (inner.at == NULL || get_string(&inner, &n) == NULL)
        return -EPROTO;
    bytes = get_string(&inner, &n);
    if (bytes == NULL || n == 0)
        return -EPROTO;
    ask->sig = malloc(n);
    if (ask->sig == NULL)
        return -ENOMEM;
    memcpy(ask->sig, bytes, n);
    ask->sig_len = n;
    return 0;
}

/* A whole answer is there; *done: whose it was. */
static int take_answer(struct ds_ssh_agent *agent, struct ds_ssh_agent_ask **done)
{
    struct ds_ssh_agent_ask *ask = agent->asked;

    agent->busy = false;
    agent->deadline_ns = 0;
    agent->asked = NULL;
    if (agent->state == DS_SSH_AGENT_LISTING)
        return take_list(agent);
    if (ask != NULL)
        finish_ask(ask, take_signature(&agent->in, ask));
    *done = ask;
    return 0;
}

/* --- the socket ------------------------------------------------------------------------------- */

/* 1: all was sent; 0: not yet. */
static int send_some(struct ds_ssh_agent *agent)
{
    while (agent->out.len > 0) {
        ssize_t n = send(agent->fd, agent->out.data, agent->out.len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0
                                   : ds_fail(&agent->err, EIO, "cannot write to the ssh-agent: %s",
                                             strerror(errno));
        ds_buf_consume(&agent->out, (size_t)n);
    }
    return 1;
}

/* 1: a whole answer is there; 0: not yet. */
static int receive_some(struct ds_ssh_agent *agent)
{
    for (;;) {
        size_t want = HEAD_BYTES;
        ssize_t n;
        void *room;

        if (agent->in.len >= HEAD_BYTES) {
            uint32_t len = get_u32(agent->in.data);

            if (len == 0 || len > MAX_MESSAGE - HEAD_BYTES)
                return nonsense(&agent->err);
            want += len;
        }
        if (agent->in.len == want && want > HEAD_BYTES)
            return agent->busy ? 1 : nonsense(&agent->err);
        room = ds_buf_reserve(&agent->in, want - agent->in.len);
        if (room == NULL)
            return ds_fail(&agent->err, ENOMEM, "no memory for what the ssh-agent says");
        n = recv(agent->fd, room, want - agent->in.len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0)
            return ds_fail(&agent->err, EIO, "the ssh-agent hung up");
        if (!agent->busy)
            return nonsense(&agent->err);
        ds_buf_commit(&agent->in, (size_t)n);
    }
}

/* Go on as far as it goes.  One answer at a time: who is told of it may ask for more. */
static void on_socket(struct ds_watch *watch, uint32_t events)
{
    struct ds_ssh_agent *agent = watch->user;
    struct ds_ssh_agent_ask *done = NULL;
    int rc = send_some(agent);
    bool answered;

    (void)events;
    if (rc > 0)
        rc = receive_some(agent);
    answered = rc > 0;
    if (answered)
        rc = take_answer(agent, &done);
    if (rc < 0)
        fail(agent, rc);
    if (agent->state == DS_SSH_AGENT_FAILED || (answered && done == NULL))
        agent->ready(agent, NULL);
    else if (done != NULL)
        agent->ready(agent, done);
    ask_next(agent);
    if (agent->fd >= 0)
        ds_loop_want(agent->loop, watch, agent->out.len > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* A full backlog is no failure yet: again in a while. */
static int connect_now(struct ds_ssh_agent *agent)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ds_buf request;
    int rc;

    if (strlen(agent->path) >= sizeof(address.sun_path))
        return ds_fail(&agent->err, ENAMETOOLONG, "the path of the ssh-agent is too long");
    memcpy(address.sun_path, agent->path, strlen(agent->path));
    if (agent->fd < 0)
        agent->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (agent->fd < 0 ||
        connect(agent->fd, (struct sockaddr *)&address, (socklen_t)sizeof(address)) != 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : ds_fail(&agent->err, errno, "the ssh-agent at '%s': %s", agent->path,
                             strerror(errno));
    rc = ds_loop_add(agent->loop, &agent->watch, agent->fd, EPOLLIN | EPOLLOUT, &agent->err);
    if (rc != 0)
        return rc;
    ds_buf_init(&request, 16);
    put_u32(&request, 1);
    (void)ds_buf_put(&request, &(unsigned char){ASK_IDENTITIES}, 1);
    if (request.failed) {
        ds_buf_release(&request);
        return ds_fail(&agent->err, ENOMEM, "no memory to ask the ssh-agent");
    }
    agent->state = DS_SSH_AGENT_LISTING;
    send_request(agent, &request);
    return 0;
}

/* --- the public part -------------------------------------------------------------------------- */

void ds_ssh_agent_open(struct ds_ssh_agent *agent)
{
    int rc;

    agent->fd = -1;
    agent->watch = (struct ds_watch){.fd = -1, .ready = on_socket, .user = agent};
    ds_buf_init(&agent->in, MAX_MESSAGE);
    agent->deadline_ns = ds_clock_mono_ns() + PATIENCE_NS;
    rc = connect_now(agent);
    if (rc != 0)
        fail(agent, rc);
}

void ds_ssh_agent_close(struct ds_ssh_agent *agent)
{
    assert(agent->asked == NULL && agent->first == NULL);
    fail(agent, -ECANCELED);
    ds_buf_release(&agent->in);
    ds_buf_release(&agent->out);
    ds_buf_release(&agent->list);
    agent->keys = 0;
}

uint64_t ds_ssh_agent_tick(struct ds_ssh_agent *agent, uint64_t now_ns)
{
    int rc = 0;

    if (agent->deadline_ns != 0 && now_ns >= agent->deadline_ns)
        rc = ds_fail(&agent->err, ETIMEDOUT, "the ssh-agent at '%s' did not answer within %d s",
                     agent->path, DS_SSH_AGENT_PATIENCE_S);
    else if (agent->state == DS_SSH_AGENT_CONNECTING)
        rc = connect_now(agent);
    if (rc != 0) {
        fail(agent, rc);
        agent->ready(agent, NULL);
    }
    return agent->state == DS_SSH_AGENT_CONNECTING ? now_ns + RETRY_MS * NS_PER_MS
                                                   : agent->deadline_ns;
}

int ds_ssh_agent_sign(struct ds_ssh_agent *agent, struct ds_ssh_agent_ask *ask,
                      const struct ds_ssh_agent_key *key, const void *data, size_t len,
                      struct ds_error *err)
{
    assert(ask->state == DS_SSH_ASK_NONE);
    if (agent->state == DS_SSH_AGENT_FAILED)
        return ds_fail(err, EIO, "%s", agent->err.text);
    ds_buf_init(&ask->request, MAX_MESSAGE);
    put_u32(&ask->request, (uint32_t)(1 + 4 + key->len + 4 + len + 4));
    (void)ds_buf_put(&ask->request, &(unsigned char){ASK_SIGN}, 1);
    put_string(&ask->request, key->blob, key->len);
    put_string(&ask->request, data, len);
    put_u32(&ask->request, 0);
    if (ask->request.failed) {
        ds_buf_release(&ask->request);
        return ds_fail(err, ENOMEM, "no memory to ask the ssh-agent");
    }
    ask->agent = agent;
    ask->state = DS_SSH_ASK_WAITS;
    if (agent->last != NULL)
        agent->last->next = ask;
    else
        agent->first = ask;
    agent->last = ask;
    ask_next(agent);
    ds_loop_want(agent->loop, &agent->watch, EPOLLIN | EPOLLOUT);
    return 0;
}

void ds_ssh_agent_forget(struct ds_ssh_agent_ask *ask)
{
    struct ds_ssh_agent *agent = ask->agent;

    if (ask->state == DS_SSH_ASK_WAITS && agent->asked == ask) {
        agent->asked = NULL;
    } else if (ask->state == DS_SSH_ASK_WAITS) {
        struct ds_ssh_agent_ask *before = NULL;

        for (struct ds_ssh_agent_ask *at = agent->first; at != ask; at = at->next)
            before = at;
        *(before == NULL ? &agent->first : &before->next) = ask->next;
        if (agent->last == ask)
            agent->last = before;
    }
    ds_buf_release(&ask->request);
    free(ask->sig);
    *ask = (struct ds_ssh_agent_ask){.user = ask->user};
}
