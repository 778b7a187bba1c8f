/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * disk.h - a file without a name on a local disk, read and written by a few threads.
 *
 * The file has no name in its folder (O_TMPFILE; where a file system has no such thing it is
 * created, 0600, and removed before anything else is done with it), so nothing is left behind
 * whatever ends the process.  All its bytes are allocated when it is opened: a disk that is too
 * small says so then.  Where the file system can, bytes go past the page cache (O_DIRECT), which
 * would otherwise take the memory that a file is to save.
 *
 * A transfer is cut into blocks, which the threads take in turn; transfers begin in the order in
 * which they were started, but for one that is behind another.  A transfer is its caller's: it
 * stays where it is until it was waited for.
 *
 * Units   bytes; places, lengths and memory of transfers are multiples of DS_DISK_ALIGN.
 * Errors  EIO, ENOSPC ...: the text names what is kept, the folder and what would do.  Of a disk
 *         that is another host's (NFS, SMB): ENOTSUP, for a file without a name is not theirs.
 * Tests   tests/engine/test_disk.c
 */
#ifndef DS_RUNTIME_DISK_H
#define DS_RUNTIME_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { DS_DISK_ALIGN = 4096, DS_DISK_MAX_THREADS = 64 };
/* What one NVMe disk or a few give their most with; `dsrun bench io` prints others beside it. */
enum { DS_DISK_THREADS = 4, DS_DISK_BLOCK_BYTES = 1 << 20 };

struct ds_disk;

struct ds_disk_args {   /* texts: borrowed until the disk is closed */
    const char *dir;    /* of the file, which must be there */
    const char *what;   /* is kept: "the optimizer's states of rank 3" */
    const char *remedy; /* what to do where the disk fails: "set 'offload.optim' to cpu" */
    uint64_t bytes;
    uint64_t block_bytes; /* of one request */
    unsigned threads;     /* requests under way */
    bool buffered;        /* through the page cache, whatever the file system can */
};

struct ds_disk_io { /* zeroed: nothing was started */
    bool write;
    uint64_t at, bytes;
    void *memory;
    struct ds_disk_io *behind; /* begin when that is done, and fail when it has; NULL: at once */
    /* The disk's own: */
    struct ds_disk_io *next;
    uint64_t given, left; /* bytes that threads have taken, that are not done */
    int rc;
    struct ds_error err;
};

int ds_disk_open(struct ds_disk **disk, const struct ds_disk_args *args, struct ds_error *err)
    DS_NODISCARD;
/* Drops what has not begun and waits for what has.  NULL is fine. */
void ds_disk_close(struct ds_disk *disk);

/* Do bytes go past the page cache? */
bool ds_disk_is_direct(const struct ds_disk *disk);

/* Begin the transfer whose first members are filled in, which is not under way. */
void ds_disk_start(struct ds_disk *disk, struct ds_disk_io *io);
/* Until it is done; of what was never started, at once.  Says the same again when asked again. */
int ds_disk_wait(struct ds_disk *disk, struct ds_disk_io *io, struct ds_error *err) DS_NODISCARD;

/* For who measures: see to it that what was written is on the disk and nothing of it in memory. */
int ds_disk_flush(struct ds_disk *disk, struct ds_error *err) DS_NODISCARD;

#endif
