/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * faults.h - make the n-th system call or allocation of the code under test fail.
 *
 * The program is linked with $(FAULT_WRAPS) (tests/base/files.mk), so that the calls of the
 * project's own objects come here first; those of libraries do not.
 *
 *     for (unsigned n = 1; faults_next(n, ENOSPC); n++) {
 *         rc = code_under_test();
 *         faults_off();
 *         ... rc and the world are as promised ...
 *     }
 *
 * The loop ends after the first round in which nothing was left to fail.  Where the code under test is
 * one function, the same is
 *
 *     for (struct faults_round r = {0}; faults_round(&r, ENOSPC, code_under_test);)
 *         ... r.rc, r.err and the world are as promised ...
 */
#ifndef DS_TESTS_FAULTS_H
#define DS_TESTS_FAULTS_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* What can be made to fail; or'ed in faults_kinds. */
enum { FAULT_IO = 1, FAULT_MEMORY = 2, FAULT_SHORT = 4 /* writes and reads of one byte */ };

static unsigned faults_kinds = FAULT_IO;
static unsigned faults_left; /* calls until the one that fails; 0: off */
static unsigned faults_hit;  /* failures injected since faults_next() */
static int faults_errno;

/* Let the n-th call from now on fail with `code`.  False when the round before hit nothing. */
static inline bool faults_next(unsigned n, int code)
{
    bool more = n == 1 || faults_hit > 0;

    faults_left = more ? n : 0;
    faults_errno = code;
    faults_hit = 0;
    return more;
}

static inline void faults_off(void)
{
    faults_left = 0;
}

struct faults_round {
    unsigned n;    /* the call that was to fail */
    unsigned hits; /* rounds so far in which one did */
    bool hit;      /* in this one, too */
    int rc;
    struct ds_error err;
};

/* Run the next round of `work`.  False, and not run, when the round before hit nothing. */
static inline bool faults_round(struct faults_round *r, int code, int (*work)(struct ds_error *err))
{
    if (!faults_next(++r->n, code))
        return false;
    r->err = (struct ds_error){0};
    r->rc = work(&r->err);
    r->hit = faults_hit > 0;
    r->hits += r->hit;
    faults_off();
    return true;
}

static inline bool faults_here(unsigned kind)
{
    if ((faults_kinds & kind) == 0 || faults_left == 0 || --faults_left > 0)
        return false;
    faults_hit++;
    errno = faults_errno;
    return true;
}

static inline size_t faults_len(size_t len)
{
    return (faults_kinds & FAULT_SHORT) != 0 && len > 1 ? 1 : len;
}

/* clang-format off */
#define FAULT_CALL(kind, type, failed, name, params, args) \
    type __real_##name params; \
    type __wrap_##name params; \
    type __wrap_##name params { return faults_here(kind) ? (failed) : __real_##name args; }

FAULT_CALL(FAULT_IO, ssize_t, -1, write, (int fd, const void *at, size_t len), (fd, at, faults_len(len)))
FAULT_CALL(FAULT_IO, ssize_t, -1, read, (int fd, void *at, size_t len), (fd, at, faults_len(len)))
FAULT_CALL(FAULT_IO, ssize_t, -1, pwrite, (int fd, const void *at, size_t len, off_t off),
           (fd, at, faults_len(len), off))
FAULT_CALL(FAULT_IO, ssize_t, -1, pread, (int fd, void *at, size_t len, off_t off),
           (fd, at, faults_len(len), off))
FAULT_CALL(FAULT_IO, int, -1, fsync, (int fd), (fd))
FAULT_CALL(FAULT_IO, int, -1, rename, (const char *from, const char *to), (from, to))
FAULT_CALL(FAULT_IO, int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
FAULT_CALL(FAULT_IO, void *, (void *)-1, mmap,
           (void *at, size_t len, int prot, int flags, int fd, off_t off), (at, len, prot, flags, fd, off))
FAULT_CALL(FAULT_MEMORY, void *, NULL, malloc, (size_t len), (len))
FAULT_CALL(FAULT_MEMORY, void *, NULL, calloc, (size_t n, size_t len), (n, len))
FAULT_CALL(FAULT_MEMORY, void *, NULL, realloc, (void *at, size_t len), (at, len))
/* clang-format on */

/* Closes all the same, as the kernel does; only a file that was written to has news to tell. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    int flags = fcntl(fd, F_GETFL), rc = __real_close(fd);

    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && faults_here(FAULT_IO) ? -1 : rc;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    if (faults_here(FAULT_IO))
        return -1;
    va_start(args, flags);
    mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return __real_open(path, flags, mode);
}

#endif
