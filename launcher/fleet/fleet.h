/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fleet.h - drive the agents of one job: supervise.h decides, this moves the bytes.
 *
 * One thread, one loop.  A fleet lives as long as dsrun and runs one attempt after the other; it
 * owns SIGUSR1 and the stop signals of launcher/signals.h (a stop request each; the second one
 * kills).
 *
 * Knows nothing of training: METRIC and EVENT are text for `ops`, the blob is for the ranks.
 *
 * Tests   tests/e2e/processes.py
 */
#ifndef DS_LAUNCHER_FLEET_FLEET_H
#define DS_LAUNCHER_FLEET_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "launcher/fleet/logmux.h"
#include "launcher/fleet/meet.h"
#include "launcher/fleet/store.h"
#include "launcher/fleet/supervise.h"
#include "launcher/hosts/placement.h"
#include "launcher/loop.h"
#include "launcher/remote/transport.h"
#include "launcher/spec.h"

struct ds_fleet_host; /* fleet_host.h */

enum ds_fleet_note {                  /* what ops->note() is told */
                     DS_NOTE_STARTED, /* every rank runs */
                     DS_NOTE_STOP,    /* a stop was asked for; ranks are told */
                     DS_NOTE_FAILED,  /* something failed; ranks are told */
                     DS_NOTE_KILL     /* ranks are killed */
};

/* What happens, for whoever shows and records it.  Negative: the job cannot go on (a full disk). */
struct ds_fleet_ops {
    int (*output)(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                  size_t len, struct ds_error *err);
    int (*metric)(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err);
    int (*event)(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err);
    /* Everything given so far must be on disk when this returns; NULL: nothing is kept. */
    int (*flush)(void *user, struct ds_error *err);
    /* `exit` is a DS_SUPER_EXIT; the rank's last byte was given. */
    int (*ended)(void *user, const struct ds_super_event *exit, struct ds_error *err);
    /* A host went before its ranks had ended.  May be NULL: the result tells of the first. */
    void (*lost)(void *user, uint32_t host, const char *reason);
    void (*step)(void *user, uint64_t step); /* a rank has made it, as the first one; or NULL */
    int (*note)(void *user, enum ds_fleet_note note, struct ds_error *err); /* or NULL */
};

struct ds_fleet_args {
    const struct ds_place *place;
    uint32_t places, world;
    const struct ds_transport *transport;
    struct ds_transport_args transport_args; /* loop, ops, start_ns, apart, verify are filled in */
    const struct ds_spec *spec;              /* ranks and nodes are filled in per host */
    const char *const *devices;      /* per place, those of its ranks: "0,2", or NULL; NULL: none */
    double grace_s, start_timeout_s; /* start_timeout_s 0: none */
    double heartbeat_s, hang_s;      /* ds_super_args; 0: none */
    bool apart;  /* ranks that have nothing to do with each other: a host that cannot be reached, or
                   not within the start time-out, is lost and the others go on */
    bool yields; /* where hosts cannot be reached the attempt has failed, and others may do without
                    them; else that is an error */
    bool verify; /* (apart) no rank starts anywhere before every key was checked; one that is not
                    trusted refuses the attempt */
    const struct ds_fleet_ops *ops;
    void *user;
};

struct ds_fleet_result {
    int code; /* exit code of dsrun, if this attempt is final */
    struct ds_failure first;
    uint32_t victims;
    int stop_signal;               /* 0: no stop */
    int64_t last_step;             /* from BEAT; -1: none */
    const bool *lost;              /* by place: its host was; the fleet's, until its next run */
    char cause[DS_MAX_ERROR_TEXT]; /* of the first failure, a sentence; "" without one */
};

struct ds_fleet {
    struct ds_loop loop;
    struct ds_watch signals;
    const struct ds_fleet_args *args; /* of the attempt that runs */
    struct ds_starter *starter;       /* of it */
    struct ds_fleet_host *host;
    struct ds_super_rank *ranks;
    struct ds_super_host *hosts;
    bool *lost;
    struct ds_supervise super;
    struct ds_store store;   /* of the attempt, with its job key */
    struct ds_error broken;  /* why the launcher itself cannot go on */
    struct ds_error refused; /* why the first host could not be started, while none was up */
    uint32_t refused_by;     /* that host */
    uint32_t up, down;       /* hosts that were, and that could not be */
    struct ds_meet meet;     /* of ranks that gather */
    int64_t last_step;
    int pending_stop;         /* a signal that came between attempts */
    bool forwards;            /* USR1 and USR2 are the programs' */
    uint64_t start_ns, up_ns; /* up_ns: the last one came up */
    bool over;
};

int ds_fleet_init(struct ds_fleet *fleet, struct ds_error *err) DS_NODISCARD;
void ds_fleet_release(struct ds_fleet *fleet);

/* From now on SIGUSR1 and SIGUSR2 are for the programs that run, and none is a stop request. */
int ds_fleet_forward(struct ds_fleet *fleet, struct ds_error *err) DS_NODISCARD;

/* A descriptor that is readable while a signal waits; for whoever may block elsewhere. */
int ds_fleet_signal_fd(const struct ds_fleet *fleet);

/* One attempt, from start to the end of the last process.  0 with `*result`, or an error that
 * kept it from starting anything: -EHOSTUNREACH (unless it `yields`), -EKEYREJECTED of a host, by
 * name; -EMSGSIZE: what ranks are to get does not fit in a frame; -EINVAL: what the transport was
 * given; anything else is of this machine. */
int ds_fleet_run(struct ds_fleet *fleet, const struct ds_fleet_args *args,
                 struct ds_fleet_result *result, struct ds_error *err) DS_NODISCARD;

/* For ops that block although nothing is wrong (a console that takes nothing): call it now and
 * then with the fleet, so that its hosts hear of it. */
void ds_fleet_stall(void *fleet);

/* Wait between attempts.  Returns the signal that ended the wait early, or 0. */
int ds_fleet_wait(struct ds_fleet *fleet, unsigned ms);

#endif
