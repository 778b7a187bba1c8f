/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * search.c - the contract is in search.h.
 */
#include "runtime/cost/search.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cost/depth.h"
#include "runtime/job_table.h"
#include "runtime/optim.h"

enum { STAGES = 4, FIRST_ROOM = 256 };

#define PREFETCH "zero.prefetch"

/* The keys that a candidate decides. */
static const char *const searched[] = {
    "train.micro_batch",    "zero.stage",        "zero.shard_group",
    "activation.recompute", "offload.optim",     "parallel.tensor",
    "parallel.sequence",    "parallel.pipeline", PREFETCH};

struct search {
    const struct ds_search_args *args;
    struct ds_candidate *candidate;
    size_t count, room;
    uint64_t ranks;
    struct ds_error last; /* why the last impossible one was */
};

struct ds_job ds_candidate_job(const struct ds_job *job, const struct ds_candidate *candidate)
{
    struct ds_job copy = *job;

    copy.train.micro_batch = candidate->micro_batch;
    copy.zero.stage = candidate->stage;
    copy.zero.shard_group = candidate->shard_group;
    copy.activation.recompute = candidate->recompute;
    copy.offload.optim = candidate->offload;
    copy.parallel.tensor = candidate->tensor;
    copy.parallel.sequence = candidate->sequence;
    copy.parallel.pipeline = candidate->pipeline;
    if (candidate->prefetch > 0)
        copy.zero.prefetch = candidate->prefetch;
    return copy;
}

/* Must a person say this key to have the candidate? */
static bool is_said(const struct ds_job *job, const struct ds_candidate *candidate,
                    const char *path)
{
    const struct {
        const char *path;
        bool differs;
    } table[] = {{PREFETCH, candidate->prefetch > 0},
                 {"parallel.tensor", candidate->tensor != job->parallel.tensor},
                 {"parallel.sequence", candidate->sequence != job->parallel.sequence},
                 {"parallel.pipeline", candidate->pipeline != job->parallel.pipeline}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].path, path) == 0)
            return table[i].differs;
    return true;
}

void ds_candidate_print(const struct ds_job *job, const struct ds_candidate *candidate,
                        struct ds_buf *out)
{
    const struct ds_job copy = ds_candidate_job(job, candidate);
    size_t keys;
    const struct ds_key *key = ds_job_keys(&keys);

    for (size_t i = 0; i < sizeof(searched) / sizeof(searched[0]); i++)
        for (size_t j = 0; j < keys; j++)
            if (strcmp(key[j].path, searched[i]) == 0 && is_said(job, candidate, searched[i])) {
                (void)ds_buf_printf(out, "%s%s=", i > 0 ? " " : "", searched[i]);
                ds_key_print(&key[j], &copy, out);
            }
}

static bool is_apart(const struct ds_search_args *args)
{
    return args->apart || args->cluster->pcie.bandwidth > 0.0;
}

/* Settle how far ahead stage 3 gathers, where the job leaves it open. */
static int settle(struct search *search, const struct ds_plan_args *plan, struct ds_job *job,
                  struct ds_candidate *candidate)
{
    const struct ds_search_args *args = search->args;
    unsigned together = args->common ? (unsigned)args->cluster->ranks : 1;
    const struct ds_depth_args depth_args = {
        .plan = *plan,
        .ranks = together,
        .available_bytes =
            args->available_bytes == 0 ? UINT64_MAX : together * args->available_bytes,
        .cluster = args->cluster};
    struct ds_depth depth;
    int rc = ds_depth_settle(job, &depth_args, &depth, &search->last);

    if (rc == 0 && args->job->zero.prefetch == 0)
        candidate->prefetch = job->zero.prefetch;
    return rc;
}

static int keep(struct search *search, const struct ds_candidate *candidate, struct ds_error *err)
{
    struct ds_candidate *more;

    if (search->count == search->room) {
        search->room = search->room > 0 ? 2 * search->room : FIRST_ROOM;
        more = ds_arena_alloc(search->args->arena, search->room, sizeof(*more));
        if (more == NULL)
            return ds_fail(err, ENOMEM, "no memory for %zu layouts", search->room);
        if (search->count > 0)
            memcpy(more, search->candidate, search->count * sizeof(*more));
        search->candidate = more;
    }
    search->candidate[search->count++] = *candidate;
    return 0;
}

/* Cost one; a layout that no plan can be made for is left out. */
static int try_one(struct search *search, struct ds_candidate candidate, struct ds_error *err)
{
    const struct ds_search_args *args = search->args;
    struct ds_job job = ds_candidate_job(args->job, &candidate);
    const struct ds_plan_args plan_args = {.job = &job,
                                           .world = (unsigned)search->ranks,
                                           .threads = args->threads,
                                           .local_world = (unsigned)args->cluster->ranks,
                                           .apart = is_apart(args),
                                           .common = args->common};
    unsigned together = args->common ? (unsigned)args->cluster->ranks : 1;
    struct ds_prediction prediction;
    struct ds_plan plan;
    int rc;

    if (job.zero.stage == 3 && !ds_plan_gathers_ahead(&plan_args))
        return 0; /* it would be the program of stage 2 */
    rc = settle(search, &plan_args, &job, &candidate);
    if (rc == 0)
        rc = ds_plan_build(&plan, &plan_args, &search->last);
    if (rc != 0)
        return rc == -ENOMEM ? ds_fail(err, ENOMEM, "%s", search->last.text) : 0;
    rc = ds_predict(&prediction, args->cluster, &plan, err);
    candidate.bytes = ds_plan_total_bytes(&plan);
    candidate.fits =
        args->available_bytes == 0 ||
        ds_plan_check_fit(&plan, together, together * args->available_bytes, &search->last) == 0;
    candidate.fits = candidate.fits && ds_cluster_holds(args->cluster, &plan, &search->last) == 0;
    ds_plan_release(&plan);
    if (rc != 0)
        return rc;
    candidate.step_s = prediction.step_s;
    candidate.tokens_per_s = prediction.tokens_per_s;
    candidate.mfu = prediction.mfu;
    ds_prediction_release(&prediction);
    return keep(search, &candidate, err);
}

/* Are the sharers those of the job?  Of these every layout is tried; of the many others stages from
 * 1 on, and what saves more memory for more time, until one fits. */
static bool as_said(const struct ds_job *job, const struct ds_candidate *candidate)
{
    return candidate->tensor == job->parallel.tensor &&
           candidate->sequence == job->parallel.sequence &&
           candidate->pipeline == job->parallel.pipeline;
}

static bool any_fits(const struct search *search, size_t from)
{
    while (from < search->count && !search->candidate[from].fits)
        from++;
    return from < search->count;
}

/* Every stage and group of what is given; one rank has nobody to share with. */
static int try_layouts(struct search *search, struct ds_candidate candidate, struct ds_error *err)
{
    const struct ds_cluster *cluster = search->args->cluster;
    const size_t before = search->count;
    uint64_t together = candidate.tensor * candidate.pipeline;
    const bool host = search->args->job->offload.params != DS_OFFLOAD_NONE; /* stage 3 alone */
    uint64_t stages = search->ranks > together || host ? STAGES : 1;
    bool groups = cluster->hosts > 1 && cluster->ranks > 1;
    bool said = as_said(search->args->job, &candidate);
    uint64_t stage = host ? STAGES - 1 : said || stages == 1 ? 0 : 1;
    int rc = 0;

    for (; rc == 0 && stage < stages; stage++) {
        if (!said && any_fits(search, before))
            break;
        for (unsigned group = DS_SHARD_ALL; rc == 0 && group <= DS_SHARD_NODE; group++) {
            if (group == DS_SHARD_NODE && (!groups || stage == 0))
                continue;
            candidate.stage = stage;
            candidate.shard_group = group;
            rc = try_one(search, candidate, err);
        }
    }
    return rc;
}

/* What a rank keeps of activations and where its optimizer's state is, for one micro-batch. */
static int try_micro_batch(struct search *search, struct ds_candidate candidate,
                           struct ds_error *err)
{
    static const enum ds_recompute recompute[] = {DS_RECOMPUTE_NONE, DS_RECOMPUTE_SELECTIVE,
                                                  DS_RECOMPUTE_FULL};
    const struct ds_job *job = search->args->job;
    bool whole = ds_optim_by_tensor(job) || ds_optim_wants_matrices(job);
    bool never = whole && is_apart(search->args); /* plan.c refuses it */
    enum ds_offload last = never                                   ? DS_OFFLOAD_NONE
                           : job->offload.optim == DS_OFFLOAD_NVME ? DS_OFFLOAD_NVME
                                                                   : DS_OFFLOAD_CPU;
    const bool said = as_said(job, &candidate);
    /* job_offload.c refuses another */
    const enum ds_offload first =
        job->offload.params != DS_OFFLOAD_NONE && job->precision.compute == DS_COMPUTE_FP32
            ? DS_OFFLOAD_CPU
            : DS_OFFLOAD_NONE;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < sizeof(recompute) / sizeof(recompute[0]); i++)
        for (unsigned offload = first; rc == 0 && offload <= (unsigned)last; offload++) {
            size_t before = search->count;

            candidate.recompute = recompute[i];
            candidate.offload = (enum ds_offload)offload;
            rc = try_layouts(search, candidate, err);
            if (rc == 0 && !said && any_fits(search, before))
                return 0;
        }
    return rc;
}

/* Every micro-batch of these sharers; where one does not fit in any way, larger ones do neither. */
static int try_sharers(struct search *search, struct ds_candidate candidate, struct ds_error *err)
{
    const uint64_t global = search->args->job->train.global_batch;
    const uint64_t together = candidate.tensor * candidate.sequence * candidate.pipeline;
    const uint64_t data_ranks = search->ranks / together, most = global / data_ranks;
    int rc = 0;

    for (uint64_t micro = 1; rc == 0 && micro <= most; micro++)
        if (most % micro == 0) {
            size_t before = search->count;

            candidate.micro_batch = micro;
            rc = try_micro_batch(search, candidate, err);
            if (rc == 0 && !as_said(search->args->job, &candidate) && !any_fits(search, before))
                return 0;
        }
    return rc;
}

/* Do the ranks divide, and the batch among those of data?  What does not is no layout. */
static int check_sharers(const struct search *search, const struct ds_candidate *candidate,
                         struct ds_error *err)
{
    const uint64_t global = search->args->job->train.global_batch;
    const uint64_t together = candidate->tensor * candidate->sequence * candidate->pipeline;
    const uint64_t data_ranks = search->ranks / together;

    if (search->ranks % together != 0)
        return ds_fail(err, EINVAL, "%llu ranks are no multiple of %llu that share",
                       (unsigned long long)search->ranks, (unsigned long long)together);
    if (global % data_ranks == 0)
        return 0;
    return ds_fail(err, EINVAL, "'train.global_batch' %llu is not divisible by %llu ranks%s",
                   (unsigned long long)global, (unsigned long long)data_ranks,
                   together > 1 ? " of data" : "");
}

/* What the job says, and every other number of ranks that share where that is open. */
static int try_all_sharers(struct search *search, struct ds_error *err)
{
    const struct ds_search_args *args = search->args;
    const uint64_t tensor = args->job->parallel.tensor, sequence = args->job->parallel.sequence;
    const uint64_t pipeline = args->job->parallel.pipeline, here = args->cluster->ranks;
    int rc = 0;

    for (uint64_t t = args->tensor ? 1 : tensor; rc == 0 && t <= (args->tensor ? here : tensor);
         t++)
        for (uint64_t s = args->sequence ? 1 : sequence;
             rc == 0 && s <= (args->sequence ? here / t : sequence); s++)
            for (uint64_t p = args->pipeline ? 1 : pipeline;
                 rc == 0 && p <= (args->pipeline ? args->job->model.shape.layers : pipeline); p++) {
                const struct ds_candidate candidate = {.tensor = t, .sequence = s, .pipeline = p};

                if (args->tensor || args->sequence ? here % (t * s) != 0 : false)
                    continue;
                if (check_sharers(search, &candidate, &search->last) == 0)
                    rc = try_sharers(search, candidate, err);
            }
    return rc;
}

static int compare(const void *x, const void *y)
{
    const struct ds_candidate *a = x, *b = y;

    if (a->fits != b->fits)
        return a->fits ? -1 : 1;
    if (!a->fits && a->bytes != b->bytes) /* how far it is from that matters then */
        return a->bytes > b->bytes ? 1 : -1;
    if ((float)a->tokens_per_s != (float)b->tokens_per_s) /* not the last bits of a sum */
        return a->tokens_per_s > b->tokens_per_s ? -1 : 1;
    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? 1 : -1;
    return (int)a->stage - (int)b->stage;
}

int ds_search(const struct ds_search_args *args, struct ds_candidate **candidate, size_t *count,
              struct ds_error *err)
{
    struct search search = {.args = args, .ranks = args->cluster->hosts * args->cluster->ranks};
    const struct ds_candidate given = {.tensor = args->job->parallel.tensor,
                                       .sequence = args->job->parallel.sequence,
                                       .pipeline = args->job->parallel.pipeline};
    int rc = try_all_sharers(&search, err);

    if (rc == 0 && search.count == 0) {
        (void)check_sharers(&search, &given, &search.last); /* as the job says it comes first */
        return ds_fail(err, EINVAL, "no layout is possible: %s", search.last.text);
    }
    if (rc != 0)
        return rc;
    qsort(search.candidate, search.count, sizeof(*search.candidate), compare);
    *candidate = search.candidate;
    *count = search.count;
    return 0;
}
