/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake_cudnn.c - a stand-in for cuDNN: its descriptors; the contract is in fake_cudnn.h, what a
 * graph computes in fake_cudnn_run.c.
 */
#include "tests/cudaemu/fake_cudnn.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cudaemu/fake_cudnn_graph.h"

enum { MOST = 64 };

struct fake_cudnn fake_cudnn;

/* What a descriptor may have, and what it must. */
static const struct attribute {
    int of, what, type;
    int64_t least, most; /* numbers; least 0: it may lack */
} attributes[] = {
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_ID, DS_CUDNN_TYPE_INT64, 1, 1},
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_TYPE, DS_CUDNN_TYPE_DATA_TYPE, 1, 1},
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_ALIGNMENT, DS_CUDNN_TYPE_INT64, 1, 1},
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_DIMS, DS_CUDNN_TYPE_INT64, FAKE_AXES, FAKE_AXES},
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_STRIDES, DS_CUDNN_TYPE_INT64, FAKE_AXES, FAKE_AXES},
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_VIRTUAL, DS_CUDNN_TYPE_BOOLEAN, 0, 1},
    {DS_CUDNN_TENSOR, DS_CUDNN_TENSOR_BY_VALUE, DS_CUDNN_TYPE_BOOLEAN, 0, 1},
    {DS_CUDNN_MATMUL, DS_CUDNN_MATMUL_MATH, DS_CUDNN_TYPE_DATA_TYPE, 1, 1},
    {DS_CUDNN_OP_MATMUL, DS_CUDNN_OP_MATMUL_A, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_MATMUL, DS_CUDNN_OP_MATMUL_B, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_MATMUL, DS_CUDNN_OP_MATMUL_C, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_MATMUL, DS_CUDNN_OP_MATMUL_HOW, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_POINTWISE, DS_CUDNN_POINTWISE_MODE, DS_CUDNN_TYPE_POINTWISE_MODE, 1, 1},
    {DS_CUDNN_POINTWISE, DS_CUDNN_POINTWISE_MATH, DS_CUDNN_TYPE_DATA_TYPE, 1, 1},
    {DS_CUDNN_POINTWISE, DS_CUDNN_POINTWISE_AXIS, DS_CUDNN_TYPE_INT64, 0, 1},
    {DS_CUDNN_OP_POINTWISE, DS_CUDNN_OP_POINTWISE_HOW, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_POINTWISE, DS_CUDNN_OP_POINTWISE_X, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_POINTWISE, DS_CUDNN_OP_POINTWISE_B, DS_CUDNN_TYPE_DESCRIPTOR, 0, 1},
    {DS_CUDNN_OP_POINTWISE, DS_CUDNN_OP_POINTWISE_T, DS_CUDNN_TYPE_DESCRIPTOR, 0, 1},
    {DS_CUDNN_OP_POINTWISE, DS_CUDNN_OP_POINTWISE_Y, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_REDUCTION, DS_CUDNN_REDUCTION_OPERATOR, DS_CUDNN_TYPE_REDUCTION, 1, 1},
    {DS_CUDNN_REDUCTION, DS_CUDNN_REDUCTION_MATH, DS_CUDNN_TYPE_DATA_TYPE, 1, 1},
    {DS_CUDNN_OP_REDUCTION, DS_CUDNN_OP_REDUCTION_X, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_REDUCTION, DS_CUDNN_OP_REDUCTION_Y, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_REDUCTION, DS_CUDNN_OP_REDUCTION_HOW, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_RESHAPE, DS_CUDNN_OP_RESHAPE_X, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_OP_RESHAPE, DS_CUDNN_OP_RESHAPE_Y, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_GRAPH, DS_CUDNN_GRAPH_HANDLE, DS_CUDNN_TYPE_HANDLE, 1, 1},
    {DS_CUDNN_GRAPH, DS_CUDNN_GRAPH_OPS, DS_CUDNN_TYPE_DESCRIPTOR, 1, MOST},
    {DS_CUDNN_HEURISTIC, DS_CUDNN_HEURISTIC_MODE, DS_CUDNN_TYPE_HEUR_MODE, 1, 1},
    {DS_CUDNN_HEURISTIC, DS_CUDNN_HEURISTIC_GRAPH, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_PLAN, DS_CUDNN_PLAN_HANDLE, DS_CUDNN_TYPE_HANDLE, 1, 1},
    {DS_CUDNN_PLAN, DS_CUDNN_PLAN_CONFIG, DS_CUDNN_TYPE_DESCRIPTOR, 1, 1},
    {DS_CUDNN_PACK, DS_CUDNN_PACK_POINTERS, DS_CUDNN_TYPE_VOID_PTR, 1, MOST},
    {DS_CUDNN_PACK, DS_CUDNN_PACK_IDS, DS_CUDNN_TYPE_INT64, 1, MOST},
    {DS_CUDNN_PACK, DS_CUDNN_PACK_WORKSPACE, DS_CUDNN_TYPE_VOID_PTR, 1, 1},
};
enum { ATTRIBUTES = sizeof(attributes) / sizeof(attributes[0]) };

struct fake_desc {
    int kind;
    bool final;
    struct {
        int64_t count; /* 0: not set */
        unsigned char *bytes;
    } has[ATTRIBUTES];
    const struct fake_desc *graph; /* of a configuration, an engine, a plan */
    unsigned config;               /* likewise */
};

struct handle {
    void *stream;
};

void fake_insist(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "fake cuDNN: %s\n", what);
    abort();
}

/* 0, or how this call has to fail. */
static int fate(void)
{
    fake_cudnn.calls++;
    return fake_cudnn.calls == fake_cudnn.fail_at ? fake_cudnn.fail_with : 0;
}

static size_t bytes_of(int type)
{
    switch (type) {
    case DS_CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case DS_CUDNN_TYPE_INT64: return sizeof(int64_t);
    case DS_CUDNN_TYPE_HANDLE:
    case DS_CUDNN_TYPE_VOID_PTR:
    case DS_CUDNN_TYPE_DESCRIPTOR: return sizeof(void *);
    default: return sizeof(int);
    }
}

int64_t fake_get(const struct fake_desc *d, int what, void *values)
{
    for (size_t i = 0; i < ATTRIBUTES; i++) {
        if (attributes[i].of != d->kind || attributes[i].what != what)
            continue;
        if (d->has[i].count > 0)
            memcpy(values, d->has[i].bytes, (size_t)d->has[i].count * bytes_of(attributes[i].type));
        return d->has[i].count;
    }
    fake_insist(false, "an attribute that this descriptor does not have");
    return 0;
}

int fake_kind(const struct fake_desc *d)
{
    return d->kind;
}

/* clang-format off */
#define X(type, name, args) type cudnn##name args;
DS_CUDNN_CALLS(X)
#undef X
/* clang-format on */

int cudnnCreate(void **handle)
{
    int s = fate();

    if (s != 0)
        return s;
    *handle = calloc(1, sizeof(struct handle));
    fake_insist(*handle != NULL, "no memory");
    fake_cudnn.live++;
    return 0;
}

int cudnnDestroy(void *handle)
{
    free(handle);
    fake_cudnn.live--;
    return 0;
}

size_t cudnnGetVersion(void)
{
    const char *wish = getenv("FAKE_CUDNN_VERSION");

    if (wish != NULL)
        return strtoul(wish, NULL, 10);
    return fake_cudnn.version != 0 ? fake_cudnn.version : 91900;
}

const char *cudnnGetErrorString(int status)
{
    return status == DS_CUDNN_NO_MEMORY ? "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
           : status == DS_CUDNN_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED"
                                              : "CUDNN_STATUS_EXECUTION_FAILED";
}

void cudnnGetLastErrorString(char *text, size_t bytes)
{
    (void)snprintf(text, bytes, "the double was told to\nand more");
}

int cudnnSetStream(void *handle, void *stream)
{
    ((struct handle *)handle)->stream = stream;
    return fate();
}

void *fake_cudnn_stream(void *handle)
{
    return ((struct handle *)handle)->stream;
}

int cudnnBackendCreateDescriptor(int what, void **desc)
{
    int s = fate();

    if (s != 0)
        return s;
    *desc = calloc(1, sizeof(struct fake_desc));
    fake_insist(*desc != NULL, "no memory");
    ((struct fake_desc *)*desc)->kind = what;
    fake_cudnn.live++;
    return 0;
}

int cudnnBackendDestroyDescriptor(void *desc)
{
    struct fake_desc *d = desc;

    for (size_t i = 0; i < ATTRIBUTES; i++)
        free(d->has[i].bytes);
    free(d);
    fake_cudnn.live--;
    return 0;
}

/* What is referred to is whole. */
static void check_references(const struct attribute *a, int64_t count, const void *values)
{
    for (int64_t i = 0; a->type == DS_CUDNN_TYPE_DESCRIPTOR && i < count; i++)
        fake_insist(((struct fake_desc *const *)values)[i]->final, "a part that is not final");
}

int cudnnBackendSetAttribute(void *desc, int what, int type, int64_t count, const void *values)
{
    struct fake_desc *d = desc;
    int s = fate();

    if (s != 0)
        return s;
    fake_insist(!d->final, "an attribute behind the end");
    for (size_t i = 0; i < ATTRIBUTES; i++) {
        const struct attribute *a = &attributes[i];
        size_t bytes = (size_t)count * bytes_of(type);

        if (a->of != d->kind || a->what != what)
            continue;
        fake_insist(a->type == type, "an attribute of another type");
        fake_insist(count > 0 && count >= a->least && count <= a->most, "too few, or too many");
        fake_insist(d->has[i].count == 0, "an attribute that was set before");
        check_references(a, count, values);
        d->has[i].count = count;
        d->has[i].bytes = malloc(bytes);
        fake_insist(d->has[i].bytes != NULL, "no memory");
        memcpy(d->has[i].bytes, values, bytes);
        return 0;
    }
    fake_insist(false, "an attribute that this descriptor does not have");
    return 0;
}

/* --- results -----------------------------------------------------------------------------------*/

static void give_configs(const struct fake_desc *d, int64_t room, int64_t *count, void *values)
{
    struct fake_desc *const *config = values, *graph = NULL;
    int64_t all = fake_cudnn.configs > 0 ? fake_cudnn.configs : 2;

    (void)fake_get(d, DS_CUDNN_HEURISTIC_GRAPH, (void *)&graph);
    *count = all;
    for (int64_t i = 0; i < all && i < room; i++) {
        fake_insist(config[i]->kind == DS_CUDNN_CONFIG, "a place that is not for a configuration");
        config[i]->final = true;
        config[i]->graph = graph;
        config[i]->config = (unsigned)i;
    }
}

static void give_notes(const struct fake_desc *d, int64_t room, int64_t *count, int *values)
{
    const int tensor_core = 0;
    bool wavers = fake_cudnn.wavering >> d->config & 1;

    fake_insist(room >= 2, "no room for notes");
    *count = 1 + wavers;
    values[0] = tensor_core;
    values[wavers ? 1 : 0] = wavers ? DS_CUDNN_NOTE_NONDETERMINISTIC : tensor_core;
}

int cudnnBackendGetAttribute(void *desc, int what, int type, int64_t room, int64_t *count,
                             void *values)
{
    struct fake_desc *d = desc;
    int s = fate();

    if (s != 0)
        return s;
    fake_insist(d->final, "a question to what is not final");
    *count = 1;
    if (what == DS_CUDNN_HEURISTIC_RESULTS && type == DS_CUDNN_TYPE_DESCRIPTOR) {
        give_configs(d, room, count, values);
    } else if (what == DS_CUDNN_CONFIG_ENGINE && type == DS_CUDNN_TYPE_DESCRIPTOR) {
        struct fake_desc *engine = *(struct fake_desc **)values;

        fake_insist(engine->kind == DS_CUDNN_ENGINE, "a place that is not for an engine");
        engine->final = true;
        engine->config = d->config;
    } else if (what == DS_CUDNN_ENGINE_NOTES && type == DS_CUDNN_TYPE_NUMERICAL_NOTE) {
        give_notes(d, room, count, values);
    } else if (what == DS_CUDNN_PLAN_WORKSPACE && type == DS_CUDNN_TYPE_INT64) {
        *(int64_t *)values = (int64_t)fake_graph_workspace(d->graph);
    } else {
        fake_insist(false, "a question that it has no answer to");
    }
    return 0;
}

static int finalize_plan(struct fake_desc *d)
{
    struct fake_desc *config = NULL;

    (void)fake_get(d, DS_CUDNN_PLAN_CONFIG, (void *)&config);
    d->graph = config->graph;
    d->config = config->config;
    fake_cudnn.plans++;
    return fake_cudnn.unfit >> d->config & 1 ? DS_CUDNN_NOT_SUPPORTED : 0;
}

int cudnnBackendFinalize(void *desc)
{
    struct fake_desc *d = desc;
    int s = fate();

    if (s != 0)
        return s;
    fake_insist(!d->final, "final for the second time");
    for (size_t i = 0; i < ATTRIBUTES; i++)
        fake_insist(attributes[i].of != d->kind || d->has[i].count >= attributes[i].least,
                    "an attribute is missing");
    if (d->kind == DS_CUDNN_TENSOR)
        fake_check_tensor(d);
    if (d->kind == DS_CUDNN_GRAPH)
        fake_check_graph(d);
    s = d->kind == DS_CUDNN_PLAN ? finalize_plan(d) : 0;
    d->final = s == 0;
    return s;
}

struct fake_cudnn_run *fake_cudnn_prepare(void *plan, void *pack)
{
    const struct fake_desc *p = plan;

    fake_insist(p->kind == DS_CUDNN_PLAN && p->final, "no plan");
    fake_insist(((struct fake_desc *)pack)->final, "a run that is not final");
    fake_cudnn.runs++;
    fake_cudnn.ran = p->config;
    return fake_graph_run(p->graph, pack);
}

int cudnnBackendExecute(void *handle, void *plan, void *pack)
{
    int s = fate();
    struct fake_cudnn_run *run;

    (void)handle;
    if (s != 0)
        return s;
    run = fake_cudnn_prepare(plan, pack);
    fake_cudnn_do(run);
    free(run);
    return 0;
}

const struct ds_cudnn fake_cudnn_calls = {.library = NULL,
#define X(type, name, args) .name = cudnn##name,
                                          DS_CUDNN_CALLS(X)
#undef X
};
