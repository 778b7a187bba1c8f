/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * plugin.c - the contract is in plugin.h.
 *
 * The plug-in stays loaded until the process ends: nothing of CUDA's likes to be unloaded.
 */
#include "runtime/plugin.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/build.h"
#include "base/fsio.h"
#include "kernels/device.h"
#include "runtime/comm/address.h"
#include "runtime/comm/comm.h"

static int find(char path[DS_MAX_PATH], struct ds_error *err)
{
    char here[DS_MAX_PATH];
    int rc = ds_path_self_dir(here, err);

    if (rc == 0)
        rc = ds_path_join(path, here, DS_PLUGIN_FILE, err);
    if (rc == 0 && access(path, R_OK) != 0)
        return ds_fail(
            err, ENOENT,
            "this dsrun was built without CUDA, there is no '%s': build it where nvcc is "
            "(make CUDA_HOME=...), or compute on the CPU: 'launch.device' or '--device' cpu",
            path);
    return rc;
}

static int load(const struct ds_plugin **plugin, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    ds_plugin_entry_fn *entry;
    void *handle, *symbol;
    int rc = find(path, err);

    if (rc != 0)
        return rc;
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return ds_fail(err, ENOTSUP,
                       "the CUDA plug-in cannot be loaded: %s: install the CUDA libraries, or name "
                       "their folder in LD_LIBRARY_PATH",
                       dlerror());
    symbol = dlsym(handle, DS_PLUGIN_ENTRY);
    memcpy(&entry, &symbol, sizeof(entry)); /* ISO C has no cast from an object to a function */
    *plugin = symbol == NULL ? NULL : entry();
    if (*plugin != NULL && (*plugin)->abi == DS_PLUGIN_ABI && (*plugin)->size == sizeof(**plugin) &&
        strcmp((*plugin)->build_id, ds_build_id) == 0)
        return 0;
    return ds_fail(err, ENOTSUP,
                   "'%s' is of another build than this dsrun-worker (%s): install both together",
                   path, ds_build_id);
}

int ds_plugin_take(unsigned *devices, struct ds_error *err)
{
    const struct ds_plugin *plugin = NULL;
    int rc = load(&plugin, err);

    if (rc == 0)
        rc = plugin->count(devices, err);
    if (rc != 0)
        return rc;
    ds_device_add(plugin->device);
    ds_comm_add(plugin->comm);
    return 0;
}

int ds_plugin_memory(unsigned *devices, uint64_t *left, struct ds_error *err)
{
    const struct ds_plugin *plugin = NULL;
    uint64_t all = 0;
    int rc = load(&plugin, err);

    if (rc == 0)
        rc = plugin->count(devices, err);
    return rc == 0 ? plugin->memory(0, left, &all, err) : rc;
}

/* --- NCCL's environment ------------------------------------------------------------------------*/

static bool set(const char *name, const char *value)
{
    return getenv(name) != NULL || setenv(name, value, 0) == 0;
}

/* The name of the interface that has this address; "" when none has. */
static void interface_of(const char *address, char name[IF_NAMESIZE])
{
    struct ifaddrs *all = NULL;
    char text[DS_ADDRESS_BYTES];

    name[0] = '\0';
    if (getifaddrs(&all) != 0)
        return;
    for (const struct ifaddrs *at = all; at != NULL && name[0] == '\0'; at = at->ifa_next) {
        int family = at->ifa_addr != NULL ? at->ifa_addr->sa_family : AF_UNSPEC;
        const void *raw = NULL;

        if (family == AF_INET)
            raw = &((struct sockaddr_in *)(void *)at->ifa_addr)->sin_addr;
        else if (family == AF_INET6)
            raw = &((struct sockaddr_in6 *)(void *)at->ifa_addr)->sin6_addr;
        if (raw != NULL && inet_ntop(family, raw, text, sizeof(text)) != NULL &&
            strcmp(text, address) == 0)
            (void)snprintf(name, IF_NAMESIZE, "%s", at->ifa_name);
    }
    freeifaddrs(all);
}

/* NCCL speaks on the interface that the ranks speak on.  A left-over NCCL_COMM_ID would make it
 * meet somebody else. */
static int set_interface(const struct ds_job *job, const struct ds_seat *seat, struct ds_error *err)
{
    char address[DS_ADDRESS_BYTES], name[IF_NAMESIZE], exact[IF_NAMESIZE + 1];
    int rc;

    (void)unsetenv("NCCL_COMM_ID");
    if (seat->local_world == seat->world && strcmp(job->launch.interface, "auto") == 0)
        return 0; /* of one host NCCL finds its way */
    rc = ds_comm_address(job->launch.interface, address, err);
    if (rc != 0)
        return rc;
    interface_of(address, name);
    (void)snprintf(exact, sizeof(exact), "=%s", name);
    if (name[0] != '\0' && !set("NCCL_SOCKET_IFNAME", exact))
        return ds_fail(err, ENOMEM, "no memory for the environment");
    return 0;
}

/* Collectives of two communicators at a time wait for each other's place on the devices unless all
 * ranks start them in one order.  NCCL from 2.26 on keeps that of the host's calls, and lets them
 * overlap. */
static int keep_order(const struct ds_job *job, const struct ds_seat *seat, struct ds_error *err)
{
    bool groups = job->zero.stage > 0 && job->zero.shard_group == DS_SHARD_NODE &&
                  seat->local_world > 1 && seat->local_world < seat->world;
    bool several = groups || job->parallel.sequence > 1 || job->parallel.pipeline > 1 ||
                   job->parallel.tensor > 1 || job->parallel.expert > 1;

    if (!several || set("NCCL_LAUNCH_ORDER_IMPLICIT", "1"))
        return 0;
    return ds_fail(err, ENOMEM, "no memory for the environment");
}

/* NCCL takes ranks on one device for a mistake, unless each is on a host of its own. */
static int pretend_hosts(const struct ds_seat *seat, struct ds_error *err)
{
    char host[32];

    (void)snprintf(host, sizeof(host), "dsrun-rank-%u", seat->rank);
    if (set("NCCL_HOSTID", host) && set("NCCL_NET", "Socket") && set("NCCL_IB_DISABLE", "1") &&
        set("NCCL_MNNVL_ENABLE", "0") && set("NCCL_MAX_CTAS", "2") &&
        (seat->local_world < seat->world || set("NCCL_SOCKET_IFNAME", "lo")))
        return 0;
    return ds_fail(err, ENOMEM, "no memory for the environment");
}

static int sit_down(const struct ds_job *job, const struct ds_seat *seat, unsigned devices,
                    unsigned *device, struct ds_error *err)
{
    const char *share = getenv("DSRUN_CUDA_SHARE");
    int rc = set_interface(job, seat, err);

    if (rc == 0)
        rc = keep_order(job, seat, err);
    *device = seat->local_rank % devices;
    if (rc != 0 || seat->local_world <= devices)
        return rc;
    if (share == NULL || strcmp(share, "1") != 0)
        return ds_fail(err, ENODEV,
                       "this host has %u ranks and %u GPUs that they may use, 'launch.slots' or "
                       "--slots of %u would do",
                       seat->local_world, devices, devices);
    return pretend_hosts(seat, err);
}

int ds_plugin_seat(struct ds_job *job, const struct ds_seat *seat, unsigned *device,
                   struct ds_error *why, struct ds_error *err)
{
    bool must = job->launch.device == DS_DEVICE_CUDA;
    unsigned devices = 0;
    int rc;

    *device = 0;
    ds_error_clear(why);
    if (job->launch.device == DS_DEVICE_CPU)
        return 0;
    job->launch.device = DS_DEVICE_CPU;
    rc = ds_plugin_take(&devices, must ? err : why);
    if (rc != 0)
        return must ? rc : 0;
    job->launch.device = DS_DEVICE_CUDA;
    return sit_down(job, seat, devices, device, err);
}
