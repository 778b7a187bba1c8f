/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpulock.h - a lock per GPU, so that two jobs of a host do not use one by mistake.
 *
 * The lock is flock() on <folder>/dsrun-gpu-PCI, held by the agent as long as it lives: the kernel
 * lets it go when the agent ends, however that ends.  Who holds it has written who it is, for the
 * message of who comes second and for whoever reads the file:
 *
 *     PID UID        of the agent
 *     PID HOST       of the dsrun that started it
 *     NAME           as `dsrun ps` shows it on that host
 *     RUN_DIR        empty: it keeps no record
 *
 * The folder is one that all users of a host share: of root, and only the owner of a file in it
 * may remove that.  Which one does not depend on who asks.  Nobody is trusted there: links, pipes
 * and files with a second name are refused, numbers are read as numbers or not at all, what else is
 * shown is escaped and short.  Another
 * user can keep a job out by holding the lock, as he can by using the GPU; he cannot make it write
 * anywhere else.  A file is removed by who held the lock last, if it is his or root's to remove;
 * what an agent that was killed leaves is four lines in a folder that is empty after a boot.
 *
 * Tests   tests/launcher/test_gpulock.c, tests/e2e/bind.py
 */
#ifndef DS_LAUNCHER_GPULOCK_H
#define DS_LAUNCHER_GPULOCK_H

#include <stdbool.h>

#include "base/error.h"
#include "launcher/bind.h"

enum { DS_GPULOCK_JOB = 1024 }; /* bytes of who a job is, with NUL */

struct ds_gpulock {
    int fd[DS_MAX_GPUS]; /* of those taken; none is inherited */
    char path[DS_MAX_GPUS][128];
    unsigned count;
    const char *job; /* (optional) what ds_gpulock_job() made; borrowed */
};

/* The last three lines, of this process. */
void ds_gpulock_job(char out[DS_GPULOCK_JOB], const char *name, const char *run_dir);

/* The first of `folders` (NULL at the end) that is root's, sticky and open to all; NULL: none. */
const char *ds_gpulock_folder(const char *const *folders);
extern const char *const ds_gpulock_folders[]; /* of a real host */

/* Take the lock of a GPU.  `shared`: beside others that share it, too.  -EBUSY: a job that `err`
 * names has it.  Any other error: it cannot be locked here, and why. */
int ds_gpulock_take(struct ds_gpulock *lock, const char *folder, const char *pci, bool shared,
                    struct ds_error *err) DS_NODISCARD;
/* Those that a host's ranks ask for, in the folder of this host. */
int ds_gpulock_host(struct ds_gpulock *lock, const struct ds_bound *bound, struct ds_error *err)
    DS_NODISCARD;
void ds_gpulock_release(struct ds_gpulock *lock); /* fine on a zeroed struct, and twice */

#endif
