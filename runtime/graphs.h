/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * graphs.h - runs of instructions that are recorded once and played after that (CUDA graphs).
 *
 * A run is what stands together in the step's list on the queue that computes, forward and
 * backward passes only, with no event inside: it waits before its first instruction and signals
 * after its last.  A micro-batch begins one, because its tokens are copied before it, and what
 * parts of a pipeline pass to each other is between two.  Runs that are alike but for the
 * micro-batch, of one slot, are one recording: its kernels find tokens, parameters and gradients
 * where the plan has put them for good.
 *
 * What differs from step to step is not in a recording: tokens are copied in front of it; learning
 * rate, update and clipping belong to instructions that are not recorded; factors of the loss are
 * read from memory, or, where the host decides (outcome.h) and fp16 changes them now and then, and
 * a mask of targets in every step, are compared with those that were recorded, and others make a
 * new recording.  Dropout draws by the sequence's number, so a job with dropout records nothing.
 *
 * The first time a run is done as it is, because libraries allocate and choose then; the second
 * time it is recorded.  When that fails nothing has happened on the device: the run is done as it
 * is, nothing is recorded any more, and ds_graphs_note() says why.
 *
 * Tests   tests/engine/test_graphs.c (which runs), tests/e2e/cuda.py (bits, failures)
 */
#ifndef DS_RUNTIME_GRAPHS_H
#define DS_RUNTIME_GRAPHS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"
#include "kernels/verdict.h"
#include "runtime/plan/plan.h"

struct ds_graph_run {
    size_t first, count, like; /* instructions; the run whose recording serves for this one */
    bool warm;                 /* done once */
    struct ds_recording *recording;
    float factor[DS_LOSS_FACTORS]; /* that were recorded */
};

struct ds_graphs {
    const struct ds_plan *plan;
    struct ds_device *device;
    struct ds_graph_run *run; /* by first instruction */
    size_t runs;
    bool on, told;
    char note[DS_MAX_ERROR_TEXT + 64];
};

/* Why passes of such a plan are not recorded, "" where that needs no word; NULL: they are. */
const char *ds_graphs_why_not(const struct ds_plan *plan, const struct ds_job *job,
                              const struct ds_device *device);

/* `why_not` NULL: record; else nothing is, and "" needs no word about it. */
int ds_graphs_open(struct ds_graphs *graphs, const struct ds_plan *plan, struct ds_device *device,
                   const char *why_not, struct ds_error *err) DS_NODISCARD;
void ds_graphs_close(struct ds_graphs *graphs);

/* The run that begins with instruction `first`, NULL: none. */
struct ds_graph_run *ds_graphs_at(const struct ds_graphs *graphs, size_t first);

/* Do a run by a recording, or by `work`, which queues all of it. */
struct ds_graph_work {
    int (*work)(void *user, size_t first, size_t count, struct ds_error *err);
    void *user;
    float factor[DS_LOSS_FACTORS]; /* of the loss */
};
int ds_graphs_do(struct ds_graphs *graphs, const struct ds_graph_run *run,
                 const struct ds_graph_work *work, struct ds_error *err) DS_NODISCARD;

/* Once: why there are no recordings, NULL when there is nothing to say. */
const char *ds_graphs_note(struct ds_graphs *graphs);

#endif
