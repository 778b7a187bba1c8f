/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_scarce.c - no memory, and files that cannot be read or written, under what is done with the
 * user's files before a host is reached: each call fails once.
 *
 * A failure is told with a reason.  Nothing that was said in a file is lost by it: a key that is
 * revoked there stays so for whoever asks next.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsio.h"
#include "launcher/fleet/meet.h"
#include "launcher/fleet/spares.h"
#include "launcher/fleet/store.h"
#include "launcher/remote/boot.h"
#include "launcher/remote/ssh_site.h"
#include "launcher/remote/trust.h"
#include "tests/faults.h"
#include "tests/tempdir.h"

enum { BLOB_BYTES = 51 };

static unsigned char blob[BLOB_BYTES];
static char known_hosts[DS_MAX_PATH];

static void write_text(const char *name, const char *text)
{
    (void)tempdir_write(name, text, strlen(text));
}

/* A home with a config in two files, a jump, an agent, and the key of node1 revoked. */
static void make_home(void)
{
    static const char config[] = "Include more\nHost node*\n  User me\n  IdentityAgent ~/agent-%n\n"
                                 "  IdentityFile ~/.ssh/%h.key\n  ProxyJump gate:2222\n"
                                 "  HostName %h.lan\n";
    struct ds_buf line;

    tempdir_make();
    cr_assert_eq(mkdir(tempdir_path(".ssh"), 0700), 0);
    cr_assert_eq(setenv("HOME", tempdir, 1), 0);
    memset(blob, 7, sizeof(blob));
    memcpy(blob, "\0\0\0\013ssh-ed25519\0\0\0\040", 19);
    write_text(".ssh/config", config);
    write_text(".ssh/more", "Host *\n  GlobalKnownHostsFile /dev/null\n");
    write_text("dsrun-agent", "an agent");
    write_text("dsrun-worker", "a worker");
    ds_buf_init(&line, 4096);
    (void)ds_buf_puts(&line, "@revoked ");
    cr_assert_eq(ds_known_line(&line, "*", blob, sizeof(blob), NULL), 0);
    (void)snprintf(known_hosts, sizeof(known_hosts), "%s", tempdir_path(".ssh/known_hosts"));
    write_text(".ssh/known_hosts", ds_buf_text(&line));
    ds_buf_release(&line);
}

TestSuite(scarce, .init = make_home, .fini = tempdir_remove, .timeout = 60);

/* --- who a host is ------------------------------------------------------------------------------ */

static int look_up(struct ds_ssh_site *site, struct ds_error *err)
{
    const struct ds_host_spec host = {.name = "node1"};
    const struct ds_known_entry *entry;
    struct ds_ssh_target target;
    struct ds_known known;
    int rc = ds_ssh_site_resolve(site, &host, &target, err);

    if (rc == 0)
        rc = ds_ssh_site_known(site, &target, &known, err);
    if (rc != 0)
        return rc;
    cr_assert_str_eq(target.agent, tempdir_path("agent-node1"));
    cr_assert_str_eq(target.address, "node1.lan");
    cr_assert_eq(target.hops, 1);
    cr_assert_eq(ds_known_check(&known, blob, sizeof(blob), &entry), DS_KNOWN_IS_REVOKED);
    return 0;
}

static int site(struct ds_error *err)
{
    struct ds_ssh_site ssh;
    int rc = ds_ssh_site_init(&ssh, err), again;

    if (rc == 0) {
        rc = look_up(&ssh, err);
        again = look_up(&ssh, NULL); /* what could not be read is read again */
        cr_assert(again == 0 || faults_hit == 0, "%d", again);
    }
    ds_ssh_site_release(&ssh);
    return rc;
}

/* --- a key is recorded -------------------------------------------------------------------------- */

static bool ends_with(const struct ds_buf *text, const struct ds_buf *line)
{
    return text->len >= line->len &&
           memcmp(text->data + text->len - line->len, line->data, line->len) == 0;
}

/* The old lines stand as they did, and when it worked one more behind them. */
static int record(struct ds_error *err)
{
    unsigned char other[BLOB_BYTES];
    struct ds_trust_key key = {.shown = {.host = "node2",
                                         .address = "127.0.0.1",
                                         .name = "node2",
                                         .file = known_hosts,
                                         .blob = other,
                                         .len = BLOB_BYTES}};
    struct ds_trust trust = {.keys = &key};
    struct ds_buf before, after, line;
    unsigned left;
    int rc;

    memcpy(other, blob, sizeof(other));
    other[BLOB_BYTES - 1] = 1;
    left = faults_left;
    faults_left = 0;
    ds_buf_init(&before, DS_MAX_SSH_FILE);
    ds_buf_init(&after, DS_MAX_SSH_FILE);
    ds_buf_init(&line, 4096);
    cr_assert_eq(ds_fs_read(known_hosts, DS_MAX_SSH_FILE, &before, NULL), 0);
    cr_assert_eq(ds_known_line(&line, "node2", other, BLOB_BYTES, NULL), 0);
    faults_left = left;
    rc = ds_trust_record(&trust, err);
    left = faults_left;
    faults_left = 0;
    cr_assert_eq(ds_fs_read(known_hosts, DS_MAX_SSH_FILE, &after, NULL), 0);
    cr_assert(after.len >= before.len && memcmp(after.data, before.data, before.len) == 0);
    cr_assert(rc != 0 || ends_with(&after, &line));
    (void)tempdir_write(".ssh/known_hosts", before.data, before.len);
    ds_buf_release(&before);
    ds_buf_release(&after);
    ds_buf_release(&line);
    faults_left = left;
    return rc;
}

/* --- what is kept per host ---------------------------------------------------------------------- */

static int programs(struct ds_error *err)
{
    struct ds_boot_plan plan;
    int rc = ds_boot_plan_open(&plan, tempdir, "1", true, true, err);

    if (rc == 0)
        cr_assert(plan.program[1].len == 8 && strlen(plan.hash[1]) == 64);
    ds_boot_plan_release(&plan);
    return rc;
}

static int meet(struct ds_error *err)
{
    static const struct ds_place place[3];
    struct ds_meet all = {0};
    int rc = ds_meet_init(&all, place, 3, err);

    ds_meet_release(&all);
    return rc;
}

static void no_answer(void *user, uint32_t rank, const void *payload, size_t len)
{
    (void)user;
    (void)rank;
    (void)payload;
    (void)len;
}

static int store(struct ds_error *err)
{
    struct ds_store kept = {0};
    int rc = ds_store_init(&kept, 3, no_answer, NULL, err);

    ds_store_release(&kept);
    return rc;
}

static int spares(struct ds_error *err)
{
    static const char text[] = "a[1-9] slots=1\n";
    struct ds_placement placed = {0};
    struct ds_spares with;
    struct ds_roster roster;
    int rc;

    ds_roster_init(&roster);
    rc = ds_hostfile_parse(&roster, "hosts", text, strlen(text), err);
    if (rc == 0)
        rc = ds_placement_build(&placed, &roster, &(struct ds_placement_args){.nodes = 7}, err);
    if (rc == 0)
        rc = ds_spares_init(&with, &roster, &placed, NULL, err);
    ds_roster_release(&roster);
    return rc;
}

static const struct {
    const char *name;
    int (*work)(struct ds_error *err);
    unsigned kinds; /* of calls that it makes */
    int or_else;    /* when a text could not grow */
    bool closes;    /* it closes what was synced: of no account if that fails */
} rows[] = {
    {"the user's ssh files", site, FAULT_MEMORY | FAULT_IO, -EINVAL, false},
    {"a key is recorded", record, FAULT_MEMORY | FAULT_IO, 0, true},
    {"programs to push", programs, FAULT_IO, 0, false},
    {"meet", meet, FAULT_MEMORY, 0, false},
    {"store", store, FAULT_MEMORY, 0, false},
    {"spares", spares, FAULT_MEMORY, 0, false},
};

static bool is_told(size_t row, int rc, int code)
{
    if (rc == 0)
        return rows[row].closes;
    return rc == -code || (code == ENOMEM && (rc == -ENOBUFS || rc == rows[row].or_else));
}

static void sweep(unsigned kinds, int code)
{
    faults_kinds = kinds;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct faults_round r = {0};

        while (faults_round(&r, code, rows[i].work)) {
            cr_expect(r.hit ? is_told(i, r.rc, code) : r.rc == 0, "%s, call %u, %s: %d %s",
                      rows[i].name, r.n, strerror(code), r.rc, r.err.text);
            cr_expect(r.rc == 0 || r.err.text[0] != '\0', "%s, call %u: no reason", rows[i].name,
                      r.n);
        }
        cr_expect_eq(r.hits > 0, (rows[i].kinds & kinds) != 0, "%s: %u rounds", rows[i].name,
                     r.hits);
    }
}

Test(scarce, no_memory)
{
    sweep(FAULT_MEMORY, ENOMEM);
}

Test(scarce, a_broken_disk)
{
    sweep(FAULT_IO, EIO);
}
