/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * agent.c - main of dsrun-agent: frames on stdin and stdout, nothing else; as `dsrun-agent slurm`,
 * started by srun, an invitation on stdin and frames over the connection that it names.
 *
 * The channel is moved away from descriptors 0 and 1, so that nothing that prints can damage it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/build.h"
#include "base/error.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "launcher/agent.h"
#include "launcher/guard.h"
#include "launcher/remote/join.h"

enum { FIRST_FD = 32 };

int main(int argc, char **argv)
{
    char exe_dir[DS_MAX_PATH];
    struct ds_agent_args args = {.exe_dir = exe_dir};
    struct ds_join join = {.fd = -1};
    struct ds_error err = {0};
    const pid_t self = getpid(); /* once there is a guard, its */
    bool slurm, local, joins, guard = false;
    int null_fd, code = DS_EXIT_OK;

    ds_log_init("dsrun-agent", DS_LOG_WARNING);
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return dprintf(STDOUT_FILENO, "dsrun-agent %s\n", ds_build_id) < 0;
    slurm = argc == 2 && strcmp(argv[1], "slurm") == 0;
    local = argc == 2 && strcmp(argv[1], "local") == 0; /* dsrun itself is its guard */
    joins = argc == 3 && strcmp(argv[1], "join") == 0;  /* by the name argv[2] */
    if ((argc != 1 && !slurm && !local && !joins) || isatty(STDIN_FILENO)) {
        ds_log(DS_LOG_ERROR, "this program is started by dsrun, not by hand");
        return DS_EXIT_USAGE;
    }
    if (ds_path_self_dir(exe_dir, &err) != 0) {
        ds_log(DS_LOG_ERROR, "%s", err.text);
        return DS_EXIT_SOFTWARE;
    }
    if (!local && ds_guard_enter(&guard, &code, &err) != 0) {
        ds_log(DS_LOG_ERROR, "%s", err.text);
        return DS_EXIT_SOFTWARE;
    }
    if (guard)
        return code;
    args.guard = local ? 0 : self;
    args.in_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, FIRST_FD);
    args.out_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, FIRST_FD);
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (args.in_fd < 0 || args.out_fd < 0 || null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 ||
        dup2(null_fd, STDOUT_FILENO) < 0) {
        ds_log(DS_LOG_ERROR, "cannot move stdin and stdout: %s%s", strerror(errno),
               errno == EBADF ? "" : "; more open files must be allowed (ulimit -n)");
        return DS_EXIT_USAGE;
    }
    if (null_fd > STDERR_FILENO)
        (void)close(null_fd);
    if (slurm || joins) {
        /* Its line is stdout, which no guard keeps open; stdin is the lease. */
        if ((slurm ? ds_join_slurm(&join, args.in_fd, &err)
                   : ds_join_connected(&join, args.in_fd, args.out_fd, argv[2], &err)) != 0) {
            ds_log(DS_LOG_ERROR, "%s", err.text);
            return DS_EXIT_UNAVAILABLE;
        }
        args.join = &join;
    }
    return ds_agent_run(&args);
}
