/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * probe.c - the contract is in probe.h.
 */
#include "launcher/probe.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <gnu/libc-version.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "base/json.h"
#include "launcher/gather.h"
#include "launcher/gpus.h"
#include "launcher/topology.h"

enum { FACT_BYTES = 256, FILE_BYTES = 1 << 20 };

/* The value of the first line "name : value" of a file of such lines; false: there is none. */
static bool find_line(const char *path, const char *name, char *out)
{
    char line[1024];
    FILE *file = fopen(path, "re");
    bool found = false;

    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        const char *colon = strchr(line, ':');
        size_t len = strlen(name);

        if (colon == NULL || strncmp(line, name, len) != 0 || strspn(line + len, " \t:") == 0)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        (void)snprintf(out, FACT_BYTES, "%.*s", (int)strcspn(colon, "\n"), colon);
        found = true;
    }
    if (file != NULL)
        (void)fclose(file);
    return found;
}

static void put_system(struct ds_json *json)
{
    struct utsname name;
    char text[FACT_BYTES];
    cpu_set_t cores;

    if (uname(&name) == 0) {
        ds_json_string(json, "kernel", name.release);
        ds_json_string(json, "machine", name.machine);
    }
    ds_json_string(json, "libc", gnu_get_libc_version());
    if (find_line("/proc/cpuinfo", "model name", text))
        ds_json_string(json, "cpu", text);
    if (sched_getaffinity(0, sizeof(cores), &cores) == 0)
        ds_json_u64(json, "cores", (uint64_t)CPU_COUNT(&cores));
}

/* A line of /proc/meminfo, in bytes. */
static void put_memory(struct ds_json *json, const char *key, const char *line)
{
    char text[FACT_BYTES];

    if (find_line("/proc/meminfo", line, text))
        ds_json_u64(json, key, strtoull(text, NULL, 10) * 1024);
}

static void put_gpus(struct ds_json *json)
{
    DIR *gpus = opendir("/proc/driver/nvidia/gpus");
    struct dirent *entry;
    char path[DS_MAX_PATH], text[FACT_BYTES];
    uint64_t count = 0;

    while (gpus != NULL && (entry = readdir(gpus)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "/proc/driver/nvidia/gpus/%s/information",
                       entry->d_name);
        if (count++ == 0 && find_line(path, "Model", text))
            ds_json_string(json, "gpu", text);
    }
    if (gpus != NULL)
        (void)closedir(gpus);
    ds_json_u64(json, "gpus", count);
    if (find_line("/proc/driver/nvidia/version", "NVRM version", text))
        ds_json_string(json, "driver", text);
}

/* What they do just now, in the order of their bus numbers, and NCCL. */
static void put_use(struct ds_json *json)
{
    struct ds_gpus gpus;
    char text[FACT_BYTES];
    uint64_t unused = 0;

    ds_gpus_ask(&gpus);
    if (gpus.count > 0) {
        ds_json_array(json, "gpu_used_bytes");
        for (uint32_t i = 0; i < gpus.count; i++)
            ds_json_u64(json, NULL, gpus.gpu[i].used_bytes);
        ds_json_end_array(json);
        ds_json_array(json, "gpu_processes");
        for (uint32_t i = 0; i < gpus.count; i++) {
            ds_json_u64(json, NULL, gpus.gpu[i].processes);
            unused += ds_gpu_is_free(&gpus.gpu[i]);
        }
        ds_json_end_array(json);
        ds_json_u64(json, "gpus_free", unused);
    }
    if (gpus.nccl == 0)
        return;
    (void)snprintf(text, sizeof(text), "%u.%u.%u", gpus.nccl / 10000, gpus.nccl / 100 % 100,
                   gpus.nccl % 100);
    ds_json_string(json, "nccl", text);
}

/* NUMA nodes, and the node of each GPU in their order. */
static void put_nodes(struct ds_json *json)
{
    struct ds_topology *topology = calloc(1, sizeof(*topology));
    struct ds_buf nodes;

    if (topology == NULL)
        return;
    ds_topology_read(topology, "");
    ds_buf_init(&nodes, FACT_BYTES);
    for (unsigned g = 0; g < topology->gpus; g++)
        if (topology->gpu[g].node < 0)
            (void)ds_buf_printf(&nodes, "%s-", g > 0 ? "," : "");
        else
            (void)ds_buf_printf(&nodes, "%s%d", g > 0 ? "," : "", topology->gpu[g].node);
    if (topology->nodes > 0)
        ds_json_u64(json, "numa_nodes", topology->nodes);
    if (topology->gpus > 0 && !nodes.failed)
        ds_json_string(json, "gpu_nodes", ds_buf_text(&nodes));
    ds_buf_release(&nodes);
    free(topology);
}

static void put_limit(struct ds_json *json, const char *key, int which)
{
    struct rlimit limit;
    char text[32] = "unlimited";

    if (getrlimit((__rlimit_resource_t)which, &limit) != 0)
        return;
    if (limit.rlim_cur != RLIM_INFINITY)
        (void)snprintf(text, sizeof(text), "%" PRIu64, (uint64_t)limit.rlim_cur);
    ds_json_string(json, key, text);
}

static void put_disk(struct ds_json *json, const char *key, const char *path, bool all)
{
    struct statvfs disk;

    if (path != NULL && statvfs(path, &disk) == 0)
        ds_json_u64(json, key,
                    (uint64_t)(all ? disk.f_blocks : disk.f_bavail) * (uint64_t)disk.f_frsize);
}

static bool same_address(const struct sockaddr *address, const char *text)
{
    unsigned char bytes[16];

    if (address == NULL)
        return false;
    if (address->sa_family == AF_INET && inet_pton(AF_INET, text, bytes) == 1)
        return memcmp(&((const struct sockaddr_in *)(const void *)address)->sin_addr, bytes, 4) ==
               0;
    if (address->sa_family == AF_INET6 && inet_pton(AF_INET6, text, bytes) == 1)
        return memcmp(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, bytes,
                      16) == 0;
    return false;
}

/* The address by which the launcher came, and which interface has it. */
static void put_address(struct ds_json *json)
{
    char here[DS_MAX_HOST_NAME + 1];
    struct ifaddrs *all = NULL;

    ds_gather_here(getenv("SSH_CONNECTION"), here);
    if (here[0] == '\0')
        return;
    ds_json_string(json, "address", here);
    if (getifaddrs(&all) != 0)
        return;
    for (const struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
        if (same_address(one->ifa_addr, here)) {
            ds_json_string(json, "interface", one->ifa_name);
            break;
        }
    }
    freeifaddrs(all);
}

void ds_probe_write(const char *dir, struct ds_buf *out)
{
    struct ds_json json;
    double load;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    put_system(&json);
    put_memory(&json, "memory_bytes", "MemTotal");
    put_memory(&json, "free_bytes", "MemAvailable");
    put_gpus(&json);
    put_use(&json);
    put_nodes(&json);
    put_limit(&json, "nofile", RLIMIT_NOFILE);
    put_limit(&json, "memlock", RLIMIT_MEMLOCK);
    put_disk(&json, "shm_bytes", "/dev/shm", true);
    put_disk(&json, "tmp_free_bytes", "/tmp", false);
    put_disk(&json, "dir_free_bytes", dir, false);
    if (getloadavg(&load, 1) == 1)
        ds_json_f64(&json, "load", load, 4);
    put_address(&json);
    /* Last: a driver that wakes up for put_gpus() or put_use() takes seconds. */
    ds_json_f64(&json, "time", ds_clock_wall_s(), 16);
    ds_json_end_object(&json);
}
