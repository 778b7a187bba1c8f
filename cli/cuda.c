/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cuda.c - main of dsrun-cuda.so: what the plug-in gives to the worker that loads it.
 */
#include "base/build.h"
#include "kernels/cuda.h"
#include "runtime/plugin.h"

static const struct ds_plugin plugin = {
    .abi = DS_PLUGIN_ABI,
    .size = sizeof(plugin),
    .build_id = ds_build_id,
    .device = &ds_backend_cuda,
    .comm = &ds_comm_backend_nccl,
    .count = ds_cuda_count,
    .memory = ds_cuda_memory,
};

__attribute__((visibility("default"))) const struct ds_plugin *dsrun_plugin(void);

const struct ds_plugin *dsrun_plugin(void)
{
    return &plugin;
}
