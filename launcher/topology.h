/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * topology.h - which cores and GPUs of this host are near each other, as the kernel says.
 *
 *     /sys/devices/system/cpu/cpuN/topology/core_cpus_list what shares a physical core with it
 *                      (before Linux 5.3: thread_siblings_list)
 *     /sys/devices/system/node/nodeN/cpulist               cores of a NUMA node
 *     /proc/driver/nvidia/gpus/PCI/information             a GPU: model, UUID, minor number
 *     /sys/bus/pci/devices/PCI/{numa_node,local_cpulist}   what is near it
 *
 * GPUs stand in the order of their PCI addresses, in which CUDA numbers those that are alike.  What
 * is missing, malformed or too long is not known; nothing here fails.
 *
 * Tests   tests/launcher/test_topology.c
 */
#ifndef DS_LAUNCHER_TOPOLOGY_H
#define DS_LAUNCHER_TOPOLOGY_H

#include <sched.h>
#include <stdbool.h>

#include "base/limits.h"

enum { DS_GPU_PCI = 16, DS_GPU_TEXT = 64 };

struct ds_numa_node {
    unsigned number; /* the kernel's */
    cpu_set_t cores; /* never none: nodes of memory alone are left out */
};

struct ds_pci_gpu {
    char pci[DS_GPU_PCI];                       /* "0000:3b:00.0" */
    char uuid[DS_GPU_TEXT], model[DS_GPU_TEXT]; /* "": not known */
    int node;                                   /* the kernel's number; -1: not known */
    cpu_set_t near;                             /* none: not known */
    bool split; /* into instances (MIG), which CUDA shows in its place */
};

/* "Core" is what the kernel calls a CPU and programs are bound to: a hardware thread. */
struct ds_topology {
    unsigned short first[CPU_SETSIZE]; /* of the cores that share a physical one; itself: alone */
    unsigned nodes, gpus;
    struct ds_numa_node node[DS_MAX_NUMA_NODES]; /* by number */
    struct ds_pci_gpu gpu[DS_MAX_GPUS];          /* those that this process may open */
};

/* `root` is "", or a folder in which a test has made the files. */
void ds_topology_read(struct ds_topology *topology, const char *root);

/* GPUs (indices into `gpu`) that a process will see as 0, 1, ..., when CUDA_VISIBLE_DEVICES is
 * `visible` (NULL: not set) and CUDA_DEVICE_ORDER `order`; returns how many.  0 also where that is
 * not known: GPUs in instances, or of several models, which CUDA orders by speed. */
unsigned ds_topology_visible(const struct ds_topology *topology, const char *visible,
                             const char *order, unsigned out[DS_MAX_GPUS]);

#endif
