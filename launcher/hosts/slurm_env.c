/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * slurm_env.c - the contract is in slurm_env.h.
 */
#include "launcher/hosts/slurm_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 9 };

/* A decimal at *at, which moves behind it: 0 .. max. */
static bool read_number(const char **at, unsigned long max, unsigned long *out)
{
    size_t digits = strspn(*at, "0123456789");

    if (digits == 0 || digits > MAX_DIGITS)
        return false;
    *out = strtoul(*at, NULL, 10);
    *at += digits;
    return *out <= max;
}

static int bad(struct ds_error *err, const char *name, const char *value, const char *why)
{
    return ds_fail(err, EINVAL, "%s='%.100s': %s", name, value, why);
}

/* "2(x3),1": one number for each host of the roster, into the field at `offset`. */
static int read_counts(struct ds_roster *roster, const char *name, const char *value,
                       unsigned long max, size_t offset, struct ds_error *err)
{
    const char *at = value;
    size_t host = 0;

    for (;;) {
        unsigned long n, times = 1;

        if (!read_number(&at, max, &n) || n == 0)
            return bad(err, name, value, "not a list of numbers like '2(x3),1'");
        if (strncmp(at, "(x", 2) == 0) {
            at += 2;
            if (!read_number(&at, DS_MAX_HOSTS, &times) || times == 0 || *at != ')')
                return bad(err, name, value, "not a list of numbers like '2(x3),1'");
            at++;
        }
        if (times > roster->hosts - host)
            return ds_fail(err, EINVAL, "%s='%.100s': more numbers than the %zu nodes", name, value,
                           roster->hosts);
        while (times-- > 0) {
            uint32_t narrow = (uint32_t)n;

            memcpy((char *)&roster->host[host++] + offset, &narrow, sizeof(narrow));
        }
        if (*at == '\0')
            break;
        if (*at++ != ',')
            return bad(err, name, value, "not a list of numbers like '2(x3),1'");
    }
    if (host != roster->hosts)
        return ds_fail(err, EINVAL, "%s='%.100s': %zu numbers for %zu nodes", name, value, host,
                       roster->hosts);
    return 0;
}

/* "8", "a100:8", "a100:4,v100:2": their sum. */
static int read_gpus(const char *name, const char *value, uint32_t *out, struct ds_error *err)
{
    const char *at = value;
    unsigned long n, sum = 0;

    for (;;) {
        size_t type =
            strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

        if (type > 0 && at[type] == ':')
            at += type + 1;
        if (!read_number(&at, DS_MAX_SLOTS, &n) || (*at != ',' && *at != '\0'))
            return bad(err, name, value, "not a number of GPUs like '8' or 'a100:8'");
        sum += n;
        if (sum > DS_MAX_SLOTS)
            return bad(err, name, value, "too many GPUs");
        if (*at == '\0')
            break;
        at++;
    }
    if (sum == 0)
        return bad(err, name, value, "not a number of GPUs like '8' or 'a100:8'");
    *out = (uint32_t)sum;
    return 0;
}

/* The list is cut at commas outside of brackets; each piece is a pattern of the roster. */
static int read_nodes(struct ds_roster *roster, const char *value, struct ds_error *err)
{
    const struct ds_host_spec host = {0};
    const char *at = value;
    int rc = 0;

    if (strnlen(value, DS_MAX_YAML_BYTES + 1) > DS_MAX_YAML_BYTES)
        return ds_fail(err, EINVAL, "longer than %d bytes", DS_MAX_YAML_BYTES);
    while (rc == 0) {
        size_t len = 0;
        bool inside = false;
        char *pattern;

        while (at[len] != '\0' && (inside || at[len] != ',')) {
            inside = at[len] == '[' || (inside && at[len] != ']');
            len++;
        }
        pattern = ds_arena_strndup(&roster->arena, at, len);
        if (pattern == NULL)
            return ds_fail(err, ENOMEM, "no memory for the nodes");
        rc = ds_roster_add(roster, pattern, &host, err);
        if (at[len] == '\0')
            break;
        at += len + 1;
    }
    return rc;
}

/* Of each task, where tasks are known. */
static int read_task_gpus(struct ds_roster *roster, const char *value, struct ds_error *err)
{
    uint32_t gpus = 0;
    int rc = read_gpus("SLURM_GPUS_PER_TASK", value, &gpus, err);

    for (size_t i = 0; rc == 0 && i < roster->hosts; i++) {
        struct ds_host_spec *host = &roster->host[i];

        if (host->slots > DS_MAX_SLOTS / gpus)
            rc = bad(err, "SLURM_GPUS_PER_TASK", value, "too many GPUs");
        else
            host->gpus = host->slots * gpus;
    }
    return rc;
}

/* GPUs per host.  Those of this node are those of all but where they were dealt out of one number
 * for all nodes. */
static int read_host_gpus(struct ds_roster *roster, const struct ds_slurm_env *env,
                          struct ds_error *err)
{
    uint32_t gpus = 0;
    int rc = 0;

    if (env->gpus_per_node != NULL)
        rc = read_gpus("SLURM_GPUS_PER_NODE", env->gpus_per_node, &gpus, err);
    else if (env->gpus != NULL && roster->hosts == 1)
        rc = read_gpus("SLURM_GPUS", env->gpus, &gpus, err);
    else if (env->gpus_per_task != NULL)
        return read_task_gpus(roster, env->gpus_per_task, err);
    else if (env->gpus == NULL && env->gpus_on_node != NULL && strcmp(env->gpus_on_node, "0") != 0)
        rc = read_gpus("SLURM_GPUS_ON_NODE", env->gpus_on_node, &gpus, err);
    for (size_t i = 0; rc == 0 && i < roster->hosts; i++)
        roster->host[i].gpus = gpus;
    return rc;
}

/* Ranks per host, where Slurm knows them. */
static int read_slots(struct ds_roster *roster, const struct ds_slurm_env *env,
                      struct ds_error *err)
{
    bool tasks = env->tasks_per_node != NULL && (env->ntasks != NULL || env->ntasks_node != NULL);
    bool gpus = env->gpus_per_node != NULL || env->gpus != NULL;
    int rc = 0;

    if (tasks)
        rc = read_counts(roster, "SLURM_TASKS_PER_NODE", env->tasks_per_node, DS_MAX_SLOTS,
                         offsetof(struct ds_host_spec, slots), err);
    if (rc == 0)
        rc = read_host_gpus(roster, env, err);
    for (size_t i = 0; rc == 0 && !tasks && gpus && i < roster->hosts; i++)
        roster->host[i].slots = roster->host[i].gpus;
    return rc;
}

void ds_slurm_env_use_gpus(struct ds_roster *roster, bool train)
{
    bool starters = train;

    for (size_t i = 0; i < roster->hosts; i++)
        starters = starters && roster->host[i].slots == 1;
    for (size_t i = 0; i < roster->hosts; i++) {
        struct ds_host_spec *host = &roster->host[i];

        if (host->gpus > 0 && (starters || host->slots == 0))
            host->slots = host->gpus;
    }
}

bool ds_slurm_env_get(struct ds_slurm_env *env)
{
#define X(field, name, form) env->field = getenv(name);
    DS_SLURM_VARS(X)
#undef X
    return env->job_id != NULL && env->nodelist != NULL;
}

int ds_slurm_env_parse(struct ds_roster *roster, const struct ds_slurm_env *env,
                       struct ds_error *err)
{
    const char *at = env->step_tasks;
    unsigned long n = 1;
    int rc;

    if (at != NULL && (!read_number(&at, DS_MAX_RANKS, &n) || *at != '\0'))
        return bad(err, "SLURM_STEP_NUM_TASKS", env->step_tasks, "not a number");
    if (n != 1)
        return ds_fail(
            err, EINVAL,
            "srun started this program %lu times (SLURM_STEP_NUM_TASKS): start dsrun once, "
            "without srun, and it starts the ranks on all nodes",
            n);
    if (env->nodelist == NULL)
        return ds_fail(err, EINVAL,
                       "SLURM_JOB_NODELIST is not set: this is not inside an allocation");
    rc = read_nodes(roster, env->nodelist, err);
    if (rc != 0)
        return ds_error_context(err, rc, "SLURM_JOB_NODELIST");
    at = env->num_nodes;
    if (at != NULL && (!read_number(&at, DS_MAX_HOSTS, &n) || *at != '\0' || n != roster->hosts))
        return ds_fail(err, EINVAL, "SLURM_JOB_NUM_NODES='%.40s', but SLURM_JOB_NODELIST names %zu",
                       env->num_nodes, roster->hosts);
    if (env->cpus_per_node != NULL)
        rc = read_counts(roster, "SLURM_JOB_CPUS_PER_NODE", env->cpus_per_node, DS_MAX_CPUS,
                         offsetof(struct ds_host_spec, cpus), err);
    return rc != 0 ? rc : read_slots(roster, env, err);
}
