/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tally.h - what a step comes to on this rank: its loss, its gradients' squares, what is not
 * finite.
 *
 * The numbers lie in the device's memory while a step is made and come to the host in one read, the
 * only time in a step that the host waits for the device.  Squares are of this rank's slice of
 * every bucket, added in the order of the buckets, so that their sum over ranks is the same
 * however gradients are sharded.
 *
 * Tests   tests/engine/test_tally.c, tests/engine/test_stages.c
 */
#ifndef DS_RUNTIME_TALLY_H
#define DS_RUNTIME_TALLY_H

#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/comm/comm.h"
#include "runtime/plan/plan.h"

struct ds_tally {
    const struct ds_plan *plan;
    struct ds_device *device;
    struct ds_stream *stream;
    size_t parts;             /* of gradients that are summed by themselves, at most */
    double *sums, *host_sums; /* loss; for each part its squares and, as uint64_t, its count */
    uint32_t *bucket;         /* [parts] that each is of */
    double *pairs;            /* [2 spans + 2] for trust.h where the plan is by tensor, else NULL */
};

int ds_tally_open(struct ds_tally *tally, const struct ds_plan *plan, struct ds_device *device,
                  struct ds_error *err) DS_NODISCARD;
void ds_tally_close(struct ds_tally *tally);

/* The sum of losses is 0 again. */
int ds_tally_begin(struct ds_tally *tally, struct ds_error *err) DS_NODISCARD;

struct ds_tally_result {
    double loss, squares;
    uint64_t nonfinite;
    double first_bad; /* the mark (first.h) of the first bucket with something not finite */
};
/* Sum up the gradients in line `grads` and read; NULL: the loss alone. */
int ds_tally_read(struct ds_tally *tally, const float *grads, struct ds_tally_result *result,
                  struct ds_error *err) DS_NODISCARD;

/* The name of the first tensor of which some rank's gradient is not finite, "loss" when there is
 * none.  `first_bad` is the sum over ranks; the search is in that bucket, and in the replicated
 * one, which has tensors of all blocks.  Collective: one sum where first.h has a slot for each
 * tensor of them. */
int ds_tally_find_bad(struct ds_tally *tally, const float *grads, double first_bad,
                      struct ds_comm *comm, const char **name, struct ds_error *err) DS_NODISCARD;

#endif
