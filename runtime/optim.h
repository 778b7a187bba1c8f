/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * optim.h - learning rate and clipping as pure functions of the step; what optimizers keep.
 *
 * Source  PyTorch's lr_scheduler.py (OneCycleLR), DeepSpeed's lr_schedules.py (WarmupLR,
 *         WarmupDecayLR), Hu et al., "MiniCPM" (wsd), transformers' optimization.py (polynomial,
 *         inverse_sqrt).
 * Tests   tests/plan/test_schedule.c, tests/plan/test_optim.c
 */
#ifndef DS_RUNTIME_OPTIM_H
#define DS_RUNTIME_OPTIM_H

#include <stdint.h>

#include "runtime/job.h"
#include "runtime/model/model.h"

/* Learning rate of update `step` (from 0), dsrun-job(5) SCHEDULE. */
double ds_optim_lr(const struct ds_job *job, uint64_t step);

/* The lines of state that the job's optimizer keeps beside the parameters, one float an element
 * each, and what a checkpoint calls them: "exp_avg" for "exp_avg.<tensor>". */
enum { DS_OPTIM_STATES = 2 };
unsigned ds_optim_states(const struct ds_job *job);
/* NULL: this tensor has no such state. */
const char *ds_optim_state_name(const struct ds_job *job, const struct ds_param *param,
                                unsigned state);

/* Does an update depend on norms of the whole tensor? */
bool ds_optim_by_tensor(const struct ds_job *job);

/* Muon: does it update some tensors as whole matrices; this one: every matrix of a layer; the scale
 * of such an update, from the outputs and inputs of the matrix; the floats that an update works in;
 * the rate of all other tensors, which AdamW updates, as a multiple of optim.lr. */
bool ds_optim_wants_matrices(const struct ds_job *job);
bool ds_optim_by_matrix(const struct ds_job *job, const struct ds_param *param);
double ds_optim_matrix_scale(const struct ds_job *job, const struct ds_param *param);
enum { DS_OPTIM_MUON_ITERATIONS = 5 };
uint64_t ds_optim_matrix_room(uint64_t rows, uint64_t cols);
double ds_optim_loose_lr_mult(const struct ds_job *job);

/* "adamw", ...; and how many there are. */
const char *ds_optim_name(enum ds_optim_kind kind);
unsigned ds_optim_kinds(void);

/* The first group that the tensor belongs to, or NULL. */
const struct ds_optim_group *ds_optim_group_of(const struct ds_job *job, const char *tensor);

/* Does one of train.freeze or lora.whole match a tensor, which is of no adapter? */
bool ds_optim_globbed(const struct ds_strings *globs, const struct ds_param *param);
/* Is this tensor trained?  With adapters those are and what lora.whole matches, without what
 * train.freeze does not. */
bool ds_optim_trains(const struct ds_job *job, const struct ds_param *param);
/* Is some tensor not? */
bool ds_optim_freezes(const struct ds_job *job);

#endif
