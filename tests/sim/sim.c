/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sim.c - the simulator: supervise, spares and restart through seeded sequences of failures.
 *
 *     sim COUNT [FIRST_SEED]
 *
 * A sequence is a job: hosts (most have a few, every thousandth 10,000), spares, restarts, in every
 * other one a range of numbers of hosts of which some will do, and up to four faults in each
 * attempt; world.h runs an attempt.  Here is checked what spans attempts: a fault that strikes alone
 * is the cause that is named; no host twice in a placement, none that was replaced or left out, none
 * that is lost while a spare is left; hosts are left out where no spare is left and not before, to
 * the largest number that will do and never below the least; restarts and their delays as promised,
 * only after what the user wants them for and then always, and no loop at one step.  Prints the
 * count of sequences and of failures, and each failing seed; exit 1 when there is one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/exit.h"
#include "launcher/fleet/cause.h"
#include "launcher/fleet/restart.h"
#include "launcher/fleet/spares.h"
#include "tests/sim/world.h"

enum { MOST_HOSTS = 10000, MOST_SPARES = 4, MOST_RANKS = 4 * MOST_HOSTS, SHOWN = 10 };

struct job {
    struct ds_roster roster;
    struct ds_placement placement;
    struct ds_spares spares;
    uint32_t unit; /* what runs can be divided among a multiple of so many ranks */
    struct ds_restart restart;
    struct world world;
    bool lost[MOST_HOSTS + MOST_SPARES]; /* by host of the roster: cannot be reached any more */
    unsigned restarts, on;               /* on: enum ds_cause, after which of them */
    int64_t checkpoint;
};

static struct { /* of all sequences */
    uint64_t hosts, attempts, events, drops, most_hosts, left_out, too_few;
    uint64_t causes[DS_FAILURE_KINDS], faults[FAULT_KINDS];
} total;

/* --- what a seed means ------------------------------------------------------------------------ */

static uint32_t draw_hosts(struct world *world, uint64_t seed)
{
    static const struct {
        uint32_t percent, least, most;
    } sizes[] = {{70, 1, 8}, {95, 2, 128}, {99, 64, 1024}, {100, 512, 4096}};
    uint64_t dice = world_draw(world, 100), exponent;
    size_t i = 0;
    uint32_t least, hosts;

    if (seed % 1000 == 999)
        return MOST_HOSTS;
    while (dice >= sizes[i].percent)
        i++;
    least = sizes[i].least; /* small ones more often: a power of two, then a number below it */
    exponent = world_draw(world, 13);
    hosts = least + (uint32_t)world_draw(world, 1 + (UINT64_C(1) << exponent));
    return hosts < sizes[i].most ? hosts : sizes[i].most;
}

static bool fits(const void *user, const struct ds_placement *placement)
{
    const struct job *job = user;

    return placement->world % job->unit == 0;
}

static void build(struct job *job, uint32_t hosts, uint32_t spares, uint32_t slots, uint32_t least)
{
    const struct ds_host_spec spec = {.slots = slots};
    const struct ds_placement_args args = {.nodes = hosts};
    const struct ds_spares_args range = {
        .least = least, .most = hosts, .fit = {.does = fits, .user = job}};
    char pattern[64];

    (void)snprintf(pattern, sizeof(pattern), "n[1-%u]", hosts + spares);
    ds_roster_init(&job->roster);
    if (ds_roster_add(&job->roster, pattern, &spec, NULL) != 0 ||
        ds_placement_build(&job->placement, &job->roster, &args, NULL) != 0)
        abort();
    if (least == 0 || !ds_placement_cut(&job->placement, least, &range.fit))
        job->unit = 1; /* any number */
    if (ds_spares_init(&job->spares, &job->roster, &job->placement, &range, NULL) != 0)
        abort();
}

static void draw_faults(struct job *job, uint64_t begin_ns)
{
    struct world *world = &job->world;
    uint64_t dice = world_draw(world, 100);
    uint64_t span_ns = 2 * S + world->steps * world->step_ns;

    world->faults = dice < 15 ? 0 : dice < 65 ? 1 : 1 + (unsigned)world_draw(world, FAULTS_MAX);
    for (unsigned i = 0; i < world->faults; i++) {
        struct fault *fault = &world->fault[i];
        const struct ds_place *place;

        *fault = (struct fault){.kind = (enum fault_kind)world_draw(world, FAULT_HELD),
                                .at_ns = begin_ns + 1 + world_draw(world, span_ns),
                                .host = (uint32_t)world_draw(world, job->placement.places)};
        if (fault->kind == FAULT_EXIT && dice % 3 == 0)
            fault->kind = FAULT_HELD;
        if (job->restart.restarts > 0 && world->super.first.held && dice % 2 == 0)
            fault->kind = FAULT_HELD;  /* as it was */
        if (fault->kind == FAULT_HELD) /* ranks begin so soon */
            fault->at_ns = begin_ns + S / 2 + world_draw(world, S);
        place = &job->placement.place[fault->host];
        fault->rank = place->first_rank + (uint32_t)world_draw(world, place->ranks);
        if (fault->kind == FAULT_SLEEP || (fault->kind == FAULT_FREEZE && dice % 2 == 0))
            fault->for_ns = 1 + world_draw(world, 40 * S);
        if (fault->kind == FAULT_STALL)
            world->host[fault->host].stalled = true;
        total.faults[fault->kind]++;
    }
}

static uint64_t between(struct world *world, uint64_t least_ms, uint64_t most_ms)
{
    return (least_ms + world_draw(world, most_ms - least_ms + 1)) * MS;
}

/* The times of a job; some limits are off. */
static void draw_times(struct world *world, uint32_t hosts)
{
    world->silent_ns = world_draw(world, 10) == 0 ? 0 : between(world, 1000, 15000);
    world->hang_ns = world_draw(world, 10) == 0 ? 0 : between(world, 2000, 60000);
    world->grace_ns = between(world, 0, 30000);
    world->abort_ns = between(world, 0, 2000);
    world->close_ns = between(world, 700, 5000);
    world->start_ns = world_draw(world, 10) == 0 ? 0 : between(world, 2500, 60000);
    world->step_ns = between(world, 50, 1000);
    world->save_ns = between(world, 1, world_draw(world, 20) == 0 ? 100000 : 1000);
    world->steps = 2 + world_draw(world, hosts > 256 ? 4 : 16);
}

/* --- an attempt ------------------------------------------------------------------------------- */

static void begin_attempt(struct job *job)
{
    struct world *world = &job->world;
    struct ds_super_args args = {.host = world->super_host,
                                 .rank = world->super_rank,
                                 .hosts = job->placement.places,
                                 .world = job->placement.world,
                                 .start_ns = world->start_ns,
                                 .grace_ns = world->grace_ns,
                                 .abort_ns = world->abort_ns,
                                 .close_ns = world->close_ns,
                                 .silent_ns = world->silent_ns,
                                 .hang_ns = world->hang_ns};

    memset(world->host, 0, args.hosts * sizeof(*world->host));
    memset(world->super_host, 0, args.hosts * sizeof(*world->super_host));
    memset(world->rank, 0, args.world * sizeof(*world->rank));
    memset(world->super_rank, 0, args.world * sizeof(*world->super_rank));
    memset(world->waves, 0, sizeof(world->waves));
    world->stop_ns = world->fail_ns = world->kill_ns = 0;
    world->over = world->stuck = world->saving = world->slept = false;
    world->items = 0;
    world->order = 0;
    world->step = (uint64_t)(job->checkpoint < 0 ? 0 : job->checkpoint);
    for (uint32_t i = 0; i < args.hosts; i++) {
        const struct ds_place *place = &job->placement.place[i];

        world->super_host[i].first_rank = place->first_rank;
        world->super_host[i].ranks = place->ranks;
        world->host[i].stalled = job->lost[place->spec - job->roster.host];
    }
    for (uint32_t i = 0; i < args.world; i++)
        world->rank[i].deaf = world_draw(world, 50) == 0;
    draw_faults(job, world->now_ns);
    ds_supervise_init(&world->super, &args, world->now_ns);
}

/* A fault that struck alone is the cause that is told. */
static void check_cause(struct job *job)
{
    static const enum ds_failure_kind want[FAULT_KINDS] = {
        [FAULT_EXIT] = DS_FAILURE_RANK,   [FAULT_SIGNAL] = DS_FAILURE_RANK,
        [FAULT_OOM] = DS_FAILURE_RANK,    [FAULT_DISK] = DS_FAILURE_RANK,
        [FAULT_MEMORY] = DS_FAILURE_RANK, [FAULT_COMM] = DS_FAILURE_RANK,
        [FAULT_HELD] = DS_FAILURE_RANK,   [FAULT_AGENT] = DS_FAILURE_HOST,
        [FAULT_CUT] = DS_FAILURE_SILENT,  [FAULT_FREEZE] = DS_FAILURE_SILENT,
        [FAULT_HANG] = DS_FAILURE_HANG,   [FAULT_BROKEN] = DS_FAILURE_LAUNCHER,
        [FAULT_STOP] = DS_FAILURE_NONE};
    struct world *world = &job->world;
    const struct fault *fault = &world->fault[0];
    const struct ds_failure *first = &world->super.first;
    bool same_place = first->host == fault->host;

    for (uint32_t i = 0; i < job->placement.places; i++)
        if (world->host[i].stalled)
            return;
    if (world->faults != 1 || !fault->struck || world->super.stop_signal != 0)
        return;
    if (fault->kind == FAULT_SLEEP || fault->kind == FAULT_STALL ||
        (fault->kind == FAULT_FREEZE && fault->for_ns != 0))
        return; /* they may pass unnoticed */
    if (fault->kind == FAULT_BROKEN || fault->kind == FAULT_STOP)
        same_place = true;
    if (first->kind == DS_FAILURE_NONE && world->step >= world->steps)
        return; /* it came when all was done */
    if ((fault->kind == FAULT_CUT || fault->kind == FAULT_FREEZE) &&
        (first->kind == DS_FAILURE_HANG || first->kind == DS_FAILURE_START) && same_place)
        return; /* seen by its ranks, which stand still, before its silence was */
    if (first->kind == want[fault->kind] && same_place &&
        (first->kind != DS_FAILURE_RANK || first->rank == fault->rank) &&
        first->oom == (fault->kind == FAULT_OOM || fault->kind == FAULT_MEMORY) &&
        first->disk == (fault->kind == FAULT_DISK) && first->comm == (fault->kind == FAULT_COMM) &&
        first->held == (fault->kind == FAULT_HELD))
        return;
    (void)world_fail(world, "fault '%s' at host %u rank %u; told is cause %d at host %u rank %u",
                     fault_words[fault->kind], fault->host, fault->rank, (int)first->kind,
                     first->host, first->rank);
}

/* --- between attempts ------------------------------------------------------------------------- */

static void remember_lost(struct job *job)
{
    for (uint32_t i = 0; i < job->placement.places; i++) {
        const struct sim_host *host = &job->world.host[i];

        if (host->cut || host->stalled)
            job->lost[job->placement.place[i].spec - job->roster.host] = true;
    }
}

static uint32_t spares_left(const struct job *job)
{
    uint32_t left = 0;

    for (size_t i = 0; i < job->roster.hosts; i++)
        left += !job->spares.host[i].used && !job->spares.host[i].failed;
    return left;
}

/* Is there a number of hosts from `least` to `most` that will do?  All have as many slots. */
static bool would_do(const struct job *job, uint32_t least, uint32_t most)
{
    uint32_t slots = job->placement.place[0].ranks;

    for (uint32_t hosts = least; hosts <= most; hosts++)
        if (hosts * slots % job->unit == 0)
            return true;
    return false;
}

/* Hosts that were left out: with `left` spares before, of `places`. */
static void check_fewer(struct job *job, const struct ds_spares_change *change, uint32_t left,
                        uint32_t places)
{
    const struct ds_spares_args *range = &job->spares.args;
    const struct ds_placement *placement = &job->placement;
    uint32_t there = change->left < range->most ? change->left : range->most;

    total.left_out += change->out;
    total.too_few += change->too_few;
    if (change->out == 0 && placement->places != places)
        (void)world_fail(&job->world, "%u places of %u with no host left out", placement->places,
                         places);
    if (change->out > 0 && (range->least == 0 || placement->places < range->least ||
                            placement->places > range->most || !fits(job, placement)))
        (void)world_fail(&job->world, "%u hosts of %u to %u", placement->places, range->least,
                         range->most);
    if ((change->out > 0 || change->too_few) && change->replaced < left)
        (void)world_fail(&job->world, "a host is left out, %u spares of %u are used",
                         change->replaced, left);
    if (change->out > 0 && would_do(job, placement->places + 1, there))
        (void)world_fail(&job->world, "%u hosts where more of %u would do", placement->places,
                         there);
    if (change->out > 0 && change->left != places - change->out)
        (void)world_fail(&job->world, "%u hosts are left of %u and %u", change->left, places,
                         change->out);
    if (change->too_few && (change->out > 0 || would_do(job, range->least, there)))
        (void)world_fail(&job->world, "%u hosts are too few for %u to %u", change->left,
                         range->least, range->most);
}

static void check_placement(struct job *job, uint32_t left, uint32_t replaced)
{
    static uint32_t seen[MOST_HOSTS + MOST_SPARES], round;
    uint32_t world = 0;

    round++;
    for (uint32_t i = 0; i < job->placement.places; i++) {
        const struct ds_place *place = &job->placement.place[i];
        size_t host = (size_t)(place->spec - job->roster.host);

        if (seen[host] == round)
            (void)world_fail(&job->world, "host %zu is placed twice", host);
        if (job->spares.host[host].failed)
            (void)world_fail(&job->world, "host %zu is used again", host);
        if (place->first_rank != world)
            (void)world_fail(&job->world, "rank %u is where rank %u was", place->first_rank, world);
        seen[host] = round;
        world += place->ranks;
    }
    if (world != job->placement.world || spares_left(job) + replaced != left)
        (void)world_fail(&job->world, "%u ranks are placed, %u spares of %u used", world, replaced,
                         left);
}

/* Does the user want another try after this? */
static bool is_wanted(unsigned on, const struct ds_failure *first)
{
    static const unsigned kinds[DS_FAILURE_KINDS] = {
        [DS_FAILURE_RANK] = DS_CAUSE_RANK,        [DS_FAILURE_HOST] = DS_CAUSE_HOST_LOST,
        [DS_FAILURE_SILENT] = DS_CAUSE_HOST_LOST, [DS_FAILURE_SLEPT] = DS_CAUSE_HOST_LOST,
        [DS_FAILURE_START] = DS_CAUSE_START,      [DS_FAILURE_HANG] = DS_CAUSE_HANG,
        [DS_FAILURE_LAUNCHER] = DS_CAUSE_LAUNCHER};
    unsigned want = kinds[first->kind];

    if (first->kind == DS_FAILURE_RANK && (first->comm || first->code == DS_RANK_VICTIM_EXIT))
        want = DS_CAUSE_COMM;
    if (first->held)
        want = DS_CAUSE_START;
    if (first->disk)
        want = DS_CAUSE_DISK_FULL;
    if (first->oom)
        want = DS_CAUSE_OOM;
    return (on & want) != 0;
}

/* Is there another attempt? */
static bool again(struct job *job)
{
    static bool lost[MOST_HOSTS];
    struct world *world = &job->world;
    const struct ds_failure *first = &world->super.first;
    struct ds_restart_facts facts = {.limit = job->restarts,
                                     .on = job->on,
                                     .first_ms = 1000,
                                     .cause = ds_cause_class(first),
                                     .code = ds_supervise_code(&world->super),
                                     .stopped = world->super.stop_signal != 0,
                                     .held = first->held,
                                     .step = (int64_t)world->step,
                                     .checkpoint = job->checkpoint};
    bool was = !first->held && job->restart.failed_before && job->restart.step == facts.step &&
               job->restart.checkpoint == facts.checkpoint;
    uint32_t left = spares_left(job), places = job->placement.places;
    struct ds_spares_change change;
    unsigned made = job->restart.restarts, delay_ms = 0;
    const char *why;
    bool next, blamed;

    for (uint32_t i = 0; i < job->placement.places; i++)
        lost[i] = world->super_host[i].lost;
    ds_spares_replace(&job->spares, lost, first, &change);
    facts.replaced = change.first;
    check_fewer(job, &change, left, places);
    check_placement(job, left + places - change.out - job->placement.places, change.replaced);
    blamed = facts.code != 0 &&
             (first->kind == DS_FAILURE_SILENT || first->kind == DS_FAILURE_HOST || first->held);
    if (change.replaced == 0 && left > 0 && blamed)
        (void)world_fail(world, "a lost host is not replaced, %u spares are left", left);
    if (change.replaced + change.out == 0 && !change.too_few && blamed &&
        job->spares.args.least != 0 && job->spares.args.least < job->spares.args.most)
        (void)world_fail(world, "a lost host is not left out");
    next = ds_restart_next(&job->restart, &facts, &delay_ms, &why);
    if (next && (made >= job->restarts || facts.code == 0 || facts.stopped))
        (void)world_fail(world, "restart %u of %u after code %d", made + 1, job->restarts,
                         facts.code);
    if (next && !is_wanted(job->on, first))
        (void)world_fail(world, "restarted after cause %d, which is not wanted", (int)first->kind);
    if (!next && made < job->restarts && facts.code != 0 && !facts.stopped && !was &&
        is_wanted(job->on, first))
        (void)world_fail(world, "not restarted after cause %d", (int)first->kind);
    if (next && was && !facts.replaced)
        (void)world_fail(world, "restarted at the same step for the second time");
    if (next && (delay_ms < 1000 || delay_ms > 30000 || (made > 0 && delay_ms < 2000)))
        (void)world_fail(world, "restart %u after %u ms", made + 1, delay_ms);
    world->now_ns += delay_ms * MS;
    return next && world->failure[0] == '\0';
}

static bool run_job(struct job *job, uint64_t seed)
{
    struct world *world = &job->world;
    uint32_t hosts, spares, slots, least;
    bool next = true;

    world->seed = seed;
    world->draws = 0;
    world->failure[0] = '\0';
    world->now_ns = S;
    world->events = world->drops = 0;
    job->restart = (struct ds_restart){0};
    job->checkpoint = -1;
    hosts = draw_hosts(world, seed);
    spares = (uint32_t)world_draw(world, MOST_SPARES + 1);
    slots = hosts > 64 ? 1 : 1 + (uint32_t)world_draw(world, 4);
    least = world_draw(world, 2) == 0 ? 0 : 1 + (uint32_t)world_draw(world, hosts);
    job->unit = 1 + (uint32_t)world_draw(world, 4);
    build(job, hosts, spares, slots, least);
    memset(job->lost, 0, job->roster.hosts * sizeof(job->lost[0]));
    job->restarts = (unsigned)world_draw(world, 4);
    job->on = world_draw(world, 4) != 0 ? DS_CAUSES_DEFAULT : (unsigned)world_draw(world, 512);
    world->placement = &job->placement;
    draw_times(world, hosts);
    while (next) {
        begin_attempt(job);
        if (world_run(world))
            check_cause(job);
        total.attempts++;
        total.causes[world->super.first.kind]++;
        remember_lost(job);
        if (world->step / 7 * 7 > 0 && (int64_t)(world->step / 7 * 7) > job->checkpoint)
            job->checkpoint = (int64_t)(world->step / 7 * 7);
        next = world->failure[0] == '\0' && again(job);
    }
    total.hosts += hosts;
    total.events += world->events;
    total.drops += world->drops;
    if (hosts > total.most_hosts)
        total.most_hosts = hosts;
    ds_roster_release(&job->roster);
    return world->failure[0] == '\0';
}

/* --- all of them ------------------------------------------------------------------------------ */

static struct job *make_job(void)
{
    struct job *job = calloc(1, sizeof(*job));

    if (job == NULL)
        abort();
    job->world.host = calloc(MOST_HOSTS, sizeof(*job->world.host));
    job->world.super_host = calloc(MOST_HOSTS, sizeof(*job->world.super_host));
    job->world.rank = calloc(MOST_RANKS, sizeof(*job->world.rank));
    job->world.super_rank = calloc(MOST_RANKS, sizeof(*job->world.super_rank));
    if (job->world.host == NULL || job->world.super_host == NULL || job->world.rank == NULL ||
        job->world.super_rank == NULL)
        abort();
    return job;
}

static void free_job(struct job *job)
{
    free(job->world.host);
    free(job->world.super_host);
    free(job->world.rank);
    free(job->world.super_rank);
    free(job->world.heap);
    free(job);
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, failures = 0;
    struct job *job;

    if (argc > 3 || count == 0 || count > UINT64_MAX / 2) {
        (void)fprintf(stderr, "usage: sim COUNT [FIRST_SEED]\n");
        return DS_EXIT_USAGE;
    }
    job = make_job();
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (run_job(job, seed))
            continue;
        if (failures++ < SHOWN)
            (void)printf("seed %" PRIu64 ": %s\n", seed, job->world.failure);
    }
    free_job(job);
    (void)printf("causes:");
    for (int i = 0; i < DS_FAILURE_KINDS; i++)
        (void)printf(" %" PRIu64, total.causes[i]);
    (void)printf("; faults:");
    for (int i = 0; i < FAULT_KINDS; i++)
        (void)printf(" %s %" PRIu64, fault_words[i], total.faults[i]);
    (void)printf("\n%" PRIu64 " sequences from seed %" PRIu64 ", %" PRIu64 " attempts, %" PRIu64
                 " hosts (at most %" PRIu64 " in one), %" PRIu64 " events, %" PRIu64
                 " hosts dropped, %" PRIu64 " left out, %" PRIu64 " times too few, %" PRIu64
                 " failures\n",
                 count, first, total.attempts, total.hosts, total.most_hosts, total.events,
                 total.drops, total.left_out, total.too_few, failures);
    return failures == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}
