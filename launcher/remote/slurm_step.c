/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * slurm_step.c - what slurm.h says of a step: the arguments and the environment of srun.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "launcher/hosts/hostlist.h"
#include "launcher/remote/slurm.h"

enum { OWN_ARGS = 16 };

int ds_slurm_argv(struct ds_arena *arena, const char *const *host, size_t hosts, const char *agent,
                  const struct ds_srun_more *more, const char *const **argv, struct ds_error *err)
{
    struct ds_buf list;
    const char **out = ds_arena_alloc(arena, OWN_ARGS + more->count, sizeof(*out));
    size_t n = 0;
    int rc;

    ds_buf_init(&list, DS_MAX_HOSTS * (DS_MAX_HOST_NAME + 1));
    rc = ds_hostlist_print(host, hosts, &list);
    if (out != NULL && rc == 0) {
        out[n++] = "srun";
        out[n++] = ds_arena_printf(arena, "--nodes=%zu", hosts);
        out[n++] = ds_arena_printf(arena, "--ntasks=%zu", hosts);
        out[n++] = "--ntasks-per-node=1";
        out[n++] = ds_arena_printf(arena, "--nodelist=%s", ds_buf_text(&list));
        out[n++] = "-K0";             /* who dies is for dsrun to say, */
        out[n++] = "--no-kill";       /* when a node fails, too, */
        out[n++] = "--wait=0";        /* and when */
        out[n++] = "--overlap";       /* beside the step that dsrun itself may be in */
        out[n++] = "--cpu-bind=none"; /* ranks are bound by their agent */
        out[n++] = "--mpi=none";
        out[n++] = "--export=ALL";
        out[n++] = "--input=all";
        for (size_t i = 0; i < more->count; i++)
            out[n++] = more->arg[i];
        out[n++] = agent;
        out[n++] = "slurm";
        for (size_t i = 0; i < n; i++)
            rc = out[i] == NULL ? -ENOMEM : rc;
    }
    ds_buf_release(&list);
    if (out == NULL || rc != 0)
        return ds_fail(err, ENOMEM, "no memory for the arguments of srun");
    *argv = out;
    return 0;
}

/* Options that dsrun sets, and those that change what the tasks are, where they write or whether
 * they run at all. */
/* clang-format off */
static const char *const reserved[] = {
    "nodes", "nodelist", "nodefile", "nodelist-file", "relative",
    "ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket", "ntasks-per-gpu", "ntasks-per-tres",
    "kill-on-bad-exit", "no-kill", "wait", "overlap", "exclusive", "exact", "immediate", "quit-on-interrupt", "disable-status",
    "cpu-bind", "cpu_bind", "distribution", "mpi", "export", "export-file", "input", "output", "error", "label", "unbuffered", "pty", "interactive",
    "multi-prog", "prolog", "epilog", "het-group", "pack-group", "jobid", "allocation", "no-allocate", "test-only", "help", "usage", "version",
};
/* clang-format on */

int ds_slurm_check(const char *arg, struct ds_error *err)
{
    const char *name = strncmp(arg, "--", 2) == 0 ? arg + 2 : "";
    size_t len = strcspn(name, "=");

    for (const char *c = arg; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            return ds_fail(err, EINVAL, "an argument of srun has a control character");
    if (len == 0 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != len)
        return ds_fail(err, EINVAL, "'%.100s' is not written '--name' or '--name=value'", arg);
    for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
        if (strncmp(reserved[i], name, len) == 0) /* srun takes any beginning that is one's alone */
            return ds_fail(err, EINVAL, "'--%.*s' cannot be given: srun's '--%s' is dsrun's to set",
                           (int)len, name, reserved[i]);
    return 0;
}

/* Variables of the job that srun would take for options of this step. */
static bool is_geometry(const char *variable)
{
    static const char *const names[] = {
        "SLURM_CPUS_PER_TASK",  "SRUN_CPUS_PER_TASK",    "SLURM_GPUS_PER_TASK",
        "SLURM_NTASKS_PER_GPU", "SLURM_TRES_PER_TASK",   "SLURM_EXACT",
        "SLURM_DISTRIBUTION",   "SLURM_LABELIO",         "SLURM_UNBUFFEREDIO",
        "SLURM_MULTI_PROG",     "SLURM_NTASKS_PER_CORE", "SLURM_NTASKS_PER_SOCKET",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t len = strlen(names[i]);

        if (strncmp(variable, names[i], len) == 0 && variable[len] == '=')
            return true;
    }
    return false;
}

char **ds_slurm_environment(struct ds_arena *arena)
{
    size_t n = 0, kept = 0;
    char **out;

    while (environ[n] != NULL)
        n++;
    out = ds_arena_alloc(arena, n + 1, sizeof(*out));
    for (size_t i = 0; out != NULL && i < n; i++)
        if (!is_geometry(environ[i]))
            out[kept++] = environ[i];
    return out;
}
