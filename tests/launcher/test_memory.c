/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_memory.c - every allocation of what the launcher reads and writes fails once.
 *
 * A row is some work that fails with -ENOMEM when an allocation does, and else not at all; with what
 * the room for a buffer is spoken of when that could not grow.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "launcher/fleet/logmux.h"
#include "launcher/hosts/hostlist.h"
#include "launcher/hosts/placement.h"
#include "launcher/hosts/roster.h"
#include "launcher/hosts/slurm_env.h"
#include "launcher/remote/boot.h"
#include "launcher/remote/known_hosts.h"
#include "launcher/remote/slurm.h"
#include "launcher/remote/ssh_config.h"
#include "launcher/spec.h"
#include "tests/faults.h"

static int read_hosts(const char *text, const char *include, struct ds_error *err)
{
    struct ds_roster roster;
    int rc;

    ds_roster_init(&roster);
    rc = ds_hostfile_parse(&roster, "hosts", text, strlen(text), err);
    if (rc == 0)
        rc = ds_roster_select(&roster, include, NULL, err);
    ds_roster_release(&roster);
    return rc;
}

static int hostfile(struct ds_error *err)
{
    return read_hosts("node[01-40] slots=4 user=train\nbig slots=8 port=22 address=10.0.0.7\n",
                      "node03:0,2@big", err);
}

static int hostfile_yaml(struct ds_error *err)
{
    return read_hosts("defaults: {slots: 8, user: train}\nhosts:\n  - node[01-40]\n"
                      "  - {name: big, address: 10.0.0.7, devices: [0, 1, 2, 3]}\n",
                      "node03:0,2@big:1", err);
}

static int slurm_env(struct ds_error *err)
{
    const struct ds_slurm_env env = {.job_id = "7",
                                     .nodelist = "n[01-20],x5",
                                     .num_nodes = "21",
                                     .tasks_per_node = "2(x20),1",
                                     .ntasks = "41",
                                     .cpus_per_node = "8(x21)"};
    struct ds_roster roster;
    int rc;

    ds_roster_init(&roster);
    rc = ds_slurm_env_parse(&roster, &env, err);
    ds_roster_release(&roster);
    return rc;
}

static int slurm_argv(struct ds_error *err)
{
    static const char *const host[] = {"n01", "n02", "x5"};
    const struct ds_srun_more more = {0};
    const char *const *argv;
    struct ds_arena arena;
    int rc;

    ds_arena_init(&arena);
    rc = ds_slurm_argv(&arena, host, 3, "/opt/dsrun/dsrun-agent", &more, &argv, err);
    ds_arena_release(&arena);
    return rc;
}

static int placement(struct ds_error *err)
{
    static const char hosts[] = "a[1-9] slots=3\n";
    struct ds_placement placed = {0};
    struct ds_roster roster;
    int rc;

    ds_roster_init(&roster);
    rc = ds_hostfile_parse(&roster, "hosts", hosts, strlen(hosts), err);
    if (rc == 0)
        rc = ds_placement_build(&placed, &roster, &(struct ds_placement_args){0}, err);
    ds_roster_release(&roster);
    return rc;
}

static int no_include(struct ds_ssh_reader *reader, const char *pattern, unsigned depth,
                      struct ds_error *err)
{
    (void)reader;
    (void)pattern;
    (void)depth;
    (void)err;
    return 0;
}

static int ssh_config(struct ds_error *err)
{
    static const char text[] = "Include other\nMatch host node1\n  IdentityFile ~/.ssh/a\n"
                               "Host node*\n  HostName 10.0.0.1\n  User me\n  Port 2222\n"
                               "  IdentityFile \"~/.ssh/%h key\"\n  UserKnownHostsFile a b\n"
                               "  ProxyJump x@one:22,two\n  IdentityAgent ~/agent\n";
    struct ds_ssh_config config = {0};
    struct ds_arena arena;
    struct ds_ssh_reader reader = {.host = "node1",
                                   .home = "/home/me",
                                   .arena = &arena,
                                   .config = &config,
                                   .include = no_include};
    int rc;

    ds_arena_init(&arena);
    rc = ds_ssh_config_apply(&reader, "config", text, sizeof(text) - 1, 0, err);
    ds_arena_release(&arena);
    return rc;
}

static int known_line(struct ds_error *err)
{
    static const char blob[] = "\0\0\0\13ssh-ed25519\0\0\0\4four";
    struct ds_buf out;
    int rc;

    ds_buf_init(&out, 4096);
    rc = ds_known_line(&out, "node1", blob, sizeof(blob) - 1, err);
    ds_buf_release(&out);
    return rc;
}

static int spec(struct ds_error *err)
{
    static const char *argv[] = {"prog", "-x"}, *env[] = {"A=b", "C=d"};
    const struct ds_spec in = {.world = 8,
                               .first_rank = 4,
                               .ranks = 4,
                               .node = 1,
                               .nodes = 2,
                               .cwd = "/work",
                               .argc = 2,
                               .argv = argv,
                               .envc = 2,
                               .env = env,
                               .blob = "bytes",
                               .blob_bytes = 5};
    struct ds_arena arena;
    struct ds_spec out;
    struct ds_buf bytes;
    int rc;

    ds_arena_init(&arena);
    ds_buf_init(&bytes, 4096);
    rc = ds_spec_encode(&in, &bytes, err);
    if (rc == 0)
        rc = ds_spec_decode(bytes.data, bytes.len, &arena, &out, err);
    ds_buf_release(&bytes);
    ds_arena_release(&arena);
    return rc;
}

static int boot(struct ds_error *err)
{
    const struct ds_boot_plan plan = {.folder = "/opt", .build = "1", .hash = {"-", "-"}};
    struct ds_boot boot;
    int rc = ds_boot_init(&boot, &plan, false, err);

    ds_boot_release(&boot);
    return rc;
}

static void drop_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    (void)user;
    (void)rank;
    (void)stream;
    (void)text;
}

static int logmux(struct ds_error *err)
{
    struct ds_logmux mux = {0};
    int rc = ds_logmux_init(&mux, 4, drop_line, NULL, err);

    ds_logmux_release(&mux);
    return rc;
}

static int hostlist(struct ds_error *err)
{
    static const char *const names[] = {"n03", "n01", "n02", "x5"};
    struct ds_buf out;
    int rc;

    ds_buf_init(&out, 4096);
    rc = ds_hostlist_print(names, 4, &out);
    if (rc == 0)
        cr_assert_str_eq(ds_buf_text(&out), "n[01-03],x5");
    ds_buf_release(&out);
    (void)err;
    return rc;
}

static const struct {
    const char *name;
    int (*work)(struct ds_error *err);
    int or_else;
} rows[] = {
    {"hostfile", hostfile, -ENOMEM},
    {"hostfile_yaml", hostfile_yaml, -ENOMEM},
    {"slurm_env", slurm_env, -ENOMEM},
    {"slurm_argv", slurm_argv, -ENOMEM},
    {"placement", placement, -ENOMEM},
    {"ssh_config", ssh_config, -ENOMEM},
    {"known_line", known_line, -ENOBUFS},
    {"spec", spec, -EMSGSIZE},
    {"boot", boot, -ENOMEM},
    {"logmux", logmux, -ENOMEM},
    {"hostlist", hostlist, -ENOBUFS},
};

Test(memory, running_out_is_an_error_and_loses_nothing)
{
    faults_kinds = FAULT_MEMORY;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct faults_round r = {0};

        while (faults_round(&r, ENOMEM, rows[i].work)) {
            cr_expect(r.hit ? r.rc == -ENOMEM || r.rc == rows[i].or_else : r.rc == 0,
                      "%s, round %u: %d %s", rows[i].name, r.n, r.rc, r.err.text);
        }
        cr_expect_gt(r.hits, 0, "%s: there is something to fail", rows[i].name);
    }
}
