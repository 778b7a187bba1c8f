/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * causes.h - why a job failed, in classes: after which of them it is started again.
 *
 * One table: the words of launch.restart_on and --restart-on, and the class in events.jsonl.  What
 * a restart would only repeat is not among the defaults.
 */
#ifndef DS_BASE_CAUSES_H
#define DS_BASE_CAUSES_H

/* clang-format off */
#define DS_CAUSES(X) \
    X(HOST_LOST, 0, "host-lost") /* a host was lost, or it gave up a dsrun that was stopped */ \
    X(START,     1, "start")     /* not every rank ran within the start time-out, or a GPU is held by another job */ \
    X(RANK,      2, "rank")      /* a rank ended with a code or by a signal, for none of what follows */ \
    X(COMM,      3, "comm")      /* a rank ended as a collective timed out or lost a peer, or NCCL failed */ \
    X(HANG,      4, "hang")      /* no rank made a step for too long */ \
    X(LAUNCHER,  5, "launcher")  /* dsrun could not record what ranks sent */ \
    X(OOM,       6, "oom")       /* a rank was killed for memory, or ended for want of it */ \
    X(DISK_FULL, 7, "disk-full") \
    X(INPUT,     8, "input")     /* a rank ended with the code of usage or of damaged data */

enum ds_cause { /* may be or'ed */
    DS_CAUSE_NONE = 0,
#define X(id, bit, name) DS_CAUSE_##id = 1 << (bit),
    DS_CAUSES(X)
#undef X
    DS_CAUSES_DEFAULT = DS_CAUSE_HOST_LOST | DS_CAUSE_START | DS_CAUSE_RANK | DS_CAUSE_COMM |
                        DS_CAUSE_HANG | DS_CAUSE_LAUNCHER
};
/* clang-format on */

/* DS_CAUSES_DEFAULT as the value of a key. */
#define DS_CAUSES_DEFAULT_TEXT "[host-lost, start, rank, comm, hang, launcher]"

#endif
