/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * dropout.c - elements multiplied, or dropped by counter-based random numbers, which draw.h makes.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/draw.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

enum { SPAN = 8192, BLOCKS = DS_DRAW_BLOCKS_MAX, WORDS = 4 * BLOCKS };

/* Elements i .. end, whose words are given, and DS_LANES more of no meaning. */
DS_INLINE void dropout(const struct ds_dropout_args *a, enum ds_dtype act, size_t i, size_t end,
                       const uint32_t *word)
{
    uint32_t below = ds__draw_below(a->rate);
    float scale = (float)((a->factor != 0.0 ? a->factor : 1.0) / (1.0 - a->rate));

    for (; i + DS_LANES <= end; i += DS_LANES, word += DS_LANES) {
        ds_vec y = ds__draw_keep(ds_load(act, a->x, i), word, below, scale);

        ds_store(act, a->y, i, a->residual == NULL ? y : y + ds_load(act, a->residual, i));
    }
    if (i < end) {
        ds_vec y = ds__draw_keep(ds_load_part(act, a->x, i, end - i), word, below, scale);

        if (a->residual != NULL)
            y += ds_load_part(act, a->residual, i, end - i);
        ds_store_part(act, a->y, i, end - i, y);
    }
}

/* Where an element's random number is. */
static uint64_t number_of(const struct ds_dropout_args *a, size_t i)
{
    return a->first + (a->row > 0 ? i / a->row * a->ld + i % a->row : i);
}

static void dropout_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_dropout_args *a = arg;
    size_t end = ds__min((task + 1) * SPAN, a->n), count;
    uint32_t word[WORDS + DS_LANES] = {0};

    (void)thread;
    for (size_t i = task * SPAN; i < end; i += count) {
        uint64_t first = number_of(a, i);
        size_t skip = (size_t)(first % WORDS);

        count = ds__min(WORDS - skip, end - i);
        if (a->row > 0)
            count = ds__min(count, a->row - i % a->row);
        if (a->rate > 0.0)
            ds__draw((struct ds_draw){a->seed, a->stream, first / WORDS * BLOCKS}, BLOCKS, word);
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
