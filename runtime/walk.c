/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * walk.c - the contract is in walk.h.
 */
#include "runtime/walk.h"

#include <stdio.h>

/* Is this instruction the other thread's? */
static bool is_beside(const struct ds_walk *walk, const struct ds_instr *instr)
{
    if (!walk->queues.threaded)
        return false;
    if (walk->apart)
        return instr->queue == DS_QUEUE_HOST;
    return instr->queue != DS_QUEUE_COMPUTE && instr->queue != DS_QUEUE_HOST;
}

/* Instruction i of a step, or what begins there; *last is the last one of it. */
static int begin(struct ds_walk *walk, uint64_t step, size_t i, size_t *last, struct ds_error *err)
{
    const struct ds_instr *instr = &walk->program->instr[i];
    int rc = ds_queue_wait(&walk->queues, instr->queue, instr->waits_for,
                           instr->last_step ? step - 1 : step, err);

    if (rc == 0)
        rc = ds_queue_wait(&walk->queues, instr->queue, instr->room_after,
                           instr->room_last_step ? step - 1 : step, err);
    if (rc == 0)
        rc = walk->work.exec(walk->work.user, step, i, last, err);
    return rc == 0 ? ds_queue_signal(&walk->queues, instr->queue,
                                     walk->program->instr[*last].signals, step, err)
                   : rc;
}

static void mark(struct ds_walk *walk, bool beside, size_t i)
{
    atomic_store_explicit(&walk->at[beside], i + 1, memory_order_relaxed);
}

/* From `i` on the next instruction of the caller, or the end. */
static size_t next_own(const struct ds_walk *walk, size_t i)
{
    while (i < walk->program->count && is_beside(walk, &walk->program->instr[i]))
        i++;
    return i;
}

/* What the last step left, in front of instruction `end`. */
static int begin_rest(struct ds_walk *walk, uint64_t step, size_t end, struct ds_error *err)
{
    int rc = 0;

    while (rc == 0 && walk->rest < end) {
        size_t i = walk->rest;

        mark(walk, false, i);
        rc = begin(walk, step, i, &i, err);
        walk->rest = next_own(walk, i + 1);
    }
    return rc;
}

/* As much of it as it takes until `event` of that step is signalled. */
static int begin_until(struct ds_walk *walk, uint64_t step, uint32_t event, struct ds_error *err)
{
    const struct ds_instr *instr = walk->program->instr;
    size_t i = walk->rest;

    if (event == DS_NO_EVENT || i == walk->program->count ||
        ds_queue_has(&walk->queues, event, step))
        return 0;
    while (i < walk->program->count && instr[i].signals != event)
        i = next_own(walk, i + 1);
    return i < walk->program->count ? begin_rest(walk, step, i + 1, err) : 0;
}

/* In front of an instruction of the caller: what it waits for of the step before. */
static int catch_up(struct ds_walk *walk, uint64_t step, size_t i, struct ds_error *err)
{
    const struct ds_instr *instr = &walk->program->instr[i];
    int rc = 0;

    if (i == walk->norm) /* from here on updates are those of another step */
        return begin_rest(walk, step - 1, walk->program->count, err);
    if (instr->last_step)
        rc = begin_until(walk, step - 1, instr->waits_for, err);
    return rc == 0 && instr->room_last_step ? begin_until(walk, step - 1, instr->room_after, err)
                                            : rc;
}

static int run_own(struct ds_walk *walk, uint64_t step, struct ds_error *err)
{
    const bool leaves = walk->norm < walk->program->count;
    const size_t end = leaves ? walk->norm + 1 : walk->program->count;
    int rc = 0;

    for (size_t i = next_own(walk, 0), last; rc == 0 && i < end; i = next_own(walk, last + 1)) {
        last = i;
        mark(walk, false, i);
        rc = leaves ? catch_up(walk, step, i, err) : 0;
        if (rc == 0)
            rc = begin(walk, step, i, &last, err);
    }
    if (rc == 0 && leaves)
        walk->rest = next_own(walk, end);
    return rc;
}

/* One step of the other thread. */
static int run_beside(void *user, uint64_t step, struct ds_error *err)
{
    struct ds_walk *walk = user;
    int rc = ds_device_enter(walk->device, err);

    for (size_t i = 0, last; rc == 0 && i < walk->program->count; i = last + 1) {
        last = i;
        if (!is_beside(walk, &walk->program->instr[i]))
            continue;
        mark(walk, true, i);
        rc = begin(walk, step, i, &last, err);
    }
    return rc;
}

/* Does the host do something while the caller of a step does something else? */
static bool has_thread(const struct ds_plan *plan, bool apart, bool overlap)
{
    if (apart)
        return plan->offload;
    if (ds_plan_speaks(plan) || plan->pipeline_ranks > 1)
        return false; /* passes speak to other ranks: one thread does it all */
    return overlap && (plan->world > 1 || plan->offload);
}

int ds_walk_open(struct ds_walk *walk, const struct ds_plan *plan, struct ds_device *device,
                 bool overlap, const struct ds_walk_work *work, struct ds_error *err)
{
    const struct ds_program *program = &plan->step;
    int rc;

    walk->program = program;
    walk->device = device;
    walk->work = *work;
    walk->apart = ds_device_is_apart(device);
    walk->norm = walk->rest = program->count;
    rc = ds_queue_init(&walk->queues, device, DS_QUEUE_HOST, program->events, err);
    if (rc == 0 && has_thread(plan, walk->apart, overlap))
        rc = ds_queue_thread(&walk->queues, run_beside, walk, err);
    for (size_t i = 0; walk->apart && walk->queues.threaded && i < program->count; i++)
        if (program->instr[i].op == DS_INSTR_NORM)
            walk->norm = i;
    return rc;
}

void ds_walk_close(struct ds_walk *walk)
{
    ds_queue_release(&walk->queues);
}

int ds_walk_step(struct ds_walk *walk, struct ds_error *err)
{
    walk->steps++;
    if (walk->queues.threaded)
        ds_queue_start(&walk->queues, walk->steps);
    return run_own(walk, walk->steps, err);
}

int ds_walk_settle(struct ds_walk *walk, struct ds_error *err)
{
    int rc = begin_rest(walk, walk->steps, walk->program->count, err);

    return rc == 0 ? ds_queue_settle(&walk->queues, walk->steps, err) : rc;
}

int ds_walk_hush(struct ds_walk *walk, struct ds_error *err)
{
    return walk->queues.threaded && !walk->apart ? ds_walk_settle(walk, err) : 0;
}

void ds_walk_where(const struct ds_walk *walk, const struct ds_plan *plan, char *out, size_t cap)
{
    size_t used = 0;

    out[0] = '\0';
    for (int thread = 0; thread < 2; thread++) {
        size_t at = atomic_load_explicit(&walk->at[thread], memory_order_relaxed);

        if (at == 0 || at > plan->step.count || used >= cap)
            continue;
        if (used > 0)
            used += (size_t)snprintf(out + used, cap - used, "; ");
        used += ds_plan_instr_text(plan, at - 1, out + used, used < cap ? cap - used : 0);
    }
}
