/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_tree - the order of sums over ranks, to the bit.
 */
#include <criterion/criterion.h>

#include <stdbool.h>
#include <stdlib.h>

#include "tests/comm/ranks.h"
#include "runtime/comm/tree.h"

enum { MOST = 37 };

static float *vectors[MOST];
static float *scratch;

static void fill(unsigned count, size_t n)
{
    scratch = malloc(DS_TREE_SCRATCH * sizeof(*scratch));
    for (unsigned k = 0; k < count; k++) {
        vectors[k] = malloc((n + 1) * sizeof(float));
        for (size_t i = 0; i < n; i++)
            vectors[k][i] = ranks_value(k, i);
        vectors[k][n] = 42.0f; /* nobody writes behind the end */
    }
}

static void drop(unsigned count)
{
    free(scratch);
    for (unsigned k = 0; k < count; k++)
        free(vectors[k]);
}

static bool is_sum(const float *got, unsigned count, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float want = ranks_tree(0, count, i);

        if (memcmp(&got[i], &want, sizeof(want)) != 0)
            return false;
    }
    return true;
}

static const unsigned counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 31, 37};
static const size_t sizes[] = {0, 1, 15, 16, 17, 2047, 2048, 2049, 5000};

Test(tree, every_vector_becomes_the_sum)
{
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            fill(counts[c], sizes[s]);
            ds__tree_sum_all_f32(vectors, counts[c], sizes[s], scratch);
            for (unsigned k = 0; k < counts[c]; k++) {
                cr_assert(is_sum(vectors[k], counts[c], sizes[s]), "vector %u of %u, %zu elements",
                          k, counts[c], sizes[s]);
                cr_assert(vectors[k][sizes[s]] == 42.0f);
            }
            drop(counts[c]);
        }
}

Test(tree, sum_may_replace_any_source)
{
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (unsigned k = 0; k < counts[c]; k++) {
            fill(counts[c], 3000);
            ds__tree_sum_f32(vectors[k], (const float *const *)vectors, counts[c], 3000, scratch);
            cr_assert(is_sum(vectors[k], counts[c], 3000), "into %u of %u", k, counts[c]);
            drop(counts[c]);
        }
}

Test(tree, doubles_follow_the_drawn_order)
{
    static const double x[] = {1e16, 1.0, -1e16, 1.0, 3.0};

    /* 1e16 + 1 rounds back to 1e16: the order shows. */
    cr_assert(ds__tree_sum_f64(x, 1) == 1e16);
    cr_assert(ds__tree_sum_f64(x, 3) == (1e16 + 1.0) + -1e16);
    cr_assert(ds__tree_sum_f64(x, 4) == (1e16 + 1.0) + (-1e16 + 1.0));
    cr_assert(ds__tree_sum_f64(x, 5) == ((1e16 + 1.0) + (-1e16 + 1.0)) + 3.0);
    cr_assert(ds__tree_sum_f64(x + 1, 2) == -1e16 + 1.0);
}

Test(tree, test_values_feel_the_order)
{
    unsigned differ = 0;

    for (size_t i = 0; i < 1000; i++) {
        float line = ranks_value(0, i);

        for (unsigned k = 1; k < 5; k++)
            line += ranks_value(k, i);
        differ += line != ranks_tree(0, 5, i);
    }
    cr_assert(differ > 50, "only %u of 1000 sums tell a line from a tree", differ);
}
