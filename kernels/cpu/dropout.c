/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * dropout.c - elements dropped by counter-based random numbers.
 *
 * Element e of the line that is numbered from 0 has word e % 4 of Philox block e / 4: base/rng.h
 * in a form that compilers vectorise, many blocks at a time.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

enum { SPAN = 8192, BLOCKS = 64, WORDS = 4 * BLOCKS, ROUNDS = 10 };

/* The words of elements first .. first + WORDS; `first` is a multiple of 4. */
static void draw(const struct ds_dropout_args *a, uint64_t first, uint32_t out[WORDS])
{
    const uint32_t mul0 = 0xd2511f53, mul1 = 0xcd9e8d57, weyl0 = 0x9e3779b9, weyl1 = 0xbb67ae85;
    uint32_t x0[BLOCKS] DS_UNINITIALIZED, x1[BLOCKS] DS_UNINITIALIZED;
    uint32_t x2[BLOCKS] DS_UNINITIALIZED, x3[BLOCKS] DS_UNINITIALIZED;
    uint32_t k0 = (uint32_t)a->seed, k1 = (uint32_t)(a->seed >> 32);

    for (uint32_t i = 0; i < BLOCKS; i++) {
        x0[i] = (uint32_t)(first / 4 + i);
        x1[i] = (uint32_t)((first / 4 + i) >> 32);
        x2[i] = (uint32_t)a->stream;
        x3[i] = (uint32_t)(a->stream >> 32);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < BLOCKS; i++) {
            uint64_t p0 = (uint64_t)mul0 * x0[i], p1 = (uint64_t)mul1 * x2[i];

            x0[i] = (uint32_t)(p1 >> 32) ^ x1[i] ^ k0;
            x1[i] = (uint32_t)p1;
            x2[i] = (uint32_t)(p0 >> 32) ^ x3[i] ^ k1;
            x3[i] = (uint32_t)p0;
        }
        k0 += weyl0;
        k1 += weyl1;
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        out[4 * i] = x0[i];
        out[4 * i + 1] = x1[i];
        out[4 * i + 2] = x2[i];
        out[4 * i + 3] = x3[i];
    }
}

DS_INLINE ds_vec drop(ds_vec x, const uint32_t *word, uint32_t below, float scale)
{
    ds_uvec w;

    memcpy(&w, word, sizeof(w));
    return ds_vec_pick((ds_ivec)(w >= below), x * scale, ds_vec_set(0.0f));
}

/* Elements i .. end, whose words are given, and DS_LANES more of no meaning. */
DS_INLINE void dropout(const struct ds_dropout_args *a, enum ds_dtype act, size_t i, size_t end,
                       const uint32_t *word)
{
    uint32_t below = (uint32_t)(a->rate * 0x1p32);
    float scale = (float)(1.0 / (1.0 - a->rate));

    for (; i + DS_LANES <= end; i += DS_LANES, word += DS_LANES) {
        ds_vec y = drop(ds_load(act, a->x, i), word, below, scale);

        ds_store(act, a->y, i, a->residual == NULL ? y : y + ds_load(act, a->residual, i));
    }
    if (i < end) {
        ds_vec y = drop(ds_load_part(act, a->x, i, end - i), word, below, scale);

        if (a->residual != NULL)
            y += ds_load_part(act, a->residual, i, end - i);
        ds_store_part(act, a->y, i, end - i, y);
    }
}

static void dropout_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_dropout_args *a = arg;
    size_t end = ds__min((task + 1) * SPAN, a->n), count;
    uint32_t word[WORDS + DS_LANES] = {0};

    (void)thread;
    for (size_t i = task * SPAN; i < end; i += count) {
        uint64_t first = a->first + i;
        size_t skip = (size_t)(first % WORDS);

        count = ds__min(WORDS - skip, end - i);
        draw(a, first - skip, word);
        DS_TYPED(a->act, dropout(a, T, i, i + count, word + skip));
    }
}

int DS_ISA(ds__cpu_dropout)(const struct ds_dropout_args *args, struct ds_stream *stream,
                            struct ds_error *err)
{
    struct ds_dropout_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.n, SPAN), dropout_task, &a);
    return 0;
}
