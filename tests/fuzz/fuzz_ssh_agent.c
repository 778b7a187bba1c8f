/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_ssh_agent.c - any bytes as what an ssh-agent says: to the question for its keys, then to two
 * questions for a signature.
 *
 * The first byte says in which pieces they come; then the agent hangs up.  Beyond "no crash": every
 * key that is listed lies within what was said, a signature is there or a reason why not, nobody
 * waits for ever, and the agent has failed for a named reason in the end.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fsio.h"
#include "launcher/remote/ssh_agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ASKS = 2 };

static struct ds_loop loop = {.epoll_fd = -1};
static struct ds_ssh_agent_ask ask[ASKS];
static unsigned done;
static char folder[DS_MAX_PATH], path[DS_MAX_PATH + 16];
static int listener;

static void remove_folder(void)
{
    (void)!ds_fs_remove_tree(folder, NULL);
}

static void listen_once(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *parent = getenv("TMPDIR");

    (void)snprintf(folder, sizeof(folder), "%s/dsrun-fuzz.XXXXXX",
                   parent != NULL ? parent : "/tmp");
    assert(mkdtemp(folder) != NULL && atexit(remove_folder) == 0);
    (void)snprintf(path, sizeof(path), "%s/agent", folder);
    assert(strlen(path) < sizeof(address.sun_path));
    memcpy(address.sun_path, path, strlen(path));
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    assert(listen(listener, 8) == 0 && ds_loop_init(&loop, NULL) == 0);
}

static void check_keys(const struct ds_ssh_agent *agent)
{
    const unsigned char *from = (const unsigned char *)agent->list.data, *to;

    assert(agent->keys <= DS_SSH_AGENT_KEYS);
    for (size_t i = 0; i < agent->keys; i++) {
        to = from + agent->list.len;
        assert(agent->key[i].blob > from && agent->key[i].len <= (size_t)(to - agent->key[i].blob));
    }
}

static void on_ready(struct ds_ssh_agent *agent, struct ds_ssh_agent_ask *which)
{
    static const struct ds_ssh_agent_key of_no_agent = {(const unsigned char *)"key", 3};

    check_keys(agent);
    if (which != NULL) {
        assert(which->state == DS_SSH_ASK_DONE);
        assert((which->rc == 0) == (which->sig != NULL) &&
               (which->rc == 0) == (which->sig_len > 0));
        done++;
        return;
    }
    for (size_t i = 0; agent->state == DS_SSH_AGENT_LISTED && i < ASKS; i++)
        assert(ds_ssh_agent_sign(agent, &ask[i], agent->keys > i ? &agent->key[i] : &of_no_agent,
                                 "what is signed", 14, NULL) == 0);
}

static void settle(void)
{
    for (int i = 0; i < 4; i++)
        assert(ds_loop_turn(&loop, 0, NULL) == 0);
}

static void speak(int line, const uint8_t *data, size_t size, size_t piece)
{
    while (size > 0) {
        ssize_t n = send(line, data, size < piece ? size : piece, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0)
            assert(errno == EPIPE || errno == ECONNRESET || errno == EAGAIN);
        settle();
        if (n < 0 && errno != EAGAIN)
            return;
        data += n < 0 ? 0 : n;
        size -= n < 0 ? 0 : (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_ssh_agent agent = {.path = path, .loop = &loop, .ready = on_ready};
    int line;

    if (size < 1)
        return 0;
    if (loop.epoll_fd < 0)
        listen_once();
    memset(ask, 0, sizeof(ask));
    done = 0;
    ds_ssh_agent_open(&agent);
    line = accept(listener, NULL, NULL);
    assert(line >= 0 && agent.state == DS_SSH_AGENT_LISTING);
    settle();
    speak(line, data + 1, size - 1, data[0] == 0 ? size : data[0]);
    assert(close(line) == 0);
    settle();
    assert(agent.state == DS_SSH_AGENT_FAILED && agent.fd < 0 && agent.err.text[0] != '\0');
    check_keys(&agent);
    for (size_t i = 0; i < ASKS; i++) {
        assert(ask[i].state != DS_SSH_ASK_WAITS && done <= ASKS);
        ds_ssh_agent_forget(&ask[i]);
    }
    ds_ssh_agent_close(&agent);
    return 0;
}
