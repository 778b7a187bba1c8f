/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_profile - a step laid out by hand: rows, what is booked where, waits, text and JSON.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "runtime/profile.h"

enum { FORWARD, REDUCE, NORM, UPDATE, INSTRS };

static struct ds_instr instr[INSTRS] = {
    [FORWARD] = {.op = DS_INSTR_FORWARD, .queue = DS_QUEUE_COMPUTE},
    [REDUCE] = {.op = DS_INSTR_REDUCE, .queue = DS_QUEUE_REDUCE},
    [NORM] = {.op = DS_INSTR_NORM, .queue = DS_QUEUE_COMPUTE},
    [UPDATE] = {.op = DS_INSTR_UPDATE, .queue = DS_QUEUE_COMPUTE},
};
static struct ds_plan plan = {.rank = 3, .step = {.instr = instr, .count = INSTRS}};
static struct ds_error err;

#define MS(begin, end)           .begin_s = (begin)*1e-3, .end_s = (end)*1e-3
#define HOST(begin, end)         .called_s = (begin)*1e-3, .back_s = (end)*1e-3
#define OP(op, text, begin, end) .kind = DS_PROBE_OP, .name = op, .shape = text, MS(begin, end)
#define PART(number, begin, end)                                                                   \
    .kind = DS_PROBE_PART, .name = "part", .part = number, MS(begin, end), HOST(begin, end)

/* clang-format off */
static const struct ds_probe_span spans[] = {
    {PART(FORWARD, 1, 50)},
    {OP("copy up", "", 0, 2), .queue = 3, .beside = true, .amount = {.bytes = 100}},
    {OP("matmul", "2x3x4", 2, 22), .amount = {.flops = 20e6, .bytes = 10}},
    {OP("gelu_fwd", "7", 22, 27), .amount = {.bytes = 2e6}},
    {OP("matmul", "2x3x4", 30, 50), .amount = {.flops = 40e6, .bytes = 10}},
    {OP("matmul", "5x3x4", 50, 51), .amount = {.flops = 1e6, .bytes = 10}},
    {.kind = DS_PROBE_PART, .name = "part", .part = REDUCE, MS(40, 60), HOST(40, 41), .queue = 1,
     .beside = true},
    {OP("add", "9", 58, 60), .queue = 1, .beside = true, .amount = {.bytes = 9}},
    {PART(NORM, 55, 80)},
    {OP("sumsq", "all", 62, 65), .amount = {.bytes = 3e6}},
    {.kind = DS_PROBE_WAIT, .name = "finish", HOST(56, 66), MS(56, 66)},
    {.kind = DS_PROBE_WAIT, .name = "finish", HOST(66, 67), MS(66, 67)},
    {PART(UPDATE, 80, 95)},
    {OP("adamw", "all", 82, 92), .amount = {.bytes = 20e6}},
    {.kind = DS_PROBE_WAIT, .name = "free", HOST(80.5, 81), MS(80.5, 81)},
    {.kind = DS_PROBE_WAIT, .name = "settle", HOST(96, 99), MS(96, 99)}, /* the watcher's own */
};
/* clang-format on */
enum { SPANS = sizeof(spans) / sizeof(spans[0]) };

static const struct ds_profile_facts facts = {.device = "of paper",
                                              .step = 3,
                                              .tokens = 12,
                                              .peak = 2e9,
                                              .copy = 1e9,
                                              .copy_bytes = (uint64_t)256 << 20};

static bool is(double seconds, double ms)
{
    return fabs(seconds * 1e3 - ms) < 1e-9;
}

static struct ds_profile profile_of(void)
{
    struct ds_profile p;

    cr_assert(ds_profile_make(&p, &plan, spans, SPANS, 0.1, &err) == 0);
    return p;
}

Test(profile, every_moment_is_booked_once)
{
    struct ds_profile p = profile_of();

    cr_assert(is(p.ops_s, 20 + 5 + 20 + 1 + 3 + 10), "%g", p.ops_s);
    cr_assert(is(p.communication_s, 9), "%g", p.communication_s); /* 51 to 60 */
    cr_assert(is(p.copies_s, 2), "%g", p.copies_s);
    cr_assert(is(p.host_s, (62 - 60) + (80 - 65)), "%g", p.host_s);
    cr_assert(is(p.between_s, (30 - 27) + (82 - 80) + (100 - 92)), "%g", p.between_s);
    cr_assert(is(p.ops_s + p.communication_s + p.copies_s + p.host_s + p.between_s, 100));
    cr_assert(is(p.busy_s[DS_QUEUE_REDUCE], 20) && is(p.busy_s[DS_QUEUE_GATHER], 0));
    ds_profile_release(&p);
}

Test(profile, rows_by_operation_and_shape)
{
    struct ds_profile p = profile_of();
    static const char *const names[] = {"matmul", "adamw", "gelu_fwd", "sumsq", "matmul"};

    cr_assert(p.rows == 7, "%zu", p.rows);
    for (size_t i = 0; i < 5; i++)
        cr_assert(strcmp(p.row[i].name, names[i]) == 0 && !p.row[i].beside, "%zu %s", i,
                  p.row[i].name);
    cr_assert(p.row[5].beside && p.row[6].beside);
    cr_assert(p.row[0].calls == 2 && is(p.row[0].seconds, 40) && p.row[0].amount.flops == 60e6);
    /* 60 MFLOP at 2 GFLOP/s are 30 ms of 40; 20 MB at 1 GB/s would be 20 ms of 10. */
    cr_assert(fabs(ds_profile_share(&p.row[0], &facts) - 0.75) < 1e-9);
    cr_assert(fabs(ds_profile_share(&p.row[1], &facts) - 2.0) < 1e-9);
    ds_profile_release(&p);
}

Test(profile, waits_by_call_and_instruction)
{
    struct ds_profile p = profile_of();

    cr_assert(p.waits == 2, "%u", p.waits);
    cr_assert(strcmp(p.wait[0].call, "finish") == 0 && strcmp(p.wait[0].during, "NORM") == 0 &&
              p.wait[0].count == 2 && is(p.wait[0].seconds, 11));
    cr_assert(strcmp(p.wait[1].call, "free") == 0 && strcmp(p.wait[1].during, "UPDATE") == 0);
    ds_profile_release(&p);
}

Test(profile, nothing_seen)
{
    struct ds_profile p;

    cr_assert(ds_profile_make(&p, &plan, spans, 0, 0.1, &err) == 0);
    cr_assert(p.rows == 0 && p.waits == 0 && is(p.between_s, 100) && is(p.ops_s, 0));
    ds_profile_release(&p);
}

Test(profile, text)
{
    struct ds_profile p = profile_of();
    static const char *const words[] = {
        "step 3 of rank 3 on of paper, operation by operation: 100.000 ms",
        "matmul         2x3x4",
        " 40.000  40.0%        1.5",
        "beside what computes:",
        "queue REDUCE was at work for 20.000 ms",
        "the host waited for the device in finish, 2 times, 11.000 ms, in NORM",
        "2.0 GFLOP/s (peak) or 1.0 GB/s (a copy of 256 MiB, measured)"};
    struct ds_buf out;

    ds_buf_init(&out, 1 << 20);
    ds_profile_print(&p, &plan, &facts, &out);
    cr_assert(!out.failed);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        cr_assert(strstr(ds_buf_text(&out), words[i]) != NULL, "'%s' in\n%s", words[i],
                  ds_buf_text(&out));
    ds_buf_release(&out);
    ds_profile_release(&p);
}

Test(profile, json)
{
    struct ds_profile p = profile_of();
    const json_t *rows, *waits;
    struct ds_buf out;
    json_t *read;

    ds_buf_init(&out, 1 << 20);
    ds_profile_print_json(&p, &plan, &facts, &out);
    read = json_loadb(out.data, out.len, 0, NULL);
    cr_assert(read != NULL, "%s", ds_buf_text(&out));
    rows = json_object_get(read, "operations");
    waits = json_object_get(read, "waits");
    cr_assert(json_array_size(rows) == 7 && json_array_size(waits) == 2);
    cr_assert(json_number_value(json_object_get(json_array_get(rows, 0), "flops")) == 60e6);
    cr_assert(
        fabs(json_number_value(json_object_get(json_object_get(read, "left_ms"), "communication")) -
             9) < 1e-6);
    json_decref(read);
    ds_buf_release(&out);
    ds_profile_release(&p);
}
