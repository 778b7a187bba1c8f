/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ssh_agent.c - an ssh-agent that answers, that takes its time, and that is up to no good: the
 * loop goes on whatever it does.
 *
 * The agent is the other end of a socket in the same loop's process; time is what tick() is told.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "launcher/remote/ssh_agent.h"
#include "tests/tempdir.h"

static struct ds_loop loop;
static struct ds_ssh_agent agent;
static int listener, line; /* of the fake agent */
static unsigned listed;    /* calls without an ask */
static struct ds_ssh_agent_ask *last_done;
static unsigned dones;

static void on_ready(struct ds_ssh_agent *which, struct ds_ssh_agent_ask *ask)
{
    cr_assert_eq(which, &agent);
    if (ask == NULL) {
        listed++;
        return;
    }
    cr_assert_eq(ask->state, DS_SSH_ASK_DONE);
    last_done = ask;
    dones++;
}

static void listen_at(const char *path, int backlog)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    cr_assert_lt(strlen(path), sizeof(address.sun_path));
    memcpy(address.sun_path, path, strlen(path));
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    cr_assert_eq(listen(listener, backlog), 0);
}

static const char *socket_path(void)
{
    static char path[DS_MAX_PATH];

    (void)snprintf(path, sizeof(path), "%s", tempdir_path("agent"));
    return path;
}

static void setup(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    tempdir_make();
    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    listen_at(socket_path(), 8);
    line = -1;
    agent = (struct ds_ssh_agent){.path = socket_path(), .loop = &loop, .ready = on_ready};
}

static void teardown(void)
{
    ds_ssh_agent_close(&agent);
    ds_loop_release(&loop);
    (void)close(line);
    (void)close(listener);
    tempdir_remove();
}

TestSuite(ssh_agent, .init = setup, .fini = teardown, .timeout = 60);

/* Everything that can happen now. */
static void settle(void)
{
    for (int i = 0; i < 20; i++)
        cr_assert_eq(ds_loop_turn(&loop, 0, NULL), 0);
}

static void say(const void *bytes, size_t len)
{
    cr_assert_eq(send(line, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
    settle();
}

/* The next request, whole; its type. */
static int hear(unsigned char bytes[4096])
{
    size_t got = 0, want = 4;

    while (got < want) {
        ssize_t n = recv(line, bytes + got, want - got, MSG_DONTWAIT);

        cr_assert_gt(n, 0, "no request is there");
        got += (size_t)n;
        if (got == 4)
            want = 4 + ((size_t)bytes[2] << 8 | bytes[3]);
    }
    return bytes[4];
}

static bool heard_nothing(void)
{
    char byte;

    return recv(line, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

#define SAY(text) say(text, sizeof(text) - 1)
/* Two keys, "key-a" and "key-bb". */
#define TWO_KEYS  "\0\0\0\x21\x0c\0\0\0\x02\0\0\0\x05key-a\0\0\0\x01x\0\0\0\x06key-bb\0\0\0\0"
#define SIGNED(c) "\0\0\0\x13\x0e\0\0\0\x0e\0\0\0\x03typ\0\0\0\x03" c c c

static void connect_and_list(void)
{
    unsigned char bytes[4096];

    ds_ssh_agent_open(&agent);
    line = accept(listener, NULL, NULL);
    cr_assert_geq(line, 0);
    settle();
    cr_assert_eq(hear(bytes), 11);
    cr_assert_eq(agent.state, DS_SSH_AGENT_LISTING);
    SAY(TWO_KEYS);
    cr_assert_eq(agent.state, DS_SSH_AGENT_LISTED, "%s", agent.err.text);
    cr_assert_eq(listed, 1);
}

static void sign(struct ds_ssh_agent_ask *ask, const char *data)
{
    cr_assert_eq(ds_ssh_agent_sign(&agent, ask, &agent.key[0], data, strlen(data), NULL), 0);
    settle();
}

Test(ssh_agent, lists_and_signs_in_the_order_it_is_asked)
{
    struct ds_ssh_agent_ask first = {0}, second = {0};
    unsigned char bytes[4096];

    connect_and_list();
    cr_assert_eq(agent.keys, 2);
    cr_expect(agent.key[0].len == 5 && memcmp(agent.key[0].blob, "key-a", 5) == 0);
    cr_expect(agent.key[1].len == 6 && memcmp(agent.key[1].blob, "key-bb", 6) == 0);
    sign(&first, "one");
    sign(&second, "two");
    cr_assert_eq(hear(bytes), 13);
    cr_expect_eq(memcmp(bytes + 4, "\x0d\0\0\0\x05key-a\0\0\0\x03one\0\0\0\0", 21), 0);
    cr_expect(heard_nothing(), "one at a time");
    for (size_t i = 0; i < sizeof(SIGNED("1")) - 1; i++) /* byte by byte */
        say(&(SIGNED("1"))[i], 1);
    cr_assert_eq(last_done, &first);
    cr_expect(first.rc == 0 && first.sig_len == 3 && memcmp(first.sig, "111", 3) == 0);
    cr_assert_eq(hear(bytes), 13);
    cr_expect_eq(memcmp(bytes + 4, "\x0d\0\0\0\x05key-a\0\0\0\x03two\0\0\0\0", 21), 0);
    SAY("\0\0\0\x01\x05"); /* refused: this one alone */
    cr_assert_eq(last_done, &second);
    cr_expect_eq(second.rc, -EACCES);
    cr_expect_eq(agent.state, DS_SSH_AGENT_LISTED);
    ds_ssh_agent_forget(&first);
    ds_ssh_agent_forget(&second);
    cr_expect_eq(first.state, DS_SSH_ASK_NONE);
}

static void count_turn(struct ds_watch *watch, uint32_t events)
{
    uint64_t n;

    (void)events;
    cr_assert_eq(read(watch->fd, &n, sizeof(n)), (ssize_t)sizeof(n));
    *(unsigned *)watch->user += 1;
}

Test(ssh_agent, one_that_does_not_answer_holds_nobody_up)
{
    struct ds_ssh_agent_ask first = {0}, second = {0};
    unsigned turns = 0;
    struct ds_watch other = {.ready = count_turn, .user = &turns};
    const uint64_t one = 1;
    uint64_t now_ns, due_ns;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    connect_and_list();
    cr_assert_eq(ds_loop_add(&loop, &other, fd, EPOLLIN, NULL), 0);
    sign(&first, "one");
    sign(&second, "two");
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(write(fd, &one, sizeof(one)), (ssize_t)sizeof(one));
        cr_assert_eq(ds_loop_turn(&loop, 0, NULL), 0);
    }
    cr_expect_eq(turns, 100, "other hosts go on");
    now_ns = ds_clock_mono_ns();
    due_ns = ds_ssh_agent_tick(&agent, now_ns);
    cr_assert(due_ns > now_ns && due_ns <= now_ns + DS_SSH_AGENT_PATIENCE_S * UINT64_C(1000000000));
    cr_assert_eq(dones, 0);
    cr_assert_eq(ds_ssh_agent_tick(&agent, due_ns), 0);
    cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED);
    cr_expect_not_null(strstr(agent.err.text, "did not answer within 10 s"), "%s", agent.err.text);
    cr_expect(first.state == DS_SSH_ASK_DONE && first.rc == -ETIMEDOUT);
    cr_expect(second.state == DS_SSH_ASK_DONE && second.rc == -ETIMEDOUT);
    cr_expect_eq(listed, 2, "who waits is told");
    ds_ssh_agent_forget(&first);
    ds_ssh_agent_forget(&second);
    cr_expect_eq(ds_ssh_agent_sign(&agent, &first, &agent.key[0], "x", 1, NULL), -EIO);
    ds_loop_remove(&loop, &other);
    (void)close(fd);
}

Test(ssh_agent, a_slow_drip_is_no_answer)
{
    unsigned char bytes[4096];
    uint64_t due_ns;

    ds_ssh_agent_open(&agent);
    line = accept(listener, NULL, NULL);
    settle();
    cr_assert_eq(hear(bytes), 11);
    due_ns = ds_ssh_agent_tick(&agent, ds_clock_mono_ns());
    for (int i = 0; i < 20; i++) {
        say(&(TWO_KEYS)[i], 1);
        cr_assert_eq(ds_ssh_agent_tick(&agent, due_ns - 1), due_ns, "bytes give it no more time");
    }
    (void)ds_ssh_agent_tick(&agent, due_ns);
    cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED);
    cr_expect_eq(listed, 1);
}

Test(ssh_agent, who_gives_up_gets_nobodys_answer)
{
    struct ds_ssh_agent_ask first = {0}, second = {0}, third = {0};
    unsigned char bytes[4096];

    connect_and_list();
    sign(&first, "one");
    sign(&second, "two");
    sign(&third, "three");
    cr_assert_eq(hear(bytes), 13);
    ds_ssh_agent_forget(&first);  /* under way */
    ds_ssh_agent_forget(&second); /* waiting */
    SAY(SIGNED("1"));
    cr_assert_eq(dones, 0);
    cr_assert_eq(hear(bytes), 13);
    cr_expect_eq(memcmp(bytes + 14, "\0\0\0\x05three", 9), 0);
    SAY(SIGNED("3"));
    cr_assert(dones == 1 && last_done == &third);
    cr_expect_eq(memcmp(third.sig, "333", 3), 0);
    sign(&second, "again");
    ds_ssh_agent_forget(&second);
    ds_ssh_agent_forget(&third);
}

struct evil {
    const char *name, *bytes;
    size_t len;
    int rc; /* of the ask; 0: nothing was asked */
};

#define EVIL(name, text, rc)                                                                       \
    {                                                                                              \
        name, text, sizeof(text) - 1, rc                                                           \
    }

Test(ssh_agent, nonsense_in_a_list_ends_it)
{
    static const struct evil table[] = {
        EVIL("an empty message", "\0\0\0\0", 0),
        EVIL("a length beyond all bounds", "\xff\xff\xff\xff\x0c", 0),
        EVIL("a length just beyond the bound", "\0\x04\0\0\x0c", 0),
        EVIL("another type", "\0\0\0\x05\x05\0\0\0\0", 0),
        EVIL("no count", "\0\0\0\x03\x0c\0\0", 0),
        EVIL("more keys than there are", "\0\0\0\x0d\x0c\xff\xff\xff\xff\0\0\0\0\0\0\0\0", 0),
        EVIL("a key longer than the message", "\0\0\0\x0a\x0c\0\0\0\x01\0\0\0\x7fx", 0),
        EVIL("a key without a comment", "\0\0\0\x0a\x0c\0\0\0\x01\0\0\0\x01x", 0),
        EVIL("more than was asked", TWO_KEYS "x", 0),
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        unsigned char bytes[4096];

        agent = (struct ds_ssh_agent){.path = socket_path(), .loop = &loop, .ready = on_ready};
        ds_ssh_agent_open(&agent);
        line = accept(listener, NULL, NULL);
        settle();
        cr_assert_eq(hear(bytes), 11);
        say(table[i].bytes, table[i].len);
        cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED, "%s", table[i].name);
        cr_expect_not_null(strstr(agent.err.text, "nonsense"), "%s: %s", table[i].name,
                           agent.err.text);
        ds_ssh_agent_close(&agent);
        (void)close(line);
    }
}

Test(ssh_agent, nonsense_for_a_signature_is_none)
{
    static const struct evil table[] = {
        EVIL("no string", "\0\0\0\x01\x0e", -EPROTO),
        EVIL("a string beyond the message", "\0\0\0\x05\x0e\0\0\0\x7f", -EPROTO),
        EVIL("a type alone", "\0\0\0\x0c\x0e\0\0\0\x07\0\0\0\x03typ", -EPROTO),
        EVIL("an empty one", "\0\0\0\x10\x0e\0\0\0\x0b\0\0\0\x03typ\0\0\0\0", -EPROTO),
        EVIL("one beyond the message", "\0\0\0\x11\x0e\0\0\0\x0c\0\0\0\x03typ\0\0\0\x7fx", -EPROTO),
    };
    unsigned char bytes[4096];

    connect_and_list();
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_ssh_agent_ask ask = {0};

        sign(&ask, "data");
        cr_assert_eq(hear(bytes), 13);
        say(table[i].bytes, table[i].len);
        cr_expect(ask.state == DS_SSH_ASK_DONE && ask.rc == table[i].rc && ask.sig == NULL, "%s",
                  table[i].name);
        ds_ssh_agent_forget(&ask);
    }
}

Test(ssh_agent, what_nobody_asked_for_ends_it)
{
    connect_and_list();
    SAY(SIGNED("1"));
    cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED);
    cr_expect_eq(listed, 2);
}

Test(ssh_agent, one_that_hangs_up_ends_what_it_was_asked)
{
    struct ds_ssh_agent_ask ask = {0};
    unsigned char bytes[4096];

    connect_and_list();
    sign(&ask, "data");
    cr_assert_eq(hear(bytes), 13);
    say(SIGNED("1"), 9);
    (void)shutdown(line, SHUT_RDWR);
    settle();
    cr_expect(ask.state == DS_SSH_ASK_DONE && ask.rc == -EIO);
    cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED);
    cr_expect_eq(agent.keys, 2, "numbers of candidates stay what they were");
    ds_ssh_agent_forget(&ask);
}

Test(ssh_agent, one_that_is_not_there_is_said_at_once)
{
    char path[200];

    agent.path = "/nonexistent/agent";
    ds_ssh_agent_open(&agent);
    cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED);
    cr_expect_not_null(strstr(agent.err.text, "No such file"), "%s", agent.err.text);
    ds_ssh_agent_close(&agent);
    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    agent = (struct ds_ssh_agent){.path = path, .loop = &loop, .ready = on_ready};
    ds_ssh_agent_open(&agent);
    cr_expect_eq(agent.state, DS_SSH_AGENT_FAILED);
    cr_expect_eq(listed, 0);
}

/* Nobody accepts, and the backlog is full. */
Test(ssh_agent, one_that_is_too_busy_is_tried_again)
{
    int other[4];
    unsigned n = 0;
    char path[DS_MAX_PATH];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t now_ns = ds_clock_mono_ns();

    (void)close(listener);
    (void)snprintf(path, sizeof(path), "%s", tempdir_path("busy"));
    listen_at(path, 0);
    memcpy(address.sun_path, path, strlen(path));
    for (; n < 4; n++) {
        other[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (connect(other[n], (struct sockaddr *)&address, sizeof(address)) != 0)
            break;
    }
    cr_assert_lt(n, 4, "the backlog is full");
    agent.path = path;
    ds_ssh_agent_open(&agent);
    cr_assert_eq(agent.state, DS_SSH_AGENT_CONNECTING, "%s", agent.err.text);
    cr_assert_gt(ds_ssh_agent_tick(&agent, now_ns), now_ns);
    for (unsigned i = 0; i < n; i++)
        (void)close(accept(listener, NULL, NULL));
    (void)ds_ssh_agent_tick(&agent, now_ns);
    cr_expect_eq(agent.state, DS_SSH_AGENT_LISTING);
    for (unsigned i = 0; i <= n; i++)
        (void)close(other[i]);
}
