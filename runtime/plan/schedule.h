/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * schedule.h - between sequence.c, which says what a pass computes and touches, and schedule.c,
 * which writes the instructions of that.
 *
 * Private to runtime/plan/.
 */
#ifndef DS_RUNTIME_PLAN_SCHEDULE_H
#define DS_RUNTIME_PLAN_SCHEDULE_H

#include "runtime/plan/internal.h"

/* Of a layer: its own, its experts', both of what is frozen, the replicated one. */
enum { DS__USES = 5 };

struct ds__use { /* buckets, UINT32_MAX where there are fewer */
    uint32_t read[DS__USES], write[DS__USES];
    uint32_t whole[DS__USES]; /* read, too: what is never gathered */
};

struct ds__op { /* a compute instruction of a micro-batch */
    enum ds_instr_op op;
    uint32_t block;
    bool recompute, gradient; /* as in struct ds_instr */
    struct ds__use use;
    uint32_t complete[DS__USES]; /* buckets whose gradients are all there after it */
};

struct ds__sequence { /* of one micro-batch, or of an evaluation pass */
    struct ds__op *op;
    uint32_t forward, count; /* operations of the forward half; all */
    bool eval;
    struct ds__window window;
};

struct ds__rooms {
    struct ds__room gathered, staged;
};

/* ds__room.inside[] of gradients. */
enum { DS__ROOM_REDUCING = 1, DS__ROOM_WRITING };

struct ds__writer {
    const struct ds_plan *plan;
    const struct ds__sequence *sequence;
    struct ds__rooms *rooms;
    struct ds_program *program;
    struct ds_instr counted; /* where instructions go that are only counted */
    uint64_t count;
    uint64_t ref, left; /* references looked at for GATHER, for FREE */
    uint32_t *gathered; /* of each bucket: the event to wait for before it is read */
    uint32_t freed;     /* event of the last FREE */
    uint32_t reduced;   /* bucket of the last REDUCE that is still inside */
    uint32_t reduced_event, reduced_before; /* events of the last two */
    uint32_t offloaded;                     /* event of the last OFFLOAD */
    uint32_t moved[DS_STASH_PLACES]; /* of the last STASH or RESTORE that nobody waited for */
};

/* The next instruction, with nothing said but these; there until the one after it. */
struct ds_instr *ds__emit(struct ds__writer *writer, enum ds_instr_op op, enum ds_queue queue);

/* pieces.c: `update`, just emitted, is of a bucket.  Where states are in pieces it becomes the
 * update of the first one, and what moves and updates all of them is emitted behind it. */
void ds__emit_pieces(struct ds__writer *writer, struct ds_instr *update);
/* What a step begins with: the first pieces come while it computes. */
void ds__emit_first_loads(struct ds__writer *writer);

/* stash.c: in front of an operation, what holds it; and behind it, whose end is the event `done`,
 * the copy that begins then, if it has one. */
void ds__emit_hold(struct ds__writer *writer, const struct ds__op *op);
bool ds__moves(const struct ds__writer *writer, const struct ds__op *op);
void ds__emit_move(struct ds__writer *writer, const struct ds__op *op, uint64_t micro_batch,
                   uint32_t done);

/* Write the list, or count it where program->instr is NULL; marks who meets in the rooms. */
void ds__write(struct ds__writer *writer);

#endif
