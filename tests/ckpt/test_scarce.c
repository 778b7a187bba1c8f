/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_scarce.c - no memory, and a disk that is full or broken, under everything that is done with
 * checkpoints but saving, which has tests of its own: each call fails once.
 *
 * A failure has a reason, what was to be made is not there, and what was read is as it was.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/inspect.h"
#include "tests/faults.h"
#include "tests/tempdir.h"

static char run_dir[DS_MAX_PATH], ckpt[DS_MAX_PATH], out[DS_MAX_PATH];
static const char hf[] = "tests/reference/gpt2-edge";

static void make_checkpoint(void)
{
    struct ds_error err = {0};

    tempdir_make();
    (void)snprintf(run_dir, sizeof(run_dir), "%s", tempdir_path("run"));
    (void)snprintf(ckpt, sizeof(ckpt), "%s/run/checkpoints/step-00000000", tempdir);
    (void)snprintf(out, sizeof(out), "%s", tempdir_path("out"));
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("run/checkpoints"), &err), 0, "%s", err.text);
    cr_assert_eq(ds_hf_import(hf, ckpt, &err), 0, "%s", err.text);
}

TestSuite(scarce, .init = make_checkpoint, .fini = tempdir_remove, .timeout = 240);

static int import(struct ds_error *err)
{
    return ds_hf_import(hf, out, err);
}

static int export(struct ds_error *err)
{
    return ds_hf_export(ckpt, out, DS_BF16, NULL, NULL, err);
}

static int export_split(struct ds_error *err)
{
    return ds__hf_export_split(ckpt, out, DS_F32, NULL, NULL, 4096, err);
}

static int verify(struct ds_error *err)
{
    return ds_ckpt_verify(ckpt, err);
}

static int inspect(struct ds_error *err)
{
    struct ds_ckpt_info info;

    return ds_ckpt_inspect(ckpt, &info, err);
}

static int diff(struct ds_error *err)
{
    struct ds_ckpt_diff found = {0};
    int rc = ds_ckpt_diff(ckpt, ckpt, &found, err);

    if (rc == 0)
        cr_assert(found.compared > 0 && found.count == 0);
    ds_ckpt_diff_release(&found);
    return rc;
}

static int list(struct ds_error *err)
{
    struct ds_ckpt_list found = {0};
    int rc = ds_ckpt_list(run_dir, &found, err);

    if (rc == 0)
        cr_assert_eq(found.count, 1);
    ds_ckpt_list_release(&found);
    return rc;
}

static int resolve(struct ds_error *err)
{
    char path[DS_MAX_PATH];

    return ds_ckpt_resolve(run_dir, path, err);
}

static const struct {
    const char *name;
    int (*work)(struct ds_error *err);
    bool makes; /* the folder `out` */
} rows[] = {
    {"import", import, true},  {"export", export, true},    {"export, split", export_split, true},
    {"verify", verify, false}, {"inspect", inspect, false}, {"diff", diff, false},
    {"list", list, false},     {"resolve", resolve, false},
};

static void sweep(unsigned kinds, int code)
{
    faults_kinds = kinds;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct faults_round r = {0};

        while (faults_round(&r, code, rows[i].work)) {
            cr_expect(r.hit ? r.rc != 0 && r.err.text[0] != '\0' : r.rc == 0,
                      "%s, call %u, %s: %d '%s'", rows[i].name, r.n, strerror(code), r.rc,
                      r.err.text);
            cr_expect_eq(access(out, F_OK) == 0, rows[i].makes && r.rc == 0,
                         "%s, call %u: left behind", rows[i].name, r.n);
            if (access(out, F_OK) == 0)
                cr_assert_eq(ds_fs_remove_tree(out, NULL), 0);
        }
        cr_expect(r.hits > 0 || kinds != FAULT_MEMORY, "%s: there is something to fail",
                  rows[i].name);
        cr_expect_eq(ds_ckpt_verify(ckpt, NULL), 0, "%s harms what it reads", rows[i].name);
    }
}

Test(scarce, no_memory)
{
    sweep(FAULT_MEMORY, ENOMEM);
}

Test(scarce, a_full_disk)
{
    sweep(FAULT_IO, ENOSPC);
}

Test(scarce, a_broken_disk)
{
    sweep(FAULT_IO, EIO);
}
