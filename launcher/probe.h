/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * probe.h - what an agent says of its host, as one JSON object.
 *
 * Facts that hosts of one job should share (kernel, libc, cores, GPUs, limits), and some that are a
 * host's own (address, clock, free memory and disk).  What cannot be found out is left out.
 *
 *     kernel libc machine cpu cores numa_nodes memory_bytes gpus gpu gpu_nodes driver nofile
 *     memlock shm_bytes
 *     nccl gpu_used_bytes gpu_processes gpus_free
 *     time free_bytes tmp_free_bytes dir_free_bytes address interface load
 *
 * Tests   tests/launcher/test_probe.c, tests/e2e/hosts.py
 */
#ifndef DS_LAUNCHER_PROBE_H
#define DS_LAUNCHER_PROBE_H

#include "base/buf.h"

/* Append the object; `dir` is a folder whose disk matters too, or NULL. */
void ds_probe_write(const char *dir, struct ds_buf *out);

#endif
