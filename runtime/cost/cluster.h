/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cluster.h - the hardware that a plan is costed for: how fast it computes, remembers and talks.
 *
 * A cluster is a small YAML file (docs/cluster.md), written by hand for machines one does not have
 * yet, or by `dsrun bench machine` for this one.  All ranks are alike.
 *
 *     hosts: 16
 *     ranks: 8                            # of one host
 *     device:
 *       flops: {bf16: 790e12}             # what large matrix products reach
 *       peak: {bf16: 989e12}              # what MFU is a share of; default: flops
 *       bandwidth: 4.3e12                 # of memory, read and written together
 *       memory: 141e9
 *     link:
 *       host: {bandwidth: 370e9, latency_us: 5}
 *       network: {bandwidth: 48e9, latency_us: 10}
 *       device: {bandwidth: 50e9}         # to the host's memory; only with offload
 *     host: {memory: 2e12, update: 40e9}
 *     disk: {read: 2.5e9, write: 1.2e9}   # of one rank; only with offload.optim nvme
 *
 * Units   bytes, bytes/s, FLOP/s; *_us microseconds.  Bandwidths of links are of one rank, in one
 *         direction; `overlap` is the share of compute that goes on while a collective runs.
 * Owner   everything hangs on cluster->arena.
 * Errors  EINVAL with file:line:column, ENOENT, ENOMEM.
 * Tests   tests/cost/test_cluster.c
 */
#ifndef DS_RUNTIME_COST_CLUSTER_H
#define DS_RUNTIME_COST_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/keys.h"
#include "runtime/cost/spread.h"

struct ds_rate { /* by type of the operands; a rate of 0: not said */
    double fp32, bf16;
};

struct ds_link_rate {
    double bandwidth; /* 0: not said */
    double latency_us;
};

struct ds_cluster {
    struct ds_arena arena;
    uint64_t hosts, ranks;
    struct {
        const char *name;     /* NULL: not said */
        struct ds_rate flops; /* of large matrix products */
        struct ds_rate peak;
        struct ds_rate matmul_half; /* smallest extent at which a product reaches half of flops */
        struct {
            double flops, peak, matmul_half;
        } fp8; /* 0: as bf16's */
        struct ds_rate attention;
        struct ds_rate attention_half; /* sequence at which it reaches half of that */
        struct ds_rate pointwise;
        double bandwidth, update;
        double random; /* words per second; 0: as many as bytes come */
        double memory; /* 0: not said */
        double launch_us;
        struct ds_spread spread; /* of what ranks compute before they meet */
    } device;
    struct {
        double memory, update; /* of a whole host; of one rank's share */
    } main;
    struct ds_link_rate host, network;
    struct ds_link_rate pcie; /* bandwidth 0: the device computes in the host's memory */
    struct {
        double read, write; /* of one rank's file while all of the host have theirs; 0: not said */
    } disk;
    double overlap;
};

/* Every key of the file, for reader, writer and manual. */
const struct ds_key *ds_cluster_keys(size_t *count);

void ds_cluster_init(struct ds_cluster *cluster);
void ds_cluster_release(struct ds_cluster *cluster);

int ds_cluster_parse(struct ds_cluster *cluster, const char *name, const void *text, size_t len,
                     struct ds_error *err) DS_NODISCARD;
int ds_cluster_load(struct ds_cluster *cluster, const char *path, struct ds_error *err)
    DS_NODISCARD;

/* Are the links described that its hosts and ranks need? */
bool ds_cluster_links(const struct ds_cluster *cluster);

/* Are the rates of its hosts' disks, which offload.optim nvme needs? */
bool ds_cluster_disks(const struct ds_cluster *cluster);

/* The cluster as a file that ds_cluster_parse() reads back.  -ENOMEM. */
int ds_cluster_write(const struct ds_cluster *cluster, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

#endif
