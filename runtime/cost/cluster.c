/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cluster.c - the contract is in cluster.h.
 */
#include "runtime/cost/cluster.h"

#include <errno.h>
#include <string.h>

#include "base/fsio.h"
#include "base/limits.h"

/* clang-format off */
/* Offset of a field, whose address must have this type. */
#define FIELD(type, f)                                                                             \
    (offsetof(struct ds_cluster, f) +                                                              \
     0 * sizeof(char[_Generic(&((struct ds_cluster *)0)->f, type: 1)]))
#define U64(path, f, def, min, max, help) \
    {path, DS_KEY_U64, 0, FIELD(uint64_t *, f), def, min, max, NULL, help, NULL}
#define F64(path, f, flags, def, min, max, help) \
    {path, DS_KEY_F64, flags, FIELD(double *, f), def, min, max, NULL, help, NULL}
#define TEXT(path, f, max, help) \
    {path, DS_KEY_TEXT, 0, FIELD(const char **, f), NULL, 0, max, NULL, help, NULL}

#define MAX_RATE 1e18
#define MAX_US   1e6
#define MAX_S    1e6

static const struct ds_key keys[] = {
    U64("hosts", hosts, "1", 1, DS_MAX_HOSTS, "hosts of the cluster"),
    U64("ranks", ranks, "1", 1, DS_MAX_SLOTS, "ranks of one host"),
    TEXT("device.name", device.name, DS_MAX_NAME, "what is described, for the reader"),
    F64("device.flops.fp32", device.flops.fp32, 0, "0", 0, MAX_RATE,
        "FLOP/s that large matrix products of fp32 reach on one rank"),
    F64("device.flops.bf16", device.flops.bf16, 0, "0", 0, MAX_RATE, "the same of bf16 and fp16"),
    F64("device.flops.fp8", device.fp8.flops, DS_KEY_DERIVED, "device.flops.bf16", 0, MAX_RATE,
        "FLOP/s of products with precision.matmul fp8, of codes that are there"),
    F64("device.peak.fp32", device.peak.fp32, DS_KEY_DERIVED, "device.flops.fp32", 0, MAX_RATE,
        "FLOP/s of which MFU is a share"),
    F64("device.peak.bf16", device.peak.bf16, DS_KEY_DERIVED, "device.flops.bf16", 0, MAX_RATE,
        "the same for bf16 and fp16"),
    F64("device.peak.fp8", device.fp8.peak, DS_KEY_DERIVED, "device.flops.fp8; else device.peak.bf16",
        0, MAX_RATE, "FLOP/s of which MFU is a share, of those"),
    F64("device.matmul_half.fp32", device.matmul_half.fp32, 0, "0", 0, 1e6,
        "smallest extent of a matrix product of fp32 at which it reaches half of flops"),
    F64("device.matmul_half.bf16", device.matmul_half.bf16, 0, "0", 0, 1e6,
        "the same of bf16 and fp16"),
    F64("device.matmul_half.fp8", device.fp8.matmul_half, DS_KEY_DERIVED, "device.matmul_half.bf16", 0,
        1e6, "smallest extent at which they reach half of flops"),
    F64("device.attention.fp32", device.attention.fp32, DS_KEY_DERIVED, "device.flops.fp32", 0,
        MAX_RATE, "FLOP/s of attention in fp32, causal work counted once"),
    F64("device.attention.bf16", device.attention.bf16, DS_KEY_DERIVED, "device.flops.bf16", 0,
        MAX_RATE, "the same in bf16 and fp16"),
    F64("device.attention_half.fp32", device.attention_half.fp32, 0, "0", 0, 1e6,
        "length of a sequence at which attention in fp32 reaches half of that"),
    F64("device.attention_half.bf16", device.attention_half.bf16, 0, "0", 0, 1e6,
        "the same in bf16 and fp16"),
    F64("device.bandwidth", device.bandwidth, DS_KEY_REQUIRED, NULL, 1, MAX_RATE,
        "bytes/s of memory, read and written together"),
    F64("device.pointwise.fp32", device.pointwise.fp32, DS_KEY_DERIVED, "device.bandwidth", 1,
        MAX_RATE, "bytes/s of norms, activations and losses in fp32"),
    F64("device.pointwise.bf16", device.pointwise.bf16, DS_KEY_DERIVED, "device.bandwidth", 1,
        MAX_RATE, "the same in bf16 and fp16"),
    F64("device.update", device.update, DS_KEY_DERIVED, "device.bandwidth", 1, MAX_RATE,
        "bytes/s of the optimizer"),
    F64("device.random", device.random, 0, "0", 0, MAX_RATE,
        "random words/s of dropout; 0: they take no time beside their bytes"),
    F64("device.memory", device.memory, 0, "0", 0, MAX_RATE,
        "bytes that one rank may use; 0: not checked"),
    F64("device.launch_us", device.launch_us, 0, "0", 0, MAX_US,
        "time between two operations of a queue"),
    F64("device.spread", device.spread.share, 0, "0", 0, 100,
        "how much longer the slowest rank computes than all do in the mean, as a share: what is "
        "waited for at collectives"),
    F64("device.spread_s", device.spread.evens_s, 0, "0", 0, MAX_S,
        "seconds of computing between collectives after which that is 0.7 of it, and less with the "
        "square root of the time; 0: it stays"),
    F64("link.host.bandwidth", host.bandwidth, 0, "0", 0, MAX_RATE,
        "bytes/s of one rank to another of its host, one direction"),
    F64("link.host.latency_us", host.latency_us, 0, "0", 0, MAX_US, "time of a smallest message"),
    F64("link.network.bandwidth", network.bandwidth, 0, "0", 0, MAX_RATE,
        "bytes/s of one rank to another host, one direction, all ranks sending"),
    F64("link.network.latency_us", network.latency_us, 0, "0", 0, MAX_US,
        "time of a smallest message"),
    F64("link.device.bandwidth", pcie.bandwidth, 0, "0", 0, MAX_RATE,
        "bytes/s between the memory of one rank's device and of its host, one direction; 0: they are "
        "one memory"),
    F64("link.device.latency_us", pcie.latency_us, 0, "0", 0, MAX_US, "time of a smallest copy"),
    F64("host.memory", main.memory, 0, "0", 0, MAX_RATE,
        "bytes that the ranks of one host may keep in its memory; 0: not checked"),
    F64("host.update", main.update, 0, "0", 0, MAX_RATE,
        "bytes/s of the optimizer on one rank's share of the host's processors"),
    F64("disk.read", disk.read, 0, "0", 0, MAX_RATE,
        "bytes/s that one rank reads from the disk of its host, all ranks of it reading; for "
        "offload.optim nvme, which needs both"),
    F64("disk.write", disk.write, 0, "0", 0, MAX_RATE, "the same of what it writes"),
    F64("overlap", overlap, 0, "1", 0, 1,
        "share of compute that goes on while a collective runs; 0: they take turns"),
};
/* clang-format on */

enum { KEYS = sizeof(keys) / sizeof(keys[0]) };

const struct ds_key *ds_cluster_keys(size_t *count)
{
    *count = KEYS;
    return keys;
}

void ds_cluster_init(struct ds_cluster *cluster)
{
    memset(cluster, 0, sizeof(*cluster));
    ds_arena_init(&cluster->arena);
}

void ds_cluster_release(struct ds_cluster *cluster)
{
    ds_arena_release(&cluster->arena);
}

static void default_to(double *field, double value)
{
    if (*field <= 0.0)
        *field = value;
}

/* What follows from other keys, and what only several keys together can say. */
static int complete(struct ds_cluster *cluster, const struct ds_keys *table, struct ds_error *err)
{
    int rc = 0;

    if (cluster->device.flops.fp32 <= 0.0 && cluster->device.flops.bf16 <= 0.0)
        return ds_keys_place(table, "device.flops.fp32",
                             ds_fail(err, EINVAL, "'device.flops' needs 'fp32' or 'bf16'"), err);
    if (cluster->ranks > 1 && cluster->host.bandwidth <= 0.0)
        rc = ds_keys_place(table, "link.host.bandwidth",
                           ds_fail(err, EINVAL,
                                   "several ranks on a host need "
                                   "'link.host.bandwidth'"),
                           err);
    else if (cluster->hosts > 1 && cluster->network.bandwidth <= 0.0)
        rc =
            ds_keys_place(table, "link.network.bandwidth",
                          ds_fail(err, EINVAL, "several hosts need 'link.network.bandwidth'"), err);
    if (rc == 0 && cluster->pcie.bandwidth > 0.0 && cluster->main.update <= 0.0)
        rc = ds_keys_place(table, "link.device.bandwidth",
                           ds_fail(err, EINVAL, "a device with memory apart needs 'host.update'"),
                           err);
    default_to(&cluster->device.peak.fp32, cluster->device.flops.fp32);
    default_to(&cluster->device.peak.bf16, cluster->device.flops.bf16);
    default_to(&cluster->device.fp8.peak, cluster->device.fp8.flops > 0.0
                                              ? cluster->device.fp8.flops
                                              : cluster->device.peak.bf16);
    default_to(&cluster->device.fp8.flops, cluster->device.flops.bf16);
    default_to(&cluster->device.fp8.matmul_half, cluster->device.matmul_half.bf16);
    default_to(&cluster->device.attention.fp32, cluster->device.flops.fp32);
    default_to(&cluster->device.attention.bf16, cluster->device.flops.bf16);
    default_to(&cluster->device.pointwise.fp32, cluster->device.bandwidth);
    default_to(&cluster->device.pointwise.bf16, cluster->device.bandwidth);
    default_to(&cluster->device.update, cluster->device.bandwidth);
    return rc;
}

int ds_cluster_parse(struct ds_cluster *cluster, const char *name, const void *text, size_t len,
                     struct ds_error *err)
{
    struct ds_keys_origin origin[KEYS] = {0};
    struct ds_keys table = {.key = keys,
                            .count = KEYS,
                            .base = cluster,
                            .arena = &cluster->arena,
                            .origin = origin,
                            .name = name};
    struct ds_yaml *root = NULL;
    int rc = ds_keys_defaults(&table, err);

    if (rc == 0)
        rc = ds_yaml_parse(&cluster->arena, name, text, len, &root, err);
    if (rc == 0)
        rc = ds_keys_read(&table, root, err);
    if (rc == 0)
        rc = ds_keys_require(&table, err);
    return rc == 0 ? complete(cluster, &table, err) : rc;
}

int ds_cluster_load(struct ds_cluster *cluster, const char *path, struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds_fs_read(path, DS_MAX_YAML_BYTES, &text, err);
    if (rc == -EFBIG)
        rc = ds_fail(err, EINVAL, "%s:1:1: larger than %d bytes", path, DS_MAX_YAML_BYTES);
    if (rc == 0)
        rc = ds_cluster_parse(cluster, path, ds_buf_text(&text), text.len, err);
    ds_buf_release(&text);
    return rc;
}

bool ds_cluster_links(const struct ds_cluster *cluster)
{
    return (cluster->ranks < 2 || cluster->host.bandwidth > 0.0) &&
           (cluster->hosts < 2 || cluster->network.bandwidth > 0.0);
}

bool ds_cluster_disks(const struct ds_cluster *cluster)
{
    return cluster->disk.read > 0.0 && cluster->disk.write > 0.0;
}

int ds_cluster_write(const struct ds_cluster *cluster, struct ds_buf *out, struct ds_error *err)
{
    struct ds_cluster copy = *cluster; /* the table writes from a struct it could also fill */
    struct ds_keys table = {.key = keys, .count = KEYS, .base = &copy};

    ds_keys_write(&table, out);
    return out->failed ? ds_fail(err, ENOMEM, "no memory to write a cluster") : 0;
}
