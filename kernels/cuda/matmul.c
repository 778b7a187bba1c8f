/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matmul.c - matrix products through cuBLASLt; the contract is in matmul.h.
 *
 * The library's matrices have contiguous columns, ours contiguous rows, so it is asked for the
 * transpose: D^T = op(B)^T op(A)^T, where each matrix is the transpose of itself as it lies there.
 * The bias is then one of the library's columns, which its epilogue adds.
 */
#include "kernels/cuda/matmul.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/choices.h"
#include "kernels/cuda/cuda.h"

enum { SHAPES = 256, PROPOSALS = 8, ROUNDS = 3, ALIGNMENT_MAX = 256 };
enum { A, B, C, D, MATRICES };

/* All that a choice depends on.  No padding: compared as bytes. */
struct key {
    uint64_t m, n, k, ld[MATRICES];
    uint32_t alignment[MATRICES], bias_alignment; /* in bytes; of the bias 0: none */
    uint8_t trans_a, trans_b, in_type, out_type, add, unused[7];
};

struct product {
    struct key key;
    void *desc, *layout[MATRICES];
    struct ds_blaslt_algo algo;
};

struct ds_cuda_matmul {
    struct ds_cuda_matmul_args args;
    const struct ds_blaslt *lt;
    void *handle;
    struct product product[SHAPES];
    size_t n, next; /* kept; the place of the next one, round and round */
};

/* What a product works on: pointers, which may differ from call to call. */
struct operands {
    const void *a, *b, *c, *bias;
    void *d, *workspace, *stream;
    size_t workspace_bytes;
};

static int refused(const struct ds_cuda_matmul *w, const char *what, int status,
                   struct ds_error *err)
{
    int code = status == DS_BLASLT_ALLOC_FAILED    ? ENOMEM
               : status == DS_BLASLT_NOT_SUPPORTED ? ENOTSUP
                                                   : EIO;

    return ds_fail(err, code, "cuBLASLt refused %s: %s", what, w->lt->GetStatusName(status));
}

static int type_of(unsigned type)
{
    return type == DS_F32 ? DS_BLASLT_R_32F : type == DS_BF16 ? DS_BLASLT_R_16BF : DS_BLASLT_R_16F;
}

static uint32_t alignment_of(const void *p)
{
    uintptr_t at = (uintptr_t)p | ALIGNMENT_MAX;

    return (uint32_t)(at & -at);
}

static struct key key_of(const struct ds_matmul_args *a, bool epilogue_bias)
{
    const void *c = a->c != NULL ? a->c : a->d;

    return (struct key){
        .m = a->m,
        .n = a->n,
        .k = a->k,
        .ld = {a->lda, a->ldb, a->c != NULL ? a->ldc : a->ldd, a->ldd},
        .alignment = {alignment_of(a->a), alignment_of(a->b), alignment_of(c), alignment_of(a->d)},
        .bias_alignment = epilogue_bias ? alignment_of(a->bias) : 0,
        .trans_a = a->trans_a,
        .trans_b = a->trans_b,
        .in_type = (uint8_t)a->in_type,
        .out_type = (uint8_t)a->out_type,
        .add = a->c != NULL,
    };
}

/* --- descriptors -------------------------------------------------------------------------------*/

static void drop_product(const struct ds_cuda_matmul *w, struct product *p)
{
    for (size_t i = 0; i < MATRICES; i++) {
        if (p->layout[i] != NULL)
            (void)w->lt->MatrixLayoutDestroy(p->layout[i]);
    }
    if (p->desc != NULL)
        (void)w->lt->MatmulDescDestroy(p->desc);
    *p = (struct product){0};
}

/* The library's A is our B and the other way round. */
static int describe(const struct ds_cuda_matmul *w, struct product *p, const void *bias)
{
    const struct ds_blaslt *lt = w->lt;
    const struct key *k = &p->key;
    bool tf32 = w->args.tf32 && k->in_type == DS_F32;
    int32_t first = k->trans_b ? DS_BLASLT_OP_T : DS_BLASLT_OP_N;
    int32_t second = k->trans_a ? DS_BLASLT_OP_T : DS_BLASLT_OP_N;
    uint32_t epilogue = DS_BLASLT_EPILOGUE_BIAS;
    int s = lt->MatmulDescCreate(&p->desc, tf32 ? DS_BLASLT_COMPUTE_TF32 : DS_BLASLT_COMPUTE_32F,
                                 DS_BLASLT_R_32F);

    if (s == 0)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_TRANSA, &first, sizeof(first));
    if (s == 0)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_TRANSB, &second, sizeof(second));
    if (s == 0 && k->bias_alignment != 0)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_EPILOGUE, &epilogue,
                                       sizeof(epilogue));
    if (s == 0 && k->bias_alignment != 0) /* its alignment counts */
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_BIAS_POINTER, &bias, sizeof(bias));
    return s;
}

static int lay_out(const struct ds_cuda_matmul *w, struct product *p)
{
    const struct key *k = &p->key;
    const struct {
        unsigned type;
        uint64_t rows, columns; /* as the library sees them */
    } matrix[MATRICES] = {
        [A] = {k->in_type, k->trans_a ? k->m : k->k, k->trans_a ? k->k : k->m},
        [B] = {k->in_type, k->trans_b ? k->k : k->n, k->trans_b ? k->n : k->k},
        [C] = {k->out_type, k->n, k->m},
        [D] = {k->out_type, k->n, k->m},
    };
    int s = 0;

    for (size_t i = 0; s == 0 && i < MATRICES; i++)
        s = w->lt->MatrixLayoutCreate(&p->layout[i], type_of(matrix[i].type), matrix[i].rows,
                                      matrix[i].columns, (int64_t)k->ld[i]);
    return s;
}

static int run(const struct ds_cuda_matmul *w, const struct product *p,
               const struct ds_blaslt_algo *algo, const struct operands *x)
{
    static const float one = 1.0f, zero = 0.0f;

    return w->lt->Matmul(w->handle, p->desc, &one, x->b, p->layout[B], x->a, p->layout[A],
                         p->key.add ? &one : &zero, x->c, p->layout[C], x->d, p->layout[D], algo,
                         x->workspace, x->workspace_bytes, x->stream);
}

/* --- the choice of an algorithm ----------------------------------------------------------------*/

static int propose(const struct ds_cuda_matmul *w, struct product *p, size_t workspace,
                   struct ds_blaslt_result *results, int *found)
{
    static const struct {
        int what;
        unsigned matrix;
    } alignments[] = {{DS_BLASLT_PREF_ALIGNMENT_A, B},
                      {DS_BLASLT_PREF_ALIGNMENT_B, A},
                      {DS_BLASLT_PREF_ALIGNMENT_C, C},
                      {DS_BLASLT_PREF_ALIGNMENT_D, D}};
    const struct ds_blaslt *lt = w->lt;
    uint64_t bytes = workspace;
    void *pref = NULL;
    int s = lt->MatmulPreferenceCreate(&pref);

    *found = 0;
    if (s != 0)
        return s;
    s = lt->MatmulPreferenceSetAttribute(pref, DS_BLASLT_PREF_WORKSPACE, &bytes, sizeof(bytes));
    for (size_t i = 0; s == 0 && i < MATRICES; i++) {
        uint32_t alignment = p->key.alignment[alignments[i].matrix];

        s = lt->MatmulPreferenceSetAttribute(pref, alignments[i].what, &alignment,
                                             sizeof(alignment));
    }
    if (s == 0)
        s = lt->MatmulAlgoGetHeuristic(w->handle, p->desc, p->layout[B], p->layout[A], p->layout[C],
                                       p->layout[D], pref, w->args.choices != NULL ? PROPOSALS : 1,
                                       results, found);
    (void)lt->MatmulPreferenceDestroy(pref);
    return s;
}

/* How long one proposal takes, in milliseconds; negative when it does not run. */
static int measure_one(const struct ds_cuda_matmul *w, const struct product *p,
                       const struct ds_blaslt_algo *algo, const struct operands *x,
                       void *const event[2], float *ms)
{
    const struct ds_cuda_timer *t = &w->args.timer;
    int s = run(w, p, algo, x), rc; /* once without the clock */

    *ms = -1.0f;
    if (s != 0)
        return 0; /* the next one may */
    rc = t->record(event[0], x->stream);
    for (int i = 0; s == 0 && i < ROUNDS; i++)
        s = run(w, p, algo, x);
    if (rc == 0)
        rc = t->record(event[1], x->stream);
    if (rc == 0)
        rc = t->wait(event[1]);
    if (rc == 0 && s == 0)
        rc = t->elapsed(ms, event[0], event[1]);
    return rc;
}

/* The fastest proposal, its place in `best`.  Returns an error of the CUDA runtime. */
static int measure_all(const struct ds_cuda_matmul *w, const struct product *p,
                       const struct ds_blaslt_result *results, int found, const struct operands *x,
                       int *best)
{
    const struct ds_cuda_timer *t = &w->args.timer;
    void *event[2] = {NULL, NULL};
    float fastest = -1.0f, ms;
    int rc = t->create(&event[0]);

    if (rc == 0)
        rc = t->create(&event[1]);
    for (int i = 0; rc == 0 && i < found; i++) {
        if (results[i].status != 0)
            continue;
        rc = measure_one(w, p, &results[i].algo, x, event, &ms);
        if (rc == 0 && ms >= 0.0f && (fastest < 0.0f || ms < fastest)) {
            fastest = ms;
            *best = i;
        }
    }
    for (size_t i = 0; i < 2; i++) {
        if (event[i] != NULL)
            (void)t->destroy(event[i]);
    }
    return rc;
}

/* A sum in place is measured with its result elsewhere: it has to be added once. */
static int measure(const struct ds_cuda_matmul *w, const struct product *p,
                   const struct ds_blaslt_result *results, int found, const struct operands *x,
                   int *best, struct ds_error *err)
{
    size_t bytes =
        ((p->key.m - 1) * p->key.ld[D] + p->key.n) * ds_dtype_bytes((enum ds_dtype)p->key.out_type);
    struct operands y = *x;
    void *other = NULL;
    int rc = 0;

    if (p->key.add && x->c == x->d) {
        rc = w->args.timer.alloc(&other, bytes);
        if (rc != 0)
            return ds_fail(err, ENOMEM, "%zu bytes to measure a matrix product in: CUDA error %d",
                           bytes, rc);
        y.d = other;
    }
    rc = measure_all(w, p, results, found, &y, best);
    if (other != NULL)
        (void)w->args.timer.free(other);
    return rc == 0 ? 0 : ds_fail(err, EIO, "a matrix product to measure: CUDA error %d", rc);
}

static int choose(const struct ds_cuda_matmul *w, struct product *p, const struct operands *x,
                  struct ds_error *err)
{
    struct ds_blaslt_result results[PROPOSALS];
    int found, best = -1, rc = 0, s = propose(w, p, x->workspace_bytes, results, &found);

    if (s != 0)
        return refused(w, "to propose an algorithm", s, err);
    for (int i = found; i-- > 0;)
        best = results[i].status == 0 ? i : best;
    if (best < 0)
        return ds_fail(err, ENOTSUP, "cuBLASLt has no algorithm for this matrix product");
    if (w->args.choices != NULL && found > 1)
        rc = measure(w, p, results, found, x, &best, err);
    p->algo = results[best].algo;
    return rc;
}

/* All that the fastest algorithm depends on, in a line of the file of choices. */
static void key_text(const struct ds_cuda_matmul *w, const struct key *k, size_t workspace,
                     char text[DS_CHOICE_KEY])
{
    (void)snprintf(text, DS_CHOICE_KEY,
                   "%s cublaslt-%zu %" PRIu64 "x%" PRIu64 "x%" PRIu64 " ld %" PRIu64 " %" PRIu64
                   " %" PRIu64 " %" PRIu64 " align %u %u %u %u %u trans %u%u type %u%u add %u "
                   "tf32 %u workspace %zu",
                   w->args.device, w->lt->GetVersion(), k->m, k->n, k->k, k->ld[A], k->ld[B],
                   k->ld[C], k->ld[D], k->alignment[A], k->alignment[B], k->alignment[C],
                   k->alignment[D], k->bias_alignment, k->trans_a, k->trans_b, k->in_type,
                   k->out_type, k->add, w->args.tf32, workspace);
}

/* What stands in the file is used if the library can run it as it is asked here. */
static int check_algo(const struct ds_cuda_matmul *w, const struct product *p, size_t workspace,
                      const char *key, struct ds_error *err)
{
    struct ds_blaslt_result result = {0};
    int s = w->lt->MatmulAlgoCheck(w->handle, p->desc, p->layout[B], p->layout[A], p->layout[C],
                                   p->layout[D], &p->algo, &result);

    if (s == 0 && result.status == 0 && result.workspace <= workspace)
        return 0;
    return ds_fail(err, ENOTSUP, "'%s' names an algorithm that cuBLASLt cannot run, remove '%s'",
                   w->args.choices, key);
}

/* The one of the file; else measured, and put there. */
static int choose_once(const struct ds_cuda_matmul *w, struct product *p, const struct operands *x,
                       struct ds_error *err)
{
    const char *path = w->args.choices;
    char key[DS_CHOICE_KEY];
    bool found = false;
    int file, rc = ds__choices_open(&file, path, err);

    if (rc != 0)
        return rc;
    key_text(w, &p->key, x->workspace_bytes, key);
    rc = ds__choices_find(file, path, key, p->algo.data, &found, err);
    if (rc == 0 && found)
        rc = check_algo(w, p, x->workspace_bytes, key, err);
    else if (rc == 0)
        rc = choose(w, p, x, err);
    if (rc == 0 && !found)
        rc = ds__choices_add(file, path, key, p->algo.data, err);
    (void)close(file);
    return rc;
}

/* --- shapes ------------------------------------------------------------------------------------*/

static int make_product(struct ds_cuda_matmul *w, const struct key *key, const struct operands *x,
                        struct product **out, struct ds_error *err)
{
    struct product *p = &w->product[w->next];
    int s, rc;

    drop_product(w, p);
    p->key = *key;
    s = describe(w, p, x->bias);
    if (s == 0)
        s = lay_out(w, p);
    if (s != 0)
        rc = refused(w, "to describe a matrix product", s, err);
    else
        rc = w->args.choices != NULL ? choose_once(w, p, x, err) : choose(w, p, x, err);
    if (rc != 0) {
        drop_product(w, p);
        return rc;
    }
    w->next = (w->next + 1) % SHAPES;
    w->n += w->n < SHAPES;
    *out = p;
    return 0;
}

static int find_product(struct ds_cuda_matmul *w, const struct key *key, const struct operands *x,
                        struct product **out, struct ds_error *err)
{
    for (size_t i = 0; i < SHAPES; i++) {
        *out = &w->product[i];
        if (memcmp(&w->product[i].key, key, sizeof(*key)) == 0)
            return 0;
    }
    return make_product(w, key, x, out, err);
}

int ds__cuda_matmul_open(struct ds_cuda_matmul **out, const struct ds_cuda_matmul_args *args,
                         struct ds_error *err)
{
    struct ds_cuda_matmul *w;
    int s;

    *out = NULL;
    if (args->choices != NULL && (args->timer.create == NULL || args->device == NULL))
        return ds_fail(err, EINVAL, "matrix products to be measured without a clock");
    w = calloc(1, sizeof(*w));
    if (w == NULL)
        return ds_fail(err, ENOMEM, "no memory for the table of matrix products");
    w->args = *args;
    w->lt = args->blaslt;
    s = w->lt->Create(&w->handle);
    if (s != 0) {
        int rc = refused(w, "to start", s, err);

        free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void ds__cuda_matmul_close(struct ds_cuda_matmul *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < SHAPES; i++)
        drop_product(w, &w->product[i]);
    (void)w->lt->Destroy(w->handle);
    free(w);
}

size_t ds__cuda_matmul_shapes(const struct ds_cuda_matmul *w)
{
    return w->n;
}

/* A bias of another type than the sums is added after; the library has no epilogue for it. */
int ds__cuda_matmul(const struct ds_matmul_args *a, struct ds_stream *stream, struct ds_error *err)
{
    struct ds_cuda_stream *cuda = (struct ds_cuda_stream *)(void *)stream;
    bool epilogue_bias = a->bias != NULL && a->in_type == a->out_type;
    struct key key = key_of(a, epilogue_bias);
    struct operands x = {.a = a->a,
                         .b = a->b,
                         .c = a->c != NULL ? a->c : a->d,
                         .d = a->d,
                         .bias = a->bias,
                         .workspace = cuda->scratch,
                         .workspace_bytes = cuda->scratch_bytes,
                         .stream = cuda->stream};
    struct ds_cuda_matmul *w = cuda->matmul;
    struct product *p;
    int s = 0, rc;

    if (w == NULL)
        return ds_fail(err, ENOTSUP, "matrix products on CUDA need cuBLASLt, which is not loaded");
    rc = find_product(w, &key, &x, &p, err);
    if (rc != 0)
        return ds_error_context(err, rc, "matrix product of %zu x %zu x %zu", a->m, a->n, a->k);
    if (epilogue_bias)
        s = w->lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_BIAS_POINTER, &a->bias,
                                          sizeof(a->bias));
    if (s == 0)
        s = run(w, p, &p->algo, &x);
    if (s != 0)
        return refused(w, "a matrix product", s, err);
    if (a->bias != NULL && !epilogue_bias)
        return ds__cuda_add_bias(a, stream, err);
    return 0;
}
