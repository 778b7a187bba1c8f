/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_views_scarce.c - no memory, and a broken disk, under checkpoints of divided columns: each call
 * fails once.  A save that failed is no checkpoint, a failure has a reason, and the next try works.
 */
#include <errno.h>

#include "runtime/ckpt/inspect.h"
#include "tests/ckpt/divisions.h"
#include "tests/faults.h"

static struct division saved, other;
static struct path run, step;
static struct saver *saver;
static struct held held_by_other;

static void prepare(void)
{
    struct dice dice = {.seed = 8};
    struct ds_error err = {0};

    tempdir_make();
    run = held("run");
    step = held("run/checkpoints/step-00000009");
    divide(&saved, &dice, 3, 2, 1);
    divide(&other, &dice, 2, 1, 1);
    saver = make_savers(&saved);
    held_init(&held_by_other, &other, 1, false);
    cr_assert(save_held(saver, world_of(&saved), run.text, 64, false, &err) == 0, "%s", err.text);
}

static void clean_up(void)
{
    held_release(&held_by_other);
    free_savers(saver);
    tempdir_remove();
}

TestSuite(views_scarce, .init = prepare, .fini = clean_up, .timeout = 240);

/* Over the one that is there. */
static int save(struct ds_error *err)
{
    return save_held(saver, world_of(&saved), run.text, 64, false, err);
}

static int load(struct ds_error *err)
{
    struct ds_ckpt_state state;

    return ds_ckpt_load(step.text, &state, held_by_other.weight, TENSORS, held_by_other.moment,
                        TENSORS, err);
}

static int verify(struct ds_error *err)
{
    return ds_ckpt_verify(step.text, err);
}

static int diff(struct ds_error *err)
{
    struct ds_ckpt_diff found = {0};
    int rc = ds_ckpt_diff(step.text, step.text, &found, err);

    ds_ckpt_diff_release(&found);
    return rc;
}

static void sweep(unsigned kinds, int code)
{
    static int (*const works[])(struct ds_error *) = {save, load, verify, diff};

    faults_kinds = kinds;
    for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++) {
        struct faults_round r = {0};

        while (faults_round(&r, code, works[i])) {
            cr_assert(r.hit ? r.rc < 0 && r.err.text[0] != '\0' : r.rc == 0,
                      "work %zu, call %u, %s: %d '%s'", i, r.n, strerror(code), r.rc, r.err.text);
            cr_assert(ds_ckpt_verify(step.text, NULL) == 0, "work %zu, call %u", i, r.n);
        }
        cr_assert(r.hits > 5, "work %zu: there is something to fail", i);
    }
    cr_assert(held_is_right(&held_by_other));
}

Test(views_scarce, no_memory)
{
    sweep(FAULT_MEMORY, ENOMEM);
}

Test(views_scarce, a_broken_disk)
{
    sweep(FAULT_IO, EIO);
}
