/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * monitor.h - what rank 0 tells the launcher: lines of metrics.jsonl and events.jsonl.
 *
 * One buffer, made at init, is reused for every line, so reporting allocates nothing.  On other
 * ranks every call succeeds and does nothing.
 *
 * Digits  loss and norms are printed with DS_MONITOR_DIGITS significant digits: equal bits give
 *         equal text.  A value that is not finite is null.
 * mfu     FLOPs of the tokens trained over the peak of all ranks' devices (ds_device_peak() of
 *         rank 0 times the ranks: hosts are taken to be alike).
 * Tests   tests/engine/test_link.c
 */
#ifndef DS_RUNTIME_MONITOR_H
#define DS_RUNTIME_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "kernels/device.h"
#include "runtime/commlog.h"
#include "runtime/data/valid.h"
#include "runtime/link.h"

enum { DS_MONITOR_DIGITS = 12 };

struct ds_monitor {
    struct ds_link *link; /* borrowed; NULL: say nothing */
    struct ds_buf line;
};

int ds_monitor_init(struct ds_monitor *monitor, struct ds_link *link, struct ds_error *err)
    DS_NODISCARD;
void ds_monitor_release(struct ds_monitor *monitor);

struct ds_monitor_step {
    uint64_t step, tokens, skipped;
    double loss, grad_norm, lr, tokens_per_s, step_ms, mfu;
    double expert_load; /* 0: there are no experts */
};
int ds_monitor_step(struct ds_monitor *monitor, const struct ds_monitor_step *step,
                    struct ds_error *err) DS_NODISCARD;
/* After `step` updates: of all sets, and of each that has a name. */
int ds_monitor_valid(struct ds_monitor *monitor, uint64_t step, double loss,
                     const struct ds_valid *valid, struct ds_error *err) DS_NODISCARD;

struct ds_monitor_start {
    const char *device;
    unsigned world, threads, attempt;
    uint64_t parameters, plan_hash;
    double peak; /* FLOP/s of one rank's device */
    bool overlap;
};
int ds_monitor_start(struct ds_monitor *monitor, const struct ds_monitor_start *start,
                     struct ds_error *err) DS_NODISCARD;
/* `from` NULL: a new run. */
int ds_monitor_resumed(struct ds_monitor *monitor, uint64_t step, const char *from,
                       struct ds_error *err) DS_NODISCARD;
int ds_monitor_ready(struct ds_monitor *monitor, uint64_t step, double ms, struct ds_error *err)
    DS_NODISCARD;
struct ds_monitor_saved {
    uint64_t step, bytes;
    double ms, stall_ms; /* until the checkpoint was there; that the run stood still for it */
    const char *path;
};
int ds_monitor_checkpoint(struct ds_monitor *monitor, const struct ds_monitor_saved *saved,
                          struct ds_error *err) DS_NODISCARD;
/* What the collectives of the last steps sent, and what the plan says they do. */
int ds_monitor_comm(struct ds_monitor *monitor, uint64_t step, const struct ds_comm_log *log,
                    const struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
/* What the plan said of a device's memory, and what was taken of it. */
int ds_monitor_memory(struct ds_monitor *monitor, uint64_t step, uint64_t planned, uint64_t taken,
                      struct ds_error *err) DS_NODISCARD;
/* How often the host has waited for the device in each of some steps, and in which calls; and for
 * what a step came to while the device was at the next one. */
struct ds_monitor_waits {
    uint64_t step, steps, least, most;          /* of one step */
    const struct ds_device_wait *wait, *behind; /* of all */
    unsigned waits;
};
int ds_monitor_waits(struct ds_monitor *monitor, const struct ds_monitor_waits *waits,
                     struct ds_error *err) DS_NODISCARD;
/* A file with what a step did. */
int ds_monitor_trace(struct ds_monitor *monitor, uint64_t step, const char *path,
                     struct ds_error *err) DS_NODISCARD;
int ds_monitor_warning(struct ds_monitor *monitor, const char *text, struct ds_error *err)
    DS_NODISCARD;
/* "stop" or "end", after `step` updates. */
int ds_monitor_end(struct ds_monitor *monitor, const char *event, uint64_t step, const char *text,
                   struct ds_error *err) DS_NODISCARD;

#endif
