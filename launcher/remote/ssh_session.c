/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_session.c - the channel in a connection; the steps are described in ssh.h.
 *
 * The end of the stream is told only when the host has closed the channel, or a second after its
 * end-of-file: by then it has said how the agent ended.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "launcher/remote/ssh.h"

enum { WINDOW_BYTES = 1024 * 1024, COMPLAINT_BYTES = 256, BOOT_READ = 4096 };
#define EOF_NS UINT64_C(1000000000)

int ds__ssh_open(struct ds_ssh_link *link, struct ds_error *err)
{
    link->channel = libssh2_channel_open_ex(link->session, "session", sizeof("session") - 1,
                                            WINDOW_BYTES, LIBSSH2_CHANNEL_PACKET_DEFAULT, NULL, 0);
    if (link->channel == NULL) {
        if (libssh2_session_last_errno(link->session) == LIBSSH2_ERROR_EAGAIN)
            return 0;
        return ds_fail(err, EHOSTUNREACH, "it gives no channel: %s", ds__ssh_text(link));
    }
    ds__ssh_enter(link, DS_SSH_EXEC);
    return 1;
}

int ds__ssh_exec(struct ds_ssh_link *link, struct ds_error *err)
{
    int rc = libssh2_channel_exec(link->channel, ds_boot_command);

    if (rc == LIBSSH2_ERROR_EAGAIN)
        return 0;
    if (rc != 0)
        return ds_fail(err, EHOSTUNREACH, "it runs no command: %s", ds__ssh_text(link));
    link->boot = malloc(sizeof(*link->boot));
    if (link->boot == NULL)
        return ds_fail(err, ENOMEM, "no memory to start an agent");
    rc = ds_boot_init(link->boot, &link->ssh->plan, false, err);
    if (rc != 0)
        return rc;
    ds__ssh_enter(link, DS_SSH_BOOT);
    return 1;
}

/* Keep the last of what the host says on stderr. */
void ds__ssh_hear_stderr(struct ds_ssh_link *link)
{
    char bytes[1024];
    ssize_t n;

    while ((n = libssh2_channel_read_stderr(link->channel, bytes, sizeof(bytes))) > 0) {
        size_t keep = (size_t)n < COMPLAINT_BYTES ? (size_t)n : COMPLAINT_BYTES - 1, used;

        if (link->complaint == NULL)
            link->complaint = calloc(1, COMPLAINT_BYTES);
        if (link->complaint == NULL)
            return;
        used = strlen(link->complaint);
        if (used + keep >= COMPLAINT_BYTES) {
            size_t drop = used + keep - COMPLAINT_BYTES + 1;

            memmove(link->complaint, link->complaint + drop, used - drop + 1);
            used -= drop;
        }
        memcpy(link->complaint + used, bytes + n - (ssize_t)keep, keep);
        link->complaint[used + keep] = '\0';
    }
}

/* The last line of stderr, without control characters. */
static const char *complaint(struct ds_ssh_link *link)
{
    char *text = link->complaint, *line;

    if (text == NULL)
        return "nothing";
    for (size_t n = strlen(text); n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'); n--)
        text[n - 1] = '\0';
    line = strrchr(text, '\n');
    line = line == NULL ? text : line + 1;
    for (char *c = line; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    return line;
}

static int send_boot(struct ds_ssh_link *link, struct ds_error *err)
{
    while (link->boot->out_bytes > 0) {
        ssize_t n = libssh2_channel_write(link->channel, link->boot->out, link->boot->out_bytes);

        if (n == LIBSSH2_ERROR_EAGAIN || n == 0)
            return 0;
        if (n < 0)
            return ds_fail(err, EHOSTUNREACH, "the connection broke: %s", ds__ssh_text(link));
        ds_boot_sent(link->boot, (size_t)n);
    }
    return 0;
}

int ds__ssh_boot(struct ds_ssh_link *link, struct ds_error *err)
{
    char bytes[BOOT_READ];
    ssize_t n;
    size_t used;
    int rc = send_boot(link, err);

    while (rc == 0) {
        /* One byte at a time would be exact; as the agent is silent until HELLO, a chunk is too. */
        ds__ssh_hear_stderr(link);
        n = libssh2_channel_read(link->channel, bytes, sizeof(bytes));
        if (n == LIBSSH2_ERROR_EAGAIN || n == LIBSSH2_ERROR_BAD_USE ||
            (n == 0 && libssh2_channel_eof(link->channel) == 0))
            return 0;
        if (n <= 0)
            return ds_fail(err, EHOSTUNREACH,
                           n == 0 ? "no agent was started; the host said: %s" : "it hung up: %s",
                           n == 0 ? complaint(link) : ds__ssh_text(link));
        rc = ds_boot_feed(link->boot, bytes, (size_t)n, &used, err);
        if (rc == 1 && used != (size_t)n)
            return ds_fail(err, EPROTO, "its agent spoke before it was asked");
        if (rc == 0)
            rc = send_boot(link, err);
    }
    if (rc < 0)
        return rc;
    ds_boot_release(link->boot);
    free(link->boot);
    link->boot = NULL;
    ds__ssh_enter(link, DS_SSH_STARTED);
    return 1;
}

/* --- the stream ------------------------------------------------------------------------------- */

static struct ds_ssh_link *link_of(struct ds_stream *stream)
{
    void *link = (char *)stream - offsetof(struct ds_ssh_link, stream);

    return link;
}

/* At the end: has the host said how the agent ended? */
static bool is_over(struct ds_ssh_link *link)
{
    uint64_t now_ns = ds_clock_mono_ns();

    if (libssh2_channel_wait_closed(link->channel) != LIBSSH2_ERROR_EAGAIN)
        return true;
    if (link->eof_ns == 0) {
        link->eof_ns = now_ns + EOF_NS;
        link->ssh->ends++;
    }
    return now_ns >= link->eof_ns;
}

static ssize_t stream_read(struct ds_stream *stream, void *bytes, size_t len, struct ds_error *err)
{
    struct ds_ssh_link *link = link_of(stream);
    ssize_t n;

    if (link->cut)
        return 0;
    ds__ssh_hear_stderr(link); /* first: it may take in what stands on the other stream */
    n = libssh2_channel_read(link->channel, bytes, len);
    if (n > 0)
        return n;
    if (n == LIBSSH2_ERROR_EAGAIN || n == LIBSSH2_ERROR_BAD_USE)
        return -EAGAIN;
    if (n < 0)
        return ds_fail(err, ECONNRESET, "the connection was lost: %s", ds__ssh_text(link));
    return libssh2_channel_eof(link->channel) == 0 || !is_over(link) ? -EAGAIN : 0;
}

/* A write takes in what has come meanwhile: the socket is empty then, and reports nothing. */
static ssize_t stream_write(struct ds_stream *stream, const void *bytes, size_t len)
{
    struct ds_ssh_link *link = link_of(stream), *root = link;
    ssize_t n;

    if (link->cut)
        return -EPIPE;
    n = libssh2_channel_write(link->channel, bytes, len);
    while (root->via != NULL)
        root = root->via;
    ds_loop_again(link->ssh->base.args.loop, &root->watch);
    return n == LIBSSH2_ERROR_EAGAIN || n == 0 ? -EAGAIN : n < 0 ? -EPIPE : n;
}

static void stream_want(struct ds_stream *stream, bool in, bool out)
{
    struct ds_ssh_link *link = link_of(stream);

    link->want_in = in;
    link->want_out = out;
    ds__ssh_listen(link);
}

static const struct ds_stream_ops stream_ops = {
    .read = stream_read, .write = stream_write, .want = stream_want};

void ds__ssh_session_init(struct ds_ssh_link *link)
{
    link->stream = (struct ds_stream){.ops = &stream_ops};
}
