/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_ranks.c - who shares what; the contract is in job_ranks.h, for a number of ranks in job.h.
 *
 * Tests   tests/job/
 */
#include "runtime/job_ranks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/job_blame.h"

struct whole { /* what is divided */
    const char *path, *text;
    uint64_t value;
};

static int check_divides(const struct ds_keys *keys, const char *path, uint64_t ranks,
                         const struct whole *table, size_t count, struct ds_error *err)
{
    char fit[64];

    for (size_t i = 0; i < count; i++) {
        if (table[i].value % ranks == 0)
            continue;
        ds__job_near_divisors(table[i].value, ranks, table[i].value, fit, sizeof(fit));
        return FAIL_AT(keys, ds__job_blame(keys, path, table[i].path), EINVAL,
                       "'%s' %" PRIu64 " must divide '%s'%s %" PRIu64 "; %s would do", path, ranks,
                       table[i].path, table[i].text, table[i].value, fit);
    }
    return 0;
}

static const char *team_text(uint64_t team)
{
    return team > 1 ? " / 'parallel.tensor'," : "";
}

/* Each has some of the key/value heads, or several have one. */
static bool shares_kv(uint64_t ranks, uint64_t kv)
{
    return kv % ranks == 0 || ranks % kv == 0;
}

/* Of `heads` that so many ranks share, and as many key/value heads. */
static int check_kv(const struct ds_keys *keys, const char *path, uint64_t ranks, uint64_t heads,
                    struct whole kv, struct ds_error *err)
{
    uint64_t below = ranks, above = ranks;
    char more[32] = "";

    if (shares_kv(ranks, kv.value))
        return 0;
    while (heads % below != 0 || !shares_kv(below, kv.value))
        below--;
    while (above <= heads && (heads % above != 0 || !shares_kv(above, kv.value)))
        above++;
    if (above <= heads)
        (void)snprintf(more, sizeof(more), " or %" PRIu64, above);
    return FAIL_AT(keys, ds__job_blame(keys, path, kv.path), EINVAL,
                   "'%s' %" PRIu64 " must divide '%s'%s %" PRIu64 ", or be a multiple of it; "
                   "%" PRIu64 "%s would do",
                   path, ranks, kv.path, kv.text, kv.value, below, more);
}

/* Ranks that share sequences have equal parts of their tokens, and of the heads. */
static int check_sharing(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const uint64_t team = job->parallel.tensor, ranks = job->parallel.sequence;
    const uint64_t heads = shape->heads / team;
    const struct whole table[] = {{"train.sequence", "", job->train.sequence},
                                  {"model.heads", team_text(team), heads}};
    struct whole kv = {"model.kv_heads", team_text(team), shape->kv_heads / team};
    int rc = check_divides(keys, "parallel.sequence", ranks, table,
                           sizeof(table) / sizeof(table[0]), err);

    if (kv.value == 0) /* several of a team have the same one */
        kv.value = 1;
    return rc == 0 ? check_kv(keys, "parallel.sequence", ranks, heads, kv, err) : rc;
}

/* Ranks of a team have equal parts of each layer, and some of the vocabulary. */
static int check_team(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct ds_model_shape *shape = &job->model.shape;
    const uint64_t ranks = job->parallel.tensor;
    const struct whole table[] = {{"model.heads", "", shape->heads}, {"model.ffn", "", shape->ffn}};
    const struct whole kv = {"model.kv_heads", "", shape->kv_heads};
    int rc =
        check_divides(keys, "parallel.tensor", ranks, table, sizeof(table) / sizeof(table[0]), err);

    if (rc == 0)
        rc = check_kv(keys, "parallel.tensor", ranks, shape->heads, kv, err);
    if (rc != 0)
        return rc;
    if (ranks * ranks > shape->vocab)
        return FAIL_AT(keys, ds__job_blame(keys, "parallel.tensor", "model.vocab"), EINVAL,
                       "'parallel.tensor' %" PRIu64 " is too many for 'model.vocab' %" PRIu64
                       ", of which each rank has a part",
                       ranks, shape->vocab);
    return 0;
}

/* Parts of a pipeline have layers, and what a rank holds of them it holds whole. */
static int check_pipeline(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const uint64_t parts = job->parallel.pipeline, layers = job->model.shape.layers;

    if (parts > layers)
        return FAIL_AT(keys, ds__job_blame(keys, "parallel.pipeline", "model.layers"), EINVAL,
                       "'parallel.pipeline' %" PRIu64 " is more than 'model.layers' %" PRIu64
                       ", and each part needs a layer; use %" PRIu64 " or less",
                       parts, layers, layers);
    if (parts > 1 && job->zero.stage == 3)
        return FAIL_AT(keys, ds__job_blame(keys, "parallel.pipeline", "zero.stage"), EINVAL,
                       "'parallel.pipeline' %" PRIu64 " and 'zero.stage' 3 do not go together: "
                       "every micro-batch would gather the layers anew; use 'zero.stage' 2",
                       parts);
    return 0;
}

/* Ranks that divide experts have as many each. */
static int check_experts(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const struct whole table[] = {{"model.experts", "", job->model.shape.experts}};

    if (job->parallel.expert > 1 && job->model.shape.experts == 0)
        return FAIL_AT(keys, ds__job_blame(keys, "parallel.expert", "model.arch"), EINVAL,
                       "'parallel.expert' %" PRIu64 " divides experts, and 'model.arch' %s has "
                       "none; use 1, or an arch with experts: mixtral or qwen3_moe",
                       job->parallel.expert, ds_arch_name(job->model.shape.arch));
    return check_divides(keys, "parallel.expert", job->parallel.expert, table, 1, err);
}

int ds__job_check_parallel(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = check_team(job, keys, err);

    if (rc == 0)
        rc = check_sharing(job, keys, err);
    if (rc == 0)
        rc = check_experts(job, keys, err);
    return rc == 0 ? check_pipeline(job, keys, err) : rc;
}

/* --- the number of ranks ---------------------------------------------------------------------- */

/* `world` ranks are so many data-parallel ones. */
static int data_ranks_of(const struct ds_job *job, unsigned world, unsigned *ranks,
                         struct ds_error *err)
{
    const struct ds_keys *keys = &job->source->keys;
    const struct {
        const char *path, *text;
        uint64_t value;
    } table[] = {{"parallel.pipeline", "part of the layers", job->parallel.pipeline},
                 {"parallel.tensor", "part of each layer", job->parallel.tensor},
                 {"parallel.sequence", "part of a sequence", job->parallel.sequence}};
    char fit[64], of[160] = "";

    *ranks = world;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        size_t at = strlen(of);

        if (*ranks % table[i].value != 0) {
            ds__job_near_divisors(*ranks, table[i].value, *ranks, fit, sizeof(fit));
            return FAIL_AT(keys, table[i].path, EINVAL,
                           "'%s' %" PRIu64 " must divide the number of ranks%s, %u; %s would do",
                           table[i].path, table[i].value, of, *ranks, fit);
        }
        *ranks /= (unsigned)table[i].value;
        if (table[i].value > 1)
            (void)snprintf(of + at, sizeof(of) - at, "%s for each of %" PRIu64 " %ss",
                           at > 0 ? "," : "", table[i].value, table[i].text);
    }
    if (job->parallel.data != 0 && job->parallel.data != *ranks)
        return FAIL_AT(keys, "parallel.data", EINVAL,
                       "'parallel.data' is %" PRIu64 " but there %s %u rank%s%s; use auto or %u",
                       job->parallel.data, *ranks == 1 ? "is" : "are", *ranks,
                       *ranks == 1 ? "" : "s", of, *ranks);
    return 0;
}

/* Those who divide experts are ranks that have the same layers, one behind another. */
static int check_divided(const struct ds_job *job, unsigned data_ranks, struct ds_error *err)
{
    const struct ds_keys *keys = &job->source->keys;
    const uint64_t ranks = data_ranks * job->parallel.sequence, divide = job->parallel.expert;
    char fit[64];

    if (ranks % divide == 0)
        return 0;
    ds__job_near_divisors(ranks, divide, ranks, fit, sizeof(fit));
    return FAIL_AT(keys, "parallel.expert", EINVAL,
                   "'parallel.expert' %" PRIu64 " must divide the number of ranks that have the "
                   "same layers, %" PRIu64 "; %s would do",
                   divide, ranks, fit);
}

int ds_job_check_world(const struct ds_job *job, unsigned world, struct ds_error *err)
{
    const struct ds_keys *keys = &job->source->keys;
    uint64_t global = job->train.global_batch, micro = job->train.micro_batch;
    const bool shared = job->parallel.sequence * job->parallel.pipeline * job->parallel.tensor > 1;
    char fit[64], other[100] = "";
    unsigned ranks;
    uint64_t share;
    int rc = data_ranks_of(job, world, &ranks, err);

    if (rc == 0)
        rc = check_divided(job, ranks, err);
    if (rc != 0 || global % (ranks * micro) == 0)
        return rc;
    ds__job_near_multiples(ranks * micro, global, fit, sizeof(fit));
    if (global % ranks == 0) {
        share = global / ranks;
        ds__job_near_divisors(share, micro, share, other, sizeof(other));
    }
    return FAIL_AT(keys, ds__job_blame(keys, "train.global_batch", "train.micro_batch"), EINVAL,
                   "'train.global_batch' %" PRIu64 " must be a multiple of %s x micro_batch = %u x "
                   "%" PRIu64 " = %" PRIu64 "; %s would do%s%s",
                   global, shared ? "data-parallel ranks" : "ranks", ranks, micro, ranks * micro,
                   fit, other[0] == '\0' ? "" : ", or a micro_batch of ", other);
}
