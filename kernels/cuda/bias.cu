/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bias.cu - the bias of a matrix product whose sums stay F32 where its operands are shorter.
 */
#include "kernels/cuda/device.cuh"

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    add_bias(size_t rows, size_t n, float *d, size_t ld, const T *bias)
{
    FOR_ROWS(r, rows)
    {
        FOR_ROW_PACKS(i, n)
        {
            float sum[PACK], b[PACK];

            take(d + r * ld + i, n - i, sum);
            take(bias + i, n - i, b);
            for (int j = 0; j < PACK; j++)
                sum[j] += b[j];
            give(d + r * ld + i, n - i, sum);
        }
    }
}

extern "C" int ds__cuda_add_bias(const struct ds_matmul_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    DS_TYPED(a->in_type, T,
             DS_LAUNCH(add_bias<T>, row_grid(a->m), BLOCK, 0, stream_of(stream), a->m, a->n,
                       (float *)a->d, a->ldd, (const T *)a->bias));
    return launched("matmul", err);
}
