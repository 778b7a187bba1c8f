/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.c - the contract is in device.h.
 */
#include "cli/device.h"

#include <errno.h>

#include "base/fsio.h"
#include "cli/place.h"
#include "launcher/remote/transport.h"
#include "runtime/job.h"
#include "runtime/plan/plan.h"

int ds_cli_memory(const struct ds_job *job, const struct ds_cli_place *place,
                  struct ds_cli_memory *memory, struct ds_error *err)
{
    const enum ds_device_kind wanted = job->launch.device;
    struct ds_cli_gpus gpus = place->gpus;
    unsigned ranks = place->placement.place[0].ranks;
    int rc = 0;

    *memory = (struct ds_cli_memory){.bytes = ds_mem_available(), .ranks = ranks};
    memory->limited = memory->bytes == ds_mem_addresses();
    if (wanted == DS_DEVICE_CPU)
        return 0;
    if (place->transport != &ds_transport_local)
        gpus.count = 0;
    else if (!gpus.known || place->devices[0] != NULL)
        rc = ds_cli_gpus(place, &gpus, err);
    if (rc != 0 || (gpus.count == 0 && wanted == DS_DEVICE_AUTO))
        return rc;
    *memory = (struct ds_cli_memory){.apart = true, .bytes = UINT64_MAX, .ranks = 1};
    if (gpus.count == 0)
        return 0;
    memory->bytes = gpus.left_bytes;
    memory->ranks = (ranks + gpus.count - 1) / gpus.count;
    return 0;
}

int ds_cli_memory_holds(const struct ds_cli_memory *memory, const struct ds_plan *plan,
                        struct ds_error *err)
{
    int rc = ds_plan_check_fit(plan, memory->ranks, memory->bytes, err);

    return rc == -ENOMEM && memory->limited
               ? ds_error_context(err, rc, "the addresses of a process are limited (ulimit -v)")
               : rc;
}
