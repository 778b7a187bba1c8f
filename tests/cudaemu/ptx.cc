/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ptx.cc - products of tiles, loads of matrices, asynchronous copies; the contract is in ptx.cuh.
 *
 * Source  PTX ISA: figures of the fragments of m16n8k16 for .f16 and .bf16, and of ldmatrix
 */
#include "tests/cudaemu/cudaemu.cuh"
#include "tests/cudaemu/multiply.cuh"

#include <stdio.h>

enum { ROWS = 16, COLUMNS = 8, DEPTH = 16 };

CUDAEMU_INTERNAL static uint16_t half_of(unsigned word, unsigned i)
{
    return (uint16_t)(word >> 16 * i);
}

CUDAEMU_INTERNAL static float widen(const struct cudaemu_product *p, uint16_t x)
{
    return p->half ? ds_f16_to_f32(x) : ds_bf16_to_f32(x);
}

CUDAEMU_INTERNAL void cudaemu_multiply(void *const *lanes)
{
    float a[ROWS][DEPTH], b[DEPTH][COLUMNS], c[ROWS][COLUMNS];

    for (unsigned lane = 0; lane < 32; lane++) {
        const struct cudaemu_product *p = (const struct cudaemu_product *)lanes[lane];
        unsigned group = lane / 4, in_group = lane % 4;

        for (unsigned i = 0; i < 8; i++) { /* the halves of a's four words */
            unsigned row = group + (i & 2 ? 8 : 0), k = in_group * 2 + (i & 1) + (i & 4 ? 8 : 0);

            a[row][k] = widen(p, half_of(p->a[i / 2], i & 1));
        }
        for (unsigned i = 0; i < 4; i++) {
            unsigned k = in_group * 2 + (i & 1) + (i & 2 ? 8 : 0);

            b[k][group] = widen(p, half_of(p->b[i / 2], i & 1));
            c[group + (i & 2 ? 8 : 0)][in_group * 2 + (i & 1)] = p->c[i];
        }
    }
    multiply(a, b, c);
    for (unsigned lane = 0; lane < 32; lane++) {
        float *to = ((const struct cudaemu_product *)lanes[lane])->c;

        for (unsigned i = 0; i < 4; i++)
            to[i] = c[lane / 4 + (i & 2 ? 8 : 0)][lane % 4 * 2 + (i & 1)];
    }
}

void cudaemu_aligned(const char *what, const void *at, size_t bytes)
{
    if ((uintptr_t)at % bytes == 0)
        return;
    fprintf(stderr, "cudaemu: %s at %p is not aligned\n", what, at);
    abort();
}

/* Lane l names row l % 8 of matrix l / 8; of matrix i, a lane gets from row l / 4 the elements
 * 2 (l % 4) and the next; transposed, from the rows 2 (l % 4) and the next the element l / 4. */
CUDAEMU_INTERNAL void cudaemu_load_matrices(void *const *lanes)
{
    uint16_t matrix[4][8][8];

    for (unsigned lane = 0; lane < 32; lane++) {
        const struct cudaemu_matrices *m = (const struct cudaemu_matrices *)lanes[lane];

        for (unsigned i = 0; i < 8; i++)
            matrix[lane / 8][lane % 8][i] = m->row[i];
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        const struct cudaemu_matrices *m = (const struct cudaemu_matrices *)lanes[lane];
        unsigned i = lane / 4, j = lane % 4 * 2;

        for (unsigned k = 0; k < 4; k++) {
            uint16_t low = m->transposed ? matrix[k][j][i] : matrix[k][i][j];
            uint16_t high = m->transposed ? matrix[k][j + 1][i] : matrix[k][i][j + 1];

            m->to[k] = low | (unsigned)high << 16;
        }
    }
}

void cudaemu_copy(void *to, const void *from, unsigned bytes, bool there)
{
    cudaemu_thread *c = cudaemu_current;

    cudaemu_aligned("an asynchronous copy", to, bytes);
    cudaemu_aligned("an asynchronous copy", from, bytes);
    if (c->copies == CUDAEMU_COPIES) {
        fprintf(stderr, "cudaemu: more than %d asynchronous copies under way\n", CUDAEMU_COPIES);
        abort();
    }
    memset(to, 0xff, bytes);
    c->async->copy[c->copies++] = {to, there ? from : nullptr, bytes, c->groups};
}

void cudaemu_commit()
{
    cudaemu_current->groups++;
}

/* The copies of all groups but the last `under_way`, in their order. */
void cudaemu_wait(unsigned under_way)
{
    cudaemu_thread *c = cudaemu_current;
    struct cudaemu_copy_of *copy = c->async->copy;
    unsigned done = 0;

    for (; done < c->copies && copy[done].group + under_way < c->groups; done++) {
        const struct cudaemu_copy_of &x = copy[done];

        if (x.from == nullptr)
            memset(x.to, 0, x.bytes);
        else
            memcpy(x.to, x.from, x.bytes);
    }
    c->unpublished = c->unpublished || done > 0;
    c->copies -= done;
    memmove(copy, copy + done, c->copies * sizeof(copy[0]));
}
