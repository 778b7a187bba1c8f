/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * feed.h - tokens of micro-batches on their way to the device.
 *
 * The host writes them into memory that stays where it is, a place for each micro-batch of a step,
 * and as many again where it may queue a step before the one in front of it is done.
 * From there they go up on a stream that has nothing else (the host's queue needs none), into two
 * rooms of the device by turns, each with an event for "full" and one for "empty"; the stream that
 * computes takes them over.  So what a micro-batch reads is there before the one in front of it is
 * done.  Where the device has no memory of its own there are no rooms.
 *
 * Tests   tests/engine/test_engine.c, tests/e2e/cuda.py
 */
#ifndef DS_RUNTIME_FEED_H
#define DS_RUNTIME_FEED_H

#include <stdint.h>

#include "base/error.h"
#include "runtime/data/data.h"
#include "runtime/model/net.h"

enum { DS_FEED_ROOMS = 2, DS_FEED_EVENTS = 2 * DS_FEED_ROOMS };

struct ds_feed {
    struct ds_device *device;
    const struct ds_net *net;
    uint64_t micro_batches, loaded;
    unsigned sets, set; /* of places: how many, and which is the step's */
    int32_t *host;      /* [sets][micro_batches][ds_net_host_ids()] */
    void *room[DS_FEED_ROOMS];
    uint32_t event; /* the first of DS_FEED_EVENTS of the device that are the feed's */
};

int ds_feed_open(struct ds_feed *feed, const struct ds_net *net, struct ds_device *device,
                 uint32_t event, struct ds_error *err) DS_NODISCARD;
void ds_feed_close(struct ds_feed *feed);

/* A step begins. */
void ds_feed_turn(struct ds_feed *feed);

/* Where the sequences of a micro-batch of a step go, sequence + 1 ids each.  Its last load must be
 * done: once a step, or a batch of an evaluation, has been waited for, all are; where there are two
 * sets, once the step before it has been. */
int32_t *ds_feed_place(const struct ds_feed *feed, uint64_t micro_batch);

/* The number of the first of a micro-batch's sequences, of a step that begins at `position`. */
uint64_t ds_feed_first(const struct ds_plan *plan, uint64_t position, uint64_t micro_batch);

/* Read them, and load what was read. */
int ds_feed_read(struct ds_feed *feed, enum ds_pass pass, const struct ds_data *data,
                 uint64_t position, uint64_t micro_batch, struct ds_error *err) DS_NODISCARD;

/* What was written there is what the net reads next. */
int ds_feed_load(struct ds_feed *feed, enum ds_pass pass, uint64_t micro_batch,
                 struct ds_error *err) DS_NODISCARD;

#endif
