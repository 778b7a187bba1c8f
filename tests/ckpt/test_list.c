/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_list.c - which checkpoints a run has, which one is meant, which ones go.
 */
#include <errno.h>

#include "runtime/ckpt/manifest.h"
#include "tests/ckpt/support.h"

static struct set values;

static void make_values(void)
{
    tempdir_make();
    set_init(&values, 1.0f);
}

static void remove_values(void)
{
    set_release(&values);
    tempdir_remove();
}

TestSuite(list, .init = make_values, .fini = remove_values);

static void save(const char *run, uint64_t step, uint64_t keep)
{
    struct ds_ckpt_save_args args = save_args(run, &values, step);
    struct ds_error err = {0};

    args.keep = keep;
    cr_assert(ds_ckpt_save(&args, &err) == 0, "%s", err.text);
}

/* The steps of a run as "300 200 100". */
static const char *steps_of(const char *run)
{
    static char text[256];
    struct ds_ckpt_list list;
    size_t len = 0;

    text[0] = '\0';
    cr_assert(ds_ckpt_list(run, &list, NULL) == 0);
    for (size_t i = 0; i < list.count; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%u", i > 0 ? " " : "",
                                (unsigned)list.entry[i].step);
    ds_ckpt_list_release(&list);
    return text;
}

#define must_have(run, steps)                                                                      \
    cr_assert(strcmp(steps_of(run), steps) == 0, "'%s', not '%s'", steps_of(run), steps)

static void spoil(const char *run, const char *step)
{
    const char *path = at(at(at(run, "checkpoints"), step), "manifest.json");

    cr_assert(truncate(path, 10) == 0);
}

Test(list, newest_first_and_only_exact_names)
{
    static const char *const others[] = {
        "step-1",         "step-00000001.bak", ".step-00000009.tmp",
        "step-",          "step-0000000x",     "step-1000000001",
        "step-000000100", "xstep-00000100",    "step-99999999999"};
    const char *run = tempdir_path("run");

    for (uint64_t step = 1; step <= 300; step *= 7)
        save(run, step, 0);
    save(run, 123456789, 0);
    save(run, 1000000000, 0);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        cr_assert(mkdir(at(at(run, "checkpoints"), others[i]), 0755) == 0);
    spill(at(run, "checkpoints/step-00000002"), "", 0); /* a file, not a folder */
    cr_assert(symlink("step-00000001", at(run, "checkpoints/step-00000003")) == 0);
    must_have(run, "1000000000 123456789 49 7 1");
}

Test(list, what_is_newer_than_latest_was_left_behind)
{
    const char *run = tempdir_path("run");
    struct ds_ckpt_list list;

    for (uint64_t step = 10; step <= 40; step += 10)
        save(run, step, 0);
    save(run, 15, 0); /* of a run that began anew, or went back */
    must_have(run, "40 30 20 15 10");
    cr_assert(ds_ckpt_list_line(run, &list, NULL) == 0 && list.count == 2);
    cr_assert(list.entry[0].step == 15 && list.entry[1].step == 10);
    ds_ckpt_list_release(&list);
    save(run, 40, 0); /* it has come so far itself */
    cr_assert(ds_ckpt_list_line(run, &list, NULL) == 0 && list.count == 5);
    ds_ckpt_list_release(&list);
    cr_assert(unlink(at(run, "checkpoints/latest")) == 0);
    cr_assert(ds_ckpt_list_line(run, &list, NULL) == 0 && list.count == 5);
    ds_ckpt_list_release(&list);
}

Test(list, no_folder_no_checkpoints)
{
    struct ds_ckpt_list list;
    struct ds_error err = {0};
    char out[DS_MAX_PATH];

    cr_assert(ds_ckpt_list(tempdir_path("none"), &list, &err) == -ENOENT && list.count == 0);
    cr_assert(strstr(err.text, "none") != NULL, "%s", err.text);
    cr_assert(mkdir(tempdir_path("run"), 0755) == 0);
    must_have(tempdir_path("run"), "");
    cr_assert(ds_ckpt_resolve(tempdir_path("run"), out, &err) == -ENOENT);
    cr_assert(strstr(err.text, "neither a checkpoint nor a run directory") != NULL, "%s", err.text);
    cr_assert(mkdir(tempdir_path("run/checkpoints"), 0755) == 0);
    must_have(tempdir_path("run"), "");
    cr_assert(ds_ckpt_resolve(tempdir_path("run"), out, &err) == -ENOENT);
    cr_assert(strstr(err.text, "no checkpoint yet") != NULL, "%s", err.text);
}

Test(list, keep_keeps_the_newest)
{
    const char *run = tempdir_path("run");

    for (uint64_t step = 10; step <= 50; step += 10)
        save(run, step, 2);
    must_have(run, "50 40");
    save(run, 60, 1);
    must_have(run, "60");
    save(run, 70, 0); /* 0: all */
    save(run, 80, 0);
    must_have(run, "80 70 60");
}

Test(list, multiples_of_keep_every_stay)
{
    const char *run = tempdir_path("run");
    struct ds_ckpt_save_args args;

    for (uint64_t step = 10; step <= 90; step += 10) {
        args = save_args(run, &values, step);
        args.keep = 2;
        args.keep_every = 30;
        cr_assert(ds_ckpt_save(&args, NULL) == 0);
    }
    must_have(run, "90 80 60 30"); /* 90 is one of the newest, and stays later */
    save(run, 100, 1);
    must_have(run, "100");
}

Test(list, damaged_ones_do_not_count_and_later_ones_stay)
{
    const char *run = tempdir_path("run");

    for (uint64_t step = 10; step <= 50; step += 10)
        save(run, step, 0);
    spoil(run, "step-00000050");
    spoil(run, "step-00000030");
    save(run, 45, 2); /* gone back to 40 and on: 50 is of a future that was left */
    must_have(run, "50 45 40");
    save(run, 50, 2); /* saved again: whole now */
    must_have(run, "50 45");
    cr_assert(ds_ckpt_verify(at(run, "checkpoints/step-00000050"), NULL) == 0);
    spoil(run, "step-00000045");
    save(run, 60, 2);
    must_have(run, "60 50");
    spoil(run, "step-00000050");
    save(run, 70, 3);
    must_have(run, "70 60 50"); /* three whole ones were asked for: nothing is in excess */
    save(run, 80, 3);
    must_have(run, "80 70 60");
}

Test(list, somebody_elses_files_are_left_alone)
{
    const char *run = tempdir_path("run");

    save(run, 1, 1);
    spill(at(run, "checkpoints/notes.txt"), "x", 1);
    spill(at(run, "checkpoints/.hidden"), "x", 1);
    cr_assert(mkdir(at(run, "checkpoints/step-best"), 0755) == 0);
    cr_assert(mkdir(at(run, "checkpoints/.step-00000009.tmp"), 0755) == 0);
    spill(at(run, "checkpoints/.step-00000009.tmp/part"), "x", 1);
    save(run, 2, 1);
    cr_assert(exists(at(run, "checkpoints/notes.txt")) && exists(at(run, "checkpoints/.hidden")));
    cr_assert(exists(at(run, "checkpoints/step-best")));
    cr_assert(!exists(at(run, "checkpoints/.step-00000009.tmp")));
    must_have(run, "2");
}

static void must_resolve(const char *path, const char *to)
{
    char out[DS_MAX_PATH];
    struct ds_error err = {0};

    cr_assert(ds_ckpt_resolve(path, out, &err) == 0, "'%s': %s", path, err.text);
    cr_assert(strcmp(out, to) == 0, "'%s' is '%s', not '%s'", path, out, to);
}

Test(list, a_checkpoint_a_run_and_its_latest_resolve)
{
    const struct path run_path = held("run"), link_path = held("run/checkpoints/latest");
    const struct path first = held("run/checkpoints/step-00000001");
    const struct path second = held("run/checkpoints/step-00000002");
    const char *run = run_path.text, *link = link_path.text;
    const char *one = first.text, *two = second.text;
    char out[DS_MAX_PATH];
    struct ds_error err = {0};

    save(run, 2, 0);
    save(run, 1, 0);
    must_resolve(run, one); /* the last that was saved, not the highest number */
    must_resolve(tempdir_path("run///"), one);
    must_resolve(two, two);
    must_resolve(link, link);
    cr_assert(unlink(link) == 0 && symlink("../../etc", link) == 0);
    must_resolve(run, two);
    cr_assert(unlink(link) == 0 && symlink("step-00000077", link) == 0);
    must_resolve(run, two);
    cr_assert(unlink(link) == 0);
    must_resolve(run, two);
    cr_assert(unlink(at(two, "manifest.json")) == 0);
    must_resolve(two, two); /* its name says what it is; what is wrong with it is for the reader */
    cr_assert(ds_ckpt_verify(two, &err) == -EBADMSG);
    cr_assert(rename(one, tempdir_path("copy")) == 0);
    must_resolve(tempdir_path("copy"), tempdir_path("copy"));
    cr_assert(ds_ckpt_verify(tempdir_path("copy"), &err) == 0);
    cr_assert(ds_ckpt_resolve(tempdir_path("copy/manifest.json"), out, &err) == -ENOENT);
    cr_assert(ds_ckpt_resolve(tempdir_path("missing"), out, &err) == -ENOENT);
}

/* --- the hooks of a save -------------------------------------------------------------------- */

static int calls;

static int hook(void *user, struct ds_error *err)
{
    const char *run = user;

    cr_assert(!exists(at(run, "checkpoints/step-00000002")), "named before the commit");
    cr_assert(exists(at(run, "checkpoints/.step-00000002.tmp/manifest.json")));
    calls++;
    return calls == 1 ? ds_fail(err, ECANCELED, "told to stop") : 0;
}

Test(list, the_last_word_before_the_commit)
{
    char run[DS_MAX_PATH];
    struct ds_ckpt_save_args args;
    struct ds_error err = {0};

    (void)snprintf(run, sizeof(run), "%s", tempdir_path("run"));
    save(run, 1, 0);
    args = save_args(run, &values, 2);
    args.before_commit = hook;
    args.user = run;
    cr_assert(ds_ckpt_save(&args, &err) == -ECANCELED);
    cr_assert(strstr(err.text, "told to stop") != NULL, "%s", err.text);
    must_have(run, "1");
    cr_assert(!exists(at(run, "checkpoints/.step-00000002.tmp")));
    cr_assert(ds_ckpt_save(&args, &err) == 0);
    must_have(run, "2 1");
}

static int broken_barrier(void *user, struct ds_error *err)
{
    int *left = user;

    calls++;
    return (*left)-- == 0 ? ds_fail(err, EPROTO, "a rank is gone") : 0;
}

Test(list, a_broken_barrier_ends_the_save)
{
    const char *run = tempdir_path("run");

    for (int at_barrier = 0; at_barrier < 2; at_barrier++) {
        struct ds_ckpt_save_args args = save_args(run, &values, 5);
        struct ds_error err = {0};
        int left = at_barrier;

        calls = 0;
        args.barrier = broken_barrier;
        args.user = &left;
        cr_assert(ds_ckpt_save(&args, &err) == -EPROTO, "%s", err.text);
        cr_assert(calls == at_barrier + 1, "a broken barrier was waited for again");
        must_have(run, "");
    }
}

Test(list, what_cannot_be_saved)
{
    struct ds_ckpt_save_args args = save_args(tempdir_path("file/run"), &values, 1);
    struct ds_error err = {0};

    spill(tempdir_path("file"), "", 0);
    cr_assert(ds_ckpt_save(&args, &err) == -ENOTDIR, "%s", err.text);
    cr_assert(strstr(err.text, "file") != NULL, "%s", err.text);
    args = save_args(tempdir_path("run"), &values, 1000000001);
    cr_assert(ds_ckpt_save(&args, &err) == -EINVAL, "%s", err.text);
    args.state.step = 1;
    args.rank = 1;
    cr_assert(ds_ckpt_save(&args, &err) == -EINVAL, "%s", err.text);
    args.rank = 0;
    (void)snprintf(values.weight[0].name, sizeof(values.weight[0].name), "h.0.w");
    cr_assert(ds_ckpt_save(&args, &err) == -EINVAL, "%s", err.text);
    cr_assert(strstr(err.text, "two tensors are named 'h.0.w'") != NULL, "%s", err.text);
    must_have(tempdir_path("run"), "");
}

/* --- step 0 --------------------------------------------------------------------------------- */

Test(list, before_the_first_step_moments_may_be_left_out)
{
    const char *run = tempdir_path("run");
    struct ds_ckpt_save_args args = save_args(run, &values, 0);
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct set loaded;

    args.n_moments = 0;
    cr_assert(ds_ckpt_save(&args, &err) == 0, "%s", err.text);
    set_init(&loaded, 3.0f);
    cr_assert(load_set(at(run, "checkpoints/step-00000000"), &loaded, &state, &err) == 0);
    for (size_t i = 0; i < 2 * SET_TENSORS; i++)
        for (size_t j = 0; j < tensor_elems(&loaded.moment[i]); j++)
            cr_assert(((float *)loaded.moment[i].data)[j] == 0.0f);
    args.state.step = 1;
    cr_assert(ds_ckpt_save(&args, &err) == 0, "%s", err.text);
    cr_assert(load_set(at(run, "checkpoints/step-00000001"), &loaded, &state, &err) == -EINVAL);
    cr_assert(strstr(err.text, "exp_avg.") != NULL, "%s", err.text);
    set_release(&loaded);
}
