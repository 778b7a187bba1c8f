/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rank.h - one rank in the hands of its agent, from fork to the report of its end.
 *
 * What the rank writes on stdout, stderr and its link is passed up as frames that carry its number.
 * While the line to the launcher is congested nothing is read: the rank's pipes fill and it waits.
 *
 * Tests   tests/e2e/processes.py
 */
#ifndef DS_LAUNCHER_RANK_H
#define DS_LAUNCHER_RANK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "launcher/loop.h"
#include "launcher/remote/channel.h"
#include "launcher/spawn.h"

struct ds_rank_stream { /* stdout or stderr */
    struct ds_watch watch;
    uint16_t type; /* DS_WIRE_OUT or DS_WIRE_ERR */
    size_t after_exit_bytes;
};

struct ds_rank {
    struct ds_loop *loop;  /* borrowed */
    struct ds_channel *up; /* to the launcher; borrowed */
    const char *program;   /* for messages; borrowed */
    uint32_t number;       /* global rank */
    pid_t pid;             /* and process group; 0: was never started */
    struct ds_rank_stream out, err;
    struct ds_channel link; /* closed when the job has none */
    struct ds_watch exec;
    bool dead, reported;
    int code, signal; /* once dead */
    unsigned why;     /* enum ds_wire_why */
};

/* A frame about `rank` (or DS_WIRE_NO_RANK) to the launcher; a line that broke ends the agent. */
void ds__up_send(struct ds_channel *up, uint16_t type, uint32_t rank, const void *payload,
                 size_t len);
/* A line of the agent's own on the stderr of `rank`, or the host's for DS_WIRE_NO_RANK. */
void ds__up_complain(struct ds_channel *up, uint32_t rank, const char *text);

/* For events.jsonl: what each rank of the host is given. */
void ds__up_cores(struct ds_channel *up, const struct ds_spawn *spawn);

/* Start local rank `local` and watch it.  A failure is reported on its stderr, and it is dead or
 * about to be.  `rank` must stay where it is. */
void ds__rank_start(struct ds_rank *rank, struct ds_loop *loop, struct ds_channel *up,
                    const struct ds_spawn *spawn, unsigned local);
/* It is over before it was started: as if it had ended like this. */
void ds__rank_refuse(struct ds_rank *rank, struct ds_loop *loop, struct ds_channel *up,
                     uint32_t number, int code, int signal_number, unsigned why);
void ds__rank_release(struct ds_rank *rank);

/* Stop or go on reading from it. */
void ds__rank_throttle(struct ds_rank *rank, bool on);

/* enum ds_wire_signal; without a link SIGTERM stands for STOP and ABORT. */
void ds__rank_signal(struct ds_rank *rank, uint32_t what);

/* Its process was collected. */
void ds__rank_died(struct ds_rank *rank, int code, int signal_number, unsigned why);

/* Send EXIT once all that it wrote is on its way.  False: the line is congested, try later. */
bool ds__rank_report(struct ds_rank *rank);

#endif
