/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * work.h - seconds that one instruction of a plan takes on a described cluster.
 *
 * A roofline: a matrix product takes its FLOPs at the rate of its shape, or the time its three
 * matrices take to pass through memory, whichever is longer; everything else is bytes at a
 * bandwidth; each operation adds the time of a launch.  Collectives are rings: each rank sends its
 * bytes through the narrowest link of the group, plus a latency for each doubling of the ranks.
 *
 * Source  Williams et al., "Roofline", CACM 2009; Thakur et al., "Optimization of Collective
 *         Communication Operations in MPICH", IJHPCA 2005.
 * Tests   tests/cost/test_predict.c
 */
#ifndef DS_RUNTIME_COST_WORK_H
#define DS_RUNTIME_COST_WORK_H

#include "runtime/cost/cluster.h"
#include "runtime/plan/plan.h"

/* Ranks that talk to each other: `ranks` of them, `per_host` on each host that they touch. */
struct ds_ring {
    uint64_t ranks, per_host;
};

/* Those of a group, where every host has cluster->ranks. */
struct ds_ring ds_ring_of(const struct ds_cluster *cluster, struct ds_comm_group group);

/* trips 1: reduce-scatter or all-gather of `bytes` in all; 2: all-reduce. */
double ds_work_collective(const struct ds_cluster *cluster, struct ds_ring ring, double bytes,
                          unsigned trips);

/* One product D[m,n] = A[m,k] B[k,n] of operands and result of `size` bytes each. */
double ds_work_matmul(const struct ds_cluster *cluster, enum ds_compute compute, double m, double n,
                      double k);

/* Operations that read and write so many bytes. */
double ds_work_pointwise(const struct ds_cluster *cluster, enum ds_compute compute, double bytes,
                         double operations);

/* What ranks tell each other in `instr` (talk.c). */
double ds_work_talk(const struct ds_cluster *cluster, const struct ds_plan *plan,
                    const struct ds_instr *instr);

/* Bytes between the host's memory and the device's; read and written where that is one. */
double ds_work_link(const struct ds_cluster *cluster, double bytes);

/* What a step ends with, of `instr`: gradients kept, norms, updates, copies (end.c). */
double ds_work_end(const struct ds_cluster *cluster, const struct ds_plan *plan,
                   const struct ds_instr *instr);

/* Seconds of `instr` with nothing else running.  Every host holds cluster->ranks of the plan's
 * ranks. */
double ds_work_instr(const struct ds_cluster *cluster, const struct ds_plan *plan,
                     const struct ds_instr *instr);

#endif
