/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bind.h - cores, memory and GPU of each rank of a host: near each other where that is known.
 *
 * Every rank gets as many cores as cores.h says, no more and no fewer: what a job computes depends
 * on their number, never on which they are.
 *
 *   1. The cores near a GPU are divided among the ranks that have one there.
 *   2. Any other rank gets its cores in one NUMA node, the first that still has so many.
 *   3. What then is missing comes from the nodes with the most left.
 *
 * Where there is but one node, or ranks want more cores than there are, they are dealt in order.
 *
 * A core is what the kernel counts, a hardware thread.  Those of one physical core go to one rank:
 * two ranks share one only where an odd number of cores for each, or what is near a GPU, leaves no
 * other way.
 *
 * Tests   tests/launcher/test_bind.c, tests/e2e/bind.py
 */
#ifndef DS_LAUNCHER_BIND_H
#define DS_LAUNCHER_BIND_H

#include <sched.h>
#include <stdbool.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "launcher/topology.h"

struct ds_spec;

struct ds_bind {
    cpu_set_t cores;
    int node; /* whose memory it should have, the kernel's number; -1: any */
    int gpu;  /* its own, an index into the topology; -1: none, or not known */
};

struct ds_bind_args {
    const struct ds_topology *topology;
    const cpu_set_t *allowed;
    unsigned ranks, threads; /* of the host; cores of each */
    const unsigned *device;  /* GPUs that ranks see; with as many as ranks or more each has one */
    unsigned devices;
};

/* Deal; `out` has room for all ranks.  NULL, or why they were dealt in order. */
const char *ds_bind_deal(const struct ds_bind_args *args, struct ds_bind *out);

/* A host's ranks and what they were given. */
struct ds_bound {
    struct ds_topology topology;
    const struct ds_bind *rank;            /* spec->ranks of them */
    const char *why;                       /* they were dealt in order; NULL: they were not */
    unsigned device[DS_MAX_GPUS], devices; /* indices of the GPUs that ranks see */
    unsigned asked; /* the first so many of them are for this job alone: see gpulock.h */
    bool shared;    /* or for others, too, that say so */
    bool memory;    /* the kernel lets a rank prefer a node's memory */
};

/* Deal the cores of this host to the ranks of `spec`, `threads` cores to each. */
int ds_bind_host(const struct ds_bound **out, const struct ds_spec *spec, const cpu_set_t *allowed,
                 unsigned threads, struct ds_arena *arena, struct ds_error *err) DS_NODISCARD;

/* For events.jsonl: what local rank `local` was given. */
void ds_bind_tell(const struct ds_bound *bound, const struct ds_spec *spec, unsigned local,
                  struct ds_buf *json);

/* Prefer the memory of a node from now on, and in what is exec'd.  Async-signal-safe; a kernel that
 * refuses leaves things as they are. */
void ds_bind_memory(int node);

#endif
