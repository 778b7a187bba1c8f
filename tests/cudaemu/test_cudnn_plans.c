/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * That cuDNN itself has kernels for the graphs of attention, and that they take the memory that is
 * reckoned with.  It makes plans for a device that it is told of, so no GPU is needed; a stand-in
 * for the driver says that there is none.  Where cuDNN is not installed the tests are skipped.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/need.h"
#include "kernels/cuda/sdpa_graph.h"

enum { DEVICE = 38, DEVICE_JSON = 2702, TYPE_CHAR = 24, HEURISTIC_DEVICE = 204, PLAN_DEVICE = 407 };
enum { CONFIGS = 16 };

/* What cuDNN asks of a device; the H200's numbers, but for the version. */
static const char device_text[] =
    "{\"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64], "
    "\"regsPerBlock\": 65536, \"multiProcessorCount\": 132, \"warpSize\": 32, "
    "\"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": %d, "
    "\"reservedSharedMemoryPerBlock\": 1024, \"maxRegistersPerSM\": 65536, \"maxCtasPerSM\": 32, "
    "\"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, \"pciDeviceId\": 0, "
    "\"isTccDriver\": 0, \"supportCoopLaunch\": 1, \"totalGlobalMem\": 150754820096, "
    "\"smClockRateKHz\": 1980000, \"memClockRateKHz\": 3201000, \"l2CacheSize\": 62914560, "
    "\"cudaDeviceId\": 0, \"deviceVer\": %d, \"driverVer\": 13000, \"deviceName\": \"a GPU\"}";

static struct ds_cudnn cudnn;

static void load(void)
{
    const char *build = getenv("B"), *home = getenv("CUDA_HOME");
    struct ds_error err = {0};
    char file[512];

#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("cuDNN is not looked at by a sanitizer");
#endif
    (void)snprintf(file, sizeof(file), "%s/tests/cudaemu/libcuda.so.1",
                   build != NULL ? build : "build");
    cr_assert(dlopen(file, RTLD_NOW | RTLD_GLOBAL) != NULL, "%s", dlerror());
    (void)snprintf(file, sizeof(file), "%s/lib64/libcudnn.so.9",
                   home != NULL ? home : "/usr/local/cuda");
    if (ds__cudnn_load(&cudnn, NULL, &err) != 0 && ds__cudnn_load(&cudnn, file, &err) != 0)
        cr_skip_test("there is no cuDNN: %s", err.text);
}

static void must(int status, const char *what)
{
    char words[256] = "";

    if (status != 0)
        cudnn.GetLastErrorString(words, sizeof(words));
    cr_assert(status == 0, "%s: %s %s", what, cudnn.GetErrorString(status), words);
}

static void *make(struct ds_sdpa_graph *graph, int what)
{
    void *desc;

    must(ds__sdpa_make(graph, &cudnn, what, &desc), "a descriptor");
    return desc;
}

static void set(void *desc, int what, int type, int64_t count, const void *values)
{
    must(cudnn.BackendSetAttribute(desc, what, type, count, values), "an attribute");
}

static void *device(struct ds_sdpa_graph *graph, int version)
{
    void *desc = make(graph, DEVICE);
    char text[2048];
    int n = snprintf(text, sizeof(text), device_text, version >= 900 ? 232448 : 166912, version);

    set(desc, DEVICE_JSON, TYPE_CHAR, n, text);
    must(cudnn.BackendFinalize(desc), "a device");
    return desc;
}

static int64_t heuristic(struct ds_sdpa_graph *graph, void *on, void *config[CONFIGS])
{
    const int mode = DS_CUDNN_HEUR_MODE_A;
    void *all = make(graph, DS_CUDNN_GRAPH), *desc = make(graph, DS_CUDNN_HEURISTIC);
    int64_t found = 0;

    set(all, DS_CUDNN_GRAPH_OPS, DS_CUDNN_TYPE_DESCRIPTOR, (int64_t)graph->ops, graph->op);
    must(cudnn.BackendFinalize(all), "a graph");
    set(desc, DS_CUDNN_HEURISTIC_GRAPH, DS_CUDNN_TYPE_DESCRIPTOR, 1, &all);
    set(desc, DS_CUDNN_HEURISTIC_MODE, DS_CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set(desc, HEURISTIC_DEVICE, DS_CUDNN_TYPE_DESCRIPTOR, 1, &on);
    if (cudnn.BackendFinalize(desc) != 0)
        return 0;
    for (int i = 0; i < CONFIGS; i++)
        config[i] = make(graph, DS_CUDNN_CONFIG);
    must(cudnn.BackendGetAttribute(desc, DS_CUDNN_HEURISTIC_RESULTS, DS_CUDNN_TYPE_DESCRIPTOR,
                                   CONFIGS, &found, config),
         "configurations");
    return found < CONFIGS ? found : CONFIGS;
}

/* Bytes that the first plan works in, or -1: there is none. */
static int64_t workspace(const struct ds_sdpa_shape *shape, int version)
{
    struct ds_sdpa_graph graph;
    void *config[CONFIGS], *on, *plan;
    int64_t found, count, bytes = -1;

    must(ds__sdpa_describe(&graph, &cudnn, shape), "the graph");
    on = device(&graph, version);
    found = heuristic(&graph, on, config);
    for (int64_t i = 0; bytes < 0 && i < found; i++) {
        plan = make(&graph, DS_CUDNN_PLAN);
        set(plan, PLAN_DEVICE, DS_CUDNN_TYPE_DESCRIPTOR, 1, &on);
        set(plan, DS_CUDNN_PLAN_CONFIG, DS_CUDNN_TYPE_DESCRIPTOR, 1, &config[i]);
        if (cudnn.BackendFinalize(plan) == 0)
            must(cudnn.BackendGetAttribute(plan, DS_CUDNN_PLAN_WORKSPACE, DS_CUDNN_TYPE_INT64, 1,
                                           &count, &bytes),
                 "the size of a workspace");
    }
    ds__sdpa_forget(&graph, &cudnn);
    return bytes;
}

static void check(struct ds_sdpa_shape s, int version)
{
    int64_t forward, backward, sums = s.batch * s.heads * s.seq * 4;
    size_t each = ds__need_sdpa((size_t)s.seq, (size_t)s.size, (size_t)(s.heads / s.kv_heads));

    forward = workspace(&s, version);
    s.backward = 1;
    backward = workspace(&s, version);
    cr_assert(forward >= 0 && forward <= DS_NEED_SDPA_REST, "sm_%d, %d wide, %d heads: %d",
              version / 10, (int)s.size, (int)s.heads, (int)forward);
    cr_assert(backward >= 0, "sm_%d, %d wide, %d heads, backward", version / 10, (int)s.size,
              (int)s.heads);
    cr_assert((size_t)(backward + sums) <=
                  each * (size_t)(s.batch * s.kv_heads) + DS_NEED_SDPA_REST,
              "sm_%d, %d wide, %d heads: %lld", version / 10, (int)s.size, (int)s.heads,
              (long long)backward);
}

Test(cudnn_plans, heads_and_types)
{
    static const int64_t sizes[] = {64, 128}, groups[] = {1, 4};
    static const int versions[] = {800, 900};

    load();
    for (int i = 0; i < 8; i++) {
        int64_t heads = 2 * groups[i / 2 % 2];
        struct ds_sdpa_shape s = {.type = (i + i / 2) % 2 != 0 ? DS_CUDNN_BF16 : DS_CUDNN_F16,
                                  .batch = 2,
                                  .heads = heads,
                                  .kv_heads = 2,
                                  .all_heads = heads * (1 + i % 2), /* or a part of them */
                                  .all_kv_heads = 2 * (1 + i % 2),
                                  .seq = 512,
                                  .size = sizes[i % 2]};

        check(s, versions[i / 4]);
    }
}

Test(cudnn_plans, sizes_of_models)
{
    const struct ds_sdpa_shape gpt2 = {.type = DS_CUDNN_BF16,
                                       .batch = 16,
                                       .heads = 12,
                                       .kv_heads = 12,
                                       .all_heads = 12,
                                       .all_kv_heads = 12,
                                       .seq = 1024,
                                       .size = 64};
    struct ds_sdpa_shape llama = gpt2, odd = gpt2;

    load();
    llama.batch = 1;
    llama.heads = 8;
    llama.kv_heads = 2;
    llama.all_heads = 32;
    llama.all_kv_heads = 8;
    llama.seq = 4096;
    odd.seq = 1000;
    odd.size = 80;
    check(gpt2, 900);
    check(llama, 900);
    check(odd, 900);
}

/* It says no where it has nothing: what it does not refuse it has. */
Test(cudnn_plans, what_it_has_not)
{
    struct ds_sdpa_shape s = {.backward = 1,
                              .type = DS_CUDNN_BF16,
                              .batch = 2,
                              .heads = 2,
                              .kv_heads = 2,
                              .all_heads = 2,
                              .all_kv_heads = 2,
                              .seq = 512,
                              .size = 512};

    load();
    cr_assert(workspace(&s, 900) == -1);
    s.size = 64;
    cr_assert(workspace(&s, 750) == -1);
}
