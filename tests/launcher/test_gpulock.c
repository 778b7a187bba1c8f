/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_gpulock.c - who gets a GPU and who is told of whom; what others may have put in the folder,
 * and in the file.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/gpulock.h"
#include "tests/tempdir.h"

#define GPU "0000:3b:00.0"

TestSuite(gpulock, .init = tempdir_make, .fini = tempdir_remove, .timeout = 60);

static const char *file(void)
{
    return tempdir_path("dsrun-gpu-" GPU);
}

/* What another process gets, by errno; it ends at once. */
static int other(bool shared, char text[DS_MAX_ERROR_TEXT])
{
    int fd[2], status = 0;
    pid_t pid;

    cr_assert_eq(pipe(fd), 0);
    pid = fork();
    if (pid == 0) {
        static struct ds_gpulock lock;
        struct ds_error err = {0};
        int rc = ds_gpulock_take(&lock, tempdir, GPU, shared, &err);

        (void)!write(fd[1], err.text, sizeof(err.text));
        _exit(-rc);
    }
    cr_assert_eq(read(fd[0], text, DS_MAX_ERROR_TEXT), DS_MAX_ERROR_TEXT);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    (void)close(fd[0]);
    (void)close(fd[1]);
    return WEXITSTATUS(status);
}

static int take(struct ds_gpulock *lock, bool shared)
{
    return ds_gpulock_take(lock, tempdir, GPU, shared, NULL);
}

Test(gpulock, the_second_is_told_who_has_it)
{
    static struct ds_gpulock lock;
    char text[DS_MAX_ERROR_TEXT], want[512], host[256] = "", job[DS_GPULOCK_JOB];
    struct stat info;

    (void)gethostname(host, sizeof(host) - 1);
    (void)umask(077);
    ds_gpulock_job(job, "tiny", "/runs/tiny one");
    lock.job = job;
    cr_assert_eq(take(&lock, false), 0);
    cr_assert_eq(stat(file(), &info), 0);
    cr_expect_eq(info.st_mode & 07777, 0666, "others must be able to try");
    cr_expect_eq(other(false, text), EBUSY);
    (void)snprintf(want, sizeof(want),
                   "(job %ld 'tiny' of host '%s', run directory '/runs/tiny one', process %ld of "
                   "user %ld)",
                   (long)getpid(), host, (long)getpid(), (long)geteuid());
    cr_expect(strstr(text, want) != NULL && strstr(text, GPU) != NULL && strstr(text, host) != NULL,
              "%s", text);
    cr_expect_eq(other(true, text), EBUSY);
    ds_gpulock_release(&lock);
    ds_gpulock_release(&lock);
    cr_expect_eq(access(file(), F_OK), -1, "and nothing is left");
    cr_expect_eq(other(false, text), 0, "%s", text);
}

Test(gpulock, those_that_share_keep_the_others_out)
{
    static struct ds_gpulock one, two;
    char text[DS_MAX_ERROR_TEXT];

    cr_assert_eq(take(&one, true), 0);
    cr_assert_eq(take(&two, true), 0);
    ds_gpulock_release(&one);
    cr_expect_eq(access(file(), F_OK), 0, "the second has it still");
    cr_expect_eq(other(false, text), EBUSY);
    cr_expect_eq(other(true, text), 0, "%s", text);
    ds_gpulock_release(&two);
    cr_expect_eq(access(file(), F_OK), -1);
}

Test(gpulock, a_holder_that_is_killed_leaves_a_file_that_hinders_nobody)
{
    static struct ds_gpulock lock;
    char text[DS_MAX_ERROR_TEXT], byte;
    int fd[2];
    pid_t pid;

    cr_assert_eq(pipe(fd), 0);
    pid = fork();
    if (pid == 0) {
        (void)!write(fd[1], take(&lock, false) == 0 ? "y" : "n", 1);
        for (;;)
            (void)pause();
    }
    cr_assert_eq(read(fd[0], &byte, 1), 1);
    cr_assert_eq(byte, 'y');
    cr_expect_eq(other(false, text), EBUSY);
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    cr_assert_eq(access(file(), F_OK), 0);
    cr_expect_eq(take(&lock, false), 0);
    ds_gpulock_release(&lock);
    cr_expect_eq(access(file(), F_OK), -1);
    (void)close(fd[0]);
    (void)close(fd[1]);
}

/* As a user who may write there could. */
Test(gpulock, what_is_no_plain_file_is_not_written_to)
{
    static struct ds_gpulock lock;
    const char *victim = tempdir_write("victim", "mine", 4);
    struct ds_error err = {0};
    struct stat info;

    cr_assert_eq(symlink(victim, file()), 0);
    cr_expect_eq(ds_gpulock_take(&lock, tempdir, GPU, false, &err), -ELOOP);
    cr_assert_eq(unlink(file()), 0);
    cr_assert_eq(symlink(tempdir_path("nowhere"), file()), 0);
    cr_expect_eq(take(&lock, false), -ELOOP);
    cr_expect_eq(access(tempdir_path("nowhere"), F_OK), -1);
    cr_assert_eq(unlink(file()), 0);
    cr_assert_eq(link(tempdir_path("victim"), file()), 0);
    cr_expect_eq(take(&lock, false), -ENOTSUP);
    cr_assert_eq(unlink(file()), 0);
    cr_assert_eq(mkfifo(file(), 0666), 0);
    cr_expect_eq(take(&lock, false), -ENOTSUP);
    cr_assert_eq(unlink(file()), 0);
    cr_assert_eq(mkdir(file(), 0777), 0);
    cr_expect_eq(take(&lock, false), -EISDIR);
    cr_assert_eq(stat(tempdir_path("victim"), &info), 0);
    cr_expect_eq(info.st_size, 4);
    cr_expect_eq(lock.count, 0);
}

static char wide[2 * DS_GPULOCK_JOB];

/* Everybody may write there: what is shown is escaped, of few bytes, and numbers are numbers. */
Test(gpulock, what_a_file_says_is_not_trusted)
{
    static const char nobody[] = "dsrun, which does not say who it is: wait";
    static const struct {
        const char *file, *says;
    } table[] = {
        {"", nobody},
        {"nonsense\n", nobody},
        {"17\n", nobody},
        {"\033[2J 5\n", nobody},
        {"-1 -1\n", nobody},
        {"1 2 3\n", nobody},
        {"99999999999 1\n", nobody},
        {"17 5", "dsrun (process 17 of user 5): wait"},
        {"17 5\n", "dsrun (process 17 of user 5): wait"},
        {"17 5\nx head\nname\n/run\n", "dsrun (process 17 of user 5): wait"},
        {"17 5\n4 head", "(job 4 '' of host 'head', process 17"},
        {"17 5\n4 head\nname\n\n", "(job 4 'name' of host 'head', process 17"},
        {"17 5\n4 h\033[2J\nn\ra\n/\x07\n",
         "(job 4 'n\\x0da' of host 'h\\x1b[2J', run directory '/\\x07', process 17"},
        {wide, "...', process 17"},
    };
    char text[DS_MAX_ERROR_TEXT];

    memset(wide, 'x', sizeof(wide) - 1);
    memcpy(wide, "17 5\n4 head\n\n", 13);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        static struct ds_gpulock lock;

        cr_assert_eq(take(&lock, false), 0);
        (void)tempdir_write("dsrun-gpu-" GPU, table[i].file, strlen(table[i].file));
        cr_expect_eq(other(false, text), EBUSY);
        cr_expect_not_null(strstr(text, table[i].says), "row %zu: %s", i, text);
        cr_expect_not_null(strstr(text, "for both"), "row %zu: %s", i, text);
        ds_gpulock_release(&lock);
    }
}

Test(gpulock, names_of_a_job_stay_on_their_lines)
{
    char name[300], job[DS_GPULOCK_JOB], want[64];

    ds_gpulock_job(job, "a\nb", "/x\n17 5");
    (void)snprintf(want, sizeof(want), "%ld ", (long)getpid());
    cr_expect_eq(strncmp(job, want, strlen(want)), 0, "%s", job);
    cr_expect_not_null(strstr(job, "\na\\x0ab\n/x\\x0a17 5"), "%s", job);
    memset(name, '\n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    ds_gpulock_job(job, name, name);
    cr_expect(strlen(job) < DS_GPULOCK_JOB - 1);
    cr_expect_eq(strchr(strchr(strchr(job, '\n') + 1, '\n') + 1, '\n'), NULL, "three lines");
}

Test(gpulock, a_folder_is_shared_when_it_is_roots_sticky_and_open)
{
    char mine[DS_MAX_PATH];
    const char *folders[] = {"/no/such/folder", mine, "/", NULL};

    (void)snprintf(mine, sizeof(mine), "%s", tempdir);
    cr_assert_eq(chmod(mine, 01777), 0);
    if (geteuid() == 0)
        cr_expect_eq(ds_gpulock_folder(folders), mine);
    else
        cr_expect_null(ds_gpulock_folder(folders), "it is not root's");
    cr_assert_eq(chmod(mine, 0777), 0);
    cr_expect_null(ds_gpulock_folder(folders), "not sticky");
    cr_assert_eq(chmod(mine, 01755), 0);
    cr_expect_null(ds_gpulock_folder(folders), "not open");
    cr_assert_eq(chmod(mine, 0700), 0);
}

Test(gpulock, a_path_that_is_too_long_is_an_error)
{
    static struct ds_gpulock lock;
    char folder[256];

    memset(folder, 'x', sizeof(folder) - 1);
    folder[sizeof(folder) - 1] = '\0';
    cr_expect_eq(ds_gpulock_take(&lock, folder, GPU, false, NULL), -ENAMETOOLONG);
}
