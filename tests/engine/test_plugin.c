/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_plugin - a rank takes its place on a host with GPUs: plug-ins that are not there, not of this
 * build or without a GPU; devices for ranks; and the environment that NCCL is given.
 *
 * The dynamic loader and the host's interfaces are made up (files.mk); no plug-in is loaded.
 */
#include <criterion/criterion.h>

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "base/build.h"
#include "kernels/backend.h"
#include "runtime/comm/backend.h"
#include "runtime/plugin.h"
#include "tests/comm/interfaces.h"

/* --- the plug-in that is found ------------------------------------------------------------------ */

static bool installed, loads, has_entry;
static struct ds_plugin plugin;
static unsigned gpus;

static int count(unsigned *devices, struct ds_error *err)
{
    *devices = gpus;
    return gpus > 0 ? 0 : ds_fail(err, ENODEV, "no GPU is there");
}

static int memory(unsigned index, uint64_t *left, uint64_t *all, struct ds_error *err)
{
    *left = 7 + index;
    *all = 9;
    return gpus == 3 ? ds_fail(err, EIO, "the GPU has fallen off") : 0;
}

static const struct ds_plugin *entry(void)
{
    return has_entry ? &plugin : NULL;
}

int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __wrap_access(const char *path, int mode)
{
    return strstr(path, DS_PLUGIN_FILE) == NULL ? __real_access(path, mode) : installed ? 0 : -1;
}

void *__wrap_dlopen(const char *path, int flags);
void *__wrap_dlopen(const char *path, int flags)
{
    cr_assert(strstr(path, "/" DS_PLUGIN_FILE) != NULL && flags == (RTLD_NOW | RTLD_LOCAL));
    return loads ? &plugin : NULL;
}

char *__wrap_dlerror(void);
char *__wrap_dlerror(void)
{
    static char text[] = "libcuda.so.1: not found";

    return text;
}

void *__wrap_dlsym(void *handle, const char *name);
void *__wrap_dlsym(void *handle, const char *name)
{
    ds_plugin_entry_fn *fn = entry;
    void *symbol;

    cr_assert(handle == &plugin && strcmp(name, DS_PLUGIN_ENTRY) == 0);
    memcpy(&symbol, &fn, sizeof(symbol));
    return has_entry ? symbol : NULL;
}

static const char *const variables[] = {
    "NCCL_COMM_ID",  "NCCL_SOCKET_IFNAME", "NCCL_HOSTID",
    "NCCL_NET",      "NCCL_IB_DISABLE",    "NCCL_MNNVL_ENABLE",
    "NCCL_MAX_CTAS", "DSRUN_CUDA_SHARE",   "NCCL_LAUNCH_ORDER_IMPLICIT"};

static const struct interface host[] = {
    {.name = "none"},
    {.name = "lo", .address = "127.0.0.1"},
    {.name = "other", .address = ""},
    {.name = "eth7", .address = "10.1.2.3"},
    {.name = "ib7", .address = "2001:db8::9"},
};

/* A host with two GPUs and all that they need. */
static void begin(void)
{
    installed = loads = has_entry = true;
    gpus = 2;
    plugin = (struct ds_plugin){.abi = DS_PLUGIN_ABI,
                                .size = sizeof(plugin),
                                .build_id = ds_build_id,
                                .device = &ds_backend_cpu,
                                .comm = &ds_comm_backend_host,
                                .count = count,
                                .memory = memory};
    interfaces_here = host;
    interfaces_count = sizeof(host) / sizeof(host[0]);
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        (void)unsetenv(variables[i]);
}

TestSuite(plugin, .init = begin);

struct taken {
    int rc;
    unsigned device;
    enum ds_device_kind kind;
    struct ds_error why, err;
};

static struct taken sit(enum ds_device_kind kind, const char *interface, struct ds_seat seat)
{
    struct ds_job job = {.launch = {.device = kind, .interface = interface}};
    struct taken taken = {.rc = 1};

    taken.rc = ds_plugin_seat(&job, &seat, &taken.device, &taken.why, &taken.err);
    taken.kind = job.launch.device;
    return taken;
}

static const struct ds_seat second = {.rank = 1, .world = 2, .local_rank = 1, .local_world = 2};

static bool is(const char *name, const char *value)
{
    const char *now = getenv(name);

    return value == NULL ? now == NULL : now != NULL && strcmp(now, value) == 0;
}

/* --- what can be wrong with it ------------------------------------------------------------------ */

static void not_installed(void)
{
    installed = false;
}

static void not_loadable(void)
{
    loads = false;
}

static void without_entry(void)
{
    has_entry = false;
}

static void other_abi(void)
{
    plugin.abi++;
}

static void other_size(void)
{
    plugin.size--;
}

static void other_build(void)
{
    plugin.build_id = "another";
}

static void no_gpu(void)
{
    gpus = 0;
}

static const struct {
    void (*spoil)(void);
    int rc;
    const char *text;
} wrongs[] = {
    {not_installed, -ENOENT, "built without CUDA"},
    {not_loadable, -ENOTSUP, "libcuda.so.1: not found"},
    {without_entry, -ENOTSUP, "of another build"},
    {other_abi, -ENOTSUP, "of another build"},
    {other_size, -ENOTSUP, "of another build"},
    {other_build, -ENOTSUP, "of another build"},
    {no_gpu, -ENODEV, "no GPU is there"},
};

/* With cuda it is an error; with auto the CPU computes, and why is told; with cpu nobody asks. */
Test(plugin, what_is_missing_is_said)
{
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        struct taken must, may, not ;
        unsigned devices = 0;
        uint64_t left = 0;
        struct ds_error err = {0};

        begin();
        wrongs[i].spoil();
        must = sit(DS_DEVICE_CUDA, "auto", second);
        cr_expect(must.rc == wrongs[i].rc && strstr(must.err.text, wrongs[i].text) != NULL,
                  "row %zu: %d %s", i, must.rc, must.err.text);
        may = sit(DS_DEVICE_AUTO, "auto", second);
        cr_expect(may.rc == 0 && may.kind == DS_DEVICE_CPU &&
                      strstr(may.why.text, wrongs[i].text) != NULL,
                  "row %zu: %d %s", i, may.rc, may.why.text);
        not = sit(DS_DEVICE_CPU, "auto", second);
        cr_expect(not .rc == 0 && not .kind == DS_DEVICE_CPU && not .why.text[0] == '\0');
        cr_expect_eq(ds_plugin_memory(&devices, &left, &err), wrongs[i].rc, "row %zu", i);
    }
}

Test(plugin, memory_of_the_first)
{
    unsigned devices = 0;
    uint64_t left = 0;

    cr_assert_eq(ds_plugin_memory(&devices, &left, NULL), 0);
    cr_assert(devices == 2 && left == 7);
    gpus = 3;
    cr_assert_eq(ds_plugin_memory(&devices, &left, NULL), -EIO);
}

/* --- seats -------------------------------------------------------------------------------------- */

Test(plugin, a_device_for_each_rank_of_a_host)
{
    struct taken taken = sit(DS_DEVICE_AUTO, "auto", second);

    cr_assert(taken.rc == 0 && taken.kind == DS_DEVICE_CUDA && taken.device == 1);
    cr_assert(is("NCCL_SOCKET_IFNAME", NULL), "of one host NCCL finds its way");
    cr_assert(is("NCCL_HOSTID", NULL));
    taken = sit(DS_DEVICE_CUDA, "auto",
                (struct ds_seat){.rank = 2, .world = 3, .local_rank = 2, .local_world = 3});
    cr_assert_eq(taken.rc, -ENODEV);
    cr_assert(strstr(taken.err.text, "3 ranks and 2 GPUs") != NULL, "%s", taken.err.text);
    (void)setenv("DSRUN_CUDA_SHARE", "yes", 1);
    taken = sit(DS_DEVICE_CUDA, "auto",
                (struct ds_seat){.rank = 2, .world = 3, .local_rank = 2, .local_world = 3});
    cr_assert_eq(taken.rc, -ENODEV, "only 1 says it");
}

/* On one device NCCL takes each rank for a host, on loopback where it is one. */
Test(plugin, ranks_that_share_are_hosts_to_nccl)
{
    struct ds_seat seat = {.rank = 2, .world = 3, .local_rank = 2, .local_world = 3};
    struct taken taken;

    (void)setenv("DSRUN_CUDA_SHARE", "1", 1);
    (void)setenv("NCCL_NET", "mine", 1);
    taken = sit(DS_DEVICE_CUDA, "auto", seat);
    cr_assert(taken.rc == 0 && taken.device == 0, "%s", taken.err.text);
    cr_assert(is("NCCL_HOSTID", "dsrun-rank-2") && is("NCCL_IB_DISABLE", "1") &&
              is("NCCL_MNNVL_ENABLE", "0") && is("NCCL_MAX_CTAS", "2"));
    cr_assert(is("NCCL_NET", "mine"), "what the user has set stays");
    cr_assert(is("NCCL_SOCKET_IFNAME", "lo"));
    begin();
    (void)setenv("DSRUN_CUDA_SHARE", "1", 1);
    seat.world = 6;
    taken = sit(DS_DEVICE_CUDA, "eth7", seat);
    cr_assert(taken.rc == 0 && is("NCCL_SOCKET_IFNAME", "=eth7"), "%s", taken.err.text);
}

struct groups {
    unsigned stage, world, local_world;
    enum ds_shard_group group;
    enum ds_offload offload;
    bool set;
    uint64_t sharers; /* of a sequence */
    uint64_t parts;   /* of a pipeline */
};

static void sit_in_groups(const struct groups *g)
{
    struct ds_job job = {.launch = {.device = DS_DEVICE_CUDA, .interface = "lo"},
                         .zero = {.stage = g->stage, .shard_group = g->group},
                         .parallel = {.sequence = g->sharers, .pipeline = g->parts},
                         .offload = {.optim = g->offload}};
    const struct ds_seat seat = {.world = g->world, .local_world = g->local_world};
    struct ds_error why = {0}, err = {0};
    unsigned device;

    cr_assert_eq(ds_plugin_seat(&job, &seat, &device, &why, &err), 0, "%s", err.text);
}

/* Groups of a host, across hosts, and of who shares a sequence have a communicator each. */
Test(plugin, collectives_of_groups_have_one_order)
{
    static const struct groups groups[] = {{3, 4, 2, DS_SHARD_NODE, DS_OFFLOAD_NONE, true, 1, 1},
                                           {1, 4, 2, DS_SHARD_NODE, DS_OFFLOAD_NONE, true, 1, 1},
                                           {0, 4, 2, DS_SHARD_NODE, DS_OFFLOAD_NONE, false, 1, 1},
                                           {3, 4, 2, DS_SHARD_ALL, DS_OFFLOAD_NONE, false, 1, 1},
                                           {3, 2, 2, DS_SHARD_NODE, DS_OFFLOAD_NONE, false, 1, 1},
                                           {3, 4, 1, DS_SHARD_NODE, DS_OFFLOAD_NONE, false, 1, 1},
                                           {3, 4, 2, DS_SHARD_NODE, DS_OFFLOAD_CPU, true, 1, 1},
                                           {0, 2, 2, DS_SHARD_ALL, DS_OFFLOAD_NONE, true, 2, 1},
                                           {0, 2, 2, DS_SHARD_ALL, DS_OFFLOAD_NONE, true, 1, 2}};

    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        begin();
        sit_in_groups(&groups[i]);
        cr_expect(is("NCCL_LAUNCH_ORDER_IMPLICIT", groups[i].set ? "1" : NULL), "groups %zu", i);
    }
    begin();
    (void)setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "0", 1);
    sit_in_groups(&groups[0]);
    cr_assert(is("NCCL_LAUNCH_ORDER_IMPLICIT", "0"), "what the user has set stays");
}

static const struct {
    const char *interface, *name;
    int rc;
} lines[] = {
    {"eth7", "=eth7", 0},         {"10.1.2.0/24", "=eth7", 0},
    {"2001:db8::/32", "=ib7", 0}, {"auto", "=lo", 0}, /* reached by no login: loopback */
    {"eth8", NULL, -EINVAL},
};

/* Ranks on several hosts, or an interface that the job names. */
Test(plugin, nccl_speaks_where_the_ranks_speak)
{
    const struct ds_seat seat = {.rank = 2, .world = 4, .local_rank = 0, .local_world = 2};

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct taken taken;

        begin();
        (void)unsetenv("SSH_CONNECTION");
        (void)unsetenv("SLURMD_NODENAME");
        (void)setenv("NCCL_COMM_ID", "10.0.0.1:1", 1);
        taken = sit(DS_DEVICE_CUDA, lines[i].interface, seat);
        cr_expect_eq(taken.rc, lines[i].rc, "%s: %s", lines[i].interface, taken.err.text);
        cr_expect(is("NCCL_SOCKET_IFNAME", lines[i].name), "%s", lines[i].interface);
        cr_expect(is("NCCL_COMM_ID", NULL), "left over from somebody else");
    }
    begin();
    (void)setenv("NCCL_SOCKET_IFNAME", "mine", 1);
    cr_assert_eq(sit(DS_DEVICE_CUDA, "eth7", seat).rc, 0);
    cr_assert(is("NCCL_SOCKET_IFNAME", "mine"));
    begin();
    (void)setenv("SSH_CONNECTION", "10.0.0.9 4 10.8.8.8 22", 1);
    cr_assert_eq(sit(DS_DEVICE_CUDA, "auto", seat).rc, 0);
    cr_assert(is("NCCL_SOCKET_IFNAME", NULL), "an address that no interface of this host has");
    interfaces_errno = EMFILE;
    cr_assert_eq(sit(DS_DEVICE_CUDA, "auto", seat).rc, 0);
    cr_assert(is("NCCL_SOCKET_IFNAME", NULL));
    interfaces_errno = 0;
}
