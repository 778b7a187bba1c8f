/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * scratch.c - the contract is in scratch.h; what each operation takes is in cpu/need.h.
 */
#include "kernels/scratch.h"

#include "kernels/cpu/need.h"

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t ds_scratch_bytes(const struct ds_scratch_query *q)
{
    size_t widest = max(max(q->hidden, q->ffn_in), (q->heads + 2 * q->kv_heads) * q->head_size);
    size_t bytes = ds__need_sumsq();

    bytes = max(bytes, ds__need_matmul(q->threads, q->act != DS_F32));
    bytes = max(bytes, ds__need_bias_bwd(q->rows, widest));
    bytes = max(bytes, ds__need_norm_bwd(q->rows, q->hidden));
    if (q->head_size != 0) {
        bytes = max(bytes, ds__need_rope(q->threads, q->head_size));
        bytes = max(bytes, ds__need_attention(q->threads, q->seq, q->head_size));
    }
    return bytes;
}
