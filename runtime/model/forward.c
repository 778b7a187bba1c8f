/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * forward.c - a net without a plan, which only reads: its memory, and sequences row by row.
 *
 * All layers use the same activations.  The stream has one place too: a layer is done with its
 * input when it writes its output.
 *
 * Tests   tests/engine/test_generate.c
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "runtime/model/net.h"

enum { ALIGN_ELEMS = 32 };

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

uint64_t ds_net_params(const struct ds_model_shape *shape, uint64_t *at)
{
    size_t count = ds_model_param_count(shape);
    struct ds_param before = {.block = 0};
    uint64_t end = 0;

    for (size_t i = 0; i < count; i++) {
        struct ds_param param;

        ds_model_param(shape, i, &param);
        if (i == 0 || !ds_model_same_matrix(&before, &param))
            end = round_up(end, ALIGN_ELEMS);
        if (at != NULL)
            at[i] = end;
        end += param.elems;
        before = param;
    }
    return end;
}

size_t ds_net_cache_elems(const struct ds_model_shape *shape, size_t room)
{
    return room * shape->kv_heads * shape->head_size;
}

/* The buffers of a pass over `rows` rows, of which the last of `sequences` are classified, one
 * behind the other from `base` on, into block[]; with base NULL only their size. */
static size_t lay_buffers(const struct ds_model_shape *shape, enum ds_dtype act, size_t rows,
                          size_t sequences, unsigned char *base, struct ds_net_block *block)
{
    const size_t one = ds_dtype_bytes(act), head = shape->layers + 1;
    const size_t each = ds_model_product_rows(shape, DS_PRODUCT_FC);
    const struct ds_family *family = ds_family_of(shape->arch);
    const bool heads = ds_arch_norms_heads(shape->arch),
               rows_normed = ds_arch_norms_rows(shape->arch);
    const bool before = ds_family_norms_before(family), behind = ds_family_norms_behind(family);
    const size_t stat = 2 * sizeof(float), row = rows * one;
    const struct {
        enum ds_buffer buffer;
        size_t bytes, first, last; /* the blocks that it is of */
    } table[] = {
        {DS_BUFFER_IDS, (rows + 1) * sizeof(int32_t), 0, 0},
        {DS_BUFFER_OUT, row * shape->hidden, 0, head - 1},
        {DS_BUFFER_NORM1, before ? row * shape->hidden : 0, 1, head - 1},
        {DS_BUFFER_STAT1, before ? rows * stat : 0, 1, head - 1},
        {DS_BUFFER_RAW, heads || rows_normed ? row * ds_model_qkv_width(shape) : 0, 1, head - 1},
        {DS_BUFFER_STATH,
         heads         ? rows * (shape->heads + shape->kv_heads) * sizeof(float)
         : rows_normed ? rows * stat
                       : 0,
         1, head - 1},
        {DS_BUFFER_QKV, row * ds_model_qkv_width(shape), 1, head - 1},
        {DS_BUFFER_ATTENTION, row * shape->heads * shape->head_size, 1, head - 1},
        {DS_BUFFER_PROJ, behind ? row * shape->hidden : 0, 1, head - 1},
        {DS_BUFFER_STATP, behind ? rows * stat : 0, 1, head - 1},
        {DS_BUFFER_MIDDLE, row * shape->hidden, 1, head - 1},
        {DS_BUFFER_NORM2, before ? row * shape->hidden : 0, 1, head - 1},
        {DS_BUFFER_STAT2, before ? rows * stat : 0, 1, head - 1},
        {DS_BUFFER_ROUTES, ds_model_routes(shape, 1, rows, 1).bytes, 1, head - 1},
        {DS_BUFFER_SORTED, shape->experts > 0 ? row * each * shape->hidden : 0, 0, 0},
        {DS_BUFFER_FFN_IN, row * each * ds_model_ffn_in_width(shape), 1, head - 1},
        {DS_BUFFER_FFN_ACT, row * each * shape->ffn, 1, head - 1},
        {DS_BUFFER_DOWN, behind ? row * shape->hidden : 0, 1, head - 1},
        {DS_BUFFER_STATD, behind ? rows * stat : 0, 1, head - 1},
        {DS_BUFFER_NORMF, sequences * one * shape->hidden, head, head},
        {DS_BUFFER_STATF, sequences * stat, head, head},
        {DS_BUFFER_LOGITS, sequences * shape->vocab * sizeof(float), head, head},
    };
    size_t at = 0;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        for (size_t b = table[i].first; base != NULL && b <= table[i].last; b++)
            block[b].buf[DS_PASS_EVAL][table[i].buffer] = base + at;
        at += round_up(table[i].bytes, DS_BUFFER_ALIGN);
    }
    return at;
}

size_t ds_net_forward_bytes(const struct ds_model_shape *shape, enum ds_dtype act, size_t rows,
                            size_t sequences)
{
    return lay_buffers(shape, act, rows, sequences, NULL, NULL);
}

static int bind_weights(struct ds_net *net, const void *params, struct ds_error *err)
{
    size_t count = ds_model_param_count(&net->shape), bytes = ds_dtype_bytes(net->act);
    uint64_t *at = calloc(count, sizeof(*at));

    if (at == NULL)
        return ds_fail(err, ENOMEM, "no memory for a list of %zu parameters", count);
    (void)ds_net_params(&net->shape, at);
    for (size_t i = 0; i < count; i++) {
        struct ds_param param;

        ds_model_param(&net->shape, i, &param);
        ds__net_bind(net, &param, (const unsigned char *)params + at[i] * bytes, NULL);
    }
    free(at);
    return 0;
}

int ds_net_init_forward(struct ds_net *net, const struct ds_net_forward_args *args,
                        struct ds_stream *stream, struct ds_error *err)
{
    size_t blocks = ds_model_blocks(args->shape);
    int rc;

    *net = (struct ds_net){.shape = *args->shape,
                           .family = ds_family_of(args->shape->arch),
                           .stream = stream,
                           .act = args->act,
                           .batch = 1,
                           .longest = args->longest,
                           .logit_ld = args->shape->vocab,
                           .cache = {.keys = args->keys,
                                     .values = args->values,
                                     .room = args->room,
                                     .sequences = args->sequences,
                                     .rows = calloc(args->sequences, sizeof(*net->cache.rows))},
                           .slots = calloc(blocks, sizeof(*net->slots))};
    net->block = net->slots;
    rc = net->slots == NULL || net->cache.rows == NULL
             ? ds_fail(err, ENOMEM, "no memory for a model of %zu blocks", blocks)
             : 0;
    if (rc == 0) {
        (void)lay_buffers(args->shape, args->act, args->rows, args->sequences, args->activations,
                          net->block);
        rc = bind_weights(net, args->params, err);
    }
    if (rc != 0)
        ds_net_release(net);
    return rc;
}

int ds_net_read(struct ds_net *net, const struct ds_net_run *run, size_t runs, const int32_t *ids,
                struct ds_error *err)
{
    size_t rows = 0;
    int rc;

    for (size_t i = 0; i < runs; i++) {
        assert(run[i].rows > 0 && (runs == 1 || run[i].rows == 1));
        assert(run[i].rows <= net->cache.room - net->cache.rows[run[i].sequence]);
        rows += run[i].rows;
    }
    net->seq = net->tokens = rows;
    net->cache.run = run;
    net->cache.runs = runs;
    rc = ds_stream_copy(net->stream, DS_COPY_UP, net->block[0].buf[DS_PASS_EVAL][DS_BUFFER_IDS],
                        ids, rows * sizeof(*ids), err);
    for (uint32_t block = 0; rc == 0 && block <= net->shape.layers; block++)
        rc = ds_net_forward(net, block, DS_PASS_EVAL, false, err);
    for (size_t i = 0; rc == 0 && i < runs; i++)
        net->cache.rows[run[i].sequence] += run[i].rows;
    return rc;
}

/* All that the sequence has room for, for its rows lie apart. */
int ds_net_copy_rows(struct ds_net *net, size_t from, size_t to, size_t rows, struct ds_error *err)
{
    const size_t bytes = net->shape.layers * ds_net_cache_elems(&net->shape, net->cache.room) *
                         ds_dtype_bytes(net->act);
    int rc = ds_stream_copy(net->stream, DS_COPY_ASIDE, net->cache.keys + to * bytes,
                            net->cache.keys + from * bytes, bytes, err);

    assert(rows <= net->cache.rows[from]);
    if (rc == 0)
        rc = ds_stream_copy(net->stream, DS_COPY_ASIDE, net->cache.values + to * bytes,
                            net->cache.values + from * bytes, bytes, err);
    net->cache.rows[to] = rc == 0 ? rows : 0;
    return rc;
}

const float *ds_net_logits_at(const struct ds_net *net)
{
    return net->block[net->shape.layers + 1].buf[DS_PASS_EVAL][DS_BUFFER_LOGITS];
}
