/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * watch.c - the launcher's side of world.h, and what must hold there.
 */
#include "tests/sim/world.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "base/exit.h"

enum { MOST_EVENTS = 50000000, SLACK_MS = 1500 };

static const char *const kind_words[DS_FAILURE_KINDS] = {"none",  "rank", "host",  "silent",
                                                         "start", "hang", "slept", "launcher"};

/* --- carrying out ----------------------------------------------------------------------------- */

static void command(struct world *world, enum ds_super_action action)
{
    for (uint32_t i = 0; i < world->placement->places; i++) {
        struct sim_host *host = &world->host[i];
        const struct ds_super_event event = {.host = i, .code = (int)action};

        if (!host->closed && !host->gone)
            world_push(world, world->now_ns + host->latency_ns, ITEM_COMMAND, &event);
    }
}

/* Beats go to hosts whose agent has spoken, and reach who can be reached; they are not worth an
 * item each. */
static void beat(struct world *world)
{
    uint64_t most = world->silent_ns / ds_pulse_interval_ns(world->silent_ns) + 8;

    world->beat_sent_ns = world->now_ns;
    for (uint32_t i = 0; i < world->placement->places && world->silent_ns != 0; i++) {
        struct sim_host *host = &world->host[i];

        if (host->closed || host->gone || (!host->cut && !host->frozen) ||
            world->super_host[i].state < DS_HOST_UP)
            continue;
        if (++host->waiting > most && !world->slept)
            (void)world_fail(world, "%u frames wait for host %u, at most %" PRIu64 " may",
                             host->waiting, i, most);
    }
}

static void deliver(struct world *world, const struct ds_super_event *event);

static void close_host(struct world *world, uint32_t index)
{
    const struct ds_super_event gone = {.kind = DS_SUPER_HOST_GONE, .host = index};

    world->host[index].closed = true;
    if (!world->host[index].gone)
        deliver(world, &gone);
}

/* A host is dropped because it was silent, and only because of that. */
static void drop(struct world *world, uint32_t index)
{
    struct sim_host *host = &world->host[index];
    uint64_t age_ns = world->now_ns - host->arrived_ns;

    world->drops++;
    if (host->closed)
        (void)world_fail(world, "host %u is dropped twice", index);
    if (age_ns < world->silent_ns)
        (void)world_fail(world, "host %u is dropped after %" PRIu64 " ms", index, age_ns / MS);
    if (!host->cut && host->frozen_ns == 0 && !host->agent_dead)
        (void)world_fail(world, "host %u is dropped while it speaks", index);
    if (age_ns > world->silent_ns + SLACK_MS * MS && !world->slept)
        (void)world_fail(world, "host %u is dropped late, after %" PRIu64 " ms", index,
                         age_ns / MS);
    close_host(world, index);
}

static void carry_out(struct world *world, unsigned actions)
{
    static const unsigned told[] = {DS_DO_ASK, DS_DO_STOP, DS_DO_ABORT, DS_DO_KILL};

    for (unsigned i = 0; i < 8; i++)
        world->waves[i] += actions >> i & 1;
    if (world->waves[2] > 1 || world->waves[3] > 1 || world->waves[4] > 1 || world->waves[6] > 1)
        (void)world_fail(world, "a wave is sent twice");
    if ((actions & DS_DO_BEAT) != 0)
        beat(world);
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
        if ((actions & told[i]) != 0)
            command(world, (enum ds_super_action)told[i]);
    if ((actions & DS_DO_STOP) != 0)
        world->stop_ns = world->now_ns;
    if ((actions & DS_DO_ABORT) != 0)
        world->fail_ns = world->now_ns;
    if ((actions & DS_DO_KILL) != 0)
        world->kill_ns = world->now_ns;
    for (uint32_t i = 0; (actions & DS_DO_DROP) != 0 && i < world->placement->places; i++)
        if (world->super_host[i].drop && !world->host[i].closed)
            drop(world, i);
    for (uint32_t i = 0; (actions & DS_DO_CLOSE) != 0 && i < world->placement->places; i++)
        close_host(world, i);
    world->over = world->over || (actions & DS_DO_END) != 0;
}

/* --- the first cause -------------------------------------------------------------------------- */

/* Is this, by itself, the end of the job? */
static bool is_failure(const struct world *world, const struct ds_super_event *event)
{
    const struct ds_supervise *super = &world->super;
    const struct ds_super_host *host = &world->super_host[event->host];

    switch (event->kind) {
    case DS_SUPER_BROKEN: return true;
    case DS_SUPER_HOST_GONE:
        return host->state != DS_HOST_GONE && host->ended < host->ranks && !super->killed;
    case DS_SUPER_EXIT:
        if (world->super_rank[event->rank].ended || (event->signal == SIGKILL && super->killed))
            return false;
        if (event->signal != 0)
            return true;
        return event->code != 0 && event->code != DS_EXIT_STOPPED &&
               event->code != DS_RANK_VICTIM_EXIT;
    default: return false;
    }
}

/* Does the failure that is named now fit the event that was given? */
static bool fits(const struct world *world, const struct ds_failure *first,
                 const struct ds_super_event *event)
{
    switch (first->kind) {
    case DS_FAILURE_RANK:
        return event->kind == DS_SUPER_EXIT && event->host == first->host &&
               event->rank == first->rank && event->code == first->code &&
               event->signal == first->signal && first->held == event->held &&
               first->oom ==
                   (event->oom || world->super_rank[event->rank].phase == DS_PHASE_NO_MEMORY);
    case DS_FAILURE_HOST: return event->kind == DS_SUPER_HOST_GONE && event->host == first->host;
    case DS_FAILURE_SLEPT:
        return world->slept && (event->kind == DS_SUPER_HOST_GONE || event->kind == DS_SUPER_TICK);
    case DS_FAILURE_SILENT:
    case DS_FAILURE_START:
    case DS_FAILURE_HANG: return event->kind == DS_SUPER_TICK;
    case DS_FAILURE_LAUNCHER: return event->kind == DS_SUPER_BROKEN;
    case DS_FAILURE_NONE:
    case DS_FAILURE_KINDS: break;
    }
    return false;
}

static bool same(const struct ds_failure *a, const struct ds_failure *b)
{
    return a->kind == b->kind && a->host == b->host && a->rank == b->rank && a->code == b->code &&
           a->signal == b->signal && a->step == b->step && a->oom == b->oom && a->disk == b->disk &&
           a->comm == b->comm && a->held == b->held && a->mute == b->mute && a->victim == b->victim;
}

static void check_first(struct world *world, const struct ds_failure *old, bool failed,
                        const struct ds_super_event *event)
{
    const struct ds_failure *now = &world->super.first;
    bool settled = old->kind != DS_FAILURE_NONE && !old->victim;

    if (settled && !same(old, now))
        (void)world_fail(world, "the first failure was %s and is now %s", kind_words[old->kind],
                         kind_words[now->kind]);
    if (!settled && failed && (now->kind == DS_FAILURE_NONE || now->victim))
        (void)world_fail(world, "a failure is not named: event %d of host %u", (int)event->kind,
                         event->host);
    if (now->kind == DS_FAILURE_HANG && !world->stuck)
        (void)world_fail(world, "a job that makes steps, or saves, is called a hang");
    if (!same(old, now) && !fits(world, now, event))
        (void)world_fail(world, "%s is named for event %d of host %u", kind_words[now->kind],
                         (int)event->kind, event->host);
}

/* --- one event -------------------------------------------------------------------------------- */

static void deliver(struct world *world, const struct ds_super_event *event)
{
    const struct ds_failure old = world->super.first;
    bool failed = is_failure(world, event), ended = world->over;
    unsigned actions = ds_supervise(&world->super, event, world->now_ns);

    world->events++;
    if (ended && actions != 0)
        (void)world_fail(world, "actions %u after the end", actions);
    if (!ended)
        check_first(world, &old, failed, event);
    if (event->kind == DS_SUPER_HOST_GONE)
        world->host[event->host].gone = true;
    if (actions != 0)
        carry_out(world, actions);
}

/* What arrives: not from a host that was closed here, or is cut. */
static void arrive(struct world *world, const struct item *item)
{
    const struct ds_super_event *event = &item->event;
    struct sim_host *host = &world->host[event->host];

    if (event->kind == DS_SUPER_STOP || event->kind == DS_SUPER_BROKEN) {
        deliver(world, event);
        return;
    }
    if (host->closed || host->gone || (host->cut && item->at_ns >= host->cut_ns))
        return;
    if (event->kind != DS_SUPER_HOST_GONE) {
        const struct ds_super_event heard = {.kind = DS_SUPER_HOST_HEARD, .host = event->host};

        host->arrived_ns = world->now_ns;
        deliver(world, &heard);
    }
    for (int i = world_draw(world, 16) == 0 ? 2 : 1; i > 0; i--) /* some are told twice */
        if (event->kind != DS_SUPER_HOST_HEARD && !world->over)
            deliver(world, event);
}

/* --- deadlines -------------------------------------------------------------------------------- */

/* With every limit on, a job never waits for the user to lose patience; but for a hang before
 * the second step, or while ranks save. */
static void check_patience(struct world *world)
{
    if (world->now_ns < world->patience_ns || world->slept || world->silent_ns == 0 ||
        world->start_ns == 0 || world->super.stop_ns < world->patience_ns)
        return;
    if (world->hang_ns == 0 || world->super.pulse.steps == 0 || world->super.pulse.busy > 0)
        return;
    (void)world_fail(world, "nothing but the user's patience ended it");
}

static void check_deadlines(struct world *world)
{
    uint64_t slack_ns = SLACK_MS * MS, end_ns = UINT64_MAX;

    if (world->slept)
        return;
    if (world->kill_ns != 0)
        end_ns = world->kill_ns + world->close_ns;
    else if (world->fail_ns != 0)
        end_ns = world->fail_ns + world->abort_ns + world->close_ns;
    else if (world->stop_ns != 0)
        end_ns = world->stop_ns + world->grace_ns + world->close_ns;
    if (end_ns != UINT64_MAX && world->now_ns > end_ns + slack_ns)
        (void)world_fail(world, "%" PRIu64 " ms after the time to end",
                         (world->now_ns - end_ns) / MS);
}

/* --- an attempt ------------------------------------------------------------------------------- */

static void begin(struct world *world)
{
    const uint32_t places = world->placement->places;
    const struct ds_super_event none = {0}, stop = {.kind = DS_SUPER_STOP, .signal = SIGTERM};
    uint64_t longest_ns = 0;

    for (uint32_t i = 0; i < places; i++) {
        struct ds_super_event stage = {.host = i};
        uint64_t at_ns = world->now_ns + 1 + world_draw(world, 300 * MS);

        world->host[i].latency_ns =
            world_draw(world, 20) == 0 ? world_draw(world, 300 * MS) : world_draw(world, 2 * MS);
        world_push(world, at_ns, ITEM_STAGE, &stage);
    }
    world_push(world, world->now_ns + world->step_ns, ITEM_STEP, &none);
    for (unsigned i = 0; i < world->faults; i++) {
        const struct ds_super_event which = {.code = (int)i};

        world_push(world, world->fault[i].at_ns, ITEM_FAULT, &which);
    }
    longest_ns = world->start_ns + world->steps * (world->step_ns + world->save_ns) +
                 2 * (world->silent_ns + world->hang_ns + world->grace_ns) + 60 * S;
    for (unsigned i = 0; i < 3; i++) /* a user who has no patience left */
        world_push(world, world->now_ns + longest_ns + i * S, ITEM_ARRIVE, &stop);
    world->end_ns = world->now_ns + longest_ns + world->grace_ns + 100 * S;
    world->patience_ns = world->now_ns + longest_ns;
    world->sleep_until_ns = 0;
    world->beat_sent_ns = world->now_ns;
}

static void check_end(struct world *world)
{
    const struct ds_supervise *super = &world->super;
    static const struct ds_super_event late[] = {{.kind = DS_SUPER_TICK},
                                                 {.kind = DS_SUPER_STOP, .signal = SIGINT},
                                                 {.kind = DS_SUPER_EXIT, .code = 1},
                                                 {.kind = DS_SUPER_HOST_GONE},
                                                 {.kind = DS_SUPER_BROKEN, .code = 1}};
    int code = ds_supervise_code(super);

    if (super->hosts_gone != world->placement->places || super->ended != world->placement->world)
        (void)world_fail(world, "%u of %u hosts and %u of %u ranks have ended", super->hosts_gone,
                         world->placement->places, super->ended, world->placement->world);
    for (uint32_t i = 0; i < world->placement->places; i++)
        if (world->super_host[i].state != DS_HOST_GONE ||
            world->super_host[i].ended != world->super_host[i].ranks)
            (void)world_fail(world, "host %u is not gone", i);
    if (code < 0 || code > 255)
        (void)world_fail(world, "exit code %d", code);
    if ((code == 0) !=
        (super->first.kind == DS_FAILURE_NONE && super->saved == 0 && !super->unsaved))
        (void)world_fail(world, "exit code %d after %s", code, kind_words[super->first.kind]);
    world->now_ns += 100 * S;
    for (size_t i = 0; i < sizeof(late) / sizeof(late[0]); i++)
        deliver(world, &late[i]);
}

bool world_run(struct world *world)
{
    const struct ds_super_event tick = {.kind = DS_SUPER_TICK};

    begin(world);
    while (!world->over) {
        uint64_t tick_ns = ds_supervise_next_ns(&world->super);
        struct item item;

        if (tick_ns < world->sleep_until_ns)
            tick_ns = world->sleep_until_ns;
        if (world->events > MOST_EVENTS || tick_ns > world->end_ns)
            return world_fail(world, "no end after %" PRIu64 " events", world->events);
        if (world->items == 0 || tick_ns <= world->heap[0].at_ns) {
            if (world->now_ns < tick_ns)
                world->now_ns = tick_ns;
            deliver(world, &tick);
            check_deadlines(world);
            continue;
        }
        item = world_pop(world);
        if (item.kind == ITEM_ARRIVE && item.at_ns < world->sleep_until_ns) {
            world_push(world, world->sleep_until_ns, ITEM_ARRIVE, &item.event);
            continue;
        }
        if (world->now_ns < item.at_ns)
            world->now_ns = item.at_ns;
        if (item.kind == ITEM_ARRIVE)
            arrive(world, &item);
        else
            world_happen(world, &item);
    }
    check_patience(world);
    if (world->failure[0] == '\0')
        check_end(world);
    return world->failure[0] == '\0';
}
