/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * choose.c - which of cuBLASLt's algorithms a product has; the contract is in product.h.
 *
 * An epilogue that the library proposes nothing for is an operation of its own after the product.
 * So is, where products are measured for a file, one that takes longer than the two.
 *
 * Without a file the choice must not show: a proposal counts only if it leaves the bits of the
 * first one, which are compared over all of a result.  Results are large there, or two ways could
 * seem alike by chance, and not mostly zeros, of which any order of a sum makes the same.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/choices.h"
#include "kernels/cuda/digest.h"
#include "kernels/cuda/product.h"
#include "kernels/epilogue.h"

enum { PROPOSALS = 8, ROUNDS = 3, SWEEPS = 3, DBIAS_ALIGN = 256 };

/* A way has to be so much faster than those before it: they come in the order in which the library
 * would take them, and the clock is not that exact. */
#define WORTH 0.98f

/* What stands in the file for an epilogue that is apart; no algorithm of the library is that. */
#define APART UINT64_MAX

/* All that a choice needs. */
struct choice {
    const struct ds_cuda_matmul *w;
    struct ds_product *p;
    const struct ds_product *plain;
    struct ds_matmul_args args;
    struct ds_cuda_stream *stream;
    struct ds_blaslt_result result[PROPOSALS];
    int found, best; /* `found`: apart */
    bool alike;      /* only what leaves the bits of the first one */
    bool known;      /* what that is */
    struct ds_cuda_digest first;
};

/* Is the fastest of the alike looked for? */
static bool wants_alike(const struct ds_cuda_matmul *w, const struct ds_product *p,
                        const struct ds_cuda_stream *stream)
{
    return w->args.choices == NULL && w->args.alike_from > 0 &&
           p->key.m * p->key.n >= w->args.alike_from &&
           stream->scratch_bytes >= DS_DIGEST_PARTS * sizeof(struct ds_cuda_digest);
}

static int propose(struct choice *c)
{
    static const struct {
        int what;
        unsigned matrix;
    } alignments[] = {{DS_BLASLT_PREF_ALIGNMENT_A, DS_MATRIX_B},
                      {DS_BLASLT_PREF_ALIGNMENT_B, DS_MATRIX_A},
                      {DS_BLASLT_PREF_ALIGNMENT_C, DS_MATRIX_C},
                      {DS_BLASLT_PREF_ALIGNMENT_D, DS_MATRIX_D}};
    const struct ds_blaslt *lt = c->w->lt;
    const struct ds_product *p = c->p;
    uint64_t bytes = ds__operands(c->stream, &c->args).workspace_bytes;
    void *pref = NULL;
    int s = lt->MatmulPreferenceCreate(&pref);

    c->found = 0;
    if (s != 0)
        return s;
    s = lt->MatmulPreferenceSetAttribute(pref, DS_BLASLT_PREF_WORKSPACE, &bytes, sizeof(bytes));
    for (size_t i = 0; s == 0 && i < DS_MATRICES; i++) {
        uint32_t alignment = p->key.alignment[alignments[i].matrix];

        s = lt->MatmulPreferenceSetAttribute(pref, alignments[i].what, &alignment,
                                             sizeof(alignment));
    }
    if (s == 0) {
        s = lt->MatmulAlgoGetHeuristic(
            c->w->handle, p->desc, p->layout[DS_MATRIX_B], p->layout[DS_MATRIX_A],
            p->layout[DS_MATRIX_C], p->layout[DS_MATRIX_D], pref,
            c->w->args.choices != NULL || c->alike ? PROPOSALS : 1, c->result, &c->found);
        if (s != 0 && s != DS_BLASLT_ALLOC_FAILED && c->plain != NULL)
            s = c->found = 0; /* has not this epilogue, whatever it calls that */
    }
    (void)lt->MatmulPreferenceDestroy(pref);
    return s;
}

/* --- measuring ---------------------------------------------------------------------------------*/

/* Proposal `i`, or the product and the operation apart.  0, a status, or an error of ours. */
static int once(const struct choice *c, int i)
{
    struct ds_matmul_args plain = ds__epilogue_product(&c->args);
    struct ds_operands x = ds__operands(c->stream, i < c->found ? &c->args : &plain);
    int s;

    if (i < c->found)
        return ds__product_run(c->w, c->p, &c->result[i].algo, &x);
    s = ds__product_run(c->w, c->plain, &c->plain->algo, &x);
    return s != 0 ? s : ds__epilogue_apply(&c->args, &c->stream->base, NULL);
}

/* What the way that ran last has left, D and GELU's argument.  The workspace is free by then. */
static int digest(const struct choice *c, struct ds_cuda_digest *out)
{
    struct ds_cuda_digest part[DS_DIGEST_PARTS];
    const struct ds_matmul_args *a = &c->args;
    const void *const left[] = {a->d, a->epilogue == DS_EPILOGUE_GELU ? a->gelu_x : NULL};
    size_t parts = ds__cuda_digest_parts(a->m * a->n);
    int rc = 0;

    *out = (struct ds_cuda_digest){0};
    for (size_t i = 0; rc == 0 && i < 2 && left[i] != NULL; i++) {
        rc = ds__cuda_digest(left[i], a->m, a->n, i == 0 ? a->ldd : a->n, a->out_type,
                             c->stream->scratch, &c->stream->base);
        if (rc == 0)
            rc = c->w->args.timer.read(part, c->stream->scratch, parts * sizeof(part[0]),
                                       c->stream->stream);
        for (size_t k = 0; rc == 0 && k < parts; k++) {
            out->sum = out->sum * (i + 1) + part[k].sum;
            out->zeros += part[k].zeros;
        }
    }
    return rc;
}

/* Has the way that ran last left what the first one did?  Of a result that is mostly zeros that
 * cannot be told. */
static int compare(struct choice *c, bool *same)
{
    struct ds_cuda_digest mine;
    int rc = digest(c, &mine);

    if (rc == 0 && !c->known) {
        c->known = true;
        c->first = mine;
    }
    *same = rc == 0 && mine.sum == c->first.sum && mine.zeros <= c->args.m * c->args.n / 2;
    return rc;
}

/* Run way `i` once without the clock: does it, and may it be taken? */
static int try_one(struct choice *c, int i, bool *fits)
{
    *fits = (i >= c->found || c->result[i].status == 0) && once(c, i) == 0;
    return *fits && c->alike ? compare(c, fits) : 0;
}

/* How long some runs of a way take, in milliseconds, if that is less than *least. */
static int time_one(const struct choice *c, int i, void *const event[2], float *least)
{
    const struct ds_cuda_timer *t = &c->w->args.timer;
    float ms = 0.0f;
    int s = 0, rc = t->record(event[0], c->stream->stream);

    for (int round = 0; s == 0 && round < ROUNDS; round++)
        s = once(c, i);
    if (rc == 0)
        rc = t->record(event[1], c->stream->stream);
    if (rc == 0)
        rc = t->wait(event[1]);
    if (rc == 0 && s == 0)
        rc = t->elapsed(&ms, event[0], event[1]);
    if (rc == 0 && s == 0 && ms < *least)
        *least = ms;
    return rc;
}

/* The fastest way, of several turns of all of them: what slows the device for a moment slows no way
 * alone.  Returns an error of the CUDA runtime. */
static int sweep(struct choice *c, void *const event[2])
{
    float least[PROPOSALS + 1];
    bool fits[PROPOSALS + 1];
    int ways = c->found + (c->plain != NULL && !c->alike), best = -1, rc = 0;

    for (int i = 0; rc == 0 && i < ways; i++) {
        rc = try_one(c, i, &fits[i]);
        least[i] = INFINITY;
    }
    for (int turn = 0; turn < SWEEPS; turn++) {
        for (int i = 0; rc == 0 && i < ways; i++)
            rc = fits[i] ? time_one(c, i, event, &least[i]) : 0;
    }
    for (int i = 0; rc == 0 && i < ways; i++) {
        if (fits[i] && least[i] < (best < 0 ? INFINITY : WORTH * least[best]))
            best = i;
    }
    if (best >= 0)
        c->best = best;
    return rc;
}

static int measure_all(struct choice *c)
{
    const struct ds_cuda_timer *t = &c->w->args.timer;
    void *event[2] = {NULL, NULL};
    int rc = t->create(&event[0]);

    if (rc == 0)
        rc = t->create(&event[1]);
    if (rc == 0)
        rc = sweep(c, event);
    for (size_t i = 0; i < 2; i++) {
        if (event[i] != NULL)
            (void)t->destroy(event[i]);
    }
    return rc;
}

/* A sum in place is measured with its result elsewhere: it has to be added once.  So is the
 * gradient of a bias, in what lies behind D. */
static int measure(struct choice *c, struct ds_error *err)
{
    const struct ds_product_key *key = &c->p->key;
    size_t bytes = ((key->m - 1) * key->ld[DS_MATRIX_D] + key->n) *
                   ds_dtype_bytes((enum ds_dtype)key->out_type);
    size_t behind = (bytes + DBIAS_ALIGN - 1) / DBIAS_ALIGN * DBIAS_ALIGN;
    const struct ds_matmul_args args = c->args;
    bool dbias = args.dbias != NULL && args.accumulate_dbias;
    char *other = NULL;
    int rc = 0;

    if ((key->add && args.c == args.d) || dbias) {
        rc = c->w->args.timer.alloc((void **)&other, behind + key->n * sizeof(float));
        if (rc != 0 && c->alike)
            return 0; /* the first one does, which is alike */
        if (rc != 0)
            return ds_fail(err, ENOMEM, "%zu bytes to measure a matrix product in: CUDA error %d",
                           bytes, rc);
        c->args.d = other;
        if (dbias)
            c->args.dbias = (float *)(void *)(other + behind);
        c->args.accumulate_dbias = false;
    }
    rc = measure_all(c);
    c->args = args;
    if (other != NULL)
        (void)c->w->args.timer.free(other);
    return rc == 0 ? 0 : ds_fail(err, EIO, "a matrix product to measure: CUDA error %d", rc);
}

/* --- the choice --------------------------------------------------------------------------------*/

static int choose(struct choice *c, struct ds_error *err)
{
    int rc = 0, s = propose(c);

    if (s != 0)
        return ds__blaslt_refused(c->w, "to propose an algorithm", s, err);
    c->best = c->plain != NULL ? c->found : -1;
    for (int i = c->found; i-- > 0;)
        c->best = c->result[i].status == 0 ? i : c->best;
    if (c->best < 0)
        return ds_fail(err, ENOTSUP, "cuBLASLt has no algorithm for this matrix product");
    if (c->alike ? c->found > 1 : c->w->args.choices != NULL && c->found > (c->plain == NULL))
        rc = measure(c, err);
    c->p->apart = c->best == c->found;
    if (c->p->apart)
        memset(&c->p->algo, 0xff, sizeof(c->p->algo));
    else
        c->p->algo = c->result[c->best].algo;
    return rc;
}

/* All that the fastest algorithm depends on, in a line of the file of choices. */
static void key_text(const struct choice *c, char text[DS_CHOICE_KEY])
{
    const struct ds_product_key *k = &c->p->key;
    size_t workspace = ds__operands(c->stream, &c->args).workspace_bytes;
    char more[48] = "";

    if (c->plain != NULL)
        (void)snprintf(more, sizeof(more), " epilogue %u %u", k->epilogue, k->gelu_x_alignment);
    else if (k->in_type == DS_U8)
        (void)snprintf(more, sizeof(more), " fp8 %u %u fast %u", k->a_type, k->b_type, k->fast);
    (void)snprintf(text, DS_CHOICE_KEY,
                   "%s cublaslt-%zu%s %" PRIu64 "x%" PRIu64 "x%" PRIu64 " ld %" PRIu64 " %" PRIu64
                   " %" PRIu64 " %" PRIu64
                   " align %u %u %u %u %u trans %u%u type %u%u add %u tf32 %u workspace %zu",
                   c->w->args.device, c->w->lt->GetVersion(), more, k->m, k->n, k->k,
                   k->ld[DS_MATRIX_A], k->ld[DS_MATRIX_B], k->ld[DS_MATRIX_C], k->ld[DS_MATRIX_D],
                   k->alignment[DS_MATRIX_A], k->alignment[DS_MATRIX_B], k->alignment[DS_MATRIX_C],
                   k->alignment[DS_MATRIX_D], k->bias_alignment, k->trans_a, k->trans_b, k->in_type,
                   k->out_type, k->add, c->w->args.tf32, workspace);
}

/* What stands in the file is used if the library can run it as it is asked here. */
static int check_algo(const struct choice *c, const char *key, struct ds_error *err)
{
    const struct ds_cuda_matmul *w = c->w;
    struct ds_product *p = c->p;
    size_t workspace = ds__operands(c->stream, &c->args).workspace_bytes;
    struct ds_blaslt_result result = {0};
    int s;

    p->apart = c->plain != NULL;
    for (size_t i = 0; i < DS_CHOICE_WORDS; i++)
        p->apart = p->apart && p->algo.data[i] == APART;
    if (p->apart)
        return 0;
    s = w->lt->MatmulAlgoCheck(w->handle, p->desc, p->layout[DS_MATRIX_B], p->layout[DS_MATRIX_A],
                               p->layout[DS_MATRIX_C], p->layout[DS_MATRIX_D], &p->algo, &result);
    if (s == 0 && result.status == 0 && result.workspace <= workspace)
        return 0;
    return ds_fail(err, ENOTSUP, "'%s' names an algorithm that cuBLASLt cannot run, remove '%s'",
                   w->args.choices, key);
}

/* Look into the file, and with `add` put this choice there unless another rank has been faster.
 * The file is locked meanwhile. */
static int look_up(struct choice *c, const char *key, bool add, bool *found, struct ds_error *err)
{
    const char *path = c->w->args.choices;
    uint64_t word[DS_CHOICE_WORDS];
    int file, rc = ds__choices_open(&file, path, err);

    if (rc != 0)
        return rc;
    rc = ds__choices_find(file, path, key, word, found, err);
    if (rc == 0 && *found) {
        memcpy(c->p->algo.data, word, sizeof(word));
        rc = check_algo(c, key, err);
    } else if (rc == 0 && add) {
        rc = ds__choices_add(file, path, key, c->p->algo.data, err);
    }
    (void)close(file);
    return rc;
}

/* The one of the file; else measured, and put there.  It is measured without the lock: what the
 * stream waits for before may need a rank that would wait for the lock. */
static int choose_once(struct choice *c, struct ds_error *err)
{
    char key[DS_CHOICE_KEY];
    bool found = false;
    int rc;

    key_text(c, key);
    rc = look_up(c, key, false, &found, err);
    if (rc != 0 || found)
        return rc;
    rc = choose(c, err);
    return rc == 0 ? look_up(c, key, true, &found, err) : rc;
}

int ds__product_choose(const struct ds_cuda_matmul *w, struct ds_product *p,
                       const struct ds_product *plain, const struct ds_matmul_args *args,
                       struct ds_cuda_stream *stream, struct ds_error *err)
{
    struct choice c = {.w = w,
                       .p = p,
                       .plain = plain,
                       .args = *args,
                       .stream = stream,
                       .alike = wants_alike(w, p, stream)};

    return w->args.choices != NULL ? choose_once(&c, err) : choose(&c, err);
}
