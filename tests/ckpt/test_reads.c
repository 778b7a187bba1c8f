/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_reads.c - the plan of reads: every byte asked for once, from where it lies, by whole blocks.
 */
#include "runtime/ckpt/reads.h"
#include "tests/ckpt/support.h"

enum { ELEMS = 29, MAX_RANGES = 5 };

/* clang-format off */
static const struct { uint64_t block; size_t ranges; uint64_t elems[MAX_RANGES]; } cases[] = {
    {0, 1, {29}},             /* version 1: one sum over each range */
    {0, 3, {1, 20, 8}},
    {8, 1, {29}},             /* blocks of two elements, the last is half a one */
    {8, 5, {1, 2, 3, 4, 19}},
    {16, 3, {5, 0, 24}},      /* an empty range is nobody's */
    {0, 4, {7, 0, 0, 22}},
    {4096, 2, {13, 16}},      /* blocks longer than any range */
};
/* clang-format on */

struct made {
    struct ds_manifest manifest;
    struct ds_manifest_view view;
    struct ds_manifest_range range[MAX_RANGES];
    uint64_t sums[MAX_RANGES][ELEMS];
};

/* Range i lies in file i, from byte 1000 * i on, and its block k sums to 100 * i + k. */
static void make(struct made *made, size_t c)
{
    uint64_t at = 0;

    memset(made, 0, sizeof(*made));
    made->manifest.block_bytes = cases[c].block;
    made->view =
        (struct ds_manifest_view){.elems = ELEMS, .range = made->range, .ranges = cases[c].ranges};
    for (size_t i = 0; i < cases[c].ranges; i++) {
        for (uint64_t k = 0; k < ELEMS; k++)
            made->sums[i][k] = 100 * i + k;
        made->range[i] = (struct ds_manifest_range){.file = i,
                                                    .offset = 1000 * i,
                                                    .bytes = cases[c].elems[i] * 4,
                                                    .begin_elem = at,
                                                    .xxh3 = made->sums[i]};
        at += cases[c].elems[i];
    }
    cr_assert(at == ELEMS);
}

/* Is the read a block of a range, and what it takes the next bytes that are asked for? */
static void check_read(const struct made *made, const struct ds__read *read, uint64_t first,
                       uint64_t done)
{
    const struct ds_manifest_range *range = &made->range[read->file];
    uint64_t block = made->manifest.block_bytes > 0 ? made->manifest.block_bytes : range->bytes;
    uint64_t start = read->offset - range->offset, k = start / block;

    cr_assert(start % block == 0 && read->xxh3 == 100 * read->file + k);
    cr_assert(read->bytes == (range->bytes - start < block ? range->bytes - start : block));
    cr_assert(read->take > 0 && read->skip + read->take <= read->bytes && read->to == done);
    cr_assert(range->begin_elem * 4 + start + read->skip == first * 4 + done);
}

Test(reads, every_range_is_read_once_and_by_whole_blocks)
{
    struct made made;

    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        make(&made, c);
        for (uint64_t first = 0; first <= ELEMS; first++)
            for (uint64_t count = 0; count <= ELEMS - first; count++) {
                struct ds__reads reads;
                struct ds__read read;
                uint64_t done = 0, beside = 0, longest = 0;

                ds__reads_init(&reads, &made.manifest, &made.view, sizeof(float), first, count);
                while (ds__reads_next(&reads, &read)) {
                    check_read(&made, &read, first, done);
                    done += read.take;
                    beside += read.bytes - read.take;
                    longest = read.bytes > longest ? read.bytes : longest;
                }
                cr_assert(done == count * 4, "case %zu: %ju of %ju", c, (uintmax_t)done,
                          (uintmax_t)count * 4);
                cr_assert(beside <= 2 * longest, "more than the first and the last block");
                cr_assert(!ds__reads_next(&reads, &read));
            }
    }
}
