/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * update.h - the job's optimizer on a run of neighbouring elements.
 *
 * All but Muon work element by element, so a caller may cut its lines anywhere, at the
 * borders of shards say, and gets the same bits.  What LAMB needs of a whole tensor comes from
 * trust.h, which has also brought the states up to date.  Muon (muon.h) takes matrices whole.
 *
 * Tests   tests/engine/test_update.c; the kernels in tests/kernels/test_update.c
 */
#ifndef DS_RUNTIME_UPDATE_H
#define DS_RUNTIME_UPDATE_H

#include <stdint.h>

#include "base/error.h"
#include "kernels/op.h"
#include "runtime/job.h"
#include "runtime/matrix.h"
#include "runtime/optim.h"

struct ds_update {
    uint64_t n;
    float *p;
    float *state[DS_OPTIM_STATES]; /* as many as ds_optim_states() says */
    const float *grad;
    enum ds_dtype low_type; /* BF16 or F16 */
    void *low;              /* the new p rounded, or NULL */
    double lr;              /* of these elements: group and schedule are in it */
    double weight_decay;    /* of these elements */
    double grad_scale;      /* clipping */
    uint64_t update;        /* from 1 */
    /* (optional) In the stream's device: what becomes of the step.  Of it are grad_scale, whether
     * anything is done at all, and whether it is the update before this one's number. */
    const struct ds_verdict *verdict;
    const double *norms; /* LAMB, there as well: the squares of the tensor and of its direction */
    uint64_t rows, cols; /* n is this matrix, to be updated as a whole; 0: it is not */
    double scale;        /* of that update */
    float *work;         /* for it: ds_optim_matrix_room() */
    const struct ds_matrix *matrix; /* n is this rank's part of it; NULL: it is all here */
};

/* Adam's and LAMB's 1 - beta^t; of the first update there is none before, so t is 1 at least. */
double ds_update_bias(double beta, uint64_t t);

int ds_update(const struct ds_job *job, const struct ds_update *update, struct ds_stream *stream,
              struct ds_error *err) DS_NODISCARD;

#endif
