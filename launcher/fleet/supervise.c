/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * supervise.c - the contract is in supervise.h.
 *
 * An event is first booked (ranks, hosts, the first failure), which yields at most two words of the
 * job's alphabet; each is then looked up in the job table.
 */
#include "launcher/fleet/supervise.h"

#include <limits.h>
#include <signal.h>
#include <stddef.h>

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

/* A host's next state when it is connected, logged in and greeted by its agent, when its last rank
 * has ended, when its line ends.  A transport may skip what it does not have. */
enum host_word { H_LINKED, H_LOGGED_IN, H_UP, H_ENDED, H_CLOSED, HOST_WORDS };
#define KEPT(state) DS_HOST_##state, DS_HOST_##state
#define LAST DS_HOST_DRAINING, DS_HOST_GONE /* its ranks have ended, its line has */
static const enum ds_host_state host_table[DS_HOST_STATES][HOST_WORDS] = {
    [DS_HOST_CONNECTING]     = { DS_HOST_AUTHENTICATING, DS_HOST_STARTING, DS_HOST_UP, LAST },
    [DS_HOST_AUTHENTICATING] = { DS_HOST_AUTHENTICATING, DS_HOST_STARTING, DS_HOST_UP, LAST },
    [DS_HOST_STARTING]       = { KEPT(STARTING),         DS_HOST_UP,       LAST },
    [DS_HOST_UP]             = { KEPT(UP),               DS_HOST_UP,       LAST },
    [DS_HOST_DRAINING]       = { KEPT(DRAINING),         DS_HOST_DRAINING, LAST },
    [DS_HOST_GONE]           = { KEPT(GONE),             DS_HOST_GONE,     KEPT(GONE) },
};
/* clang-format on */

void ds_supervise_init(struct ds_supervise *super, const struct ds_super_args *args,
                       uint64_t now_ns)
{
    const struct ds_pulse_args pulse = {.host = &args->host[0].pulse,
                                        .hosts = args->hosts,
                                        .stride = sizeof(args->host[0]),
                                        .silent_ns = args->silent_ns,
                                        .hang_ns = args->hang_ns};

    *super = (struct ds_supervise){.args = *args};
    ds_pulse_init(&super->pulse, &pulse, now_ns);
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

/* --- ranks ------------------------------------------------------------------------------------ */

static bool is_busy(const struct ds_super_rank *rank)
{
    return !rank->ended && (rank->phase == DS_PHASE_EVALUATE || rank->phase == DS_PHASE_SAVE);
}

/* A rank is over, told by its EXIT or lost with its host. */
static void end_rank(struct ds_supervise *super, struct ds_super_host *host, uint32_t rank,
                     uint64_t now_ns)
{
    if (is_busy(&super->args.rank[rank]))
        ds_pulse_busy(&super->pulse, -1, now_ns);
    super->args.rank[rank].ended = true;
    super->ended++;
    if (++host->ended == host->ranks)
        host->state = host_table[host->state][H_ENDED];
}

static enum word book_exit(struct ds_supervise *super, const struct ds_super_event *event,
                           uint64_t now_ns)
{
    struct ds_super_rank *rank = &super->args.rank[event->rank];
    const struct ds_failure failure = {.kind = DS_FAILURE_RANK,
                                       .host = event->host,
                                       .rank = event->rank,
                                       .code = event->code,
                                       .signal = event->signal,
                                       .oom = event->oom || rank->phase == DS_PHASE_NO_MEMORY,
                                       .disk = rank->phase == DS_PHASE_DISK_FULL,
                                       .comm = rank->phase == DS_PHASE_COMM,
                                       .held = event->held,
                                       .step = rank->step,
                                       .victim = event->code == DS_RANK_VICTIM_EXIT};
    bool stopping = super->stop_signal != 0 && super->first.kind == DS_FAILURE_NONE;

    if (rank->ended)
        return W_NONE;
    end_rank(super, &super->args.host[event->host], event->rank, now_ns);
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
    if (stopping && (event->signal == SIGTERM || event->code == DS_EXIT_INTERRUPT ||
                     event->code == DS_EXIT_TERMINATED)) { /* as it was told */
        super->unsaved = true;
        return W_SAVED;
    }
    blame(super, &failure);
    return W_FAILED;
}

static enum word book_spawned(struct ds_supervise *super, uint32_t rank)
{
    if (super->args.rank[rank].spawned)
        return W_NONE;
    super->args.rank[rank].spawned = true;
    super->started = ++super->spawned == super->args.world;
    return super->started ? W_STARTED : W_NONE;
}

static void book_step(struct ds_supervise *super, const struct ds_super_event *event,
                      uint64_t now_ns)
{
    struct ds_super_rank *rank = &super->args.rank[event->rank];
    bool busy = is_busy(rank);

    if (rank->ended)
        return;
    if (rank->phase < DS_PHASE_DISK_FULL) /* it does not end yet */
        rank->phase = event->phase;
    if (is_busy(rank) != busy)
        ds_pulse_busy(&super->pulse, busy ? -1 : 1, now_ns);
    if (event->step > rank->step)
        rank->step = event->step;
    ds_pulse_step(&super->pulse, event->step, now_ns);
}

/* --- hosts ------------------------------------------------------------------------------------ */

static void end_ranks(struct ds_supervise *super, struct ds_super_host *host, uint64_t now_ns)
{
    for (uint32_t i = 0; i < host->ranks; i++)
        if (!super->args.rank[host->first_rank + i].ended)
            end_rank(super, host, host->first_rank + i, now_ns);
}

/* A host was lost with ranks on it. */
static enum word lose(struct ds_supervise *super, enum ds_failure_kind kind, uint32_t index,
                      uint64_t now_ns)
{
    struct ds_failure failure = {.kind = kind, .host = index};
    bool slept = now_ns < super->slept_ns;

    end_ranks(super, &super->args.host[index], now_ns);
    super->args.host[index].lost = !slept && !super->killed;
    if (slept)
        failure.kind = DS_FAILURE_SLEPT;
    if (super->killed && !super->first.victim) { /* it was on its way out */
        super->unsaved = true;
        return W_NONE;
    }
    blame(super, &failure);
    return super->args.apart ? W_NONE : W_FAILED;
}

static enum word book_host_gone(struct ds_supervise *super, const struct ds_super_event *event,
                                uint64_t now_ns)
{
    struct ds_super_host *host = &super->args.host[event->host];
    bool lost = host->ended < host->ranks;
    enum word word = W_NONE;

    if (host->state == DS_HOST_GONE)
        return W_NONE;
    ds_pulse_forget(&super->pulse, event->host);
    if (lost)
        word = lose(super, DS_FAILURE_HOST, event->host, now_ns);
    host->state = host_table[host->state][H_CLOSED];
    super->hosts_gone++;
    return word;
}

static enum word book_host(struct ds_supervise *super, const struct ds_super_event *event,
                           enum host_word word, uint64_t now_ns)
{
    struct ds_super_host *host = &super->args.host[event->host];

    host->state = host_table[host->state][word];
    if (host->state == DS_HOST_UP)
        ds_pulse_heard(&super->pulse, event->host, now_ns);
    return W_NONE;
}

static enum word book_heard(struct ds_supervise *super, const struct ds_super_event *event,
                            uint64_t now_ns)
{
    if (super->args.host[event->host].pulse.listed)
        ds_pulse_heard(&super->pulse, event->host, now_ns);
    return W_NONE;
}

/* --- time ------------------------------------------------------------------------------------- */

/* Drop every host that was silent for too long. */
static enum word book_silence(struct ds_supervise *super, unsigned *actions, uint64_t now_ns)
{
    enum word word = W_NONE;
    uint32_t index;

    while ((index = ds_pulse_silent(&super->pulse, now_ns)) != DS_PULSE_NOBODY) {
        struct ds_super_host *host = &super->args.host[index];

        ds_pulse_forget(&super->pulse, index);
        host->drop = true;
        *actions |= DS_DO_DROP;
        if (host->ended < host->ranks && lose(super, DS_FAILURE_SILENT, index, now_ns) == W_FAILED)
            word = W_FAILED;
    }
    return word;
}

/* The rank that holds the others up: one that does not answer, else the one that is behind. */
static void blame_hang(struct ds_supervise *super)
{
    struct ds_failure failure = {.kind = DS_FAILURE_HANG};
    const struct ds_super_rank *found = NULL;

    for (uint32_t h = 0; h < super->args.hosts; h++) {
        const struct ds_super_host *host = &super->args.host[h];

        for (uint32_t i = 0; i < host->ranks; i++) {
            const struct ds_super_rank *rank = &super->args.rank[host->first_rank + i];

            if (rank->ended || (found != NULL && rank->answered > found->answered))
                continue;
            if (found != NULL && rank->answered == found->answered && rank->step >= found->step)
                continue;
            found = rank;
            failure.host = h;
            failure.rank = host->first_rank + i;
            failure.step = rank->step;
            failure.mute = !rank->answered;
        }
    }
    blame(super, &failure);
}

/* No step for too long: ask, wait for the answers, fail. */
static enum word book_hang(struct ds_supervise *super, unsigned *actions, uint64_t now_ns)
{
    if (super->job != DS_JOB_RUNNING || now_ns < ds_pulse_hang_ns(&super->pulse)) {
        super->asked_ns = 0;
        return W_NONE;
    }
    if (super->asked_ns == 0) {
        super->asked_ns = now_ns;
        for (uint32_t i = 0; i < super->args.world; i++)
            super->args.rank[i].answered = false;
        *actions |= DS_DO_ASK;
        return W_NONE;
    }
    if (now_ns < super->asked_ns + DS_ASK_NS)
        return W_NONE;
    blame_hang(super);
    return W_FAILED;
}

/* How far a host is; one that is up may still owe ranks. */
static unsigned how_far(const struct ds_supervise *super, uint32_t index)
{
    const struct ds_super_host *host = &super->args.host[index];
    unsigned far = 2 * (unsigned)host->state + 1;

    for (uint32_t i = 0; i < host->ranks; i++)
        if (!super->args.rank[host->first_rank + i].spawned)
            return far - 1;
    return far;
}

/* The first of the hosts that are the least far: the one to be named. */
static void blame_start(struct ds_supervise *super)
{
    struct ds_failure failure = {.kind = DS_FAILURE_START};
    unsigned least = UINT_MAX;

    for (uint32_t h = 0; h < super->args.hosts; h++) {
        unsigned far = how_far(super, h);

        if (far < least)
            failure.host = h;
        least = far < least ? far : least;
    }
    blame(super, &failure);
}

/* Every rank has given up because of another, and no better reason came: it is the host that did
 * not even confirm that its ranks are dead. */
static void blame_mute(struct ds_supervise *super, uint64_t now_ns)
{
    for (uint32_t h = 0; h < super->args.hosts && super->first.victim; h++) {
        struct ds_super_host *host = &super->args.host[h];

        if (host->state != DS_HOST_GONE && host->ended < host->ranks)
            (void)lose(super, DS_FAILURE_SILENT, h, now_ns);
    }
}

static enum word book_deadline(struct ds_supervise *super, uint64_t now_ns)
{
    if (super->deadline_ns == 0 || now_ns < super->deadline_ns)
        return W_NONE;
    if (super->job == DS_JOB_LAUNCHING)
        blame_start(super);
    if (super->job == DS_JOB_ENDING)
        blame_mute(super, now_ns);
    return W_LATE;
}

/* timeout(1), batch systems and terminals may signal a process and its group: that is one stop.
 * So is the first signal here after ranks have begun to stop by themselves: theirs was told to
 * them first. */
static enum word book_stop(struct ds_supervise *super, int signal_number, uint64_t now_ns)
{
    bool echo = super->stop_ns == 0 ? super->job == DS_JOB_STOPPING
                                    : now_ns < super->stop_ns + DS_STOP_ECHO_NS;

    if (super->stop_signal == 0)
        super->stop_signal = signal_number;
    super->stop_ns = echo && super->stop_ns != 0 ? super->stop_ns : now_ns;
    return echo ? W_NONE : W_STOP;
}

/* --- events ----------------------------------------------------------------------------------- */

static enum word book_broken(struct ds_supervise *super, const struct ds_super_event *event)
{
    const struct ds_failure failure = {
        .kind = DS_FAILURE_LAUNCHER, .code = event->code, .disk = event->disk};

    blame(super, &failure);
    return W_FAILED;
}

static enum word book(struct ds_supervise *super, const struct ds_super_event *event,
                      uint64_t now_ns)
{
    switch (event->kind) {
    case DS_SUPER_HOST_LINKED: return book_host(super, event, H_LINKED, now_ns);
    case DS_SUPER_HOST_LOGGED_IN: return book_host(super, event, H_LOGGED_IN, now_ns);
    case DS_SUPER_HOST_UP: return book_host(super, event, H_UP, now_ns);
    case DS_SUPER_HOST_HEARD: return book_heard(super, event, now_ns);
    case DS_SUPER_HOST_GONE: return book_host_gone(super, event, now_ns);
    case DS_SUPER_SPAWNED: return book_spawned(super, event->rank);
    case DS_SUPER_STEP: book_step(super, event, now_ns); return W_NONE;
    case DS_SUPER_ANSWER: super->args.rank[event->rank].answered = true; return W_NONE;
    case DS_SUPER_EXIT: return book_exit(super, event, now_ns);
    case DS_SUPER_STOP: return book_stop(super, event->signal, now_ns);
    case DS_SUPER_BROKEN: return book_broken(super, event);
    case DS_SUPER_TICK: return book_deadline(super, now_ns);
    }
    return W_NONE;
}

unsigned ds_supervise(struct ds_supervise *super, const struct ds_super_event *event,
                      uint64_t now_ns)
{
    unsigned actions = 0;

    if (super->job == DS_JOB_DONE)
        return 0;
    if (ds_pulse_look(&super->pulse, now_ns))
        super->slept_ns = now_ns + super->args.silent_ns;
    actions |= apply(super, book(super, event, now_ns), now_ns);
    if (event->kind == DS_SUPER_TICK) {
        actions |= apply(super, book_silence(super, &actions, now_ns), now_ns);
        actions |= apply(super, book_hang(super, &actions, now_ns), now_ns);
        if (ds_pulse_due(&super->pulse, now_ns))
            actions |= DS_DO_BEAT;
    }
    if (super->ended == super->args.world)
        actions |= apply(super, W_ENDED, now_ns);
    if (super->hosts_gone == super->args.hosts)
        actions |= apply(super, W_GONE, now_ns);
    if (super->ended == super->args.world) /* nobody is left to be told */
        actions &= (unsigned)(DS_DO_DROP | DS_DO_CLOSE | DS_DO_END);
    return actions;
}

uint64_t ds_supervise_next_ns(const struct ds_supervise *super)
{
    uint64_t next_ns = ds_pulse_next_ns(&super->pulse);

    return super->deadline_ns != 0 && super->deadline_ns < next_ns ? super->deadline_ns : next_ns;
}

int ds_supervise_code(const struct ds_supervise *super)
{
    const struct ds_failure *first = &super->first;

    switch (first->kind) {
    case DS_FAILURE_RANK: return first->signal != 0 ? 128 + first->signal : first->code;
    case DS_FAILURE_HOST:
    case DS_FAILURE_SILENT: return super->started ? DS_EXIT_SOFTWARE : DS_EXIT_UNAVAILABLE;
    case DS_FAILURE_START:
    case DS_FAILURE_HANG:
    case DS_FAILURE_SLEPT: return DS_EXIT_TIMEOUT;
    case DS_FAILURE_LAUNCHER: return first->code;
    case DS_FAILURE_NONE:
    case DS_FAILURE_KINDS: break;
    }
    if (super->unsaved)
        return 128 + super->stop_signal;
    return super->saved > 0 ? DS_EXIT_STOPPED : DS_EXIT_OK;
}
