/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * count.h - the GPUs of other hosts, before ranks are placed.
 *
 *     dsrun ─► agent ─► dsrun-worker device    on each of them, as gpus.h asks it of this machine
 *
 * It answers in the environment that ranks will have, so that what CUDA_VISIBLE_DEVICES hides is
 * not counted.  This is a start of its own: hosts are connected to once more when ranks start,
 * which only jobs pay whose number of ranks depends on the answer.
 *
 * Tests   tests/e2e/count.py, tests/e2e/slots.py
 */
#ifndef DS_CLI_COUNT_H
#define DS_CLI_COUNT_H

#include <stdint.h>

#include "base/error.h"
#include "cli/cli.h"
#include "launcher/hosts/placement.h"

struct ds_cli_place;

/* How many GPUs each of `hosts` places, of one rank each, has for a job; 0 where none can be used.
 * `place` says how hosts are reached, and the variables of ranks.  A signal meanwhile is as one
 * that came before.  What ds_fleet_run() says; -EHOSTUNREACH, by name: a host gave no answer. */
int ds_cli_count(const struct ds_cli *cli, const struct ds_cli_place *place,
                 const struct ds_place *host, uint32_t hosts, uint32_t *gpus, struct ds_error *err)
    DS_NODISCARD;

#endif
