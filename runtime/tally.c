/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tally.c - the contract is in tally.h.
 */
#include "runtime/tally.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/first.h"

static size_t bytes_of(const struct ds_tally *tally)
{
    return (1 + 2 * tally->parts) * sizeof(*tally->sums);
}

static size_t pair_bytes(const struct ds_plan *plan)
{
    return (2 * plan->spans + 2) * sizeof(double);
}

int ds_tally_open(struct ds_tally *tally, const struct ds_plan *plan, struct ds_device *device,
                  struct ds_error *err)
{
    void *memory = NULL;
    int rc;

    *tally = (struct ds_tally){.plan = plan,
                               .device = device,
                               .stream = ds_device_stream(device),
                               .parts = plan->buckets + plan->spans};
    rc = ds_device_alloc(device, bytes_of(tally), &memory, err);
    tally->sums = memory;
    if (rc == 0)
        rc = ds_device_host_alloc(device, bytes_of(tally), &memory, err);
    if (rc == 0)
        tally->host_sums = memory;
    if (rc == 0) {
        tally->bucket = calloc(tally->parts, sizeof(*tally->bucket));
        rc = tally->bucket != NULL ? 0 : ds_fail(err, ENOMEM, "no memory for the sums of a step");
    }
    if (rc == 0 && plan->by_tensor) {
        rc = ds_device_alloc(device, pair_bytes(plan), &memory, err);
        tally->pairs = rc == 0 ? memory : NULL;
    }
    if (rc != 0)
        ds_tally_close(tally);
    return rc;
}

void ds_tally_close(struct ds_tally *tally)
{
    if (tally->device == NULL)
        return;
    ds_device_free(tally->device, tally->sums, bytes_of(tally));
    ds_device_host_free(tally->device, tally->host_sums, bytes_of(tally));
    ds_device_free(tally->device, tally->pairs, pair_bytes(tally->plan));
    free(tally->bucket);
    memset(tally, 0, sizeof(*tally));
}

int ds_tally_begin(struct ds_tally *tally, struct ds_error *err)
{
    return ds_stream_clear(tally->stream, tally->sums, bytes_of(tally), err);
}

/* The first `count` of sums, once all that is queued before is done. */
static int fetch(struct ds_tally *tally, size_t count, struct ds_error *err)
{
    int rc = ds_stream_copy(tally->stream, DS_COPY_DOWN, tally->host_sums, tally->sums,
                            count * sizeof(*tally->sums), err);

    return rc != 0 ? rc : ds_stream_finish(tally->stream, err);
}

/* Squares and count of some gradients, into the places of `part`. */
static int sum_up(struct ds_tally *tally, const float *grads, struct ds_held held, size_t part,
                  struct ds_error *err)
{
    double *places = tally->sums + 1 + 2 * part;
    const struct ds_sumsq_args args = {
        .n = held.count,
        .x = grads + held.at,
        .sum = &places[0],
        .nonfinite = (uint64_t *)(void *)&places[1],
    };

    return ds_sumsq(&args, tally->stream, err);
}

static uint64_t count_of(const struct ds_tally *tally, size_t part)
{
    uint64_t count;

    memcpy(&count, tally->host_sums + 2 + 2 * part, sizeof(count));
    return count;
}

/* This rank's slice of a bucket; not the padding, which may hold anything. */
static int sum_bucket(struct ds_tally *tally, const float *grads, uint32_t bucket, size_t *part,
                      struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;
    struct ds_held slice = ds_plan_slice(plan, DS_ARENA_GRADS, bucket);
    int rc = 0;

    if (!plan->bucket[bucket].gaps) {
        tally->bucket[*part] = bucket;
        return sum_up(tally, grads, ds_held_within(slice, 0, plan->bucket[bucket].elems), (*part)++,
                      err);
    }
    for (size_t i = 0; rc == 0 && i < plan->spans; i++) {
        const struct ds_plan_span *span = &plan->span[i];
        uint64_t at = span->offset - plan->bucket[bucket].offset;

        if (span->bucket != bucket)
            continue;
        tally->bucket[*part] = bucket;
        rc = sum_up(tally, grads, ds_held_within(slice, at, span->elems), (*part)++, err);
    }
    return rc;
}

int ds_tally_read(struct ds_tally *tally, const float *grads, struct ds_tally_result *result,
                  struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;
    size_t parts = 0;
    uint64_t bad = plan->buckets;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && grads != NULL && i < plan->buckets; i++)
        rc = sum_bucket(tally, grads, i, &parts, err);
    if (rc == 0)
        rc = fetch(tally, 1 + 2 * parts, err);
    if (rc != 0)
        return rc;
    *result = (struct ds_tally_result){.loss = tally->host_sums[0]};
    for (size_t i = 0; i < parts; i++) {
        uint64_t count = count_of(tally, i);

        result->squares += tally->host_sums[1 + 2 * i];
        result->nonfinite += count;
        if (count > 0 && tally->bucket[i] < bad)
            bad = tally->bucket[i];
    }
    result->first_bad = ds_first_mark(bad, plan->buckets, plan->world);
    return 0;
}

/* --- which tensor ------------------------------------------------------------------------------*/

/* Tensors to search, in the order of the model. */
struct suspects {
    struct ds_first_range buckets;
    size_t count;
};

static bool is_suspect(const struct ds_plan *plan, const struct suspects *suspects, size_t param)
{
    uint32_t bucket = plan->param[param].bucket;

    return plan->bucket[bucket].replicated ||
           (bucket >= suspects->buckets.low && bucket < suspects->buckets.high);
}

/* The first suspect of which this rank's gradient is not finite; their count when there is none. */
static int first_bad(struct ds_tally *tally, const float *grads, const struct suspects *suspects,
                     uint64_t *number, struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;

    *number = 0;
    for (size_t i = 0; i < plan->params; i++) {
        struct ds_held slice = ds_plan_slice_param(plan, DS_ARENA_GRADS, i);
        int rc;

        if (!is_suspect(plan, suspects, i))
            continue;
        rc = slice.count == 0 ? 0 : sum_up(tally, grads, slice, 0, err);
        if (rc == 0 && slice.count > 0)
            rc = fetch(tally, 3, err);
        if (rc != 0 || (slice.count > 0 && count_of(tally, 0) > 0))
            return rc;
        ++*number;
    }
    return 0;
}

static const char *name_of(const struct ds_plan *plan, const struct suspects *suspects,
                           uint64_t number)
{
    for (size_t i = 0; i < plan->params; i++)
        if (is_suspect(plan, suspects, i) && number-- == 0)
            return plan->param[i].param.name;
    return "loss";
}

int ds_tally_find_bad(struct ds_tally *tally, const float *grads, double first_bad_bucket,
                      struct ds_comm *comm, const char **name, struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;
    struct suspects suspects = {.buckets =
                                    ds_first_range(first_bad_bucket, plan->buckets, plan->world)};
    struct ds_first_range range = {0};
    uint64_t mine;
    int rc;

    *name = "loss";
    if (suspects.buckets.low == plan->buckets)
        return 0;
    for (size_t i = 0; i < plan->params; i++)
        suspects.count += is_suspect(plan, &suspects, i);
    range.high = suspects.count;
    rc = first_bad(tally, grads, &suspects, &mine, err);
    while (rc == 0 && range.high - range.low > 1) {
        uint64_t low = range.low, left = range.high - low;
        double sum = ds_first_mark(mine < range.high ? mine - low : left, left, plan->world);

        rc = ds_comm_all_reduce_f64(comm, &sum, 1, err);
        range = ds_first_range(sum, left, plan->world);
        range.low += low;
        range.high += low;
    }
    if (rc == 0)
        *name = name_of(plan, &suspects, range.low);
    return rc;
}
