/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * supervise.h - what to do about what happens: hosts and job as two state tables.
 *
 *   host   connecting ─► authenticating ─► starting ─► up ─► draining ─► gone
 *   job    launching ─► running ─► stopping / failing ─► ending ─► done
 *
 * A pure function (state, event, now) -> (state, actions): no clock, no descriptor, no allocation.
 * The first failure wins: it is the one that is named and whose code dsrun returns; every rank that
 * ends badly after it is a victim.  A rank that gives up only because another did says so with
 * DS_RANK_VICTIM_EXIT, and is never first while a real failure is known.
 *
 * Ranks that have nothing to do with each other (`apart`) go on whatever happens to another; the
 * job then ends when the last of them does.
 *
 * One wave of STOP or ABORT, one wait, one wave of KILL, to all hosts at once.  A host that is
 * silent for longer than the heartbeat limit is lost: it is dropped, its ranks count as ended.  A
 * job whose ranks make no step for too long (pulse.h) is asked where it is, and then failed.
 *
 * Units   *_ns are monotonic nanoseconds.
 * Tests   tests/launcher/test_supervise.c, tests/sim/
 */
#ifndef DS_LAUNCHER_FLEET_SUPERVISE_H
#define DS_LAUNCHER_FLEET_SUPERVISE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/wire.h"
#include "launcher/fleet/pulse.h"
#include "launcher/spec.h"

enum ds_host_state {
    DS_HOST_CONNECTING,
    DS_HOST_AUTHENTICATING, /* connected */
    DS_HOST_STARTING,       /* logged in; its agent has not spoken yet */
    DS_HOST_UP,
    DS_HOST_DRAINING, /* its ranks have ended */
    DS_HOST_GONE,
    DS_HOST_STATES
};

enum ds_job_state {
    DS_JOB_LAUNCHING, /* not every rank runs yet */
    DS_JOB_RUNNING,
    DS_JOB_STOPPING, /* ranks were asked to save and end */
    DS_JOB_FAILING,  /* ranks were told that another failed */
    DS_JOB_ENDING,   /* ranks are dead or were killed; hosts are to close */
    DS_JOB_DONE,
    DS_JOB_STATES
};

enum ds_super_kind {
    DS_SUPER_HOST_LINKED,    /* host: connected */
    DS_SUPER_HOST_LOGGED_IN, /* host */
    DS_SUPER_HOST_UP,        /* host: its agent greeted */
    DS_SUPER_HOST_HEARD,     /* host: any frame */
    DS_SUPER_HOST_GONE,      /* host: its line was put away */
    DS_SUPER_SPAWNED,        /* host, rank */
    DS_SUPER_STEP,           /* host, rank, step, phase */
    DS_SUPER_ANSWER,         /* host, rank: it said where it is */
    DS_SUPER_EXIT,           /* host, rank, code, signal, oom, held */
    DS_SUPER_STOP,           /* signal: INT or TERM to the launcher */
    DS_SUPER_BROKEN,         /* code, disk: the launcher itself cannot go on */
    DS_SUPER_TICK            /* nothing but time */
};

struct ds_super_event {
    enum ds_super_kind kind;
    uint32_t host, rank;
    int code, signal;
    bool oom, disk; /* disk: of BROKEN, it is full */
    bool held;      /* it was not started: another job has a GPU */
    enum ds_wire_phase phase;
    uint64_t step;
};

enum ds_super_action {                   /* or'ed */
                       DS_DO_BEAT = 1,   /* BEAT to every host */
                       DS_DO_ASK = 2,    /* SIGNAL(WHERE) to every rank */
                       DS_DO_STOP = 4,   /* SIGNAL(STOP) to every rank */
                       DS_DO_ABORT = 8,  /* SIGNAL(ABORT) to every rank */
                       DS_DO_KILL = 16,  /* SIGNAL(KILL) to every rank */
                       DS_DO_DROP = 32,  /* drop every host that has `drop` set */
                       DS_DO_CLOSE = 64, /* drop every host that is left */
                       DS_DO_END = 128   /* over: ds_supervise_code() is final */
};

enum ds_failure_kind {
    DS_FAILURE_NONE,
    DS_FAILURE_RANK,     /* rank, code or signal, oom, disk, comm, held */
    DS_FAILURE_HOST,     /* host: its line ended */
    DS_FAILURE_SILENT,   /* host: nothing came for longer than the heartbeat limit */
    DS_FAILURE_START,    /* not every rank ran within the start time-out; host: one that is late */
    DS_FAILURE_HANG,     /* rank, step: the one that holds the others up */
    DS_FAILURE_SLEPT,    /* this program did not run, and hosts gave it up */
    DS_FAILURE_LAUNCHER, /* code, disk */
    DS_FAILURE_KINDS
};

struct ds_failure {
    enum ds_failure_kind kind;
    uint32_t host, rank;
    int code, signal;
    uint64_t step;
    bool oom, disk, comm; /* killed for memory, or it said: none is left, a disk is full, a
                             collective failed */
    bool held;            /* it was not started: another job has a GPU of the host */
    bool mute;            /* it did not answer */
    bool victim;          /* no better explanation is known */
};

struct ds_super_rank { /* one per rank, memory of the caller, zeroed */
    uint64_t step;
    enum ds_wire_phase phase;
    bool spawned, ended, answered;
};

struct ds_super_host { /* one per host, memory of the caller; first_rank and ranks set by it */
    uint32_t first_rank, ranks, ended;
    enum ds_host_state state;
    bool drop; /* silent: to be dropped */
    bool lost; /* it went, or was silent, with ranks on it before they were killed */
    struct ds_pulse_host pulse;
};

struct ds_super_args {
    struct ds_super_host *host;
    struct ds_super_rank *rank;
    uint32_t hosts, world;
    uint64_t start_ns;  /* start time-out, 0: none */
    uint64_t grace_ns;  /* from stop to kill */
    uint64_t abort_ns;  /* from abort to kill */
    uint64_t close_ns;  /* from kill to dropping the hosts */
    uint64_t silent_ns; /* heartbeat limit, 0: none */
    uint64_t hang_ns;   /* least time without a step that is a hang, 0: none is */
    bool apart;         /* the end of a rank or host is no reason to end another */
};

/* A stop so soon after another is the same one, told twice. */
#define DS_STOP_ECHO_NS UINT64_C(500000000)
/* What ranks have to say where they are, when they make no step. */
#define DS_ASK_NS UINT64_C(1000000000)

struct ds_supervise {
    struct ds_super_args args; /* borrowed arrays */
    enum ds_job_state job;
    uint64_t deadline_ns; /* of the job's state; 0: none */
    struct ds_failure first;
    struct ds_pulse pulse;
    uint64_t asked_ns; /* ranks were asked where they are; 0: they were not */
    uint32_t spawned, ended, saved, hosts_gone;
    uint32_t victims; /* ranks that ended badly beside the first */
    int stop_signal;  /* of the launcher, or SIGTERM when ranks stopped by themselves; 0: no stop */
    uint64_t stop_ns; /* when it was asked for last; 0: never */
    bool started;     /* every rank ran */
    bool killed;      /* KILL was sent */
    bool unsaved;     /* a rank ended in a stop without a checkpoint */
    uint64_t slept_ns; /* until then a lost host is one that gave up a launcher that slept; or 0 */
};

void ds_supervise_init(struct ds_supervise *super, const struct ds_super_args *args,
                       uint64_t now_ns);

/* Returns actions, or'ed; to be carried out in the order of their numbers. */
unsigned ds_supervise(struct ds_supervise *super, const struct ds_super_event *event,
                      uint64_t now_ns);

/* When to call with TICK, if nothing happens before. */
uint64_t ds_supervise_next_ns(const struct ds_supervise *super);

/* Exit code of dsrun (base/exit.h) once DS_DO_END was returned. */
int ds_supervise_code(const struct ds_supervise *super);

#endif
