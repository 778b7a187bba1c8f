/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ckpt.h - checkpoints: a folder per step, safetensors parts and a manifest.
 *
 *   checkpoints/step-00000100/manifest.json
 *                             weights-00001-of-00002.safetensors  Hugging Face names, F32 master
 *                             optim-00001-of-00002.safetensors    STATE.<name>, as exp_avg.<name>
 *   checkpoints/latest -> step-00000100
 *
 * The manifest maps ranges of global tensors, in row-major order, to ranges of files, with an
 * XXH3-64 of every block of them.  Whatever ranges a rank holds, it finds in whatever ranges were
 * saved: stage, world, shard groups and division of columns of the run that saved and of the run
 * that loads do not matter to each other.  A part holds a whole tensor under its name, a piece as
 * "name[first:end]"; some columns of it as "name[:,0:256,768:1024]", a matrix of these, and a piece
 * of those as "name[:,0:256,768:1024][first:end]", by the elements of that matrix.
 *
 * A save builds the folder under a temporary name beside its final one; parts are written and
 * fsynced, then the manifest (write, fsync, rename), then the folder is renamed and `latest`
 * swapped.  A crash at any point leaves the previous checkpoint whole.
 *
 * Errors  EBADMSG damaged: the text names the file and the tensor; ENOENT; ENOSPC; EINVAL the
 *         checkpoint does not fit the model (tensor missing, other shape).
 * Tests   tests/ckpt/, tests/fuzz/fuzz_safetensors.c
 */
#ifndef DS_RUNTIME_CKPT_H
#define DS_RUNTIME_CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "kernels/dtype.h"
#include "runtime/job.h"

/* Where data is that is not in memory: bytes from `at` on. */
struct ds_ckpt_line {
    int (*read)(void *user, uint64_t at, void *to, size_t bytes, struct ds_error *err);
    int (*write)(void *user, uint64_t at, const void *from, size_t bytes, struct ds_error *err);
    void *user;
};

/* Some columns of a tensor: of each row (its last dimension; a tensor of one dimension is one row)
 * these runs, in rising order, disjoint, none empty; runs that touch are as good as one.  The
 * elements of a view are those of the matrix that its columns make, row after row: in each row the
 * runs one behind the other. */
enum { DS_CKPT_MAX_RUNS = 4 };
struct ds_ckpt_view {
    unsigned runs; /* 0: all columns */
    struct {
        uint64_t first, count;
    } run[DS_CKPT_MAX_RUNS];
};

/* A range of a tensor, or of a view of it, as a rank holds it.  Borrowed memory; data may be any of
 * the arenas.
 *
 * The same range of the same tensor may lie on several ranks (replicated parameters, the groups of
 * `zero.shard_group`): each of these says how many they are and which of them it is, and a save
 * has each write an equal part.  Ranges of one (group, replica, replicas) must be the same ranges,
 * in the same order, on all ranks that share them: where one rank shares these with some ranks and
 * those with as many others, they are of two groups.  A rank may hold several ranges of a tensor;
 * all ranks divide its columns in the same way. */
struct ds_ckpt_tensor {
    char name[DS_MAX_TENSOR_NAME + 1];
    enum ds_dtype dtype; /* F32 for everything saved in this version */
    unsigned ndim;
    uint64_t shape[DS_MAX_TENSOR_DIMS]; /* of the whole tensor */
    struct ds_ckpt_view view;           /* zeroed: the whole tensor */
    uint64_t first, count; /* elements of it held, row-major; count 0: none, not read or saved */
    unsigned replica, replicas;      /* replicas 0: all ranks of the save, replica is the rank */
    unsigned group;                  /* any number, the same on all that share it */
    bool copy;                       /* of a range that another rank saves: it is only read */
    void *data;                      /* of element `first` */
    const struct ds_ckpt_line *line; /* or there, `data` NULL: at byte `line_at` */
    uint64_t line_at;
};

/* A named number of the run's state: a loss scale, a counter.  Finite. */
enum { DS_CKPT_SCALAR_NAME = 31, DS_CKPT_MAX_SCALARS = 16 };
struct ds_ckpt_scalar {
    char name[DS_CKPT_SCALAR_NAME + 1];
    double value;
};

/* Whose tensors a checkpoint leaves out, as it was made on them: the folder of Hugging Face, and a
 * number that others hardly have.  path "": it has all tensors. */
struct ds_ckpt_base {
    char path[DS_MAX_PATH]; /* absolute */
    uint64_t digest;        /* ds_hf_digest() */
    uint64_t frozen;        /* which tensors are: a number that other choices hardly have */
};

/* What a run must know to go on; small, human-readable, in the manifest. */
struct ds_ckpt_state {
    uint64_t step;    /* updates made */
    uint64_t samples; /* sequences consumed: the next position of the data order */
    uint64_t tokens;
    uint64_t skipped; /* updates skipped by the guard so far */
    uint64_t seed;
    uint64_t job_digest;
    struct ds_model_shape shape;
    struct ds_ckpt_base base;
    struct ds_ckpt_scalar scalar[DS_CKPT_MAX_SCALARS];
    unsigned scalars;
    /* Of the run that saved (a save fills in the world); information only. */
    unsigned world, stage, shard_ranks; /* shard_ranks 0: not sharded */
    unsigned tensor_ranks, sequence_ranks, pipeline_ranks, expert_ranks; /* 0: not known */
};

/* The scalar of that name, or `otherwise` where the checkpoint has none. */
double ds_ckpt_scalar(const struct ds_ckpt_state *state, const char *name, double otherwise);
/* Set or add one.  EINVAL: not finite, a bad name, or one too many. */
int ds_ckpt_set_scalar(struct ds_ckpt_state *state, const char *name, double value,
                       struct ds_error *err) DS_NODISCARD;

/* Collective: every rank gives the ranges that it holds and writes its part of them, so that every
 * byte of the whole is written once (a hole or an overlap is EINVAL, and no checkpoint); rank 0
 * commits.  `barrier` (NULL: one rank) is called three times, by a rank
 * that has failed too, and not again once it has failed itself; `before_commit` (may be NULL) on
 * rank 0 just before the folder gets its final name; either may fail and ends the save.  Whether
 * there is a checkpoint is what rank 0 returns; the others return what they met themselves.
 * Then keeps the newest `keep` whole checkpoints up to this step (0: all) and removes older ones,
 * but those whose step is a multiple of `keep_every` (0: none is), and never the one just made. */
struct ds_ckpt_save_args {
    const char *run_dir;
    struct ds_ckpt_state state;
    const struct ds_ckpt_tensor *weights, *moments; /* moments: all states of the optimizer */
    size_t n_weights, n_moments;
    unsigned rank, world;
    uint64_t keep, keep_every;
    uint64_t block_bytes; /* under one checksum: a multiple of 8; 0: DS_CKPT_BLOCK_BYTES */
    int (*barrier)(void *user, struct ds_error *err);
    int (*before_commit)(void *user, struct ds_error *err);
    void *user;
};
enum { DS_CKPT_BLOCK_BYTES = 256 * 1024, DS_CKPT_MAX_BLOCK_BYTES = 64 * 1024 * 1024 };
int ds_ckpt_save(const struct ds_ckpt_save_args *args, struct ds_error *err) DS_NODISCARD;

/* Fill the data of every range given from the checkpoint folder `path`, whatever ranges and columns
 * it was saved in, checking every block read against its checksum.  What is not asked for is not
 * read, but for the rest of a range's first and last block, and for the columns between those that
 * are asked for where others were saved.  n_moments 0: weights only.  At step 0 the
 * moments may be missing: they are zero then.  The data may be changed on failure. */
int ds_ckpt_load(const char *path, struct ds_ckpt_state *state, struct ds_ckpt_tensor *weights,
                 size_t n_weights, struct ds_ckpt_tensor *moments, size_t n_moments,
                 struct ds_error *err) DS_NODISCARD;

/* Elements first .. first + count of a parameter of the model without adapters, to `data`. */
struct ds_ckpt_part {
    size_t param; /* ds_model_param() of ds_model_base() of the checkpoint's shape */
    uint64_t first, count;
    float *data;
};
/* The weights of a checkpoint as a model by itself: what it leaves out from the folder that it was
 * made on, with what adapters add.  -EINVAL: that folder has other weights now. */
struct ds_ckpt_model;
int ds_ckpt_model_open(struct ds_ckpt_model **model, const char *path, struct ds_error *err)
    DS_NODISCARD;
void ds_ckpt_model_close(struct ds_ckpt_model *model); /* NULL is fine */
int ds_ckpt_model_read(struct ds_ckpt_model *model, const struct ds_ckpt_part *parts, size_t count,
                       struct ds_error *err) DS_NODISCARD;

/* Read the manifest alone (sizes of files checked, bytes not). */
int ds_ckpt_peek(const char *path, struct ds_ckpt_state *state, struct ds_error *err) DS_NODISCARD;

/* Read every byte, compare every checksum. */
int ds_ckpt_verify(const char *path, struct ds_error *err) DS_NODISCARD;

/* Folders of `run_dir`/checkpoints, newest step first; names like "step-00000100". */
struct ds_ckpt_entry {
    uint64_t step;
    char name[32];
};
struct ds_ckpt_list {
    size_t count;
    struct ds_ckpt_entry *entry;
};
int ds_ckpt_list(const char *run_dir, struct ds_ckpt_list *list, struct ds_error *err) DS_NODISCARD;
/* The same without those that are newer than what `latest` leads to: a run that began anew in the
 * folder, or went back to an older one, has left them behind. */
int ds_ckpt_list_line(const char *run_dir, struct ds_ckpt_list *list, struct ds_error *err)
    DS_NODISCARD;
void ds_ckpt_list_release(struct ds_ckpt_list *list);

/* CKPT of the command line: a checkpoint's folder as it is, or a run directory's latest (its newest
 * when there is no such link).  out[DS_MAX_PATH].  -ENOENT when there is neither. */
int ds_ckpt_resolve(const char *path, char *out, struct ds_error *err) DS_NODISCARD;

/* Initial weights from a Hugging Face folder (model.safetensors, or shards with an index; F32, BF16
 * and F16 are widened to F32).  Names with or without the "transformer." prefix; buffers such as
 * attn.bias and a tied lm_head.weight are ignored; anything else missing or extra is an error.
 * Ranges and views as for ds_ckpt_load(), in memory.  `shape` has no adapters. */
struct ds_hf_folder;
int ds_hf_open(struct ds_hf_folder **folder, const char *dir, const struct ds_model_shape *shape,
               struct ds_error *err) DS_NODISCARD;
void ds_hf_close(struct ds_hf_folder *folder); /* NULL is fine */
int ds_hf_read(const struct ds_hf_folder *folder, const struct ds_ckpt_tensor *weights,
               size_t n_weights, struct ds_error *err) DS_NODISCARD;
/* What tells the weights of a folder from others without reading all: of the names, types and
 * shapes of all tensors, and of samples of their bytes, from the first to the last. */
int ds_hf_digest(const struct ds_hf_folder *folder, uint64_t *digest, struct ds_error *err)
    DS_NODISCARD;

/* Ids with a meaning of their own, as the model's tokenizer has them; below 0: there is none. */
struct ds_hf_tokens {
    int64_t begin, end, pad; /* of a text, of a text, behind the shorter texts of a batch */
};

/* Checkpoint to Hugging Face folder and back; `dtype` F32 or BF16.  The folder written to (`ckpt`
 * of an import is the checkpoint's own) is made, or is there and empty (else
 * -EEXIST); a failure leaves it so.  `tokens` (NULL: none) go into config.json, and into
 * generation_config.json where one is within the vocabulary.  Adapters are added to their matrices;
 * what the checkpoint leaves out comes from `base`, NULL: from where it says. */
int ds_hf_export(const char *ckpt, const char *out_dir, enum ds_dtype dtype,
                 const struct ds_hf_tokens *tokens, const char *base, struct ds_error *err)
    DS_NODISCARD;
/* The adapters alone, as a folder of PEFT: adapter_config.json and adapter_model.safetensors.
 * -EINVAL: it has none. */
int ds_hf_export_adapters(const char *ckpt, const char *out_dir, enum ds_dtype dtype,
                          struct ds_error *err) DS_NODISCARD;
int ds_hf_import(const char *hf_dir, const char *ckpt, struct ds_error *err) DS_NODISCARD;

#endif
