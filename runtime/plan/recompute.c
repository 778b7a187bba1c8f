/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * recompute.c - which activations are computed again in the backward pass instead of being kept.
 *
 *   none       everything is kept
 *   selective  what a pass over memory makes again: both norms and the activation of the
 *              feed-forward block, 6 of the 16 widths that a GPT-2 layer keeps; no matrix product
 *              and no attention is repeated
 *   full       the whole layer from its input, but for the last product, whose output is kept, and
 *              what a norm of it reads; and for what a router has said and what adapters have made
 *              of rows, which is little
 *
 * It is the first activation.layers layers that do so: theirs live longest.  What is computed
 * again has the same bits, so a run does not depend on any of this; but that on a GPU a layer that
 * computes GELU again has it as an operation from the rounded sums, not in the product, and so
 * other last bits than one that keeps it.
 *
 * auto takes the least work that fits: no layer, then one layer more at a time selectively, then
 * one more at a time fully.
 *
 * Source  Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models"
 * Tests   tests/plan/test_recompute.c, tests/engine/test_engine.c
 */
#include <errno.h>

#include "runtime/plan/internal.h"

bool ds_plan_recomputes(const struct ds_plan *plan, uint32_t block)
{
    return plan->recompute != DS_RECOMPUTE_NONE && block >= 1 && block <= plan->recompute_layers &&
           block >= plan->first_trained;
}

bool ds_plan_drops(const struct ds_plan *plan, uint32_t block, enum ds_buffer buffer)
{
    if (!ds_plan_recomputes(plan, block) || buffer == DS_BUFFER_ROUTES ||
        buffer == DS_BUFFER_DOWN || buffer == DS_BUFFER_STATD || buffer == DS_BUFFER_ADAPTED)
        return false;
    return plan->recompute == DS_RECOMPUTE_FULL || buffer == DS_BUFFER_NORM1 ||
           buffer == DS_BUFFER_NORM2 || buffer == DS_BUFFER_FFN_ACT;
}

/* --- auto ------------------------------------------------------------------------------------- */

struct search {
    struct ds_job job; /* a copy to try things on; its arena is not ours */
    struct ds_plan_args args;
    unsigned ranks;
    uint64_t available_bytes;
};

static int fits(struct search *search, enum ds_recompute recompute, uint64_t layers, bool *yes,
                struct ds_error *err)
{
    struct ds_plan plan;
    int rc;

    search->job.activation.recompute = recompute;
    search->job.activation.layers = layers;
    rc = ds_plan_build(&plan, &search->args, err);
    if (rc != 0)
        return rc;
    *yes = ds_plan_check_fit(&plan, search->ranks, search->available_bytes, NULL) == 0;
    ds_plan_release(&plan);
    return 0;
}

/* The fewest layers with which it fits; 0 when none but "all and still not" is left. */
static int fewest(struct search *search, enum ds_recompute recompute, uint64_t *layers,
                  struct ds_error *err)
{
    uint64_t low = 1, high = search->job.model.shape.layers;
    bool yes = false;
    int rc = fits(search, recompute, high, &yes, err);

    *layers = 0;
    if (rc != 0 || !yes)
        return rc;
    while (rc == 0 && low < high) {
        uint64_t middle = low + (high - low) / 2;

        rc = fits(search, recompute, middle, &yes, err);
        if (yes)
            high = middle;
        else
            low = middle + 1;
    }
    *layers = high;
    return rc;
}

int ds_plan_settle(struct ds_job *job, const struct ds_plan_args *args, unsigned ranks,
                   uint64_t available_bytes, struct ds_error *err)
{
    struct search search = {
        .job = *job, .args = *args, .ranks = ranks, .available_bytes = available_bytes};
    enum ds_recompute choice = DS_RECOMPUTE_NONE;
    uint64_t layers = 0;
    bool yes = false;
    int rc;

    if (job->activation.recompute != DS_RECOMPUTE_AUTO)
        return 0;
    search.args.job = &search.job;
    if (job->zero.prefetch == 0) /* takes what memory is left, after this */
        search.job.zero.prefetch = 1;
    rc = fits(&search, choice, 0, &yes, err);
    if (rc == 0 && !yes) {
        choice = DS_RECOMPUTE_SELECTIVE;
        rc = fewest(&search, choice, &layers, err);
    }
    if (rc == 0 && !yes && layers == 0) {
        choice = DS_RECOMPUTE_FULL;
        rc = fewest(&search, choice, &layers, err);
    }
    if (rc != 0)
        return rc;
    job->activation.recompute = choice; /* full on all layers where nothing fits */
    job->activation.layers = layers;
    return 0;
}
