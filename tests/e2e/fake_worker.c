/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake_worker.c - a rank that does what a script says, for tests of the launcher.
 *
 * Stands where dsrun-worker would: reads its SPEC frame, then runs FAKE_<rank> (else FAKE), a list
 * of actions separated by ';'.  At the end of the script it exits with 0.
 *
 *   out:TEXT err:TEXT    write TEXT and a newline (C escapes \n \r \e \t)
 *   spam:MB              write that many MiB of lines to stdout
 *   long:KB              one line of that many KiB on stdout
 *   first:PATH           end with 0 here when PATH exists, else make it and go on
 *   until:PATH           wait until PATH exists
 *   metrics:FROM-TO      one METRIC and BEAT per step
 *   metric:JSON event:JSON beat:N   one frame
 *   tell:NAME:STEP       an event of that name and step, with the time
 *   comm:N               a BEAT that says that a collective failed
 *   flush                WANT_ACK and wait for the ACK
 *   env:NAME             print a variable
 *   orphan               leave a daemon in its own session, print its pid
 *   garbage              bytes on the link that are no frame
 *   train:MS[:STEPS]     make steps of so many ms, heeding STOP, ABORT and WHERE; after so many
 *                        wait as for the others
 *   eat:MB               take that much memory and use it
 *   fill:PATH            write there until the disk is full, tell so, and end with 1
 *   sleep:MS  exit:N  kill:SIGNAL
 *   wait                 until STOP (exit 75) or ABORT (exit 79) or the end of the link
 *   deaf                 for ever, whatever is said
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fsio.h"
#include "base/wire.h"

#define WHERE "{\"event\":\"where\",\"rank\":0,\"step\":0,\"phase\":\"step\",\"at\":\"the script\"}"

static struct ds_buf in;
static int line_fd = -1;

static _Noreturn void die(const char *what)
{
    perror(what);
    _exit(70);
}

static void put(int fd, const void *bytes, size_t len)
{
    if (ds_fs_write_all(fd, bytes, len, NULL) != 0)
        die("write");
}

/* The next frame, or type 0 at the end of the link.  The payload is lost with the next call. */
static struct ds_frame next_frame(struct ds_buf *payload)
{
    for (;;) {
        struct ds_frame frame;
        size_t used = 0;
        char bytes[4096];
        ssize_t n;
        int rc = ds_wire_decode(in.data, in.len, &frame, &used, NULL);

        if (rc < 0)
            die("frame");
        if (rc > 0) {
            ds_buf_reset(payload);
            (void)ds_buf_put(payload, frame.payload, frame.len);
            frame.payload = payload->data;
            ds_buf_consume(&in, used);
            return frame;
        }
        n = read(line_fd, bytes, sizeof(bytes));
        if (n <= 0)
            return (struct ds_frame){0};
        (void)ds_buf_put(&in, bytes, (size_t)n);
    }
}

static void send_frame(uint16_t type, uint16_t flags, const void *payload, size_t len)
{
    const struct ds_frame frame = {
        .type = type, .flags = flags, .rank = 12345, .payload = payload, .len = (uint32_t)len};
    struct ds_buf out;

    ds_buf_init(&out, DS_MAX_QUEUE_BYTES);
    if (ds_wire_encode(&out, &frame) != 0)
        die("encode");
    put(line_fd, out.data, out.len);
    ds_buf_release(&out);
}

static void beat(unsigned long step, enum ds_wire_phase phase)
{
    unsigned char bytes[DS_WIRE_BEAT_BYTES];

    ds_put_u64(bytes, step);
    ds_put_u32(bytes + 8, (uint32_t)phase);
    send_frame(DS_WIRE_BEAT, 0, bytes, sizeof(bytes));
}

static void metrics(const char *range)
{
    char *end, json[256];
    unsigned long from = strtoul(range, &end, 10), to = strtoul(end + 1, NULL, 10);

    for (unsigned long step = from; step < to; step++) {
        int len = snprintf(json, sizeof(json),
                           "{\"step\":%lu,\"loss\":%.17g,\"grad_norm\":1.5,\"lr\":0.001,"
                           "\"tokens\":%lu,\"tokens_per_s\":1000.5,\"step_ms\":10,\"mfu\":0.5,"
                           "\"skipped\":0,\"time\":%.6f}",
                           step, 4.0 / (double)(step + 1), (step + 1) * 100, ds_clock_wall_s());

        send_frame(DS_WIRE_METRIC, 0, json, (size_t)len);
        beat(step, DS_PHASE_STEP);
    }
}

static void tell(const char *what)
{
    int name = (int)strcspn(what, ":");
    char json[256];
    int len =
        snprintf(json, sizeof(json), "{\"event\":\"%.*s\",\"step\":%lu,\"time\":%.6f}", name, what,
                 strtoul(what + name + (what[name] == ':'), NULL, 10), ds_clock_wall_s());

    send_frame(DS_WIRE_EVENT, 0, json, (size_t)len);
}

/* One frame, heeded as a worker would. */
static void heed(struct ds_buf *payload)
{
    struct ds_frame frame = next_frame(payload);

    if (frame.type == 0)
        _exit(79);
    if (frame.type != DS_WIRE_SIGNAL)
        return;
    if (ds_get_u32(frame.payload) != DS_SIGNAL_WHERE)
        _exit(ds_get_u32(frame.payload) == DS_SIGNAL_STOP ? 75 : 79);
    send_frame(DS_WIRE_EVENT, 0, WHERE, strlen(WHERE));
}

static _Noreturn void wait_for_end(void)
{
    struct ds_buf payload;

    ds_buf_init(&payload, DS_MAX_FRAME_BYTES);
    for (;;)
        heed(&payload);
}

/* Does a frame come within `ms`?  It may have come already, with the one read before. */
static bool frame_within(unsigned long ms)
{
    struct pollfd line = {.fd = line_fd, .events = POLLIN};
    struct ds_frame frame;
    size_t used;
    int rc = ds_wire_decode(in.data, in.len, &frame, &used, NULL);

    return rc != 0 || poll(&line, 1, (int)ms) > 0; /* no frame at all: heed() dies of it */
}

static _Noreturn void train(unsigned long ms, unsigned long steps)
{
    struct ds_buf payload;

    ds_buf_init(&payload, DS_MAX_FRAME_BYTES);
    for (unsigned long step = 1; step <= steps; step++) {
        while (frame_within(ms))
            heed(&payload);
        beat(step, DS_PHASE_STEP);
    }
    wait_for_end();
}

static void eat(unsigned long mib)
{
    for (unsigned long i = 0; i < mib; i++) {
        char *bytes = malloc(1024 * 1024);

        if (bytes == NULL)
            die("malloc");
        memset(bytes, (int)i + 1, 1024 * 1024); /* kept: the process ends with it */
    }
}

static _Noreturn void fill(const char *path)
{
    static const char bytes[64 * 1024];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        die(path);
    while (write(fd, bytes, sizeof(bytes)) > 0)
        continue;
    if (errno != ENOSPC)
        die(path);
    (void)close(fd);
    (void)unlink(path);
    beat(1, DS_PHASE_DISK_FULL);
    _exit(1);
}

static void flush(void)
{
    struct ds_buf payload;
    struct ds_frame frame;

    ds_buf_init(&payload, DS_MAX_FRAME_BYTES);
    send_frame(DS_WIRE_EVENT, DS_WIRE_WANT_ACK, "", 0);
    do
        frame = next_frame(&payload);
    while (frame.type != DS_WIRE_ACK && frame.type != 0);
    ds_buf_release(&payload);
}

static void spam(unsigned long mib)
{
    static char line[1024];

    memset(line, 'x', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\n';
    for (unsigned long i = 0; i < mib * 1024; i++)
        put(STDOUT_FILENO, line, sizeof(line));
}

static void long_line(unsigned long kib)
{
    static char bytes[1024];

    memset(bytes, 'y', sizeof(bytes));
    for (unsigned long i = 0; i < kib; i++)
        put(STDOUT_FILENO, bytes, sizeof(bytes));
    put(STDOUT_FILENO, "\n", 1);
}

static void first_time_only(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);

    if (fd < 0)
        _exit(0);
    (void)close(fd);
}

static void say(int fd, const char *text)
{
    char out[65536];
    size_t len = 0;

    for (; *text != '\0' && len < sizeof(out) - 2; text++) {
        static const char from[] = "nret", to[] = "\n\r\033\t";
        const char *escape = text[0] == '\\' && text[1] != '\0' ? strchr(from, text[1]) : NULL;

        out[len++] = escape != NULL ? to[escape - from] : *text;
        text += escape != NULL;
    }
    out[len++] = '\n';
    put(fd, out, len);
}

static void sleep_ms(unsigned long ms)
{
    const struct timespec time = {.tv_sec = (time_t)(ms / 1000),
                                  .tv_nsec = (long)(ms % 1000) * 1000000};

    (void)nanosleep(&time, NULL);
}

static void wait_until(const char *path)
{
    while (access(path, F_OK) != 0)
        sleep_ms(10);
}

static void orphan(void)
{
    char text[32];
    pid_t pid = fork();

    if (pid == 0) {
        (void)setsid();
        for (;;)
            (void)pause();
    }
    (void)snprintf(text, sizeof(text), "orphan %d", (int)pid);
    say(STDOUT_FILENO, text);
}

/* By the signal itself, whatever a sanitizer would make of it. */
static void die_of(int number)
{
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static _Noreturn void deaf(void)
{
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    for (;;)
        (void)pause();
}

static void act(const char *verb, const char *arg)
{
    unsigned long number = strtoul(arg, NULL, 10);

    if (strcmp(verb, "out") == 0)
        say(STDOUT_FILENO, arg);
    else if (strcmp(verb, "err") == 0)
        say(STDERR_FILENO, arg);
    else if (strcmp(verb, "spam") == 0)
        spam(number);
    else if (strcmp(verb, "long") == 0)
        long_line(number);
    else if (strcmp(verb, "first") == 0)
        first_time_only(arg);
    else if (strcmp(verb, "until") == 0)
        wait_until(arg);
    else if (strcmp(verb, "metrics") == 0)
        metrics(arg);
    else if (strcmp(verb, "metric") == 0)
        send_frame(DS_WIRE_METRIC, 0, arg, strlen(arg));
    else if (strcmp(verb, "event") == 0)
        send_frame(DS_WIRE_EVENT, 0, arg, strlen(arg));
    else if (strcmp(verb, "tell") == 0)
        tell(arg);
    else if (strcmp(verb, "beat") == 0)
        beat(number, DS_PHASE_STEP);
    else if (strcmp(verb, "comm") == 0)
        beat(number, DS_PHASE_COMM);
    else if (strcmp(verb, "flush") == 0)
        flush();
    else if (strcmp(verb, "env") == 0)
        say(STDOUT_FILENO, getenv(arg) != NULL ? getenv(arg) : "(unset)");
    else if (strcmp(verb, "orphan") == 0)
        orphan();
    else if (strcmp(verb, "garbage") == 0)
        put(line_fd, "\377\377\377\377\377\377\377\377\377\377\377\377", 12);
    else if (strcmp(verb, "sleep") == 0)
        sleep_ms(number);
    else if (strcmp(verb, "exit") == 0)
        _exit((int)number);
    else if (strcmp(verb, "kill") == 0)
        die_of((int)number);
    else if (strcmp(verb, "wait") == 0)
        wait_for_end();
    else if (strcmp(verb, "train") == 0)
        train(number,
              strchr(arg, ':') != NULL ? strtoul(strchr(arg, ':') + 1, NULL, 10) : ULONG_MAX);
    else if (strcmp(verb, "eat") == 0)
        eat(number);
    else if (strcmp(verb, "fill") == 0)
        fill(arg);
    else if (strcmp(verb, "deaf") == 0)
        deaf();
    else
        die(verb);
}

int main(void)
{
    const char *rank = getenv("RANK"), *fd = getenv("DSRUN_LINK_FD"), *script;
    struct ds_buf spec;
    char name[64];

    (void)snprintf(name, sizeof(name), "FAKE_%s", rank != NULL ? rank : "0");
    script = getenv(name) != NULL ? getenv(name) : getenv("FAKE");
    ds_buf_init(&in, DS_MAX_QUEUE_BYTES);
    ds_buf_init(&spec, DS_MAX_FRAME_BYTES);
    if (fd != NULL) {
        line_fd = (int)strtol(fd, NULL, 10);
        if (next_frame(&spec).type != DS_WIRE_SPEC)
            die("SPEC");
    }
    while (script != NULL && *script != '\0') {
        size_t len = strcspn(script, ";");
        char action[65536];
        char *colon;

        (void)snprintf(action, sizeof(action), "%.*s", (int)len, script);
        colon = strchr(action, ':');
        if (colon != NULL)
            *colon = '\0';
        act(action, colon != NULL ? colon + 1 : "");
        script += len + (script[len] == ';');
    }
    ds_buf_release(&in);
    ds_buf_release(&spec);
    return 0;
}
