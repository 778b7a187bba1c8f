/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * profile.h - where the time of a step went: what a probe has seen as a table by operation and
 * shape, each row against its own bound, and what is left of the step beside them.
 *
 * A row counts calls that do the same.  Its bound is the time that its FLOPs take at the device's
 * peak or its bytes at the rate of a copy, whichever is longer (kernels/amount.h).  Operations in
 * line with what computes add up to a part of the step; the rest of it is idle time of what
 * computes, and each moment of that is booked once, to the first of these that fits:
 *
 *     communication  a collective was under way on another queue, or in line
 *     copies         a copy to or from the host was
 *     host           inside the instruction NORM: the host reads sums and adds them up over ranks
 *     between        nothing was: launches, what the host does between them, gaps of the device
 *
 * Pure: no clock, no device.
 * Tests   tests/engine/test_profile.c
 */
#ifndef DS_RUNTIME_PROFILE_H
#define DS_RUNTIME_PROFILE_H

#include "base/buf.h"
#include "kernels/probe.h"
#include "runtime/plan/plan.h"

struct ds_profile_row {
    const char *name;
    char shape[DS_OP_SHAPE_BYTES];
    bool beside; /* not in line with what computes: beside the step's time */
    size_t calls;
    double seconds;
    struct ds_amount amount; /* of all calls */
};

struct ds_profile_wait {
    const char *call, *during; /* an instruction, or "" between two */
    size_t count;
    double seconds;
};

enum { DS_PROFILE_WAITS = 32 };
struct ds_profile {
    struct ds_profile_row *row; /* in line first, then by time, the longest first; owned */
    size_t rows;
    double step_s, ops_s;                                /* in line */
    double communication_s, copies_s, host_s, between_s; /* the rest of the step */
    double busy_s[DS_QUEUE_COUNT]; /* each queue with an instruction of it under way */
    struct ds_profile_wait wait[DS_PROFILE_WAITS];
    unsigned waits; /* kinds; the last place takes all that more would be needed for */
};

/* `seconds` from the step's begin until all was done.  -ENOMEM. */
int ds_profile_make(struct ds_profile *profile, const struct ds_plan *plan,
                    const struct ds_probe_span *span, size_t count, double seconds,
                    struct ds_error *err) DS_NODISCARD;
void ds_profile_release(struct ds_profile *profile);

struct ds_profile_facts { /* beside what was seen */
    const char *device;
    uint64_t step, tokens; /* tokens of a step, of this rank */
    double peak;           /* FLOP/s */
    double fp8_peak;       /* of products of FP8; 0: the same */
    double copy;           /* bytes/s, of what is read and written together */
    uint64_t copy_bytes;   /* that was measured with */
};

/* The share of its bound that a row reaches; 0 where it has none. */
double ds_profile_share(const struct ds_profile_row *row, const struct ds_profile_facts *facts);

void ds_profile_print(const struct ds_profile *profile, const struct ds_plan *plan,
                      const struct ds_profile_facts *facts, struct ds_buf *out);
void ds_profile_print_json(const struct ds_profile *profile, const struct ds_plan *plan,
                           const struct ds_profile_facts *facts, struct ds_buf *out);

#endif
