/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * supervise.c - the contract is in supervise.h.
 *
 * An event is first booked (ranks, hosts, the first failure), which yields at most two words of the
 * job's alphabet; each is then looked up in the job table.
 */
#include "launcher/fleet/supervise.h"

#include <assert.h>
#include <signal.h>

#include "base/exit.h"

enum word {
    W_NONE,
    W_STARTED, /* every rank runs */
    W_SAVED,   /* a rank ended because of a stop */
    W_FAILED,  /* something failed */
    W_STOP,    /* a stop was asked for */
    W_LATE,    /* the deadline has passed */
    W_ENDED,   /* every rank is dead */
    W_GONE,    /* every host is gone */
    WORDS
};

enum timer { KEEP, CLEAR, GRACE, ABORT, CLOSE };

struct cell {
    enum ds_job_state next;
    unsigned actions;
    enum timer timer;
};

/* clang-format off */
#define STAY(state) { DS_JOB_##state, 0, KEEP }
#define STOP_ALL    { DS_JOB_STOPPING, DS_DO_STOP,  GRACE }
#define FAIL_ALL    { DS_JOB_FAILING,  DS_DO_ABORT, ABORT }
#define KILL_ALL    { DS_JOB_ENDING,   DS_DO_KILL,  CLOSE }
#define WIND_DOWN   { DS_JOB_ENDING,   0,           CLOSE }
#define FINISH      { DS_JOB_DONE,     DS_DO_END,   CLEAR }
static const struct cell table[DS_JOB_STATES][WORDS] = {
    [DS_JOB_LAUNCHING] = {
        [W_NONE] = STAY(LAUNCHING), [W_STARTED] = { DS_JOB_RUNNING, 0, CLEAR },
        [W_SAVED] = STOP_ALL,       [W_FAILED] = FAIL_ALL,
        [W_STOP] = STOP_ALL,        [W_LATE] = KILL_ALL,
        [W_ENDED] = WIND_DOWN,      [W_GONE] = FINISH },
    [DS_JOB_RUNNING] = {
        [W_NONE] = STAY(RUNNING),   [W_STARTED] = STAY(RUNNING),
        [W_SAVED] = STOP_ALL,       [W_FAILED] = FAIL_ALL,
        [W_STOP] = STOP_ALL,        [W_LATE] = STAY(RUNNING),
        [W_ENDED] = WIND_DOWN,      [W_GONE] = FINISH },
    [DS_JOB_STOPPING] = {
        [W_NONE] = STAY(STOPPING),  [W_STARTED] = STAY(STOPPING),
        [W_SAVED] = STAY(STOPPING), [W_FAILED] = FAIL_ALL,
        [W_STOP] = KILL_ALL,        [W_LATE] = KILL_ALL,
        [W_ENDED] = WIND_DOWN,      [W_GONE] = FINISH },
    [DS_JOB_FAILING] = {
        [W_NONE] = STAY(FAILING),   [W_STARTED] = STAY(FAILING),
        [W_SAVED] = STAY(FAILING),  [W_FAILED] = STAY(FAILING),
        [W_STOP] = KILL_ALL,        [W_LATE] = KILL_ALL,
        [W_ENDED] = WIND_DOWN,      [W_GONE] = FINISH },
    [DS_JOB_ENDING] = {
        [W_NONE] = STAY(ENDING),    [W_STARTED] = STAY(ENDING),
        [W_SAVED] = STAY(ENDING),   [W_FAILED] = STAY(ENDING),
        [W_STOP] = STAY(ENDING),    [W_LATE] = { DS_JOB_ENDING, DS_DO_CLOSE, CLEAR },
        [W_ENDED] = STAY(ENDING),   [W_GONE] = FINISH },
    [DS_JOB_DONE] = {
        [W_NONE] = STAY(DONE),      [W_STARTED] = STAY(DONE),
        [W_SAVED] = STAY(DONE),     [W_FAILED] = STAY(DONE),
        [W_STOP] = STAY(DONE),      [W_LATE] = STAY(DONE),
        [W_ENDED] = STAY(DONE),     [W_GONE] = STAY(DONE) },
};

/* A host's next state when it comes up, when its last rank has ended, when its line ends. */
enum host_word { H_UP, H_ENDED, H_CLOSED, HOST_WORDS };
static const enum ds_host_state host_table[DS_HOST_STATES][HOST_WORDS] = {
    /*                      H_UP              H_ENDED           H_CLOSED     */
    [DS_HOST_STARTING] = { DS_HOST_UP,       DS_HOST_DRAINING, DS_HOST_GONE },
    [DS_HOST_UP]       = { DS_HOST_UP,       DS_HOST_DRAINING, DS_HOST_GONE },
    [DS_HOST_DRAINING] = { DS_HOST_DRAINING, DS_HOST_DRAINING, DS_HOST_GONE },
    [DS_HOST_GONE]     = { DS_HOST_GONE,     DS_HOST_GONE,     DS_HOST_GONE },
};
/* clang-format on */

void ds_supervise_init(struct ds_supervise *super, const struct ds_super_args *args,
                       uint64_t now_ns)
{
    *super = (struct ds_supervise){.args = *args};
    if (args->start_ns != 0)
        super->deadline_ns = now_ns + args->start_ns;
}

static unsigned apply(struct ds_supervise *super, enum word word, uint64_t now_ns)
{
    const struct cell *cell = &table[super->job][word];

    super->job = cell->next;
    super->killed = super->killed || (cell->actions & DS_DO_KILL) != 0;
    switch (cell->timer) {
    case KEEP: break;
    case CLEAR: super->deadline_ns = 0; break;
    case GRACE: super->deadline_ns = now_ns + super->args.grace_ns; break;
    case ABORT: super->deadline_ns = now_ns + super->args.abort_ns; break;
    case CLOSE: super->deadline_ns = now_ns + super->args.close_ns; break;
    }
    if ((cell->actions & DS_DO_STOP) != 0 && super->stop_signal == 0)
        super->stop_signal = SIGTERM;
    return cell->actions;
}

/* The first failure stays, unless it was only a victim and this one is not. */
static void blame(struct ds_supervise *super, const struct ds_failure *failure)
{
    if (super->first.kind == DS_FAILURE_NONE) {
        super->first = *failure;
        return;
    }
    super->victims++;
    if (super->first.victim && !failure->victim)
        super->first = *failure;
}

static struct ds_super_host *host_of(struct ds_supervise *super, uint32_t rank)
{
    for (uint32_t i = 0; i < super->args.hosts; i++) {
        struct ds_super_host *host = &super->args.host[i];

        if (rank >= host->first_rank && rank - host->first_rank < host->ranks)
            return host;
    }
    return NULL;
}

/* A rank is over, told by its EXIT or lost with its host. */
static void end_rank(struct ds_supervise *super, uint32_t rank)
{
    struct ds_super_host *host = host_of(super, rank);

    assert(host != NULL);
    super->args.rank[rank].ended = true;
    super->ended++;
    if (++host->ended == host->ranks)
        host->state = host_table[host->state][H_ENDED];
}

static enum word book_exit(struct ds_supervise *super, const struct ds_super_event *event)
{
    const struct ds_failure failure = {.kind = DS_FAILURE_RANK,
                                       .host = event->host,
                                       .rank = event->rank,
                                       .code = event->code,
                                       .signal = event->signal,
                                       .oom = event->oom,
                                       .victim = event->code == DS_RANK_VICTIM_EXIT};
    bool stopping = super->stop_signal != 0 && super->first.kind == DS_FAILURE_NONE;

    if (super->args.rank[event->rank].ended)
        return W_NONE;
    end_rank(super, event->rank);
    if (event->signal == 0 && event->code == 0)
        return W_NONE;
    if (super->args.apart) {
        blame(super, &failure);
        return W_NONE;
    }
    if (event->signal == 0 && event->code == DS_EXIT_STOPPED) {
        super->saved++;
        return W_SAVED;
    }
    if (super->killed && event->signal == SIGKILL) { /* by us */
        super->victims += super->first.kind != DS_FAILURE_NONE;
        super->unsaved = true;
        return W_NONE;
    }
    if (stopping && (event->code == DS_EXIT_INTERRUPT || event->code == DS_EXIT_TERMINATED)) {
        super->unsaved = true;
        return W_SAVED;
    }
    blame(super, &failure);
    return W_FAILED;
}

static enum word book_host_gone(struct ds_supervise *super, const struct ds_super_event *event)
{
    struct ds_super_host *host = &super->args.host[event->host];
    const struct ds_failure failure = {.kind = DS_FAILURE_HOST, .host = event->host};
    bool lost = host->ended < host->ranks;

    if (host->state == DS_HOST_GONE)
        return W_NONE;
    for (uint32_t i = 0; i < host->ranks; i++)
        if (!super->args.rank[host->first_rank + i].ended)
            end_rank(super, host->first_rank + i);
    host->state = host_table[host->state][H_CLOSED];
    super->hosts_gone++;
    if (!lost)
        return W_NONE;
    if (super->killed) {
        super->unsaved = true;
        return W_NONE;
    }
    blame(super, &failure);
    return super->args.apart ? W_NONE : W_FAILED;
}

static enum word book_spawned(struct ds_supervise *super, uint32_t rank)
{
    if (super->args.rank[rank].spawned)
        return W_NONE;
    super->args.rank[rank].spawned = true;
    super->started = ++super->spawned == super->args.world;
    return super->started ? W_STARTED : W_NONE;
}

static enum word book_tick(struct ds_supervise *super, uint64_t now_ns)
{
    if (super->deadline_ns == 0 || now_ns < super->deadline_ns)
        return W_NONE;
    if (super->job == DS_JOB_LAUNCHING) {
        const struct ds_failure failure = {.kind = DS_FAILURE_START};

        blame(super, &failure);
    }
    return W_LATE;
}

/* timeout(1), batch systems and terminals may signal a process and its group: that is one stop. */
static enum word book_stop(struct ds_supervise *super, int signal_number, uint64_t now_ns)
{
    bool echo = super->stop_ns != 0 && now_ns < super->stop_ns + DS_STOP_ECHO_NS;

    if (super->stop_signal == 0)
        super->stop_signal = signal_number;
    super->stop_ns = echo ? super->stop_ns : now_ns;
    return echo ? W_NONE : W_STOP;
}

static enum word book(struct ds_supervise *super, const struct ds_super_event *event,
                      uint64_t now_ns)
{
    switch (event->kind) {
    case DS_SUPER_HOST_UP: {
        struct ds_super_host *host = &super->args.host[event->host];

        host->state = host_table[host->state][H_UP];
        return W_NONE;
    }
    case DS_SUPER_SPAWNED: return book_spawned(super, event->rank);
    case DS_SUPER_EXIT: return book_exit(super, event);
    case DS_SUPER_HOST_GONE: return book_host_gone(super, event);
    case DS_SUPER_STOP: return book_stop(super, event->signal, now_ns);
    case DS_SUPER_BROKEN: {
        const struct ds_failure failure = {.kind = DS_FAILURE_LAUNCHER, .code = event->code};

        blame(super, &failure);
        return W_FAILED;
    }
    case DS_SUPER_TICK: return book_tick(super, now_ns);
    }
    return W_NONE;
}

unsigned ds_supervise(struct ds_supervise *super, const struct ds_super_event *event,
                      uint64_t now_ns)
{
    unsigned actions = apply(super, book(super, event, now_ns), now_ns);

    if (super->ended == super->args.world)
        actions |= apply(super, W_ENDED, now_ns);
    if (super->hosts_gone == super->args.hosts)
        actions |= apply(super, W_GONE, now_ns);
    if (super->ended == super->args.world) /* nobody is left to be told */
        actions &= (unsigned)(DS_DO_CLOSE | DS_DO_END);
    return actions;
}

int ds_supervise_code(const struct ds_supervise *super)
{
    const struct ds_failure *first = &super->first;

    switch (first->kind) {
    case DS_FAILURE_RANK: return first->signal != 0 ? 128 + first->signal : first->code;
    case DS_FAILURE_HOST: return super->started ? DS_EXIT_SOFTWARE : DS_EXIT_UNAVAILABLE;
    case DS_FAILURE_START: return DS_EXIT_TIMEOUT;
    case DS_FAILURE_LAUNCHER: return first->code;
    case DS_FAILURE_NONE: break;
    }
    if (super->unsaved)
        return 128 + super->stop_signal;
    return super->saved > 0 ? DS_EXIT_STOPPED : DS_EXIT_OK;
}
