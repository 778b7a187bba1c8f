/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * slurm_env.h - the allocation of a Slurm job, from the variables that Slurm sets, as a roster.
 *
 *     SLURM_JOB_NODELIST=n[01-03,07],x5      hosts, in this order
 *     SLURM_TASKS_PER_NODE=2(x3),1,4         ranks per host, when tasks were asked for
 *     SLURM_GPUS_PER_NODE=a100:8             ranks per host, when GPUs were and tasks were not
 *     SLURM_JOB_CPUS_PER_NODE=64(x4),32      cores per host
 *
 * Without -n or --ntasks-per-node Slurm sets SLURM_TASKS_PER_NODE all the same (to 1, or in an
 * exclusive allocation to the number of cores), so it counts only where SLURM_NTASKS or
 * SLURM_NTASKS_PER_NODE stands beside it.  Where neither tasks nor GPUs per node are known, slots
 * stay 0: not said.
 *
 * What is said of GPUs in other ways is for jobs that compute on them: --gres=gpu:4, of which a
 * batch script has SLURM_GPUS_ON_NODE alone and what salloc starts nothing, and --gpus-per-task.
 *
 * Anyone can set variables: they are parsed as any other input, and counted before they are made.
 * Pure but for ds_slurm_env_get().
 *
 * Source  the manual pages sbatch(1), salloc(1) and srun(1) of Slurm 22.05, "OUTPUT ENVIRONMENT
 *         VARIABLES", and what it sets (tests/e2e/slurm.py).
 * Tests   tests/launcher/test_slurm_env.c, tests/fuzz/fuzz_slurm_env.c
 */
#ifndef DS_LAUNCHER_HOSTS_SLURM_ENV_H
#define DS_LAUNCHER_HOSTS_SLURM_ENV_H

#include <stdbool.h>

#include "launcher/hosts/roster.h"

/* clang-format off */
#define DS_SLURM_VARS(X) \
    X(job_id,         "SLURM_JOB_ID",            "decimal") \
    X(nodelist,       "SLURM_JOB_NODELIST",      "n[01-03],x5") \
    X(num_nodes,      "SLURM_JOB_NUM_NODES",     "decimal") \
    X(tasks_per_node, "SLURM_TASKS_PER_NODE",    "2(x3),1") \
    X(cpus_per_node,  "SLURM_JOB_CPUS_PER_NODE", "2(x3),1") \
    X(ntasks,         "SLURM_NTASKS",            "decimal; set only where tasks were asked for") \
    X(ntasks_node,    "SLURM_NTASKS_PER_NODE",   "the same") \
    X(gpus_per_node,  "SLURM_GPUS_PER_NODE",     "8, a100:8, or a100:4,v100:2") \
    X(gpus,           "SLURM_GPUS",              "as before, for all nodes together") \
    X(step_tasks,     "SLURM_STEP_NUM_TASKS",    "decimal; set in a task of srun") \
    X(gpus_per_task,  "SLURM_GPUS_PER_TASK",     "as SLURM_GPUS_PER_NODE, for each task") \
    X(gpus_on_node,   "SLURM_GPUS_ON_NODE",      "decimal; of the node that this runs on")
/* clang-format on */

struct ds_slurm_env { /* values as they were found; NULL: not set; borrowed */
#define X(field, name, form) const char *field;
    DS_SLURM_VARS(X)
#undef X
};

/* Fill from the process's environment.  False: this is not inside an allocation. */
bool ds_slurm_env_get(struct ds_slurm_env *env);

/* Add the hosts of the allocation.  -EINVAL, with the variable's name: malformed, contradicting,
 * too large, or this process is one of several that srun started. */
int ds_slurm_env_parse(struct ds_roster *roster, const struct ds_slurm_env *env,
                       struct ds_error *err) DS_NODISCARD;

/* Ranks for GPUs, in a roster of ds_slurm_env_parse(): as many as a node has GPUs where slots are
 * not said.  `train`: each rank will compute on one, so that one task on each node, as scripts for
 * torchrun ask for, is who starts them. */
void ds_slurm_env_use_gpus(struct ds_roster *roster, bool train);

#endif
