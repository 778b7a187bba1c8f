/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * scratch.c - the contract is in scratch.h; what each operation takes is in cpu/need.h.
 */
#include "kernels/scratch.h"

#include "base/limits.h"
#include "kernels/cpu/need.h"
#include "kernels/cuda/need.h"

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t ds_scratch_bytes(const struct ds_scratch_query *q)
{
    size_t widest = max(max(q->hidden, q->ffn_in), (q->heads + 2 * q->kv_heads) * q->head_size);
    size_t bytes = ds__need_sumsq();

    bytes = max(bytes, ds__need_matmul(q->threads, q->act != DS_F32));
    bytes = max(bytes, ds__need_fp8(q->threads, q->fp8_elems));
    bytes = max(bytes, ds__need_bias_bwd(q->rows, widest));
    bytes = max(bytes, ds__need_norm_bwd(q->rows, max(q->hidden, q->normed)));
    bytes = max(bytes, ds__need_norm_bwd(q->rows, q->head_size));
    if (q->head_size != 0) {
        bytes = max(bytes, ds__need_rope(q->threads, q->head_size));
        bytes = max(bytes, ds__need_attention(q->threads, q->seq, q->head_size));
        if (q->cached)
            bytes = max(bytes, ds__need_cached(q->threads, q->seq, q->heads, q->head_size));
    }
    return bytes;
}

size_t ds_scratch_beside_bytes(void)
{
    return ds__need_sumsq();
}

/* For all operations but a library's attention. */
static size_t device_least(const struct ds_scratch_query *q)
{
    size_t widest = max(max(q->hidden, q->ffn_in), (q->heads + 2 * q->kv_heads) * q->head_size);
    size_t bytes = max(DS_DEVICE_SCRATCH_BYTES, ds__need_norm_columns(max(q->hidden, q->normed)));

    bytes = max(bytes, ds__need_head_norm(q->head_size));
    bytes = max(bytes, ds__need_bias_columns(widest));
    bytes = max(bytes, ds__need_embed(q->rows, q->hidden));
    bytes = max(bytes, ds__need_route(q->pairs));
    bytes = max(bytes, ds__need_sort_pairs(q->pairs));
    return max(bytes, ds__need_dots(q->rows, q->heads));
}

size_t ds_scratch_device_bytes(const struct ds_scratch_query *q)
{
    const size_t least = device_least(q), most = DS_DEVICE_ATTENTION_BYTES;
    size_t one, heads;

    if (!q->library || q->act == DS_F32 || q->kv_heads == 0 || q->seq == 0 ||
        q->seq > DS_MAX_CONTEXT)
        return least;
    one = ds__need_sdpa(q->seq, q->head_size, q->heads / q->kv_heads) + DS_NEED_SDPA_REST;
    heads = q->rows * q->kv_heads / q->seq; /* of a part of a sequence a part of them */
    if (one > 2 * most)
        return least;
    return max(least, max(one, heads > most / one ? most : heads * one));
}
