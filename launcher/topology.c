/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * topology.c - the contract is in topology.h.
 */
#include "launcher/topology.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "launcher/cores.h"

enum { TEXT_BYTES = 16 * 1024, NODE_NUMBERS = 1024, MINORS = 1 << 20 };

/* --- small files ------------------------------------------------------------------------------ */

static bool DS_PRINTF(2, 0) path_of(char out[DS_MAX_PATH], const char *fmt, va_list args)
{
    int n = vsnprintf(out, DS_MAX_PATH, fmt, args);

    return n >= 0 && n < DS_MAX_PATH;
}

/* The whole of a file as text; false: there is none, or it is too long. */
static bool DS_PRINTF(2, 3) read_text(char out[TEXT_BYTES], const char *fmt, ...)
{
    char path[DS_MAX_PATH];
    FILE *file = NULL;
    va_list args;
    size_t n;

    va_start(args, fmt);
    if (path_of(path, fmt, args))
        file = fopen(path, "re");
    va_end(args);
    if (file == NULL)
        return false;
    n = fread(out, 1, TEXT_BYTES, file);
    (void)fclose(file);
    if (n == 0 || n == TEXT_BYTES || memchr(out, '\0', n) != NULL)
        return false;
    out[n] = '\0';
    return true;
}

/* Decimal digits up to `most`, and nothing else but a line feed; -1: not that. */
static long number_of(const char *text, long most)
{
    char *end;
    long value;

    if (!isdigit((unsigned char)text[0]))
        return -1;
    errno = 0;
    value = strtol(text, &end, 10);
    if (*end == '\n')
        end++;
    return *end != '\0' || errno != 0 || value > most ? -1 : value;
}

/* The value of the line "name: value" of `text`, without blanks around it. */
static bool line_of(const char *text, const char *name, char out[DS_GPU_TEXT])
{
    size_t len = strlen(name);

    out[0] = '\0';
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *next = strchr(line, '\n');

        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            const char *value = line + len + 1 + strspn(line + len + 1, " \t");
            size_t n = strcspn(value, "\n");

            while (n > 0 && isspace((unsigned char)value[n - 1]))
                n--;
            if (n == 0 || n >= DS_GPU_TEXT)
                return false;
            memcpy(out, value, n);
            out[n] = '\0';
            return true;
        }
        line = next != NULL ? next + 1 : NULL;
    }
    return false;
}

/* --- physical cores --------------------------------------------------------------------------- */

/* The lowest of those that share a physical core with `cpu`; itself where nothing is said. */
static unsigned first_of(const char *folder, unsigned cpu)
{
    static const char *const names[] = {"core_cpus_list", "thread_siblings_list"};
    char text[TEXT_BYTES];
    unsigned first = 0;
    cpu_set_t all;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!read_text(text, "%s/cpu%u/topology/%s", folder, cpu, names[i]))
            continue;
        if (!ds_cores_parse(text, &all) || !CPU_ISSET(cpu, &all))
            return cpu;
        while (!CPU_ISSET(first, &all))
            first++;
        return first;
    }
    return cpu;
}

static void read_cores(struct ds_topology *topology, const char *root)
{
    char path[DS_MAX_PATH];
    const struct dirent *entry;
    DIR *folder = NULL;
    int n = snprintf(path, sizeof(path), "%s/sys/devices/system/cpu", root);

    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        topology->first[cpu] = (unsigned short)cpu;
    if (n >= 0 && n < DS_MAX_PATH)
        folder = opendir(path);
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        long cpu = strncmp(entry->d_name, "cpu", 3) == 0
                       ? number_of(entry->d_name + 3, CPU_SETSIZE - 1)
                       : -1;

        if (cpu >= 0)
            topology->first[cpu] = (unsigned short)first_of(path, (unsigned)cpu);
    }
    if (folder != NULL)
        (void)closedir(folder);
}

/* --- NUMA nodes ------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const struct ds_numa_node *one = a, *other = b;

    return (one->number > other->number) - (one->number < other->number);
}

static void read_nodes(struct ds_topology *topology, const char *root)
{
    char path[DS_MAX_PATH], text[TEXT_BYTES];
    const struct dirent *entry;
    DIR *folder = NULL;
    int n = snprintf(path, sizeof(path), "%s/sys/devices/system/node", root);

    if (n >= 0 && n < DS_MAX_PATH)
        folder = opendir(path);
    while (folder != NULL && topology->nodes < DS_MAX_NUMA_NODES &&
           (entry = readdir(folder)) != NULL) {
        struct ds_numa_node *node = &topology->node[topology->nodes];
        long number = strncmp(entry->d_name, "node", 4) == 0
                          ? number_of(entry->d_name + 4, NODE_NUMBERS - 1)
                          : -1;

        if (number >= 0 && read_text(text, "%s/%s/cpulist", path, entry->d_name) &&
            ds_cores_parse(text, &node->cores) && CPU_COUNT(&node->cores) > 0) {
            node->number = (unsigned)number;
            topology->nodes++;
        }
    }
    if (folder != NULL)
        (void)closedir(folder);
    qsort(topology->node, topology->nodes, sizeof(topology->node[0]), by_number);
}

/* --- GPUs ------------------------------------------------------------------------------------- */

/* "0000:3b:00.0", as the kernel writes it. */
static bool is_pci(const char *name)
{
    static const char form[] = "xxxx:xx:xx.x";

    if (strlen(name) != strlen(form))
        return false;
    for (size_t i = 0; form[i] != '\0'; i++)
        if (form[i] == 'x' ? !isxdigit((unsigned char)name[i]) || isupper((unsigned char)name[i])
                           : name[i] != form[i])
            return false;
    return true;
}

static int by_pci(const void *a, const void *b)
{
    return strcmp(((const struct ds_pci_gpu *)a)->pci, ((const struct ds_pci_gpu *)b)->pci);
}

/* Has it instances?  The driver shows each as a folder giN. */
static bool is_split(const char *root, long minor)
{
    char path[DS_MAX_PATH];
    const struct dirent *entry;
    DIR *folder = NULL;
    bool found = false;
    int n =
        snprintf(path, sizeof(path), "%s/proc/driver/nvidia/capabilities/gpu%ld/mig", root, minor);

    if (n >= 0 && n < DS_MAX_PATH)
        folder = opendir(path);
    while (folder != NULL && !found && (entry = readdir(folder)) != NULL)
        found = strncmp(entry->d_name, "gi", 2) == 0;
    if (folder != NULL)
        (void)closedir(folder);
    return found;
}

/* access() asks the group of devices of a container or of a batch system, too, and opens nothing:
 * the first open of a GPU takes long. */
static bool may_open(const char *root, long minor)
{
    char path[DS_MAX_PATH];
    int n = snprintf(path, sizeof(path), "%s/dev/nvidia%ld", root, minor);

    return n >= 0 && n < DS_MAX_PATH && access(path, R_OK | W_OK) == 0;
}

static bool read_gpu(struct ds_pci_gpu *gpu, const char *root, const char *pci)
{
    char text[TEXT_BYTES], value[DS_GPU_TEXT];
    long minor;

    *gpu = (struct ds_pci_gpu){.node = -1};
    memcpy(gpu->pci, pci, strlen(pci) + 1);
    if (!read_text(text, "%s/proc/driver/nvidia/gpus/%s/information", root, pci))
        return false;
    minor = line_of(text, "Device Minor", value) ? number_of(value, MINORS) : -1;
    if (minor < 0 || !may_open(root, minor))
        return false;
    (void)line_of(text, "Model", gpu->model);
    (void)line_of(text, "GPU UUID", gpu->uuid);
    gpu->split = is_split(root, minor);
    if (read_text(text, "%s/sys/bus/pci/devices/%s/numa_node", root, pci))
        gpu->node = (int)number_of(text, NODE_NUMBERS - 1);
    if (!read_text(text, "%s/sys/bus/pci/devices/%s/local_cpulist", root, pci) ||
        !ds_cores_parse(text, &gpu->near))
        CPU_ZERO(&gpu->near);
    return true;
}

static void read_gpus(struct ds_topology *topology, const char *root)
{
    char path[DS_MAX_PATH];
    const struct dirent *entry;
    DIR *folder = NULL;
    int n = snprintf(path, sizeof(path), "%s/proc/driver/nvidia/gpus", root);

    if (n >= 0 && n < DS_MAX_PATH)
        folder = opendir(path);
    while (folder != NULL && topology->gpus < DS_MAX_GPUS && (entry = readdir(folder)) != NULL)
        if (is_pci(entry->d_name) && read_gpu(&topology->gpu[topology->gpus], root, entry->d_name))
            topology->gpus++;
    if (folder != NULL)
        (void)closedir(folder);
    qsort(topology->gpu, topology->gpus, sizeof(topology->gpu[0]), by_pci);
}

/* The cores of a GPU's node, where nothing else is said of it. */
static void fill_near(struct ds_topology *topology)
{
    for (unsigned g = 0; g < topology->gpus; g++) {
        struct ds_pci_gpu *gpu = &topology->gpu[g];

        for (unsigned n = 0; n < topology->nodes && CPU_COUNT(&gpu->near) == 0; n++)
            if (gpu->node >= 0 && topology->node[n].number == (unsigned)gpu->node)
                gpu->near = topology->node[n].cores;
    }
}

void ds_topology_read(struct ds_topology *topology, const char *root)
{
    memset(topology, 0, sizeof(*topology));
    read_cores(topology, root);
    read_nodes(topology, root);
    read_gpus(topology, root);
    fill_near(topology);
}

/* --- what a process sees ---------------------------------------------------------------------- */

/* The GPU that one entry of the list names; -1: none, or more than one. */
static int named(const struct ds_topology *topology, const char *entry, size_t len, bool numbers)
{
    char text[DS_GPU_TEXT];
    int found = -1;
    long number;

    if (len == 0 || len >= sizeof(text))
        return -1;
    memcpy(text, entry, len);
    text[len] = '\0';
    number = number_of(text, DS_MAX_GPUS);
    if (number >= 0)
        return numbers && (unsigned long)number < topology->gpus ? (int)number : -1;
    if (strncmp(text, "GPU-", 4) != 0)
        return -1;
    for (unsigned g = 0; g < topology->gpus; g++) {
        if (strncmp(topology->gpu[g].uuid, text, len) != 0)
            continue;
        if (found >= 0)
            return -1;
        found = (int)g;
    }
    return found;
}

static bool all_alike(const struct ds_topology *topology)
{
    for (unsigned g = 1; g < topology->gpus; g++)
        if (strcmp(topology->gpu[g].model, topology->gpu[0].model) != 0)
            return false;
    return true;
}

unsigned ds_topology_visible(const struct ds_topology *topology, const char *visible,
                             const char *order, unsigned out[DS_MAX_GPUS])
{
    bool numbers = all_alike(topology) || (order != NULL && strcmp(order, "PCI_BUS_ID") == 0);
    unsigned count = 0;

    for (unsigned g = 0; g < topology->gpus; g++)
        if (topology->gpu[g].split)
            return 0;
    for (unsigned g = 0; visible == NULL && numbers && g < topology->gpus; g++)
        out[count++] = g;
    while (visible != NULL) { /* as CUDA reads it: up to the first entry that is none */
        size_t len = strcspn(visible, ",");
        int gpu = named(topology, visible, len, numbers);

        if (gpu < 0)
            break;
        for (unsigned i = 0; i < count; i++)
            if (out[i] == (unsigned)gpu) /* twice: CUDA shows none at all */
                return 0;
        out[count++] = (unsigned)gpu;
        visible = visible[len] == ',' ? visible + len + 1 : NULL;
    }
    return count;
}
