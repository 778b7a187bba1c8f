/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpus.h - what the GPUs of this machine do just now, and which NCCL ranks would load.
 *
 * libnvidia-ml.so.1 and libnccl.so.2 know.  Each is loaded by a child of its own, which says what
 * it found through a pipe and is killed when it takes too long: the agent itself loads nothing.
 *
 * Tests   tests/launcher/test_gpus.c, tests/e2e/hosts.py
 */
#ifndef DS_LAUNCHER_GPUS_H
#define DS_LAUNCHER_GPUS_H

#include <stdbool.h>
#include <stdint.h>

enum { DS_GPUS_MOST = 64, DS_GPUS_WAIT_MS = 10000 }; /* the wait is below the heartbeat limit */

struct ds_gpu {
    uint64_t used_bytes, total_bytes; /* total_bytes 0: it does not say */
    uint32_t processes;               /* that compute on it */
};

struct ds_gpus {
    uint32_t count; /* of GPUs, 0: none, or nobody to ask */
    uint32_t nccl;  /* 22809: 2.28.9; 0: there is none */
    struct ds_gpu gpu[DS_GPUS_MOST];
};

void ds_gpus_ask(struct ds_gpus *gpus);

/* Nothing computes on it, and its memory is free but for what a driver keeps for itself. */
bool ds_gpu_is_free(const struct ds_gpu *gpu);

/* As ds_gpus_ask(): `nvml` fills count and gpu, `nccl` the rest, each in its child. */
void ds__gpus_ask(struct ds_gpus *gpus, void (*nvml)(struct ds_gpus *gpus),
                  void (*nccl)(struct ds_gpus *gpus), unsigned wait_ms);

#endif
