/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake_cudnn_run.c - what a graph of the stand-in for cuDNN computes, operation by operation.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "tests/cudaemu/fake_cudnn.h"
#include "tests/cudaemu/fake_cudnn_graph.h"

enum { MOST = 64, GIVEN = 16 };

struct tensor {
    const struct fake_desc *desc;
    int64_t id, alignment, dims[FAKE_AXES], strides[FAKE_AXES];
    int type;
    bool is_virtual, by_value;
};

struct op {
    int kind, mode;
    int64_t axis;
    struct tensor in[3], out; /* desc NULL: none */
};

struct fake_cudnn_run {
    const struct fake_desc *graph;
    int64_t count, id[GIVEN];
    void *at[GIVEN];
    float number[GIVEN]; /* of the host's, as they were */
    bool by_value[GIVEN];
    char *workspace;
};

/* --- reading a graph ---------------------------------------------------------------------------*/

static struct tensor tensor_of(const struct fake_desc *desc)
{
    struct tensor t = {.desc = desc};

    if (desc == NULL)
        return t;
    fake_insist(fake_kind(desc) == DS_CUDNN_TENSOR, "what should be a tensor");
    (void)fake_get(desc, DS_CUDNN_TENSOR_ID, &t.id);
    (void)fake_get(desc, DS_CUDNN_TENSOR_TYPE, &t.type);
    (void)fake_get(desc, DS_CUDNN_TENSOR_ALIGNMENT, &t.alignment);
    (void)fake_get(desc, DS_CUDNN_TENSOR_DIMS, t.dims);
    (void)fake_get(desc, DS_CUDNN_TENSOR_STRIDES, t.strides);
    (void)fake_get(desc, DS_CUDNN_TENSOR_VIRTUAL, &t.is_virtual);
    (void)fake_get(desc, DS_CUDNN_TENSOR_BY_VALUE, &t.by_value);
    return t;
}

static struct tensor part(const struct fake_desc *op, int what)
{
    struct fake_desc *desc = NULL;

    (void)fake_get(op, what, (void *)&desc);
    return tensor_of(desc);
}

static const struct fake_desc *how(const struct fake_desc *op, int what, int kind)
{
    struct fake_desc *desc = NULL;

    (void)fake_get(op, what, (void *)&desc);
    fake_insist(desc != NULL && fake_kind(desc) == kind, "what should say how");
    return desc;
}

static struct op op_of(const struct fake_desc *d)
{
    struct op op = {.kind = fake_kind(d), .axis = -1};
    const struct fake_desc *by;

    switch (op.kind) {
    case DS_CUDNN_OP_MATMUL:
        (void)how(d, DS_CUDNN_OP_MATMUL_HOW, DS_CUDNN_MATMUL);
        op.in[0] = part(d, DS_CUDNN_OP_MATMUL_A);
        op.in[1] = part(d, DS_CUDNN_OP_MATMUL_B);
        op.out = part(d, DS_CUDNN_OP_MATMUL_C);
        break;
    case DS_CUDNN_OP_POINTWISE:
        by = how(d, DS_CUDNN_OP_POINTWISE_HOW, DS_CUDNN_POINTWISE);
        (void)fake_get(by, DS_CUDNN_POINTWISE_MODE, &op.mode);
        (void)fake_get(by, DS_CUDNN_POINTWISE_AXIS, &op.axis);
        op.in[0] = part(d, DS_CUDNN_OP_POINTWISE_X);
        op.in[1] = part(d, DS_CUDNN_OP_POINTWISE_B);
        op.in[2] = part(d, DS_CUDNN_OP_POINTWISE_T);
        op.out = part(d, DS_CUDNN_OP_POINTWISE_Y);
        break;
    case DS_CUDNN_OP_REDUCTION:
        by = how(d, DS_CUDNN_OP_REDUCTION_HOW, DS_CUDNN_REDUCTION);
        (void)fake_get(by, DS_CUDNN_REDUCTION_OPERATOR, &op.mode);
        op.in[0] = part(d, DS_CUDNN_OP_REDUCTION_X);
        op.out = part(d, DS_CUDNN_OP_REDUCTION_Y);
        break;
    case DS_CUDNN_OP_RESHAPE:
        op.in[0] = part(d, DS_CUDNN_OP_RESHAPE_X);
        op.out = part(d, DS_CUDNN_OP_RESHAPE_Y);
        break;
    default: fake_insist(false, "what should be an operation");
    }
    return op;
}

static int64_t ops_of(const struct fake_desc *graph, struct op op[MOST])
{
    struct fake_desc *desc[MOST];
    int64_t count = fake_get(graph, DS_CUDNN_GRAPH_OPS, (void *)desc);

    for (int64_t i = 0; i < count; i++)
        op[i] = op_of(desc[i]);
    return count;
}

/* --- checks ------------------------------------------------------------------------------------*/

void fake_check_tensor(const struct fake_desc *desc)
{
    struct tensor t = tensor_of(desc);

    for (int i = 0; i < FAKE_AXES; i++)
        fake_insist(t.dims[i] > 0 && t.strides[i] > 0, "an empty tensor");
    fake_insist(!(t.is_virtual && t.by_value), "a number that nobody gives");
    fake_insist(t.alignment == 16, "an alignment that kernels for attention do not have");
}

static void check_shapes(const struct op *op)
{
    const int64_t *x = op->in[0].dims, *b = op->in[1].dims, *y = op->out.dims;

    if (op->kind == DS_CUDNN_OP_MATMUL) {
        fake_insist(x[0] == y[0] && b[0] == y[0] && y[1] % x[1] == 0 && y[1] % b[1] == 0,
                    "products of another number");
        fake_insist(x[2] == y[2] && b[3] == y[3] && x[3] == b[2], "matrices do not fit together");
    }
    for (int i = 0; i < FAKE_AXES; i++) {
        if (op->kind == DS_CUDNN_OP_REDUCTION)
            fake_insist(x[i] % y[i] == 0, "a sum that does not fit");
        for (int k = 0; op->kind == DS_CUDNN_OP_POINTWISE && k < 3; k++)
            fake_insist(op->in[k].desc == NULL || op->in[k].dims[i] == y[i] ||
                            op->in[k].dims[i] == 1,
                        "elements that do not fit together");
    }
    if (op->kind == DS_CUDNN_OP_RESHAPE)
        fake_insist(x[0] * x[1] * x[2] * x[3] == y[0] * y[1] * y[2] * y[3], "another size");
}

void fake_check_graph(const struct fake_desc *graph)
{
    struct op op[MOST];
    const struct fake_desc *written[MOST];
    int64_t count = ops_of(graph, op), done = 0;

    for (int64_t i = 0; i < count; i++) {
        for (int k = 0; k < 3; k++) {
            bool is = !op[i].in[k].is_virtual;

            for (int64_t j = 0; j < done; j++)
                is = is || written[j] == op[i].in[k].desc;
            fake_insist(is, "a tensor that is read before it is written");
        }
        for (int64_t j = 0; j < done; j++)
            fake_insist(written[j] != op[i].out.desc, "a tensor that is written twice");
        fake_insist(!op[i].out.by_value, "a result in a number of the host's");
        check_shapes(&op[i]);
        written[done++] = op[i].out.desc;
    }
}

/* Five products are the backward pass, which keeps gradients of scores, and for groups of heads those
 * of each head. */
size_t fake_graph_workspace(const struct fake_desc *graph)
{
    struct op op[MOST] = {{.kind = 0}};
    int64_t count = ops_of(graph, op), products = 0;
    size_t heads = (size_t)(op[0].out.dims[0] * op[0].out.dims[1]);
    size_t rows = ((size_t)op[0].out.dims[2] + 63) / 64 * 64, each = 0;

    for (int64_t i = 0; i < count; i++) {
        products += op[i].kind == DS_CUDNN_OP_MATMUL;
        if (op[i].kind == DS_CUDNN_OP_REDUCTION && op[i].out.dims[3] > 1)
            each += rows * (size_t)op[i].out.dims[3] * 2;
    }
    if (products == 5)
        each += rows * rows * 2;
    return 256 + heads * (each + fake_cudnn.more);
}

/* --- memory ------------------------------------------------------------------------------------*/

static double round_to(int type, double x)
{
    switch (type) {
    case DS_CUDNN_BF16: return (double)ds_bf16_to_f32(ds_bf16_from_f32((float)x));
    case DS_CUDNN_F16: return (double)ds_f16_to_f32(ds_f16_from_f32((float)x));
    case DS_CUDNN_F32: return (double)(float)x;
    default: return x;
    }
}

static double element(const void *x, int type, int64_t i)
{
    if (type == DS_CUDNN_F32)
        return (double)((const float *)x)[i];
    return type == DS_CUDNN_BF16 ? (double)ds_bf16_to_f32(((const ds_bf16 *)x)[i])
                                 : (double)ds_f16_to_f32(((const ds_f16 *)x)[i]);
}

static void put(void *x, int type, int64_t i, double value)
{
    if (type == DS_CUDNN_F32)
        ((float *)x)[i] = (float)value;
    else if (type == DS_CUDNN_BF16)
        ((ds_bf16 *)x)[i] = ds_bf16_from_f32((float)value);
    else
        ((ds_f16 *)x)[i] = ds_f16_from_f32((float)value);
}

struct values { /* of a tensor, without gaps */
    const struct fake_desc *desc;
    double *x;
};

struct room {
    const struct fake_cudnn_run *run;
    struct values kept[MOST];
    int64_t count;
};

static int64_t size_of(const struct tensor *t)
{
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

/* Of element i in a row without gaps: where it lies by the tensor's strides. */
static int64_t place(const struct tensor *t, int64_t i)
{
    int64_t at = 0;

    for (int axis = FAKE_AXES; axis-- > 0; i /= t->dims[axis])
        at += i % t->dims[axis] * t->strides[axis];
    return at;
}

static void *given(const struct fake_cudnn_run *run, const struct tensor *t)
{
    for (int64_t i = 0; i < run->count; i++) {
        if (run->id[i] == t->id)
            return run->at[i];
    }
    fake_insist(false, "a tensor that the run was not given");
    return NULL;
}

static double *keep(struct room *room, const struct tensor *t)
{
    double *x = malloc((size_t)size_of(t) * sizeof(*x));

    fake_insist(x != NULL && room->count < MOST, "no memory");
    room->kept[room->count++] = (struct values){t->desc, x};
    return x;
}

static double *load(struct room *room, const struct tensor *t)
{
    const void *from;
    double *x;

    if (t->desc == NULL)
        return NULL;
    for (int64_t i = 0; i < room->count; i++) {
        if (room->kept[i].desc == t->desc)
            return room->kept[i].x;
    }
    from = given(room->run, t);
    x = keep(room, t);
    for (int64_t i = 0; i < size_of(t); i++)
        x[i] = element(from, t->type, place(t, i));
    return x;
}

static void store(const struct room *room, const struct tensor *t, double *x)
{
    void *to = t->is_virtual ? NULL : given(room->run, t);

    for (int64_t i = 0; i < size_of(t); i++) {
        x[i] = round_to(t->type, x[i]);
        if (to != NULL)
            put(to, t->type, place(t, i), x[i]);
    }
}

/* --- operations --------------------------------------------------------------------------------*/

static void multiply(const struct op *op, const double *a, const double *b, double *c)
{
    const int64_t *x = op->in[0].dims, *w = op->in[1].dims, *y = op->out.dims;

    for (int64_t g = 0; g < y[0] * y[1]; g++) {
        int64_t batch = g / y[1], head = g % y[1];
        const double *ma = a + (batch * x[1] + head * x[1] / y[1]) * x[2] * x[3];
        const double *mb = b + (batch * w[1] + head * w[1] / y[1]) * w[2] * w[3];
        double *mc = c + g * y[2] * y[3];

        memset(mc, 0, (size_t)(y[2] * y[3]) * sizeof(*mc));
        for (int64_t i = 0; i < y[2]; i++) {
            for (int64_t k = 0; k < x[3]; k++) {
                for (int64_t j = 0; j < y[3]; j++)
                    mc[i * y[3] + j] += ma[i * x[3] + k] * mb[k * w[3] + j];
            }
        }
    }
}

/* Of element i of the result, that of an operand, which is repeated along axes of length 1. */
static int64_t repeated(const struct tensor *y, const struct tensor *x, int64_t i)
{
    int64_t at = 0, step = 1;

    for (int axis = FAKE_AXES; axis-- > 0; i /= y->dims[axis]) {
        at += (x->dims[axis] == 1 ? 0 : i % y->dims[axis]) * step;
        step *= x->dims[axis];
    }
    return at;
}

static int64_t along(const struct tensor *t, int64_t i, int64_t wanted)
{
    for (int axis = FAKE_AXES; axis-- > 0; i /= t->dims[axis]) {
        if (axis == wanted)
            return i % t->dims[axis];
    }
    fake_insist(false, "an index along no axis");
    return 0;
}

static double apply(const struct op *op, double x, double b, double t, int64_t i)
{
    switch (op->mode) {
    case DS_CUDNN_ADD: return x + b;
    case DS_CUDNN_MUL: return x * b;
    case DS_CUDNN_DIV: return x / b;
    case DS_CUDNN_SUB: return x - b;
    case DS_CUDNN_EXP: return exp(x);
    case DS_CUDNN_LOG: return log(x);
    case DS_CUDNN_NOT_BELOW: return x >= b ? 1.0 : 0.0;
    case DS_CUDNN_INDEX: return (double)along(&op->out, i, op->axis);
    case DS_CUDNN_SELECT: return t != 0.0 ? x : b;
    default: fake_insist(false, "an operation on elements that it does not know");
    }
    return 0.0;
}

static void each(const struct op *op, double *const in[3], double *y)
{
    for (int64_t i = 0; i < size_of(&op->out); i++) {
        double of[3] = {0.0, 0.0, 0.0};

        for (int k = 0; k < 3; k++) {
            if (in[k] != NULL)
                of[k] = in[k][repeated(&op->out, &op->in[k], i)];
        }
        y[i] = apply(op, of[0], of[1], of[2], i);
    }
}

/* Neighbours along an axis come together in one. */
static void reduce(const struct op *op, const double *x, double *y)
{
    bool max = op->mode == DS_CUDNN_REDUCE_MAX;

    fake_insist(max || op->mode == DS_CUDNN_REDUCE_ADD, "a reduction that it does not know");
    for (int64_t i = 0; i < size_of(&op->out); i++)
        y[i] = max ? (double)-INFINITY : 0.0;
    for (int64_t i = 0; i < size_of(&op->in[0]); i++) {
        int64_t at = 0, step = 1, left = i;

        for (int axis = FAKE_AXES; axis-- > 0; left /= op->in[0].dims[axis]) {
            int64_t from = op->in[0].dims[axis], to = op->out.dims[axis];

            at += left % from / (from / to) * step;
            step *= to;
        }
        y[at] = max ? fmax(y[at], x[i]) : y[at] + x[i];
    }
}

/* The same memory with other strides. */
static void see(const struct op *op, const double *x, double *y)
{
    int64_t n = size_of(&op->out), most = 0;
    double *memory;

    for (int64_t i = 0; i < n; i++)
        most = place(&op->in[0], i) > most ? place(&op->in[0], i) : most;
    memory = calloc((size_t)most + 1, sizeof(*memory));
    fake_insist(memory != NULL, "no memory");
    for (int64_t i = 0; i < n; i++)
        memory[place(&op->in[0], i)] = x[i];
    for (int64_t i = 0; i < n; i++) {
        fake_insist(place(&op->out, i) <= most, "memory that is seen and is not there");
        y[i] = memory[place(&op->out, i)];
    }
    free(memory);
}

static void perform(struct room *room, const struct op *op)
{
    double *in[3], *y;

    for (int k = 0; k < 3; k++)
        in[k] = load(room, &op->in[k]);
    y = keep(room, &op->out);
    if (op->kind == DS_CUDNN_OP_MATMUL)
        multiply(op, in[0], in[1], y);
    else if (op->kind == DS_CUDNN_OP_POINTWISE)
        each(op, in, y);
    else if (op->kind == DS_CUDNN_OP_REDUCTION)
        reduce(op, in[0], y);
    else
        see(op, in[0], y);
    store(room, &op->out, y);
}

/* --- runs --------------------------------------------------------------------------------------*/

/* Every tensor with memory is given, as it has to be aligned; numbers of the host are read now. */
static void check_given(struct fake_cudnn_run *run, const struct tensor *t, bool *used)
{
    if (t->desc == NULL || t->is_virtual)
        return;
    for (int64_t i = 0; i < run->count; i++) {
        if (run->id[i] != t->id)
            continue;
        used[i] = true;
        run->by_value[i] = t->by_value;
        if (t->by_value)
            memcpy(&run->number[i], run->at[i], sizeof(float));
        else
            fake_insist((uintptr_t)run->at[i] % (uintptr_t)t->alignment == 0,
                        "a tensor not aligned as said");
    }
    (void)given(run, t);
}

struct fake_cudnn_run *fake_graph_run(const struct fake_desc *graph, const struct fake_desc *pack)
{
    struct fake_cudnn_run *run = calloc(1, sizeof(*run));
    struct op op[MOST];
    int64_t ops = ops_of(graph, op);
    bool used[GIVEN] = {false};

    fake_insist(run != NULL, "no memory");
    run->graph = graph;
    run->count = fake_get(pack, DS_CUDNN_PACK_IDS, run->id);
    fake_insist(run->count == fake_get(pack, DS_CUDNN_PACK_POINTERS, (void *)run->at),
                "pointers and numbers of tensors differ");
    (void)fake_get(pack, DS_CUDNN_PACK_WORKSPACE, (void *)&run->workspace);
    fake_insist(run->workspace != NULL && (uintptr_t)run->workspace % 16 == 0, "no workspace");
    for (int64_t i = 0; i < ops; i++) {
        for (int k = 0; k < 3; k++)
            check_given(run, &op[i].in[k], used);
        check_given(run, &op[i].out, used);
    }
    for (int64_t i = 0; i < run->count; i++)
        fake_insist(used[i], "a tensor that the graph does not have");
    return run;
}

void fake_cudnn_do(void *arg)
{
    struct fake_cudnn_run *run = arg;
    struct room *room = calloc(1, sizeof(*room));
    struct op op[MOST];
    int64_t ops = ops_of(run->graph, op);

    fake_insist(room != NULL, "no memory");
    room->run = run;
    for (int64_t i = 0; i < run->count; i++) {
        if (run->by_value[i])
            run->at[i] = &run->number[i];
    }
    memset(run->workspace, 0xff, fake_graph_workspace(run->graph));
    for (int64_t i = 0; i < ops; i++)
        perform(room, &op[i]);
    for (int64_t i = 0; i < room->count; i++)
        free(room->kept[i].x);
    free(room);
}
