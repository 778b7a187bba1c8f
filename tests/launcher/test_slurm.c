/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_slurm.c - what is given to srun, and what an agent is told: arguments and invitations.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "launcher/remote/slurm.h"

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
        "--wait=0",
        "--overlap",
        "--cpu-bind=none",
        "--mpi=none",
        "--export=ALL",
        "--input=all",
        "/opt/my programs/dsrun-agent",
        "slurm",
    };
    const char *const *argv;
    struct ds_arena arena;
    size_t n = 0;

    ds_arena_init(&arena);
    cr_assert_eq(ds_slurm_argv(&arena, hosts, 4, "/opt/my programs/dsrun-agent", &argv, NULL), 0);
    for (; argv[n] != NULL; n++)
        cr_assert_str_eq(argv[n], want[n]);
    cr_assert_eq(n, sizeof(want) / sizeof(want[0]));
    ds_arena_release(&arena);
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
