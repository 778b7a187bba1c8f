/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.c - the contract is in device.h.
 */
#include "cli/device.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/cli.h"
#include "cli/place.h"
#include "launcher/remote/transport.h"
#include "runtime/job.h"
#include "runtime/plan/plan.h"
#include "runtime/plugin.h"

enum { ANSWER_BYTES = 64 };

/* All that comes out of `fd`, up to cap - 1 bytes, as text. */
static void read_answer(int fd, char *out, size_t cap)
{
    size_t len = 0;
    ssize_t got = 1;

    while (got > 0 && len + 1 < cap) {
        got = read(fd, out + len, cap - 1 - len);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            len += (size_t)got;
    }
    out[len] = '\0';
}

/* Start `path device`, its output into fd, what it says of its failure to nobody: the rank that
 * opens the device says it. */
static int start(pid_t *pid, const char *path, int fd, struct ds_error *err)
{
    const char *argv[] = {"dsrun-worker", "device", NULL};
    posix_spawn_file_actions_t files;
    int rc;

    (void)posix_spawn_file_actions_init(&files);
    rc = posix_spawn_file_actions_adddup2(&files, fd, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (rc == 0)
        rc = posix_spawn(pid, path, &files, NULL, (char **)(uintptr_t)argv, environ);
    (void)posix_spawn_file_actions_destroy(&files);
    return rc == 0 ? 0 : ds_fail(err, rc, "cannot start '%s': %s", path, strerror(rc));
}

/* How many GPUs there are, and what the first has free; 0: none that can be used. */
static int ask(unsigned *devices, uint64_t *left, struct ds_error *err)
{
    char path[DS_MAX_PATH], answer[ANSWER_BYTES] = "";
    int fd[2], status = 0, rc = ds_cli_libexec(path, DS_PLUGIN_FILE, err);
    unsigned long long bytes = 0;
    pid_t pid = 0;

    *devices = 0;
    if (rc == 0 && access(path, R_OK) != 0)
        return 0; /* the worker would only say so */
    if (rc == 0)
        rc = ds_cli_libexec(path, "dsrun-worker", err);
    if (rc != 0)
        return rc;
    if (pipe2(fd, O_CLOEXEC) != 0)
        return ds_fail(err, errno, "cannot make a pipe: %s", strerror(errno));
    rc = start(&pid, path, fd[1], err);
    (void)close(fd[1]);
    if (rc == 0)
        read_answer(fd[0], answer, sizeof(answer));
    (void)close(fd[0]);
    while (rc == 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (rc == 0 && status == 0 && sscanf(answer, "%u %llu", devices, &bytes) != 2)
        *devices = 0;
    *left = bytes;
    return rc;
}

int ds_cli_memory(const struct ds_job *job, const struct ds_cli_place *place,
                  struct ds_cli_memory *memory, struct ds_error *err)
{
    const enum ds_device_kind wanted = job->launch.device;
    unsigned ranks = place->placement.place[0].ranks, devices = 0;
    uint64_t left = 0;
    int rc = 0;

    *memory = (struct ds_cli_memory){.bytes = ds_mem_available(), .ranks = ranks};
    memory->limited = memory->bytes == ds_mem_addresses();
    if (wanted == DS_DEVICE_CPU)
        return 0;
    if (place->transport == &ds_transport_local)
        rc = ask(&devices, &left, err);
    if (rc != 0 || (devices == 0 && wanted == DS_DEVICE_AUTO))
        return rc;
    *memory = (struct ds_cli_memory){.apart = true, .bytes = UINT64_MAX, .ranks = 1};
    if (devices == 0)
        return 0;
    memory->bytes = left;
    memory->ranks = (ranks + devices - 1) / devices;
    return 0;
}

int ds_cli_memory_holds(const struct ds_cli_memory *memory, const struct ds_plan *plan,
                        struct ds_error *err)
{
    int rc = ds_plan_check_fit(plan, memory->ranks, memory->bytes, err);

    return rc == -ENOMEM && memory->limited
               ? ds_error_context(err, rc, "the addresses of a process are limited (ulimit -v)")
               : rc;
}
