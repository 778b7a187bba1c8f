/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_slurm.c - what is given to srun, and what an agent is told: arguments and invitations; how an
 * agent joins, and why it may not.
 */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher/remote/join.h"
#include "launcher/remote/slurm.h"

TestSuite(slurm, .timeout = 60);

Test(slurm, arguments)
{
    static const char *const hosts[] = {"node3", "node1", "node2", "big"};
    static const char *const want[] = {
        "srun",
        "--nodes=4",
        "--ntasks=4",
        "--ntasks-per-node=1",
        "--nodelist=big,node[1-3]",
        "-K0",
        "--no-kill",
        "--wait=0",
        "--overlap",
        "--cpu-bind=none",
        "--mpi=none",
        "--export=ALL",
        "--input=all",
        "--network=sn_all",
        "--container-image=/a b.sqsh",
        "/opt/my programs/dsrun-agent",
        "slurm",
    };
    static const char *const given[] = {"--network=sn_all", "--container-image=/a b.sqsh"};
    const struct ds_srun_more more = {.arg = given, .count = 2};
    const char *const *argv;
    struct ds_arena arena;
    size_t n = 0;

    ds_arena_init(&arena);
    cr_assert_eq(
        ds_slurm_argv(&arena, hosts, 4, "/opt/my programs/dsrun-agent", &more, &argv, NULL), 0);
    for (; argv[n] != NULL; n++)
        cr_assert_str_eq(argv[n], want[n]);
    cr_assert_eq(n, sizeof(want) / sizeof(want[0]));
    ds_arena_release(&arena);
}

Test(slurm, what_users_may_give_srun)
{
    static const char *const fine[] = {"--network=single_node_vni,job_vni",
                                       "--container-image=x y",
                                       "--mem=0",
                                       "--gres=gpu:4",
                                       "--hint=nomultithread",
                                       "--mem-bind=local",
                                       "--exclude=n7",
                                       "--comment=a;b$(c)"};
    static const struct {
        const char *arg, *want;
    } refused[] = {
        {"", "is not written"},
        {"--", "is not written"},
        {"-N4", "'-N4' is not written '--name' or '--name=value'"},
        {"hostname", "is not written"},
        {"--=3", "is not written"},
        {"--Nodes=3", "is not written"},
        {"--mem=0\n", "control character"},
        {"--nodes=3", "srun's '--nodes' is dsrun's to set"},
        {"--node=3", "srun's '--nodes' is dsrun's to set"},
        {"--ntasks-per-node=8", "srun's '--ntasks-per-node' is dsrun's to set"},
        {"--export=NONE", "srun's '--export' is dsrun's to set"},
        {"--cpu-bind=cores", "srun's '--cpu-bind' is dsrun's to set"},
        {"--mpi=pmix", "srun's '--mpi' is dsrun's to set"},
        {"--kill", "srun's '--kill-on-bad-exit' is dsrun's to set"},
        {"--input=none", "srun's '--input' is dsrun's to set"},
        {"--pty", "srun's '--pty' is dsrun's to set"},
        {"--multi-prog", "srun's '--multi-prog' is dsrun's to set"},
    };

    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
        cr_expect_eq(ds_slurm_check(fine[i], NULL), 0, "%s", fine[i]);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct ds_error err = {0};

        cr_expect_eq(ds_slurm_check(refused[i].arg, &err), -EINVAL, "%s", refused[i].arg);
        cr_expect(strstr(err.text, refused[i].want) != NULL, "%s", err.text);
    }
}

Test(slurm, invitation_reads_back)
{
    struct ds_invitation invitation = {.port = 65535, .key = {0xff, 0, 0x80}}, again = {0};
    char line[DS_INVITATION_BYTES];

    ds_invitation_write(&invitation, line);
    cr_assert_eq(line[strlen(line) - 1], '\n');
    line[strlen(line) - 1] = '\0';
    cr_assert_eq(ds_invitation_read(&again, line, NULL), 0);
    cr_assert(again.port == 65535 && memcmp(again.key, invitation.key, sizeof(again.key)) == 0);
}

#define HEX "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

Test(slurm, what_is_no_invitation)
{
    static const char *const table[] = {
        "",
        "dsrun-join",
        "dsrun-join 2 80 " HEX,
        "dsrun-join 1  80 " HEX,
        "dsrun-join 1 0 " HEX,
        "dsrun-join 1 65536 " HEX,
        "dsrun-join 1 999999 " HEX,
        "dsrun-join 1 -1 " HEX,
        "dsrun-join 1 80",
        "dsrun-join 1 80 ",
        "dsrun-join 1 80 " HEX "0",
        "dsrun-join 1 80 " HEX "00",
        "dsrun-join 1 80 0" HEX,
        "dsrun-join 1 80 g00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "Welcome to this machine!",
    };
    struct ds_invitation invitation;

    cr_assert_eq(ds_invitation_read(&invitation, "dsrun-join 1 80 " HEX, NULL), 0);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        cr_assert_eq(ds_invitation_read(&invitation, table[i], NULL), -EPROTO, "row %zu", i);
}

/* --- joining ---------------------------------------------------------------------------------- */

static int join_with(struct ds_join *join, const char *said, struct ds_error *err)
{
    int pair[2], rc;
    char next = 0;

    cr_assert_eq(pipe(pair), 0);
    cr_assert_eq(write(pair[1], said, strlen(said)), (ssize_t)strlen(said));
    cr_assert_eq(write(pair[1], "", 1), 1);
    (void)close(pair[1]);
    rc = ds_join_slurm(join, pair[0], err);
    if (rc == 0)
        cr_assert_eq(read(pair[0], &next, 1), 1, "it took what stands behind the line");
    (void)close(pair[0]);
    return rc;
}

static int listen_on(int family, unsigned *port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    bool is_four = family == AF_INET;
    struct sockaddr *to = is_four ? (struct sockaddr *)&four : (struct sockaddr *)&six;
    socklen_t len = is_four ? sizeof(four) : sizeof(six);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, to, len) != 0) /* a machine without IPv6 */
        return -1;
    cr_assert_eq(listen(fd, 1), 0);
    cr_assert_eq(getsockname(fd, to, &len), 0);
    *port = ntohs(is_four ? four.sin_port : six.sin6_port);
    return fd;
}

static void expect_joined(int family, const char *address)
{
    struct ds_invitation invitation = {.key = {1, 2, 3}};
    struct ds_join join;
    struct ds_error err = {0};
    char line[DS_INVITATION_BYTES];
    int fd = listen_on(family, &invitation.port), peer;

    if (fd < 0 && family == AF_INET6)
        return;
    cr_assert_geq(fd, 0);
    ds_invitation_write(&invitation, line);
    cr_assert_eq(setenv("SLURM_LAUNCH_NODE_IPADDR", address, 1), 0);
    cr_assert_eq(join_with(&join, line, &err), 0, "%s", err.text);
    cr_assert_str_eq(join.node, "node7");
    cr_assert_eq(memcmp(join.key, invitation.key, sizeof(join.key)), 0);
    peer = accept(fd, NULL, NULL);
    cr_assert_geq(peer, 0);
    (void)close(peer);
    (void)close(join.fd);
    (void)close(fd);
}

Test(slurm, an_agent_joins)
{
    cr_assert_eq(setenv("SLURMD_NODENAME", "node7", 1), 0);
    expect_joined(AF_INET, "127.0.0.1");
    expect_joined(AF_INET6, "::1");
}

Test(slurm, only_srun_starts_such_an_agent)
{
    struct ds_join join;
    struct ds_error err = {0};

    (void)unsetenv("SLURMD_NODENAME");
    cr_assert_eq(setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1", 1), 0);
    cr_assert_eq(join_with(&join, "dsrun-join 1 80 " HEX "\n", &err), -EPROTO);
    cr_assert(strstr(err.text, "only srun starts") != NULL, "%s", err.text);
    cr_assert_eq(setenv("SLURMD_NODENAME", "node7", 1), 0);
    (void)unsetenv("SLURM_LAUNCH_NODE_IPADDR");
    cr_assert_eq(join_with(&join, "dsrun-join 1 80 " HEX "\n", &err), -EPROTO);
    cr_assert_eq(join.fd, -1);
}

Test(slurm, why_an_agent_may_not_join)
{
    static const struct {
        const char *address, *said, *why;
    } table[] = {
        {"127.0.0.1", "", "stdin ended before the invitation"},
        {"127.0.0.1", "Welcome!\n", "invitation"},
        {"127.0.0.1", "dsrun-join 1 80 " HEX, "stdin ended before the invitation"},
        {"127.0.0.1", HEX HEX HEX HEX HEX "\n", "what came on stdin is no invitation"},
        {"head", "dsrun-join 1 80 " HEX "\n", "'head' is no address"},
        {"1.2.3", "dsrun-join 1 80 " HEX "\n", "'1.2.3' is no address"},
    };
    struct ds_join join;

    cr_assert_eq(setenv("SLURMD_NODENAME", "node7", 1), 0);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_error err = {0};

        cr_assert_eq(setenv("SLURM_LAUNCH_NODE_IPADDR", table[i].address, 1), 0);
        cr_assert_eq(join_with(&join, table[i].said, &err), -EPROTO, "row %zu", i);
        cr_assert(strstr(err.text, table[i].why) != NULL, "row %zu: %s", i, err.text);
        cr_assert_eq(join.fd, -1, "row %zu", i);
    }
}

Test(slurm, a_network_that_is_not_there_is_said_at_once)
{
    struct ds_join join;
    struct ds_error err = {0};

    cr_assert_eq(setenv("SLURMD_NODENAME", "node7", 1), 0);
    cr_assert_eq(setenv("SLURM_LAUNCH_NODE_IPADDR", "255.255.255.255", 1), 0);
    cr_assert_lt(join_with(&join, "dsrun-join 1 80 " HEX "\n", &err), 0);
    cr_assert(strstr(err.text, "cannot reach dsrun at 255.255.255.255 port 80") != NULL, "%s",
              err.text);
    cr_assert_eq(join.fd, -1);
}
