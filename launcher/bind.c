/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bind.c - the contract is in bind.h.
 */
#include "launcher/bind.h"

#include <errno.h>
#include <limits.h>
#include <linux/mempolicy.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "launcher/cores.h"
#include "launcher/spec.h"

enum { MASK_BITS = 1024, WORD_BITS = sizeof(unsigned long) * CHAR_BIT };

struct nodemask { /* of the kernel */
    unsigned long word[MASK_BITS / WORD_BITS];
};

/* --- dealing ---------------------------------------------------------------------------------- */

struct pool {
    const struct ds_bind_args *args;
    cpu_set_t left;
};

static unsigned left_in(const cpu_set_t *left, const cpu_set_t *in)
{
    cpu_set_t both;

    CPU_AND(&both, left, in);
    return (unsigned)CPU_COUNT(&both);
}

struct tally { /* of a physical core: how many of its cores may be used, are left, are the rank's */
    unsigned short allowed, left, mine;
};

static void count_all(const struct pool *pool, const cpu_set_t *mine, struct tally *tally)
{
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        struct tally *core = &tally[pool->args->topology->first[cpu]];

        if (CPU_ISSET(cpu, pool->args->allowed))
            core->allowed++;
        if (CPU_ISSET(cpu, &pool->left))
            core->left++;
        if (CPU_ISSET(cpu, mine))
            core->mine++;
    }
}

/* What a rank should have first: the rest of a physical core that it is on, one that nobody is on,
 * one that it has to share. */
enum choice { OWN, WHOLE, SHARED };

static enum choice choice(const struct tally *core)
{
    return core->mine > 0 ? OWN : core->left == core->allowed ? WHOLE : SHARED;
}

/* Move up to `count` cores of `from` out of what is left into `mine`; of those that are as good as
 * each other the lowest. */
static void take(struct pool *pool, const cpu_set_t *from, unsigned count, cpu_set_t *mine)
{
    struct tally tally[CPU_SETSIZE] = {{0}};
    const unsigned short *first = pool->args->topology->first;

    count_all(pool, mine, tally);
    for (; count > 0; count--) {
        unsigned best = CPU_SETSIZE;

        for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &pool->left) && CPU_ISSET(cpu, from) &&
                (best == CPU_SETSIZE || choice(&tally[first[cpu]]) < choice(&tally[first[best]])))
                best = cpu;
        if (best == CPU_SETSIZE)
            return;
        CPU_CLR(best, &pool->left);
        CPU_SET(best, mine);
        tally[first[best]].left--;
        tally[first[best]].mine++;
    }
}

/* The cores of physical cores that nobody is on. */
static cpu_set_t whole_of(const struct pool *pool)
{
    struct tally tally[CPU_SETSIZE] = {{0}};
    cpu_set_t whole = pool->left, nobodys;

    CPU_ZERO(&nobodys);
    count_all(pool, &nobodys, tally);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (choice(&tally[pool->args->topology->first[cpu]]) != WHOLE)
            CPU_CLR(cpu, &whole);
    return whole;
}

static const struct ds_pci_gpu *gpu_of(const struct ds_bind_args *args, const struct ds_bind *rank)
{
    return rank->gpu >= 0 ? &args->topology->gpu[rank->gpu] : NULL;
}

/* Equal parts of what is near a GPU, for the ranks whose GPUs have the same near. */
static void deal_near(struct pool *pool, struct ds_bind *out)
{
    const struct ds_bind_args *args = pool->args;
    const cpu_set_t all = pool->left;

    for (unsigned r = 0; r < args->ranks; r++) {
        const struct ds_pci_gpu *gpu = gpu_of(args, &out[r]);
        unsigned sharers = 0, part;

        if (gpu == NULL)
            continue;
        for (unsigned i = 0; i < args->ranks; i++) {
            const struct ds_pci_gpu *other = gpu_of(args, &out[i]);

            sharers += other != NULL && CPU_EQUAL(&gpu->near, &other->near);
        }
        part = left_in(&all, &gpu->near) / sharers;
        take(pool, &gpu->near, part < args->threads ? part : args->threads, &out[r].cores);
    }
}

static void deal_whole(struct pool *pool, struct ds_bind *out)
{
    const struct ds_topology *topology = pool->args->topology;
    unsigned threads = pool->args->threads;

    for (unsigned r = 0; r < pool->args->ranks; r++) {
        for (unsigned i = 0; i < 2 * topology->nodes && CPU_COUNT(&out[r].cores) == 0; i++) {
            const cpu_set_t *node = &topology->node[i % topology->nodes].cores;
            bool share = i >= topology->nodes; /* a physical core, if no node has enough whole */
            cpu_set_t from = share ? pool->left : whole_of(pool);

            if (left_in(&from, node) >= threads)
                take(pool, node, threads, &out[r].cores);
        }
    }
}

static void deal_rest(struct pool *pool, struct ds_bind *out)
{
    const struct ds_bind_args *args = pool->args;

    for (unsigned r = 0; r < args->ranks; r++) {
        for (;;) {
            unsigned need = args->threads - (unsigned)CPU_COUNT(&out[r].cores), most = 0;
            const cpu_set_t all = pool->left, *from = &all; /* cores that are in no node */

            if (need == 0 || CPU_COUNT(&all) == 0)
                break;
            for (unsigned n = 0; n < args->topology->nodes; n++) {
                const cpu_set_t *node = &args->topology->node[n].cores;

                if (left_in(&all, node) > most) {
                    most = left_in(&all, node);
                    from = node;
                }
            }
            take(pool, from, need, &out[r].cores);
        }
    }
}

/* A GPU's node when some of the cores are near it, else the one that has all of the cores. */
static int memory_of(const struct ds_bind_args *args, const struct ds_bind *rank)
{
    const struct ds_pci_gpu *gpu = gpu_of(args, rank);
    unsigned all = (unsigned)CPU_COUNT(&rank->cores);

    if (gpu != NULL && gpu->node >= 0 && left_in(&rank->cores, &gpu->near) > 0)
        return gpu->node;
    for (unsigned n = 0; n < args->topology->nodes; n++)
        if (left_in(&rank->cores, &args->topology->node[n].cores) == all)
            return (int)args->topology->node[n].number;
    return -1;
}

/* Ranks want more cores than there are: they go round, each physical core to its end. */
static void deal_round(const struct ds_bind_args *args, struct ds_bind *out)
{
    unsigned short order[CPU_SETSIZE];
    unsigned count = 0, at = 0;

    for (unsigned core = 0; core < CPU_SETSIZE; core++)
        for (unsigned cpu = core; cpu < CPU_SETSIZE; cpu++)
            if (args->topology->first[cpu] == core && CPU_ISSET(cpu, args->allowed))
                order[count++] = (unsigned short)cpu;
    for (unsigned r = 0; r < args->ranks && count > 0; r++)
        for (unsigned i = 0; i < args->threads; i++)
            CPU_SET(order[at++ % count], &out[r].cores);
}

const char *ds_bind_deal(const struct ds_bind_args *args, struct ds_bind *out)
{
    bool own = args->ranks <= args->devices;
    bool enough = (uint64_t)args->ranks * args->threads <= (unsigned)CPU_COUNT(args->allowed);
    struct pool pool = {.args = args, .left = *args->allowed};

    for (unsigned r = 0; r < args->ranks; r++)
        out[r] = (struct ds_bind){.node = -1, .gpu = own ? (int)args->device[r] : -1};
    if (!enough) {
        deal_round(args, out);
        return "the ranks want more cores than there are";
    }
    if (args->topology->nodes < 2) {
        for (unsigned r = 0; r < args->ranks; r++)
            take(&pool, args->allowed, args->threads, &out[r].cores);
        return args->topology->nodes == 1 ? "this host has one NUMA node"
                                          : "this host says nothing of NUMA nodes";
    }
    deal_near(&pool, out);
    deal_whole(&pool, out);
    deal_rest(&pool, out);
    for (unsigned r = 0; r < args->ranks; r++)
        out[r].node = memory_of(args, &out[r]);
    return NULL;
}

/* --- memory ----------------------------------------------------------------------------------- */

void ds_bind_memory(int node)
{
    struct nodemask mask = {{0}};

    if (node < 0 || node >= MASK_BITS)
        return;
    mask.word[node / WORD_BITS] = 1UL << (unsigned)node % WORD_BITS;
    (void)syscall(SYS_set_mempolicy, (long)MPOL_PREFERRED, mask.word, (unsigned long)MASK_BITS);
}

/* May every node that a rank should prefer be had? */
static bool memory_allowed(const struct ds_bind *rank, unsigned ranks)
{
    struct nodemask mask = {{0}};

    if (syscall(SYS_get_mempolicy, NULL, mask.word, (unsigned long)MASK_BITS, NULL,
                (unsigned long)MPOL_F_MEMS_ALLOWED) != 0)
        return false;
    for (unsigned r = 0; r < ranks; r++)
        if (rank[r].node >= MASK_BITS ||
            (rank[r].node >= 0 &&
             (mask.word[rank[r].node / WORD_BITS] >> (unsigned)rank[r].node % WORD_BITS & 1UL) ==
                 0))
            return false;
    return true;
}

/* --- this host -------------------------------------------------------------------------------- */

/* As the ranks will find it. */
static const char *variable(const struct ds_spec *spec, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = spec->envc; i > 0; i--)
        if (strncmp(spec->env[i - 1], name, len) == 0 && spec->env[i - 1][len] == '=')
            return spec->env[i - 1] + len + 1;
    return getenv(name);
}

/* Of training every rank computes on one; of what other programs do nothing is known, so that they
 * have asked for those that they were told to see. */
static unsigned asked(const struct ds_bound *bound, const struct ds_spec *spec)
{
    if (spec->link)
        return spec->ranks < bound->devices ? spec->ranks : bound->devices;
    return variable(spec, "CUDA_VISIBLE_DEVICES") != NULL ? bound->devices : 0;
}

int ds_bind_host(const struct ds_bound **out, const struct ds_spec *spec, const cpu_set_t *allowed,
                 unsigned threads, struct ds_arena *arena, struct ds_error *err)
{
    struct ds_bound *bound = ds_arena_alloc(arena, 1, sizeof(*bound));
    struct ds_bind *rank = ds_arena_alloc(arena, spec->ranks, sizeof(*rank));
    struct ds_bind_args args = {.allowed = allowed, .ranks = spec->ranks, .threads = threads};
    const char *share;

    if (bound == NULL || rank == NULL)
        return ds_fail(err, ENOMEM, "no memory for the cores of %u ranks", spec->ranks);
    ds_topology_read(&bound->topology, "");
    bound->devices =
        spec->no_gpus
            ? 0
            : ds_topology_visible(&bound->topology, variable(spec, "CUDA_VISIBLE_DEVICES"),
                                  variable(spec, "CUDA_DEVICE_ORDER"), bound->device);
    args.topology = &bound->topology;
    args.device = bound->device;
    args.devices = bound->devices;
    bound->why = ds_bind_deal(&args, rank);
    bound->memory = bound->why == NULL && memory_allowed(rank, spec->ranks);
    bound->rank = rank;
    bound->asked = asked(bound, spec);
    share = variable(spec, "DSRUN_CUDA_SHARE");
    bound->shared = share != NULL && strcmp(share, "1") == 0;
    *out = bound;
    return 0;
}

void ds_bind_tell(const struct ds_bound *bound, const struct ds_spec *spec, unsigned local,
                  struct ds_buf *json)
{
    const struct ds_bind *rank = &bound->rank[local];
    char text[DS_CORES_TEXT];
    struct ds_json out;

    ds_cores_text(&rank->cores, text);
    ds_json_init(&out, json);
    ds_json_object(&out, NULL);
    ds_json_string(&out, "event", "cores");
    ds_json_f64(&out, "time", ds_clock_wall_s(), 16);
    ds_json_u64(&out, "rank", spec->first_rank + local);
    ds_json_string(&out, "cores", text);
    if (rank->gpu >= 0)
        ds_json_string(&out, "gpu", bound->topology.gpu[rank->gpu].pci);
    if (rank->node >= 0 && bound->memory)
        ds_json_u64(&out, "memory_node", (uint64_t)rank->node);
    else if (rank->node >= 0)
        ds_json_string(&out, "memory", "the kernel refuses to prefer a node");
    if (bound->why != NULL)
        ds_json_string(&out, "in_order", bound->why);
    ds_json_end_object(&out);
}
