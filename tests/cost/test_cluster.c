/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_cluster - described hardware: what a file says, what follows, what is refused and where.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
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
    cr_assert_eq(cluster.device.fp8.flops, 790e12, "FP8 is as fast as bf16 where nothing is said");
    cr_assert_eq(cluster.device.fp8.peak, 790e12);
    cr_assert_eq(cluster.device.pointwise.bf16, 4.3e12);
    cr_assert_eq(cluster.device.update, 4.3e12);
    cr_assert_eq(cluster.network.latency_us, 0.0);
    cr_assert_eq(cluster.overlap, 1.0);
    ds_cluster_release(&cluster);
}

Test(cluster, rates_of_fp8)
{
    static const char text[] = "device: {flops: {bf16: 7e14, fp8: 13e14}, bandwidth: 4e12,\n"
                               "         peak: {bf16: 9e14}, matmul_half: {bf16: 300, fp8: 500}}\n";
    struct ds_cluster cluster;
    struct ds_error err = {0};

    cr_assert_eq(parse(&cluster, text, &err), 0, "%s", err.text);
    cr_assert_eq(cluster.device.fp8.flops, 13e14);
    cr_assert_eq(cluster.device.fp8.peak, 13e14, "the peak is the rate where none is given");
    cr_assert_eq(cluster.device.fp8.matmul_half, 500.0);
    ds_cluster_release(&cluster);
}

Test(cluster, is_read_back_as_it_was_written)
{
    static const char text[] =
        "device: {flops: {fp32: 1e11, bf16: 4e11}, bandwidth: 12.5e9,\n"
        "         matmul_half: {fp32: 24}, pointwise: {bf16: 5e9},\n"
        "         launch_us: 1.5, update: 9e9, spread: 0.125, spread_s: 0.5}\n"
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
    cr_assert_eq(again.device.spread.share, 0.125);
    cr_assert_eq(again.device.spread.evens_s, 0.5);
    cr_assert_eq(again.overlap, 0.25);
    ds_buf_release(&out);
    ds_buf_release(&second);
    ds_cluster_release(&cluster);
    ds_cluster_release(&again);
}

/* Without links a cluster of one rank is whole, and one of several is not. */
Test(cluster, says_whether_its_links_are_described)
{
    static const struct {
        uint64_t hosts, ranks;
        double host, network;
        bool whole;
    } cases[] = {
        {1, 1, 0, 0, true},   {1, 8, 0, 0, false},   {1, 8, 1e9, 0, true},  {2, 1, 0, 0, false},
        {2, 1, 0, 1e9, true}, {2, 8, 1e9, 0, false}, {2, 8, 0, 1e9, false}, {2, 8, 1e9, 1e9, true},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_cluster cluster;

        ds_cluster_init(&cluster);
        cluster.hosts = cases[i].hosts;
        cluster.ranks = cases[i].ranks;
        cluster.host.bandwidth = cases[i].host;
        cluster.network.bandwidth = cases[i].network;
        cr_assert_eq(ds_cluster_links(&cluster), cases[i].whole, "%zu", i);
        ds_cluster_release(&cluster);
    }
}

static int load(const char *path, struct ds_cluster *cluster, struct ds_error *err)
{
    ds_cluster_init(cluster);
    memset(err, 0, sizeof(*err));
    return ds_cluster_load(cluster, path, err);
}

Test(cluster, is_read_from_a_file_that_names_itself_in_errors)
{
    static const char good[] = "device: {flops: {bf16: 1e12}, bandwidth: 1e9}\n",
                      bad[] = "ranks: -1\n";
    char path[] = "/tmp/dsrun-cluster-XXXXXX";
    int fd = mkstemp(path);
    struct ds_cluster cluster;
    struct ds_error err;

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, good, sizeof(good) - 1), (ssize_t)sizeof(good) - 1);
    cr_assert_eq(load(path, &cluster, &err), 0, "%s", err.text);
    cr_assert_eq(cluster.device.flops.bf16, 1e12);
    ds_cluster_release(&cluster);
    cr_assert_eq(ftruncate(fd, 0), 0);
    cr_assert_eq(pwrite(fd, bad, sizeof(bad) - 1, 0), (ssize_t)sizeof(bad) - 1);
    cr_assert_eq(load(path, &cluster, &err), -EINVAL);
    cr_assert_eq(strncmp(err.text, path, strlen(path)), 0, "%s", err.text);
    cr_assert_not_null(strstr(err.text, ":1:8: "), "%s", err.text);
    ds_cluster_release(&cluster);
    cr_assert_eq(ftruncate(fd, (off_t)DS_MAX_YAML_BYTES + 1), 0);
    cr_assert_eq(load(path, &cluster, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, ":1:1: larger than"), "%s", err.text);
    ds_cluster_release(&cluster);
    (void)close(fd);
    (void)unlink(path);
    cr_assert_eq(load(path, &cluster, &err), -ENOENT);
    ds_cluster_release(&cluster);
}

/* Whatever the table has can be written, and its paths are those of the file. */
Test(cluster, every_key_has_a_path_of_its_own_and_a_help)
{
    size_t count = 0;
    const struct ds_key *keys = ds_cluster_keys(&count);

    cr_assert_gt(count, 20);
    for (size_t i = 0; i < count; i++) {
        cr_assert(keys[i].help != NULL && keys[i].help[0] != '\0', "%s", keys[i].path);
        for (size_t j = 0; j < i; j++)
            cr_assert_str_neq(keys[i].path, keys[j].path);
    }
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
        {"device: {flops: {fp32: 1e9}, bandwidth: 1e9}\nlink: {device: {bandwidth: 1e9}}\n",
         "needs 'host.update'"},
        {"device: {flops: {fp32: 1e9}, bandwidth: 1e9,\n  matmul_half: 24}\n", "c.yaml:2:16: "},
        {"device: {flops: {fp32: 1e9}, bandwidth: 0}\n", "c.yaml:1:41: "},
        {"device: {flops: {fp32: fast}, bandwidth: 1e9}\n", "c.yaml:1:24: "},
        {"hosts: 1\nhosts: 2\n", "c.yaml:2:1: "},
        {"device: [1\n", "c.yaml:"},
        {"", "c.yaml:1:1: "},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_cluster cluster;
        struct ds_error err = {0};

        cr_assert_eq(parse(&cluster, cases[i].text, &err), -EINVAL, "%s", cases[i].text);
        cr_assert_not_null(strstr(err.text, cases[i].message), "%s: %s", cases[i].text, err.text);
        ds_cluster_release(&cluster);
    }
}
