/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * wgmma.cc - products of tiles by warpgroups; the contract is in wgmma.cuh.
 *
 * Each warp works out its 16 rows when its last lane arrives.  What comes out is kept beside the
 * thread until the thread has waited for it.
 *
 * Source  PTX ISA: matrix descriptor, "Strides" of swizzled layouts, fragments of m64nNk16
 */
#include "tests/cudaemu/cudaemu.cuh"
#include "tests/cudaemu/multiply.cuh"

#include <stdio.h>

enum { ROWS = 16, COLUMNS = 64, DEPTH = 16, FIRST = 1024 }; /* a device keeps the first KiB */

[[noreturn]] static void die(const char *what)
{
    fprintf(stderr, "cudaemu: thread %u: %s\n", cudaemu_current->index, what);
    abort();
}

unsigned wgmma_address(const void *shared)
{
    return (unsigned)((const char *)shared - (const char *)cudaemu_shared()) + FIRST;
}

enum { PIECE = 8 }; /* elements that lie side by side wherever the swizzle puts them */

CUDAEMU_INTERNAL static void read_piece(uint16_t (&to)[PIECE], unsigned at)
{
    at ^= (at >> 7 & 7) << 4;
    if (at < FIRST || at + sizeof(to) > FIRST + cudaemu_shared_bytes())
        die("a descriptor of what is no shared memory of this block");
    memcpy(to, (const char *)cudaemu_shared() + at - FIRST, sizeof(to));
}

/* The rows or columns of an operand from `first` on.  Down: along them it lies in one piece. */
template <unsigned N>
CUDAEMU_INTERNAL static void read_tile(uint16_t (&to)[N][DEPTH], uint64_t tile, bool down,
                                       unsigned first)
{
    unsigned start = (unsigned)(tile & 0x3fff) << 4, leading = (tile >> 16 & 0x3fff) << 4;
    unsigned stride = (tile >> 32 & 0x3fff) << 4;
    uint16_t piece[PIECE];

    if (tile >> 62 != 1 || (tile >> 49 & 7) != 0)
        die("a descriptor that is not of a swizzle of 128 bytes from a whole KiB on");
    for (unsigned n = 0; n < N * DEPTH; n += PIECE) {
        unsigned i = down ? n % N : n / DEPTH, k = down ? n / N : n % DEPTH, from = first + i;

        if (down)
            read_piece(piece,
                       start + from / 64 * leading + from % 64 * 2 + k / 8 * stride + k % 8 * 128);
        else
            read_piece(piece, start + from / 8 * stride + from % 8 * 128 + k * 2);
        for (unsigned j = 0; j < PIECE; j++)
            to[i + (down ? j : 0)][k + (down ? 0 : j)] = piece[j];
    }
}

CUDAEMU_INTERNAL static float widen(const struct cudaemu_wgmma *w, uint16_t x)
{
    return w->half ? ds_f16_to_f32(x) : ds_bf16_to_f32(x);
}

struct operands {
    uint16_t a[ROWS][DEPTH], b[COLUMNS][DEPTH];
};

CUDAEMU_INTERNAL static void read_tiles(const struct cudaemu_wgmma *w, unsigned row,
                                        struct operands *x)
{
    if (w->a == nullptr)
        read_tile(x->a, w->a_tile, false, row);
    read_tile(x->b, w->b_tile, w->down, 0);
}

/* Of what a product reads, to see later that nobody has written it. */
CUDAEMU_INTERNAL static uint64_t digest(const struct cudaemu_wgmma *w, unsigned row)
{
    struct operands x = {};
    uint64_t sum = UINT64_C(14695981039346656037), word;

    read_tiles(w, row, &x);
    for (size_t i = 0; i < sizeof(x); i += sizeof(word)) {
        memcpy(&word, (const char *)&x + i, sizeof(word));
        sum = (sum ^ word) * UINT64_C(1099511628211);
        sum ^= sum >> 29; /* else a change of two upper bits would not show */
    }
    return sum;
}

/* Where the sum of a lane's registers is kept while products are under way. */
CUDAEMU_INTERNAL static struct cudaemu_sum *sum_of(cudaemu_thread *t, float (*c)[4])
{
    struct cudaemu_sum *sum = t->async->sum;

    for (unsigned i = 0; i < t->sums; i++) {
        if (sum[i].c == c)
            return &sum[i];
    }
    if (t->sums == CUDAEMU_SUMS)
        die("more sums under way than there is place for");
    sum[t->sums].c = c;
    memcpy(sum[t->sums].value, c, sizeof(sum->value));
    return &sum[t->sums++];
}

/* The lane with these is at the head of its warp; t: its thread. */
CUDAEMU_INTERNAL static void check(void *const *lanes, cudaemu_thread *t)
{
    const struct cudaemu_wgmma *w = (const struct cudaemu_wgmma *)lanes[0];

    for (unsigned lane = 0; lane < 32; lane++) {
        const struct cudaemu_wgmma *x = (const struct cudaemu_wgmma *)lanes[lane];

        if (x->a_tile != w->a_tile || x->b_tile != w->b_tile || x->add != w->add)
            die("lanes of a warp with other tiles");
        if (!t[lane].begun)
            die("a product of a warpgroup without wgmma_begin()");
    }
    if (cudaemu_unpublished())
        die("a product of a warpgroup while copies are not published");
    if (t->reads == CUDAEMU_READS)
        die("more products under way than there is place for");
    t->async->read[t->reads++] = {*w, t->product_groups, digest(w, t->index % 128 / 32 * ROWS)};
}

CUDAEMU_INTERNAL void cudaemu_wgmma_multiply(void *const *lanes)
{
    const struct cudaemu_wgmma *w = (const struct cudaemu_wgmma *)lanes[0];
    cudaemu_thread *t = cudaemu_current - cudaemu_current->index % 32;
    struct operands x;
    float a[ROWS][DEPTH], b[DEPTH][COLUMNS], c[ROWS][COLUMNS] = {};

    check(lanes, t);
    read_tiles(w, t->index % 128 / 32 * ROWS, &x);
    for (unsigned lane = 0; lane < 32; lane++) {
        const struct cudaemu_wgmma *l = (const struct cudaemu_wgmma *)lanes[lane];
        const struct cudaemu_sum *sum = sum_of(&t[lane], l->c);

        for (unsigned i = 0; i < 8 && l->a != nullptr; i++) {
            unsigned k = lane % 4 * 2 + (i & 1) + (i & 4 ? 8 : 0);

            x.a[lane / 4 + (i & 2 ? 8 : 0)][k] = (uint16_t)(l->a[i / 2] >> (i & 1 ? 16 : 0));
        }
        for (unsigned i = 0; i < 32 && w->add; i++)
            c[lane / 4 + (i & 2 ? 8 : 0)][i / 4 * 8 + lane % 4 * 2 + (i & 1)] = sum->value[i];
    }
    for (unsigned k = 0; k < DEPTH; k++) {
        for (unsigned i = 0; i < ROWS; i++)
            a[i][k] = widen(w, x.a[i][k]);
        for (unsigned i = 0; i < COLUMNS; i++)
            b[k][i] = widen(w, x.b[i][k]);
    }
    multiply(a, b, c);
    for (unsigned lane = 0; lane < 32; lane++) {
        float(*to)[4] = ((const struct cudaemu_wgmma *)lanes[lane])->c;
        struct cudaemu_sum *sum = sum_of(&t[lane], to);

        for (unsigned i = 0; i < 32; i++)
            sum->value[i] = c[lane / 4 + (i & 2 ? 8 : 0)][i / 4 * 8 + lane % 4 * 2 + (i & 1)];
        sum->group = t[lane].product_groups;
        memset(to, 0xff, sizeof(sum->value));
        t[lane].products++;
    }
}

/* The sums of all groups but the last `under_way`. */
void cudaemu_wgmma_wait(unsigned under_way)
{
    cudaemu_thread *t = cudaemu_current;
    struct cudaemu_read *read = t->async->read;
    struct cudaemu_sum *sum = t->async->sum;
    unsigned left = 0;

    for (unsigned i = 0; i < t->reads; i++) {
        const struct cudaemu_read *r = &read[i];

        if (digest(&r->what, t->index % 128 / 32 * ROWS) != r->digest)
            die("a tile was written while a product that reads it was under way");
        if (r->group + under_way >= t->product_groups)
            read[left++] = *r;
    }
    t->reads = left;
    left = 0;
    for (unsigned i = 0; i < t->sums; i++) {
        if (sum[i].group + under_way >= t->product_groups)
            sum[left++] = sum[i];
        else
            memcpy(sum[i].c, sum[i].value, sizeof(sum[i].value));
    }
    t->sums = left;
    t->begun = false;
}
