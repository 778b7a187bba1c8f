/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_bind.c - cores dealt near GPUs and within nodes: machines as a table.
 */
#include <criterion/criterion.h>

#include <linux/mempolicy.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher/bind.h"
#include "launcher/cores.h"
#include "launcher/spec.h"

enum { MACHINE_NODES = 4, MACHINE_GPUS = 8, MOST_RANKS = 8 };

static const struct machine {
    const char *node[MACHINE_NODES];
    struct {
        const char *near;
        int node;
    } gpu[MACHINE_GPUS];
    unsigned siblings; /* core N shares a physical one with N + siblings; 1: 0 with 1, 2 with 3 */
} machines[] = {
    {.node = {"0-3", "4-7"}},
    {.node = {"0-3", "4-7"}, .gpu = {{"4-7", 1}, {"0-3", 0}}},
    {.node = {"0-3,8-11", "4-7,12-15"}, .gpu = {{"4-7,12-15", 1}, {"4-7,12-15", 1}}},
    {.node = {"0-7"}, .gpu = {{"0-7", 0}}},
    {.node = {NULL}},
    {.node = {"0-5", "6-7"}},
    {.node = {"0-3", "4-7"}, .gpu = {{"", -1}, {"0-7", -1}}}, /* nothing said; near everything */
    {.node = {"0-1", "2-3"}},                                 /* 4-7 are in no node */
    {.node = {"0-1", "2-3", "4-5", "6-7"},
     .gpu = {{"2-3", 1},
             {"2-3", 1},
             {"0-1", 0},
             {"0-1", 0},
             {"6-7", 3},
             {"6-7", 3},
             {"4-5", 2},
             {"4-5", 2}}}, /* eight GPUs, nodes out of order */
    {.node = {"0-7"}, .siblings = 4},
    {.node = {"0-1,4-5", "2-3,6-7"}, .siblings = 4},
    {.node = {"0-3,8-11", "4-7,12-15"}, .gpu = {{"4-7,12-15", 1}, {"4-7,12-15", 1}}, .siblings = 8},
    {.node = {"0-3", "4-7"}, .siblings = 1},
};

static const struct {
    unsigned machine, ranks, threads, devices;
    const char *allowed;
    const char *want; /* "cores@node gpu;" of each rank */
    bool in_order;
} table[] = {
    {0, 2, 4, 0, "0-7", "0-3@0;4-7@1;", false},
    {0, 4, 2, 0, "0-7", "0-1@0;2-3@0;4-5@1;6-7@1;", false},
    {0, 3, 2, 0, "0-7", "0-1@0;2-3@0;4-5@1;", false},
    {0, 2, 3, 0, "0-7", "0-2@0;4-6@1;", false}, /* dealt in order the second would straddle */
    {0, 1, 8, 0, "0-7", "0-7@-1;", false},      /* does not fit in a node: no memory preferred */
    {0, 2, 3, 0, "1-6", "1-3@0;4-6@1;", false}, /* the allowed ones alone */
    {0, 3, 3, 0, "0-7", "0-2@-1;3-5@-1;0,6-7@-1;", true}, /* more than there are */
    {1, 2, 4, 2, "0-7", "4-7@1 0;0-3@0 1;", false},       /* each near its GPU */
    {1, 2, 4, 0, "0-7", "0-3@0;4-7@1;", false},           /* ranks that use none */
    {1, 3, 2, 2, "0-7", "0-1@0;2-3@0;4-5@1;", false},     /* fewer GPUs than ranks: nobody's own */
    {1, 1, 4, 2, "0-7", "4-7@1 0;", false},
    {1, 1, 6, 2, "0-7", "0-1,4-7@1 0;", false},     /* all of its node, the rest from the other */
    {1, 2, 2, 2, "0-3", "2-3@0 0;0-1@0 1;", false}, /* none of its node is allowed */
    {2, 2, 4, 2, "0-15", "4-7@1 0;12-15@1 1;", false}, /* one node divided by two */
    {2, 2, 8, 2, "0-15", "0-7@1 0;8-15@1 1;", false},
    {3, 2, 4, 1, "0-7", "0-3@-1;4-7@-1;", true},
    {3, 1, 4, 1, "0-7", "0-3@-1 0;", true},
    {4, 2, 4, 0, "0-7", "0-3@-1;4-7@-1;", true},
    {5, 2, 2, 0, "0-7", "0-1@0;2-3@0;", false},
    {5, 2, 4, 0, "0-7", "0-3@0;4-7@-1;", false}, /* the second fits nowhere */
    {6, 2, 4, 2, "0-7", "4-7@1 0;0-3@0 1;", false},
    {7, 4, 2, 0, "0-7", "0-1@0;2-3@1;4-5@-1;6-7@-1;", false},
    {9, 2, 4, 0, "0-7", "0-1,4-5@-1;2-3,6-7@-1;", true}, /* whole physical cores */
    {9, 4, 2, 0, "0-7", "0,4@-1;1,5@-1;2,6@-1;3,7@-1;", true},
    {9, 2, 3, 0, "0-7", "0-1,4@-1;2-3,6@-1;", true},     /* nobody has 5 and 7: none is shared */
    {9, 2, 3, 0, "0-2,4-6", "0-1,4@-1;2,5-6@-1;", true}, /* one has to be */
    {9, 8, 1, 0, "0-7", "0@-1;1@-1;2@-1;3@-1;4@-1;5@-1;6@-1;7@-1;", true},
    {9, 2, 2, 0, "0-2,4-5", "0,4@-1;1,5@-1;", true},
    {9, 3, 2, 0, "0-2,4-5", "0,4@-1;1,5@-1;0,2@-1;", true}, /* more than there are: over again */
    {9, 2, 3, 0, "0-3", "0-2@-1;0-1,3@-1;", true},
    {9, 2, 2, 0, "0-3", "0-1@-1;2-3@-1;", true}, /* no siblings are allowed */
    {10, 4, 2, 0, "0-7", "0,4@0;1,5@0;2,6@1;3,7@1;", false},
    {10, 2, 3, 0, "0-7", "0-1,4@0;2-3,6@1;", false},
    {10, 1, 6, 0, "0-7", "0-2,4-6@-1;", false},
    {11, 2, 4, 2, "0-15", "4-5,12-13@1 0;6-7,14-15@1 1;", false},
    {11, 2, 8, 2, "0-15", "0-1,4-5,8-9,12-13@1 0;2-3,6-7,10-11,14-15@1 1;", false},
    {12, 4, 2, 0, "0-7", "0-1@0;2-3@0;4-5@1;6-7@1;", false},
    {12, 4, 1, 0, "0-7", "0@0;2@0;4@1;6@1;", false}, /* not two on one, while others are free */
    {12, 5, 1, 0, "0-7", "0@0;2@0;4@1;6@1;1@0;", false},
    {8, 8, 1, 8, "0-7", "2@1 0;3@1 1;0@0 2;1@0 3;6@3 4;7@3 5;4@2 6;5@2 7;", false},
};

static void build(const struct machine *machine, struct ds_topology *topology)
{
    memset(topology, 0, sizeof(*topology));
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        topology->first[cpu] = (unsigned short)(machine->siblings == 1  ? cpu & ~1U
                                                : machine->siblings > 1 ? cpu % machine->siblings
                                                                        : cpu);
    for (unsigned n = 0; n < MACHINE_NODES && machine->node[n] != NULL; n++) {
        topology->node[n].number = n;
        cr_assert(ds_cores_parse(machine->node[n], &topology->node[n].cores));
        topology->nodes++;
    }
    for (unsigned g = 0; g < MACHINE_GPUS && machine->gpu[g].near != NULL; g++) {
        topology->gpu[g].node = machine->gpu[g].node;
        cr_assert(ds_cores_parse(machine->gpu[g].near, &topology->gpu[g].near));
        topology->gpus++;
    }
}

static void write_out(const struct ds_bind *rank, unsigned ranks, char *out, size_t cap)
{
    out[0] = '\0';
    for (unsigned r = 0; r < ranks; r++) {
        char cores[DS_CORES_TEXT], gpu[16] = "";

        ds_cores_text(&rank[r].cores, cores);
        if (rank[r].gpu >= 0)
            (void)snprintf(gpu, sizeof(gpu), " %d", rank[r].gpu);
        (void)snprintf(out + strlen(out), cap - strlen(out), "%.64s@%d%s;", cores, rank[r].node,
                       gpu);
    }
}

Test(bind, machines_as_a_table)
{
    static const unsigned device[MACHINE_GPUS] = {0, 1, 2, 3, 4, 5, 6, 7};
    static struct ds_topology topology;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_bind rank[MOST_RANKS];
        cpu_set_t allowed, seen;
        char text[512];
        struct ds_bind_args args = {.topology = &topology,
                                    .allowed = &allowed,
                                    .ranks = table[i].ranks,
                                    .threads = table[i].threads,
                                    .device = device,
                                    .devices = table[i].devices};
        const char *why;

        build(&machines[table[i].machine], &topology);
        cr_assert(ds_cores_parse(table[i].allowed, &allowed));
        why = ds_bind_deal(&args, rank);
        write_out(rank, table[i].ranks, text, sizeof(text));
        cr_expect_str_eq(text, table[i].want, "row %zu: '%s'", i, text);
        cr_expect_eq(why != NULL, table[i].in_order, "row %zu: %s", i, why != NULL ? why : "-");
        CPU_ZERO(&seen);
        for (unsigned r = 0; r < table[i].ranks; r++) {
            cpu_set_t both;

            cr_expect_eq((unsigned)CPU_COUNT(&rank[r].cores), table[i].threads, "row %zu", i);
            CPU_AND(&both, &seen, &rank[r].cores);
            cr_expect(table[i].in_order || CPU_COUNT(&both) == 0, "row %zu: rank %u", i, r);
            CPU_OR(&seen, &seen, &rank[r].cores);
            CPU_AND(&both, &allowed, &rank[r].cores);
            cr_expect(CPU_EQUAL(&both, &rank[r].cores), "row %zu: rank %u", i, r);
        }
    }
}

static int policy(void)
{
    int mode = -1;

    return syscall(SYS_get_mempolicy, &mode, NULL, 0UL, NULL, 0UL) == 0 ? mode : -1;
}

Test(bind, memory_is_preferred_where_the_kernel_does_that)
{
    if (policy() != MPOL_DEFAULT)
        cr_skip_test("this kernel has no memory policies, or not for this process");
    ds_bind_memory(-1);
    cr_expect_eq(policy(), MPOL_DEFAULT);
    ds_bind_memory(100000);
    cr_expect_eq(policy(), MPOL_DEFAULT);
    ds_bind_memory(1000); /* no such node: refused, and nothing changes */
    cr_expect_eq(policy(), MPOL_DEFAULT);
    ds_bind_memory(0);
    cr_expect_eq(policy(), MPOL_PREFERRED);
}

Test(bind, this_host_and_what_is_told_of_it)
{
    const struct ds_spec spec = {.ranks = 2, .first_rank = 4, .no_gpus = true};
    const struct ds_bound *bound = NULL;
    struct ds_arena arena;
    struct ds_buf text;
    cpu_set_t allowed;

    ds_arena_init(&arena);
    ds_buf_init(&text, 2 * DS_CORES_TEXT);
    cr_assert_eq(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    cr_assert_eq(ds_bind_host(&bound, &spec, &allowed, 1, &arena, NULL), 0);
    cr_expect_eq(CPU_COUNT(&bound->rank[1].cores), 1);
    cr_expect_eq(bound->devices, 0);
    ds_bind_tell(bound, &spec, 1, &text);
    cr_expect_not_null(strstr(ds_buf_text(&text), "{\"event\":\"cores\",\"time\":"), "%s",
                       ds_buf_text(&text));
    cr_expect_not_null(strstr(ds_buf_text(&text), ",\"rank\":5,\"cores\":\""), "%s",
                       ds_buf_text(&text));
    ds_buf_release(&text);
    ds_arena_release(&arena);
}
