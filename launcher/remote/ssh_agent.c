/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_agent.c - the contract is in ssh_agent.h.
 */
#include "launcher/remote/ssh_agent.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    ASK_IDENTITIES = 11,
    IDENTITIES = 12,
    ASK_SIGN = 13,
    SIGNATURE = 14,
    PATIENCE_S = 10,
    MAX_ANSWER = 256 * 1024
};

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

static uint32_t get_u32(const unsigned char *at)
{
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

static int read_all(int fd, void *bytes, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = read(fd, (char *)bytes + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -EPIPE : -errno;
        done += (size_t)n;
    }
    return 0;
}

/* Send `request` (without its length) and read an answer of `type` into agent->answer. */
static int ask(struct ds_ssh_agent *agent, const struct ds_buf *request, int type,
               struct ds_error *err)
{
    unsigned char head[4] = {(unsigned char)(request->len >> 24),
                             (unsigned char)(request->len >> 16),
                             (unsigned char)(request->len >> 8), (unsigned char)request->len};
    struct iovec part[2] = {{head, sizeof(head)}, {request->data, request->len}};
    const struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};
    void *room;
    uint32_t len;
    int rc;

    if (request->failed)
        return ds_fail(err, ENOMEM, "no memory to ask the ssh-agent");
    if (sendmsg(agent->fd, &message, MSG_NOSIGNAL) != (ssize_t)(sizeof(head) + request->len))
        return ds_fail(err, EIO, "cannot write to the ssh-agent");
    rc = read_all(agent->fd, head, sizeof(head));
    len = get_u32(head);
    ds_buf_reset(&agent->answer);
    if (rc == 0 && (len == 0 || len > MAX_ANSWER))
        return ds_fail(err, EPROTO, "the ssh-agent sent nonsense");
    room = rc == 0 ? ds_buf_reserve(&agent->answer, len) : NULL;
    if (rc == 0 && room == NULL)
        return ds_fail(err, ENOMEM, "no memory to ask the ssh-agent");
    if (rc == 0)
        rc = read_all(agent->fd, room, len);
    if (rc != 0)
        return ds_fail(err, -rc, "no answer from the ssh-agent: %s",
                       rc == -EAGAIN ? "it took more than 10 s" : strerror(-rc));
    ds_buf_commit(&agent->answer, len);
    if (agent->answer.data[0] != (char)type)
        return ds_fail(err, EACCES, "the ssh-agent refused");
    return 0;
}

static int list_keys(struct ds_ssh_agent *agent, struct ds_error *err)
{
    struct cursor cursor;
    struct ds_buf request;
    size_t len, count;
    int rc;

    ds_buf_init(&request, 16);
    (void)ds_buf_put(&request, &(unsigned char){ASK_IDENTITIES}, 1);
    rc = ask(agent, &request, IDENTITIES, err);
    ds_buf_release(&request);
    if (rc != 0)
        return rc;
    agent->list = agent->answer; /* moved */
    ds_buf_init(&agent->answer, MAX_ANSWER);
    if (agent->list.len < 5)
        return ds_fail(err, EPROTO, "the ssh-agent sent nonsense");
    cursor = (struct cursor){(const unsigned char *)agent->list.data + 5, agent->list.len - 5};
    count = get_u32((const unsigned char *)agent->list.data + 1);
    while (count-- > 0 && agent->keys < sizeof(agent->key) / sizeof(agent->key[0])) {
        const unsigned char *blob = get_string(&cursor, &agent->key[agent->keys].len);

        if (blob == NULL || get_string(&cursor, &len) == NULL)
            return ds_fail(err, EPROTO, "the ssh-agent sent nonsense");
        agent->key[agent->keys++].blob = blob;
    }
    return 0;
}

int ds_ssh_agent_open(struct ds_ssh_agent *agent, const char *socket_path, struct ds_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    int rc;

    *agent = (struct ds_ssh_agent){.fd = -1};
    ds_buf_init(&agent->answer, MAX_ANSWER);
    if (strlen(socket_path) >= sizeof(address.sun_path))
        return ds_fail(err, ENAMETOOLONG, "the path of the ssh-agent is too long");
    memcpy(address.sun_path, socket_path, strlen(socket_path));
    agent->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (agent->fd < 0 ||
        connect(agent->fd, (struct sockaddr *)&address, (socklen_t)sizeof(address)) != 0 ||
        setsockopt(agent->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, (socklen_t)sizeof(patience)) != 0)
        rc = ds_fail(err, errno, "the ssh-agent at '%s': %s", socket_path, strerror(errno));
    else
        rc = list_keys(agent, err);
    if (rc != 0)
        ds_ssh_agent_close(agent);
    return rc;
}

void ds_ssh_agent_close(struct ds_ssh_agent *agent)
{
    if (agent->fd >= 0)
        (void)close(agent->fd);
    ds_buf_release(&agent->answer);
    ds_buf_release(&agent->list);
    *agent = (struct ds_ssh_agent){.fd = -1};
}

int ds_ssh_agent_sign(struct ds_ssh_agent *agent, const struct ds_ssh_agent_key *key,
                      const void *data, size_t len, unsigned char **sig, size_t *sig_len,
                      struct ds_error *err)
{
    struct cursor cursor, inner;
    const unsigned char *bytes;
    struct ds_buf request;
    size_t n;
    int rc;

    ds_buf_init(&request, MAX_ANSWER);
    (void)ds_buf_put(&request, &(unsigned char){ASK_SIGN}, 1);
    put_string(&request, key->blob, key->len);
    put_string(&request, data, len);
    put_u32(&request, 0);
    rc = ask(agent, &request, SIGNATURE, err);
    ds_buf_release(&request);
    if (rc != 0)
        return rc;
    cursor = (struct cursor){(const unsigned char *)agent->answer.data + 1, agent->answer.len - 1};
    inner.at = get_string(&cursor, &inner.left); /* string type, string signature */
    if (inner.at == NULL || get_string(&inner, &n) == NULL)
        return ds_fail(err, EPROTO, "the ssh-agent sent nonsense");
    bytes = get_string(&inner, sig_len);
    if (bytes == NULL || *sig_len == 0)
        return ds_fail(err, EPROTO, "the ssh-agent sent nonsense");
    *sig = malloc(*sig_len);
    if (*sig == NULL)
        return ds_fail(err, ENOMEM, "no memory for a signature");
    memcpy(*sig, bytes, *sig_len);
    return 0;
}
