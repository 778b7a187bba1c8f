/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_disk - the file without a name: what is written is read, in the order that was asked for; no
 * name is left; what a disk refuses is one sentence; every call that may fail does.
 */
#include "tests/faults.h"
#include "tests/tempdir.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#include "runtime/disk.h"

enum { PAGE = DS_DISK_ALIGN, PAGES = 64 };

/* What the file system of the folder is said to be, and lacks. */
static unsigned pretended;
static bool no_direct, no_nameless;

int __real_fstatfs(int fd, struct statfs *info);
int __wrap_fstatfs(int fd, struct statfs *info);
int __wrap_fstatfs(int fd, struct statfs *info)
{
    int rc = __real_fstatfs(fd, info);

    if (rc == 0 && pretended != 0)
        info->f_type = (__fsword_t)pretended;
    return rc;
}

int __real_fcntl(int fd, int command, long flags);
int __wrap_fcntl(int fd, int command, long flags);
int __wrap_fcntl(int fd, int command, long flags)
{
    if (!no_direct || command != F_SETFL || (flags & O_DIRECT) == 0)
        return __real_fcntl(fd, command, flags);
    errno = EINVAL;
    return -1;
}

int __real_openat(int folder, const char *path, int flags, mode_t mode);
int __wrap_openat(int folder, const char *path, int flags, mode_t mode);
int __wrap_openat(int folder, const char *path, int flags, mode_t mode)
{
    if (!no_nameless || (flags & O_TMPFILE) != O_TMPFILE)
        return __real_openat(folder, path, flags, mode);
    errno = EOPNOTSUPP;
    return -1;
}

static void pretend_nothing(void)
{
    pretended = 0;
    no_direct = no_nameless = false;
    tempdir_make();
}

TestSuite(disk, .init = pretend_nothing, .fini = tempdir_remove);

static struct ds_disk_args args_of(unsigned threads, bool buffered)
{
    return (struct ds_disk_args){.dir = tempdir,
                                 .what = "the states of a test",
                                 .remedy = "do without",
                                 .bytes = (uint64_t)PAGES * PAGE,
                                 .block_bytes = 3 * PAGE,
                                 .threads = threads,
                                 .buffered = buffered};
}

static unsigned char *pages(unsigned count)
{
    unsigned char *memory = aligned_alloc(PAGE, (size_t)count * PAGE);

    cr_assert_not_null(memory);
    return memory;
}

/* Into the file in parts of several sizes, and out of it again as a whole. */
Test(disk, keeps_what_is_written)
{
    for (unsigned i = 0; i < 6; i++) {
        const struct ds_disk_args args = args_of(i / 2 * 3 + 1, i % 2 == 1);
        unsigned char *from = pages(PAGES), *to = pages(PAGES);
        struct ds_disk_io write[8] = {{0}}, read = {.bytes = args.bytes, .memory = to};
        struct ds_disk *disk;
        struct ds_error err = {0};

        for (size_t k = 0; k < args.bytes; k++)
            from[k] = (unsigned char)(k * 31 / 7 + k / PAGE);
        cr_assert_eq(ds_disk_open(&disk, &args, &err), 0, "%s", err.text);
        cr_assert_eq(tempdir_names(tempdir), 0);
        cr_assert(!args.buffered || !ds_disk_is_direct(disk));
        ds_disk_start(disk, &read);
        cr_assert_eq(ds_disk_wait(disk, &read, &err), 0, "%s", err.text);
        for (size_t k = 0; k < args.bytes; k++)
            cr_assert_eq(to[k], 0);
        for (size_t k = 0; k < 8; k++) {
            write[k] = (struct ds_disk_io){.write = true,
                                           .at = 8 * k * PAGE,
                                           .bytes = (k + 1) * PAGE,
                                           .memory = from + 8 * k * PAGE};
            ds_disk_start(disk, &write[k]);
        }
        for (size_t k = 8; k-- > 0;)
            cr_assert_eq(ds_disk_wait(disk, &write[k], &err), 0, "%s", err.text);
        cr_assert_eq(ds_disk_flush(disk, &err), 0, "%s", err.text);
        ds_disk_start(disk, &read);
        cr_assert_eq(ds_disk_wait(disk, &read, &err), 0, "%s", err.text);
        for (size_t k = 0; k < 8; k++)
            cr_assert_eq(memcmp(to + 8 * k * PAGE, from + 8 * k * PAGE, (k + 1) * PAGE), 0);
        ds_disk_close(disk);
        free(from);
        free(to);
    }
    cr_assert_eq(tempdir_names(tempdir), 0);
}

/* A read into the memory that is being written, behind that: many times, with many threads. */
Test(disk, keeps_the_order_of_what_is_behind)
{
    const struct ds_disk_args args = args_of(8, false);
    unsigned char *memory = pages(16);
    struct ds_disk_io write = {.write = true, .bytes = 16 * PAGE, .memory = memory}, read = write;
    struct ds_error err = {0};
    struct ds_disk *disk;

    read.write = false;
    read.behind = &write;
    cr_assert_eq(ds_disk_open(&disk, &args, &err), 0, "%s", err.text);
    for (unsigned turn = 0; turn < 200; turn++) {
        write.at = turn % 2 * 16 * PAGE;
        read.at = (turn + 1) % 2 * 16 * PAGE;
        memset(memory, (int)turn + 1, 16 * PAGE);
        ds_disk_start(disk, &write);
        ds_disk_start(disk, &read);
        cr_assert_eq(ds_disk_wait(disk, &read, &err), 0, "%s", err.text);
        for (unsigned k = 0; k < 16 * PAGE; k += 997) /* what was written the turn before */
            cr_assert_eq(memory[k], turn & 0xff, "turn %u", turn);
    }
    ds_disk_close(disk);
    free(memory);
}

/* The one behind a transfer that failed ends with it, and is not done. */
Test(disk, failures_pass_on)
{
    const struct ds_disk_args args = args_of(2, true);
    unsigned char *memory = pages(4);
    struct ds_disk_io beyond = {.at = args.bytes - PAGE, .bytes = 4 * PAGE, .memory = memory};
    struct ds_disk_io behind = {.bytes = PAGE, .memory = memory, .behind = &beyond};
    struct ds_error err = {0};
    struct ds_disk *disk;

    cr_assert_eq(ds_disk_open(&disk, &args, &err), 0, "%s", err.text);
    ds_disk_start(disk, &beyond);
    ds_disk_start(disk, &behind);
    cr_assert_eq(ds_disk_wait(disk, &behind, &err), -EIO);
    cr_assert(strstr(err.text, "cannot read the states of a test in '") != NULL &&
                  strstr(err.text, "the file ends there; see what the kernel says of that disk "
                                   "(dmesg), or do without, and start again") != NULL,
              "%s", err.text);
    cr_assert_eq(ds_disk_wait(disk, &beyond, NULL), -EIO);
    beyond.at = 0; /* it can be used again */
    ds_disk_start(disk, &beyond);
    cr_assert_eq(ds_disk_wait(disk, &beyond, NULL), 0);
    ds_disk_close(disk);
    free(memory);
}

/* Each call in turn: a sentence, nothing in the folder, no descriptor left.  The last call closes a
 * file that nobody can open again. */
enum { CLOSES = 5 };

static int open_write_read(struct ds_error *err)
{
    const struct ds_disk_args args = args_of(1, true);
    static unsigned char memory[2 * PAGE];
    struct ds_disk_io write = {.write = true, .bytes = sizeof(memory), .memory = memory},
                      read = write;
    struct ds_disk *disk;
    int rc = ds_disk_open(&disk, &args, err);

    read.write = false;
    if (rc != 0)
        return rc;
    ds_disk_start(disk, &write);
    rc = ds_disk_wait(disk, &write, err);
    ds_disk_start(disk, &read);
    if (rc == 0)
        rc = ds_disk_wait(disk, &read, err);
    ds_disk_close(disk);
    return rc;
}

Test(disk, every_call_may_fail)
{
    int lowest = dup(0), again;

    close(lowest);
    faults_kinds = FAULT_IO | FAULT_MEMORY;
    for (struct faults_round r = {0}; faults_round(&r, EIO, open_write_read);) {
        cr_assert_eq(r.rc != 0 && r.err.text[0] != '\0', r.hit && r.n != CLOSES, "call %u: %d %s",
                     r.n, r.rc, r.err.text);
        cr_assert_eq(tempdir_names(tempdir), 0);
        again = dup(0);
        close(again);
        cr_assert_eq(again, lowest, "call %u leaves a descriptor", r.n);
        cr_assert_leq(r.n, CLOSES + 1);
    }
    faults_kinds = FAULT_SHORT; /* a byte at a time comes to the same */
    cr_assert_eq(open_write_read(NULL), 0);
}

Test(disk, says_what_is_wrong_with_the_folder)
{
    struct ds_disk_args args = args_of(1, false);
    struct rlimit before, limit;
    struct ds_error err = {0};
    struct ds_disk *disk;

    args.dir = tempdir_path("none");
    cr_assert_eq(ds_disk_open(&disk, &args, &err), -ENOENT);
    cr_assert(strstr(err.text, "make that folder on a disk of this host") != NULL, "%s", err.text);
    args.dir = tempdir_write("file", "x", 1);
    cr_assert_eq(ds_disk_open(&disk, &args, &err), -ENOTDIR);
    args.dir = tempdir;
    args.bytes = (uint64_t)1 << 50;
    args.bytes -= args.bytes % PAGE;
    cr_assert_neq(ds_disk_open(&disk, &args, &err), 0);
    cr_assert(strstr(err.text, "1073741824.0 MiB") != NULL, "%s", err.text);
    args = args_of(1, false);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = (struct rlimit){.rlim_cur = 10 * PAGE, .rlim_max = before.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(ds_disk_open(&disk, &args, &err), -EFBIG);
    cr_assert(strstr(err.text, "raise the limit (ulimit -f)") != NULL, "%s", err.text);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &before),
                 0); /* not every framework has a process for a test */
}

/* The numbers of linux/magic.h. */
Test(disk, refuses_disks_of_other_hosts)
{
    static const struct {
        unsigned type;
        bool far;
    } systems[] = {{0x6969, true},      {0x517B, true},     {0xFF534D42, true}, {0xFE534D42, true},
                   {0x5346414F, true},  {0x00C36400, true}, {0xEF53, false},    {0x58465342, false},
                   {0x9123683E, false}, {0x01021994, false}};
    const struct ds_disk_args args = args_of(1, false);

    for (size_t i = 0; i < sizeof(systems) / sizeof(systems[0]); i++) {
        struct ds_disk *disk;
        struct ds_error err = {0};

        pretended = systems[i].type;
        cr_assert_eq(ds_disk_open(&disk, &args, &err), systems[i].far ? -ENOTSUP : 0, "%x: %s",
                     pretended, err.text);
        if (systems[i].far)
            cr_assert(strstr(err.text, "cannot keep the states of a test in '") != NULL &&
                          strstr(err.text, "it is on another host's disk, name a folder on a disk "
                                           "of this host") != NULL,
                      "%s", err.text);
        else
            ds_disk_close(disk);
        cr_assert_eq(tempdir_names(tempdir), 0);
    }
}

/* Through the page cache, and by a name that is taken away at once: the same file. */
Test(disk, does_without_what_a_file_system_lacks)
{
    for (unsigned i = 0; i < 4; i++) {
        const struct ds_disk_args args = args_of(2, false);
        unsigned char *from = pages(PAGES), *to = pages(PAGES);
        struct ds_disk_io write = {.write = true, .bytes = args.bytes, .memory = from},
                          read = {.bytes = args.bytes, .memory = to};
        struct ds_disk *disk;
        struct ds_error err = {0};

        no_direct = i % 2 == 1;
        no_nameless = i / 2 == 1;
        for (size_t k = 0; k < args.bytes; k++)
            from[k] = (unsigned char)(k * 13 + k / PAGE + i);
        cr_assert_eq(ds_disk_open(&disk, &args, &err), 0, "%s", err.text);
        cr_assert_eq(tempdir_names(tempdir), 0);
        cr_assert(!no_direct || !ds_disk_is_direct(disk));
        ds_disk_start(disk, &write);
        cr_assert_eq(ds_disk_wait(disk, &write, &err), 0, "%s", err.text);
        ds_disk_start(disk, &read);
        cr_assert_eq(ds_disk_wait(disk, &read, &err), 0, "%s", err.text);
        cr_assert_arr_eq(to, from, args.bytes);
        ds_disk_close(disk);
        free(from);
        free(to);
    }
}
