/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ring.c - what a collective of so many ranks takes; the contract is in work.h.
 *
 * Tests   tests/cost/test_predict.c
 */
#include <math.h>

#include "runtime/cost/work.h"

struct ds_ring ds_ring_of(const struct ds_cluster *cluster, struct ds_comm_group group)
{
    uint64_t stride = group.stride > 0 ? group.stride : 1;
    uint64_t here = (cluster->ranks + stride - 1) / stride;

    return (struct ds_ring){group.count, here < group.count ? here : group.count};
}

double ds_work_collective(const struct ds_cluster *cluster, struct ds_ring ring, double bytes,
                          unsigned trips)
{
    bool apart = ring.ranks > ring.per_host;
    const struct ds_link_rate *link = apart ? &cluster->network : &cluster->host;
    double bandwidth = cluster->host.bandwidth, latency_us = link->latency_us;

    if (ring.ranks < 2)
        return 0.0;
    if (apart) {
        double out = cluster->network.bandwidth * (double)ring.per_host;

        bandwidth = ring.per_host < 2 ? out : fmin(bandwidth, out);
    }
    return trips * (bytes * (double)(ring.ranks - 1) / (double)ring.ranks / bandwidth +
                    ceil(log2((double)ring.ranks)) * latency_us * 1e-6);
}
