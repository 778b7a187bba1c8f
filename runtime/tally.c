/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tally.c - the contract is in tally.h.
 */
#include "runtime/tally.h"

#include <string.h>

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
static int sum_bucket(struct ds_tally *tally, const float *grads, size_t bucket, size_t *part,
                      struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;
    struct ds_held slice = ds_plan_slice(plan, DS_ARENA_GRADS, bucket);
    int rc = 0;

    if (!plan->bucket[bucket].gaps)
        return sum_up(tally, grads, ds_held_within(slice, 0, plan->bucket[bucket].elems), (*part)++,
                      err);
    for (size_t i = 0; rc == 0 && i < plan->spans; i++) {
        const struct ds_plan_span *span = &plan->span[i];
        uint64_t at = span->offset - plan->bucket[bucket].offset;

        if (span->bucket == bucket)
            rc = sum_up(tally, grads, ds_held_within(slice, at, span->elems), (*part)++, err);
    }
    return rc;
}

int ds_tally_read(struct ds_tally *tally, const float *grads, struct ds_tally_result *result,
                  struct ds_error *err)
{
    size_t parts = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && grads != NULL && i < tally->plan->buckets; i++)
        rc = sum_bucket(tally, grads, i, &parts, err);
    if (rc == 0)
        rc = fetch(tally, 1 + 2 * parts, err);
    if (rc != 0)
        return rc;
    *result = (struct ds_tally_result){.loss = tally->host_sums[0]};
    for (size_t i = 0; i < parts; i++) {
        result->squares += tally->host_sums[1 + 2 * i];
        result->nonfinite += count_of(tally, i);
    }
    return 0;
}

/* The first tensor of which this rank's gradient is not finite; `params` when there is none. */
static int first_bad(struct ds_tally *tally, const float *grads, size_t *index,
                     struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;

    for (*index = 0; *index < plan->params; ++*index) {
        struct ds_held slice = ds_plan_slice_param(plan, DS_ARENA_GRADS, *index);
        int rc = slice.count == 0 ? 0 : sum_up(tally, grads, slice, 0, err);

        if (rc == 0 && slice.count > 0)
            rc = fetch(tally, 3, err);
        if (rc != 0 || (slice.count > 0 && count_of(tally, 0) > 0))
            return rc;
    }
    return 0;
}

/* By halving: only sums are at hand. */
int ds_tally_find_bad(struct ds_tally *tally, const float *grads, struct ds_comm *comm,
                      const char **name, struct ds_error *err)
{
    size_t mine, low = 0, high = tally->plan->params;
    int rc = first_bad(tally, grads, &mine, err);

    while (rc == 0 && low < high) {
        size_t middle = low + (high - low) / 2;
        double below = mine <= middle ? 1.0 : 0.0;

        rc = ds_comm_all_reduce_f64(comm, &below, 1, err);
        if (below > 0.0)
            high = middle;
        else
            low = middle + 1;
    }
    *name = low < tally->plan->params ? tally->plan->param[low].param.name : "loss";
    return rc;
}
