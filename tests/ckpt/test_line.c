/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_line.c - moments that are not in memory: the same files as if they were, at once and behind
 * the run; loaded to where they are; what cannot be read or written is no checkpoint, and said.
 */
#include <errno.h>

#include "runtime/ckpt/saver.h"
#include "tests/ckpt/support.h"

TestSuite(line, .init = tempdir_make, .fini = tempdir_remove);

enum {
    LARGE = 3,
    LARGE_ROWS = 3000,
    LARGE_COLS = 1021
}; /* above every piece that is moved at a time */

/* What stands for a file: a call after `calls` fails. */
struct line {
    unsigned char *bytes;
    int calls;
    struct ds_ckpt_line is;
};

static int call(struct line *line, struct ds_error *err)
{
    return line->calls-- > 0 ? 0 : ds_fail(err, EIO, "the disk is gone");
}

static int get(void *user, uint64_t from, void *to, size_t bytes, struct ds_error *err)
{
    struct line *line = user;

    memcpy(to, line->bytes + from, bytes);
    return call(line, err);
}

static int put(void *user, uint64_t to, const void *from, size_t bytes, struct ds_error *err)
{
    struct line *line = user;

    memcpy(line->bytes + to, from, bytes);
    return call(line, err);
}

static void enlarge(struct set *set, float first)
{
    free(set->moment[LARGE].data);
    init_tensor(&set->moment[LARGE], "exp_avg_sq.", "h.0.w", LARGE_ROWS, LARGE_COLS, first);
}

/* Put the moments of a set on a line, seven bytes between them; one of them becomes large. */
static void lay(struct line *line, struct set *set)
{
    uint64_t end = 7;

    enlarge(set, 3.0f);
    *line = (struct line){.calls = 1000};
    line->is = (struct ds_ckpt_line){.read = get, .write = put, .user = line};
    for (size_t i = 0; i < 2 * SET_TENSORS; i++)
        end += tensor_elems(&set->moment[i]) * sizeof(float) + 7;
    line->bytes = calloc(1, end);
    end = 7;
    for (size_t i = 0; i < 2 * SET_TENSORS; i++) {
        size_t bytes = tensor_elems(&set->moment[i]) * sizeof(float);

        memcpy(line->bytes + end, set->moment[i].data, bytes);
        set->moment[i].line = &line->is;
        set->moment[i].line_at = end;
        end += bytes + 7;
    }
}

/* Bring the moments back to memory. */
static void fetch(struct line *line, struct set *set)
{
    for (size_t i = 0; i < 2 * SET_TENSORS; i++) {
        memcpy(set->moment[i].data, line->bytes + set->moment[i].line_at,
               tensor_elems(&set->moment[i]) * sizeof(float));
        set->moment[i].line = NULL;
    }
}

static void hide(struct set *set, void *data[2 * SET_TENSORS], bool hidden)
{
    for (size_t i = 0; i < 2 * SET_TENSORS; i++) {
        if (hidden)
            data[i] = set->moment[i].data;
        set->moment[i].data = hidden ? NULL : data[i];
    }
}

Test(line, is_saved_and_loaded_like_memory)
{
    struct path run[3] = {held("a"), held("b"), held("c")};
    struct set set, from_line, to_line;
    struct line line, other;
    struct ds_ckpt_state state;
    struct ds_ckpt_save_args args;
    struct ds_saver *saver = NULL;
    struct ds_saved saved;
    struct ds_error err = {0};
    void *data[2 * SET_TENSORS];
    int rc[64];

    set_init(&set, 1.0f);
    lay(&line, &set);
    hide(&set, data, true);
    save_with_world(save_args(run[0].text, &set, 5), 1, rc);
    cr_assert_eq(rc[0], 0);
    save_with_world(save_args(run[1].text, &set, 5), 3, rc);
    cr_assert(rc[0] == 0 && rc[1] == 0 && rc[2] == 0);
    args = save_args(run[2].text, &set, 5);
    cr_assert_eq(ds_saver_open(&saver, &args, NULL), 0);
    cr_assert_eq(ds_saver_begin(saver, &args.state, &saved, NULL), 0);
    line.calls = 0; /* it was read when the save began */
    cr_assert_eq(ds_saver_finish(saver, &saved, &err), 1, "%s", err.text);
    ds_saver_close(saver);
    hide(&set, data, false);
    for (unsigned i = 0; i < 3; i++) {
        const char *step = at(run[i].text, "checkpoints/step-00000005");

        set_init(&from_line, -7.0f);
        enlarge(&from_line, 0.0f);
        cr_assert_eq(load_set(step, &from_line, &state, &err), 0, "%s", err.text);
        cr_assert(set_equal(&set, &from_line), "run %u", i);
        set_init(&to_line, -9.0f);
        lay(&other, &to_line);
        hide(&to_line, data, true);
        cr_assert_eq(load_set(step, &to_line, &state, &err), 0, "%s", err.text);
        hide(&to_line, data, false);
        fetch(&other, &to_line);
        cr_assert(set_equal(&set, &to_line), "run %u, to a line", i);
        set_release(&from_line);
        set_release(&to_line);
        free(other.bytes);
    }
    set_release(&set);
    free(line.bytes);
}

/* At the first call and in the middle of a tensor. */
Test(line, that_fails_is_no_checkpoint)
{
    struct path run = held("run"), good = held("good");
    struct ds_ckpt_state state;
    struct ds_ckpt_save_args args;
    struct set set;
    struct line line;

    set_init(&set, 1.0f);
    lay(&line, &set);
    args = save_args(good.text, &set, 5);
    cr_assert_eq(ds_ckpt_save(&args, NULL), 0);
    args = save_args(run.text, &set, 5);
    for (int calls = 0; calls < 14; calls += 4) {
        struct ds_error err = {0};
        struct ds_saver *saver = NULL;
        struct ds_saved saved;

        line.calls = calls;
        cr_assert_eq(ds_ckpt_save(&args, &err), -EIO);
        cr_assert(strstr(err.text, "the disk is gone") && strstr(err.text, "tensor 'exp_avg"), "%s",
                  err.text);
        line.calls = calls > 8 ? 8 : calls;
        cr_assert_eq(ds_saver_open(&saver, &args, NULL), 0);
        cr_assert_eq(ds_saver_begin(saver, &args.state, &saved, &err), -EIO);
        ds_saver_close(saver);
        cr_assert(access(at(run.text, "checkpoints/latest"), F_OK) != 0);
        line.calls = calls > 8 ? 8 : calls;
        cr_assert_eq(load_set(at(good.text, "checkpoints/step-00000005"), &set, &state, &err),
                     -EIO);
        cr_assert(strstr(err.text, "the disk is gone"), "%s", err.text);
    }
    set_release(&set);
    free(line.bytes);
}

/* An imported checkpoint has no moments: they are zero then, wherever they are. */
Test(line, of_moments_that_are_missing_is_zero)
{
    struct path run = held("run");
    struct ds_ckpt_save_args args;
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct set set;
    struct line line;

    set_init(&set, 1.0f);
    args = save_args(run.text, &set, 0);
    args.n_moments = 0;
    cr_assert_eq(ds_ckpt_save(&args, &err), 0, "%s", err.text);
    lay(&line, &set);
    cr_assert_eq(load_set(at(run.text, "checkpoints/step-00000000"), &set, &state, &err), 0, "%s",
                 err.text);
    fetch(&line, &set);
    for (size_t i = 0; i < 2 * SET_TENSORS; i++)
        for (size_t k = 0; k < tensor_elems(&set.moment[i]); k++)
            cr_assert_eq(((float *)set.moment[i].data)[k], 0.0f);
    set_release(&set);
    free(line.bytes);
}
