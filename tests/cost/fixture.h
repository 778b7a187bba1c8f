/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fixture.h - a cluster with round rates, for sums that are done by hand.
 */
#ifndef DS_TESTS_COST_FIXTURE_H
#define DS_TESTS_COST_FIXTURE_H

#include <criterion/criterion.h>
#include <math.h>

#include "runtime/cost/cluster.h"
#include "tests/plan/fixture.h"

static inline struct ds_cluster test_cluster(uint64_t hosts, uint64_t ranks)
{
    struct ds_cluster cluster;

    ds_cluster_init(&cluster);
    cluster.hosts = hosts;
    cluster.ranks = ranks;
    cluster.device.flops.bf16 = cluster.device.attention.bf16 = 500e12;
    cluster.device.flops.fp32 = cluster.device.attention.fp32 = 50e12;
    cluster.device.peak = cluster.device.flops;
    cluster.device.bandwidth = cluster.device.update = 3e12;
    cluster.device.pointwise = (struct ds_rate){3e12, 3e12};
    cluster.host = (struct ds_link_rate){.bandwidth = 400e9, .latency_us = 5};
    cluster.network = (struct ds_link_rate){.bandwidth = 50e9, .latency_us = 10};
    cluster.overlap = 1.0;
    return cluster;
}

static inline void close_to(double value, double expected, const char *what)
{
    cr_assert_float_eq(value, expected, 1e-9 * fabs(expected), "%s: %.12g, not %.12g", what, value,
                       expected);
}

#endif
