/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * graphs.c - the contract is in graphs.h.
 */
#include "runtime/graphs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool passes(const struct ds_instr *instr)
{
    return instr->queue == DS_QUEUE_COMPUTE &&
           (instr->op == DS_INSTR_FORWARD || instr->op == DS_INSTR_BACKWARD);
}

/* Must it be the first of its run? */
static bool begins(const struct ds_plan *plan, const struct ds_instr *instr)
{
    return instr->waits_for != DS_NO_EVENT || instr->room_after != DS_NO_EVENT ||
           (instr->op == DS_INSTR_FORWARD && instr->block == plan->first_block &&
            !instr->recompute);
}

/* How many instructions from `first` on are one run; 0: that one is in none. */
static size_t length(const struct ds_plan *plan, size_t first)
{
    const struct ds_program *step = &plan->step;
    size_t n = 0;

    while (first + n < step->count && passes(&step->instr[first + n]) &&
           (n == 0 || !begins(plan, &step->instr[first + n]))) {
        n++;
        if (step->instr[first + n - 1].signals != DS_NO_EVENT)
            break;
    }
    return n;
}

/* Activations are where they are in the slot of the micro-batch. */
static bool alike(const struct ds_plan *plan, const struct ds_graph_run *a,
                  const struct ds_graph_run *b)
{
    const struct ds_program *step = &plan->step;

    if (a->count != b->count || step->instr[a->first].micro_batch % plan->slots !=
                                    step->instr[b->first].micro_batch % plan->slots)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct ds_instr *x = &step->instr[a->first + i], *y = &step->instr[b->first + i];

        if (x->op != y->op || x->block != y->block || x->recompute != y->recompute ||
            x->accumulate != y->accumulate)
            return false;
    }
    return true;
}

static void find_runs(struct ds_graphs *graphs)
{
    const struct ds_program *step = &graphs->plan->step;

    for (size_t at = 0; at < step->count;) {
        struct ds_graph_run *run = &graphs->run[graphs->runs];

        *run = (struct ds_graph_run){.first = at, .count = length(graphs->plan, at)};
        at += run->count > 0 ? run->count : 1;
        if (run->count == 0)
            continue;
        while (run->like < graphs->runs && !alike(graphs->plan, &graphs->run[run->like], run))
            run->like++;
        graphs->runs++;
    }
}

const char *ds_graphs_why_not(const struct ds_plan *plan, const struct ds_job *job,
                              const struct ds_device *device)
{
    if (!ds_device_is_apart(device))
        return "";
    if (ds_plan_speaks(plan))
        return "ranks that share sequences or layers speak to each other in the middle of a pass";
    return job->model.dropout > 0.0 || job->model.attention_dropout > 0.0
               ? "dropout draws anew for each micro-batch"
               : NULL;
}

int ds_graphs_open(struct ds_graphs *graphs, const struct ds_plan *plan, struct ds_device *device,
                   const char *why_not, struct ds_error *err)
{
    *graphs = (struct ds_graphs){.plan = plan, .device = device, .on = why_not == NULL};
    if (why_not != NULL && why_not[0] != '\0')
        (void)snprintf(graphs->note, sizeof(graphs->note), "without CUDA graphs: %s", why_not);
    if (!graphs->on)
        return 0;
    graphs->run = calloc(plan->step.count, sizeof(*graphs->run));
    if (graphs->run == NULL)
        return ds_fail(err, ENOMEM, "no memory for the runs of %zu instructions", plan->step.count);
    find_runs(graphs);
    return 0;
}

static void drop_all(struct ds_graphs *graphs)
{
    for (size_t i = 0; i < graphs->runs; i++) {
        ds_recording_free(graphs->device, graphs->run[i].recording);
        graphs->run[i].recording = NULL;
    }
}

void ds_graphs_close(struct ds_graphs *graphs)
{
    drop_all(graphs);
    free(graphs->run);
    memset(graphs, 0, sizeof(*graphs));
}

static int by_first(const void *key, const void *run)
{
    size_t a = *(const size_t *)key, b = ((const struct ds_graph_run *)run)->first;

    return (a > b) - (a < b);
}

struct ds_graph_run *ds_graphs_at(const struct ds_graphs *graphs, size_t first)
{
    if (!graphs->on)
        return NULL;
    return bsearch(&first, graphs->run, graphs->runs, sizeof(*graphs->run), by_first);
}

/* The end is asked for in any case: nothing else lets the stream go on. */
static int record(struct ds_graphs *graphs, const struct ds_graph_run *run,
                  const struct ds_graph_work *work, struct ds_recording **out, struct ds_error *err)
{
    struct ds_stream *stream = ds_device_stream(graphs->device);
    int rc = ds_stream_record(stream, err), end;

    if (rc != 0)
        return rc;
    rc = work->work(work->user, run->first, run->count, err);
    end = ds_stream_record_end(stream, out, rc == 0 ? err : NULL);
    if (rc == 0)
        return end;
    ds_recording_free(graphs->device, *out);
    *out = NULL;
    return rc;
}

static void give_up(struct ds_graphs *graphs, const struct ds_error *err)
{
    (void)snprintf(graphs->note, sizeof(graphs->note), "without CUDA graphs from here on: %s",
                   err->text);
    graphs->on = graphs->told = false;
    drop_all(graphs);
}

int ds_graphs_do(struct ds_graphs *graphs, const struct ds_graph_run *run,
                 const struct ds_graph_work *work, struct ds_error *err)
{
    struct ds_graph_run *like = &graphs->run[run->like];
    struct ds_error why = {0};

    if (like->recording != NULL && memcmp(like->factor, work->factor, sizeof(like->factor)) != 0) {
        ds_recording_free(graphs->device, like->recording);
        like->recording = NULL;
    }
    if (like->warm && like->recording == NULL) {
        memcpy(like->factor, work->factor, sizeof(like->factor));
        if (record(graphs, run, work, &like->recording, &why) != 0)
            give_up(graphs, &why);
    }
    like->warm = true;
    return like->recording != NULL
               ? ds_stream_play(ds_device_stream(graphs->device), like->recording, err)
               : work->work(work->user, run->first, run->count, err);
}

const char *ds_graphs_note(struct ds_graphs *graphs)
{
    if (graphs->told || graphs->note[0] == '\0')
        return NULL;
    graphs->told = true;
    return graphs->note;
}
