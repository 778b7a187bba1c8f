/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_topology.c - trees of sysfs and procfs as hosts have them, and as no host should.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "launcher/cores.h"
#include "launcher/topology.h"
#include "tests/tempdir.h"

TestSuite(topology, .init = tempdir_make, .fini = tempdir_remove, .timeout = 60);

static struct ds_topology topology;

static void put(const char *folder, const char *name, const char *text)
{
    char path[512];

    cr_assert_eq(ds_fs_mkdirs(tempdir_path(folder), NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    (void)tempdir_write(path, text, strlen(text));
}

static void put_node(const char *name, const char *cores)
{
    char folder[512];

    (void)snprintf(folder, sizeof(folder), "sys/devices/system/node/%s", name);
    put(folder, "cpulist", cores);
}

static void put_gpu(const char *pci, const char *model, unsigned minor, const char *node,
                    const char *cores)
{
    char folder[512], text[512];

    (void)snprintf(folder, sizeof(folder), "proc/driver/nvidia/gpus/%s", pci);
    (void)snprintf(text, sizeof(text),
                   "Model: \t\t %s\nIRQ:   \t\t 1\nGPU UUID: \t GPU-%u-%u\n"
                   "Bus Location: \t %s\nDevice Minor: \t %u\n",
                   model, minor + 4, minor, pci, minor);
    put(folder, "information", text);
    (void)snprintf(folder, sizeof(folder), "sys/bus/pci/devices/%s", pci);
    put(folder, "numa_node", node);
    if (cores != NULL)
        put(folder, "local_cpulist", cores);
    (void)snprintf(text, sizeof(text), "nvidia%u", minor);
    put("dev", text, "");
}

static void expect_cores(const cpu_set_t *cores, const char *want, const char *what)
{
    char text[DS_CORES_TEXT];

    ds_cores_text(cores, text);
    cr_expect_str_eq(text, want, "%s: %s, not %s", what, text, want);
}

Test(topology, nothing_is_known_of_an_empty_tree)
{
    unsigned out[DS_MAX_GPUS];

    ds_topology_read(&topology, tempdir);
    cr_expect_eq(topology.nodes, 0);
    cr_expect_eq(topology.gpus, 0);
    cr_expect_eq(topology.first[17], 17);
    cr_expect_eq(ds_topology_visible(&topology, NULL, NULL, out), 0);
    cr_expect_eq(ds_topology_visible(&topology, "0", NULL, out), 0);
}

Test(topology, nodes_by_number_without_those_of_memory_alone)
{
    put_node("node10", "8-11\n");
    put_node("node2", "0-3,16\n");
    put_node("node1", "\n");
    put_node("node3", "4-,5\n");
    put_node("nodes", "7\n");
    put_node("node4x", "7\n");
    put_node("node1024", "7\n");
    ds_topology_read(&topology, tempdir);
    cr_assert_eq(topology.nodes, 2);
    cr_expect_eq(topology.node[0].number, 2);
    cr_expect_eq(topology.node[1].number, 10);
    expect_cores(&topology.node[0].cores, "0-3,16", "node2");
    expect_cores(&topology.node[1].cores, "8-11", "node10");
}

static void put_core(const char *name, const char *list, const char *cores)
{
    char folder[512];

    (void)snprintf(folder, sizeof(folder), "sys/devices/system/cpu/%s/topology", name);
    put(folder, list, cores);
}

Test(topology, what_shares_a_physical_core)
{
    static const unsigned short want[] = {0, 1, 2, 3, 0, 5, 2, 7, 8, 9, 8};

    put_core("cpu0", "core_cpus_list", "0,4\n");
    put_core("cpu4", "core_cpus_list", "0,4\n");
    put_core("cpu4", "thread_siblings_list", "3-4\n"); /* the same under an older name */
    put_core("cpu2", "thread_siblings_list", "2,6\n");
    put_core("cpu6", "thread_siblings_list", "2,6\n");
    put_core("cpu5", "core_cpus_list", "1,3\n"); /* not with itself */
    put_core("cpu7", "core_cpus_list", "3,7,\n");
    put_core("cpu3", "core_cpus_list", "");
    put_core("cpu8", "core_cpus_list", "8-10\n");
    put_core("cpu10", "core_cpus_list", "8-10\n");
    put_core("cpu9", "core_cpus_list", "99999999999999999999\n");
    put_core("cpu1024", "core_cpus_list", "0,1024\n");
    put_core("cpufreq", "core_cpus_list", "0\n");
    ds_topology_read(&topology, tempdir);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        cr_expect_eq(topology.first[cpu], cpu < sizeof(want) / sizeof(want[0]) ? want[cpu] : cpu,
                     "cpu%u: %u", cpu, topology.first[cpu]);
}

Test(topology, gpus_by_address_and_what_is_near)
{
    put_node("node0", "0-3\n");
    put_node("node1", "4-7\n");
    put_gpu("0000:c1:00.0", "H", 0, "1\n", "4-5\n");
    put_gpu("0000:0a:00.0", "H", 1, "0\n", NULL); /* its node says it */
    put_gpu("0001:00:00.0", "H", 2, "-1\n", "0-7\n");
    put_gpu("0000:0B:00.0", "H", 3, "0\n", "0\n"); /* not as a kernel writes it */
    put("proc/driver/nvidia/gpus/0000:0d:00.0", "information", "Model: H\nDevice Minor: 9\n");
    put("proc/driver/nvidia/gpus/0000:0e:00.0", "information", "Model: H\n");
    ds_topology_read(&topology, tempdir);
    cr_assert_eq(topology.gpus, 3, "%u", topology.gpus); /* 0d: no /dev/nvidia9; 0e: no number */
    cr_expect_str_eq(topology.gpu[0].pci, "0000:0a:00.0");
    cr_expect_str_eq(topology.gpu[1].pci, "0000:c1:00.0");
    cr_expect_str_eq(topology.gpu[2].pci, "0001:00:00.0");
    cr_expect_str_eq(topology.gpu[1].model, "H");
    cr_expect_str_eq(topology.gpu[1].uuid, "GPU-4-0");
    cr_expect_eq(topology.gpu[0].node, 0);
    cr_expect_eq(topology.gpu[1].node, 1);
    cr_expect_eq(topology.gpu[2].node, -1);
    expect_cores(&topology.gpu[0].near, "0-3", "0a");
    expect_cores(&topology.gpu[1].near, "4-5", "c1");
    expect_cores(&topology.gpu[2].near, "0-7", "0001");
}

Test(topology, what_a_process_sees)
{
    static const struct {
        const char *visible, *order, *want;
    } table[] = {
        {NULL, NULL, "0 1 2 "},
        {"", NULL, ""},
        {"2,0", NULL, "2 0 "},
        {"1,7,0", NULL, "1 "},
        {"1,-1,0", NULL, "1 "},
        {"1,1", NULL, ""},
        {"GPU-6,0", NULL, "2 0 "},
        {"GPU-", NULL, ""},
        {"GPU-9", NULL, ""},
        {"MIG-4", NULL, ""},
        {"99999999999999999999", NULL, ""},
        {"0,", NULL, "0 "},
    };

    put_gpu("0000:01:00.0", "H", 0, "0\n", NULL);
    put_gpu("0000:02:00.0", "H", 1, "0\n", NULL);
    put_gpu("0000:03:00.0", "H", 2, "0\n", NULL);
    ds_topology_read(&topology, tempdir);
    cr_assert_eq(topology.gpus, 3);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        unsigned out[DS_MAX_GPUS];
        char text[64] = "";
        unsigned n = ds_topology_visible(&topology, table[i].visible, table[i].order, out);

        for (unsigned g = 0; g < n; g++)
            (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%u ", out[g]);
        cr_expect_str_eq(text, table[i].want, "row %zu: '%s'", i, text);
    }
}

Test(topology, models_that_differ_and_instances_are_not_numbered)
{
    unsigned out[DS_MAX_GPUS];

    put_gpu("0000:01:00.0", "H", 0, "0\n", NULL);
    put_gpu("0000:02:00.0", "L", 1, "0\n", NULL);
    ds_topology_read(&topology, tempdir);
    cr_expect_eq(ds_topology_visible(&topology, "0", NULL, out), 0);
    cr_expect_eq(ds_topology_visible(&topology, NULL, NULL, out), 0);
    cr_expect_eq(ds_topology_visible(&topology, "GPU-5", NULL, out), 1);
    cr_expect_eq(out[0], 1);
    cr_expect_eq(ds_topology_visible(&topology, NULL, "PCI_BUS_ID", out), 2);
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("proc/driver/nvidia/capabilities/gpu1/mig/gi3"), NULL),
                 0);
    ds_topology_read(&topology, tempdir);
    cr_expect(!topology.gpu[0].split && topology.gpu[1].split);
    cr_expect_eq(ds_topology_visible(&topology, "0", "PCI_BUS_ID", out), 0);
}

Test(topology, files_that_are_too_long_or_odd_are_not_read)
{
    static char cores[64 * 1024];

    for (size_t i = 0; i + 2 < sizeof(cores); i += 2)
        memcpy(cores + i, "1,", 2);
    cores[sizeof(cores) - 2] = '\0';
    put_node("node0", cores);
    put_node("node1", "99999999999999999999\n");
    put_node("node2", "1 2\n");
    put_node("node3", "3-1\n");
    put_node("node4", "1,,2\n");
    put_node("node5", "1\n2\n");
    put_node("node6", "1\n");
    ds_topology_read(&topology, tempdir);
    cr_assert_eq(topology.nodes, 1);
    cr_expect_eq(topology.node[0].number, 6);
}
