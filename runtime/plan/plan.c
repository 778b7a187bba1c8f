/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * plan.c - build, hash and release; the contract is in plan.h.
 */
#include "runtime/plan/plan.h"

#include <errno.h>
#include <string.h>

#include "kernels/fp8.h"
#include "runtime/model/family.h"
#include "runtime/optim.h"
#include "runtime/plan/internal.h"

/* No step is longer than this; far above any that trains in a lifetime. */
enum { MAX_STEP_INSTRUCTIONS = 1 << 24 };

static const char *offload_name(const struct ds_job *job)
{
    return job->offload.optim == DS_OFFLOAD_NVME ? "nvme" : "cpu";
}

static uint64_t team_of(const struct ds_job *job)
{
    return job->parallel.tensor > 0 ? job->parallel.tensor : 1;
}

/* Key/value heads that a rank of a team has: several have the same one where there are fewer. */
static uint64_t kv_heads_of(const struct ds_job *job)
{
    const uint64_t each = job->model.shape.kv_heads / team_of(job);

    return each > 0 ? each : 1;
}

/* Can so many ranks share a sequence? */
static int check_sharing(const struct ds_plan_args *args, struct ds_error *err)
{
    const struct ds_job *job = args->job;
    const uint64_t ranks = job->parallel.sequence, kv = kv_heads_of(job);
    const struct {
        const char *what;
        uint64_t value;
    } table[] = {{"ranks", args->world},
                 {"'train.sequence'", job->train.sequence},
                 {"'model.heads'", job->model.shape.heads / team_of(job)}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (ranks < 1 || table[i].value % ranks != 0)
            return ds_fail(err, EINVAL, "'parallel.sequence' %llu does not divide %s %llu",
                           (unsigned long long)ranks, table[i].what,
                           (unsigned long long)table[i].value);
    if (kv % ranks != 0 && ranks % kv != 0)
        return ds_fail(err, EINVAL,
                       "'parallel.sequence' %llu and 'model.kv_heads' %llu: one must divide the "
                       "other",
                       (unsigned long long)ranks, (unsigned long long)kv);
    return 0;
}

static int check_world(const struct ds_plan_args *args, struct ds_error *err)
{
    const struct ds_job *job = args->job;
    const uint64_t share = job->parallel.sequence > 0 ? job->parallel.sequence : 1;
    const uint64_t parts = job->parallel.pipeline > 0 ? job->parallel.pipeline : 1;
    const uint64_t team = team_of(job), together = share * parts * team;
    const uint64_t data_ranks = args->world / together, part = job->train.sequence / share;
    const uint64_t divide = job->parallel.expert > 0 ? job->parallel.expert : 1;

    if (args->world < 1 || args->world > DS_MAX_RANKS || args->rank >= args->world)
        return ds_fail(err, EINVAL, "rank %u of %u ranks makes no sense", args->rank, args->world);
    if (args->threads < 1 || args->threads > DS_MAX_THREADS)
        return ds_fail(err, EINVAL, "%u threads per rank, must be between 1 and %d", args->threads,
                       DS_MAX_THREADS);
    if (job->train.micro_batch < 1 || job->train.global_batch < 1 ||
        job->train.micro_batch > DS_MAX_BATCH || job->train.global_batch > DS_MAX_BATCH)
        return ds_fail(err, EINVAL,
                       "'train.global_batch' and 'train.micro_batch' must be between "
                       "1 and %d",
                       DS_MAX_BATCH);
    if (check_sharing(args, err) != 0)
        return -EINVAL;
    if (data_ranks < 1 || args->world % together != 0)
        return ds_fail(err, EINVAL,
                       "'parallel.pipeline' %llu x 'parallel.sequence' %llu x 'parallel.tensor' "
                       "%llu does not divide %u ranks",
                       (unsigned long long)parts, (unsigned long long)share,
                       (unsigned long long)team, args->world);
    if (data_ranks * share % divide != 0)
        return ds_fail(err, EINVAL,
                       "'parallel.expert' %llu does not divide the %llu ranks that have the same "
                       "layers",
                       (unsigned long long)divide, (unsigned long long)(data_ranks * share));
    if (job->train.global_batch % (job->train.micro_batch * data_ranks) != 0)
        return ds_fail(err, EINVAL,
                       "'train.global_batch' %llu is not divisible by %llu ranks x "
                       "'train.micro_batch' %llu",
                       (unsigned long long)job->train.global_batch, (unsigned long long)data_ranks,
                       (unsigned long long)job->train.micro_batch);
    if (job->train.sequence < 1 || job->train.sequence > job->model.shape.context)
        return ds_fail(
            err, EINVAL, "'train.sequence' %llu must be between 1 and 'model.context' %llu",
            (unsigned long long)job->train.sequence, (unsigned long long)job->model.shape.context);
    if (job->precision.matmul == DS_MATMUL_FP8 && job->train.micro_batch * part % DS_FP8_UNIT != 0)
        return ds_fail(err, EINVAL,
                       "'train.micro_batch' %llu x %llu tokens of each sequence must be a multiple "
                       "of %d for 'precision.matmul' fp8",
                       (unsigned long long)job->train.micro_batch, (unsigned long long)part,
                       DS_FP8_UNIT);
    return 0;
}

/* Every later product stays below this one; the bytes of all activations are bounded by it. */
static int check_size(const struct ds_plan *plan, struct ds_error *err)
{
    const struct ds_model_shape *shape = &plan->shape;
    uint64_t each = ds_model_product_rows(shape, DS_PRODUCT_FC) * plan->expert_ranks;
    uint64_t widest = 2 * ds_model_qkv_width(shape) + each * ds_model_ffn_in_width(shape) +
                      (3 + each) * shape->hidden + shape->heads + shape->experts + 64 +
                      4 * ds_model_adapted_width(shape) + 8 * ds_model_adapted_widest(shape);
    uint64_t blocks = ds_model_blocks(&plan->shape), bytes, instructions;

    if (__builtin_mul_overflow(plan->micro_batch * (plan->sequence + 1), widest, &bytes) ||
        __builtin_mul_overflow(bytes, blocks * 16, &bytes) || bytes > UINT64_MAX / 4)
        return ds_fail(err, EOVERFLOW,
                       "a micro-batch of %llu sequences of %llu tokens is too large to plan",
                       (unsigned long long)plan->micro_batch, (unsigned long long)plan->sequence);
    instructions = plan->micro_batches * blocks * 3;
    if (instructions > MAX_STEP_INSTRUCTIONS)
        return ds_fail(err, EOVERFLOW,
                       "a step of %llu micro-batches per rank is too long, raise "
                       "'train.micro_batch'",
                       (unsigned long long)plan->micro_batches);
    return 0;
}

uint64_t ds__plan_mix(uint64_t hash, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) { /* FNV-1a */
        hash ^= (value >> (8 * i)) & 0xff;
        hash *= 0x100000001b3u;
    }
    return hash;
}

/* Over what must be equal on all ranks; not rank, threads or what follows from them. */
static uint64_t hash_of(const struct ds_plan *plan)
{
    uint64_t hash = 0xcbf29ce484222325u;
    const uint64_t scalars[] = {
        plan->world,
        plan->micro_batches,
        plan->micro_batch,
        plan->sequence,
        plan->window,
        plan->documents,
        plan->separator,
        plan->sequence_ranks,
        plan->pipeline_ranks,
        plan->tensor_ranks,
        plan->expert_ranks,
        plan->first_block,
        plan->compute,
        plan->params,
        plan->padded_elems,
        plan->logit_rows,
        plan->shape.arch,
        plan->shape.heads,
        plan->shape.kv_heads,
        plan->shape.experts,
        plan->shape.experts_each,
        plan->stage,
        plan->shards,
        plan->optim_states,
        plan->by_tensor,
        plan->late,
        plan->bf16_wire,
        plan->fp8,
        plan->common[ds__plan_read_arena(plan)],
        plan->offload_params,
        plan->stash_end,
    };

    for (size_t i = 0; i < sizeof(scalars) / sizeof(scalars[0]); i++)
        hash = ds__plan_mix(hash, scalars[i]);
    for (size_t i = 0; i < plan->params; i++)
        hash = ds__plan_mix(ds__plan_mix(hash, plan->param[i].offset), plan->param[i].param.elems);
    for (size_t i = 0; i < plan->buckets; i++)
        hash =
            ds__plan_mix(ds__plan_mix(hash, plan->bucket[i].offset), plan->bucket[i].slice_elems);
    for (size_t i = 0; i < plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];

        hash = ds__plan_mix(hash, (uint64_t)instr->op << 32 | instr->block);
        hash = ds__plan_mix(hash, (uint64_t)instr->bucket << 32 | instr->micro_batch);
    }
    return hash;
}

/* What follows from the job and the place of this rank alone. */
static void take_job(struct ds_plan *plan, const struct ds_plan_args *args)
{
    const struct ds_job *job = args->job;

    plan->shape = plan->model = job->model.shape;
    plan->world = args->world;
    plan->rank = args->rank;
    plan->threads = args->threads;
    plan->compute = job->precision.compute;
    plan->fp8 = job->precision.matmul == DS_MATMUL_FP8;
    plan->pipeline_ranks = (unsigned)job->parallel.pipeline;
    plan->tensor_ranks = (unsigned)job->parallel.tensor;
    plan->tensor_rank = plan->rank % plan->tensor_ranks;
    plan->holders = plan->world / plan->pipeline_ranks / plan->tensor_ranks;
    plan->holder = plan->rank / plan->tensor_ranks % plan->holders;
    plan->pipeline_rank = plan->rank / plan->tensor_ranks / plan->holders;
    plan->bf16_wire = job->precision.grad_wire == DS_GRAD_WIRE_BF16 && plan->holders > 1;
    plan->drops = job->model.dropout > 0.0;
    plan->drops_weights = job->model.attention_dropout > 0.0;
    plan->optim_states = ds_optim_states(job);
    plan->by_tensor = ds_optim_by_tensor(job);
    plan->apart = args->apart;
    plan->offload = job->offload.optim == DS_OFFLOAD_CPU ||
                    (job->offload.optim == DS_OFFLOAD_NVME && plan->apart);
    plan->offload_params = job->offload.params != DS_OFFLOAD_NONE && job->zero.stage == 3;
    plan->late = plan->apart && !plan->offload;
    plan->prefetch = (unsigned)job->zero.prefetch;
    plan->copies = ds_plan_copies_out(plan) || plan->compute != DS_COMPUTE_FP32;
    plan->recompute = job->activation.recompute;
    plan->recompute_layers =
        job->activation.layers != 0 ? job->activation.layers : plan->shape.layers;
    plan->micro_batch = job->train.micro_batch;
    plan->sequence_ranks = (unsigned)job->parallel.sequence;
    plan->sequence_rank = plan->holder % plan->sequence_ranks;
    plan->expert_ranks = job->parallel.expert > 0 ? (unsigned)job->parallel.expert : 1;
    plan->expert_rank = plan->holder % plan->expert_ranks;
    plan->micro_batches =
        job->train.global_batch / (job->train.micro_batch * ds_plan_data_ranks(plan));
    plan->whole_sequence = job->train.sequence;
    plan->window = plan->shape.window < plan->whole_sequence ? plan->shape.window : 0;
    plan->documents = job->data.documents == DS_DOCUMENTS_APART;
    plan->separator = plan->documents ? job->data.separator : 0;
    plan->sequence = plan->whole_sequence / plan->sequence_ranks;
}

static int build(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
{
    const struct ds_job *job = args->job;
    int rc;

    take_job(plan, args);
    if (plan->offload && plan->apart && (plan->by_tensor || ds_optim_wants_matrices(job)))
        return ds_fail(
            err, EINVAL,
            "'offload.optim' %s with 'optim.name' %s needs a device that computes in the "
            "host's memory: %s",
            offload_name(job), ds_optim_name(job->optim.kind),
            plan->by_tensor ? "the norms of all tensors are taken before the first is "
                              "updated, so nothing could stream"
                            : "the iterations of its matrices are for the device");
    if (plan->recompute == DS_RECOMPUTE_AUTO)
        return ds_fail(err, EINVAL, "'activation.recompute' auto was not settled");
    if ((rc = check_size(plan, err)) != 0)
        return rc;
    if ((rc = ds__plan_team(plan, err)) != 0)
        return rc;
    if ((rc = ds__plan_meet(plan, err)) != 0)
        return rc;
    if ((rc = ds__plan_pipeline(plan, args, err)) != 0)
        return rc;
    if ((rc = ds__plan_groups(plan, args, err)) != 0)
        return rc;
    if ((rc = ds__plan_buckets(plan, job, err)) != 0)
        return rc;
    ds__plan_divide(plan, args);
    if ((rc = ds__plan_stash(plan, job, err)) != 0)
        return rc;
    if ((rc = ds__plan_pieces(plan, job, err)) != 0)
        return rc;
    if ((rc = ds__plan_schedule(plan, err)) != 0)
        return rc;
    if ((rc = ds__plan_memory(plan, err)) != 0)
        return rc;
    if ((rc = ds__plan_comm(plan, err)) != 0)
        return rc;
    ds__plan_cost(plan, ds__saves_behind(job));
    ds__plan_share(plan);
    ds__plan_traffic(plan);
    if ((rc = ds__plan_peers(plan, err)) != 0)
        return rc;
    plan->hash = hash_of(plan);
    return 0;
}

int ds__plan_part(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
{
    int rc;

    memset(plan, 0, sizeof(*plan));
    ds_arena_init(&plan->arena);
    rc = ds_model_check(&args->job->model.shape, err);
    if (rc == 0)
        rc = check_world(args, err);
    if (rc == 0)
        rc = build(plan, args, err);
    if (rc != 0)
        ds_plan_release(plan);
    return rc;
}

int ds_plan_build(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
{
    int rc = ds__plan_part(plan, args, err);

    if (rc != 0 || plan->pipeline_ranks == 1)
        return rc;
    rc = ds__plan_other_parts(plan, args, err);
    if (rc != 0)
        ds_plan_release(plan);
    return rc;
}

void ds_plan_release(struct ds_plan *plan)
{
    ds_arena_release(&plan->arena);
    memset(plan, 0, sizeof(*plan));
}

/* clang-format off */
static const char *const op_names[] = {
#define X(id) [DS_INSTR_##id] = #id,
    DS_INSTR_OPS(X)
#undef X
};
static const char *const queue_names[] = {
#define X(id) [DS_QUEUE_##id] = #id,
    DS_QUEUES(X)
#undef X
};
static const char *const arena_names[] = {
#define X(id, name) [DS_ARENA_##id] = (name),
    DS_ARENAS(X)
#undef X
};
static const char *const buffer_names[] = {
#define X(id, name) [DS_BUFFER_##id] = (name),
    DS_BUFFERS(X)
#undef X
};
static const char *const pass_names[] = {
#define X(id, name) [DS_PASS_##id] = (name),
    DS_PASSES(X)
#undef X
};
/* clang-format on */

const char *ds_instr_op_name(enum ds_instr_op op)
{
    return op_names[op];
}

const char *ds_queue_name(enum ds_queue queue)
{
    return queue_names[queue];
}

const char *ds_arena_name(enum ds_arena_kind kind)
{
    return arena_names[kind];
}

const char *ds_buffer_name(enum ds_buffer buffer)
{
    return buffer_names[buffer];
}

const char *ds_pass_name(enum ds_pass pass)
{
    return pass_names[pass];
}
