/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * disk.c - the contract is in disk.h.
 *
 * Threads and not io_uring: with blocks of 1 MiB the disk is what is waited for either way
 * (docs/dependencies.md has numbers), and io_uring is what containers forbid first.
 */
#include "runtime/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fsio.h"

enum { NAME_TRIES = 100, MIB = 1 << 20 };

struct ds_disk {
    struct ds_disk_args args;
    int fd;
    bool direct;
    pthread_t thread[DS_DISK_MAX_THREADS];
    unsigned threads;
    pthread_mutex_t lock; /* guards what follows, and the own members of transfers */
    pthread_cond_t work, done;
    struct ds_disk_io *first; /* with blocks that no thread has taken */
    bool over;
};

/* --- the file ------------------------------------------------------------------------------- */

/* Files of other hosts: one without a name would be given one there, and every step would cross the
 * network twice. */
static bool is_far(const struct statfs *info)
{
    static const unsigned magics[] = {NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC, CIFS_SUPER_MAGIC,
                                      SMB2_SUPER_MAGIC, AFS_SUPER_MAGIC, CEPH_SUPER_MAGIC};

    for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
        if ((unsigned)info->f_type == magics[i])
            return true;
    return false;
}

static int open_folder(const struct ds_disk_args *args, struct statfs *info, struct ds_error *err)
{
    int fd = open(args->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return ds_fail(err, errno, "cannot keep %s in '%s': %s%s", args->what, args->dir,
                       strerror(errno),
                       errno == ENOENT ? "; make that folder on a disk of this host" : "");
    if (fstatfs(fd, info) != 0)
        rc = ds_fail(err, errno, "cannot look at the file system of '%s': %s", args->dir,
                     strerror(errno));
    else if (is_far(info))
        rc = ds_fail(err, ENOTSUP,
                     "cannot keep %s in '%s': it is on another host's disk, name a folder on a "
                     "disk of this host",
                     args->what, args->dir);
    if (rc != 0)
        (void)close(fd);
    return rc != 0 ? rc : fd;
}

/* Where there are no files without a name: one that loses it at once. */
static int create_and_unlink(int folder)
{
    for (int i = 0; i < NAME_TRIES; i++) {
        char name[64];
        int fd;

        (void)snprintf(name, sizeof(name), ".dsrun-%ld-%d", (long)getpid(), i);
        fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0 && unlinkat(folder, name, 0) != 0) {
            (void)close(fd);
            return -1;
        }
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

static int open_file(const struct ds_disk_args *args, int folder, struct ds_error *err)
{
    int fd = openat(folder, ".", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT))
        fd = create_and_unlink(folder);
    return fd >= 0 ? fd
                   : ds_fail(err, errno, "cannot make a file for %s in '%s': %s", args->what,
                             args->dir, strerror(errno));
}

static double mib(uint64_t bytes)
{
    return (double)bytes / MIB;
}

/* All of it now: a disk that fills up later would end a run in the middle. */
static int allocate(const struct ds_disk_args *args, int fd, const struct statfs *info,
                    struct ds_error *err)
{
    struct rlimit limit;
    int code = 0;

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < args->bytes)
        return ds_fail(err, EFBIG,
                       "no room for %s in '%s': %.1f MiB are wanted and a file may have %.1f MiB, "
                       "raise the limit (ulimit -f)",
                       args->what, args->dir, mib(args->bytes), mib(limit.rlim_cur));
    if (fallocate(fd, 0, 0, (off_t)args->bytes) != 0)
        code = errno == EOPNOTSUPP ? posix_fallocate(fd, 0, (off_t)args->bytes) : errno;
    if (code == ENOSPC || code == EDQUOT)
        return ds_fail(err, code,
                       "no room for %s in '%s': %.1f MiB are wanted and %.1f MiB are free%s; free "
                       "some or name a folder on another disk",
                       args->what, args->dir, mib(args->bytes),
                       mib((uint64_t)info->f_bavail * (uint64_t)info->f_bsize),
                       code == EDQUOT ? ", but for your quota" : "");
    return code == 0 ? 0
                     : ds_fail(err, code, "cannot allocate %.1f MiB for %s in '%s': %s",
                               mib(args->bytes), args->what, args->dir, strerror(code));
}

/* Past the page cache if the file system has that, which a read shows. */
static bool go_direct(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    void *page =
        mmap(NULL, DS_DISK_ALIGN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool can = flags >= 0 && page != MAP_FAILED && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;

    if (can && pread(fd, page, DS_DISK_ALIGN, 0) != DS_DISK_ALIGN) {
        (void)fcntl(fd, F_SETFL, flags);
        can = false;
    }
    if (page != MAP_FAILED)
        (void)munmap(page, DS_DISK_ALIGN);
    return can;
}

static int make_file(struct ds_disk *disk, struct ds_error *err)
{
    struct statfs info;
    int folder = open_folder(&disk->args, &info, err), rc;

    if (folder < 0)
        return folder;
    disk->fd = open_file(&disk->args, folder, err);
    (void)close(folder);
    if (disk->fd < 0)
        return disk->fd;
    rc = allocate(&disk->args, disk->fd, &info, err);
    if (rc == 0)
        disk->direct = !disk->args.buffered && go_direct(disk->fd);
    return rc;
}

/* --- the threads ---------------------------------------------------------------------------- */

static int move(const struct ds_disk *disk, const struct ds_disk_io *io, uint64_t from,
                uint64_t bytes, struct ds_error *err)
{
    char *memory = (char *)io->memory + from;
    int rc = io->write ? ds_fs_pwrite_all(disk->fd, memory, (size_t)bytes, io->at + from, NULL)
                       : ds_fs_pread_all(disk->fd, memory, (size_t)bytes, io->at + from, NULL);

    if (rc == 0)
        return 0;
    return ds_fail(err, rc == -ENOSPC || rc == -EDQUOT ? -rc : EIO,
                   "cannot %s %s in '%s', %" PRIu64 " bytes at byte %" PRIu64
                   ": %s; see what the kernel says of that disk (dmesg), or %s, and start again",
                   io->write ? "write" : "read", disk->args.what, disk->args.dir, bytes,
                   io->at + from, rc == -EBADMSG ? "the file ends there" : strerror(-rc),
                   disk->args.remedy);
}

static void end_with(struct ds_disk *disk, struct ds_disk_io *io, uint64_t bytes)
{
    io->left -= bytes;
    if (io->left > 0)
        return;
    (void)pthread_cond_broadcast(&disk->done);
    (void)pthread_cond_broadcast(&disk->work); /* another may be behind it */
}

static void take_out(struct ds_disk *disk, struct ds_disk_io *io)
{
    struct ds_disk_io **link = &disk->first;

    while (*link != io)
        link = &(*link)->next;
    *link = io->next;
}

/* The first transfer that may go on.  One behind a failure ends with it. */
static struct ds_disk_io *find(struct ds_disk *disk)
{
    struct ds_disk_io *next;

    for (struct ds_disk_io *io = disk->first; io != NULL; io = next) {
        next = io->next;
        if (io->behind == NULL || (io->behind->left == 0 && io->behind->rc == 0))
            return io;
        if (io->behind->left > 0)
            continue;
        io->rc = io->behind->rc;
        io->err = io->behind->err;
        take_out(disk, io);
        end_with(disk, io, io->left);
    }
    return NULL;
}

static void do_block(struct ds_disk *disk, struct ds_disk_io *io)
{
    uint64_t from = io->given, left = io->bytes - from;
    uint64_t bytes = left < disk->args.block_bytes ? left : disk->args.block_bytes;
    struct ds_error err = {0};
    int rc;

    io->given += bytes;
    if (io->given == io->bytes)
        take_out(disk, io);
    (void)pthread_mutex_unlock(&disk->lock);
    rc = move(disk, io, from, bytes, &err);
    (void)pthread_mutex_lock(&disk->lock);
    if (rc != 0 && io->rc == 0) {
        io->rc = rc;
        io->err = err;
    }
    end_with(disk, io, bytes);
}

static void *serve(void *arg)
{
    struct ds_disk *disk = arg;

    (void)pthread_mutex_lock(&disk->lock);
    while (!disk->over) {
        struct ds_disk_io *io = find(disk);

        if (io != NULL)
            do_block(disk, io);
        else
            (void)pthread_cond_wait(&disk->work, &disk->lock);
    }
    (void)pthread_mutex_unlock(&disk->lock);
    return NULL;
}

static int start_threads(struct ds_disk *disk, struct ds_error *err)
{
    sigset_t all, before;
    int rc = 0;

    (void)sigfillset(&all); /* signals are the main thread's */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; rc == 0 && disk->threads < disk->args.threads; disk->threads += rc == 0)
        rc = pthread_create(&disk->thread[disk->threads], NULL, serve, disk);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? 0
                   : ds_fail(err, rc, "cannot start a thread that reads and writes '%s': %s",
                             disk->args.dir, strerror(rc));
}

/* --- open and close ------------------------------------------------------------------------- */

int ds_disk_open(struct ds_disk **out, const struct ds_disk_args *args, struct ds_error *err)
{
    struct ds_disk *disk = calloc(1, sizeof(*disk));
    int rc;

    *out = NULL;
    if (disk == NULL)
        return ds_fail(err, ENOMEM, "no memory for the file of %s", args->what);
    disk->args = *args;
    disk->fd = -1;
    (void)pthread_mutex_init(&disk->lock, NULL);
    (void)pthread_cond_init(&disk->work, NULL);
    (void)pthread_cond_init(&disk->done, NULL);
    rc = make_file(disk, err);
    if (rc == 0)
        rc = start_threads(disk, err);
    if (rc != 0) {
        ds_disk_close(disk);
        return rc;
    }
    *out = disk;
    return 0;
}

void ds_disk_close(struct ds_disk *disk)
{
    if (disk == NULL)
        return;
    (void)pthread_mutex_lock(&disk->lock);
    disk->over = true;
    (void)pthread_cond_broadcast(&disk->work);
    (void)pthread_mutex_unlock(&disk->lock);
    for (unsigned i = 0; i < disk->threads; i++)
        (void)pthread_join(disk->thread[i], NULL);
    if (disk->fd >= 0)
        (void)close(disk->fd); /* and with it the file */
    (void)pthread_cond_destroy(&disk->done);
    (void)pthread_cond_destroy(&disk->work);
    (void)pthread_mutex_destroy(&disk->lock);
    free(disk);
}

bool ds_disk_is_direct(const struct ds_disk *disk)
{
    return disk->direct;
}

void ds_disk_start(struct ds_disk *disk, struct ds_disk_io *io)
{
    struct ds_disk_io **link;

    (void)pthread_mutex_lock(&disk->lock);
    io->next = NULL;
    io->given = 0;
    io->left = io->bytes;
    io->rc = 0;
    for (link = &disk->first; *link != NULL; link = &(*link)->next)
        ;
    *link = io;
    (void)pthread_cond_broadcast(&disk->work);
    (void)pthread_mutex_unlock(&disk->lock);
}

int ds_disk_wait(struct ds_disk *disk, struct ds_disk_io *io, struct ds_error *err)
{
    int rc;

    (void)pthread_mutex_lock(&disk->lock);
    while (io->left > 0)
        (void)pthread_cond_wait(&disk->done, &disk->lock);
    rc = io->rc;
    if (rc != 0 && err != NULL)
        *err = io->err;
    (void)pthread_mutex_unlock(&disk->lock);
    return rc;
}

int ds_disk_flush(struct ds_disk *disk, struct ds_error *err)
{
    int rc = fdatasync(disk->fd) != 0 ? errno : posix_fadvise(disk->fd, 0, 0, POSIX_FADV_DONTNEED);

    return rc == 0 ? 0
                   : ds_fail(err, rc, "cannot write %s in '%s' to disk: %s", disk->args.what,
                             disk->args.dir, strerror(rc));
}
