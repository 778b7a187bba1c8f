/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * place.h - from the command line and the job to a placement: hosts, slots, ranks, cores.
 *
 * Hosts: those of the hostfile, else of the Slurm allocation that this runs in, else of the job of
 * another batch system (nodefile.h), else this machine.
 * Ranks per host: --slots, else the hostfile or Slurm, else launch.slots, else the GPUs of the host
 * that a job would use, else 1.  Where nobody says how many slots a host has, --include may name
 * any of them.
 *
 * Tests   tests/e2e/processes.py
 */
#ifndef DS_CLI_PLACE_H
#define DS_CLI_PLACE_H

#include "base/buf.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/env.h"
#include "cli/gpus.h"
#include "launcher/fleet/spares.h"
#include "launcher/hosts/placement.h"
#include "launcher/hosts/roster.h"
#include "launcher/remote/join.h"
#include "launcher/remote/transport.h"

struct ds_job;
struct ds_json;
struct ds_transport;

struct ds_cli_place {
    struct ds_roster roster;
    struct ds_placement placement;
    const struct ds_transport *transport; /* how the hosts are reached */
    struct ds_join_site join;             /* where they come to, where that is how */
    struct ds_srun_more srun;             /* of --srun-arg */
    unsigned threads;                     /* that compute, per rank */
    unsigned cores;   /* a rank may use: its share of the machine, or `threads` if that is more */
    unsigned crowded; /* cores of a host, where they are known, if a rank has more threads; or 0 */
    bool no_gpus;     /* the ranks compute on the CPU */
    const char **devices; /* per place: CUDA_VISIBLE_DEVICES of its ranks, or NULL; in the arena of
                           * the roster.  NULL: ranks compute on the CPU, or nobody asked */
    struct ds_env env;    /* that all ranks are given after it; borrowed, or in that arena */
    bool count_gpus;      /* where nobody says how many slots a host has */
    struct ds_cli_gpus gpus; /* of this machine, that were counted then */
    bool allocated;          /* the hosts are those of a batch system, which chose how many */
    const char *source;      /* the variable that named the hosts of such a job, or NULL */
    const char *uncounted; /* the first host that is to be asked for its own and was not, or NULL */
};

/* With the devices and the variables of the ranks, on the largest number of hosts of --nodes
 * MIN:MAX that the job goes with; on MAX where there is none, which is for the caller to tell.  The
 * job is settled for it (fit.h).  `ask`: other hosts may be asked for their GPUs (count.h) where
 * ranks depend on them; else such a host has one.  -EINVAL and -ENOENT as the hostfile and fit.h
 * say; -EDOM a selection, or a way to reach hosts, that cannot be; -EHOSTUNREACH a host that is not
 * this machine; else what ds_cli_env() and ds_cli_count() say. */
int ds_cli_place(const struct ds_cli *cli, struct ds_job *job, bool ask, struct ds_cli_place *place,
                 struct ds_error *err) DS_NODISCARD;

/* The same without a job: `slots` ranks on a host for which nobody says how many, 0 if that is not
 * said here either; the cores of a host are for all of its ranks, whose devices and variables are
 * the caller's to find.  A machine may be named more than once. */
int ds_cli_place_hosts(const struct ds_cli *cli, uint64_t slots, struct ds_cli_place *place,
                       struct ds_error *err) DS_NODISCARD;
/* Hosts of the roster that the placement leaves and its transport can reach; `job`, which is
 * borrowed, is what is divided when others are left out, or NULL.  The placement must not move
 * meanwhile. */
int ds_cli_place_spares(struct ds_cli_place *place, const struct ds_cli *cli,
                        const struct ds_job *job, struct ds_spares *spares, struct ds_error *err)
    DS_NODISCARD;
/* After that changed the placement: devices, where ranks have some, and among fewer hosts cores
 * anew; `threads` is launch.threads.  -EDOM: a slot has no device. */
int ds_cli_place_again(struct ds_cli_place *place, const struct ds_spares_change *change,
                       unsigned threads, struct ds_error *err) DS_NODISCARD;

void ds_cli_place_release(struct ds_cli_place *place); /* fine on a zeroed struct */

/* Warn of a placement that will be another one when hosts are asked. */
void ds_cli_place_warn(const struct ds_cli_place *place);

/* One line per rank: host, slot, cores; on this machine which cores, and the GPU that is near. */
void ds_cli_place_print(const struct ds_cli_place *place, struct ds_buf *out);
/* The same as an array of objects: an element `key` of an object. */
void ds_cli_place_json(const struct ds_cli_place *place, const char *key, struct ds_json *json);
/* What a dry run prints, on standard output: what `text` writes, or an object with the elements
 * that `json` writes (one of the two is NULL), then which variable named the hosts, if one did, and
 * the srun command line, where Slurm starts the agents.  Returns an exit code; what went wrong is
 * logged. */
int ds_cli_place_dry(const struct ds_cli_place *place,
                     void (*text)(const void *user, struct ds_buf *out),
                     void (*json)(const void *user, struct ds_json *out), const void *user);
/* One line per host, as text or as an object; then one more for each of the last two. */
int ds_cli_place_list(const struct ds_cli_place *place, bool as_json, struct ds_buf *out,
                      struct ds_error *err) DS_NODISCARD;

/* The srun command line that would start the agents, where Slurm starts them; else nothing.  No
 * line feed at its end. */
int ds_cli_place_srun(const struct ds_cli_place *place, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

#endif
