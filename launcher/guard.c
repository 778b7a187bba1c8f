/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * guard.c - the contract is in guard.h.
 */
#include "launcher/guard.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/cgroup.h"
#include "launcher/reap.h"
#include "launcher/signals.h"

/* Until the agent has ended; signals are passed on to it. */
static int watch(pid_t agent, const sigset_t *set)
{
    for (;;) {
        int status = 0, number = sigwaitinfo(set, NULL);

        if (number > 0 && number != SIGCHLD)
            (void)kill(agent, number);
        if (waitpid(agent, &status, WNOHANG) == agent)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

int ds_guard_signal(int code)
{
    return code > 128 && code < 128 + SIGRTMIN ? code - 128 : 0;
}

int ds_guard_enter(bool *guard, int *code, struct ds_error *err)
{
    sigset_t set, old;
    pid_t agent;

    *guard = false;
    ds_signals_agent(&set);
    (void)sigprocmask(SIG_BLOCK, &set, &old); /* before there is a child to be told of */
    ds_reap_become();
    agent = fork();
    if (agent < 0)
        return ds_fail(err, errno, "cannot start a process: %s", strerror(errno));
    if (agent == 0) {
        (void)prctl(PR_SET_PDEATHSIG, (unsigned long)SIGCHLD, 0UL, 0UL, 0UL);
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        return 0;
    }
    *guard = true;
    (void)close(STDIN_FILENO); /* the line is the agent's alone: its end is its end */
    (void)close(STDOUT_FILENO);
    *code = watch(agent, &set);
    ds_reap_all();
    ds_cgroup_forget(agent);
    return 0;
}
