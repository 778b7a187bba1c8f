/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trust.h - how far LAMB trusts its direction u, tensor by tensor: ||p|| / ||u||.
 *
 *   u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * p
 *   p = p - lr * ratio * u
 *
 * The variant is the paper's (algorithm 2) with phi(x) = x and no bounds: the ratio is of every
 * tensor, those without decay included, and 1 where either norm is 0.
 *
 * A norm is summed as the global norm of gradients is: each rank adds the squares of its slice of
 * the tensor, in element order and fixed chunks, and the slices are added along the tree of the
 * ranks.  Slices are the same at every ZeRO stage, so the ratios have the same bits.  The squares
 * are those of the parameters before the update.  Where the device decides what becomes of a step
 * (plan.h, `late`) it adds the ranks as well, and the host does not wait.
 *
 * Tests   tests/engine/test_update.c; the kernels in tests/kernels/test_lamb.c
 */
#ifndef DS_RUNTIME_TRUST_H
#define DS_RUNTIME_TRUST_H

#include "base/error.h"
#include "kernels/op.h"
#include "runtime/comm/comm.h"
#include "runtime/engine.h"
#include "runtime/job.h"
#include "runtime/plan/plan.h"

struct ds_trust {
    const struct ds_plan *plan; /* of by_tensor */
    const struct ds_job *job;
    struct ds_comm *comm;             /* of those with the same parameters; NULL: nobody else */
    struct ds_engine_lines lines;     /* the device's */
    double *sums;                     /* the device's, ds_plan_norms_bytes() */
    double grad_scale;                /* clipping */
    uint64_t update;                  /* from 1 */
    const struct ds_verdict *verdict; /* of a plan that is late: says both instead */
};

/* Bring the states of this rank's shard up to date with its gradients, and sum over ranks:
 * sums[2 i], sums[2 i + 1] become the squares of p and u of span i.  Collective.  With
 * offload.optim gradients are read where they were summed, which is memory of the host as well. */
int ds_trust_norms(const struct ds_trust *trust, struct ds_stream *stream, struct ds_error *err)
    DS_NODISCARD;

#endif
