/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bench.c - `dsrun bench gemm`: how fast this machine multiplies the matrices of training.
 *
 * Each linear layer gives three products, as in a step.  A rate is the best of
 * several runs, beside it the share of a loop of multiply-adds in registers on
 * the same threads (F32; a BF16 product may exceed it).
 */
#include "kernels/bench.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/exit.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "kernels/device.h"
#include "kernels/scratch.h"

enum { RUNS = 3, MAX_OUTPUT = 1 << 20 };

static const double RUN_NS = 20e6; /* of one timed run, at least */

static const struct layer {
    const char *name;
    size_t tokens, in, out;
    bool head; /* the weight is the token table, stored [out, in] */
} layers[] = {
    {"d128 qkv", 2048, 128, 384, false},      {"d128 ffn up", 2048, 128, 512, false},
    {"d128 ffn down", 2048, 512, 128, false}, {"d384 qkv", 2048, 384, 1152, false},
    {"d384 ffn up", 2048, 384, 1536, false},  {"d384 ffn down", 2048, 1536, 384, false},
    {"d768 qkv", 512, 768, 2304, false},      {"d768 ffn up", 512, 768, 3072, false},
    {"d768 ffn down", 512, 3072, 768, false}, {"d768 head", 256, 768, 50257, true},
};

enum pass { FORWARD, INPUT_GRAD, WEIGHT_GRAD, PASSES };
static const char *const pass_names[] = {"forward", "dx", "dw"};

struct bench {
    struct ds_device *device[2]; /* with 1 thread and with all */
    unsigned threads[2];
    size_t devices;
    double peak[2];
    void *a, *b, *d;
    size_t bytes; /* of each */
};

struct rate {
    const struct layer *layer;
    enum pass pass;
    enum ds_dtype type;
    struct ds_matmul_args args;
    double gflops[2];
};

static struct ds_matmul_args product(const struct bench *bench, const struct layer *layer,
                                     enum pass pass, enum ds_dtype type)
{
    struct ds_matmul_args a = {.in_type = type, .a = bench->a, .b = bench->b, .d = bench->d};

    a.out_type = pass == WEIGHT_GRAD || layer->head ? DS_F32 : type;
    a.m = pass == WEIGHT_GRAD ? (layer->head ? layer->out : layer->in) : layer->tokens;
    a.n = pass == INPUT_GRAD || (pass == WEIGHT_GRAD && layer->head) ? layer->in : layer->out;
    a.k = pass == FORWARD ? layer->in : pass == INPUT_GRAD ? layer->out : layer->tokens;
    a.trans_a = pass == WEIGHT_GRAD;
    a.trans_b = pass != WEIGHT_GRAD && (pass == FORWARD) == layer->head;
    a.lda = a.trans_a ? a.m : a.k;
    a.ldb = a.trans_b ? a.k : a.n;
    a.ldd = a.n;
    if (pass == WEIGHT_GRAD) { /* as in a step with several micro-batches */
        a.c = a.d;
        a.ldc = a.ldd;
    }
    return a;
}

static int time_product(struct rate *rate, struct ds_stream *stream, double *gflops,
                        struct ds_error *err)
{
    const struct ds_matmul_args *a = &rate->args;
    double flops = 2.0 * (double)a->m * (double)a->n * (double)a->k, best = 0.0;
    int rc = ds_matmul(a, stream, err);

    for (int run = 0; rc == 0 && run < RUNS; run++) {
        uint64_t start = ds_clock_mono_ns();
        double ns = 0.0, done = 0.0;

        for (; rc == 0 && ns < RUN_NS; done += flops) {
            rc = ds_matmul(a, stream, err);
            ns = (double)(ds_clock_mono_ns() - start);
        }
        best = done / ns > best ? done / ns : best;
    }
    *gflops = best;
    return rc;
}

static unsigned all_threads(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return count < 1 ? 1 : count > DS_MAX_THREADS ? DS_MAX_THREADS : (unsigned)count;
}

static void close_bench(struct bench *bench)
{
    void *memory[] = {bench->a, bench->b, bench->d};

    for (size_t i = 0; i < 3; i++)
        ds_device_free(bench->device[0], memory[i], bench->bytes);
    for (size_t i = 0; i < bench->devices; i++)
        ds_device_close(bench->device[i]);
}

/* Numbers of the type that is multiplied: two BF16 read as one F32 can be a denormal, on which some
 * processors are a hundred times slower. */
static void fill(const struct bench *bench, enum ds_dtype type)
{
    void *matrix[] = {bench->a, bench->b, bench->d};

    for (size_t m = 0; m < sizeof(matrix) / sizeof(matrix[0]); m++)
        for (size_t i = 0; i < bench->bytes / ds_dtype_bytes(type); i++) {
            float value = (float)(i % 13) * 0.01f;

            if (type == DS_F32)
                ((float *)matrix[m])[i] = value;
            else
                ((ds_bf16 *)matrix[m])[i] = ds_bf16_from_f32(value);
        }
}

static int open_bench(struct bench *bench, struct ds_error *err)
{
    unsigned threads[2] = {1, all_threads()};
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < (threads[1] > 1 ? 2u : 1u); i++) {
        struct ds_scratch_query query = {.threads = threads[i], .act = DS_BF16};
        struct ds_device_args args = {
            .name = "cpu", .threads = threads[i], .scratch_bytes = ds_scratch_bytes(&query)};

        rc = ds_device_open(&bench->device[i], &args, err);
        if (rc != 0)
            break;
        bench->threads[bench->devices++] = threads[i];
        bench->peak[i] = ds_device_peak(bench->device[i], DS_F32) / 1e9;
    }
    for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
        size_t most = layers[i].in > layers[i].tokens ? layers[i].in : layers[i].tokens;
        size_t bytes = most * (layers[i].out > most ? layers[i].out : most) * sizeof(float);

        bench->bytes = bytes > bench->bytes ? bytes : bench->bytes;
    }
    if (rc == 0)
        rc = ds_device_alloc(bench->device[0], bench->bytes, &bench->a, err);
    if (rc == 0)
        rc = ds_device_alloc(bench->device[0], bench->bytes, &bench->b, err);
    if (rc == 0)
        rc = ds_device_alloc(bench->device[0], bench->bytes, &bench->d, err);
    return rc;
}

static void json_rate(struct ds_json *json, const struct bench *bench, const struct rate *rate)
{
    ds_json_object(json, NULL);
    ds_json_string(json, "layer", rate->layer->name);
    ds_json_string(json, "product", pass_names[rate->pass]);
    ds_json_string(json, "type", ds_dtype_name(rate->type));
    ds_json_u64(json, "m", rate->args.m);
    ds_json_u64(json, "n", rate->args.n);
    ds_json_u64(json, "k", rate->args.k);
    ds_json_array(json, "rates");
    for (size_t i = 0; i < bench->devices; i++) {
        ds_json_object(json, NULL);
        ds_json_u64(json, "threads", bench->threads[i]);
        ds_json_f64(json, "gflops", rate->gflops[i], 4);
        ds_json_f64(json, "share", rate->gflops[i] / bench->peak[i], 3);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
    ds_json_end_object(json);
}

static void text_rate(const struct bench *bench, const struct rate *rate)
{
    printf("%-14s %-8s %-5s %6zu %6zu %6zu", rate->layer->name, pass_names[rate->pass],
           ds_dtype_name(rate->type), rate->args.m, rate->args.n, rate->args.k);
    for (size_t i = 0; i < bench->devices; i++)
        printf("  %8.1f %4.0f%%", rate->gflops[i], 100.0 * rate->gflops[i] / bench->peak[i]);
    printf("\n");
    fflush(stdout);
}

static void json_head(struct ds_json *json, const struct bench *bench)
{
    ds_json_object(json, NULL);
    ds_json_string(json, "device", ds_device_describe(bench->device[bench->devices - 1]));
    ds_json_array(json, "peak");
    for (size_t i = 0; i < bench->devices; i++) {
        ds_json_object(json, NULL);
        ds_json_u64(json, "threads", bench->threads[i]);
        ds_json_f64(json, "gflops", bench->peak[i], 4);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
    ds_json_array(json, "products");
}

static void text_head(const struct bench *bench)
{
    printf("%s\n", ds_device_describe(bench->device[bench->devices - 1]));
    for (size_t i = 0; i < bench->devices; i++)
        printf("peak with %u thread%s: %.1f GFLOP/s of F32 multiply-adds\n", bench->threads[i],
               bench->threads[i] == 1 ? "" : "s", bench->peak[i]);
    printf("\n%-14s %-8s %-5s %6s %6s %6s", "layer", "product", "type", "m", "n", "k");
    for (size_t i = 0; i < bench->devices; i++)
        printf("  %3u thr. GFLOP/s", bench->threads[i]);
    printf("\n");
}

static int run(const struct bench *bench, struct ds_json *json, struct ds_error *err)
{
    static const enum ds_dtype types[] = {DS_F32, DS_BF16};
    size_t rates = sizeof(layers) / sizeof(layers[0]) * PASSES;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < 2 * rates; i++) {
        struct rate rate = {.layer = &layers[i % rates / PASSES],
                            .pass = (enum pass)(i % PASSES),
                            .type = types[i / rates]};

        if (i % rates == 0)
            fill(bench, rate.type);
        rate.args = product(bench, rate.layer, rate.pass, rate.type);
        for (size_t j = 0; rc == 0 && j < bench->devices; j++)
            rc = time_product(&rate, ds_device_stream(bench->device[j]), &rate.gflops[j], err);
        if (rc != 0)
            break;
        if (json != NULL)
            json_rate(json, bench, &rate);
        else
            text_rate(bench, &rate);
    }
    return rc;
}

static int bench_gemm(bool as_json, struct ds_error *err)
{
    struct bench bench = {0};
    struct ds_buf out;
    struct ds_json json;
    int rc = open_bench(&bench, err);

    ds_buf_init(&out, MAX_OUTPUT);
    ds_json_init(&json, &out);
    if (rc == 0 && as_json)
        json_head(&json, &bench);
    else if (rc == 0)
        text_head(&bench);
    if (rc == 0)
        rc = run(&bench, as_json ? &json : NULL, err);
    if (rc == 0 && as_json) {
        ds_json_end_array(&json);
        ds_json_end_object(&json);
        printf("%s\n", ds_buf_text(&out));
    }
    ds_buf_release(&out);
    close_bench(&bench);
    return rc;
}

int ds_bench_main(int argc, char **argv)
{
    bool as_json = argc == 2 && strcmp(argv[1], "--json") == 0;
    struct ds_error err = {0};
    int rc;

    if (argc < 1 || strcmp(argv[0], "gemm") != 0 || (argc > 1 && !as_json)) {
        ds_log(DS_LOG_ERROR, "bench takes 'gemm' and '--json' only");
        return DS_EXIT_USAGE;
    }
    rc = bench_gemm(as_json, &err);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : ds_exit_from_errno(rc);
}
