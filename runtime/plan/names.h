/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * names.h - what a plan is made of, by name: instructions, queues, arenas, buffers, passes.
 *
 * Tests   tests/plan/
 */
#ifndef DS_RUNTIME_PLAN_NAMES_H
#define DS_RUNTIME_PLAN_NAMES_H

/* clang-format off */
#define DS_INSTR_OPS(X) \
    X(GATHER) X(FREE) X(FORWARD) X(BACKWARD) X(REDUCE) X(NORM) X(UPDATE) \
    X(OFFLOAD) X(FETCH) X(LOAD) X(STORE) X(STASH) X(RESTORE) X(HOLD) X(SEND) X(RECV) X(TIE) X(SAVE)
#define DS_QUEUES(X)  X(COMPUTE) X(REDUCE) X(GATHER) X(COPY_IN) X(COPY_OUT) X(HOST)
#define DS_ARENAS(X) \
    X(PARAMS,      "parameters") \
    X(PARAMS_LOW,  "working parameters") \
    X(GRADS,       "gradients") \
    X(MOMENTS,     "optimizer") \
    X(GATHERED,    "gathered parameters") \
    X(STAGED,      "gradients on their way") \
    X(PACKED,      "gradients in bf16") \
    X(SWAPPED,     "activations on their way") \
    X(HOST_GRADS,  "gradients on the host") \
    X(HOST_ROOM,   "parameters on their way back") \
    X(HOST_OUTS,   "activations on the host") \
    X(ACTIVATIONS, "activations") \
    X(STAGING,     "staging") \
    X(RUNTIME,     "program and libraries")
/* The activations of a block and what its backward pass needs beside them. */
#define DS_BUFFERS(X) \
    X(IDS,       "ids")       X(TARGETS,   "targets")   X(LOSSES,  "losses") \
    X(OUT,       "out")       X(NORM1,     "norm1")     X(STAT1,   "stat1") \
    X(RAW,       "raw")       X(STATH,     "stath") \
    X(QKV,       "qkv")       X(ATTENTION, "attention") X(LSE,     "lse") \
    X(PROJ,      "proj")      X(STATP,     "statp") \
    X(MIDDLE,    "middle")    X(NORM2,     "norm2")     X(STAT2,   "stat2") \
    X(LOW,       "low") \
    X(ROUTES,    "routes")    X(SORTED,    "sorted")    X(MET,     "met") \
    X(FFN_IN,    "ffn_in")    X(FFN_ACT,   "ffn_act") \
    X(DOWN,      "down")      X(STATD,     "statd") \
    X(NORMF,     "normf")     X(STATF,     "statf") \
    X(LOGITS,    "logits")    X(SAID,      "said") \
    X(DSTREAM,   "dstream")   X(DNARROW,   "dnarrow")   X(DWIDE,   "dwide") \
    X(DBESIDE,   "dbeside") \
    X(CODES,     "codes")     X(LARGEST,   "largest") \
    X(ATTENDED,  "attended")  X(ARRIVED,   "arrived") \
    X(ADAPTED,   "adapted")   X(DADAPTED,  "dadapted")  X(UNUSED,  "unused")
/* The runs of a block's forward pass that have activations of their own. */
#define DS_PASSES(X) X(TRAIN, "train") X(RECOMPUTE, "recompute") X(EVAL, "eval")
/* clang-format on */

enum ds_instr_op {
#define X(id) DS_INSTR_##id,
    DS_INSTR_OPS(X)
#undef X
};
enum ds_queue {
#define X(id) DS_QUEUE_##id,
    DS_QUEUES(X)
#undef X
        DS_QUEUE_COUNT
};
enum ds_arena_kind {
#define X(id, name) DS_ARENA_##id,
    DS_ARENAS(X)
#undef X
        DS_ARENA_COUNT
};
enum ds_buffer {
#define X(id, name) DS_BUFFER_##id,
    DS_BUFFERS(X)
#undef X
        DS_BUFFER_COUNT
};
enum ds_pass {
#define X(id, name) DS_PASS_##id,
    DS_PASSES(X)
#undef X
        DS_PASS_COUNT
};

#endif
