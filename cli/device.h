/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.h - the memory that the ranks of a job will compute in, as far as it is known here.
 *
 * Of this machine alone: its own memory, or its GPUs' (gpus.h).  Ranks on other hosts ask their own
 * GPUs when they open them.
 *
 * Tests   tests/e2e/cuda.py
 */
#ifndef DS_CLI_DEVICE_H
#define DS_CLI_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ds_cli_place;
struct ds_job;
struct ds_plan;

struct ds_cli_memory {
    bool apart;     /* it is a device's */
    uint64_t bytes; /* free; UINT64_MAX: not known here, and nothing is refused */
    bool limited;   /* it is what the limit of addresses leaves */
    unsigned ranks; /* of `place` that share it */
};

int ds_cli_memory(const struct ds_job *job, const struct ds_cli_place *place,
                  struct ds_cli_memory *memory, struct ds_error *err) DS_NODISCARD;

/* ds_plan_check_fit(), which says what to do where it is not the machine that has too little. */
int ds_cli_memory_holds(const struct ds_cli_memory *memory, const struct ds_plan *plan,
                        struct ds_error *err) DS_NODISCARD;

#endif
