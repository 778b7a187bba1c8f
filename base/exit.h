/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * exit.h - the exit codes of every program of the project, one table.
 *
 * The numbers are a contract (dsrun(1), EXIT STATUS); the man page is checked
 * against this list.
 */
#ifndef DS_BASE_EXIT_H
#define DS_BASE_EXIT_H

/* clang-format off */
#define DS_EXITS(X) \
    X(OK,           0, "the job is done; every rank ended with 0") \
    X(FAILURE,      1, "a rank failed first with this code (1-255); 128+N: it was killed by signal N; 1 also: a " \
      "file could not be read or written, or this machine has no more of what dsrun itself needs") \
    X(USAGE,        2, "usage, or a file the user named does not exist") \
    X(DATA,        65, "job file or hostfile invalid, a job that does not fit, checkpoint or data damaged") \
    X(UNAVAILABLE, 69, "a host cannot be reached, or its key is not trusted: nothing was started; or another job " \
      "holds a GPU of it") \
    X(SOFTWARE,    70, "a host was lost while the job ran, or a bug in dsrun") \
    X(STOPPED,     75, "stopped by a signal after a checkpoint; run again to go on") \
    X(TIMEOUT,    124, "a time limit or a hang") \
    X(INTERRUPT,  130, "SIGINT, where no checkpoint could be made") \
    X(TERMINATED, 143, "SIGTERM, where no checkpoint could be made")
/* clang-format on */

enum ds_exit {
#define X(id, number, text) DS_EXIT_##id = (number),
    DS_EXITS(X)
#undef X
};

/* Exit code of a negative errno as returned by the library: EINVAL, EBADMSG,
 * ERANGE, EOVERFLOW, ENOTSUP, ENOMEM, EMSGSIZE: DATA; ENOENT, and EDOM, an
 * option that cannot be followed: USAGE; ETIMEDOUT: TIMEOUT;
 * EHOSTUNREACH, EKEYREJECTED, EPROTO: UNAVAILABLE; anything else: FAILURE; 0: OK. */
int ds_exit_from_errno(int rc);

#endif
