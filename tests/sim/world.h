/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * world.h - hosts, ranks and misfortunes with a virtual clock, around the real supervise.c.
 *
 * One attempt of a job: hosts connect, log in and start ranks at times drawn from the seed, ranks
 * make steps, save, and end; faults strike.  What a host sends takes its time to arrive, or never
 * does.  Every event is given to ds_supervise() as fleet.c would, every action is carried out, and
 * after each the invariants are checked:
 *
 *   a host ends once, a rank ends once, and all have ended when the job has
 *   nothing is wanted after the end; no wave is sent twice
 *   the first real failure is named, at once, and stays named
 *   only hosts that were silent are dropped, and those in time
 *   time-outs, grace and heartbeat limit are kept
 *   what waits for one host is bounded
 */
#ifndef DS_TESTS_SIM_WORLD_H
#define DS_TESTS_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/fleet/supervise.h"
#include "launcher/hosts/placement.h"

#define MS UINT64_C(1000000)
#define S  (1000 * MS)

enum fault_kind {               /* in the order of the words in world.c */
                  FAULT_EXIT,   /* a rank ends with a code */
                  FAULT_SIGNAL, /* or by a signal */
                  FAULT_OOM,
                  FAULT_DISK,
                  FAULT_MEMORY, /* a rank ends for want of memory */
                  FAULT_COMM,   /* or because a collective failed */
                  FAULT_AGENT,  /* an agent dies, its line ends */
                  FAULT_CUT,    /* nothing of a host arrives any more, and nothing at it */
                  FAULT_FREEZE, /* a host does nothing for a while, or never again */
                  FAULT_HANG,   /* a rank stops */
                  FAULT_STALL,  /* a host cannot be reached at the start */
                  FAULT_BROKEN, /* the launcher's disk is full */
                  FAULT_STOP,   /* a signal to the launcher */
                  FAULT_SLEEP,  /* the launcher is stopped for a while */
                  FAULT_HELD,   /* another job holds a GPU: drawn in place of some EXIT */
                  FAULT_KINDS
};

struct fault {
    enum fault_kind kind;
    uint64_t at_ns, for_ns; /* for_ns: of FREEZE and SLEEP; 0: for ever */
    uint32_t host, rank;
    bool struck; /* it met somebody alive */
};

enum { FAULTS_MAX = 4 };

struct sim_host { /* what is really so, whatever the launcher knows */
    uint64_t latency_ns, sent_ns, arrived_ns, frozen_until_ns, cut_ns, frozen_ns;
    uint32_t alive, waiting; /* ranks; frames that it has not taken */
    bool cut, frozen, stalled, agent_dead, closed, up, gone;
};

struct sim_rank {
    bool running, dead, deaf, hung;
};

enum item_kind {
    ITEM_ARRIVE,  /* event, at the launcher */
    ITEM_STAGE,   /* a host goes on: code is the next stage */
    ITEM_BEAT,    /* an agent's turn */
    ITEM_COMMAND, /* code: an action, at the host */
    ITEM_STEP,    /* all ranks make a step */
    ITEM_SAVED,   /* and have saved */
    ITEM_END,     /* a rank ends as the event says */
    ITEM_FAULT,   /* code: which */
    ITEM_THAW
};

struct item {
    uint64_t at_ns;
    uint32_t order;
    enum item_kind kind;
    struct ds_super_event event;
};

struct world {
    uint64_t seed, draws; /* what is drawn next */
    uint64_t now_ns, sleep_until_ns, beat_sent_ns;
    uint64_t patience_ns, end_ns; /* when the user stops it; by when it must be over */
    const struct ds_placement *placement;
    struct fault fault[FAULTS_MAX];
    unsigned faults;
    uint64_t silent_ns, hang_ns, grace_ns, abort_ns, close_ns, start_ns, step_ns, save_ns;
    uint64_t steps, step;
    bool stuck, saving;    /* no step any more; ranks save */
    bool slept, impatient; /* the launcher did; the user gave the job up */
    struct sim_host *host;
    struct sim_rank *rank;
    struct ds_super_host *super_host;
    struct ds_super_rank *super_rank;
    struct ds_supervise super;
    struct item *heap;
    size_t items, cap;
    uint32_t order;
    unsigned waves[8]; /* how often each action was wanted */
    uint64_t stop_ns, fail_ns, kill_ns;
    uint64_t events, drops;
    bool over;
    char failure[256]; /* the invariant that does not hold; "": all do */
};

extern const char *const fault_words[FAULT_KINDS];

/* world.c: what happens on the hosts. */
void world_push(struct world *world, uint64_t at_ns, enum item_kind kind,
                const struct ds_super_event *event);
struct item world_pop(struct world *world);
void world_happen(struct world *world, const struct item *item);

/* watch.c: runs one attempt to its end.  The arrays have room for the placement.  False: an
 * invariant does not hold, world->failure says which. */
bool world_run(struct world *world);

/* A number below `n`, from the seed. */
uint64_t world_draw(struct world *world, uint64_t n);
bool world_fail(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
