/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * dropout.cu - elements multiplied, or dropped by counter-based random numbers.
 *
 * A thread has PACK elements; where they do not begin with a block of words they touch one more,
 * and where a row ends among them the one that the next row begins in.
 */
#include "kernels/cuda/draw.cuh"

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    dropout(struct drop_rule d, size_t n, size_t row, size_t ld, const T *x, const T *residual,
            T *y)
{
    FOR_PACKS(i, n)
    {
        size_t column = i % row;
        uint64_t e = d.first + i / row * ld + column;
        unsigned word[4] = {};
        float v[PACK], r[PACK] = {};

        take(x + i, n - i, v);
        if (residual != nullptr)
            take(residual + i, n - i, r);
        DS_UNROLL
        for (int j = 0; j < PACK; j++, e++, column++) {
            if (column == row) {
                column = 0;
                e += ld - row;
            }
            if (d.below > 0 && (j == 0 || column == 0 || e % 4 == 0))
                draw(d, e / 4, word);
            v[j] = v[j] * kept(d, pick(word, (unsigned)(e % 4))) + r[j];
        }
        give(y + i, n - i, v);
    }
}

extern "C" int ds__cuda_dropout(const struct ds_dropout_args *a, struct ds_stream *stream,
                                struct ds_error *err)
{
    struct drop_rule d = drop_rule_of(a->rate, a->seed, a->stream, a->first);

    if (a->n == 0)
        return 0;
    if (a->factor != 0.0)
        d.scale = (float)(a->factor / (1.0 - a->rate));
    DS_TYPED(a->act, T,
             DS_LAUNCH(dropout<T>, flat_grid(a->n), BLOCK, 0, stream_of(stream), d, a->n,
                       a->row > 0 ? a->row : a->n, a->ld, (const T *)a->x, (const T *)a->residual,
                       (T *)a->y));
    return launched("dropout", err);
}
