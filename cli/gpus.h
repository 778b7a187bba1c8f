/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpus.h - the GPUs of a placement: which ones ranks are given, and what is known of them here.
 *
 * dsrun-worker is asked of those of this machine, because only that one loads the plug-in, in the
 * environment that ranks will have.
 *
 * Tests   tests/e2e/slots.py, tests/e2e/launch.py, tests/e2e/bind.py
 */
#ifndef DS_CLI_GPUS_H
#define DS_CLI_GPUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ds_cli_place;

/* Which devices the ranks of each place have, into place->devices: those that the hostfile names
 * for their slots; else, where slots were chosen, these numbers, on this machine counted in its
 * CUDA_VISIBLE_DEVICES where that is set.  Again after a place got another host.  -EDOM: a slot
 * has none. */
int ds_cli_place_devices(struct ds_cli_place *place, struct ds_error *err) DS_NODISCARD;

/* The GPUs of this machine, as the ranks of the first place will see them; none: none that can be
 * used. */
struct ds_cli_gpus {
    bool known;
    unsigned count;
    uint64_t left_bytes; /* that the first has free */
};

int ds_cli_gpus(const struct ds_cli_place *place, struct ds_cli_gpus *gpus, struct ds_error *err)
    DS_NODISCARD;

#endif
