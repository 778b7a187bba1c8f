/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * team.c - what a rank has of each layer where a team shares it, and what the team adds up.
 *
 * In front of the attention and of the feed-forward's activation a matrix is divided by what it
 * makes, behind them by what it reads: each rank has some of the heads and of the feed-forward's
 * columns from end to end, and one sum of activations follows each half of a layer, one of
 * gradients comes in front of it on the way back.  Of a matrix that is stored [in, out] what it
 * makes are columns, of one stored [out, in] rows; a packed row of queries, keys and values has
 * some of each.
 *
 * Where there are fewer key/value heads than ranks, neighbours have the same one, which their query
 * heads all look at.  Each finds a part of its gradient, as ranks of data do, and these parts are
 * added up (TIE): not what the attention leaves of keys and values, which is sent for every micro-
 * batch, and of which FP8 and a library's choice of a product could still make different bits.
 *
 * So it is with adapters.  Of a matrix that is divided by what it makes, all have A, and B is
 * divided with it; of one that is divided by what it reads A is, and all have B: what a rank
 * adds is a part of the sum that the team makes anyway.  Of what all have each finds the part of
 * the gradient that its columns make.
 *
 * The vocabulary is divided by rows of its matrices, the same number for everybody: what the last
 * rank has too much is padding that nothing reads.
 *
 * Source  Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using
 *         Model Parallelism" (2019), section 3
 * Tests   tests/plan/test_team.c
 */
#include <errno.h>

#include "kernels/op.h"
#include "runtime/model/family.h"
#include "kernels/fp8.h"
#include "runtime/plan/internal.h"

/* Rows of so many elements lie well for products, if everybody still has ids. */
enum { ID_UNIT = 8 };

static uint64_t ids_each(uint64_t vocab, uint64_t ranks)
{
    uint64_t each = (vocab + ranks - 1) / ranks, even = ds__round_up(each, ID_UNIT);

    return (ranks - 1) * even < vocab ? even : each;
}

/* What a rank of a team would have to do with a part of a matrix and cannot. */
static int check_products(const struct ds_plan *plan, struct ds_error *err)
{
    const struct ds_model_shape *model = &plan->model;
    const uint64_t team = plan->tensor_ranks, size = model->head_size;
    const uint64_t kv = team < model->kv_heads ? team : model->kv_heads;

    if (plan->fp8 && (model->heads * size % (DS_FP8_UNIT * team) != 0 ||
                      model->kv_heads * size % (DS_FP8_UNIT / 2 * kv) != 0 ||
                      model->ffn % (DS_FP8_UNIT * team) != 0))
        return ds_fail(err, EINVAL,
                       "'parallel.tensor' %llu leaves a rank no multiples of %d for "
                       "'precision.matmul' fp8",
                       (unsigned long long)team, DS_FP8_UNIT);
    return 0;
}

/* What cannot be done with it. */
static int check(const struct ds_plan *plan, struct ds_error *err)
{
    const struct ds_model_shape *model = &plan->model;
    const unsigned long long ranks = plan->tensor_ranks;
    const struct {
        const char *what;
        uint64_t value;
    } table[] = {{"'model.heads'", model->heads}, {"'model.ffn'", model->ffn}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].value % ranks != 0)
            return ds_fail(err, EINVAL, "'parallel.tensor' %llu does not divide %s %llu", ranks,
                           table[i].what, (unsigned long long)table[i].value);
    if (model->kv_heads % ranks != 0 && ranks % model->kv_heads != 0)
        return ds_fail(
            err, EINVAL,
            "'parallel.tensor' %llu and 'model.kv_heads' %llu: one must divide the other", ranks,
            (unsigned long long)model->kv_heads);
    if ((ranks - 1) * ids_each(model->vocab, ranks) >= model->vocab)
        return ds_fail(err, EINVAL, "'parallel.tensor' %llu is too many for 'model.vocab' %llu",
                       ranks, (unsigned long long)model->vocab);
    if (ds_arch_norms_rows(model->arch))
        return ds_fail(
            err, EINVAL,
            "'parallel.tensor' %llu and 'model.arch' %s do not go together: a norm is of "
            "all queries of a row, of which each rank has a part",
            ranks, ds_arch_name(model->arch));
    if (check_products(plan, err) != 0)
        return -EINVAL;
    return 0;
}

int ds__plan_team(struct ds_plan *plan, struct ds_error *err)
{
    const uint64_t ranks = plan->tensor_ranks;
    struct ds_model_shape *shape = &plan->shape;
    int rc;

    plan->kv_ranks = 1;
    if (ranks == 1)
        return 0;
    rc = check(plan, err);
    if (rc != 0)
        return rc;
    shape->heads /= ranks;
    if (ranks > shape->kv_heads)
        plan->kv_ranks = (unsigned)(ranks / shape->kv_heads);
    plan->kv_rank = plan->tensor_rank % plan->kv_ranks;
    shape->kv_heads = shape->kv_heads * plan->kv_ranks / ranks;
    shape->ffn /= ranks;
    shape->vocab = ids_each(shape->vocab, ranks);
    return 0;
}

struct ds_plan_ids ds_plan_ids(const struct ds_plan *plan)
{
    const uint64_t each = plan->shape.vocab, first = each * plan->tensor_rank;
    const uint64_t left = plan->model.vocab - first;

    return (struct ds_plan_ids){.first = first, .count = left < each ? left : each};
}

/* --- tensors ---------------------------------------------------------------------------------- */

bool ds__plan_alike(const struct ds_plan *plan, size_t tensor)
{
    struct ds_param whole;

    ds_model_param(&plan->model, tensor, &whole);
    return whole.elems == plan->tensor[tensor].param.elems && plan->tensor[tensor].doubled == 1;
}

unsigned ds__plan_doubles(const struct ds_plan *plan, enum ds_role role)
{
    switch (role) {
    case DS_ROLE_K_W:
    case DS_ROLE_V_W:
    case DS_ROLE_K_B:
    case DS_ROLE_V_B:
    case DS_ROLE_LORA_B_K:
    case DS_ROLE_LORA_B_V: return plan->kv_ranks;
    case DS_ROLE_LORA_A_QKV:
    case DS_ROLE_LORA_A_K:
    case DS_ROLE_LORA_A_V:
    case DS_ROLE_LORA_A_FC:
    case DS_ROLE_LORA_A_UP:
    case DS_ROLE_LORA_B_PROJ:
    case DS_ROLE_LORA_B_DOWN: return plan->tensor_ranks;
    default: return 1;
    }
}

/* Of what the ranks of a team have of a tensor, one behind the other: which part is here? */
static uint64_t part_of(const struct ds_plan *plan, enum ds_role role)
{
    return plan->tensor_rank / ds__plan_doubles(plan, role);
}

static void add_run(struct ds_plan_cut *cut, uint64_t first, uint64_t count)
{
    cut->run[cut->runs].first = first;
    cut->run[cut->runs].count = count;
    cut->runs++;
}

/* Some of each part of a packed row, whose elements are `each` numbers. */
static void cut_packed(const struct ds_plan *plan, uint64_t each, struct ds_plan_cut *cut)
{
    const struct ds_model_shape *shape = &plan->shape;
    const uint64_t head = shape->head_size * each, ranks = plan->tensor_ranks;
    const uint64_t packed[] = {shape->heads * head, shape->kv_heads * head, shape->kv_heads * head};
    uint64_t at = 0;

    for (size_t i = 0; i < sizeof(packed) / sizeof(packed[0]); i++) {
        add_run(cut, at + plan->tensor_rank * packed[i], packed[i]);
        at += ranks * packed[i];
    }
}

/* Is what it makes a packed row? */
static bool is_packed(const struct ds_plan *plan, enum ds_role role)
{
    return role == DS_ROLE_QKV_W || role == DS_ROLE_QKV_B ||
           (role == DS_ROLE_LORA_B_QKV && !ds_family_of(plan->shape.arch)->weight_out);
}

struct ds_plan_cut ds_plan_cut(const struct ds_plan *plan, size_t tensor)
{
    const struct ds_param *here = &plan->tensor[tensor].param;
    struct ds_plan_cut cut = {.elems = here->elems};
    const unsigned last = here->ndim - 1;

    ds_model_param(&plan->model, tensor, &cut.whole);
    cut.row = cut.whole.shape[last];
    cut.width = here->shape[last];
    if (cut.whole.elems == here->elems)
        return cut;
    if (is_packed(plan, here->role)) {
        cut.of_rows = here->role == DS_ROLE_LORA_B_QKV;
        cut.row = cut.of_rows ? cut.whole.elems : cut.row;
        cut.width = cut.of_rows ? here->elems : cut.width;
        cut_packed(plan, cut.of_rows ? here->shape[last] : 1, &cut);
        return cut;
    }
    if (cut.row != cut.width) {
        add_run(&cut, part_of(plan, here->role) * cut.width, cut.width);
        return cut;
    }
    cut.first = part_of(plan, here->role) * here->elems;
    if (cut.first + cut.elems > cut.whole.elems)
        cut.elems = cut.whole.elems - cut.first;
    return cut;
}

uint64_t ds_plan_cut_at(const struct ds_plan_cut *cut, uint64_t at, uint64_t *together)
{
    uint64_t column = cut->width > 0 ? at % cut->width : 0,
             row = cut->first + at / cut->width * cut->row;

    if (cut->runs == 0) {
        *together = at < cut->elems ? cut->elems - at : UINT64_MAX;
        return at < cut->elems ? cut->first + at : DS_PLAN_PADDING;
    }
    for (unsigned i = 0;; i++) {
        if (column < cut->run[i].count) {
            *together = cut->run[i].count - column;
            return row + cut->run[i].first + column;
        }
        column -= cut->run[i].count;
    }
}

/* --- sums ------------------------------------------------------------------------------------- */

/* Of a forward pass over a layer. */
static unsigned layer_sums(const struct ds_plan *plan, const struct ds_instr *instr)
{
    if (!instr->recompute)
        return 2;
    return ds_plan_drops(plan, instr->block, DS_BUFFER_MIDDLE) ? 1 : 0;
}

struct ds_plan_sums ds_plan_sums(const struct ds_plan *plan, const struct ds_instr *instr)
{
    const uint64_t tokens = plan->micro_batch * plan->sequence, layers = plan->shape.layers;
    const bool forward = instr->op == DS_INSTR_FORWARD, backward = instr->op == DS_INSTR_BACKWARD;
    struct ds_plan_sums sums = {.bytes = tokens * plan->shape.hidden *
                                         ds_dtype_bytes(ds_compute_dtype(plan->compute))};

    if (plan->tensor_ranks == 1 || (!forward && !backward))
        return sums;
    if (instr->block >= 1 && instr->block <= layers)
        sums.calls = forward ? layer_sums(plan, instr) : 2;
    else if (forward)
        sums.calls = 1;
    if (forward && instr->block > layers) {
        sums.chunks = (unsigned)((tokens + plan->logit_rows - 1) / plan->logit_rows);
        sums.said = plan->tensor_ranks * tokens * sizeof(struct ds_xent_row);
    }
    return sums;
}
