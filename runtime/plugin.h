/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * plugin.h - dsrun-cuda.so: what it gives to the worker, and how the worker comes by it.
 *
 * One build serves machines with and without GPUs: the plug-in lies beside dsrun-worker and is
 * loaded when the job asks for it (launch.device cuda) or may have it (auto).  It must be of the
 * very build of the worker, because they share structs.
 *
 * Tests   tests/engine/test_plugin.c, tests/e2e/cuda.py
 */
#ifndef DS_RUNTIME_PLUGIN_H
#define DS_RUNTIME_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/job.h"

struct ds_backend;
struct ds_comm_backend;
extern const struct ds_comm_backend ds_comm_backend_nccl; /* in the plug-in only */

enum { DS_PLUGIN_ABI = 2 };
#define DS_PLUGIN_FILE  "dsrun-cuda.so"
#define DS_PLUGIN_ENTRY "dsrun_plugin"

struct ds_plugin { /* const, of the plug-in */
    uint32_t abi;  /* DS_PLUGIN_ABI; first for ever, as is size */
    uint32_t size; /* of this struct */
    const char *build_id;
    const struct ds_backend *device;
    const struct ds_comm_backend *comm;
    /* How many devices this process may use; -ENODEV and why, when there is none. */
    int (*count)(unsigned *count, struct ds_error *err);
    /* Of one of them: bytes free, and in all. */
    int (*memory)(unsigned index, uint64_t *left, uint64_t *all, struct ds_error *err);
};
typedef const struct ds_plugin *ds_plugin_entry_fn(void);

struct ds_seat { /* of a rank */
    unsigned rank, world, local_rank, local_world;
};

/* What launch.device comes to on this host: on 0 job->launch.device is cpu or cuda, with cuda both
 * of the plug-in's backends can be opened, *device is the number of the rank's device, and the
 * environment is as NCCL needs it.  auto takes cuda where all that is needed is there; `why` tells
 * what is not, or is "".  DSRUN_CUDA_SHARE=1 lets ranks share devices, for tests.
 * -ENOENT, -ENOTSUP  no plug-in, one of another build, a library that is missing
 * -ENODEV            no driver, one that is too old, no GPU, fewer than ranks */
int ds_plugin_seat(struct ds_job *job, const struct ds_seat *seat, unsigned *device,
                   struct ds_error *why, struct ds_error *err) DS_NODISCARD;

/* From now on "cuda" can be opened, devices 0 to *devices - 1.  Errors of ds_plugin_seat(). */
int ds_plugin_take(unsigned *devices, struct ds_error *err) DS_NODISCARD;

/* How many GPUs this process may use, and what the first has free.  Errors of ds_plugin_seat(). */
int ds_plugin_memory(unsigned *devices, uint64_t *left, struct ds_error *err) DS_NODISCARD;

#endif
