/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_predict - costs against sums done by hand, and what must hold for any plan on any cluster.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/json_read.h"
#include "runtime/cost/predict.h"
#include "tests/cost/fixture.h"

Test(work, a_large_product_takes_its_flops_and_a_thin_one_its_bytes)
{
    struct ds_cluster cluster = test_cluster(1, 1);

    close_to(ds_work_matmul(&cluster, DS_COMPUTE_BF16, 8192, 8192, 8192),
             2.0 * 8192 * 8192 * 8192 / 500e12, "large");
    close_to(ds_work_matmul(&cluster, DS_COMPUTE_BF16, 8192, 8192, 1),
             (8192.0 + 8192.0 + 8192.0 * 8192.0) * 2 / 3e12, "thin");
    cluster.device.matmul_half = (struct ds_rate){.fp32 = 64, .bf16 = 512};
    close_to(ds_work_matmul(&cluster, DS_COMPUTE_BF16, 8192, 8192, 512),
             2.0 * (2.0 * 8192 * 8192 * 512 / 500e12), "at the half extent");
}

/* A layer: what is codes takes its FLOPs at the rate of FP8 and is cast before, read and written
 * once, and read once more where its largest element is looked for: forward in rows but for those
 * that SwiGLU has written, and in weights by one of two micro-batches; backward in gradients, but
 * for SwiGLU's.  The rest is as without. */
Test(work, products_of_fp8_are_cast_and_faster)
{
    struct ds_cluster cluster = test_cluster(1, 1);
    const double t = 8.0 * 2048, c = 4096, f = 11008;
    struct ds_job job = test_job(test_llama(2, 4096, 32, 32, 11008, 997, 2048), 16, 8, 2048);
    const struct ds_plan_args args = {
        .job = &job, .world = 1, .threads = 1, .local_world = 1, .apart = true};
    const double weights[] = {3 * c * c, c * c, 2 * f * c, f * c}, rows[] = {c, c, c, f};
    const double outs[] = {3 * c, c, 2 * f, c};
    double now = 0.0, then = 0.0;
    double cast = 0.0, search = 0.0, back = 0.0, plain[2] = {0.0, 0.0};
    struct ds_plan plan;

    for (unsigned i = 0; i < 4; i++) {
        now += 2.0 * t * weights[i] / 500e12;
        then += 2.0 * t * weights[i] / 1000e12;
        cast += (t * rows[i] + weights[i]) * 3.0 / 3e12;
        search += ((i < 3 ? t * rows[i] : 0.0) + weights[i] / 2.0) * 2.0 / 3e12;
        back += t * outs[i] * (i != 2 ? 6.0 : 4.0) / 3e12;
    }
    job.precision.compute = DS_COMPUTE_BF16;
    cluster.device.fp8.flops = 1000e12;
    for (unsigned fp8 = 0; fp8 < 2; fp8++) {
        struct ds_instr forward = {.op = DS_INSTR_FORWARD, .block = 1};
        struct ds_instr backward = {.op = DS_INSTR_BACKWARD, .block = 1};

        job.precision.matmul = fp8 ? DS_MATMUL_FP8 : DS_MATMUL_COMPUTE;
        cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
        if (fp8) {
            close_to(ds_work_instr(&cluster, &plan, &forward),
                     plain[0] - now + then + cast + search, "forward");
            close_to(ds_work_instr(&cluster, &plan, &backward),
                     plain[1] - 2.0 * now + 2.0 * then + cast + back, "backward");
        }
        plain[0] = ds_work_instr(&cluster, &plan, &forward);
        plain[1] = ds_work_instr(&cluster, &plan, &backward);
        ds_plan_release(&plan);
    }
    ds_cluster_release(&cluster);
}

Test(work, collectives_are_rings_through_the_narrowest_link)
{
    struct ds_cluster cluster = test_cluster(4, 8);

    close_to(ds_work_collective(&cluster, (struct ds_ring){8, 8}, 8e9, 2),
             2 * (8e9 * 7 / 8 / 400e9 + 3 * 5e-6), "in a host");
    close_to(ds_work_collective(&cluster, (struct ds_ring){32, 8}, 8e9, 1),
             8e9 * 31 / 32 / 400e9 + 5 * 10e-6, "eight rails carry what the host's links do");
    close_to(ds_work_collective(&cluster, (struct ds_ring){4, 1}, 8e9, 1),
             8e9 * 3 / 4 / 50e9 + 2 * 10e-6, "one rank a host");
    cluster.network.bandwidth = 10e9;
    close_to(ds_work_collective(&cluster, (struct ds_ring){32, 8}, 8e9, 2),
             2 * (8e9 * 31 / 32 / 80e9 + 5 * 10e-6), "the network is the narrowest");
    cr_assert_eq(ds_work_collective(&cluster, (struct ds_ring){1, 1}, 8e9, 2), 0.0);
}

/* Words and passes over the stream, counted by hand: an embedding and LAYERS layers, each way. */
static void check_dropout(double stream, double weights, enum ds_recompute recompute)
{
    enum { LAYERS = 3, HEADS = 4, HIDDEN = 64, T = 32, B = 2 };
    struct ds_cluster cluster = test_cluster(1, 1);
    struct ds_job job = test_job(test_gpt2(LAYERS, HIDDEN, HEADS, 257, T), B, B, T);
    const struct ds_plan_args args = {.job = &job, .world = 1, .threads = 1, .local_world = 1};
    double again = recompute == DS_RECOMPUTE_FULL ? 1.0 : 0.0;
    double passes = stream > 0.0 ? 2.0 + LAYERS * (4.0 + again) : 0.0;
    double looks = weights > 0.0 ? LAYERS * (2.0 + again) : 0.0, elems = passes * B * T * HIDDEN;
    double words = elems + looks * B * HEADS * T * (T + 1) / 2.0;
    struct ds_prediction off, on;
    struct ds_plan plan;

    cluster.device.random = 1e9;
    cluster.device.launch_us = 3.0;
    job.activation.recompute = recompute;
    job.activation.layers = recompute == DS_RECOMPUTE_NONE ? 0 : LAYERS;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(ds_predict(&off, &cluster, &plan, NULL), 0);
    ds_plan_release(&plan);
    job.model.dropout = stream;
    job.model.attention_dropout = weights;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(ds_predict(&on, &cluster, &plan, NULL), 0);
    cr_assert_float_eq(on.step_s - off.step_s,
                       elems * 2.0 * sizeof(float) / 3e12 + passes * 3e-6 + words / 1e9, 1e-12,
                       "rates %g and %g: %g more", stream, weights, on.step_s - off.step_s);
    ds_plan_release(&plan);
    ds_prediction_release(&off);
    ds_prediction_release(&on);
}

Test(predict, dropout_takes_its_words_and_its_passes)
{
    static const enum ds_recompute ways[] = {DS_RECOMPUTE_NONE, DS_RECOMPUTE_SELECTIVE,
                                             DS_RECOMPUTE_FULL};

    for (unsigned i = 0; i < 3; i++) {
        check_dropout(0.1, 0.0, ways[i]);
        check_dropout(0.0, 0.1, ways[i]);
        check_dropout(0.2, 0.1, ways[i]);
    }
}

/* In bf16 half of the bytes travel, and what that saves less what packing takes is what a step
 * gains where nothing overlaps: for whole buckets and for shards, in one group and in groups. */
Test(predict, a_wire_of_bf16_halves_what_travels_and_packs_it)
{
    for (unsigned i = 0; i < 8; i++) {
        struct ds_cluster cluster = test_cluster(2, 4);
        struct ds_job job = test_job(test_gpt2(3, 256, 4, 997, 64), 16, 2, 64);
        const struct ds_plan_args args = {.job = &job, .world = 8, .threads = 1, .local_world = 4};
        struct ds_prediction fp32, bf16;
        struct ds_plan plan;
        double pack = 0.0, kept = 0.0, ring;

        cluster.overlap = 0.0;
        cluster.host.latency_us = cluster.network.latency_us = 0.0;
        cluster.network.bandwidth = cluster.host.bandwidth;
        cluster.device.pointwise.bf16 = 1e12;
        job.zero.stage = i / 2;
        job.zero.shard_group = i % 2 == 1 && i / 2 > 0 ? DS_SHARD_NODE : DS_SHARD_ALL;
        cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
        cr_assert_eq(ds_predict(&fp32, &cluster, &plan, NULL), 0);
        ds_plan_release(&plan);
        job.precision.grad_wire = DS_GRAD_WIRE_BF16;
        cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
        cr_assert_eq(ds_predict(&bf16, &cluster, &plan, NULL), 0);
        for (size_t k = 0; k < plan.step.count; k++) {
            const struct ds_instr *instr = &plan.step.instr[k];
            double parts = plan.stage == 0 ? 2.0 : 1.0 + 1.0 / plan.shards;

            if (instr->op != DS_INSTR_REDUCE)
                continue;
            pack += (double)plan.bucket[instr->bucket].padded_elems * parts * 6.0 / 1e12;
            if (plan.stage >= 2)
                kept += (double)ds_plan_shard(&plan, DS_ARENA_GRADS, instr->bucket).count *
                        (instr->accumulate ? 12.0 : 8.0) / 3e12;
        }
        ring = 0.0;
        for (size_t k = 0; k < plan.step.count; k++)
            if (plan.step.instr[k].op == DS_INSTR_GATHER)
                ring += bf16.time[k].end_s - bf16.time[k].begin_s;
        close_to(bf16.comm_s - ring - kept - pack, (fp32.comm_s - ring - kept) / 2.0,
                 "what travels");
        ds_plan_release(&plan);
        ds_prediction_release(&fp32);
        ds_prediction_release(&bf16);
        ds_cluster_release(&cluster);
    }
}

/* What is computed between two collectives is waited for at the second one, longer by the spread; in
 * a row of steps that is all of a step.  A rank that is alone waits for nobody. */
Test(predict, a_collective_waits_for_the_slowest_rank)
{
    for (unsigned stage = 0; stage < 4; stage++) {
        for (unsigned world = 1; world <= 4; world *= 4) {
            struct ds_cluster cluster = test_cluster(1, world);
            struct ds_job job = test_job(test_gpt2(3, 256, 4, 997, 64), 4 * world, 2, 64);
            const struct ds_plan_args args = {
                .job = &job, .world = world, .threads = 1, .local_world = world};
            double waited[4], work = 0.0;
            struct ds_plan plan;

            job.zero.stage = stage;
            cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
            for (unsigned i = 0; i < 4; i++) {
                struct ds_prediction p;

                cluster.overlap = i == 2 ? 1.0 : 0.0;
                cluster.device.spread.share = i == 0 ? 0.0 : 0.125;
                cluster.device.spread.evens_s = i == 3 ? waited[0] : 0.0;
                cr_assert_eq(ds_predict(&p, &cluster, &plan, NULL), 0);
                waited[i] = p.step_s;
                work = p.compute_s + p.update_s;
                cr_assert(world > 1 || p.comm_s == 0.0);
                ds_prediction_release(&p);
            }
            close_to(waited[1], waited[0] + (world > 1 ? 0.125 * work : 0.0), "in turn");
            cr_assert_leq(waited[2], waited[1] * (1.0 + 1e-9), "beside compute");
            cr_assert(world > 1 ? waited[3] > waited[0] && waited[3] < waited[1]
                                : waited[3] == waited[0],
                      "some of it evens out before they meet");
            ds_plan_release(&plan);
            ds_cluster_release(&cluster);
        }
    }
}

/* From stage 2 on the sum of a bucket goes to the shard that is kept: the first micro-batch copies
 * it there, each later one adds it. */
Test(work, what_is_kept_of_a_sum_is_copied_first_and_added_then)
{
    struct ds_cluster cluster = test_cluster(1, 4);
    struct ds_job job = test_job(test_gpt2(3, 256, 4, 997, 64), 16, 2, 64);
    const struct ds_plan_args args = {.job = &job, .world = 4, .threads = 1, .local_world = 4};
    unsigned seen[2] = {0, 0};
    struct ds_plan plan;

    job.zero.stage = 2;
    job.zero.replicate_below = 0;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    for (size_t i = 0; i < plan.step.count; i++) {
        const struct ds_instr *instr = &plan.step.instr[i];
        double elems, kept;

        if (instr->op != DS_INSTR_REDUCE)
            continue;
        elems = (double)plan.bucket[instr->bucket].padded_elems;
        kept = (instr->accumulate ? 12.0 : 8.0) * elems / 4.0 / 3e12;
        close_to(ds_work_instr(&cluster, &plan, instr),
                 elems * 4.0 * 3 / 4 / 400e9 + 2 * 5e-6 + kept, "a sum of stage 2");
        seen[instr->accumulate]++;
    }
    cr_assert(seen[0] > 0 && seen[1] == seen[0], "%u first, %u later", seen[0], seen[1]);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
}

/* Seconds of layer 1's pass in each direction. */
static void layer_s(const struct ds_job *job, const struct ds_cluster *cluster, bool apart,
                    double s[2])
{
    const struct ds_plan_args args = {
        .job = job, .world = 1, .threads = 1, .local_world = 1, .apart = apart};
    struct ds_plan plan;

    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    for (size_t i = 0; i < plan.step.count; i++) {
        const struct ds_instr *instr = &plan.step.instr[i];

        if (instr->block == 1 && instr->op == DS_INSTR_FORWARD && !instr->recompute)
            s[0] = ds_work_instr(cluster, &plan, instr);
        if (instr->block == 1 && instr->op == DS_INSTR_BACKWARD)
            s[1] = ds_work_instr(cluster, &plan, instr);
    }
    ds_plan_release(&plan);
}

/* On a GPU GELU's input is not read again forward, and the gradient of its output neither written
 * nor read; but for the forward pass where it is computed again. */
Test(work, gelu_of_16_bits_is_a_part_of_its_products_on_a_gpu)
{
    struct ds_cluster cluster = test_cluster(1, 1);
    struct ds_job job = test_job(test_gpt2(3, 256, 4, 997, 64), 2, 2, 64);
    double row = (double)(2 * 64 * 4 * 256), act = 2;
    double here[2], there[2];

    cluster.device.launch_us = 2.0;
    layer_s(&job, &cluster, false, here);
    layer_s(&job, &cluster, true, there);
    close_to(there[0], here[0], "forward in fp32");
    close_to(there[1], here[1], "backward in fp32");
    job.precision.compute = DS_COMPUTE_BF16;
    layer_s(&job, &cluster, false, here);
    layer_s(&job, &cluster, true, there);
    close_to(here[0] - there[0], row * act / 3e12 + 2e-6, "forward");
    close_to(here[1] - there[1], 2.0 * row * act / 3e12 + 2e-6, "backward");
    job.activation.recompute = DS_RECOMPUTE_SELECTIVE;
    job.activation.layers = 1;
    layer_s(&job, &cluster, true, there);
    close_to(there[0], here[0], "forward, to be computed again");
    ds_cluster_release(&cluster);
}

/* A host that cannot hold what its ranks keep there; one that does not say holds all. */
Test(predict, a_host_holds_what_it_says)
{
    struct ds_cluster cluster = test_cluster(1, 4);
    struct ds_job job = test_job(test_gpt2(3, 256, 4, 997, 64), 8, 2, 64);
    const struct ds_plan_args args = {
        .job = &job, .world = 4, .threads = 1, .local_world = 4, .apart = true};
    struct ds_error err = {0};
    struct ds_plan plan;

    job.offload.optim = DS_OFFLOAD_CPU;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    cr_assert_eq(ds_cluster_holds(&cluster, &plan, &err), 0);
    cluster.main.memory = 4.0 * (double)ds_plan_host_bytes(&plan);
    cr_assert_eq(ds_cluster_holds(&cluster, &plan, &err), 0, "%s", err.text);
    cluster.main.memory -= 4.0;
    cr_assert_eq(ds_cluster_holds(&cluster, &plan, &err), -ENOMEM);
    cr_assert_not_null(strstr(err.text, "not enough memory on the host"), "%s", err.text);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
}

static const char *text_of(struct ds_buf *out, const struct ds_prediction *p,
                           const struct ds_cluster *cluster)
{
    ds_buf_init(out, 1 << 16);
    ds_prediction_print(p, cluster, out);
    return ds_buf_text(out);
}

/* What is not there is not printed; numbers are those of the struct, in both forms. */
Test(predict, is_printed_as_it_is)
{
    struct ds_cluster cluster = test_cluster(2, 4);
    struct ds_prediction p = {.step_s = 0.1,
                              .compute_s = 0.07,
                              .update_s = 0.01,
                              .comm_s = 0.03,
                              .exposed_s = 0.02,
                              .tokens_per_s = 8000,
                              .mfu = 0.5};
    struct ds_buf out;
    struct ds_json json;
    const char *text = text_of(&out, &p, &cluster);

    cr_assert_not_null(strstr(text, "predicted for this cluster, 2 x 4 ranks\n"));
    cr_assert_not_null(strstr(text, "30.000 ms, of which 20.000 ms are waited for\n"));
    cr_assert_not_null(strstr(text, "8000, 1000 per rank\n"));
    cr_assert_not_null(strstr(text, "50.0 %\n"));
    cr_assert(strstr(text, "copies") == NULL && strstr(text, "by the host") == NULL);
    ds_buf_release(&out);
    p.copy_s = 0.004;
    p.host_s = 0.005;
    cluster.device.name = "H1";
    text = text_of(&out, &p, &cluster);
    cr_assert_not_null(strstr(text, "predicted for H1,"));
    cr_assert(strstr(text, "4.000 ms\n") != NULL && strstr(text, "5.000 ms\n") != NULL);
    ds_buf_release(&out);
    ds_buf_init(&out, 1 << 16);
    ds_json_init(&json, &out);
    ds_json_object(&json, NULL);
    ds_prediction_print_json(&p, &json);
    ds_json_end_object(&json);
    text = ds_buf_text(&out);
    cr_assert(strstr(text, "\"step_ms\":100") != NULL && strstr(text, "\"copies_ms\":4") != NULL &&
                  strstr(text, "\"host_update_ms\":5") != NULL,
              "%s", text);
    ds_buf_release(&out);
}

struct world {
    uint64_t hosts, ranks;
    unsigned stage;
    uint64_t micro_batches;
    bool recompute;
    double overlap;
};

static void predict(const struct world *world,
                    void (*check)(const struct world *, const struct ds_plan *,
                                  const struct ds_prediction *))
{
    struct ds_cluster cluster = test_cluster(world->hosts, world->ranks);
    struct ds_model_shape shape = test_gpt2(12, 768, 12, 50257, 1024);
    uint64_t ranks = world->hosts * world->ranks;
    struct ds_job job = test_job(shape, ranks * world->micro_batches * 8, 8, 1024);
    struct ds_prediction prediction;
    struct ds_plan plan;
    struct ds_error err = {0};

    cluster.overlap = world->overlap;
    job.precision.compute = DS_COMPUTE_BF16;
    job.zero.stage = world->stage;
    job.activation.recompute = world->recompute ? DS_RECOMPUTE_FULL : DS_RECOMPUTE_NONE;
    cr_assert_eq(ds_plan_build(&plan,
                               &(struct ds_plan_args){.job = &job,
                                                      .world = (unsigned)ranks,
                                                      .threads = 1,
                                                      .local_world = (unsigned)world->ranks},
                               &err),
                 0, "%s", err.text);
    cr_assert_eq(ds_predict(&prediction, &cluster, &plan, &err), 0, "%s", err.text);
    check(world, &plan, &prediction);
    ds_prediction_release(&prediction);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
}

static void check_order(const struct world *world, const struct ds_plan *plan,
                        const struct ds_prediction *p)
{
    double *happened = calloc(plan->step.events + 1, sizeof(*happened));
    double free_at[DS_QUEUE_COUNT];

    for (size_t i = 0; i < DS_QUEUE_COUNT; i++)
        free_at[i] = -HUGE_VAL; /* gathers of a step begin in the one before */
    for (size_t i = 0; i < plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];
        enum ds_queue queue = world->overlap > 0.0 ? instr->queue : DS_QUEUE_COMPUTE;

        cr_assert_geq(p->time[i].begin_s, free_at[queue], "instruction %zu", i);
        cr_assert_geq(p->time[i].end_s, p->time[i].begin_s, "instruction %zu", i);
        if (instr->waits_for != DS_NO_EVENT && !instr->last_step)
            cr_assert_geq(p->time[i].begin_s, happened[instr->waits_for], "instruction %zu", i);
        if (instr->signals != DS_NO_EVENT)
            happened[instr->signals] = p->time[i].end_s;
        free_at[queue] = p->time[i].end_s;
        if (queue == DS_QUEUE_COMPUTE)
            cr_assert_leq(p->time[i].end_s, p->step_s * (1 + 1e-9));
    }
    cr_assert_geq(p->step_s, p->compute_s);
    cr_assert_leq(p->step_s, (p->compute_s + p->comm_s + p->update_s) * (1 + 1e-9));
    cr_assert(p->mfu > 0.0 && p->mfu < 1.0, "%g", p->mfu);
    free(happened);
}

static const struct world worlds[] = {
    {1, 1, 0, 1, false, 1.0}, {1, 8, 0, 2, false, 1.0},  {4, 8, 0, 1, true, 1.0},
    {1, 8, 1, 2, false, 1.0}, {4, 8, 2, 3, false, 1.0},  {4, 8, 3, 2, true, 1.0},
    {1, 2, 3, 1, false, 0.0}, {16, 8, 1, 1, false, 0.5}, {2048, 8, 3, 1, false, 0.9},
};

Test(predict, nothing_begins_before_what_it_waits_for)
{
    for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
        predict(&worlds[i], check_order);
}

static double step_s;

static void keep_step(const struct world *world, const struct ds_plan *plan,
                      const struct ds_prediction *p)
{
    (void)world;
    (void)plan;
    step_s = p->step_s;
}

Test(predict, overlap_hides_collectives)
{
    struct world world = {4, 8, 0, 1, false, 0.0};
    double apart, together;

    predict(&world, keep_step);
    apart = step_s;
    world.overlap = 1.0;
    predict(&world, keep_step);
    together = step_s;
    cr_assert_lt(together, apart);
}

static void check_trace(const struct world *world, const struct ds_plan *plan,
                        const struct ds_prediction *p)
{
    struct ds_buf out;
    struct ds_error err = {0};
    json_t *root;

    (void)world;
    ds_buf_init(&out, 1 << 24);
    ds_timeline_write(&(struct ds_timeline){.plan = plan, .time = p->time, .what = "simulated"},
                      &out);
    root = ds_json_parse(ds_buf_text(&out), out.len, &err);
    cr_assert_not_null(root, "%s", err.text);
    cr_assert_eq(json_array_size(json_object_get(root, "traceEvents")),
                 plan->step.count + 1 + DS_QUEUE_COUNT);
    json_decref(root);
    ds_buf_release(&out);
}

Test(timeline, is_a_chrome_trace_of_every_instruction)
{
    for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
        predict(&worlds[i], check_trace);
}

Test(predict, refuses_another_cluster_than_the_plan_is_for)
{
    struct ds_cluster cluster = test_cluster(2, 2);
    struct ds_job job = test_job(test_gpt2(2, 48, 3, 97, 32), 8, 2, 32);
    struct ds_prediction prediction;
    struct ds_plan plan;
    struct ds_error err = {0};

    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 2, .threads = 1}, &err),
        0);
    cr_assert_eq(ds_predict(&prediction, &cluster, &plan, &err), -EINVAL);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
}
