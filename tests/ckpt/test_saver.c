/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_saver.c - checkpoints written behind: what they hold, one at a time, and how they fail.
 */
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "runtime/ckpt/saver.h"
#include "tests/ckpt/layouts.h"

/* Of each test, as the replacement of Criterion under ThreadSanitizer has no suites. */
#define IN_FOLDER .init = tempdir_make, .fini = tempdir_remove, .timeout = 120

/* --- ranks as threads ----------------------------------------------------------------------- */

/* The ranks of a run and what they add up after each step. */
static struct {
    const struct layout *layout;
    const char *run;
    pthread_barrier_t barrier;
    atomic_uint writing;
} world;

struct rank {
    unsigned rank;
    pthread_t thread;
    struct held held;
    struct ds_saver *saver;
    unsigned saved; /* how often a save was told to be finished */
    struct ds_saved last;
};

static struct ds_ckpt_save_args args_of(struct rank *me)
{
    struct ds_ckpt_save_args args = save_args(world.run, &(struct set){0}, 0);

    args.weights = me->held.weight;
    args.n_weights = me->held.weights;
    args.moments = me->held.moment;
    args.n_moments = me->held.moments;
    args.rank = me->rank;
    args.world = world.layout->world;
    args.barrier = shared_barrier;
    args.user = &world.barrier;
    args.block_bytes = 64;
    args.keep = 0;
    return args;
}

static struct ds_ckpt_state state_of(uint64_t step)
{
    struct ds_ckpt_state state = save_args("", &(struct set){0}, step).state;

    cr_assert(ds_ckpt_set_scalar(&state, "loss_scale", 65536.0, NULL) == 0);
    return state;
}

static void note(struct rank *me, int rc, const struct ds_saved *saved, const struct ds_error *err)
{
    (void)err; /* where assertions have no text */
    cr_assert(rc >= 0, "rank %u: %s", me->rank, err->text);
    if (rc > 0) {
        me->saved++;
        me->last = *saved;
    }
}

/* What a step does for the writer: ask, add up, tell. */
static void step(struct rank *me)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    struct ds_saved saved;
    struct ds_error err = {0};
    int rc = ds_saver_poll(me->saver, &err);
    bool any;

    cr_assert(rc >= 0, "rank %u: %s", me->rank, err.text);
    atomic_fetch_add(&world.writing, (unsigned)rc);
    (void)shared_barrier(&world.barrier, NULL);
    any = atomic_load(&world.writing) > 0;
    (void)shared_barrier(&world.barrier, NULL);
    atomic_store(&world.writing, 0);
    (void)shared_barrier(&world.barrier, NULL);
    note(me, ds_saver_turn(me->saver, any, &saved, &err), &saved, &err);
    (void)nanosleep(&pause, NULL);
}

static void spoil(struct held *held)
{
    for (size_t i = 0; i < held->weights; i++)
        memset(held->weight[i].data, 0xff, held->weight[i].count * 4);
    for (size_t i = 0; i < held->moments; i++)
        memset(held->moment[i].data, 0xff, held->moment[i].count * 4);
}

/* Save, spoil what was saved at once, take some steps; then saves one upon the other. */
static void *run_rank(void *arg)
{
    struct rank *me = arg;
    struct ds_ckpt_save_args args;
    struct ds_ckpt_state state = state_of(9);
    struct ds_saved saved;
    struct ds_error err = {0};

    held_init(&me->held, world.layout, me->rank, true);
    args = args_of(me);
    cr_assert(ds_saver_open(&me->saver, &args, &err) == 0, "%s", err.text);
    note(me, ds_saver_finish(me->saver, &saved, &err), &saved, &err); /* nothing to wait for */
    note(me, ds_saver_begin(me->saver, &state, &saved, &err), &saved, &err);
    spoil(&me->held);
    for (unsigned i = 0; i < 5; i++)
        step(me);
    for (uint64_t at = 10; at < 13; at++) {
        state.step = at;
        note(me, ds_saver_begin(me->saver, &state, &saved, &err), &saved, &err);
    }
    step(me);
    note(me, ds_saver_finish(me->saver, &saved, &err), &saved, &err);
    note(me, ds_saver_finish(me->saver, &saved, &err), &saved, &err);
    ds_saver_close(me->saver);
    held_release(&me->held);
    return NULL;
}

/* Names that are there: of checkpoints, and of what saves should not leave. */
static size_t names_in(const char *dir, bool hidden)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;
    size_t count = 0;

    cr_assert(stream != NULL);
    while ((entry = readdir(stream)) != NULL)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
                 (entry->d_name[0] == '.') == hidden;
    (void)closedir(stream);
    return count;
}

static void expect_step_9(const char *dir)
{
    for (unsigned r = 0; r < world.layout->world; r++) {
        struct ds_ckpt_state state;
        struct ds_error err = {0};
        struct held held;

        held_init(&held, world.layout, r, false);
        cr_assert(ds_ckpt_load(dir, &state, held.weight, held.weights, held.moment, held.moments,
                               &err) == 0,
                  "%s", err.text);
        cr_assert(held_is_right(&held) && state.step == 9 && state.world == world.layout->world);
        held_release(&held);
    }
}

Test(saver, what_was_there_at_begin_is_saved, IN_FOLDER)
{
    static const struct layout layouts[] = {
        {WHOLE, 1, 1}, {WHOLE, 3, 3}, {SLICES, 2, 2}, {SLICES, 4, 2}, {OWNERS, 9, 9}};

    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        struct rank rank[MAX_WORLD] = {0};
        char name[32];
        struct path run, checkpoints;

        (void)snprintf(name, sizeof(name), "run-%zu", i);
        run = held(name);
        checkpoints = held(at(name, "checkpoints"));
        world.layout = &layouts[i];
        world.run = run.text;
        pthread_barrier_init(&world.barrier, NULL, layouts[i].world);
        for (unsigned r = 0; r < layouts[i].world; r++) {
            rank[r].rank = r;
            cr_assert(pthread_create(&rank[r].thread, NULL, run_rank, &rank[r]) == 0);
        }
        for (unsigned r = 0; r < layouts[i].world; r++)
            cr_assert(pthread_join(rank[r].thread, NULL) == 0);
        pthread_barrier_destroy(&world.barrier);
        cr_assert(rank[0].saved == 4 && rank[0].last.step == 12, "%u", rank[0].saved);
        cr_assert(rank[0].last.ns >= rank[0].last.stall_ns && rank[0].last.bytes > 0);
        for (unsigned r = 1; r < layouts[i].world; r++)
            cr_assert(rank[r].saved == 0, "only rank 0 knows");
        expect_step_9(at(checkpoints.text, "step-00000009"));
        cr_assert(names_in(checkpoints.text, false) == 5); /* four and latest */
        cr_assert(names_in(checkpoints.text, true) == 0);
    }
}

/* --- one rank, in trouble ------------------------------------------------------------------- */

static int gate(void *user, struct ds_error *err)
{
    (void)user;
    return ds_fail(err, ECANCELED, "the line ended");
}

static struct ds_saver *open_alone(const char *run, struct set *set, bool gated)
{
    struct ds_ckpt_save_args args = save_args(run, set, 0);
    struct ds_saver *saver = NULL;

    args.before_commit = gated ? gate : NULL;
    cr_assert(ds_saver_open(&saver, &args, NULL) == 0);
    return saver;
}

Test(saver, a_failure_comes_out_of_the_next_call_and_harms_nothing, IN_FOLDER)
{
    struct path run = held("run"), checkpoints = held("run/checkpoints");
    const struct ds_ckpt_state first = state_of(1), second = state_of(2);
    struct ds_saved saved;
    struct ds_error err = {0};
    struct ds_saver *saver;
    struct set set;

    set_init(&set, 1.0f);
    saver = open_alone(run.text, &set, false);
    cr_assert(ds_saver_begin(saver, &first, &saved, NULL) == 0);
    cr_assert(ds_saver_finish(saver, &saved, NULL) == 1);
    ds_saver_close(saver);
    saver = open_alone(run.text, &set, true);
    cr_assert(ds_saver_begin(saver, &second, &saved, NULL) == 0);
    cr_assert(ds_saver_finish(saver, &saved, &err) == -ECANCELED);
    cr_assert(strstr(err.text, "step-00000002") && strstr(err.text, "the line ended"), "%s",
              err.text);
    cr_assert(ds_saver_begin(saver, &second, &saved, NULL) == 0); /* and goes on from there */
    cr_assert(ds_saver_begin(saver, &second, &saved, &err) == -ECANCELED);
    ds_saver_close(saver);
    cr_assert(names_in(checkpoints.text, false) == 2 && names_in(checkpoints.text, true) == 0);
    cr_assert(ds_ckpt_verify(at(checkpoints.text, "latest"), &err) == 0, "%s", err.text);
    set_release(&set);
}

Test(saver, a_run_that_ends_in_between_leaves_nothing_half, IN_FOLDER)
{
    struct path run = held("run"), checkpoints = held("run/checkpoints");
    const struct ds_ckpt_state state = state_of(1);
    struct ds_saved saved;
    struct ds_saver *saver;
    struct set set;

    set_init(&set, 1.0f);
    saver = open_alone(run.text, &set, false);
    cr_assert(ds_saver_begin(saver, &state, &saved, NULL) == 0);
    ds_saver_close(saver); /* written, but nobody said that the others have */
    cr_assert(names_in(checkpoints.text, false) == 0 && names_in(checkpoints.text, true) == 0);
    ds_saver_close(NULL);
    set_release(&set);
}

Test(saver, what_cannot_be_saved_is_no_saver, IN_FOLDER)
{
    struct path run = held("run");
    struct ds_ckpt_save_args args;
    struct ds_saver *saver = NULL;
    struct ds_error err = {0};
    struct set set;

    set_init(&set, 1.0f);
    set.weight[0].count++;
    args = save_args(run.text, &set, 0);
    cr_assert(ds_saver_open(&saver, &args, &err) == -EINVAL && saver == NULL);
    cr_assert(strstr(err.text, "has no elements") != NULL, "%s", err.text);
    set_release(&set);
}
