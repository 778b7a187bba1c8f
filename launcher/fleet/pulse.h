/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pulse.h - who is still heard of, and whether the job still makes steps.
 *
 * Pure.  Hosts stand in a list by the time at which they were last heard, so that asking for a
 * silent one costs the same with one host and with ten thousand.  The time in which this program
 * itself did not run (stopped, a slow disk) counts against nobody: what hosts sent meanwhile has
 * not been read yet.
 *
 * A hang is a time without a step of at least `hang_ns` and DS_HANG_STEPS median steps.  It is not
 * looked for before the second step, nor while a rank saves or evaluates.
 *
 * Units   *_ns are monotonic nanoseconds.
 * Tests   tests/launcher/test_pulse.c
 */
#ifndef DS_LAUNCHER_FLEET_PULSE_H
#define DS_LAUNCHER_FLEET_PULSE_H

#include <stdbool.h>
#include <stdint.h>

enum { DS_PULSE_STEPS = 31, DS_HANG_STEPS = 10 };
#define DS_PULSE_NOBODY UINT32_MAX

struct ds_pulse_host { /* memory of the caller; an array of them, `stride` bytes apart */
    uint64_t heard_ns;
    uint32_t older, newer; /* neighbours in the list */
    bool listed;
};

struct ds_pulse_args {
    struct ds_pulse_host *host;
    uint32_t hosts, stride;
    uint64_t silent_ns, hang_ns; /* 0: off */
};

struct ds_pulse {
    struct ds_pulse_args args;
    uint32_t oldest, newest;
    uint64_t looked_ns; /* the last call */
    uint64_t judge_ns;  /* nobody is called silent, and nothing a hang, before this time */
    uint64_t beat_ns;   /* when the next beat is due */
    uint64_t moved_ns;  /* when the last step was made; 0: never */
    uint64_t step;      /* the newest one */
    uint64_t took_ns[DS_PULSE_STEPS];
    unsigned steps; /* how many were timed */
    uint32_t busy;  /* ranks that save or evaluate */
};

void ds_pulse_init(struct ds_pulse *pulse, const struct ds_pulse_args *args, uint64_t now_ns);

/* Between two beats, for a heartbeat limit (0: none). */
uint64_t ds_pulse_interval_ns(uint64_t silent_ns);

/* Call first, with every event.  True: this program did not run for so long that hosts, which miss
 * its beats, may have given it up. */
bool ds_pulse_look(struct ds_pulse *pulse, uint64_t now_ns);

/* This program lives, but reads nothing (its console takes nothing): nobody is judged for it. */
void ds_pulse_stall(struct ds_pulse *pulse, uint64_t now_ns);

/* Is it time to send a beat?  Asking starts the next interval. */
bool ds_pulse_due(struct ds_pulse *pulse, uint64_t now_ns);

/* A host is in the list from the first time it is heard until it is forgotten. */
void ds_pulse_heard(struct ds_pulse *pulse, uint32_t host, uint64_t now_ns);
void ds_pulse_forget(struct ds_pulse *pulse, uint32_t host);

/* A host that is silent for too long, or DS_PULSE_NOBODY.  It stays listed. */
uint32_t ds_pulse_silent(const struct ds_pulse *pulse, uint64_t now_ns);

/* A rank has made `step`; ranks have begun (+1) or ended (-1) to save or evaluate. */
void ds_pulse_step(struct ds_pulse *pulse, uint64_t step, uint64_t now_ns);
void ds_pulse_busy(struct ds_pulse *pulse, int change, uint64_t now_ns);

/* The time at which no further step is a hang; UINT64_MAX: not looked for. */
uint64_t ds_pulse_hang_ns(const struct ds_pulse *pulse);
uint64_t ds_pulse_median_ns(const struct ds_pulse *pulse);

/* When something is due next. */
uint64_t ds_pulse_next_ns(const struct ds_pulse *pulse);

#endif
