/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * meet.c - ranks that divide the experts of a layer: which each has, and what they tell each other.
 *
 * Of P such ranks each has E / P experts of every layer, those of its place, from end to end.  What
 * the router of any of them says is known to the device only, so each gathers the rows of all and
 * picks those that its experts are given: at most tokens x P x min(k, E / P) of them, which the
 * plan has room for.  So nothing is dropped and the host waits for nothing, as where experts are
 * not divided; the price is that a row travels to ranks that have no expert for it.
 *
 * The rows themselves are never kept: the backward pass gathers them again.  What the first product
 * and the activation make of them has room for as many in every layer that keeps it, which is most
 * of the memory; with recomputation layers share it (recompute.c).
 *
 * Source  Lepikhin et al., "GShard" (2020); the gathering dispatcher of Megatron-LM's MoE
 * Tests   tests/plan/test_pipeline.c, tests/plan/test_team.c
 */
#include <errno.h>

#include "kernels/dtype.h"
#include "runtime/model/family.h"
#include "runtime/plan/internal.h"

int ds__plan_meet(const struct ds_plan *plan, struct ds_error *err)
{
    const unsigned long long ranks = plan->expert_ranks;

    if (ranks == 1)
        return 0;
    if (plan->shape.experts == 0)
        return ds_fail(err, EINVAL,
                       "'parallel.expert' %llu divides experts, and arch '%s' has none", ranks,
                       ds_family_of(plan->shape.arch)->name);
    if (plan->shape.experts % ranks != 0)
        return ds_fail(err, EINVAL, "'parallel.expert' %llu does not divide 'model.experts' %llu",
                       ranks, (unsigned long long)plan->shape.experts);
    return 0;
}

/* Do ranks divide the tensor's experts, and not its elements? */
static bool is_divided(const struct ds_plan *plan, const struct ds_param *param)
{
    return plan->expert_ranks > 1 && (param->role == DS_ROLE_GATE_W ||
                                      param->role == DS_ROLE_UP_W || param->role == DS_ROLE_DOWN_W);
}

bool ds__plan_is_expert(const struct ds_plan *plan, size_t tensor)
{
    return is_divided(plan, &plan->tensor[tensor].param);
}

unsigned ds_plan_expert_place(const struct ds_plan *plan, size_t tensor)
{
    return plan->tensor[tensor].expert
               ? plan->tensor[tensor].param.expert / (unsigned)ds_plan_experts(plan)
               : plan->expert_rank;
}

/* --- rows ------------------------------------------------------------------------------------- */

static uint64_t tokens_of(const struct ds_plan *plan)
{
    return plan->micro_batch * plan->sequence;
}

uint64_t ds_plan_met_rows(const struct ds_plan *plan)
{
    return plan->expert_ranks * tokens_of(plan);
}

uint64_t ds_plan_sorted_rows(const struct ds_plan *plan)
{
    return plan->shape.experts == 0
               ? tokens_of(plan)
               : ds_model_sorted_rows(&plan->shape, tokens_of(plan), plan->expert_ranks);
}

struct ds_model_routes ds_plan_routes(const struct ds_plan *plan)
{
    return ds_model_routes(&plan->shape, plan->micro_batch, tokens_of(plan), plan->expert_ranks);
}

uint64_t ds__plan_met_bytes(const struct ds_plan *plan)
{
    return plan->expert_ranks == 1 ? 0
                                   : ds_plan_met_rows(plan) * plan->shape.hidden *
                                         ds_dtype_bytes(ds_compute_dtype(plan->compute));
}

struct ds_plan_meets ds_plan_meets(const struct ds_plan *plan, const struct ds_instr *instr)
{
    const uint64_t rows = ds__plan_met_bytes(plan);
    const uint64_t said = ds_plan_met_rows(plan) * plan->shape.experts_each * sizeof(float);
    bool layer = instr->block >= 1 && instr->block <= plan->shape.layers;
    bool again = ds_plan_drops(plan, instr->block, DS_BUFFER_FFN_IN);
    struct ds_plan_meets meets = {0};

    if (plan->expert_ranks == 1 || !layer)
        return meets;
    meets.rows = rows;
    if (instr->op == DS_INSTR_FORWARD) {
        meets.gathers = !instr->recompute || again ? 1 : 0;
        meets.said = instr->recompute ? 0 : said;
        meets.parts = instr->recompute ? 0 : rows;
    } else if (instr->op == DS_INSTR_BACKWARD) {
        meets.gathers = again ? 1 : 2; /* gradients, and rows if they have not come before it */
        meets.parts = rows;
        meets.weights = said;
    }
    return meets;
}
