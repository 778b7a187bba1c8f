/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_syscalls.c - a save is killed before and after every system call that it makes.
 *
 * A child saves under ptrace(2) and is stopped at every entry and exit of a system call, in all of
 * its threads; at the k-th stop it gets SIGKILL.  For every k, until a save comes to its end: the
 * checkpoint before is whole, or the new one is; the newest that is listed is whole; and the next
 * save works and leaves nothing behind.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>

#include "runtime/ckpt/saver.h"
#include "tests/ckpt/layouts.h"

/* In memory where there is such a folder: nothing here cuts the power, so a disk adds only time. */
static void make_folder(void)
{
    if (access("/dev/shm", W_OK) == 0)
        (void)setenv("TMPDIR", "/dev/shm", 0);
    tempdir_make();
}

TestSuite(syscalls, .init = make_folder, .fini = tempdir_remove, .timeout = 300);

static const struct layout layout = {SLICES, 2, 2};
static char run[DS_MAX_PATH];
static uint64_t step_to_save;

/* --- the saves that are killed -------------------------------------------------------------- */

static pthread_barrier_t barrier;

/* Two ranks as threads; `held` of the set's kind so that what was saved can be told. */
static void *save_rank(void *arg)
{
    unsigned rank = *(unsigned *)arg;
    struct ds_ckpt_save_args args = save_args(run, &(struct set){0}, step_to_save);
    struct held held;

    held_init(&held, &layout, rank, true);
    args.weights = held.weight;
    args.n_weights = held.weights;
    args.moments = held.moment;
    args.n_moments = held.moments;
    args.rank = rank;
    args.world = layout.world;
    args.keep = 1;
    args.barrier = shared_barrier;
    args.user = &barrier;
    if (ds_ckpt_save(&args, NULL) != 0)
        _exit(1);
    held_release(&held);
    return NULL;
}

static void save_by_two(void)
{
    unsigned rank[2] = {0, 1};
    pthread_t other;

    pthread_barrier_init(&barrier, NULL, 2);
    if (pthread_create(&other, NULL, save_rank, &rank[1]) != 0)
        _exit(1);
    (void)save_rank(&rank[0]);
    (void)pthread_join(other, NULL);
}

static struct ds_ckpt_save_args alone(struct held *held)
{
    static const struct layout whole = {WHOLE, 1, 1};
    struct ds_ckpt_save_args args = save_args(run, &(struct set){0}, step_to_save);

    held_init(held, &whole, 0, true);
    args.weights = held->weight;
    args.n_weights = held->weights;
    args.moments = held->moment;
    args.n_moments = held->moments;
    args.keep = 1;
    return args;
}

static void save_at_once(void)
{
    struct held held;
    struct ds_ckpt_save_args args = alone(&held);

    if (ds_ckpt_save(&args, NULL) != 0)
        _exit(1);
    held_release(&held);
}

/* The save's thread writes and commits; this one takes the turns of a run's steps. */
static void save_behind(void)
{
    struct held held;
    struct ds_ckpt_save_args args = alone(&held);
    struct ds_saver *saver;
    struct ds_saved saved;

    if (ds_saver_open(&saver, &args, NULL) != 0 ||
        ds_saver_begin(saver, &args.state, &saved, NULL) != 0 ||
        ds_saver_finish(saver, &saved, NULL) != 1)
        _exit(1);
    ds_saver_close(saver);
    held_release(&held);
}

/* --- the killing ---------------------------------------------------------------------------- */

enum end { ENDED, KILLED, CANNOT };
#ifdef __SANITIZE_ADDRESS__
enum { EVERY = 3 }; /* stops at which a save is killed, entries and exits in turn */
#else
enum { EVERY = 1 };
#endif

static void go_on(pid_t thread, int status)
{
    int signum = WSTOPSIG(status);

    if (status >> 16 != 0 || signum == SIGSTOP || signum == (SIGTRAP | 0x80))
        signum = 0; /* the tracer's own business */
    (void)ptrace(PTRACE_SYSCALL, thread, NULL, signum);
}

/* Let the child go on until its k-th stop at a system call. */
static enum end trace(pid_t pid, long k)
{
    for (long seen = 0;;) {
        int status = 0;
        pid_t thread = waitpid(-1, &status, __WALL);

        if (thread < 0)
            return KILLED;
        if (thread == pid && (WIFEXITED(status) || WIFSIGNALED(status))) {
            cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "the save failed");
            return WIFEXITED(status) ? ENDED : KILLED;
        }
        if (!WIFSTOPPED(status))
            continue;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80) && seen++ == k)
            (void)kill(pid, SIGKILL);
        go_on(thread, status);
    }
}

static enum end save_until(void (*save)(void), long k)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(2);
        (void)raise(SIGSTOP);
        save();
        _exit(0);
    }
    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (!WIFSTOPPED(status) ||
        ptrace(PTRACE_SETOPTIONS, pid, NULL,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL) < 0)
        return CANNOT;
    (void)ptrace(PTRACE_SYSCALL, pid, NULL, 0);
    return trace(pid, k);
}

/* --- what must hold ------------------------------------------------------------------------- */

static void must_be_whole(const char *dir, const char *what, long k)
{
    static const struct layout whole = {WHOLE, 1, 1};
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct held held;

    cr_assert(ds_ckpt_verify(dir, &err) == 0, "%s %ld: %s", what, k, err.text);
    held_init(&held, &whole, 0, false);
    cr_assert(
        ds_ckpt_load(dir, &state, held.weight, held.weights, held.moment, held.moments, &err) == 0,
        "%s %ld: %s", what, k, err.text);
    cr_assert(held_is_right(&held), "%s %ld: other values", what, k);
    held_release(&held);
}

static void must_be_sound(const char *what, long k)
{
    char latest[DS_MAX_PATH];
    struct ds_ckpt_list list;

    cr_assert(ds_ckpt_list(run, &list, NULL) == 0 && list.count > 0, "%s %ld: none left", what, k);
    for (size_t i = 0; i < list.count; i++)
        must_be_whole(at(at(run, "checkpoints"), list.entry[i].name), what, k);
    ds_ckpt_list_release(&list);
    cr_assert(ds_ckpt_resolve(run, latest, NULL) == 0);
    must_be_whole(latest, what, k);
}

static void next_save_must_work(const char *what, long k)
{
    DIR *dir;
    struct dirent *entry;

    step_to_save = 3;
    save_at_once();
    must_be_whole(at(run, "checkpoints/latest"), what, k);
    dir = opendir(at(run, "checkpoints"));
    while ((entry = readdir(dir)) != NULL)
        cr_assert(strncmp(entry->d_name, ".step", 5) != 0, "%s %ld: '%s' is left", what, k,
                  entry->d_name);
    (void)closedir(dir);
}

/* Kill a save of `step`, after one of step 1, at stop after stop. */
static void kill_everywhere(void (*save)(void), uint64_t step, const char *what)
{
    enum end end = KILLED;
    long k = 0;

    (void)snprintf(run, sizeof(run), "%s", tempdir_path("run"));
    for (; end == KILLED; k += EVERY) {
        step_to_save = 1;
        save_at_once();
        step_to_save = step;
        end = save_until(save, k);
        if (end == CANNOT)
            cr_skip("needs ptrace(2)");
        must_be_sound(what, k);
        next_save_must_work(what, k);
        remove_dir(run);
    }
    cr_log_info("%s: killed at %ld stops", what, k / EVERY - 1);
    cr_assert(k > 100, "%s: only %ld stops", what, k);
}

Test(syscalls, a_save_may_be_killed_at_any)
{
    kill_everywhere(save_at_once, 2, "at once");
}

Test(syscalls, a_save_of_a_step_that_is_there_may_be_killed_at_any)
{
    kill_everywhere(save_at_once, 1, "the same step");
}

Test(syscalls, a_save_behind_the_run_may_be_killed_at_any)
{
    kill_everywhere(save_behind, 2, "behind");
}

Test(syscalls, a_save_by_two_ranks_may_be_killed_at_any)
{
    kill_everywhere(save_by_two, 2, "two ranks");
}
