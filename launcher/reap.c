/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reap.c - the contract is in reap.h.
 *
 * Children are found by the parent in /proc/PID/stat: the list in /proc/self/task/TID/children
 * is not in every kernel.
 */
#include "launcher/reap.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 200 };

void ds_reap_become(void)
{
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL);
}

struct kin {
    pid_t parent, session;
    char state;
};

/* Whose child is the process of this number, and in which session? */
static struct kin kin_of(const char *pid)
{
    struct kin kin = {-1, -1, 0};
    char path[64], text[512];
    const char *end;
    long parent, session;
    char state;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kin;
    n = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    end = strrchr(text, ')'); /* the name may hold anything; ") STATE PPID PGRP SESSION" follows */
    if (end != NULL && sscanf(end, ") %c %ld %*d %ld", &state, &parent, &session) == 3)
        kin = (struct kin){(pid_t)parent, (pid_t)session, state};
    return kin;
}

char ds_proc_state(pid_t pid)
{
    char number[24];

    (void)snprintf(number, sizeof(number), "%d", (int)pid);
    return kin_of(number).state;
}

bool ds_proc_ends(pid_t pid, int ms)
{
    struct pollfd wait = {.fd = pidfd_open(pid, 0), .events = POLLIN};
    int n;

    if (wait.fd < 0)
        return false;
    do
        n = poll(&wait, 1, ms);
    while (n < 0 && errno == EINTR);
    (void)close(wait.fd);
    return n > 0;
}

/* Those of `session`, or all for 0.  Returns how many there were. */
static unsigned kill_children(pid_t session)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    unsigned count = 0;

    if (proc == NULL)
        return 0;
    while ((entry = readdir(proc)) != NULL) {
        pid_t pid =
            isdigit((unsigned char)entry->d_name[0]) ? (pid_t)strtol(entry->d_name, NULL, 10) : 0;
        struct kin kin = pid > 0 ? kin_of(entry->d_name) : (struct kin){-1, -1, 0};

        if (kin.parent != getpid() || (session != 0 && kin.session != session))
            continue;
        (void)kill(pid, SIGKILL);
        if (session != 0)
            (void)waitpid(pid, NULL, WNOHANG);
        count++;
    }
    (void)closedir(proc);
    return count;
}

void ds_reap_session(pid_t session)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};

    for (int round = 0; round < ROUNDS && kill_children(session) > 0; round++)
        if (round > 0)
            (void)nanosleep(&pause, NULL);
}

void ds_reap_all(void)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};

    for (int round = 0; round < ROUNDS; round++) {
        pid_t pid;

        do
            pid = waitpid(-1, NULL, WNOHANG);
        while (pid > 0 || (pid < 0 && errno == EINTR));
        if (pid < 0)
            return; /* ECHILD */
        (void)kill_children(0);
        if (round > 0)
            (void)nanosleep(&pause, NULL);
    }
}
