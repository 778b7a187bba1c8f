/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_cluster - described hardware: what a file says, what follows, what is refused and where.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/cost/cluster.h"

static int parse(struct ds_cluster *cluster, const char *text, struct ds_error *err)
{
    ds_cluster_init(cluster);
    return ds_cluster_parse(cluster, "c.yaml", text, strlen(text), err);
}

Test(cluster, says_what_it_says_and_derives_the_rest)
{
    static const char text[] = "hosts: 2\n"
                               "ranks: 8\n"
                               "device:\n"
                               "  name: H200\n"
                               "  flops: {bf16: 790e12}\n"
                               "  bandwidth: 4.3e12\n"
                               "link:\n"
                               "  host: {bandwidth: 370e9, latency_us: 5}\n"
                               "  network: {bandwidth: 48e9}\n";
    struct ds_cluster cluster;
    struct ds_error err = {0};

    cr_assert_eq(parse(&cluster, text, &err), 0, "%s", err.text);
    cr_assert_eq(cluster.hosts, 2);
    cr_assert_eq(cluster.ranks, 8);
    cr_assert_str_eq(cluster.device.name, "H200");
    cr_assert_eq(cluster.device.peak.bf16, 790e12, "the peak is the rate where none is given");
    cr_assert_eq(cluster.device.pointwise.bf16, 4.3e12);
    cr_assert_eq(cluster.device.update, 4.3e12);
    cr_assert_eq(cluster.network.latency_us, 0.0);
    cr_assert_eq(cluster.overlap, 1.0);
    ds_cluster_release(&cluster);
}

Test(cluster, is_read_back_as_it_was_written)
{
    static const char text[] = "device: {flops: {fp32: 1e11, bf16: 4e11}, bandwidth: 12.5e9,\n"
                               "         matmul_half: {fp32: 24}, pointwise: {bf16: 5e9},\n"
                               "         launch_us: 1.5, update: 9e9}\n"
                               "overlap: 0.25\n";
    struct ds_cluster cluster, again;
    struct ds_buf out, second;
    struct ds_error err = {0};

    ds_buf_init(&out, 1 << 16);
    ds_buf_init(&second, 1 << 16);
    cr_assert_eq(parse(&cluster, text, &err), 0, "%s", err.text);
    cr_assert_eq(ds_cluster_write(&cluster, &out, &err), 0);
    cr_assert_eq(parse(&again, ds_buf_text(&out), &err), 0, "%s\n%s", err.text, ds_buf_text(&out));
    cr_assert_eq(ds_cluster_write(&again, &second, &err), 0);
    cr_assert_str_eq(ds_buf_text(&out), ds_buf_text(&second));
    cr_assert_eq(again.device.launch_us, 1.5);
    cr_assert_eq(again.overlap, 0.25);
    ds_buf_release(&out);
    ds_buf_release(&second);
    ds_cluster_release(&cluster);
    ds_cluster_release(&again);
}

Test(cluster, refuses_with_the_place)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"hosts: 1\n", "c.yaml:1:1: "},
        {"device: {bandwidth: 1e9}\n", "'device.flops' needs 'fp32' or 'bf16'"},
        {"device: {flops: {fp32: 1e9}}\n", "device.bandwidth"},
        {"ranks: 2\ndevice: {flops: {fp32: 1e9}, bandwidth: 1e9}\n", "link.host.bandwidth"},
        {"hosts: 2\ndevice: {flops: {fp32: 1e9}, bandwidth: 1e9}\n", "link.network.bandwidth"},
        {"device: {flop: {fp32: 1e9}, bandwidth: 1e9}\n", "c.yaml:1:10: "},
        {"overlap: 2\ndevice: {flops: {fp32: 1e9}, bandwidth: 1e9}\n", "c.yaml:1:10: "},
        {"hosts: 0\ndevice: {flops: {fp32: 1e9}, bandwidth: 1e9}\n", "c.yaml:1:8: "},
        {"- 1\n", "c.yaml:1:1: "},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_cluster cluster;
        struct ds_error err = {0};

        cr_assert_eq(parse(&cluster, cases[i].text, &err), -EINVAL, "%s", cases[i].text);
        cr_assert_not_null(strstr(err.text, cases[i].message), "%s: %s", cases[i].text, err.text);
        ds_cluster_release(&cluster);
    }
}
