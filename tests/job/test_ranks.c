/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_ranks.c - how many ranks may share what: layers and sequences of a model that has fewer heads
 * of keys and values than of queries.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "tests/job/jobs.h"

#define GROUPED                                                                                    \
    "name: t\n"                                                                                    \
    "model: {arch: llama, layers: 1, hidden: 96, heads: 12, kv_heads: 4, ffn: 192, context: 48}\n" \
    "data: {train: [a.txt]}\n"                                                                     \
    "train: {steps: 1, global_batch: 8, micro_batch: 8}\n"
#define IN_TEAMS GROUPED "parallel: {tensor: 2}\n"

/* clang-format off */
static const struct {
    const char *text, *override;
    const char *message; /* NULL: it can be */
} table[] = {
    {SMALL, "parallel.pipeline=5",
     "override 'parallel.pipeline=5': 'parallel.pipeline' 5 is more than 'model.layers' 2, and each part needs a layer; use 2 or less"},
    {SMALL, "parallel.sequence=3",
     "override 'parallel.sequence=3': 'parallel.sequence' 3 must divide 'train.sequence' 32; 2 or 4 would do"},
    {SMALL, "parallel.sequence=8",
     "override 'parallel.sequence=8': 'parallel.sequence' 8 must divide 'model.heads' 4; 4 would do"},
    {GROUPED, "parallel.tensor=4", NULL},
    {GROUPED, "parallel.tensor=12", NULL},
    {GROUPED, "parallel.sequence=2", NULL},
    {GROUPED, "parallel.sequence=12", NULL},
    {IN_TEAMS, "parallel.sequence=6", NULL},
    {GROUPED "parallel: {tensor: 12}\n", "model.kv_heads=1", NULL},
    {GROUPED, "parallel.tensor=6",
     "override 'parallel.tensor=6': 'parallel.tensor' 6 must divide 'model.kv_heads' 4, or be a multiple of it; 4 or 12 would do"},
    {GROUPED, "parallel.tensor=3",
     "override 'parallel.tensor=3': 'parallel.tensor' 3 must divide 'model.kv_heads' 4, or be a multiple of it; 2 or 4 would do"},
    {GROUPED, "parallel.tensor=24",
     "override 'parallel.tensor=24': 'parallel.tensor' 24 must divide 'model.heads' 12; 12 would do"},
    {GROUPED, "parallel.sequence=6",
     "override 'parallel.sequence=6': 'parallel.sequence' 6 must divide 'model.kv_heads' 4, or be a multiple of it; 4 or 12 would do"},
    {GROUPED "parallel: {sequence: 12}\n", "model.kv_heads=6", NULL},
    {GROUPED "parallel: {sequence: 4}\n", "model.kv_heads=6",
     "override 'model.kv_heads=6': 'parallel.sequence' 4 must divide 'model.kv_heads' 6, or be a multiple of it; 3 or 6 would do"},
    {IN_TEAMS, "parallel.sequence=3",
     "override 'parallel.sequence=3': 'parallel.sequence' 3 must divide 'model.kv_heads' / 'parallel.tensor', 2, or be a multiple of it; 2 or 6 would do"},
    {GROUPED "precision: {matmul: fp8, compute: bf16}\n", "parallel.tensor=6",
     "override 'parallel.tensor=6': 'parallel.tensor' 6 must divide 'model.kv_heads' 4, or be a multiple of it; 4 or 12 would do"},
    {GROUPED "precision: {matmul: fp8, compute: bf16}\n", "parallel.tensor=12",
     "job.yaml:2:52: 'model.heads' 12 x 8, the size of a head, must be a multiple of 192 for 'precision.matmul' fp8"},
};
/* clang-format on */

Test(ranks, heads_of_keys_and_values_divide_them_or_are_divided)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const char *message = table[i].message;
        struct ds_error err = {0};
        struct ds_job job;
        int rc = jobs_parse(&job, table[i].text, table[i].override, &err);

        cr_expect_eq(rc, message != NULL ? -EINVAL : 0, "%s: %s", table[i].override, err.text);
        if (message != NULL)
            cr_expect_str_eq(err.text, message);
        ds_job_release(&job);
    }
}
