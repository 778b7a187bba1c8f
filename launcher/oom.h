/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * oom.h - did the kernel kill a process for memory?  The cgroup's counter tells.
 *
 * Reads oom_kill from memory.events (cgroup v2) or memory.oom_control (v1) of this process's own
 * group, or of the job's (cgroup.h) where that is counted apart.  Where none can be read the answer
 * is always no.
 *
 * Tests   tests/launcher/test_cgroup.c
 */
#ifndef DS_LAUNCHER_OOM_H
#define DS_LAUNCHER_OOM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct ds_oom {
    char path[DS_MAX_PATH]; /* "" where there is no counter */
    uint64_t seen;
};

void ds_oom_init(struct ds_oom *oom);

/* Count those of the cgroup in `folder` instead, where it counts any. */
void ds_oom_watch(struct ds_oom *oom, const char *folder);

/* Has the counter grown since the last call? */
bool ds_oom_happened(struct ds_oom *oom);

#endif
