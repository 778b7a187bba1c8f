/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * profile.c - the contract is in profile.h.
 */
#include "runtime/profile.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

struct interval {
    double begin_s, end_s;
};

struct set { /* of intervals, by begin; none touches another once they are merged */
    struct interval *at;
    size_t count;
};

/* --- intervals -------------------------------------------------------------------------------- */

static int by_begin(const void *a, const void *b)
{
    const struct interval *x = a, *y = b;

    return (x->begin_s > y->begin_s) - (x->begin_s < y->begin_s);
}

static void merge(struct set *set)
{
    size_t kept = 0;

    qsort(set->at, set->count, sizeof(*set->at), by_begin);
    for (size_t i = 0; i < set->count; i++) {
        if (kept > 0 && set->at[i].begin_s <= set->at[kept - 1].end_s)
            set->at[kept - 1].end_s = fmax(set->at[kept - 1].end_s, set->at[i].end_s);
        else
            set->at[kept++] = set->at[i];
    }
    set->count = kept;
}

static double length(const struct set *set)
{
    double sum = 0.0;

    for (size_t i = 0; i < set->count; i++)
        sum += set->at[i].end_s - set->at[i].begin_s;
    return sum;
}

/* Take `what` out of `from`, both merged, into `rest`, which has room for both together; how much
 * that was. */
static double take_out(const struct set *from, const struct set *what, struct set *rest)
{
    size_t k = 0;

    rest->count = 0;
    for (size_t i = 0; i < from->count; i++) {
        double at = from->at[i].begin_s, end_s = from->at[i].end_s;

        while (k < what->count && what->at[k].end_s <= at)
            k++;
        for (size_t j = k; j < what->count && what->at[j].begin_s < end_s; j++) {
            if (what->at[j].begin_s > at)
                rest->at[rest->count++] = (struct interval){at, what->at[j].begin_s};
            at = fmax(at, what->at[j].end_s);
        }
        if (at < end_s)
            rest->at[rest->count++] = (struct interval){at, end_s};
    }
    return length(from) - length(rest);
}

/* --- what a span is --------------------------------------------------------------------------- */

enum group { COMPUTED, COMMUNICATION, COPIES, HOST, GROUPS };

static const struct ds_instr *instr_of(const struct ds_plan *plan, const struct ds_probe_span *span)
{
    return &plan->step.instr[span->part];
}

static bool is_of(const struct ds_plan *plan, const struct ds_probe_span *span, enum group group)
{
    bool part = span->kind == DS_PROBE_PART;
    enum ds_instr_op op = part ? instr_of(plan, span)->op : DS_INSTR_SAVE;

    switch (group) {
    case COMPUTED: return span->kind == DS_PROBE_OP && !span->beside;
    case COMMUNICATION: return op == DS_INSTR_REDUCE || op == DS_INSTR_GATHER;
    case COPIES:
        return op == DS_INSTR_OFFLOAD || op == DS_INSTR_FETCH ||
               (span->kind == DS_PROBE_OP && span->beside && strncmp(span->name, "copy", 4) == 0);
    case HOST: return op == DS_INSTR_NORM;
    case GROUPS: break;
    }
    return false;
}

static void collect(struct set *set, const struct ds_plan *plan, const struct ds_probe_span *span,
                    size_t count, enum group group)
{
    set->count = 0;
    for (size_t i = 0; i < count; i++)
        if (is_of(plan, &span[i], group))
            set->at[set->count++] = (struct interval){span[i].begin_s, span[i].end_s};
    merge(set);
}

/* Book all of the step in turn: first what was computed, then the rest. */
static int book(struct ds_profile *p, const struct ds_plan *plan, const struct ds_probe_span *span,
                size_t count, struct ds_error *err)
{
    double *to[GROUPS] = {&p->ops_s, &p->communication_s, &p->copies_s, &p->host_s};
    size_t room = 3 * count + 1;
    struct set what = {0}, left = {0}, rest = {0};
    int rc = 0;

    what.at = calloc(room, sizeof(*what.at));
    left.at = calloc(room, sizeof(*left.at));
    rest.at = calloc(room, sizeof(*rest.at));
    if (what.at == NULL || left.at == NULL || rest.at == NULL) {
        rc = ds_fail(err, ENOMEM, "no memory for the profile of a step");
    } else {
        left.at[0] = (struct interval){0.0, p->step_s};
        left.count = 1;
        for (unsigned i = 0; i < GROUPS; i++) {
            struct set swap = left;

            collect(&what, plan, span, count, (enum group)i);
            *to[i] = take_out(&left, &what, &rest);
            left = rest;
            rest = swap;
        }
        p->between_s = length(&left);
    }
    free(what.at);
    free(left.at);
    free(rest.at);
    return rc;
}

/* --- rows ------------------------------------------------------------------------------------- */

static bool same_row(const struct ds_profile_row *row, const struct ds_probe_span *span)
{
    return row->beside == span->beside && strcmp(row->name, span->name) == 0 &&
           strcmp(row->shape, span->shape) == 0;
}

static void add_to_row(struct ds_profile *p, const struct ds_probe_span *span)
{
    struct ds_profile_row *row = p->row;

    while (row < p->row + p->rows && !same_row(row, span))
        row++;
    if (row == p->row + p->rows) {
        *row = (struct ds_profile_row){.name = span->name, .beside = span->beside};
        memcpy(row->shape, span->shape, sizeof(row->shape));
        p->rows++;
    }
    row->calls++;
    row->seconds += span->end_s - span->begin_s;
    row->amount.flops += span->amount.flops;
    row->amount.bytes += span->amount.bytes;
}

static int by_time(const void *a, const void *b)
{
    const struct ds_profile_row *x = a, *y = b;

    if (x->beside != y->beside)
        return x->beside ? 1 : -1;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

/* What the host was at; NULL: the step's calls were all made. */
static const char *during(const struct ds_plan *plan, const struct ds_probe_span *span,
                          size_t count, double at_s)
{
    double last_s = 0.0;

    for (size_t i = 0; i < count; i++) {
        if (span[i].kind != DS_PROBE_PART)
            continue;
        last_s = fmax(last_s, span[i].back_s);
        if (span[i].called_s <= at_s && at_s < span[i].back_s)
            return ds_instr_op_name(instr_of(plan, &span[i])->op);
    }
    return at_s < last_s ? "" : NULL;
}

static void add_wait(struct ds_profile *p, const struct ds_probe_span *span, const char *where)
{
    unsigned i = 0;

    while (i < p->waits &&
           (strcmp(p->wait[i].call, span->name) != 0 || strcmp(p->wait[i].during, where) != 0))
        i++;
    if (i == DS_PROFILE_WAITS)
        i--;
    if (i == p->waits)
        p->wait[p->waits++] = (struct ds_profile_wait){.call = span->name, .during = where};
    p->wait[i].count++;
    p->wait[i].seconds += span->back_s - span->called_s;
}

int ds_profile_make(struct ds_profile *p, const struct ds_plan *plan,
                    const struct ds_probe_span *span, size_t count, double seconds,
                    struct ds_error *err)
{
    *p = (struct ds_profile){.step_s = seconds};
    p->row = calloc(count + 1, sizeof(*p->row));
    if (p->row == NULL)
        return ds_fail(err, ENOMEM, "no memory for the profile of a step");
    for (size_t i = 0; i < count; i++) {
        const char *where = during(plan, span, count, span[i].called_s);

        if (span[i].kind == DS_PROBE_OP)
            add_to_row(p, &span[i]);
        else if (span[i].kind == DS_PROBE_PART)
            p->busy_s[instr_of(plan, &span[i])->queue] += span[i].end_s - span[i].begin_s;
        else if (where != NULL)
            add_wait(p, &span[i], where);
    }
    qsort(p->row, p->rows, sizeof(*p->row), by_time);
    return book(p, plan, span, count, err);
}

void ds_profile_release(struct ds_profile *profile)
{
    free(profile->row);
    memset(profile, 0, sizeof(*profile));
}

double ds_profile_share(const struct ds_profile_row *row, const struct ds_profile_facts *facts)
{
    bool fp8 = facts->fp8_peak > 0.0 && strcmp(row->name, "matmul") == 0 &&
               strstr(row->shape, " U8 ") != NULL;
    double peak = fp8 ? facts->fp8_peak : facts->peak;
    double flops_s = peak > 0.0 ? row->amount.flops / peak : 0.0;
    double bytes_s = facts->copy > 0.0 ? row->amount.bytes / facts->copy : 0.0;

    return row->seconds > 0.0 ? fmax(flops_s, bytes_s) / row->seconds : 0.0;
}

/* --- text ------------------------------------------------------------------------------------- */

static void print_row(const struct ds_profile *p, const struct ds_profile_row *row,
                      const struct ds_profile_facts *facts, struct ds_buf *out)
{
    double seconds = row->seconds > 0.0 ? row->seconds : 1e-9;

    (void)ds_buf_printf(out, "  %-14s %-44s %6zu %10.3f", row->name, row->shape, row->calls,
                        row->seconds * 1e3);
    if (row->beside)
        (void)ds_buf_puts(out, "       ");
    else
        (void)ds_buf_printf(out, " %5.1f%%", 100.0 * row->seconds / p->step_s);
    if (row->amount.flops > 0.0)
        (void)ds_buf_printf(out, " %10.1f", row->amount.flops / seconds * 1e-9);
    else
        (void)ds_buf_printf(out, " %10s", "");
    (void)ds_buf_printf(out, " %9.1f %8.2f\n", row->amount.bytes / seconds * 1e-9,
                        ds_profile_share(row, facts));
}

static void print_left(const struct ds_profile *p, const char *what, double seconds,
                       struct ds_buf *out)
{
    (void)ds_buf_printf(out, "  %-66s %10.3f %5.1f%%\n", what, seconds * 1e3,
                        100.0 * seconds / p->step_s);
}

void ds_profile_print(const struct ds_profile *p, const struct ds_plan *plan,
                      const struct ds_profile_facts *facts, struct ds_buf *out)
{
    bool beside = false;

    (void)ds_buf_printf(out, "step %llu of rank %u on %s, operation by operation: %.3f ms\n\n",
                        (unsigned long long)facts->step, plan->rank, facts->device,
                        p->step_s * 1e3);
    (void)ds_buf_printf(out, "  %-14s %-44s %6s %10s %6s %10s %9s %8s\n", "operation", "shape",
                        "calls", "ms", "share", "GFLOP/s", "GB/s", "of bound");
    for (size_t i = 0; i < p->rows; i++) {
        if (p->row[i].beside && !beside)
            (void)ds_buf_puts(out, "  beside what computes:\n");
        beside = p->row[i].beside;
        print_row(p, &p->row[i], facts, out);
    }
    (void)ds_buf_puts(out, "\n");
    print_left(p, "operations", p->ops_s, out);
    print_left(p, "communication that is waited for", p->communication_s, out);
    print_left(p, "copies that are waited for", p->copies_s, out);
    print_left(p, "the host, between norm and update", p->host_s, out);
    print_left(p, "between operations", p->between_s, out);
    for (unsigned i = 1; i < DS_QUEUE_COUNT; i++)
        if (p->busy_s[i] > 0.0)
            (void)ds_buf_printf(out, "  queue %s was at work for %.3f ms\n",
                                ds_queue_name((enum ds_queue)i), p->busy_s[i] * 1e3);
    for (unsigned i = 0; i < p->waits; i++)
        (void)ds_buf_printf(out,
                            "  the host waited for the device in %s, %zu time%s, %.3f ms%s%s\n",
                            p->wait[i].call, p->wait[i].count, p->wait[i].count == 1 ? "" : "s",
                            p->wait[i].seconds * 1e3, p->wait[i].during[0] != '\0' ? ", in " : "",
                            p->wait[i].during);
    (void)ds_buf_printf(out,
                        "\nof bound: the time at %.1f GFLOP/s (peak) or %.1f GB/s (a copy of %llu "
                        "MiB, measured), whichever is longer, over the time it took\n",
                        facts->peak * 1e-9, facts->copy * 1e-9,
                        (unsigned long long)(facts->copy_bytes >> 20));
}

static void row_json(const struct ds_profile_row *row, const struct ds_profile_facts *facts,
                     struct ds_json *json)
{
    ds_json_object(json, NULL);
    ds_json_string(json, "name", row->name);
    ds_json_string(json, "shape", row->shape);
    ds_json_bool(json, "beside", row->beside);
    ds_json_u64(json, "calls", row->calls);
    ds_json_f64(json, "ms", row->seconds * 1e3, 7);
    ds_json_f64(json, "flops", row->amount.flops, 17);
    ds_json_f64(json, "bytes", row->amount.bytes, 17);
    ds_json_f64(json, "of_bound", ds_profile_share(row, facts), 4);
    ds_json_end_object(json);
}

static void waits_json(const struct ds_profile *p, struct ds_json *json)
{
    ds_json_array(json, "waits");
    for (unsigned i = 0; i < p->waits; i++) {
        ds_json_object(json, NULL);
        ds_json_string(json, "call", p->wait[i].call);
        ds_json_string(json, "during", p->wait[i].during);
        ds_json_u64(json, "count", p->wait[i].count);
        ds_json_f64(json, "ms", p->wait[i].seconds * 1e3, 7);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}

void ds_profile_print_json(const struct ds_profile *p, const struct ds_plan *plan,
                           const struct ds_profile_facts *facts, struct ds_buf *out)
{
    struct ds_json json;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "rank", plan->rank);
    ds_json_u64(&json, "step", facts->step);
    ds_json_string(&json, "device", facts->device);
    ds_json_u64(&json, "tokens", facts->tokens);
    ds_json_f64(&json, "peak_flops", facts->peak, 6);
    ds_json_f64(&json, "copy_bytes_per_s", facts->copy, 6);
    ds_json_u64(&json, "copy_bytes", facts->copy_bytes);
    ds_json_f64(&json, "step_ms", p->step_s * 1e3, 7);
    ds_json_f64(&json, "operations_ms", p->ops_s * 1e3, 7);
    ds_json_object(&json, "left_ms");
    ds_json_f64(&json, "communication", p->communication_s * 1e3, 7);
    ds_json_f64(&json, "copies", p->copies_s * 1e3, 7);
    ds_json_f64(&json, "host", p->host_s * 1e3, 7);
    ds_json_f64(&json, "between", p->between_s * 1e3, 7);
    ds_json_end_object(&json);
    ds_json_object(&json, "queues_ms");
    for (unsigned i = 0; i < DS_QUEUE_COUNT; i++)
        ds_json_f64(&json, ds_queue_name((enum ds_queue)i), p->busy_s[i] * 1e3, 7);
    ds_json_end_object(&json);
    ds_json_array(&json, "operations");
    for (size_t i = 0; i < p->rows; i++)
        row_json(&p->row[i], facts, &json);
    ds_json_end_array(&json);
    waits_json(p, &json);
    ds_json_end_object(&json);
}
