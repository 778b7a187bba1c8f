/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matmul.c - matrix products through cuBLASLt; the contract is in matmul.h.
 *
 * The library's GELU is the tanh form, as ours is, and its gradient of a bias has the type of D,
 * which of a gradient of weights is F32; but it overwrites, so a sum over micro-batches is one
 * operation more, on n numbers.  FP8 it multiplies for Hopper where both operands have the inner
 * dimension contiguous, which is how ours lie; their scales it reads on the device.
 */
#include "kernels/cuda/matmul.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/product.h"
#include "kernels/epilogue.h"

enum { ALIGNMENT_MAX = 256, GELU_X_LD = 8 /* columns come in so many */ };

int ds__blaslt_refused(const struct ds_cuda_matmul *w, const char *what, int status,
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

static int operand_type(const struct ds_matmul_args *a, enum ds_fp8 fp8)
{
    if (a->in_type != DS_U8)
        return type_of(a->in_type);
    return fp8 == DS_E4M3 ? DS_BLASLT_R_8F_E4M3 : DS_BLASLT_R_8F_E5M2;
}

static uint32_t alignment_of(const void *p)
{
    uintptr_t at = (uintptr_t)p | ALIGNMENT_MAX;

    return (uint32_t)(at & -at);
}

/* --- what is asked of the library --------------------------------------------------------------*/

/* A bias of another type than the sums is added after; the library has no epilogue for it.  That of
 * FP8 has the type of D. */
static bool adds_bias(const struct ds_matmul_args *a)
{
    return a->bias != NULL && (a->in_type == a->out_type || a->in_type == DS_U8);
}

static uint32_t epilogue_of(const struct ds_matmul_args *a)
{
    if (a->dbias != NULL)
        return DS_BLASLT_EPILOGUE_BGRADA;
    switch (a->epilogue) {
    case DS_EPILOGUE_GELU:
        return adds_bias(a) ? DS_BLASLT_EPILOGUE_GELU_AUX_BIAS : DS_BLASLT_EPILOGUE_GELU_AUX;
    case DS_EPILOGUE_GELU_BWD: return DS_BLASLT_EPILOGUE_DGELU;
    case DS_EPILOGUE_NONE: break;
    }
    return adds_bias(a) ? DS_BLASLT_EPILOGUE_BIAS : DS_BLASLT_EPILOGUE_DEFAULT;
}

/* Where the library puts the gradient of a bias: the end of the scratch, when it is to be added. */
static size_t dbias_bytes(const struct ds_matmul_args *a)
{
    size_t bytes = a->n * sizeof(float);

    return a->dbias == NULL ? 0 : (bytes + ALIGNMENT_MAX - 1) / ALIGNMENT_MAX * ALIGNMENT_MAX;
}

/* Can the library be asked for this epilogue, and is it to be?  In F32 it is not: what it takes for
 * tanh there need not be as exact as ours. */
static bool asks(const struct ds_cuda_matmul *w, const struct ds_cuda_stream *stream,
                 const struct ds_matmul_args *a)
{
    bool measured = w->args.choices != NULL;

    if (a->dbias != NULL)
        return measured && dbias_bytes(a) < stream->scratch_bytes;
    return a->epilogue != DS_EPILOGUE_NONE && (measured || w->args.epilogues) &&
           a->in_type != DS_F32 && a->in_type == a->out_type && a->n % GELU_X_LD == 0;
}

struct ds_operands ds__operands(const struct ds_cuda_stream *stream, const struct ds_matmul_args *a)
{
    size_t left = stream->scratch_bytes;
    struct ds_operands x = {
        .a = a->a,
        .b = a->b,
        .c = a->c != NULL ? a->c : a->d,
        .a_scale = a->fp8.a_scale,
        .b_scale = a->fp8.b_scale,
        .d = a->d,
        .bias = (void *)(uintptr_t)a->bias, /* read, not written */
        .gelu_x = a->gelu_x,
        .workspace = stream->scratch,
        .stream = stream->stream,
    };

    if (a->dbias != NULL) {
        left = (left - dbias_bytes(a)) / ALIGNMENT_MAX * ALIGNMENT_MAX;
        x.bias = a->accumulate_dbias ? (char *)stream->scratch + left : (void *)a->dbias;
    }
    x.workspace_bytes = left;
    return x;
}

static struct ds_product_key key_of(const struct ds_matmul_args *a, const struct ds_operands *x)
{
    bool bias = a->dbias != NULL || adds_bias(a);

    return (struct ds_product_key){
        .m = a->m,
        .n = a->n,
        .k = a->k,
        .ld = {a->lda, a->ldb, a->c != NULL ? a->ldc : a->ldd, a->ldd},
        .alignment = {alignment_of(x->a), alignment_of(x->b), alignment_of(x->c),
                      alignment_of(x->d)},
        .bias_alignment = bias ? alignment_of(x->bias) : 0,
        .gelu_x_alignment = a->gelu_x != NULL ? alignment_of(a->gelu_x) : 0,
        .epilogue = epilogue_of(a),
        .trans_a = a->trans_a,
        .trans_b = a->trans_b,
        .in_type = (uint8_t)a->in_type,
        .a_type = (uint8_t)operand_type(a, a->fp8.a_type),
        .b_type = (uint8_t)operand_type(a, a->fp8.b_type),
        .fast = a->in_type == DS_U8 && a->fp8.fast,
        .out_type = (uint8_t)a->out_type,
        .add = a->c != NULL,
    };
}

/* --- descriptors -------------------------------------------------------------------------------*/

static void drop_product(const struct ds_cuda_matmul *w, struct ds_product *p)
{
    for (size_t i = 0; i < DS_MATRICES; i++) {
        if (p->layout[i] != NULL)
            (void)w->lt->MatrixLayoutDestroy(p->layout[i]);
    }
    if (p->desc != NULL)
        (void)w->lt->MatmulDescDestroy(p->desc);
    *p = (struct ds_product){0};
}

/* Their alignment counts when an algorithm is chosen. */
static int point(const struct ds_cuda_matmul *w, const struct ds_product *p,
                 const struct ds_operands *x)
{
    bool fp8 = p->key.in_type == DS_U8;
    int s = 0;

    if (fp8) /* the library's A is our B */
        s = w->lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_A_SCALE, &x->b_scale,
                                          sizeof(x->b_scale));
    if (s == 0 && fp8)
        s = w->lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_B_SCALE, &x->a_scale,
                                          sizeof(x->a_scale));
    if (s == 0 && p->key.bias_alignment != 0)
        s = w->lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_BIAS_POINTER, &x->bias,
                                          sizeof(x->bias));
    if (s == 0 && p->key.gelu_x_alignment != 0)
        s = w->lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_AUX_POINTER, &x->gelu_x,
                                          sizeof(x->gelu_x));
    return s;
}

static int describe(const struct ds_cuda_matmul *w, struct ds_product *p)
{
    const struct ds_blaslt *lt = w->lt;
    const struct ds_product_key *k = &p->key;
    bool tf32 = w->args.tf32 && k->in_type == DS_F32;
    int32_t first = k->trans_b ? DS_BLASLT_OP_T : DS_BLASLT_OP_N;
    int32_t second = k->trans_a ? DS_BLASLT_OP_T : DS_BLASLT_OP_N;
    int64_t ld = (int64_t)k->n;
    int8_t fast = (int8_t)k->fast;
    int s = lt->MatmulDescCreate(&p->desc, tf32 ? DS_BLASLT_COMPUTE_TF32 : DS_BLASLT_COMPUTE_32F,
                                 DS_BLASLT_R_32F);

    if (s == 0)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_TRANSA, &first, sizeof(first));
    if (s == 0)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_TRANSB, &second, sizeof(second));
    if (s == 0 && k->epilogue != DS_BLASLT_EPILOGUE_DEFAULT)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_EPILOGUE, &k->epilogue,
                                       sizeof(k->epilogue));
    if (s == 0 && k->fast)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_FAST_ACCUM, &fast, sizeof(fast));
    if (s == 0 && k->gelu_x_alignment != 0)
        s = lt->MatmulDescSetAttribute(p->desc, DS_BLASLT_DESC_AUX_LD, &ld, sizeof(ld));
    return s;
}

static int lay_out(const struct ds_cuda_matmul *w, struct ds_product *p)
{
    const struct ds_product_key *k = &p->key;
    const struct {
        int type;
        uint64_t rows, columns; /* as the library sees them */
    } matrix[DS_MATRICES] = {
        [DS_MATRIX_A] = {k->a_type, k->trans_a ? k->m : k->k, k->trans_a ? k->k : k->m},
        [DS_MATRIX_B] = {k->b_type, k->trans_b ? k->k : k->n, k->trans_b ? k->n : k->k},
        [DS_MATRIX_C] = {type_of(k->out_type), k->n, k->m},
        [DS_MATRIX_D] = {type_of(k->out_type), k->n, k->m},
    };
    int s = 0;

    for (size_t i = 0; s == 0 && i < DS_MATRICES; i++)
        s = w->lt->MatrixLayoutCreate(&p->layout[i], matrix[i].type, matrix[i].rows,
                                      matrix[i].columns, (int64_t)k->ld[i]);
    return s;
}

int ds__product_run(const struct ds_cuda_matmul *w, const struct ds_product *p,
                    const struct ds_blaslt_algo *algo, const struct ds_operands *x)
{
    static const float one = 1.0f, zero = 0.0f;
    int s = point(w, p, x);

    if (s != 0)
        return s;
    return w->lt->Matmul(w->handle, p->desc, &one, x->b, p->layout[DS_MATRIX_B], x->a,
                         p->layout[DS_MATRIX_A], p->key.add ? &one : &zero, x->c,
                         p->layout[DS_MATRIX_C], x->d, p->layout[DS_MATRIX_D], algo, x->workspace,
                         x->workspace_bytes, x->stream);
}

/* --- shapes ------------------------------------------------------------------------------------*/

static struct ds_product *look_up(struct ds_cuda_matmul *w, const struct ds_product_key *key)
{
    for (size_t i = 0; i < DS_PRODUCTS; i++) {
        if (memcmp(&w->product[i].key, key, sizeof(*key)) == 0)
            return &w->product[i];
    }
    return NULL;
}

static int make_product(struct ds_cuda_matmul *w, const struct ds_product_key *key,
                        const struct ds_product *plain, const struct ds_matmul_args *args,
                        struct ds_cuda_stream *stream, struct ds_product **out,
                        struct ds_error *err)
{
    struct ds_product *p = &w->product[w->next];
    struct ds_operands x = ds__operands(stream, args);
    int s, rc;

    drop_product(w, p);
    p->key = *key;
    s = describe(w, p);
    if (s == 0)
        s = point(w, p, &x);
    if (s == 0)
        s = lay_out(w, p);
    rc = s != 0 ? ds__blaslt_refused(w, "to describe a matrix product", s, err)
                : ds__product_choose(w, p, plain, args, stream, err);
    if (rc != 0) {
        drop_product(w, p);
        return rc;
    }
    w->next = (w->next + 1) % DS_PRODUCTS;
    w->n += w->n < DS_PRODUCTS;
    *out = p;
    return 0;
}

/* One with an epilogue is made after the one without, which takes its place where it is apart. */
static int find_product(struct ds_cuda_matmul *w, const struct ds_matmul_args *a,
                        struct ds_cuda_stream *stream, struct ds_product **out,
                        struct ds_error *err)
{
    const struct ds_matmul_args plain_args = ds__epilogue_product(a);
    struct ds_operands x = ds__operands(stream, a);
    struct ds_product_key key = key_of(a, &x);
    struct ds_product *plain = NULL;
    int rc = 0;

    *out = look_up(w, &key);
    if (*out != NULL)
        return 0;
    if (ds__has_epilogue(a)) {
        struct ds_operands y = ds__operands(stream, &plain_args);
        struct ds_product_key without = key_of(&plain_args, &y);

        plain = look_up(w, &without);
        if (plain == NULL)
            rc = make_product(w, &without, NULL, &plain_args, stream, &plain, err);
    }
    if (rc == 0)
        rc = make_product(w, &key, plain, a, stream, out, err);
    if (rc != 0)
        return ds_error_context(err, rc, "matrix product of %zu x %zu x %zu", a->m, a->n, a->k);
    return 0;
}

int ds__cuda_matmul_open(struct ds_cuda_matmul **out, const struct ds_cuda_matmul_args *args,
                         struct ds_error *err)
{
    struct ds_cuda_matmul *w;
    int s;

    *out = NULL;
    if ((args->choices != NULL || args->alike_from > 0) &&
        (args->timer.create == NULL || args->device == NULL))
        return ds_fail(err, EINVAL, "matrix products to be measured without a clock");
    w = calloc(1, sizeof(*w));
    if (w == NULL)
        return ds_fail(err, ENOMEM, "no memory for the table of matrix products");
    w->args = *args;
    w->lt = args->blaslt;
    s = w->lt->Create(&w->handle);
    if (s != 0) {
        int rc = ds__blaslt_refused(w, "to start", s, err);

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
    for (size_t i = 0; i < DS_PRODUCTS; i++)
        drop_product(w, &w->product[i]);
    (void)w->lt->Destroy(w->handle);
    free(w);
}

size_t ds__cuda_matmul_shapes(const struct ds_cuda_matmul *w)
{
    return w->n;
}

/* --- products ----------------------------------------------------------------------------------*/

/* By one call of the library.  Where it would be apart nothing is done, and *done is false. */
static int multiply(const struct ds_matmul_args *a, struct ds_cuda_stream *stream, bool *done,
                    struct ds_error *err)
{
    struct ds_cuda_matmul *w = stream->matmul;
    struct ds_operands x = ds__operands(stream, a);
    struct ds_product *p;
    int s, rc = find_product(w, a, stream, &p, err);

    *done = rc == 0 && !p->apart;
    if (!*done)
        return rc;
    s = ds__product_run(w, p, &p->algo, &x);
    return s == 0 ? 0 : ds__blaslt_refused(w, "a matrix product", s, err);
}

/* What the library does not do of it. */
static int finish(const struct ds_matmul_args *a, struct ds_cuda_stream *stream,
                  struct ds_error *err)
{
    struct ds_operands x = ds__operands(stream, a);
    const struct ds_add_args sum = {.n = a->n, .x = x.bias, .y = a->dbias};

    if (a->bias != NULL && !adds_bias(a))
        return ds__cuda_add_bias(a, &stream->base, err);
    return a->dbias != NULL && a->accumulate_dbias ? ds__cuda_add(&sum, &stream->base, err) : 0;
}

int ds__cuda_matmul(const struct ds_matmul_args *a, struct ds_stream *stream, struct ds_error *err)
{
    struct ds_cuda_stream *cuda = (struct ds_cuda_stream *)(void *)stream;
    const struct ds_matmul_args product = ds__epilogue_product(a);
    bool done = false;
    int rc = 0;

    if (cuda->matmul == NULL)
        return ds_fail(err, ENOTSUP, "matrix products on CUDA need cuBLASLt, which is not loaded");
    if (asks(cuda->matmul, cuda, a))
        rc = multiply(a, cuda, &done, err);
    if (rc != 0 || done)
        return rc != 0 ? rc : finish(a, cuda, err);
    rc = multiply(&product, cuda, &done, err);
    if (rc == 0)
        rc = finish(&product, cuda, err);
    return rc != 0 ? rc : ds__epilogue_apply(a, stream, err);
}
