/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * end.c - seconds of what ends a step: gradients kept, norms, updates, copies; the contract is in
 * work.h.
 *
 * Tests   tests/cost/test_predict.c
 */
#include <math.h>

#include "kernels/amount.h"
#include "runtime/cost/work.h"
#include "runtime/optim.h"

struct end {
    const struct ds_cluster *cluster;
    const struct ds_plan *plan;
    double act;         /* bytes of an activation */
    enum ds_dtype type; /* of it */
};

double ds_work_link(const struct ds_cluster *cluster, double bytes)
{
    if (cluster->pcie.bandwidth > 0.0)
        return bytes / cluster->pcie.bandwidth + cluster->pcie.latency_us * 1e-6;
    return 2.0 * bytes / cluster->device.bandwidth;
}

/* What stages 2 and 3 add to the shard of the gradients after the sum, or copy there; to the host's
 * memory, and what is there comes up to be added to. */
static double keep_s(const struct end *b, const struct ds_instr *instr)
{
    bool added = instr->accumulate, staged = b->plan->staged_elems > 0;
    double shard =
        (double)ds_plan_shard(b->plan, DS_ARENA_GRADS, instr->bucket).count * sizeof(float);
    double bytes = shard * (added ? 3.0 : 2.0);

    if (b->plan->host[DS_ARENA_GRADS] && b->cluster->pcie.bandwidth > 0.0)
        return ds_work_link(b->cluster, shard * (added ? 2.0 : 1.0));
    return staged ? bytes / b->cluster->device.bandwidth + b->cluster->device.launch_us * 1e-6
                  : 0.0;
}

/* LAMB's first pass reads parameters, gradients and states and writes states, all of the shard;
 * then two doubles of each tensor are summed over ranks, as many in a message as the comm takes, or
 * gathered by devices that add them up themselves. */
static double trust_s(const struct end *b)
{
    double norms = (double)ds_plan_norms(b->plan), held = 0.0;
    double ranks = (double)ds_plan_part_ranks(b->plan);
    const struct ds_ring ring = ds_ring_of(b->cluster, ds_plan_part_group(b->plan));
    double added =
        b->plan->late
            ? ds_work_collective(b->cluster, ring, ranks * norms * sizeof(double), 1)
            : ceil(norms / DS_COMM_MAX_F64) * ds_work_collective(b->cluster, ring, 0.0, 2);
    struct ds_lamb_moments_args pass = {.grad_type = DS_F32};

    if (!b->plan->by_tensor)
        return 0.0;
    for (size_t i = 0; i < b->plan->buckets; i++)
        held += (double)ds_plan_shard(b->plan, DS_ARENA_MOMENTS, i).count;
    pass.n = (size_t)held;
    return ds_op_amount(DS_OP_LAMB_MOMENTS, &pass).bytes / b->cluster->device.update +
           (double)b->plan->spans * b->cluster->device.launch_us * 1e-6 + added;
}

static double norm_s(const struct end *b)
{
    const struct ds_comm_group world = {.first = 0, .stride = 1, .count = b->plan->world};
    const bool by_host = b->plan->host[DS_ARENA_GRADS] && b->cluster->pcie.bandwidth > 0.0;
    struct ds_sumsq_args pass = {0};

    for (size_t i = 0; i < b->plan->buckets; i++)
        if (!b->plan->bucket[i].frozen)
            pass.n += b->plan->bucket[i].slice_elems;
    return ds_op_amount(DS_OP_SUMSQ, &pass).bytes /
               (by_host ? b->cluster->main.update : b->cluster->device.bandwidth) +
           b->cluster->device.launch_us * 1e-6 +
           ds_work_collective(b->cluster, ds_ring_of(b->cluster, world), 0.0, 2) + trust_s(b);
}

/* The parts of a matrix of which a team has some each, gathered and laid out. */
static double join_s(const struct end *b, const struct ds_plan_span *span)
{
    const double bytes = (double)ds_plan_matrix_parts(b->plan, span) * sizeof(float);

    return bytes <= 0.0
               ? 0.0
               : ds_work_collective(b->cluster, ds_ring_of(b->cluster, ds_plan_team_group(b->plan)),
                                    bytes, 1) +
                     2.0 * bytes / b->cluster->device.bandwidth;
}

/* The iterations of Muon on one matrix: three products each, of FP32 (runtime/muon.c). */
static double orthogonalize_s(const struct end *b, const struct ds_plan_span *span)
{
    double side = fmin((double)span->rows, (double)span->cols);
    double longer = fmax((double)span->rows, (double)span->cols);

    return join_s(b, span) + DS_OPTIM_MUON_ITERATIONS *
                                 (ds_work_matmul(b->cluster, DS_COMPUTE_FP32, side, side, longer) +
                                  ds_work_matmul(b->cluster, DS_COMPUTE_FP32, side, side, side) +
                                  ds_work_matmul(b->cluster, DS_COMPUTE_FP32, side, longer, side));
}

/* Of the owner that has most of them; at stage 0 every rank does all. */
static double matrices_s(const struct end *b, uint32_t index)
{
    const struct ds_bucket *bucket = &b->plan->bucket[index];
    uint64_t shard = ds_plan_shard(b->plan, DS_ARENA_PARAMS, index).count;
    double most = 0.0;

    for (size_t i = 0; i < b->plan->spans && bucket->gaps; i++) {
        uint64_t owner = (b->plan->span[i].offset - bucket->offset) / shard;
        double sum = 0.0;

        if (b->plan->span[i].bucket != index || b->plan->span[i].rows == 0)
            continue;
        for (size_t k = 0; k < b->plan->spans; k++) {
            const struct ds_plan_span *span = &b->plan->span[k];

            if (span->bucket == index && span->rows > 0 &&
                (span->offset - bucket->offset) / shard == owner)
                sum += orthogonalize_s(b, span);
        }
        most = fmax(most, sum);
    }
    return most;
}

/* Reads parameters, gradients and states, writes parameters and states, and a bf16 copy; LAMB's
 * second pass reads parameters and states and writes parameters. */
static double update_s(const struct end *b, const struct ds_instr *instr)
{
    uint32_t bucket = instr->bucket;
    double held = (double)(instr->piece != UINT32_MAX
                               ? b->plan->piece[instr->piece].elems
                               : ds_plan_shard(b->plan, DS_ARENA_MOMENTS, bucket).count);
    char there; /* a copy for the kernels is written */
    void *low = b->type != DS_F32 ? &there : NULL;
    const struct ds_adamw_args adamw = {
        .n = (size_t)held, .grad_type = DS_F32, .low_type = b->type, .p_low = low};
    const struct ds_lamb_args lamb = {.n = (size_t)held, .low_type = b->type, .p_low = low};
    double bytes = b->plan->by_tensor ? ds_op_amount(DS_OP_LAMB, &lamb).bytes
                                      : ds_op_amount(DS_OP_ADAMW, &adamw).bytes;

    if (b->plan->offload && b->cluster->pcie.bandwidth > 0.0)
        return bytes / b->cluster->main.update;
    return bytes / b->cluster->device.update + b->cluster->device.launch_us * 1e-6 +
           matrices_s(b, bucket);
}

/* What this rank updates of a bucket, to the host's memory or from it; read and written where that
 * is the device's too. */
static double copy_s(const struct end *b, uint32_t bucket, double size)
{
    return ds_work_link(b->cluster,
                        (double)ds_plan_shard(b->plan, DS_ARENA_MOMENTS, bucket).count * size);
}

/* A piece of the states, from the disk or to it. */
static double disk_s(const struct end *b, const struct ds_instr *instr)
{
    double bytes = (double)b->plan->piece[instr->piece].bytes;

    return bytes / (instr->op == DS_INSTR_LOAD ? b->cluster->disk.read : b->cluster->disk.write);
}

double ds_work_end(const struct ds_cluster *cluster, const struct ds_plan *plan,
                   const struct ds_instr *instr)
{
    const struct end b = {
        .cluster = cluster,
        .plan = plan,
        .act = (double)ds_dtype_bytes(ds_compute_dtype(plan->compute)),
        .type = ds_compute_dtype(plan->compute),
    };

    switch (instr->op) {
    case DS_INSTR_REDUCE: return keep_s(&b, instr);
    case DS_INSTR_NORM: return norm_s(&b);
    case DS_INSTR_UPDATE: return update_s(&b, instr);
    case DS_INSTR_OFFLOAD: return copy_s(&b, instr->bucket, sizeof(float));
    case DS_INSTR_STASH:
    case DS_INSTR_RESTORE: return ds_work_link(cluster, (double)plan->stash_bytes);
    case DS_INSTR_FETCH: return copy_s(&b, instr->bucket, b.act);
    case DS_INSTR_LOAD:
    case DS_INSTR_STORE: return disk_s(&b, instr);
    default: return 0.0;
    }
}
