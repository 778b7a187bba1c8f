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

int ds_slurm_argv(struct ds_arena *arena, const char *const *host, size_t hosts, const char *agent,
                  const char *const **argv, struct ds_error *err)
{
    struct ds_buf list;
    const char **out = ds_arena_alloc(arena, 16, sizeof(*out));
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
        out[n++] = "-K0";             /* who dies is for dsrun to say */
        out[n++] = "--wait=0";        /* and when */
        out[n++] = "--overlap";       /* beside the step that dsrun itself may be in */
        out[n++] = "--cpu-bind=none"; /* ranks are bound by their agent */
        out[n++] = "--mpi=none";
        out[n++] = "--export=ALL";
        out[n++] = "--input=all";
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
