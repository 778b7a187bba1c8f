/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * describe.c - a plan as text and as JSON.
 *
 * Tests   tests/plan/test_plan.c
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/json.h"
#include "runtime/model/family.h"
#include "runtime/plan/internal.h"

/* 1234567 as "1.23 M": four characters of number, a unit of thousands. */
static struct ds__amount scaled(double value, double step, const char *const *units)
{
    struct ds__amount amount;

    for (; value >= 999.5 && units[1] != NULL; units++)
        value /= step;
    (void)snprintf(amount.text, sizeof(amount.text), "%.*f%s",
                   units[0][0] == '\0' || value >= 99.95 ? 0
                   : value >= 9.995                      ? 1
                                                         : 2,
                   value, units[0]);
    return amount;
}

struct ds__amount ds__bytes_text(uint64_t bytes)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", NULL};

    return scaled((double)bytes, 1024.0, units);
}

/* Parameters and tokens: a thousand million of them is a billion, as everybody writes it. */
static struct ds__amount count_text(double value)
{
    static const char *const units[] = {"", "K", "M", "B", "T", "P", NULL};

    return scaled(value, 1000.0, units);
}

static struct ds__amount flop_text(double value)
{
    static const char *const units[] = {"", "K", "M", "G", "T", "P", NULL};

    return scaled(value, 1000.0, units);
}

static const char *compute_name(enum ds_compute compute)
{
    return compute == DS_COMPUTE_FP32 ? "fp32" : compute == DS_COMPUTE_BF16 ? "bf16" : "fp16";
}

static void describe_recompute(const struct ds_plan *plan, struct ds_buf *out)
{
    uint64_t layers = 0;

    for (uint32_t block = 1; block <= plan->shape.layers; block++)
        layers += ds_plan_recomputes(plan, block) ? 1 : 0;
    if (plan->recompute == DS_RECOMPUTE_FULL || plan->recompute == DS_RECOMPUTE_SELECTIVE)
        (void)ds_buf_printf(out, " (%s%" PRIu64 " of %" PRIu64 " layers computed twice)",
                            plan->recompute == DS_RECOMPUTE_FULL ? "" : "norms, activation in ",
                            layers, plan->shape.layers);
}

/* " in 2 x 4" where two groups of four ranks share apart, else "". */
static struct ds__amount groups_text(const struct ds_plan *plan)
{
    struct ds__amount text = {.text = ""};

    if (plan->stage > 0 && plan->replicas > 1)
        (void)snprintf(text.text, sizeof(text.text), " in %u x %u", plan->replicas, plan->shards);
    return text;
}

/* ", a pipeline of 4" where ranks have parts of the layers. */
static struct ds__amount pipeline_text(const struct ds_plan *plan)
{
    struct ds__amount text = {.text = ""};

    if (plan->pipeline_ranks > 1)
        (void)snprintf(text.text, sizeof(text.text), ", a pipeline of %u", plan->pipeline_ranks);
    return text;
}

/* Which blocks each part has, and what it takes. */
static void describe_parts(const struct ds_plan *plan, struct ds_buf *out)
{
    for (unsigned i = 0; plan->part != NULL && i < plan->pipeline_ranks; i++) {
        const struct ds_plan_part *part = &plan->part[i];

        (void)ds_buf_printf(out,
                            "part %-4u blocks %" PRIu32 " to %" PRIu32
                            ", activations of %u pass%s, %s per rank\n",
                            i + 1, part->first_block, part->end_block - 1, part->slots,
                            part->slots == 1 ? "" : "es", ds__bytes_text(part->total_bytes).text);
    }
}

/* ", 4 share a sequence" where ranks do. */
static struct ds__amount sharers_text(const struct ds_plan *plan)
{
    struct ds__amount text = {.text = ""};

    if (plan->sequence_ranks > 1)
        (void)snprintf(text.text, sizeof(text.text), ", %u share a sequence", plan->sequence_ranks);
    return text;
}

/* ", 4 divide the experts" where ranks do. */
static struct ds__amount experts_text(const struct ds_plan *plan)
{
    struct ds__amount text = {.text = ""};

    if (plan->expert_ranks > 1)
        (void)snprintf(text.text, sizeof(text.text), ", %u divide the experts", plan->expert_ranks);
    return text;
}

/* ", 4 share each layer" where ranks do. */
static struct ds__amount team_text(const struct ds_plan *plan)
{
    struct ds__amount text = {.text = ""};

    if (plan->tensor_ranks > 1)
        (void)snprintf(text.text, sizeof(text.text), ", %u share each layer", plan->tensor_ranks);
    return text;
}

/* ", 2 a key/value head" where a team has fewer of these than ranks. */
static struct ds__amount kv_text(const struct ds_plan *plan)
{
    struct ds__amount text = {.text = ""};

    if (plan->kv_ranks > 1)
        (void)snprintf(text.text, sizeof(text.text), ", %u a key/value head", plan->kv_ranks);
    return text;
}

static void describe_model(const struct ds_plan *plan, struct ds_buf *out)
{
    const struct ds_model_shape *shape = &plan->model;

    (void)ds_buf_printf(out, "model     %s, %s parameters", ds_family_of(shape->arch)->name,
                        count_text((double)ds_model_elems(shape)).text);
    if (shape->experts > 0)
        (void)ds_buf_printf(out, ", %s for a token",
                            count_text((double)ds_model_active_elems(shape)).text);
    (void)ds_buf_printf(out, ": %" PRIu64 " layers x %" PRIu64 ", %" PRIu64 " heads", shape->layers,
                        shape->hidden, shape->heads);
    if (shape->experts > 0)
        (void)ds_buf_printf(out, ", %" PRIu64 " of %" PRIu64 " experts", shape->experts_each,
                            shape->experts);
    if (plan->window > 0)
        (void)ds_buf_printf(out, ", windows of %" PRIu64, plan->window);
    if (plan->documents)
        (void)ds_buf_printf(out, ", documents apart");
    (void)ds_buf_printf(out, ", vocabulary %" PRIu64 ", %s%s\n", shape->vocab,
                        compute_name(plan->compute), plan->fp8 ? ", products of layers fp8" : "");
}

void ds_plan_describe(const struct ds_plan *plan, const struct ds_job *job, struct ds_buf *out)
{
    const size_t reduced = plan->buckets - plan->frozen_buckets;
    uint64_t sequences = job->train.global_batch;

    describe_model(plan, out);
    (void)ds_buf_printf(out,
                        "step      %" PRIu64 " x %" PRIu64 " = %s tokens, %" PRIu64
                        " pass%s of %" PRIu64 " per rank, %" PRIu64 " steps\n",
                        sequences, plan->whole_sequence,
                        count_text((double)(sequences * plan->whole_sequence)).text,
                        plan->micro_batches, plan->micro_batches == 1 ? "" : "es",
                        plan->micro_batch, job->train.steps);
    (void)ds_buf_printf(
        out, "ranks     %u x %u thread%s, ZeRO %u%s%s%s%s%s%s, %zu gradient bucket%s\n",
        plan->world, plan->threads, plan->threads == 1 ? "" : "s", plan->stage,
        groups_text(plan).text, pipeline_text(plan).text, team_text(plan).text, kv_text(plan).text,
        sharers_text(plan).text, experts_text(plan).text, reduced, reduced == 1 ? "" : "s");
    describe_parts(plan, out);
    (void)ds_buf_printf(out, "memory    %s per rank, activations %s",
                        ds__bytes_text(ds_plan_total_bytes(plan)).text,
                        ds__bytes_text(plan->arena_bytes[DS_ARENA_ACTIVATIONS]).text);
    if (plan->common_bytes > 0)
        (void)ds_buf_printf(out, ", %s of %s once per host",
                            plan->ahead ? "gathered parameters" : "parameters",
                            ds__bytes_text(plan->common_bytes).text);
    describe_recompute(plan, out);
    (void)ds_buf_puts(out, "\n");
    (void)ds_buf_printf(out, "work      %s FLOP per token, %" PRIu64 " messages and %s per step\n",
                        flop_text(plan->flops_per_token).text, plan->messages_per_step,
                        ds__bytes_text(plan->wire_bytes_per_step).text);
}

static void print_row(struct ds_buf *out, const char *name, uint64_t bytes)
{
    (void)ds_buf_printf(out, "  %-26s %16" PRIu64 "  %10s\n", name, bytes,
                        ds__bytes_text(bytes).text);
}

/* The largest buffer of codes: evaluation has a smaller one. */
static uint64_t codes_bytes(const struct ds_plan *plan)
{
    uint64_t most = 0;

    for (size_t i = 0; i < plan->buffers; i++)
        if (plan->buffer[i].buffer == DS_BUFFER_CODES && plan->buffer[i].bytes > most)
            most = plan->buffer[i].bytes;
    return most;
}

/* Arenas of the host, or the others; where nothing is copied there HOST_* mean nothing. */
static void print_arenas(const struct ds_plan *plan, bool host, struct ds_buf *out)
{
    for (unsigned i = 0; i < DS_ARENA_COUNT; i++) {
        bool of_host =
            i == DS_ARENA_HOST_GRADS || i == DS_ARENA_HOST_ROOM || i == DS_ARENA_HOST_OUTS;

        if (plan->host[i] == host && (plan->host[i] || !of_host))
            print_row(out, ds_arena_name((enum ds_arena_kind)i), plan->arena_bytes[i]);
    }
}

/* Is some of it the host's? */
static bool has_host(const struct ds_plan *plan)
{
    return plan->offload || plan->offload_params || plan->stash_end > 0;
}

void ds_plan_print_memory(const struct ds_plan *plan, struct ds_buf *out)
{
    (void)ds_buf_printf(out, "%-28s %16s\n", "memory per rank", "bytes");
    print_arenas(plan, false, out);
    if (plan->peer_bytes > 0)
        print_row(out, "shared, of other ranks", plan->peer_bytes);
    if (plan->fp8)
        print_row(out, "of activations codes of fp8", codes_bytes(plan));
    if (has_host(plan)) {
        print_row(out, "of the device",
                  ds_plan_total_bytes(plan) - (plan->apart ? 0 : ds_plan_host_bytes(plan)));
        (void)ds_buf_puts(out, "on the host\n");
        print_arenas(plan, true, out);
        print_row(out, "of the host", ds_plan_host_bytes(plan));
    }
    if (!has_host(plan) || !plan->apart)
        print_row(out, "total", ds_plan_total_bytes(plan));
    if (plan->common_bytes > 0) {
        print_row(out, "of it once per host", plan->common_bytes);
        print_row(out, "all ranks of a host", ds_plan_ranks_bytes(plan, plan->local_world));
    }
    if (plan->pieces == 0)
        return;
    (void)ds_buf_puts(out, "on the disk\n");
    print_row(out, ds_arena_name(DS_ARENA_MOMENTS), plan->disk_bytes);
    print_row(out, "read in each step", plan->disk_bytes);
    print_row(out, "written in each step", plan->disk_bytes);
}

static void print_traffic(const struct ds_plan *plan, struct ds_buf *out)
{
    (void)ds_buf_printf(out, "\n%-16s %13s %16s\n", "collective", "calls a step", "bytes a rank");
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++)
        if (plan->traffic[op].calls > 0)
            (void)ds_buf_printf(out, "%-16s %13" PRIu64 " %16" PRIu64 "  %10s\n",
                                ds_comm_op_name(op), plan->traffic[op].calls,
                                plan->traffic[op].bytes,
                                ds__bytes_text(plan->traffic[op].bytes).text);
}

void ds_plan_print(const struct ds_plan *plan, struct ds_buf *out)
{
    ds_plan_print_memory(plan, out);
    (void)ds_buf_printf(out, "\n%6s %13s %16s %16s %16s\n", "bucket", "blocks", "parameters",
                        "padded", "per rank");
    for (size_t i = 0; i < plan->buckets; i++) {
        const struct ds_bucket *bucket = &plan->bucket[i];
        char blocks[32];

        (void)snprintf(blocks, sizeof(blocks), "%s%s%" PRIu32 "-%" PRIu32,
                       bucket->frozen ? "frozen " : "", bucket->experts ? "experts " : "",
                       bucket->first_block, bucket->first_block + bucket->blocks - 1);
        (void)ds_buf_printf(out, "%6zu %13s %16" PRIu64 " %16" PRIu64 " %16" PRIu64 "\n", i, blocks,
                            bucket->elems, bucket->padded_elems,
                            ds_plan_shard(plan, DS_ARENA_MOMENTS, i).count);
    }
    if (plan->messages_per_step > 0)
        print_traffic(plan, out);
}

size_t ds_plan_instr_text(const struct ds_plan *plan, size_t at, char *out, size_t cap)
{
    const struct ds_instr *instr = &plan->step.instr[at];
    bool bucket = instr->bucket != UINT32_MAX;
    int length = snprintf(out, cap, "instruction %zu of %zu: %s %s %" PRIu32, at + 1,
                          plan->step.count, ds_instr_op_name(instr->op),
                          bucket ? "bucket" : "block", bucket ? instr->bucket : instr->block);

    return length > 0 ? (size_t)length : 0;
}

static void print_index(struct ds_buf *out, uint32_t index)
{
    if (index == UINT32_MAX)
        (void)ds_buf_puts(out, "      -");
    else
        (void)ds_buf_printf(out, " %6" PRIu32, index);
}

static void print_program(const struct ds_program *program, struct ds_buf *out)
{
    (void)ds_buf_printf(out, "%6s  %-9s %-8s %6s %6s %6s %6s %6s %6s\n", "index", "op", "queue",
                        "block", "bucket", "micro", "waits", "room", "signal");
    for (size_t i = 0; i < program->count; i++) {
        const struct ds_instr *instr = &program->instr[i];

        (void)ds_buf_printf(out, "%6zu  %-9s %-8s", i, ds_instr_op_name(instr->op),
                            ds_queue_name(instr->queue));
        print_index(out, instr->block);
        print_index(out, instr->bucket);
        print_index(out, instr->micro_batch);
        print_index(out, instr->waits_for);
        print_index(out, instr->room_after);
        print_index(out, instr->signals);
        if (instr->piece != UINT32_MAX)
            (void)ds_buf_printf(out, " piece-%" PRIu32, instr->piece);
        (void)ds_buf_printf(
            out, "%s%s%s%s%s%s\n", instr->gradient ? " gradient" : "",
            instr->paired ? " paired" : "", instr->last_step ? " last-step" : "",
            instr->room_last_step ? " room-last-step" : "", instr->recompute ? " recompute" : "",
            instr->op != DS_INSTR_FORWARD && instr->accumulate ? " accumulate" : "");
    }
}

void ds_plan_print_schedule(const struct ds_plan *plan, struct ds_buf *out)
{
    (void)ds_buf_puts(out, "step\n");
    print_program(&plan->step, out);
    (void)ds_buf_puts(out, "\nevaluation, each pass\n");
    print_program(&plan->eval, out);
}

static void json_index(struct ds_json *json, const char *key, uint32_t index)
{
    if (index != UINT32_MAX)
        ds_json_u64(json, key, index);
}

static void json_program(struct ds_json *json, const char *key, const struct ds_program *program)
{
    ds_json_array(json, key);
    for (size_t i = 0; i < program->count; i++) {
        const struct ds_instr *instr = &program->instr[i];

        ds_json_object(json, NULL);
        ds_json_string(json, "op", ds_instr_op_name(instr->op));
        ds_json_string(json, "queue", ds_queue_name(instr->queue));
        json_index(json, "block", instr->block);
        json_index(json, "bucket", instr->bucket);
        json_index(json, "micro_batch", instr->micro_batch);
        json_index(json, "piece", instr->piece);
        json_index(json, "waits_for", instr->waits_for);
        json_index(json, "room_after", instr->room_after);
        json_index(json, "signals", instr->signals);
        if (instr->last_step)
            ds_json_bool(json, "last_step", true);
        if (instr->room_last_step)
            ds_json_bool(json, "room_last_step", true);
        if (instr->recompute)
            ds_json_bool(json, "recompute", true);
        if (instr->accumulate)
            ds_json_bool(json, "accumulate", true);
        if (instr->gradient)
            ds_json_bool(json, "gradient", true);
        if (instr->paired)
            ds_json_bool(json, "paired", true);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}

static void json_parts(struct ds_json *json, const struct ds_plan *plan)
{
    ds_json_array(json, "parts");
    for (unsigned i = 0; plan->part != NULL && i < plan->pipeline_ranks; i++) {
        ds_json_object(json, NULL);
        ds_json_u64(json, "first_block", plan->part[i].first_block);
        ds_json_u64(json, "blocks", plan->part[i].end_block - plan->part[i].first_block);
        ds_json_u64(json, "slots", plan->part[i].slots);
        ds_json_u64(json, "total", plan->part[i].total_bytes);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}

static void json_memory(struct ds_json *json, const struct ds_plan *plan)
{
    ds_json_object(json, "memory");
    for (unsigned i = 0; i < DS_ARENA_COUNT; i++)
        ds_json_u64(json, ds_arena_name((enum ds_arena_kind)i), plan->arena_bytes[i]);
    if (has_host(plan))
        ds_json_u64(json, "of the host", ds_plan_host_bytes(plan));
    if (plan->fp8)
        ds_json_u64(json, "codes of fp8", codes_bytes(plan));
    if (plan->pieces > 0)
        ds_json_u64(json, "on the disk", plan->disk_bytes);
    ds_json_u64(json, "shared, of other ranks", plan->peer_bytes);
    ds_json_u64(json, "total", ds_plan_total_bytes(plan));
    ds_json_u64(json, "of it once per host", plan->common_bytes);
    ds_json_u64(json, "all ranks of a host", ds_plan_ranks_bytes(plan, plan->local_world));
    ds_json_end_object(json);
}

void ds_plan_print_json(const struct ds_plan *plan, bool schedule, struct ds_json *json)
{
    char hash[17];

    (void)snprintf(hash, sizeof(hash), "%016" PRIx64, plan->hash);
    ds_json_string(json, "arch", ds_family_of(plan->shape.arch)->name);
    ds_json_u64(json, "parameters", ds_model_elems(&plan->model));
    ds_json_u64(json, "active_parameters", ds_model_active_elems(&plan->model));
    ds_json_string(json, "compute", compute_name(plan->compute));
    ds_json_string(json, "matmul", plan->fp8 ? "fp8" : compute_name(plan->compute));
    ds_json_u64(json, "world", plan->world);
    ds_json_u64(json, "threads", plan->threads);
    ds_json_u64(json, "micro_batches", plan->micro_batches);
    ds_json_u64(json, "micro_batch", plan->micro_batch);
    ds_json_u64(json, "sequence", plan->whole_sequence);
    ds_json_u64(json, "window", plan->window);
    ds_json_bool(json, "documents_apart", plan->documents);
    ds_json_u64(json, "sequence_ranks", plan->sequence_ranks);
    ds_json_u64(json, "pipeline_ranks", plan->pipeline_ranks);
    ds_json_u64(json, "tensor_ranks", plan->tensor_ranks);
    ds_json_u64(json, "kv_ranks", plan->kv_ranks);
    ds_json_u64(json, "expert_ranks", plan->expert_ranks);
    ds_json_u64(json, "zero_stage", plan->stage);
    ds_json_u64(json, "shards", plan->shards);
    ds_json_u64(json, "replicas", plan->replicas);
    ds_json_u64(json, "prefetch", plan->prefetch);
    json_parts(json, plan);
    json_memory(json, plan);
    ds_json_array(json, "buckets");
    for (size_t i = 0; i < plan->buckets; i++) {
        ds_json_object(json, NULL);
        ds_json_u64(json, "first_block", plan->bucket[i].first_block);
        ds_json_u64(json, "blocks", plan->bucket[i].blocks);
        ds_json_u64(json, "parameters", plan->bucket[i].elems);
        ds_json_u64(json, "padded", plan->bucket[i].padded_elems);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
    ds_json_object(json, "traffic");
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++) {
        if (plan->traffic[op].calls == 0)
            continue;
        ds_json_object(json, ds_comm_op_name(op));
        ds_json_u64(json, "calls", plan->traffic[op].calls);
        ds_json_u64(json, "bytes", plan->traffic[op].bytes);
        ds_json_end_object(json);
    }
    ds_json_end_object(json);
    ds_json_u64(json, "messages_per_step", plan->messages_per_step);
    ds_json_u64(json, "wire_bytes_per_step", plan->wire_bytes_per_step);
    ds_json_f64(json, "flops_per_token", plan->flops_per_token, 15);
    ds_json_string(json, "hash", hash);
    if (schedule) {
        json_program(json, "step", &plan->step);
        json_program(json, "eval", &plan->eval);
    }
}
