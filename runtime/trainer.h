/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trainer.h - what train.c, start.c and snapshot.c share: one rank's run in memory.
 */
#ifndef DS_RUNTIME_TRAINER_H
#define DS_RUNTIME_TRAINER_H

#include "runtime/board.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/saver.h"
#include "runtime/data/valid.h"
#include "runtime/engine.h"
#include "runtime/monitor.h"
#include "runtime/scaler.h"
#include "runtime/train.h"

struct ds__once { /* bytes that the comm has for what ranks hold once, and beside it */
    uint64_t common, beside;
};

/* Waits of the host for the device within steps, from the third on, but for the one that is
 * traced; and for what the step before came to, while the device is at the next. */
struct ds__waits {
    uint64_t steps, least, most; /* of a step */
    struct ds_device_wait before[DS_DEVICE_WAITS], sum[DS_DEVICE_WAITS], behind[DS_DEVICE_WAITS];
};

/* Of a step whose outcome is not known yet. */
struct ds__step {
    double lr;
    bool traced;
};

struct ds_trainer {
    const struct ds_train_args *args;
    const struct ds_job *job;
    struct ds_plan plan;
    struct ds__once once;
    struct ds_comm *comm;    /* of the device */
    struct ds_comm *control; /* of the host where the device has another one, else NULL */
    struct ds_board board;
    struct ds_device *device;
    struct ds_device *host; /* the CPU where it updates for a device apart, else NULL */
    struct ds_engine *engine;
    struct ds_data *train;
    struct ds_valid valid;
    struct ds_monitor monitor;
    struct ds_comm_log comm_log;
    struct ds_ckpt_tensor *weights, *moments; /* views of the engine's lines */
    size_t n_weights, n_moments;
    struct ds_ckpt_line states; /* where moments are that are in a file */
    struct ds_saver *saver;     /* NULL: checkpoints are written at once */
    struct ds_ckpt_state state;
    struct ds_ckpt_base base; /* what the checkpoints of this run leave out */
    struct ds_scaler scaler;
    double peak;          /* FLOP/s of all ranks' devices */
    uint64_t device_left; /* bytes that a device apart had free before anything was allocated */
    uint64_t began_ns;
    struct ds_probe *probe;     /* NULL: no step is traced */
    uint64_t stepped;           /* queued since the start */
    struct ds__step pending[2]; /* by their number of `stepped` modulo 2 */
    bool stop;                  /* a step said so */
    struct ds__waits waits;
    uint64_t mark_ns;               /* until when time was counted */
    uint64_t timed_ns, timed_steps; /* since the last metric */
};

/* trainer.c: what a run needs.  Comm first, with a shared arena of `shared_bytes` and what every
 * plan that was fitted in holds once; then, with a plan built, data, device and engine.  Close
 * takes back all of it, opened or not; after a failure it aborts the comm first. */
void ds__trainer_fit(struct ds_trainer *trainer, const struct ds_plan *plan);
int ds__trainer_device(struct ds_trainer *trainer, size_t scratch_bytes, struct ds_error *err)
    DS_NODISCARD;
/* Does a device apart hold the plan?  Before anything but the scratch is allocated on it. */
int ds__trainer_check_memory(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
int ds__trainer_comm(struct ds_trainer *trainer, uint64_t shared_bytes, struct ds_error *err)
    DS_NODISCARD;
int ds__trainer_open(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
void ds__trainer_close_parts(struct ds_trainer *trainer); /* what ds__trainer_open() opened */
void ds__trainer_close(struct ds_trainer *trainer, bool failed);

/* start.c: the weights of the seed, for whoever has no use for better ones. */
int ds__trainer_fresh(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
/* start.c: weights, moments and state from a checkpoint, a folder, or the seed; tells `resumed`. */
int ds__trainer_start(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
/* The loss scale, into the state that the next checkpoint keeps. */
int ds__trainer_note_scaler(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;

/* frozen.c: what is frozen, from model.init.from, on every rank; and where the state says what that
 * is.  Nothing where all is trained. */
int ds__trainer_freeze(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
/* Does a checkpoint go with that?  `state` is its own.  -EINVAL. */
int ds__trainer_check_base(const struct ds_trainer *trainer, const char *ckpt,
                           const struct ds_ckpt_state *state, struct ds_error *err) DS_NODISCARD;

/* snapshot.c: what this rank holds of a parameter in a line of `arena`, wherever that is, as a
 * tensor of checkpoints without data; `state` is "" for the weights. */
void ds__trainer_view(struct ds_ckpt_tensor *tensor, const char *state, const struct ds_plan *plan,
                      size_t param, enum ds_arena_kind arena);
/* snapshot.c: the tables of tensors; what writes them behind the run, where the plan has memory for
 * it. */
int ds__trainer_tensors(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
int ds__trainer_saver(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;

/* A checkpoint of now; `last`: there when this returns, else written behind the steps.  These ask
 * before each whether this rank still writes, and tell after it whether any rank did. */
int ds__trainer_save(struct ds_trainer *trainer, bool last, struct ds_error *err) DS_NODISCARD;
int ds__trainer_saving(struct ds_trainer *trainer, bool *writing, struct ds_error *err)
    DS_NODISCARD;
int ds__trainer_saved(struct ds_trainer *trainer, bool writing, struct ds_error *err) DS_NODISCARD;

/* trace.c: what watches a step, when the job asks for it; the step that was traced, as
 * run_dir/trace/rank-00000.json, with log.trace kernels also as a table, kernels-00000.txt and
 * .json. */
int ds__trainer_trace_open(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
int ds__trainer_trace_write(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;
/* Around a step that counts, and around the wait for what the one before came to (`behind`); the
 * event `waits` at the end of a run. */
void ds__trainer_waits_begin(struct ds_trainer *trainer);
void ds__trainer_waits_end(struct ds_trainer *trainer, bool behind);
int ds__trainer_waits_tell(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;

#endif
