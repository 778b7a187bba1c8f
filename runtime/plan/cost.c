/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cost.c - what a plan takes: bytes by arena, FLOPs; and whether a host has them.
 *
 * Bytes are what becomes resident.  Gradients lie in shared memory: a rank that reduces its shard
 * in place also touches that shard's pages of every peer, which the kernel counts to its resident
 * size (peer_bytes, wire.c) although the host holds them once.  What is common counts whole to
 * every rank; of an embedding that is not tied a rank reads rows, and has those of its peers'
 * shards resident only as far as tokens have named them.
 *
 * Tests   tests/plan/test_plan.c; tests/e2e compares with the worker's measured peak
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kernels/scratch.h"
#include "kernels/verdict.h"
#include "runtime/comm/comm.h"
#include "runtime/model/family.h"
#include "runtime/plan/internal.h"

/* What a worker has resident beside its arenas: 12 MiB of program, libc, oneDNN and libgomp, and 5
 * to 6 MiB of matrix products compiled for the shapes of a model.  Measured, not derived. */
enum { RUNTIME_BYTES = 17 << 20, RUNTIME_THREAD_BYTES = 1 << 18 };

/* The same of a device apart, beside the context, which is there before free memory is asked for:
 * code of kernels, loaded when first used, products, graphs, of which an H100 had 11 MiB; and what
 * NCCL has for its channels, there 400 on sockets.  make gpu-check compares a job with its plan. */
enum { DEVICE_RUNTIME_BYTES = 32 << 20, DEVICE_COMM_BYTES = 400 << 20 };

static uint64_t scratch_bytes(const struct ds_plan *plan)
{
    const struct ds_model_shape *shape = &plan->shape;
    uint64_t qkv = ds_model_qkv_width(shape), ffn_in = ds_model_ffn_in_width(shape);
    const struct ds_scratch_query query = {
        .threads = plan->threads,
        .act = ds_compute_dtype(plan->compute),
        .rows = plan->micro_batch * plan->sequence,
        .seq = plan->whole_sequence,
        .hidden = shape->hidden,
        .normed = ds_model_normed_width(shape),
        .heads = shape->heads,
        .kv_heads = ds_plan_kv_heads(plan) * plan->sequence_ranks,
        .head_size = shape->head_size,
        .ffn_in = ffn_in > qkv ? ffn_in : qkv,
        .vocab = shape->vocab,
        .logit_rows = plan->logit_rows,
        .pairs = ds_plan_met_rows(plan) * shape->experts_each,
        .fp8_elems =
            plan->fp8 ? ds_model_fp8_operands(shape, plan->micro_batch * plan->sequence) : 0,
        .library = !plan->drops_weights && /* our own kernels can */
                   (!ds_plan_sees_less(plan) || (shape->full_every > 0 && !plan->documents)),
    };

    return plan->apart ? ds_scratch_device_bytes(&query) : ds_scratch_bytes(&query);
}

bool ds__saves_behind(const struct ds_job *job)
{
    return job->checkpoint.async && job->checkpoint.every > 0 &&
           job->checkpoint.every < job->train.steps;
}

/* What one rank writes of a line of these bytes: its part of those who hold the same. */
static uint64_t written_bytes(const struct ds_plan *plan, enum ds_arena_kind arena, uint64_t bytes)
{
    uint64_t elems = 0, written = 0;

    for (size_t i = 0; i < plan->buckets; i++) {
        const struct ds_plan_holders of = ds_plan_holders_of(plan, i);
        uint64_t held = ds_plan_held(plan, arena, i).count;

        elems += held;
        if (plan->bucket[i].frozen)
            continue;
        written += held / (ds_plan_divides(plan, arena, i) ? of.replicas : of.count);
    }
    return (uint64_t)((double)bytes * ((double)written / (double)elems));
}

static uint64_t largest_bucket(const struct ds_plan *plan)
{
    uint64_t most = 0;

    for (size_t i = 0; i < plan->buckets; i++)
        if (!plan->bucket[i].frozen && plan->bucket[i].padded_elems > most)
            most = plan->bucket[i].padded_elems;
    return most;
}

uint64_t ds__plan_swapped_bytes(const struct ds_plan *plan)
{
    uint64_t rows = plan->micro_batch * plan->sequence;

    return plan->sequence_ranks == 1
               ? 0
               : rows * ds_plan_swap_width(plan) * ds_dtype_bytes(ds_compute_dtype(plan->compute));
}

/* Both take the same room by turns. */
static uint64_t swap_room(const struct ds_plan *plan)
{
    uint64_t swapped = ds__plan_swapped_bytes(plan), met = ds__plan_met_bytes(plan);

    return swapped > met ? swapped : met;
}

/* Small things of a device apart: sums of a step (tally.c), what it came to (outcome.c), two rooms
 * for tokens (feed.c). */
static uint64_t small_bytes(const struct ds_plan *plan)
{
    uint64_t parts = (plan->buckets + plan->spans) * sizeof(struct ds_part);
    uint64_t verdicts = 2 * sizeof(struct ds_verdict) + plan->world * sizeof(struct ds_entry);
    uint64_t ids = plan->micro_batch * (2 * plan->sequence + 1) + ds_plan_lows(plan);

    return 2 * sizeof(double) + ds_plan_norms_bytes(plan) + parts + (plan->late ? verdicts : 0) +
           2 * ids * sizeof(int32_t);
}

/* Communicators of NCCL that have channels of their own: of all ranks, of those of a sequence, of a
 * team and of those in it with the same heads, of those that divide experts and that have the same
 * ones; where layers are shared of those with the same parameters; in a pipeline of neighbours, of
 * both ends, and of all of a part. */
static unsigned device_comms(const struct ds_plan *plan)
{
    bool parts = plan->pipeline_ranks > 1, front = ds_plan_embeds(plan);
    bool back = ds_plan_classifies(plan);
    const bool there[] = {
        plan->world > 1,
        plan->sequence_ranks > 1,
        plan->tensor_ranks > 1,
        plan->kv_ranks > 1,
        plan->expert_ranks > 1,
        plan->expert_ranks > 1 && ds_plan_holders(plan, true).count > 1,
        plan->holders < plan->world && plan->holders > 1,
        parts && !front,
        parts && !back,
        plan->pipeline_ranks > 2 && ds_plan_ties(plan) && (front || back),
        ds_plan_splits_part(plan),
    };
    unsigned comms = 0;

    for (size_t i = 0; i < sizeof(there) / sizeof(there[0]); i++)
        comms += there[i] ? 1 : 0;
    return comms;
}

/* What is neither a line nor an activation: of the host's memory, or of a device apart. */
static void cost_rest(struct ds_plan *plan)
{
    uint64_t *staging = &plan->arena_bytes[DS_ARENA_STAGING];
    uint64_t *runtime = &plan->arena_bytes[DS_ARENA_RUNTIME];

    if (plan->apart) {
        *staging = plan->scratch_bytes + small_bytes(plan);
        *runtime = DEVICE_RUNTIME_BYTES + device_comms(plan) * (uint64_t)DEVICE_COMM_BYTES;
    } else {
        *staging = plan->scratch_bytes + plan->snapshot_bytes + plan->comm_bytes;
        *runtime = RUNTIME_BYTES + (uint64_t)plan->threads * RUNTIME_THREAD_BYTES;
    }
}

/* Of a layer's products? */
static bool is_multiplied(const struct ds_param *param, const struct ds_model_shape *shape)
{
    return param->ndim == 2 && param->block >= 1 && param->block <= shape->layers &&
           param->role != DS_ROLE_ROUTER_W;
}

/* FLOPs of a token that passes do not make: gradients of frozen matrices, and in front of the
 * first that is trained all gradients; of all, or of layers' products alone.  A table that is
 * looked up in was not counted. */
static double left_out(const struct ds_plan *plan, bool products)
{
    const struct ds_model_shape *shape = &plan->model;
    const double attention = 8.0 * (double)shape->heads * (double)shape->head_size *
                             ds_model_seen(shape, plan->whole_sequence);
    const double layers = plan->first_trained > 0 ? (double)plan->first_trained - 1.0 : 0.0;
    double flops = attention * (layers < (double)shape->layers ? layers : (double)shape->layers);

    if (products)
        flops = 0.0;
    for (size_t i = 0; i < plan->tensors; i++) {
        struct ds_param param;
        double elems;

        if (!plan->tensor[i].frozen)
            continue;
        ds_model_param(&plan->model, i, &param);
        if (products && !is_multiplied(&param, shape))
            continue;
        elems = (double)param.elems;
        if (param.role == DS_ROLE_WTE && !shape->tie_embeddings)
            continue;
        if (ds_model_is_expert(shape, i))
            elems *= (double)shape->experts_each / (double)shape->experts;
        flops += (param.block < plan->first_trained && param.block > 0 ? 4.0 : 2.0) * elems;
    }
    return flops;
}

void ds__plan_cost(struct ds_plan *plan, bool saves_behind)
{
    uint64_t *bytes = plan->arena_bytes;
    uint64_t working = ds_dtype_bytes(ds_compute_dtype(plan->compute));

    plan->scratch_bytes = scratch_bytes(plan);
    bytes[DS_ARENA_PARAMS] = ds_plan_line_elems(plan, DS_ARENA_PARAMS) * sizeof(float);
    bytes[DS_ARENA_PARAMS_LOW] =
        plan->copies ? ds_plan_line_elems(plan, DS_ARENA_PARAMS_LOW) * working : 0;
    bytes[DS_ARENA_GRADS] = ds_plan_line_elems(plan, DS_ARENA_GRADS) * sizeof(float);
    bytes[DS_ARENA_MOMENTS] = /* the rooms begin where a disk likes it */
        plan->pieces > 0 ? plan->piece_rooms * plan->piece_room_bytes + DS_PIECE_ALIGN
                         : ds__plan_state_bytes(plan);
    bytes[DS_ARENA_GATHERED] = plan->gathered_elems * working;
    if (plan->common[DS_ARENA_GATHERED])
        plan->common_bytes = bytes[DS_ARENA_GATHERED];
    bytes[DS_ARENA_STAGED] = plan->staged_elems * sizeof(float);
    bytes[DS_ARENA_PACKED] = plan->bf16_wire ? largest_bucket(plan) * sizeof(uint16_t) : 0;
    bytes[DS_ARENA_SWAPPED] = ds__plan_passed(plan, swap_room(plan));
    bytes[DS_ARENA_HOST_GRADS] = ds_plan_copies_out(plan)
                                     ? ds_plan_line_elems(plan, DS_ARENA_HOST_GRADS) * sizeof(float)
                                     : 0;
    bytes[DS_ARENA_HOST_OUTS] = ds_plan_stashed(plan) * plan->stash_bytes;
    bytes[DS_ARENA_HOST_ROOM] = 2 * plan->room_elems * working;
    plan->snapshot_bytes =
        saves_behind ? written_bytes(plan, DS_ARENA_PARAMS, bytes[DS_ARENA_PARAMS]) +
                           written_bytes(plan, DS_ARENA_MOMENTS, ds__plan_state_bytes(plan))
                     : 0;
    cost_rest(plan);
    plan->flops_per_token =
        ds_model_flops_per_token(&plan->model, plan->whole_sequence) - left_out(plan, false);
    if (plan->fp8)
        plan->fp8_flops_per_token =
            ds_model_product_flops_per_token(&plan->model) - left_out(plan, true);
}

double ds_plan_peak(const struct ds_plan *plan, double peak, double fp8_peak)
{
    double share = plan->fp8_flops_per_token / plan->flops_per_token;

    if (share <= 0.0 || peak <= 0.0 || fp8_peak <= 0.0)
        return peak;
    return 1.0 / (share / fp8_peak + (1.0 - share) / peak);
}

uint64_t ds_plan_host_bytes(const struct ds_plan *plan)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < DS_ARENA_COUNT; i++)
        total += plan->host[i] ? plan->arena_bytes[i] : 0;
    return total;
}

uint64_t ds__plan_owned_bytes(const struct ds_plan *plan)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < DS_ARENA_COUNT; i++)
        total += plan->host[i] && plan->apart ? 0 : plan->arena_bytes[i];
    return total;
}

uint64_t ds_plan_total_bytes(const struct ds_plan *plan)
{
    return ds__plan_owned_bytes(plan) + plan->peer_bytes;
}

/* Parts of a pipeline differ, and any rank may have the largest one. */
static uint64_t most_owned(const struct ds_plan *plan)
{
    return plan->part != NULL ? ds__plan_part_bytes(plan) : ds__plan_owned_bytes(plan);
}

uint64_t ds_plan_ranks_bytes(const struct ds_plan *plan, unsigned ranks)
{
    if (plan->part != NULL && ranks == plan->local_world)
        return ds__plan_host_bytes(plan);
    return ranks * (ds__plan_owned_bytes(plan) - plan->common_bytes) + plan->common_bytes;
}

/* Is that no more than `available_bytes`, however many there are? */
static bool hold(const struct ds_plan *plan, unsigned ranks, uint64_t available_bytes)
{
    if (plan->part != NULL && ranks == plan->local_world && !plan->apart)
        return ds__plan_host_bytes(plan) <= available_bytes;
    return plan->common_bytes <= available_bytes &&
           most_owned(plan) - plan->common_bytes <= (available_bytes - plan->common_bytes) / ranks;
}

/* What more of the GPU's memory could be the host's; "" if nothing. */
static const char *offload_hint(const struct ds_plan *plan)
{
    bool matrices = false;

    for (size_t i = 0; i < plan->spans; i++)
        matrices = matrices || plan->span[i].rows > 0;
    if (!plan->apart || plan->pipeline_ranks > 1)
        return "";
    if (!plan->offload && !ds_plan_speaks(plan) && !plan->by_tensor && !matrices)
        return ", 'offload.optim' to cpu";
    if (plan->offload_params)
        return "";
    return plan->stage == 3 ? ", 'offload.params' to cpu"
                            : ", 'zero.stage' to 3 and 'offload.params' to cpu";
}

/* Where parameters are held once there is nothing more to share behind stage 2. */
static bool raising_helps(const struct ds_plan *plan)
{
    bool ends_at_2 = plan->common_bytes > 0 || plan->pipeline_ranks > 1;

    return plan->holders > 1 && plan->stage < (ends_at_2 ? 2 : 3);
}

int ds_plan_check_fit(const struct ds_plan *plan, unsigned ranks, uint64_t available_bytes,
                      struct ds_error *err)
{
    uint64_t owned = most_owned(plan);
    char table[DS_MAX_ERROR_TEXT / 2] = "";
    size_t at = 0;

    if (hold(plan, ranks, available_bytes))
        return 0;
    for (unsigned i = 0; i < DS_ARENA_COUNT && at < sizeof(table); i++)
        if (plan->arena_bytes[i] > 0 && !(plan->host[i] && plan->apart))
            at += (size_t)snprintf(table + at, sizeof(table) - at, "%s%s %s", at > 0 ? ", " : "",
                                   ds_arena_name((enum ds_arena_kind)i),
                                   ds__bytes_text(plan->arena_bytes[i]).text);
    if (plan->common_bytes > 0 && at < sizeof(table))
        (void)snprintf(table + at, sizeof(table) - at, ", %s of it once for all",
                       ds__bytes_text(plan->common_bytes).text);
    return ds_fail(
        err, ENOMEM,
        "not enough memory: %u rank%s need%s %s%s and %s has %s free; lower "
        "'train.micro_batch', set 'activation.recompute' to auto%s%s%s or use fewer ranks per "
        "%s (each rank takes %s)",
        ranks, ranks == 1 ? "" : "s", ranks == 1 ? "s" : "", ds__bytes_text(owned).text,
        ranks == 1 ? "" : " each", plan->apart ? "the GPU" : "this host",
        ds__bytes_text(available_bytes).text,
        plan->snapshot_bytes > 0 && !plan->apart ? ", 'checkpoint.async' to false" : "",
        offload_hint(plan), raising_helps(plan) ? ", raise 'zero.stage'" : "",
        plan->apart ? "GPU" : "host", table);
}

int ds_plan_check_host(const struct ds_plan *plan, unsigned ranks, uint64_t available_bytes,
                       struct ds_error *err)
{
    uint64_t bytes = ds_plan_host_bytes(plan);

    if (bytes <= available_bytes / ranks)
        return 0;
    return ds_fail(err, ENOMEM,
                   "not enough memory on the host: %u rank%s keep%s %s%s there and it has %s; set "
                   "'%s' to none%s or use fewer ranks per host",
                   ranks, ranks == 1 ? "" : "s", ranks == 1 ? "s" : "", ds__bytes_text(bytes).text,
                   ranks == 1 ? "" : " each", ds__bytes_text(available_bytes).text,
                   plan->offload_params ? "offload.params"
                   : plan->offload      ? "offload.optim"
                                        : "activation.offload",
                   plan->stage < 1 && plan->world > 1 ? ", raise 'zero.stage'" : "");
}

/* The number after `key` in a file of "key number" lines; after nothing when key is "".
 * UINT64_MAX when there is none ("max"). */
static uint64_t read_number(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    uint64_t value = UINT64_MAX;
    size_t len = strlen(key);
    char line[256];

    if (file == NULL)
        return UINT64_MAX;
    while (fgets(line, sizeof(line), file) != NULL) {
        char *end;
        unsigned long long number;

        if (strncmp(line, key, len) != 0)
            continue;
        number = strtoull(line + len, &end, 10);
        if (end != line + len)
            value = number;
        break;
    }
    (void)fclose(file);
    return value;
}

/* Where the two versions of cgroups keep the same things. */
struct cgroups {
    const char *line; /* of /proc/self/cgroup, behind the first colon */
    const char *root, *limit, *used, *cache;
};
static const struct cgroups versions[] = {
    {":", "/sys/fs/cgroup", "memory.max", "memory.current", "file "},
    {"memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "cache "},
};

static uint64_t file_number(const struct cgroups *version, const char *folder, const char *name,
                            const char *key)
{
    char path[DS_MAX_PATH];
    int len = snprintf(path, sizeof(path), "%s%s/%s", version->root, folder, name);

    return len < 0 || (size_t)len >= sizeof(path) ? UINT64_MAX : read_number(path, key);
}

/* Room below the limit of one cgroup; its page cache can be given back. */
static uint64_t cgroup_room(const struct cgroups *version, const char *folder)
{
    uint64_t limit = file_number(version, folder, version->limit, "");
    uint64_t used = file_number(version, folder, version->used, "");
    uint64_t cache = file_number(version, folder, "memory.stat", version->cache);
    uint64_t shared = file_number(version, folder, "memory.stat", "shmem ");

    if (limit == UINT64_MAX || used == UINT64_MAX)
        return UINT64_MAX;
    if (cache != UINT64_MAX && shared != UINT64_MAX && cache >= shared && cache - shared <= used)
        used -= cache - shared;
    return used < limit ? limit - used : 0;
}

/* The tightest cgroup from `folder` up to the root. */
static uint64_t least_room(const struct cgroups *version, char *folder)
{
    uint64_t least = UINT64_MAX;
    char *slash;

    folder[strcspn(folder, "\n")] = '\0';
    while ((slash = strrchr(folder, '/')) != NULL) {
        uint64_t room = cgroup_room(version, folder);

        if (room < least)
            least = room;
        *slash = '\0';
    }
    return least;
}

/* Of this process, in whichever versions are mounted. */
static uint64_t cgroup_available(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    uint64_t least = UINT64_MAX;
    char line[DS_MAX_PATH];

    if (file == NULL)
        return UINT64_MAX;
    while (fgets(line, sizeof(line), file) != NULL) {
        char *rest = strchr(line, ':');

        for (size_t i = 0; rest != NULL && i < sizeof(versions) / sizeof(versions[0]); i++) {
            size_t len = strlen(versions[i].line);
            uint64_t room = UINT64_MAX;

            if (strncmp(rest + 1, versions[i].line, len) == 0)
                room = least_room(&versions[i], rest + 1 + len);
            if (room < least)
                least = room;
        }
    }
    (void)fclose(file);
    return least;
}

uint64_t ds_mem_addresses(void)
{
    uint64_t pages = read_number("/proc/self/statm", ""), page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct rlimit limit;

    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    if (pages == UINT64_MAX)
        return limit.rlim_cur;
    return pages * page < limit.rlim_cur ? limit.rlim_cur - pages * page : 0;
}

uint64_t ds_mem_available(void)
{
    uint64_t kib = read_number("/proc/meminfo", "MemAvailable:"), group = cgroup_available();
    uint64_t host = kib > UINT64_MAX / 1024 ? UINT64_MAX : kib * 1024;
    uint64_t addresses = ds_mem_addresses(), least = host < group ? host : group;

    return least < addresses ? least : addresses;
}
