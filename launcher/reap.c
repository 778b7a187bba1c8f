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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 200 };

void ds_reap_become(void)
{
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL);
}

/* Parent of `pid`, or -1. */
static pid_t parent_of(const char *pid)
{
    char path[64], text[512];
    const char *end;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    n = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    end = strrchr(text, ')'); /* the name may hold anything; "... ) S PPID" follows it */
    return end != NULL && strlen(end) > 4 ? (pid_t)strtol(end + 4, NULL, 10) : -1;
}

static void kill_children(void)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;

    if (proc == NULL)
        return;
    while ((entry = readdir(proc)) != NULL) {
        pid_t pid =
            isdigit((unsigned char)entry->d_name[0]) ? (pid_t)strtol(entry->d_name, NULL, 10) : 0;

        if (pid > 0 && parent_of(entry->d_name) == getpid())
            (void)kill(pid, SIGKILL);
    }
    (void)closedir(proc);
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
        kill_children();
        if (round > 0)
            (void)nanosleep(&pause, NULL);
    }
}
