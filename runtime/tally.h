/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tally.h - what a step comes to on this rank: its loss, its gradients' squares, what is not
 * finite.
 *
 * The numbers lie in the device's memory while a step is made.  Squares are of this rank's slice of
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
    size_t parts;              /* of gradients that are summed by themselves, at most */
    double *loss;              /* the sum of losses; behind it that of peaks, and the parts */
    double *peaks;             /* of experts (kernels/experts.h) */
    double *host;              /* the same in the host's memory */
    struct ds_stream *by_host; /* sums up gradients that lie there; NULL: the device does */
};

/* `host` is the CPU beside a device apart, or NULL. */
int ds_tally_open(struct ds_tally *tally, const struct ds_plan *plan, struct ds_device *device,
                  struct ds_device *host, struct ds_error *err) DS_NODISCARD;
void ds_tally_close(struct ds_tally *tally);

/* The sum of losses is 0 again. */
int ds_tally_begin(struct ds_tally *tally, struct ds_error *err) DS_NODISCARD;

/* Sum up the gradients in line `grads` (NULL: the loss alone) and wait for it: *mine, whose hash,
 * stop and writing are the caller's. */
int ds_tally_read(struct ds_tally *tally, const float *grads, struct ds_entry *mine,
                  struct ds_error *err) DS_NODISCARD;

/* The same, queued, into an entry in the device's memory; hash, stop and writing are of `like`. */
int ds_tally_give(struct ds_tally *tally, const float *grads, const struct ds_entry *like,
                  struct ds_entry *to, struct ds_error *err) DS_NODISCARD;

/* The first tensor, in the model's order, of which an entry says that something in it is not
 * finite; plan->tensors when there is none. */
size_t ds_tally_bad(const struct ds_plan *plan, const struct ds_entry *entry);
/* "loss" for plan->tensors. */
const char *ds_tally_name(const struct ds_plan *plan, size_t tensor);

/* The least of the ranks' numbers, of which `sum` is the sum of marks (first.h); plan->tensors when
 * there is none.  Collective: no sum more where first.h has a slot for each tensor. */
int ds_tally_agree(const struct ds_plan *plan, size_t mine, double sum, struct ds_comm *comm,
                   size_t *first, struct ds_error *err) DS_NODISCARD;

#endif
