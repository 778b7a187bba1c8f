/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * world.c - the contract is in world.h.
 */
#include "tests/sim/world.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/exit.h"
#include "base/rng.h"

const char *const fault_words[FAULT_KINDS] = {"exit",  "signal", "oom",  "disk",   "memory",
                                              "comm",  "agent",  "cut",  "freeze", "hang",
                                              "stall", "broken", "stop", "sleep",  "held"};

enum { REPORTERS = 8, SAVE_EVERY = 7 };

/* --- the queue of what will happen ------------------------------------------------------------- */

static bool before(const struct item *a, const struct item *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

void world_push(struct world *world, uint64_t at_ns, enum item_kind kind,
                const struct ds_super_event *event)
{
    struct item item = {.at_ns = at_ns, .order = world->order++, .kind = kind, .event = *event};
    size_t at = world->items++;

    if (world->items > world->cap) {
        world->cap = world->cap == 0 ? 1024 : 2 * world->cap;
        world->heap = realloc(world->heap, world->cap * sizeof(*world->heap));
        if (world->heap == NULL)
            abort();
    }
    for (; at > 0 && before(&item, &world->heap[(at - 1) / 2]); at = (at - 1) / 2)
        world->heap[at] = world->heap[(at - 1) / 2];
    world->heap[at] = item;
}

struct item world_pop(struct world *world)
{
    struct item top = world->heap[0], last = world->heap[--world->items];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;

        if (child + 1 < world->items && before(&world->heap[child + 1], &world->heap[child]))
            child++;
        if (child >= world->items || !before(&world->heap[child], &last))
            break;
        world->heap[at] = world->heap[child];
        at = child;
    }
    world->heap[at] = last;
    return top;
}

uint64_t world_draw(struct world *world, uint64_t n)
{
    return ds_rng_u64(world->seed, 1, world->draws++) % n;
}

bool world_fail(struct world *world, const char *format, ...)
{
    va_list args;

    if (world->failure[0] == '\0') {
        va_start(args, format);
        (void)vsnprintf(world->failure, sizeof(world->failure), format, args);
        va_end(args);
    }
    world->over = true;
    return false;
}

/* --- hosts and ranks -------------------------------------------------------------------------- */

static uint32_t first_rank(const struct world *world, uint32_t host)
{
    return world->placement->place[host].first_rank;
}

/* A host sends; it arrives later, unless the host is cut by then. */
static void send_up(struct world *world, uint32_t host, struct ds_super_event event)
{
    struct sim_host *from = &world->host[host];

    if (from->agent_dead || from->closed)
        return;
    event.host = host;
    if (from->sent_ns < world->now_ns + from->latency_ns)
        from->sent_ns = world->now_ns + from->latency_ns;
    world_push(world, from->sent_ns, ITEM_ARRIVE, &event); /* never before what it sent earlier */
}

static void end_rank_later(struct world *world, uint32_t host, uint32_t rank, uint64_t in_ns,
                           int code, int signal_number)
{
    const struct ds_super_event event = {
        .host = host, .rank = rank, .code = code, .signal = signal_number};

    world_push(world, world->now_ns + in_ns, ITEM_END, &event);
}

/* All ranks of a host, each after a time of its own below `spread_ns`. */
static void end_ranks(struct world *world, uint32_t host, uint64_t spread_ns, int code,
                      int signal_number)
{
    const struct ds_place *place = &world->placement->place[host];

    for (uint32_t i = 0; i < place->ranks; i++) {
        const struct sim_rank *rank = &world->rank[place->first_rank + i];
        bool deaf = rank->hung || (rank->deaf && code != 0);

        if (!rank->dead && (signal_number == SIGKILL || !deaf))
            end_rank_later(world, host, place->first_rank + i,
                           spread_ns == 0 ? 0 : world_draw(world, spread_ns), code, signal_number);
    }
}

static void on_stage(struct world *world, const struct ds_super_event *event)
{
    static const enum ds_super_kind kinds[] = {DS_SUPER_HOST_LINKED, DS_SUPER_HOST_LOGGED_IN,
                                               DS_SUPER_HOST_UP};
    struct sim_host *host = &world->host[event->host];
    const struct ds_place *place = &world->placement->place[event->host];
    struct ds_super_event next = *event;

    if (host->stalled || host->closed)
        return;
    if (event->code < 3) {
        send_up(world, event->host, (struct ds_super_event){.kind = kinds[event->code]});
        next.code++;
        world_push(world, world->now_ns + world_draw(world, 200 * MS), ITEM_STAGE, &next);
        if (event->code == 2)
            world_push(world, world->now_ns, ITEM_BEAT, event);
        return;
    }
    host->up = true;
    host->alive = place->ranks;
    for (uint32_t i = 0; i < place->ranks; i++) {
        world->rank[place->first_rank + i].running = true;
        send_up(world, event->host,
                (struct ds_super_event){.kind = DS_SUPER_SPAWNED, .rank = place->first_rank + i});
    }
}

/* The agent is gone, and with it its ranks. */
static void lose_agent(struct world *world, uint32_t index)
{
    struct sim_host *host = &world->host[index];
    const struct ds_place *place = &world->placement->place[index];

    send_up(world, index, (struct ds_super_event){.kind = DS_SUPER_HOST_GONE});
    host->agent_dead = true;
    host->alive = 0;
    for (uint32_t i = 0; i < place->ranks; i++)
        world->rank[place->first_rank + i].dead = true;
    world->stuck = true;
}

static void on_beat(struct world *world, const struct ds_super_event *event)
{
    struct sim_host *host = &world->host[event->host];
    uint64_t interval_ns = ds_pulse_interval_ns(world->silent_ns);

    if (host->agent_dead || host->closed)
        return;
    if (!host->cut) { /* it takes what waits */
        host->waiting = 0;
        if (world->silent_ns != 0 &&
            world->now_ns > world->beat_sent_ns + host->latency_ns + world->silent_ns) {
            lose_agent(world, event->host); /* the launcher does not beat */
            return;
        }
        send_up(world, event->host, (struct ds_super_event){.kind = DS_SUPER_HOST_HEARD});
    }
    world_push(world, world->now_ns + interval_ns, ITEM_BEAT, event);
}

static void on_end(struct world *world, const struct ds_super_event *event)
{
    struct sim_rank *rank = &world->rank[event->rank];
    struct sim_host *host = &world->host[event->host];
    struct ds_super_event end = *event;

    if (rank->dead || !rank->running || host->agent_dead)
        return;
    if (event->signal != SIGKILL && rank->hung)
        return;
    rank->dead = true;
    host->alive--;
    if (event->code != 0 || event->signal != 0)
        world->stuck = true; /* the others wait for it */
    end.kind = DS_SUPER_EXIT;
    send_up(world, event->host, end);
    if (host->alive == 0) {
        send_up(world, event->host, (struct ds_super_event){.kind = DS_SUPER_HOST_GONE});
        host->agent_dead = true;
    }
}

static void on_command(struct world *world, const struct ds_super_event *event)
{
    const struct ds_place *place = &world->placement->place[event->host];
    const struct sim_host *host = &world->host[event->host];

    if (host->cut || host->agent_dead || host->closed || !host->up)
        return;
    switch ((enum ds_super_action)event->code) {
    case DS_DO_STOP: end_ranks(world, event->host, world->save_ns, DS_EXIT_STOPPED, 0); break;
    case DS_DO_ABORT: end_ranks(world, event->host, 300 * MS, DS_RANK_VICTIM_EXIT, 0); break;
    case DS_DO_KILL: end_ranks(world, event->host, 0, 0, SIGKILL); break;
    case DS_DO_ASK:
        for (uint32_t i = 0; i < place->ranks; i++)
            if (!world->rank[place->first_rank + i].hung)
                send_up(world, event->host,
                        (struct ds_super_event){.kind = DS_SUPER_ANSWER,
                                                .rank = place->first_rank + i});
        break;
    case DS_DO_BEAT:
    case DS_DO_DROP:
    case DS_DO_CLOSE:
    case DS_DO_END: break;
    }
}

/* --- steps ------------------------------------------------------------------------------------ */

static void report(struct world *world, enum ds_wire_phase phase)
{
    uint32_t places = world->placement->places;

    for (uint32_t i = 0; i < places && i < REPORTERS; i++) {
        const struct ds_super_event step = {.kind = DS_SUPER_STEP,
                                            .rank = first_rank(world, i),
                                            .step = world->step,
                                            .phase = phase};

        if (!world->rank[step.rank].dead && !world->host[i].frozen)
            send_up(world, i, step);
    }
}

static void on_step(struct world *world)
{
    const struct ds_super_event none = {0};

    if (world->stuck)
        return;
    if (!world->super.started) { /* they wait for each other */
        world_push(world, world->now_ns + world->step_ns, ITEM_STEP, &none);
        return;
    }
    world->step++;
    if (world->step >= world->steps) {
        for (uint32_t i = 0; i < world->placement->places; i++)
            end_ranks(world, i, 100 * MS, 0, 0);
        return;
    }
    if (world->step % SAVE_EVERY == 0) {
        report(world, DS_PHASE_SAVE);
        world->saving = true;
        world_push(world, world->now_ns + world->save_ns, ITEM_SAVED, &none);
        return;
    }
    report(world, DS_PHASE_STEP);
    world_push(world, world->now_ns + world->step_ns, ITEM_STEP, &none);
}

static void on_saved(struct world *world)
{
    const struct ds_super_event none = {0};

    report(world, DS_PHASE_STEP);
    world->saving = false;
    world_push(world, world->now_ns + world->step_ns, ITEM_STEP, &none);
}

/* --- faults ----------------------------------------------------------------------------------- */

static void strike_rank(struct world *world, struct fault *fault)
{
    static const enum ds_wire_phase phases[FAULT_KINDS] = {[FAULT_DISK] = DS_PHASE_DISK_FULL,
                                                           [FAULT_MEMORY] = DS_PHASE_NO_MEMORY,
                                                           [FAULT_COMM] = DS_PHASE_COMM};
    struct ds_super_event event = {.host = fault->host, .rank = fault->rank};
    struct sim_rank *rank = &world->rank[fault->rank];

    if (!rank->running || rank->dead || world->host[fault->host].agent_dead)
        return;
    fault->struck = !world->host[fault->host].cut && !world->host[fault->host].frozen;
    if (fault->kind == FAULT_HANG) {
        rank->hung = true;
        world->stuck = true;
        return;
    }
    if (phases[fault->kind] != DS_PHASE_STEP &&
        !world->host[fault->host].frozen) { /* it can tell so */
        event.kind = DS_SUPER_STEP;
        event.phase = phases[fault->kind];
        send_up(world, fault->host, event);
    }
    event.oom = fault->kind == FAULT_OOM;
    event.held = fault->kind == FAULT_HELD;
    event.signal = fault->kind == FAULT_SIGNAL ? SIGSEGV : event.oom ? SIGKILL : 0;
    event.code = event.signal == 0 ? 3 : 0;
    world_push(world, world->now_ns, ITEM_END, &event);
}

/* Ranks elsewhere notice that a peer is away, some sooner than the launcher. */
static void peers_notice(struct world *world, uint32_t host)
{
    uint32_t places = world->placement->places;

    for (unsigned i = 0; i < 3 && places > 1 && world->silent_ns != 0; i++) {
        uint32_t other = (uint32_t)world_draw(world, places);

        if (other != host && world_draw(world, 2) == 0)
            end_rank_later(world, other, first_rank(world, other),
                           world_draw(world, 2 * world->silent_ns), DS_RANK_VICTIM_EXIT, 0);
    }
}

static void strike_host(struct world *world, struct fault *fault)
{
    struct sim_host *host = &world->host[fault->host];
    const struct ds_super_event thaw = {.host = fault->host};

    if (host->agent_dead || host->closed || !host->up)
        return;
    fault->struck = !host->cut && !host->frozen;
    world->stuck = true;
    if (fault->kind == FAULT_AGENT) {
        lose_agent(world, fault->host);
        return;
    }
    peers_notice(world, fault->host);
    if (fault->kind == FAULT_CUT) {
        host->cut = true;
        host->cut_ns = world->now_ns;
        return;
    }
    host->frozen = true;
    host->frozen_ns = world->now_ns;
    host->frozen_until_ns = fault->for_ns == 0 ? UINT64_MAX : world->now_ns + fault->for_ns;
    if (fault->for_ns != 0)
        world_push(world, host->frozen_until_ns, ITEM_THAW, &thaw);
}

static void on_fault(struct world *world, const struct ds_super_event *which)
{
    struct ds_super_event event = {.kind = DS_SUPER_BROKEN, .code = 1};
    struct fault *fault = &world->fault[which->code];

    if ((fault->kind == FAULT_HANG || fault->kind == FAULT_FREEZE) &&
        world->saving) { /* nothing is called a hang meanwhile */
        world_push(world, world->now_ns + world->save_ns, ITEM_FAULT, which);
        return;
    }

    switch (fault->kind) {
    case FAULT_EXIT:
    case FAULT_SIGNAL:
    case FAULT_OOM:
    case FAULT_DISK:
    case FAULT_MEMORY:
    case FAULT_COMM:
    case FAULT_HELD:
    case FAULT_HANG: strike_rank(world, fault); return;
    case FAULT_AGENT:
    case FAULT_CUT:
    case FAULT_FREEZE: strike_host(world, fault); return;
    case FAULT_STOP:
        event = (struct ds_super_event){.kind = DS_SUPER_STOP, .signal = SIGTERM};
        break;
    case FAULT_BROKEN: break;
    case FAULT_SLEEP:
        if (world->sleep_until_ns < world->now_ns + fault->for_ns)
            world->sleep_until_ns = world->now_ns + fault->for_ns;
        world->slept = fault->struck = true;
        return;
    case FAULT_STALL:
    case FAULT_KINDS: return;
    }
    fault->struck = true;
    world_push(world, world->now_ns, ITEM_ARRIVE, &event);
}

/* What stands still with a frozen host, and what never reaches it. */
static bool is_held(struct world *world, const struct item *item)
{
    struct sim_host *host = &world->host[item->event.host];

    if (item->kind == ITEM_STEP || item->kind == ITEM_SAVED || item->kind == ITEM_FAULT ||
        item->kind == ITEM_THAW || !host->frozen)
        return false;
    if (item->kind == ITEM_COMMAND)
        host->waiting++;
    if (host->frozen_until_ns != UINT64_MAX)
        world_push(world, host->frozen_until_ns, item->kind, &item->event);
    return true;
}

void world_happen(struct world *world, const struct item *item)
{
    const struct ds_super_event *event = &item->event;

    if (is_held(world, item))
        return;
    switch (item->kind) {
    case ITEM_ARRIVE: return; /* the launcher's */
    case ITEM_STAGE: on_stage(world, event); return;
    case ITEM_BEAT: on_beat(world, event); return;
    case ITEM_COMMAND: on_command(world, event); return;
    case ITEM_STEP: on_step(world); return;
    case ITEM_SAVED: on_saved(world); return;
    case ITEM_END: on_end(world, event); return;
    case ITEM_FAULT: on_fault(world, event); return;
    case ITEM_THAW: world->host[event->host].frozen = false; return;
    }
}
