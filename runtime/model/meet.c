/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * meet.c - what the ranks that divide experts tell each other in the middle of a pass.
 *
 * P such ranks have N rows each.  All of them gather the P N rows, and what each one's router has
 * said of its own; what a rank's experts make of all rows it gives back in parts, of which each
 * rank adds up those of its rows in the order of ranks, in F32.  So the bits are the same on every
 * backend, and rounded once.
 *
 *     [N, C]  ->  gathered  [P, N, C]  ->  experts here  ->  [P, N, C]  ->  swapped, summed  [N, C]
 *
 * Tests   tests/engine/test_meet.c
 */
#include "kernels/probe.h"
#include "runtime/model/net.h"

/* One collective on the net's stream, measured as `name` of `bytes`. */
struct talk {
    const struct ds_net *net;
    const char *name;
    size_t bytes;
};

static int begin(const struct talk *talk, size_t *at, struct ds_error *err)
{
    ds_comm_use_stream(talk->net->meet, talk->net->stream);
    return ds__probe_begin(talk->net->stream, at, err);
}

static int end(const struct talk *talk, int rc, size_t at, struct ds_error *err)
{
    return rc == 0 ? ds__probe_end_bytes(talk->net->stream, at, talk->name, talk->bytes, err) : rc;
}

static size_t met_bytes(const struct ds_net *net)
{
    return ds__meeting(net) * net->tokens * net->shape.hidden * ds_dtype_bytes(net->act);
}

int ds__meet_rows(const struct ds_net *net, const void *rows, void *to, struct ds_error *err)
{
    const struct talk talk = {net, "all_gather", met_bytes(net)};
    size_t at;
    int rc = begin(&talk, &at, err);

    if (rc == 0)
        rc = ds_comm_all_gather_from(net->meet, rows, to, talk.bytes, err);
    return end(&talk, rc, at, err);
}

int ds__meet_said(const struct ds_net *net, void *said, struct ds_error *err)
{
    const size_t pairs = ds__meeting(net) * net->tokens * net->shape.experts_each;
    const struct talk talk = {net, "all_gather", pairs * sizeof(uint32_t)};
    size_t at;
    int rc = begin(&talk, &at, err);

    if (rc == 0)
        rc = ds_comm_all_gather(net->meet, said, talk.bytes, err);
    return end(&talk, rc, at, err);
}

int ds__meet_weights(const struct ds_net *net, float *weights, struct ds_error *err)
{
    const size_t pairs = ds__meeting(net) * net->tokens * net->shape.experts_each;
    const struct talk talk = {net, "all_reduce", 2 * pairs * sizeof(*weights)};
    size_t at;
    int rc = begin(&talk, &at, err);

    if (rc == 0)
        rc = ds_comm_all_reduce_f32(net->meet, weights, pairs, err);
    return end(&talk, rc, at, err);
}

int ds__meet_parts(const struct ds_net *net, void *room, const void *residual, void *y,
                   struct ds_error *err)
{
    const struct talk talk = {net, "all_to_all", 2 * met_bytes(net)};
    const struct ds_rows_sum_args sum = {
        .rows = net->tokens,
        .each = ds__meeting(net),
        .channels = net->shape.hidden,
        .act = net->act,
        .x = room,
        .residual = residual,
        .y = y,
    };
    size_t at;
    int rc = begin(&talk, &at, err);

    if (rc == 0)
        rc = ds_comm_all_to_all(net->meet, net->swapped, room, met_bytes(net), err);
    rc = end(&talk, rc, at, err);
    return rc == 0 ? ds_rows_sum(&sum, net->stream, err) : rc;
}
