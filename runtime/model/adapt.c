/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * adapt.c - adapters of low rank beside a product; the contract is in net.h.
 *
 * What they make of rows is summed in F32, multiplied there, and rounded once; so is its gradient.
 * A reads the rows of all matrices of a product at once, each B writes the columns of its own.
 * What dropout leaves of those rows the backward pass makes again, and then puts the gradient of it
 * in the same place.
 *
 * Source  Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021)
 * Tests   tests/e2e/lora.py
 */
#include "runtime/model/net.h"

/* The columns of a target in its product's rows. */
static void place_part(const struct ds_net *net, enum ds_adapted target, size_t *at, size_t *width)
{
    const struct ds_model_shape *shape = &net->shape;
    const size_t q = shape->heads * shape->head_size, kv = shape->kv_heads * shape->head_size;

    *at = 0;
    switch (target) {
    case DS_ADAPTED_QKV: *width = net->family->packed ? q + 2 * kv : q; break;
    case DS_ADAPTED_K:
    case DS_ADAPTED_V:
        *at = q + (target == DS_ADAPTED_V ? kv : 0);
        *width = kv;
        break;
    case DS_ADAPTED_FC: *width = shape->ffn; break;
    case DS_ADAPTED_UP: *at = *width = shape->ffn; break;
    default: *width = shape->hidden;
    }
}

struct ds_adapters ds__adapters_of(const struct ds_net *net, uint32_t block, enum ds_pass pass,
                                   enum ds_layer_product product)
{
    const struct ds_lora *lora = &net->shape.lora;
    const struct ds_net_block *of = &net->block[block];
    const struct ds_extents e = ds_model_product(&net->shape, product);
    const unsigned first = ds_model_first_target(product);
    const unsigned end = ds_model_first_target((enum ds_layer_product)(product + 1));
    const unsigned before = lora->targets & ((1U << first) - 1);
    const size_t bytes = ds_dtype_bytes(net->act);
    struct ds_adapters a = {.block = block,
                            .product = product,
                            .rows = net->tokens,
                            .rank = lora->rank,
                            .in = e.in,
                            .out = e.out};
    unsigned char *kept = of->buf[pass][DS_BUFFER_ADAPTED];

    if (lora->rank == 0)
        return a;
    for (unsigned i = first; i < end; i++) {
        if ((lora->targets & 1U << i) == 0)
            continue;
        if (a.parts == 0) {
            a.a = of->weight[DS_ROLE_LORA_A + i];
            a.da = of->grad[DS_ROLE_LORA_A + i];
        }
        a.part[a.parts].b = of->weight[DS_ROLE_LORA_B + i];
        a.part[a.parts].db = of->grad[DS_ROLE_LORA_B + i];
        place_part(net, (enum ds_adapted)i, &a.part[a.parts].at, &a.part[a.parts].width);
        a.parts++;
    }
    a.kept = kept + (unsigned)__builtin_popcount(before) * a.rank * a.rows * bytes;
    a.sums = net->block[0].buf[pass == DS_PASS_EVAL ? pass : DS_PASS_TRAIN][DS_BUFFER_DADAPTED];
    a.drows = a.sums + a.rows * a.parts * a.rank;
    a.scale = ds_model_adapter_scale(lora);
    if (lora->dropout > 0.0 && pass != DS_PASS_EVAL)
        a.left = (unsigned char *)a.sums + ds_model_adapting_bytes(&net->shape, a.rows, bytes);
    return a;
}

/* to = scale * sums */
static int scale(const struct ds_net *net, const struct ds_adapters *a, void *to,
                 struct ds_error *err)
{
    const size_t width = a->parts * a->rank;
    const struct ds_affine_args affine = {
        .rows = a->rows, .cols = width, .x = a->sums, .y = a->sums, .alpha = a->scale};
    const struct ds_cast_args cast = {
        .n = a->rows * width, .from = DS_F32, .to = net->act, .x = a->sums, .y = to};
    int rc = ds_affine(&affine, net->stream, err);

    return rc == 0 ? ds_cast(&cast, net->stream, err) : rc;
}

/* What adapters see of x: it, or what dropout leaves of it, which is put into *seen. */
static int see(const struct ds_net *net, const struct ds_adapters *a, const void *x,
               const void **seen, struct ds_error *err)
{
    *seen = a->left != NULL ? a->left : x;
    return a->left != NULL ? ds__adapters_dropout(net, a, x, NULL, a->left, err) : 0;
}

static const void *column(const struct ds_net *net, const void *rows, size_t at)
{
    return (const unsigned char *)rows + at * ds_dtype_bytes(net->act);
}

int ds__adapters_fwd(const struct ds_net *net, const struct ds_adapters *a, const void *x, void *y,
                     struct ds_error *err)
{
    const size_t width = a->parts * a->rank;
    struct ds_matmul_args down = {
        .m = a->rows,
        .n = width,
        .k = a->in,
        .trans_b = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .lda = a->in,
        .b = a->a,
        .ldb = a->in,
        .d = a->sums,
        .ldd = width,
    };
    int rc;

    if (a->parts == 0)
        return 0;
    rc = see(net, a, x, &down.a, err);
    if (rc == 0)
        rc = ds_matmul(&down, net->stream, err);
    if (rc == 0)
        rc = scale(net, a, a->kept, err);
    for (unsigned i = 0; rc == 0 && i < a->parts; i++) {
        void *to = (unsigned char *)y + a->part[i].at * ds_dtype_bytes(net->act);
        const struct ds_matmul_args up = {
            .m = a->rows,
            .n = a->part[i].width,
            .k = a->rank,
            .trans_b = true,
            .in_type = net->act,
            .out_type = net->act,
            .a = column(net, a->kept, i * a->rank),
            .lda = width,
            .b = a->part[i].b,
            .ldb = a->rank,
            .c = to,
            .ldc = a->out,
            .d = to,
            .ldd = a->out,
        };

        rc = ds_matmul(&up, net->stream, err);
    }
    return rc;
}

/* Of one matrix: dB (+)= dy^T kept, and what of the sums are dy B. */
static int part_bwd(const struct ds_net *net, const struct ds_adapters *a, unsigned i,
                    const void *dy, bool accumulate, struct ds_error *err)
{
    const size_t width = a->parts * a->rank;
    const void *columns = column(net, dy, a->part[i].at);
    const struct ds_matmul_args db = {
        .m = a->part[i].width,
        .n = a->rank,
        .k = a->rows,
        .trans_a = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = columns,
        .lda = a->out,
        .b = column(net, a->kept, i * a->rank),
        .ldb = width,
        .c = accumulate ? a->part[i].db : NULL,
        .ldc = a->rank,
        .d = a->part[i].db,
        .ldd = a->rank,
    };
    const struct ds_matmul_args drows = {
        .m = a->rows,
        .n = a->rank,
        .k = a->part[i].width,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = columns,
        .lda = a->out,
        .b = a->part[i].b,
        .ldb = a->rank,
        .d = a->sums + i * a->rank,
        .ldd = width,
    };
    int rc = ds_matmul(&db, net->stream, err);

    return rc == 0 ? ds_matmul(&drows, net->stream, err) : rc;
}

int ds__adapters_bwd(const struct ds_net *net, const struct ds_adapters *a, const void *x,
                     const void *dy, void *dx, bool accumulate, struct ds_error *err)
{
    const size_t width = a->parts * a->rank;
    struct ds_matmul_args da = {
        .m = width,
        .n = a->in,
        .k = a->rows,
        .trans_a = true,
        .in_type = net->act,
        .out_type = DS_F32,
        .a = a->drows,
        .lda = width,
        .ldb = a->in,
        .c = accumulate ? a->da : NULL,
        .ldc = a->in,
        .d = a->da,
        .ldd = a->in,
    };
    const struct ds_matmul_args add = {
        .m = a->rows,
        .n = a->in,
        .k = width,
        .in_type = net->act,
        .out_type = net->act,
        .a = a->drows,
        .lda = width,
        .b = a->a,
        .ldb = a->in,
        .c = a->left != NULL ? NULL : dx,
        .ldc = a->in,
        .d = a->left != NULL ? a->left : dx,
        .ldd = a->in,
    };
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < a->parts; i++)
        rc = part_bwd(net, a, i, dy, accumulate, err);
    if (rc != 0 || a->parts == 0)
        return rc;
    rc = scale(net, a, a->drows, err);
    if (rc == 0)
        rc = see(net, a, x, &da.b, err);
    if (rc == 0)
        rc = ds_matmul(&da, net->stream, err);
    if (rc == 0)
        rc = ds_matmul(&add, net->stream, err);
    return rc == 0 && a->left != NULL ? ds__adapters_dropout(net, a, a->left, dx, dx, err) : rc;
}
