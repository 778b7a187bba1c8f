/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sdpa.c - plans of attention by cuDNN, and runs of them; the contract is in sdpa.h.
 */
#include "kernels/cuda/sdpa.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/need.h"
#include "kernels/cuda/sdpa_graph.h"

/* 9.10.2: before it gradients are known to be wrong.  Up to 9.15.0 they are where the length of a
 * sequence is not a multiple of 128, unless it is masked. */
enum { OLDEST = 91002, ANY_LENGTH = 91501, WHOLE_LENGTH = 128 };
enum { PLANS = 64, CONFIGS = 16, WIDEST = 128, ALIGNMENT = 16, ROUND = 256, TRIES = 4 };

/* A shape that came, and how it is done. */
struct planned {
    struct ds_sdpa_shape whole, part;
    struct ds_sdpa_graph graph;
    void *plan; /* of the part; NULL: not by cuDNN */
    size_t bytes, sums_bytes;
    char why_not[256];
};

struct ds_cuda_sdpa {
    struct ds_cuda_sdpa_args args;
    void *handle;
    struct planned planned[PLANS];
    size_t next; /* the place of the next one, round and round */
    bool told;
    char note[512];
};

/* What a run is given; results are among them.  Forward has neither dout nor dqkv. */
struct operands {
    const char *qkv, *out, *dout, *dqkv;
    const float *lse;
    float scale;
};

static size_t round_up(size_t bytes)
{
    return (bytes + ROUND - 1) / ROUND * ROUND;
}

/* The library's last words are about the call that failed; they are kept to one line. */
static int refused(const struct ds_cuda_sdpa *s, const char *what, int status, struct ds_error *err)
{
    int code = status >= DS_CUDNN_NOT_SUPPORTED && status < DS_CUDNN_NOT_SUPPORTED + 1000 ? ENOTSUP
               : status == DS_CUDNN_NO_MEMORY || status == DS_CUDNN_NO_HOST_MEMORY        ? ENOMEM
                                                                                          : EIO;
    char words[256] = "";

    s->args.cudnn->GetLastErrorString(words, sizeof(words));
    words[sizeof(words) - 1] = '\0';
    words[strcspn(words, "\n")] = '\0';
    return ds_fail(err, code, "cuDNN refused %s: %s%s%s", what,
                   s->args.cudnn->GetErrorString(status), words[0] != '\0' ? ", " : "", words);
}

/* --- plans -------------------------------------------------------------------------------------*/

/* May the engine of this configuration give other bits the next time? */
static int wavers(const struct ds_cuda_sdpa *s, struct ds_sdpa_graph *graph, void *config,
                  bool *answer)
{
    const struct ds_cudnn *lib = s->args.cudnn;
    int note[DS_CUDNN_NOTES] = {0};
    int64_t found = 0;
    void *engine;
    int status = ds__sdpa_make(graph, lib, DS_CUDNN_ENGINE, &engine);

    *answer = false;
    if (status == 0)
        status = lib->BackendGetAttribute(config, DS_CUDNN_CONFIG_ENGINE, DS_CUDNN_TYPE_DESCRIPTOR,
                                          1, &found, &engine);
    if (status == 0)
        status =
            lib->BackendGetAttribute(engine, DS_CUDNN_ENGINE_NOTES, DS_CUDNN_TYPE_NUMERICAL_NOTE,
                                     DS_CUDNN_NOTES, &found, note);
    for (int64_t i = 0; status == 0 && i < found && i < DS_CUDNN_NOTES; i++)
        *answer = *answer || note[i] == DS_CUDNN_NOTE_NONDETERMINISTIC;
    return status;
}

static int make_plan(const struct ds_cuda_sdpa *s, struct ds_sdpa_graph *graph, void *config,
                     void **plan, size_t *workspace)
{
    const struct ds_cudnn *lib = s->args.cudnn;
    int64_t bytes = 0, count = 0;
    int status = ds__sdpa_make(graph, lib, DS_CUDNN_PLAN, plan);

    if (status == 0)
        status = lib->BackendSetAttribute(*plan, DS_CUDNN_PLAN_HANDLE, DS_CUDNN_TYPE_HANDLE, 1,
                                          &s->handle);
    if (status == 0)
        status = lib->BackendSetAttribute(*plan, DS_CUDNN_PLAN_CONFIG, DS_CUDNN_TYPE_DESCRIPTOR, 1,
                                          &config);
    if (status == 0)
        status = lib->BackendFinalize(*plan);
    if (status == 0)
        status = lib->BackendGetAttribute(*plan, DS_CUDNN_PLAN_WORKSPACE, DS_CUDNN_TYPE_INT64, 1,
                                          &count, &bytes);
    *workspace = bytes > 0 ? (size_t)bytes : 0;
    return status == 0 && bytes < 0 ? DS_CUDNN_NOT_SUPPORTED : status;
}

/* The configurations that the library's heuristic names, the best first. */
static int configurations(const struct ds_cuda_sdpa *s, struct ds_sdpa_graph *graph,
                          void *config[CONFIGS], int64_t *found)
{
    const struct ds_cudnn *lib = s->args.cudnn;
    const int mode = DS_CUDNN_HEUR_MODE_A;
    void *all, *heuristic = NULL;
    int status = ds__sdpa_make(graph, lib, DS_CUDNN_GRAPH, &all);

    if (status == 0)
        status = lib->BackendSetAttribute(all, DS_CUDNN_GRAPH_OPS, DS_CUDNN_TYPE_DESCRIPTOR,
                                          (int64_t)graph->ops, graph->op);
    if (status == 0)
        status = lib->BackendSetAttribute(all, DS_CUDNN_GRAPH_HANDLE, DS_CUDNN_TYPE_HANDLE, 1,
                                          &s->handle);
    if (status == 0)
        status = lib->BackendFinalize(all);
    if (status == 0)
        status = ds__sdpa_make(graph, lib, DS_CUDNN_HEURISTIC, &heuristic);
    if (status == 0)
        status = lib->BackendSetAttribute(heuristic, DS_CUDNN_HEURISTIC_GRAPH,
                                          DS_CUDNN_TYPE_DESCRIPTOR, 1, &all);
    if (status == 0)
        status = lib->BackendSetAttribute(heuristic, DS_CUDNN_HEURISTIC_MODE,
                                          DS_CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (status == 0)
        status = lib->BackendFinalize(heuristic);
    for (size_t i = 0; status == 0 && i < CONFIGS; i++)
        status = ds__sdpa_make(graph, lib, DS_CUDNN_CONFIG, &config[i]);
    if (status == 0)
        status = lib->BackendGetAttribute(heuristic, DS_CUDNN_HEURISTIC_RESULTS,
                                          DS_CUDNN_TYPE_DESCRIPTOR, CONFIGS, found, config);
    *found = *found < CONFIGS ? *found : CONFIGS;
    return status;
}

/* A plan for p->part, of the first configuration that has one. */
static int plan_part(const struct ds_cuda_sdpa *s, struct planned *p, size_t *workspace,
                     struct ds_error *err)
{
    void *config[CONFIGS];
    int64_t found = 0;
    bool waver = false;
    int status = ds__sdpa_describe(&p->graph, s->args.cudnn, &p->part), last = 0;

    p->plan = NULL;
    if (status == 0)
        status = configurations(s, &p->graph, config, &found);
    if (status != 0)
        return refused(s, "the graph of attention", status, err);
    for (int64_t i = 0; i < found; i++) {
        status = wavers(s, &p->graph, config[i], &waver);
        if (status == 0 && waver)
            continue;
        if (status == 0)
            status = make_plan(s, &p->graph, config[i], &p->plan, workspace);
        if (status == 0)
            return 0;
        p->plan = NULL;
        last = status;
    }
    if (last != 0)
        return refused(s, "a plan of attention", last, err);
    return ds_fail(err, ENOTSUP, "cuDNN has no kernels that give the same bits every time");
}

/* The largest number that divides n and is not above most. */
static int64_t divisor(int64_t n, int64_t most)
{
    for (int64_t d = most < n ? most : n; d > 1; d--) {
        if (n % d == 0)
            return d;
    }
    return 1;
}

/* As many sequences, or else heads of one, as have room, if `each` key/value head takes that. */
static void shrink(struct planned *p, size_t each, size_t room)
{
    const struct ds_sdpa_shape *whole = &p->whole;
    size_t left = room > DS_NEED_SDPA_REST ? room - DS_NEED_SDPA_REST : 0;
    int64_t most = (int64_t)(left / (each > 0 ? each : 1)), group = whole->heads / whole->kv_heads;

    p->part.kv_heads = divisor(whole->kv_heads, most);
    p->part.heads = p->part.kv_heads * group;
    p->part.batch =
        p->part.kv_heads == whole->kv_heads ? divisor(whole->batch, most / whole->kv_heads) : 1;
}

/* Bytes for sums of out * dout. */
static size_t sums_of(const struct ds_sdpa_shape *s)
{
    return s->backward ? round_up((size_t)(s->batch * s->heads * s->seq) * sizeof(float)) : 0;
}

/* A part that has room, and its plan. */
static int fit(const struct ds_cuda_sdpa *s, struct planned *p, size_t room, struct ds_error *err)
{
    const struct ds_sdpa_shape *w = &p->whole;
    size_t each = w->backward ? ds__need_sdpa((size_t)w->seq, (size_t)w->size,
                                              (size_t)(w->heads / w->kv_heads))
                              : 0;
    size_t workspace = 0;
    int rc = 0;

    p->part = p->whole;
    for (int i = 0; i < TRIES; i++) {
        size_t parts;

        shrink(p, each, room);
        ds__sdpa_forget(&p->graph, s->args.cudnn);
        rc = plan_part(s, p, &workspace, err);
        p->sums_bytes = sums_of(&p->part);
        p->bytes = p->sums_bytes + workspace;
        if (rc != 0 || p->bytes <= room)
            return rc;
        parts = (size_t)(p->part.batch * p->part.kv_heads);
        if (parts == 1)
            break;
        each = (p->bytes + parts - 1) / parts;
    }
    return ds_fail(err, ENOTSUP, "cuDNN needs %zu bytes for a part of it and has %zu", p->bytes,
                   room);
}

/* --- shapes ------------------------------------------------------------------------------------*/

/* Parts begin where their numbers of each query have to be aligned. */
static bool parts_are_aligned(const struct planned *p)
{
    return (p->part.kv_heads == p->whole.kv_heads && p->part.batch == p->whole.batch) ||
           p->part.heads * p->whole.seq * (int64_t)sizeof(float) % ALIGNMENT == 0;
}

static void plan_whole(struct ds_cuda_sdpa *s, struct planned *p, size_t room)
{
    const struct ds_sdpa_shape *w = &p->whole;
    struct ds_error err = {0};
    int rc = 0;

    if (w->size % 8 != 0 || w->size > WIDEST || w->seq == 1)
        rc = ds_fail(&err, ENOTSUP, "cuDNN has no kernels for this size");
    else if (w->seq % WHOLE_LENGTH != 0 && s->args.cudnn->GetVersion() < ANY_LENGTH)
        rc = ds_fail(&err, ENOTSUP, "cuDNN before 9.15.1 computes this length wrongly");
    else if (w->backward && s->args.capability >= 100)
        rc = ds_fail(&err, ENOTSUP, "cuDNN's kernels for this GPU may give other bits every time");
    else
        rc = fit(s, p, room, &err);
    if (rc == 0 && !parts_are_aligned(p))
        rc = ds_fail(&err, ENOTSUP, "cuDNN needs more memory than there is");
    if (rc == 0)
        return;
    ds__sdpa_forget(&p->graph, s->args.cudnn);
    p->plan = NULL;
    (void)snprintf(p->why_not, sizeof(p->why_not), "%.*s", (int)sizeof(p->why_not) - 1, err.text);
    if (s->note[0] != '\0')
        return;
    (void)snprintf(s->note, sizeof(s->note),
                   "attention%s of %" PRId64 " x %" PRId64 " tokens in %" PRId64
                   " heads of %" PRId64 " is done by dsrun's own kernels: %s",
                   w->backward ? " backward" : "", w->batch, w->seq, w->heads, w->size, p->why_not);
}

static struct planned *find(struct ds_cuda_sdpa *s, const struct ds_sdpa_shape *shape, size_t room)
{
    struct planned *p;

    for (size_t i = 0; i < PLANS; i++) {
        if (memcmp(&s->planned[i].whole, shape, sizeof(*shape)) == 0)
            return &s->planned[i];
    }
    p = &s->planned[s->next];
    s->next = (s->next + 1) % PLANS;
    ds__sdpa_forget(&p->graph, s->args.cudnn);
    *p = (struct planned){.whole = *shape};
    plan_whole(s, p, room);
    return p;
}

/* --- runs --------------------------------------------------------------------------------------*/

static int execute(const struct ds_cuda_sdpa *s, const struct planned *p, int64_t count,
                   const int64_t *id, const void *const *at, void *workspace)
{
    const struct ds_cudnn *lib = s->args.cudnn;
    void *pack = NULL;
    int status = lib->BackendCreateDescriptor(DS_CUDNN_PACK, &pack);

    if (status != 0)
        return status;
    status =
        lib->BackendSetAttribute(pack, DS_CUDNN_PACK_POINTERS, DS_CUDNN_TYPE_VOID_PTR, count, at);
    if (status == 0)
        status = lib->BackendSetAttribute(pack, DS_CUDNN_PACK_IDS, DS_CUDNN_TYPE_INT64, count, id);
    if (status == 0)
        status = lib->BackendSetAttribute(pack, DS_CUDNN_PACK_WORKSPACE, DS_CUDNN_TYPE_VOID_PTR, 1,
                                          &workspace);
    if (status == 0)
        status = lib->BackendFinalize(pack);
    if (status == 0)
        status = lib->BackendExecute(s->handle, p->plan, pack);
    (void)lib->BackendDestroyDescriptor(pack);
    return status;
}

/* The part whose first sequence and key/value head these are. */
static int run_part(const struct ds_cuda_sdpa *s, const struct planned *p, const struct operands *x,
                    int64_t batch, int64_t kv, char *scratch)
{
    const struct ds_sdpa_shape *w = &p->whole;
    const float scale = x->scale, hidden = -FLT_MAX, one = 1.0f;
    int64_t head = kv * (w->heads / w->kv_heads), tokens = batch * w->seq;
    size_t row = (size_t)(tokens * (w->heads + 2 * w->kv_heads));
    size_t q = 2 * (row + (size_t)head) * (size_t)w->size;
    size_t k = 2 * (row + (size_t)(w->heads + kv)) * (size_t)w->size;
    size_t v = k + 2 * (size_t)(w->kv_heads * w->size);
    size_t out = 2 * (size_t)((tokens * w->heads + head) * w->size);
    size_t lse = sizeof(float) * (size_t)((batch * w->heads + head) * w->seq);
    const struct {
        int64_t id;
        const void *base; /* NULL: not of this pass */
        size_t offset;
    } all[] = {
        {DS_SDPA_Q, x->qkv, q},
        {DS_SDPA_K, x->qkv, k},
        {DS_SDPA_V, x->qkv, v},
        {DS_SDPA_OUT, x->out, out},
        {DS_SDPA_LSE, x->lse, lse},
        {DS_SDPA_SCALE, &scale, 0},
        {DS_SDPA_HIDDEN, &hidden, 0},
        {DS_SDPA_ONE, w->backward ? &one : NULL, 0},
        {DS_SDPA_SUMS, w->backward ? scratch : NULL, 0},
        {DS_SDPA_DOUT, x->dout, out},
        {DS_SDPA_DQ, x->dqkv, q},
        {DS_SDPA_DK, x->dqkv, k},
        {DS_SDPA_DV, x->dqkv, v},
    };
    int64_t id[DS_SDPA_IDS], count = 0;
    const void *at[DS_SDPA_IDS];

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i].base == NULL)
            continue;
        id[count] = all[i].id;
        at[count++] = (const char *)all[i].base + all[i].offset;
    }
    return execute(s, p, count, id, at, scratch + p->sums_bytes);
}

static int run(const struct ds_cuda_sdpa *s, const struct planned *p, const struct operands *x,
               struct ds_cuda_stream *stream, struct ds_error *err)
{
    int status = 0;

    for (int64_t b = 0; status == 0 && b < p->whole.batch; b += p->part.batch) {
        for (int64_t kv = 0; status == 0 && kv < p->whole.kv_heads; kv += p->part.kv_heads)
            status = run_part(s, p, x, b, kv, stream->scratch);
    }
    return status == 0 ? 0 : refused(s, "attention", status, err);
}

static bool aligned(const void *p)
{
    return (uintptr_t)p % ALIGNMENT == 0;
}

/* What is never asked of cuDNN: no word is lost about it.  `thinned`: weights are dropped, or keys
 * not seen. */
static bool is_ours(const struct ds_sdpa_shape *shape, bool thinned, const struct operands *x)
{
    return shape->type == DS_CUDNN_F32 || thinned || !aligned(x->qkv) || !aligned(x->out) ||
           !aligned(x->lse) || !aligned(x->dout) || !aligned(x->dqkv);
}

/* On Hopper cuDNN's kernels with the same bits every time are slower backward than ours by
 * warpgroups (attention_sm90_bwd.cu), for which these shapes are. */
static bool own_backward_is_faster(const struct ds_cuda_sdpa *s, const struct ds_sdpa_shape *shape)
{
    return shape->backward && s->args.capability == 90 && shape->size % 8 == 0 &&
           shape->size <= WIDEST;
}

static int attend(const struct ds_sdpa_shape *shape, bool thinned, const struct operands *x,
                  struct ds_cuda_stream *stream, bool *done, struct ds_error *err)
{
    struct ds_cuda_sdpa *s = stream->sdpa;
    struct planned *p = NULL;

    *done = false;
    if (s == NULL || (!s->args.must && own_backward_is_faster(s, shape)))
        return 0;
    if (!is_ours(shape, thinned, x))
        p = find(s, shape, stream->scratch_bytes);
    if (p != NULL && p->plan != NULL) {
        *done = true;
        return run(s, p, x, stream, err);
    }
    if (!s->args.must)
        return 0;
    return ds_fail(err, ENOTSUP, "attention that only cuDNN may do is not for it: %s",
                   p != NULL ? p->why_not
                             : "FP32, dropout, keys from one on or memory that is not aligned");
}

static int64_t type_of(enum ds_dtype act)
{
    return act == DS_F32 ? DS_CUDNN_F32 : act == DS_BF16 ? DS_CUDNN_BF16 : DS_CUDNN_F16;
}

/* Of the arguments of either pass, whose names of sizes are the same. */
#define SHAPE_OF(a, is_backward)                                                                   \
    {                                                                                              \
        .backward = (is_backward), .type = type_of((a)->act), .batch = (int64_t)(a)->batch,        \
        .heads = (int64_t)(a)->heads, .kv_heads = (int64_t)(a)->kv_heads,                          \
        .all_heads = (int64_t)(a)->heads, .all_kv_heads = (int64_t)(a)->kv_heads,                  \
        .seq = (int64_t)(a)->seq, .size = (int64_t)(a)->head_size                                  \
    }

int ds__cuda_sdpa_fwd(const struct ds_attention_fwd_args *a, struct ds_cuda_stream *stream,
                      bool *done, struct ds_error *err)
{
    const struct ds_sdpa_shape shape = SHAPE_OF(a, 0);
    const struct operands x = {.qkv = a->qkv, .out = a->out, .lse = a->lse, .scale = a->scale};

    return attend(&shape, a->drop.rate > 0.0 || a->low != NULL, &x, stream, done, err);
}

int ds__cuda_sdpa_bwd(const struct ds_attention_bwd_args *a, struct ds_cuda_stream *stream,
                      bool *done, struct ds_error *err)
{
    const struct ds_sdpa_shape shape = SHAPE_OF(a, 1);
    const struct operands x = {.qkv = a->qkv,
                               .out = a->out,
                               .dout = a->dout,
                               .dqkv = a->dqkv,
                               .lse = a->lse,
                               .scale = a->scale};

    return attend(&shape, a->drop.rate > 0.0 || a->low != NULL, &x, stream, done, err);
}

/* --- open and close ----------------------------------------------------------------------------*/

int ds__cuda_sdpa_open(struct ds_cuda_sdpa **out, const struct ds_cuda_sdpa_args *args,
                       struct ds_error *err)
{
    size_t version = args->cudnn->GetVersion();
    struct ds_cuda_sdpa *s;
    int status, rc = 0;

    *out = NULL;
    if (version < OLDEST)
        return ds_fail(err, ENOTSUP, "cuDNN %zu.%zu.%zu is too old, 9.10.2 or later would do",
                       version / 10000, version / 100 % 100, version % 100);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return ds_fail(err, ENOMEM, "no memory for plans of attention");
    s->args = *args;
    status = args->cudnn->Create(&s->handle);
    if (status != 0)
        rc = refused(s, "to start", status, err);
    if (rc == 0) {
        status = args->cudnn->SetStream(s->handle, args->stream);
        if (status != 0)
            rc = refused(s, "a stream", status, err);
    }
    if (rc == 0)
        *out = s;
    else
        ds__cuda_sdpa_close(s);
    return rc;
}

void ds__cuda_sdpa_close(struct ds_cuda_sdpa *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < PLANS; i++)
        ds__sdpa_forget(&s->planned[i].graph, s->args.cudnn);
    if (s->handle != NULL)
        (void)s->args.cudnn->Destroy(s->handle);
    free(s);
}

const char *ds__cuda_sdpa_note(struct ds_cuda_sdpa *s)
{
    if (s == NULL || s->told || s->note[0] == '\0')
        return NULL;
    s->told = true;
    return s->note;
}

size_t ds__cuda_sdpa_version(const struct ds_cuda_sdpa *s)
{
    return s->args.cudnn->GetVersion();
}
