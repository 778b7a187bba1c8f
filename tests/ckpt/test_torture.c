/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_torture.c - a save is failed, and killed, at every one of its system calls.
 *
 * The program is linked with --wrap for the calls below (files.mk), so that the k-th of them can
 * fail, write half, or be the last thing that its process does.  Whatever happens: checkpoints that
 * were finished before are whole, the run directory resolves to a whole one, every folder with a
 * final name is whole, and the next save works and leaves nothing behind.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mount.h>

#include "runtime/ckpt/saver.h"
#include "tests/ckpt/support.h"

TestSuite(torture, .init = tempdir_make, .fini = tempdir_remove, .timeout = 120);

enum mode { OFF, FAIL, SHORT, KILL, NO_EXCHANGE_KILL };

static struct {
    enum mode mode;
    long at;   /* which call it hits, from 0 */
    long seen; /* calls so far */
    int code;  /* errno of FAIL */
} torture;

/* Is this the call?  Kills the process when that is what is to happen. */
static bool hit(void)
{
    if (torture.mode == OFF || torture.seen++ != torture.at)
        return false;
    if (torture.mode == KILL || torture.mode == NO_EXCHANGE_KILL)
        (void)raise(SIGKILL);
    if (torture.mode == SHORT)
        return false;
    errno = torture.code;
    return true;
}

/* clang-format off */
#define WRAP(name, params, args) \
    int __real_##name params; \
    int __wrap_##name params; \
    int __wrap_##name params { return hit() ? -1 : __real_##name args; }

WRAP(rename, (const char *from, const char *to), (from, to))
WRAP(mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(symlink, (const char *to, const char *path), (to, path))
WRAP(unlink, (const char *path), (path))
WRAP(unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
/* clang-format on */

/* What it does cannot be seen without cutting the power, and takes most of the time. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    (void)fd;
    return hit() ? -1 : 0;
}

ssize_t __real_pwrite(int fd, const void *bytes, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *bytes, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    bool shortened = torture.mode == SHORT && torture.seen == torture.at && len > 1;

    return hit() ? -1 : __real_pwrite(fd, bytes, shortened ? len / 2 : len, at);
}

ssize_t __real_write(int fd, const void *bytes, size_t len);
ssize_t __wrap_write(int fd, const void *bytes, size_t len);
ssize_t __wrap_write(int fd, const void *bytes, size_t len)
{
    bool shortened = torture.mode == SHORT && torture.seen == torture.at && len > 1;

    return hit() ? -1 : __real_write(fd, bytes, shortened ? len / 2 : len);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;

    va_start(args, flags);
    if (flags & O_CREAT)
        mode = va_arg(args, mode_t);
    va_end(args);
    return hit() ? -1 : __real_open(path, flags, mode);
}

int __real_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    if (hit())
        return -1;
    if (torture.mode == NO_EXCHANGE_KILL) {
        errno = EINVAL; /* what a file system without RENAME_EXCHANGE says */
        return -1;
    }
    return __real_renameat2(a, from, b, to, flags);
}

/* Allocations fail too, by a counter of their own. */
static long alloc_at = -1, allocs;

static bool alloc_fails(void)
{
    return alloc_at >= 0 && allocs++ == alloc_at;
}

/* clang-format off */
#define WRAP_ALLOC(name, params, args) \
    void *__real_##name params; \
    void *__wrap_##name params; \
    void *__wrap_##name params { return alloc_fails() ? NULL : __real_##name args; }

WRAP_ALLOC(malloc, (size_t bytes), (bytes))
WRAP_ALLOC(calloc, (size_t count, size_t bytes), (count, bytes))
WRAP_ALLOC(realloc, (void *old, size_t bytes), (old, bytes))
/* clang-format on */

/* --- what must hold ------------------------------------------------------------------------- */

static struct set first, second;

static void make_sets(void)
{
    set_init(&first, 1.0f);
    set_init(&second, 5.0f);
}

static void release_sets(void)
{
    set_release(&first);
    set_release(&second);
}

/* Is `path` a whole checkpoint with the values of one of the two sets? */
static bool is_one_of_them(const char *path)
{
    struct ds_ckpt_state state;
    struct set loaded;
    bool same;

    set_init(&loaded, 0.0f);
    same = load_set(path, &loaded, &state, NULL) == 0 &&
           (set_equal(&loaded, &first) || set_equal(&loaded, &second));
    set_release(&loaded);
    return same;
}

static void must_be_sound(const char *run, const char *what, long k)
{
    char latest[DS_MAX_PATH];
    struct ds_ckpt_list list;
    struct ds_error err = {0};

    cr_assert(ds_ckpt_list(run, &list, &err) == 0, "%s %ld: %s", what, k, err.text);
    cr_assert(list.count > 0, "%s %ld: no checkpoint left", what, k);
    for (size_t i = 0; i < list.count; i++) {
        const char *path = at(at(run, "checkpoints"), list.entry[i].name);

        cr_assert(ds_ckpt_verify(path, &err) == 0, "%s %ld: %s", what, k, err.text);
        cr_assert(is_one_of_them(path), "%s %ld: other values", what, k);
    }
    ds_ckpt_list_release(&list);
    cr_assert(ds_ckpt_resolve(run, latest, &err) == 0, "%s %ld: %s", what, k, err.text);
    cr_assert(ds_ckpt_verify(latest, &err) == 0, "%s %ld: %s", what, k, err.text);
    cr_assert(ds_ckpt_verify(at(run, "checkpoints/latest"), &err) == 0, "%s %ld: %s", what, k,
              err.text);
}

/* Names in the folder of checkpoints that a save should not leave. */
static size_t leftovers(const char *run)
{
    DIR *dir = opendir(at(run, "checkpoints"));
    struct dirent *entry;
    size_t count = 0;

    cr_assert(dir != NULL);
    while ((entry = readdir(dir)) != NULL)
        count += entry->d_name[0] == '.' && strcmp(entry->d_name, ".") != 0 &&
                 strcmp(entry->d_name, "..") != 0;
    (void)closedir(dir);
    return count;
}

static void next_save_must_work(const char *run, const struct set *set, uint64_t step, long k)
{
    struct ds_ckpt_save_args args = save_args(run, set, step);
    char latest[DS_MAX_PATH], name[32];
    struct ds_error err = {0};

    args.keep = 2;
    cr_assert(ds_ckpt_save(&args, &err) == 0, "after %ld: %s", k, err.text);
    cr_assert(leftovers(run) == 0, "after %ld: %zu names are left", k, leftovers(run));
    cr_assert(ds_ckpt_resolve(run, latest, &err) == 0);
    (void)snprintf(name, sizeof(name), "step-%08u", (unsigned)step);
    cr_assert(strstr(latest, name) != NULL, "latest is '%s'", latest);
    cr_assert(ds_ckpt_verify(latest, &err) == 0, "%s", err.text);
}

/* A run directory with one checkpoint, of the first set. */
static const char *new_run(long k)
{
    static char run[DS_MAX_PATH];
    struct ds_ckpt_save_args args;
    char name[32];

    (void)snprintf(name, sizeof(name), "run-%ld", k);
    (void)snprintf(run, sizeof(run), "%s", tempdir_path(name));
    args = save_args(run, &first, 1);
    cr_assert(ds_ckpt_save(&args, NULL) == 0);
    return run;
}

static struct ds_ckpt_save_args second_save(const char *run, uint64_t step)
{
    struct ds_ckpt_save_args args = save_args(run, &second, step);

    args.keep = 1; /* so that removing the first one is tortured too */
    return args;
}

static void arm(enum mode mode, long k, int code)
{
    torture.at = k;
    torture.seen = 0;
    torture.code = code;
    torture.mode = mode;
}

/* The same as a save behind the run, whose thread writes and commits. */
static int save_behind(const struct ds_ckpt_save_args *args, struct ds_error *err)
{
    struct ds_saver *saver = NULL;
    struct ds_saved saved;
    int rc = ds_saver_open(&saver, args, err);

    if (rc == 0)
        rc = ds_saver_begin(saver, &args->state, &saved, err);
    if (rc == 0)
        rc = ds_saver_finish(saver, &saved, err);
    ds_saver_close(saver);
    return rc < 0 ? rc : 0;
}

static int (*const at_once)(const struct ds_ckpt_save_args *, struct ds_error *) = ds_ckpt_save;
static int (*const behind)(const struct ds_ckpt_save_args *, struct ds_error *) = save_behind;

/* Fail call after call until a save meets none that fails; returns how many there were. */
static long fail_every_call(int (*save)(const struct ds_ckpt_save_args *, struct ds_error *),
                            enum mode mode, int code, uint64_t step)
{
    for (long k = 0;; k++) {
        const char *run = new_run(k);
        struct ds_ckpt_save_args args = second_save(run, step);
        struct ds_error err = {0};
        int rc;

        arm(mode, k, code);
        rc = save(&args, &err);
        torture.mode = OFF;
        must_be_sound(run, "call", k);
        if (rc < 0)
            cr_assert(strstr(err.text, run) != NULL, "call %ld: '%s' names no path", k, err.text);
        next_save_must_work(run, &second, 3, k);
        remove_dir(run);
        if (torture.seen <= k) {
            cr_assert(rc == 0, "%s", err.text);
            return k;
        }
    }
}

Test(torture, any_call_may_fail)
{
    make_sets();
    cr_assert(fail_every_call(at_once, FAIL, EIO, 2) > 25);
    cr_assert(fail_every_call(at_once, FAIL, ENOSPC, 1) > 25); /* the step that is there already */
    release_sets();
}

Test(torture, any_call_behind_the_run_may_fail)
{
    make_sets();
    cr_assert(fail_every_call(behind, FAIL, EIO, 2) > 25);
    cr_assert(fail_every_call(behind, FAIL, ENOSPC, 1) > 25);
    release_sets();
}

Test(torture, writes_may_be_short)
{
    make_sets();
    cr_assert(fail_every_call(at_once, SHORT, 0, 2) > 25);
    release_sets();
}

/* Kill a save of `step` at call after call. */
static long kill_at_every_call(enum mode mode, uint64_t step)
{
    for (long k = 0;; k++) {
        const char *run = new_run(k);
        struct ds_ckpt_save_args args = second_save(run, step);
        pid_t pid = fork();
        int status = 0;

        if (pid == 0) {
            arm(mode, k, 0);
            _exit(ds_ckpt_save(&args, NULL) == 0 ? 0 : 1);
        }
        cr_assert(waitpid(pid, &status, 0) == pid);
        if (mode == KILL) {
            must_be_sound(run, "killed at", k);
        } else { /* between two renames the old one may stand aside; the next save finds it */
            struct ds_ckpt_save_args other = save_args(run, &second, 2);

            cr_assert(ds_ckpt_save(&other, NULL) == 0);
            cr_assert(is_one_of_them(at(run, "checkpoints/step-00000001")), "killed at %ld", k);
            must_be_sound(run, "killed at", k);
        }
        next_save_must_work(run, &second, 3, k);
        remove_dir(run);
        if (WIFEXITED(status)) {
            cr_assert(WEXITSTATUS(status) == 0);
            return k;
        }
    }
}

Test(torture, a_save_may_be_killed_at_any_call)
{
    make_sets();
    cr_assert(kill_at_every_call(KILL, 2) > 25);
    release_sets();
}

Test(torture, a_save_over_the_same_step_may_be_killed_at_any_call)
{
    make_sets();
    cr_assert(kill_at_every_call(KILL, 1) > 25);
    release_sets();
}

Test(torture, the_same_without_exchange_of_names)
{
    make_sets();
    cr_assert(kill_at_every_call(NO_EXCHANGE_KILL, 1) > 25);
    release_sets();
}

/* --- two ranks ------------------------------------------------------------------------------ */

static unsigned tortured_rank;
static long tortured_call;

static void torture_one_rank(unsigned rank)
{
    if (rank == tortured_rank)
        arm(FAIL, tortured_call, EIO);
}

Test(torture, a_rank_that_fails_ends_the_save_for_all)
{
    make_sets();
    rank_starts = torture_one_rank;
    for (tortured_rank = 0; tortured_rank < 2; tortured_rank++)
        for (tortured_call = 0; tortured_call < 9; tortured_call++) {
            const char *run = new_run(tortured_call);
            int rc[64];

            save_with_world(second_save(run, 2), 2, rc);
            torture.mode = OFF;
            must_be_sound(run, "rank's call", tortured_call);
            cr_assert(rc[tortured_rank] != 0, "rank %u call %ld", tortured_rank, tortured_call);
            cr_assert(rc[0] != 0, "rank 0 has not seen that rank 1 failed");
            rank_starts = NULL;
            next_save_must_work(run, &second, 3, tortured_call);
            rank_starts = torture_one_rank;
            remove_dir(run);
        }
    release_sets();
}

/* --- memory --------------------------------------------------------------------------------- */

Test(torture, any_allocation_may_fail)
{
    make_sets();
    for (long k = 0;; k++) {
        const char *run = new_run(k);
        struct ds_ckpt_save_args args = second_save(run, 2);
        struct ds_ckpt_state state;
        struct ds_error err = {0};
        struct set loaded;
        char path[DS_MAX_PATH];
        int saved, read = -1, checked;

        alloc_at = k;
        allocs = 0;
        saved = k % 2 == 0 ? ds_ckpt_save(&args, &err) : save_behind(&args, &err);
        alloc_at = -1;
        must_be_sound(run, "allocation", k);
        set_init(&loaded, 0.0f);
        cr_assert(ds_ckpt_resolve(run, path, NULL) == 0);
        allocs = 0;
        alloc_at = k;
        read = load_set(path, &loaded, &state, &err);
        alloc_at = k;
        allocs = 0;
        checked = ds_ckpt_verify(path, &err);
        alloc_at = -1;
        cr_assert(saved <= 0 && read <= 0 && checked <= 0);
        set_release(&loaded);
        remove_dir(run);
        if (k > 4000 || (saved == 0 && read == 0 && checked == 0 && k > 100))
            break;
    }
    release_sets();
}

/* --- a full disk ---------------------------------------------------------------------------- */

static bool mount_small(const char *path)
{
    if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return false;
    (void)mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    return mount("tmpfs", path, "tmpfs", 0, "size=128k") == 0;
}

Test(torture, a_full_disk_harms_nothing)
{
    const char *run = tempdir_path("small");
    uint64_t step = 1;
    struct ds_error err = {0};
    int rc;

    cr_assert(mkdir(run, 0755) == 0);
    if (!mount_small(run))
        cr_skip("needs a file system of its own");
    make_sets();
    do {
        struct ds_ckpt_save_args args = save_args(run, &first, step);

        args.keep = 1000;
        rc = ds_ckpt_save(&args, &err);
        must_be_sound(run, "full at step", (long)step);
    } while (rc == 0 && step++ < 1000);
    cr_assert(rc == -ENOSPC, "%d %s", rc, err.text);
    cr_assert(strstr(err.text, run) != NULL, "%s", err.text);
    cr_assert(leftovers(run) == 0 && step > 2);
    release_sets();
    (void)umount(run);
}
