/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * feed.c - the contract is in feed.h.
 */
#include "runtime/feed.h"

#include <string.h>

#include "kernels/device.h"
#include "runtime/plan/plan.h"

static size_t place_bytes(const struct ds_feed *feed)
{
    return ds_net_host_ids(feed->net) * sizeof(*feed->host);
}

static size_t host_bytes(const struct ds_feed *feed)
{
    return feed->sets * feed->micro_batches * place_bytes(feed);
}

int ds_feed_open(struct ds_feed *feed, const struct ds_net *net, struct ds_device *device,
                 uint32_t event, struct ds_error *err)
{
    void *host = NULL;
    int rc;

    *feed = (struct ds_feed){.device = device,
                             .net = net,
                             .micro_batches = net->plan->micro_batches,
                             .sets = net->plan->late ? 2 : 1,
                             .event = event};
    rc = ds_device_host_alloc(device, host_bytes(feed), &host, err);
    feed->host = host;
    for (unsigned i = 0; rc == 0 && ds_device_is_apart(device) && i < DS_FEED_ROOMS; i++)
        rc = ds_device_alloc(device, place_bytes(feed), &feed->room[i], err);
    return rc == 0 ? ds_device_events(device, event + DS_FEED_EVENTS, err) : rc;
}

void ds_feed_close(struct ds_feed *feed)
{
    if (feed->device == NULL)
        return;
    for (unsigned i = 0; i < DS_FEED_ROOMS; i++)
        ds_device_free(feed->device, feed->room[i], place_bytes(feed));
    ds_device_host_free(feed->device, feed->host, host_bytes(feed));
    memset(feed, 0, sizeof(*feed));
}

void ds_feed_turn(struct ds_feed *feed)
{
    feed->set = (feed->set + 1) % feed->sets;
}

int32_t *ds_feed_place(const struct ds_feed *feed, uint64_t micro_batch)
{
    return feed->host +
           (feed->set * feed->micro_batches + micro_batch) * ds_net_host_ids(feed->net);
}

int ds_feed_load(struct ds_feed *feed, enum ds_pass pass, uint64_t micro_batch,
                 struct ds_error *err)
{
    const uint32_t turn = (uint32_t)(feed->loaded % DS_FEED_ROOMS);
    const uint32_t full = feed->event + 2 * turn, empty = full + 1;
    struct ds_stream *copies = ds_device_queue(feed->device, DS_QUEUE_HOST);
    struct ds_stream *compute = feed->net->stream;
    int32_t *host = ds_feed_place(feed, micro_batch);
    void *room = feed->room[turn];
    int rc;

    ds_net_follow(feed->net, host);
    if (room == NULL)
        return ds_net_load(feed->net, pass, DS_COPY_UP, host, err);
    feed->loaded++;
    rc = ds_stream_await(copies, empty, err);
    if (rc == 0)
        rc = ds_stream_copy(copies, DS_COPY_UP, room, host, place_bytes(feed), err);
    if (rc == 0)
        rc = ds_stream_signal(copies, full, err);
    if (rc == 0)
        rc = ds_stream_await(compute, full, err);
    if (rc == 0)
        rc = ds_net_load(feed->net, pass, DS_COPY_ASIDE, room, err);
    return rc == 0 ? ds_stream_signal(compute, empty, err) : rc;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* In order: micro-batch, then rank of data, then sequence of the batch. */
uint64_t ds_feed_first(const struct ds_plan *plan, uint64_t position, uint64_t micro_batch)
{
    uint64_t before = micro_batch * ds_plan_data_ranks(plan) + ds_plan_data_rank(plan);

    return position + before * plan->micro_batch;
}

/* Who sees whom in sequence `number`, which is sequence b of the micro-batch at `host`. */
static int read_lows(const struct ds_feed *feed, const struct ds_data *data, uint64_t number,
                     int32_t *host, size_t b, struct ds_error *err)
{
    const struct ds_plan *plan = feed->net->plan;
    int32_t *lows = ds_net_lows(feed->net, host, b);
    int rc = 0;

    if (plan->documents)
        rc = ds_data_read_part(data, number, 0, plan->whole_sequence, lows, err);
    if (rc == 0)
        ds_net_see(feed->net, lows);
    return rc;
}

int ds_feed_read(struct ds_feed *feed, enum ds_pass pass, const struct ds_data *data,
                 uint64_t position, uint64_t micro_batch, struct ds_error *err)
{
    const struct ds_plan *plan = feed->net->plan;
    const uint64_t first = ds_feed_first(plan, position, micro_batch), row = plan->sequence + 1;
    int32_t *ids = ds_feed_place(feed, micro_batch);
    int rc = 0;

    for (uint64_t b = 0; rc == 0 && b < plan->micro_batch; b++) {
        rc = ds_data_read_part(data, first + b, plan->sequence_rank * plan->sequence, row,
                               ids + b * row, err);
        if (rc == 0 && ds_plan_sees_less(plan))
            rc = read_lows(feed, data, first + b, ids, b, err);
    }
    return rc == 0 ? ds_feed_load(feed, pass, micro_batch, err) : rc;
}
