/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * predict.c - the contract is in predict.h.
 */
#include "runtime/cost/predict.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct clocks {
    double queue[DS_QUEUE_COUNT];                          /* when it is free */
    double *event;                                         /* when it last happened */
    double disk_s;                                         /* when the disk is free */
    double loaded[DS_PIECE_ROOMS], stored[DS_PIECE_ROOMS]; /* when what is in a room was */
    unsigned rooms;
    double alone_s; /* computed since the last collective */
    double overlap;
    struct ds_spread spread;
    bool apart; /* the host computes beside the device */
};

static bool talks(const struct ds_instr *instr)
{
    return instr->op == DS_INSTR_REDUCE || instr->op == DS_INSTR_GATHER ||
           instr->op == DS_INSTR_SEND || instr->op == DS_INSTR_RECV || instr->op == DS_INSTR_TIE;
}

static bool copies(const struct ds_instr *instr)
{
    return instr->op == DS_INSTR_OFFLOAD || instr->op == DS_INSTR_FETCH ||
           instr->op == DS_INSTR_STASH || instr->op == DS_INSTR_RESTORE;
}

static bool is_for_disk(const struct ds_instr *instr)
{
    return instr->op == DS_INSTR_LOAD || instr->op == DS_INSTR_STORE;
}

/* Given to the disk now, done when it has come to it. */
static struct ds_span_time move(struct clocks *clocks, const struct ds_instr *instr, double now,
                                double seconds)
{
    unsigned room = instr->piece % clocks->rooms;
    bool load = instr->op == DS_INSTR_LOAD;
    double begin = fmax(fmax(clocks->disk_s, now), load ? clocks->stored[room] : 0.0);

    clocks->disk_s = begin + seconds;
    *(load ? &clocks->loaded[room] : &clocks->stored[room]) = clocks->disk_s;
    return (struct ds_span_time){.begin_s = begin, .end_s = clocks->disk_s};
}

/* The queue whose clock an instruction moves. */
static enum ds_queue queue_of(const struct clocks *clocks, const struct ds_instr *instr)
{
    if (clocks->apart && (instr->queue == DS_QUEUE_HOST || copies(instr)))
        return instr->queue;
    return clocks->overlap > 0.0 && instr->queue != DS_QUEUE_HOST ? instr->queue : DS_QUEUE_COMPUTE;
}

/* Of a collective: until the slowest rank comes. */
static double wait_s(struct clocks *clocks, const struct ds_instr *instr, double seconds)
{
    double wait = 0.0;

    if (talks(instr)) {
        wait = ds_spread_after(clocks->spread, clocks->alone_s) * clocks->alone_s;
        clocks->alone_s = 0.0;
    } else if (queue_of(clocks, instr) == DS_QUEUE_COMPUTE) {
        clocks->alone_s += seconds;
    }
    return wait;
}

static struct ds_span_time run(struct clocks *clocks, const struct ds_instr *instr, double seconds)
{
    enum ds_queue queue = queue_of(clocks, instr);
    struct ds_span_time time = {.begin_s = clocks->queue[queue]};

    if (instr->waits_for != DS_NO_EVENT)
        time.begin_s = fmax(time.begin_s, clocks->event[instr->waits_for]);
    if (instr->room_after != DS_NO_EVENT)
        time.begin_s = fmax(time.begin_s, clocks->event[instr->room_after]);
    if (is_for_disk(instr))
        return move(clocks, instr, time.begin_s, seconds);
    if (instr->piece != UINT32_MAX)
        time.begin_s = fmax(time.begin_s, clocks->loaded[instr->piece % clocks->rooms]);
    time.end_s = time.begin_s + wait_s(clocks, instr, seconds) + seconds;
    clocks->queue[queue] = time.end_s;
    if (queue != DS_QUEUE_COMPUTE && (talks(instr) || (copies(instr) && !clocks->apart)))
        clocks->queue[DS_QUEUE_COMPUTE] += seconds * (1.0 - clocks->overlap);
    if (instr->signals != DS_NO_EVENT)
        clocks->event[instr->signals] = time.end_s;
    return time;
}

static void book(struct ds_prediction *p, const struct clocks *clocks, const struct ds_instr *instr,
                 struct ds_span_time time)
{
    double seconds = time.end_s - time.begin_s;

    if (instr->op == DS_INSTR_FORWARD || instr->op == DS_INSTR_BACKWARD)
        p->compute_s += seconds;
    else if (instr->op == DS_INSTR_UPDATE && queue_of(clocks, instr) == DS_QUEUE_HOST)
        p->host_s += seconds;
    else if (instr->op == DS_INSTR_NORM || instr->op == DS_INSTR_UPDATE)
        p->update_s += seconds;
    else if (talks(instr))
        p->comm_s += seconds;
    else if (copies(instr))
        p->copy_s += seconds;
    else if (is_for_disk(instr))
        p->disk_s += seconds;
}

static double peak_of(const struct ds_cluster *cluster, enum ds_compute compute)
{
    double fp32 = cluster->device.peak.fp32, bf16 = cluster->device.peak.bf16;

    return compute == DS_COMPUTE_FP32 ? (fp32 > 0.0 ? fp32 : bf16) : (bf16 > 0.0 ? bf16 : fp32);
}

static void sum_up(struct ds_prediction *p, const struct ds_cluster *cluster,
                   const struct ds_plan *plan)
{
    double tokens = (double)plan->holders * (double)plan->micro_batches *
                    (double)plan->micro_batch * (double)plan->sequence;

    p->exposed_s = fmax(0.0, p->step_s - p->bubble_s - p->compute_s - p->update_s);
    p->tokens_per_s = tokens / p->step_s;
    p->mfu = p->tokens_per_s * plan->flops_per_token /
             (ds_plan_peak(plan, peak_of(cluster, plan->compute), cluster->device.fp8.peak) *
              (double)plan->world);
}

/* What a part takes for a micro-batch, forward and backward. */
static double part_s(const struct ds_cluster *cluster, const struct ds_plan *plan,
                     const struct ds_plan_part *part)
{
    double seconds = 0.0;

    for (uint32_t block = part->first_block; block < part->end_block; block++) {
        struct ds_instr instr = {.op = DS_INSTR_FORWARD, .block = block};

        seconds += ds_work_instr(cluster, plan, &instr);
        instr.recompute = true;
        if (ds_plan_recomputes(plan, block))
            seconds += ds_work_instr(cluster, plan, &instr);
        instr = (struct ds_instr){.op = DS_INSTR_BACKWARD, .block = block};
        seconds += ds_work_instr(cluster, plan, &instr);
    }
    return seconds;
}

/* One micro-batch goes through all parts and back, the others follow as fast as the slowest part
 * lets them. */
static double bubble_s(const struct ds_prediction *p, const struct ds_cluster *cluster,
                       const struct ds_plan *plan)
{
    double slowest = 0.0, all = 0.0;

    for (unsigned i = 0; plan->part != NULL && i < plan->pipeline_ranks; i++) {
        double seconds = part_s(cluster, plan, &plan->part[i]);

        slowest = fmax(slowest, seconds);
        all += seconds;
    }
    if (plan->part == NULL)
        return 0.0;
    return fmax(0.0, all + (double)(plan->micro_batches - 1) * slowest - p->compute_s);
}

/* A step after whatever the clocks have seen; its times count from where compute was free. */
static void run_step(struct ds_prediction *p, struct clocks *clocks,
                     const struct ds_cluster *cluster, const struct ds_plan *plan)
{
    double begin_s = clocks->queue[DS_QUEUE_COMPUTE];

    p->compute_s = p->update_s = p->comm_s = p->copy_s = p->disk_s = p->host_s = 0.0;
    for (size_t i = 0; i < plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];
        struct ds_span_time time = run(clocks, instr, ds_work_instr(cluster, plan, instr));

        p->time[i].begin_s = time.begin_s - begin_s;
        p->time[i].end_s = time.end_s - begin_s;
        book(p, clocks, instr, time);
    }
    p->bubble_s = bubble_s(p, cluster, plan);
    p->step_s = clocks->queue[DS_QUEUE_COMPUTE] - begin_s + p->bubble_s;
}

int ds_predict(struct ds_prediction *prediction, const struct ds_cluster *cluster,
               const struct ds_plan *plan, struct ds_error *err)
{
    struct clocks clocks = {.overlap = cluster->overlap,
                            .spread =
                                plan->world > 1 ? cluster->device.spread : (struct ds_spread){0},
                            .rooms = plan->piece_rooms,
                            .apart = cluster->pcie.bandwidth > 0.0};

    memset(prediction, 0, sizeof(*prediction));
    if (plan->world != cluster->hosts * cluster->ranks)
        return ds_fail(err, EINVAL,
                       "a plan for %u ranks and a cluster of %" PRIu64 " hosts x %" PRIu64 " ranks",
                       plan->world, cluster->hosts, cluster->ranks);
    if (plan->pieces > 0 && !ds_cluster_disks(cluster))
        return ds_fail(err, EINVAL,
                       "'offload.optim' nvme needs 'disk.read' and 'disk.write' of the cluster, "
                       "which 'dsrun bench io' measures");
    clocks.event = calloc(plan->step.events > 0 ? plan->step.events : 1, sizeof(*clocks.event));
    prediction->time = calloc(plan->step.count, sizeof(*prediction->time));
    prediction->count = plan->step.count;
    if (clocks.event == NULL || prediction->time == NULL) {
        free(clocks.event);
        ds_prediction_release(prediction);
        return ds_fail(err, ENOMEM, "no memory for a timeline of %zu instructions",
                       plan->step.count);
    }
    for (unsigned i = 0; i < (plan->offload || plan->pieces > 0 ? 3 : 2);
         i++) /* until steps are alike */
        run_step(prediction, &clocks, cluster, plan);
    sum_up(prediction, cluster, plan);
    free(clocks.event);
    return 0;
}

int ds_cluster_holds(const struct ds_cluster *cluster, const struct ds_plan *plan,
                     struct ds_error *err)
{
    bool checked = plan->apart && cluster->main.memory > 0.0;

    return checked ? ds_plan_check_host(plan, (unsigned)cluster->ranks,
                                        (uint64_t)cluster->main.memory, err)
                   : 0;
}

void ds_prediction_release(struct ds_prediction *prediction)
{
    free(prediction->time);
    memset(prediction, 0, sizeof(*prediction));
}

void ds_prediction_print(const struct ds_prediction *p, const struct ds_cluster *cluster,
                         struct ds_buf *out)
{
    (void)ds_buf_printf(out, "predicted for %s, %" PRIu64 " x %" PRIu64 " ranks\n",
                        cluster->device.name == NULL ? "this cluster" : cluster->device.name,
                        cluster->hosts, cluster->ranks);
    (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "step", p->step_s * 1e3);
    (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "forward and backward", p->compute_s * 1e3);
    (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "norm and update", p->update_s * 1e3);
    if (p->bubble_s > 0.0)
        (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "waits for other parts", p->bubble_s * 1e3);
    (void)ds_buf_printf(out, "  %-26s %12.3f ms, of which %.3f ms are waited for\n", "collectives",
                        p->comm_s * 1e3, p->exposed_s * 1e3);
    if (p->copy_s > 0.0)
        (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "copies to and from the host",
                            p->copy_s * 1e3);
    if (p->disk_s > 0.0)
        (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "states from and to the disk",
                            p->disk_s * 1e3);
    if (p->host_s > 0.0)
        (void)ds_buf_printf(out, "  %-26s %12.3f ms\n", "update by the host", p->host_s * 1e3);
    (void)ds_buf_printf(out, "  %-26s %12.0f, %.0f per rank\n", "tokens per second",
                        p->tokens_per_s,
                        p->tokens_per_s / (double)(cluster->hosts * cluster->ranks));
    (void)ds_buf_printf(out, "  %-26s %12.1f %%\n", "MFU", p->mfu * 100.0);
}

void ds_prediction_print_json(const struct ds_prediction *p, struct ds_json *json)
{
    ds_json_object(json, "predicted");
    ds_json_f64(json, "step_ms", p->step_s * 1e3, 6);
    ds_json_f64(json, "compute_ms", p->compute_s * 1e3, 6);
    ds_json_f64(json, "update_ms", p->update_s * 1e3, 6);
    ds_json_f64(json, "collectives_ms", p->comm_s * 1e3, 6);
    if (p->bubble_s > 0.0)
        ds_json_f64(json, "bubble_ms", p->bubble_s * 1e3, 6);
    if (p->copy_s > 0.0)
        ds_json_f64(json, "copies_ms", p->copy_s * 1e3, 6);
    if (p->disk_s > 0.0)
        ds_json_f64(json, "disk_ms", p->disk_s * 1e3, 6);
    if (p->host_s > 0.0)
        ds_json_f64(json, "host_update_ms", p->host_s * 1e3, 6);
    ds_json_f64(json, "waited_ms", p->exposed_s * 1e3, 6);
    ds_json_f64(json, "tokens_per_s", p->tokens_per_s, 6);
    ds_json_f64(json, "mfu", p->mfu, 4);
    ds_json_end_object(json);
}
