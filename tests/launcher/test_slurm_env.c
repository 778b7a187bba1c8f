/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_slurm_env.c - Slurm's variables as a roster: node lists, counts, GPUs, and what is refused.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/slurm_env.h"

/* "name/slots/cpus name/slots/cpus ..." */
static void show(const struct ds_roster *roster, char *out, size_t size)
{
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < roster->hosts && len < size; i++)
        len += (size_t)snprintf(out + len, size - len, "%s%s/%u/%u", i == 0 ? "" : " ",
                                roster->host[i].name, roster->host[i].slots, roster->host[i].cpus);
}

Test(slurm_env, accepted)
{
    static const struct {
        struct ds_slurm_env env;
        const char *want;
    } table[] = {
        /* what Slurm 22.05 sets for salloc with the options on the right */
        {{.nodelist = "node[1-2]", .tasks_per_node = "1(x2)", .cpus_per_node = "1(x2)"},
         "node1/0/1 node2/0/1"}, /* -N2 */
        {{.nodelist = "node[1-3]", .tasks_per_node = "4,2,8", .cpus_per_node = "4,2,8"},
         "node1/0/4 node2/0/2 node3/0/8"}, /* -N3 --exclusive */
        {{.nodelist = "node[1-3]",
          .tasks_per_node = "4,2,6",
          .cpus_per_node = "4,2,6",
          .ntasks = "12"},
         "node1/4/4 node2/2/2 node3/6/6"}, /* -n12 */
        {{.nodelist = "node[1-3]", .tasks_per_node = "2(x3)", .ntasks_node = "2"},
         "node1/2/0 node2/2/0 node3/2/0"}, /* -N3 --ntasks-per-node=2 */
        {{.nodelist = "node[1-2]", .tasks_per_node = "1(x2)", .gpus_per_node = "2"},
         "node1/2/0 node2/2/0"}, /* -N2 --gpus-per-node=2 */
        {{.nodelist = "node[1-2]", .tasks_per_node = "1(x2)", .gpus = "4", .ntasks = "2"},
         "node1/1/0 node2/1/0"}, /* -N2 -n2 --gpus=4 */
        {{.nodelist = "node[1-2]", .tasks_per_node = "1(x2)", .gpus = "4"}, "node1/0/0 node2/0/0"},
        {{.nodelist = "node1", .tasks_per_node = "1", .gpus = "a100:4"}, "node1/4/0"},
        /* forms */
        {{.nodelist = "n[01-03,07],x5", .tasks_per_node = "2(x3),1,4", .ntasks = "11"},
         "n01/2/0 n02/2/0 n03/2/0 n07/1/0 x5/4/0"},
        {{.nodelist = "rack[1-2]n[09-10]"}, "rack1n09/0/0 rack1n10/0/0 rack2n09/0/0 rack2n10/0/0"},
        {{.nodelist = "a[1,3-4]-ib,b-2.lan"}, "a1-ib/0/0 a3-ib/0/0 a4-ib/0/0 b-2.lan/0/0"},
        {{.nodelist = "n1", .gpus_per_node = "a100:4,v100:2"}, "n1/6/0"},
        {{.nodelist = "n1", .gpus_per_node = "a100-sxm4.80gb:8"}, "n1/8/0"},
        {{.nodelist = "n1", .step_tasks = "1", .num_nodes = "1"}, "n1/0/0"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};
        char text[512];

        ds_roster_init(&roster);
        cr_expect_eq(ds_slurm_env_parse(&roster, &table[i].env, &err), 0, "row %zu: %s", i,
                     err.text);
        show(&roster, text, sizeof(text));
        cr_expect_str_eq(text, table[i].want, "row %zu", i);
        ds_roster_release(&roster);
    }
}

/* Slots of each node: as Slurm says them, for a program that is launched, and for a job that trains on
 * GPUs.  The rows are what Slurm 22.05 sets for the options on the right, in a batch script or (salloc)
 * where dsrun is on another machine. */
static const struct {
    struct ds_slurm_env env;
    const char *said, *launched, *trained;
} gpu_rows[] = {
    {{.tasks_per_node = "1(x2)", .gpus_on_node = "4"}, "0 0", "4 4", "4 4"}, /* --gres=gpu:4 */
    {{.tasks_per_node = "1(x2)"}, "0 0", "0 0", "0 0"}, /* salloc --gres=gpu:4 */
    {{.tasks_per_node = "1(x2)", .ntasks = "2", .ntasks_node = "1", .gpus_on_node = "4"},
     "1 1",
     "1 1",
     "4 4"}, /* --gres=gpu:4 --ntasks-per-node=1 */
    {{.tasks_per_node = "1(x2)", .ntasks = "2", .gpus_per_node = "4", .gpus_on_node = "4"},
     "1 1",
     "1 1",
     "4 4"}, /* -n2 --gpus-per-node=4 */
    {{.tasks_per_node = "1(x2)", .ntasks = "2", .ntasks_node = "1", .gpus_per_node = "a100:4"},
     "1 1",
     "1 1",
     "4 4"}, /* salloc --gpus-per-node=a100:4 --ntasks-per-node=1 */
    {{.tasks_per_node = "1(x2)", .gpus_per_node = "4", .gpus_on_node = "4"},
     "4 4",
     "4 4",
     "4 4"}, /* --gpus-per-node=4 */
    {{.tasks_per_node = "1(x2)", .gpus = "3", .gpus_on_node = "2"},
     "0 0",
     "0 0",
     "0 0"}, /* --gpus=3: 2 and 1 */
    {{.tasks_per_node = "2(x2)", .ntasks = "4", .gpus_per_task = "2", .gpus_on_node = "4"},
     "2 2",
     "2 2",
     "2 2"}, /* -n4 --gpus-per-task=2 */
    {{.tasks_per_node = "1(x2)", .ntasks = "2", .ntasks_node = "1", .gpus_per_task = "4"},
     "1 1",
     "1 1",
     "4 4"}, /* --gpus-per-task=4 --ntasks-per-node=1 */
    {{.tasks_per_node = "2(x2)", .ntasks = "4", .gpus_on_node = "4"},
     "2 2",
     "2 2",
     "2 2"}, /* -n4 --gres=gpu:4 */
    {{.tasks_per_node = "2,1", .ntasks = "3", .gpus_on_node = "4"},
     "2 1",
     "2 1",
     "2 1"}, /* -n3 --gres=gpu:4 */
    {{.tasks_per_node = "1(x2)", .ntasks = "2", .gpus_on_node = "0"}, "1 1", "1 1", "1 1"},
};

Test(slurm_env, gpus)
{
    for (size_t i = 0; i < sizeof(gpu_rows) / sizeof(gpu_rows[0]); i++) {
        const char *want[] = {gpu_rows[i].said, gpu_rows[i].launched, gpu_rows[i].trained};

        for (unsigned use = 0; use < 3; use++) {
            struct ds_slurm_env env = gpu_rows[i].env;
            struct ds_roster roster;
            struct ds_error err = {0};
            char text[64];

            env.nodelist = "node[1-2]";
            ds_roster_init(&roster);
            cr_assert_eq(ds_slurm_env_parse(&roster, &env, &err), 0, "row %zu: %s", i, err.text);
            if (use > 0)
                ds_slurm_env_use_gpus(&roster, use == 2);
            (void)snprintf(text, sizeof(text), "%u %u", roster.host[0].slots, roster.host[1].slots);
            cr_expect_str_eq(text, want[use], "row %zu, use %u: %s", i, use, text);
            ds_roster_release(&roster);
        }
    }
}

static const struct {
    struct ds_slurm_env env;
    const char *want;
} wrong[] = {
    {{.nodelist = NULL}, "SLURM_JOB_NODELIST is not set"},
    {{.nodelist = ""}, "SLURM_JOB_NODELIST: '' is not a host name"},
    {{.nodelist = "a,"}, "'' is not a host name"},
    {{.nodelist = ",a"}, "'' is not a host name"},
    {{.nodelist = "-oProxyCommand=x"}, "is not a host name"},
    {{.nodelist = "a;rm -rf"}, "is not a host name"},
    {{.nodelist = "$(touch x)"}, "is not a host name"},
    {{.nodelist = "a\nb"}, "is not a host name"},
    {{.nodelist = "n\xff"}, "is not a host name"},
    {{.nodelist = "n[1-2"}, "bad range"},
    {{.nodelist = "n[1-2]]"}, "is not a host name"},
    {{.nodelist = "n[[1-2]]"}, "bad range"},
    {{.nodelist = "n[2-1]"}, "bad range"},
    {{.nodelist = "n[]"}, "bad range"},
    {{.nodelist = "n[000x733]"}, "bad range"},
    {{.nodelist = "n[1-65537]"}, "more than 65536 hosts"},
    {{.nodelist = "n[1-999999999]x[1-999999999]"}, "more than 65536 hosts"},
    {{.nodelist = "n[1-300]x[1-300]"}, "more than 65536 hosts"},
    {{.nodelist = "a[1-40000],b[1-40000]"}, "more than 65536 hosts"},
    {{.nodelist = "a[1]b[1]c[1]d[1]e[1]"}, "more than 4 ranges"},
    {{.nodelist = "n[1-2],n2"}, "'n2' is named twice"},
    {{.nodelist = "n1", .num_nodes = "2"},
     "SLURM_JOB_NUM_NODES='2', but SLURM_JOB_NODELIST names 1"},
    {{.nodelist = "n1", .num_nodes = "1x"}, "SLURM_JOB_NUM_NODES"},
    {{.nodelist = "n[1-2]", .tasks_per_node = "2", .ntasks = "2"}, "1 numbers for 2 nodes"},
    {{.nodelist = "n[1-2]", .tasks_per_node = "2(x3)", .ntasks = "6"},
     "more numbers than the 2 nodes"},
    {{.nodelist = "n1", .tasks_per_node = "0", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "1(x0)", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "1(x1", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "1(1)", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "1,", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "-1", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "1025", .ntasks = "1"}, "not a list of numbers"},
    {{.nodelist = "n1", .tasks_per_node = "99999999999999999999", .ntasks = "1"}, "not a list"},
    {{.nodelist = "n1", .cpus_per_node = "64(x2)"},
     "SLURM_JOB_CPUS_PER_NODE='64(x2)': more numbers"},
    {{.nodelist = "n1", .gpus_per_node = "a100"}, "not a number of GPUs"},
    {{.nodelist = "n1", .gpus_per_node = "a100:"}, "not a number of GPUs"},
    {{.nodelist = "n1", .gpus_per_node = ":8"}, "not a number of GPUs"},
    {{.nodelist = "n1", .gpus_per_node = "a:b:8"}, "not a number of GPUs"},
    {{.nodelist = "n1", .gpus_per_node = "8,"}, "not a number of GPUs"},
    {{.nodelist = "n1", .gpus_per_node = "0"}, "not a number of GPUs"},
    {{.nodelist = "n1", .gpus_per_node = "1000,1000"}, "too many GPUs"},
    {{.nodelist = "n1", .gpus = "x"}, "SLURM_GPUS"},
    {{.nodelist = "n1", .gpus_on_node = "many"}, "SLURM_GPUS_ON_NODE='many': not a number of GPUs"},
    {{.nodelist = "n1", .tasks_per_node = "600", .ntasks = "600", .gpus_per_task = "2"},
     "SLURM_GPUS_PER_TASK='2': too many GPUs"},
    {{.nodelist = "n1", .step_tasks = "4"}, "srun started this program 4 times"},
    {{.nodelist = "n1", .step_tasks = "many"}, "SLURM_STEP_NUM_TASKS"},
};

Test(slurm_env, refused)
{
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};

        ds_roster_init(&roster);
        cr_expect_eq(ds_slurm_env_parse(&roster, &wrong[i].env, &err), -EINVAL, "row %zu", i);
        cr_expect(strstr(err.text, wrong[i].want) != NULL, "row %zu: %s", i, err.text);
        ds_roster_release(&roster);
    }
}

Test(slurm_env, too_long)
{
    char *list = malloc(DS_MAX_YAML_BYTES + 2);
    struct ds_slurm_env env = {.nodelist = list};
    struct ds_roster roster;

    memset(list, 'a', DS_MAX_YAML_BYTES + 1);
    list[DS_MAX_YAML_BYTES + 1] = '\0';
    ds_roster_init(&roster);
    cr_assert_eq(ds_slurm_env_parse(&roster, &env, NULL), -EINVAL);
    ds_roster_release(&roster);
    free(list);
}

Test(slurm_env, environment)
{
    struct ds_slurm_env env;

    cr_assert_eq(unsetenv("SLURM_JOB_ID"), 0);
    cr_assert(!ds_slurm_env_get(&env));
    cr_assert(setenv("SLURM_JOB_ID", "7", 1) == 0 && setenv("SLURM_JOB_NODELIST", "n1", 1) == 0);
    cr_assert(ds_slurm_env_get(&env));
    cr_assert_str_eq(env.nodelist, "n1");
}
