/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * search.h - every layout that a job could run in on a cluster, the fastest by prediction first.
 *
 * Searched are train.micro_batch, zero.stage, zero.shard_group, activation.recompute and
 * offload.optim, which on devices apart is for optimizers that go by elements, and which tries nvme
 * where the job has it, whose path it needs.  Where stage 3 gathers ahead and the job leaves
 * zero.prefetch open, it is settled for each layout as a run settles it.  Who shares layers and
 * sequences is searched where the caller says that the job leaves it open: ranks of one host share
 * each layer or a sequence, of all hosts they may be parts of a pipeline.  The global batch and
 * everything else that decides what is learnt stays as it is.
 *
 * Owner   candidates live in the arena given.
 * Tests   tests/cost/test_search.c
 */
#ifndef DS_RUNTIME_COST_SEARCH_H
#define DS_RUNTIME_COST_SEARCH_H

#include "runtime/cost/predict.h"

struct ds_candidate {
    uint64_t micro_batch, stage;
    unsigned shard_group; /* enum ds_shard_group */
    enum ds_recompute recompute;
    enum ds_offload offload;
    uint64_t prefetch;                   /* 0: as the job says, or nothing is gathered ahead */
    uint64_t tensor, sequence, pipeline; /* ranks of each */
    uint64_t bytes;                      /* of one rank */
    bool fits;
    double step_s, tokens_per_s, mfu; /* predicted */
};

struct ds_search_args {
    const struct ds_job *job;
    const struct ds_cluster *cluster;
    unsigned threads;                /* of a rank */
    uint64_t available_bytes;        /* of one rank; 0: not checked */
    bool common;                     /* as in ds_plan_args */
    bool apart;                      /* as there, whatever the cluster tells of devices */
    bool tensor, sequence, pipeline; /* keys of `parallel` that are open */
    struct ds_arena *arena;
};

/* The ones that fit come first, the fastest of them first; where two are as fast, the one that
 * needs less memory.  -EINVAL no layout is possible, -ENOMEM. */
int ds_search(const struct ds_search_args *args, struct ds_candidate **candidate, size_t *count,
              struct ds_error *err) DS_NODISCARD;

/* `job` as this candidate; a shallow copy that must not be released. */
struct ds_job ds_candidate_job(const struct ds_job *job, const struct ds_candidate *candidate);

/* Append the overrides that make a job this candidate: "train.micro_batch=4 zero.stage=1 ...". */
void ds_candidate_print(const struct ds_job *job, const struct ds_candidate *candidate,
                        struct ds_buf *out);

#endif
