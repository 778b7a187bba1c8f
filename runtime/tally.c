/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tally.c - the contract is in tally.h.
 *
 * The place of an element is that of the first tensor of its part among the model's, and how far it
 * is behind that tensor's begin, where the model's next tensors of the same kind follow: so the
 * least place is in the first tensor, in the order of the model, whichever rank has it.  Only the
 * bucket of what is replicated has tensors of all blocks; its places are a kind of their own.
 * Where ranks divide experts, buckets have not all tensors of their blocks, and where others of a
 * team count keys and values, not all that they have is summed: it is then done span by span.
 */
#include "runtime/tally.h"

#include <errno.h>
#include <string.h>

#include "runtime/first.h"

enum { PLACE_BITS = 44 };

/* Sums in front of the parts: of losses, of experts' peaks. */
enum { LOSS, PEAKS, SUMS };

static struct ds_part *parts_of(double *loss)
{
    return (struct ds_part *)(void *)(loss + SUMS);
}

static size_t bytes_of(size_t parts)
{
    return SUMS * sizeof(double) + parts * sizeof(struct ds_part);
}

int ds_tally_open(struct ds_tally *tally, const struct ds_plan *plan, struct ds_device *device,
                  struct ds_device *host, struct ds_error *err)
{
    void *memory = NULL;
    int rc;

    *tally = (struct ds_tally){.plan = plan,
                               .device = device,
                               .stream = ds_device_stream(device),
                               .parts = plan->buckets + plan->spans};
    if (plan->host[DS_ARENA_GRADS] && host != NULL)
        tally->by_host = ds_device_stream(host);
    rc = ds_device_alloc(device, bytes_of(tally->parts), &memory, err);
    tally->loss = memory;
    tally->peaks = rc == 0 ? tally->loss + PEAKS : NULL;
    if (rc == 0)
        rc = ds_device_host_alloc(device, bytes_of(tally->parts), &memory, err);
    if (rc == 0)
        tally->host = memory;
    if (rc != 0)
        ds_tally_close(tally);
    return rc;
}

void ds_tally_close(struct ds_tally *tally)
{
    if (tally->device == NULL)
        return;
    ds_device_free(tally->device, tally->loss, bytes_of(tally->parts));
    ds_device_host_free(tally->device, tally->host, bytes_of(tally->parts));
    memset(tally, 0, sizeof(*tally));
}

int ds_tally_begin(struct ds_tally *tally, struct ds_error *err)
{
    return ds_stream_clear(tally->stream, tally->loss, bytes_of(tally->parts), err);
}

/* --- sums ------------------------------------------------------------------------------------- */

/* Of how many parts the sums are under way. */
struct under_way {
    const float *grads;
    size_t parts, own; /* own: of what is not replicated, which comes first */
};

/* What of a bucket is at `held`, counted from where tensor `first` begins. */
static int sum_up(struct ds_tally *tally, struct under_way *sums, struct ds_held held, size_t first,
                  struct ds_error *err)
{
    double *to = tally->by_host != NULL ? tally->host : tally->loss;
    struct ds_part *part = &parts_of(to)[sums->parts];
    const struct ds_sumsq_args args = {
        .n = held.count,
        .x = sums->grads + held.at,
        .sum = &part->squares,
        .nonfinite = &part->nonfinite,
        .place = &part->place,
        .base = ((uint64_t)first << PLACE_BITS) + held.first,
    };

    sums->parts++;
    return ds_sumsq(&args, tally->by_host != NULL ? tally->by_host : tally->stream, err);
}

/* The tensor that begins there in the line. */
static size_t tensor_at(const struct ds_plan *plan, uint64_t offset)
{
    for (size_t i = 0; i < plan->params; i++)
        if (plan->param[i].offset == offset)
            return plan->param[i].tensor;
    return plan->tensors;
}

/* This rank's slice of a bucket; not the padding, which may hold anything. */
static int sum_bucket(struct ds_tally *tally, struct under_way *sums, uint32_t number,
                      struct ds_error *err)
{
    const struct ds_plan *plan = tally->plan;
    const struct ds_bucket *bucket = &plan->bucket[number];
    struct ds_held slice = ds_plan_slice(plan, DS_ARENA_GRADS, number);
    int rc = 0;

    if (!bucket->gaps && plan->expert_ranks == 1 && (plan->tensor_rank == 0 || !bucket->doubled))
        return sum_up(tally, sums, ds_held_within(slice, 0, bucket->elems),
                      tensor_at(plan, bucket->offset), err);
    for (size_t i = 0; rc == 0 && i < plan->spans; i++) {
        const struct ds_plan_span *span = &plan->span[i];

        if (span->bucket == number && ds_plan_doubled_place(plan, span->doubled) == 0)
            rc = sum_up(tally, sums,
                        ds_held_within(slice, span->offset - bucket->offset, span->elems),
                        tensor_at(plan, span->offset), err);
    }
    return rc;
}

static int sum_all(struct ds_tally *tally, struct under_way *sums, struct ds_error *err)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && sums->grads != NULL && i < tally->plan->buckets; i++) {
        if (tally->plan->bucket[i].twin || tally->plan->bucket[i].frozen)
            continue;
        rc = sum_bucket(tally, sums, i, err);
        if (!tally->plan->bucket[i].replicated)
            sums->own = sums->parts;
    }
    return rc;
}

/* Wait for what the device has summed up. */
static int fetch(struct ds_tally *tally, size_t parts, struct ds_error *err)
{
    int rc =
        ds_stream_copy(tally->stream, DS_COPY_DOWN, tally->host, tally->loss, bytes_of(parts), err);

    return rc == 0 ? ds_stream_finish(tally->stream, err) : rc;
}

/* The host begins when the device has brought the last gradients. */
int ds_tally_read(struct ds_tally *tally, const float *grads, struct ds_entry *mine,
                  struct ds_error *err)
{
    struct under_way sums = {.grads = grads};
    int rc = 0;

    if (tally->by_host != NULL) {
        memset(tally->host, 0, bytes_of(tally->parts));
        rc = fetch(tally, 0, err);
    }
    if (rc == 0)
        rc = sum_all(tally, &sums, err);
    if (rc == 0 && tally->by_host == NULL)
        rc = fetch(tally, sums.parts, err);
    *mine = (struct ds_entry){.place = {DS_NOWHERE, DS_NOWHERE}};
    if (rc != 0)
        return rc;
    mine->loss = tally->host[LOSS];
    mine->peaks = tally->host[PEAKS];
    for (size_t i = 0; i < sums.parts; i++)
        ds_entry_take(mine, &parts_of(tally->host)[i], i >= sums.own);
    return 0;
}

int ds_tally_give(struct ds_tally *tally, const float *grads, const struct ds_entry *like,
                  struct ds_entry *to, struct ds_error *err)
{
    struct under_way sums = {.grads = grads};
    struct ds_tally_args args = {
        .loss = tally->loss,
        .peaks = tally->peaks,
        .part = parts_of(tally->loss),
        .hash = like->hash,
        .stop = like->stop,
        .writing = like->writing,
        .entry = to,
    };
    int rc = sum_all(tally, &sums, err);

    args.parts = sums.parts;
    args.own = sums.own;
    return rc == 0 ? ds_tally(&args, tally->stream, err) : rc;
}

/* --- which tensor ----------------------------------------------------------------------------- */

/* The tensor that a place is in. */
static size_t tensor_of(const struct ds_plan *plan, uint64_t place)
{
    size_t first = (size_t)(place >> PLACE_BITS);
    uint64_t rest = place & ((UINT64_C(1) << PLACE_BITS) - 1);

    for (size_t i = first; i < plan->tensors; i++) {
        const struct ds_plan_tensor *tensor = &plan->tensor[i];

        if (tensor->replicated != plan->tensor[first].replicated || tensor->frozen)
            continue;
        if (rest < tensor->param.elems)
            return i;
        rest -= tensor->param.elems;
    }
    return plan->tensors;
}

size_t ds_tally_bad(const struct ds_plan *plan, const struct ds_entry *entry)
{
    size_t least = plan->tensors;

    for (unsigned kind = 0; kind < DS_PLACES; kind++) {
        size_t tensor =
            entry->place[kind] == DS_NOWHERE ? plan->tensors : tensor_of(plan, entry->place[kind]);

        least = tensor < least ? tensor : least;
    }
    return least;
}

const char *ds_tally_name(const struct ds_plan *plan, size_t tensor)
{
    return tensor < plan->tensors ? plan->tensor[tensor].param.name : "loss";
}

int ds_tally_agree(const struct ds_plan *plan, size_t mine, double sum, struct ds_comm *comm,
                   size_t *first, struct ds_error *err)
{
    struct ds_first_range range = ds_first_range(sum, plan->tensors, plan->world);
    int rc = 0;

    while (rc == 0 && range.high - range.low > 1) {
        uint64_t low = range.low, left = range.high - low;

        sum = ds_first_mark(mine < range.high ? mine - low : left, left, plan->world);
        rc = ds_comm_all_reduce_f64(comm, &sum, 1, err);
        range = ds_first_range(sum, left, plan->world);
        range.low += low;
        range.high += low;
    }
    *first = (size_t)range.low;
    return rc;
}
