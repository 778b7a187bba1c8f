/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job.h - the job file: one key table gives parser, defaults, bounds, help and man page.
 *
 * A job is read from YAML text, then overridden by key=value words, then
 * checked as a whole.  After that every field is final: no "auto" is left that
 * the job alone can decide.  How many steps train.epochs are the data decide:
 * such a job has 0 of them, and no schedule, until ds_job_settle_epochs().
 *
 * Owner   all strings and lists live in job->arena; ds_job_release() frees.
 * Errors  EINVAL with "file:line:column: what is wrong, what would be right".
 * Man     dsrun-job(5), generated from the same table.
 * Tests   tests/job/, tests/fuzz/fuzz_job.c
 */
#ifndef DS_RUNTIME_JOB_H
#define DS_RUNTIME_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/keys.h" /* struct ds_strings, struct ds_rows */
#include "base/limits.h"
#include "kernels/rope.h"

/* The families, and what of each a job must know. */
struct ds_arch_traits {
    const char *name;
    bool experts;    /* a layer has some */
    bool head_norms; /* each head of queries and keys has a norm */
    bool row_norms;  /* all queries of a row have one, and all keys */
    bool part_turn;  /* model.rope_dims may be less than a head */
    bool mixed;      /* some layers see all, with positions of their own */
    bool some_still; /* some layers have no positions */
    bool classic;    /* heads are all alike and together as wide as the stream */
    bool sees_all;   /* its folders cannot say that it has a window */
    bool learned;    /* positions are */
    bool parallel;   /* both halves of a layer may read its input */
    bool scaled;     /* embeddings, scores, what halves of layers add, and logits have factors */
    bool tied;       /* embeddings are the classifier, unless it is said */
    bool one_more;   /* weights of norms lie in folders with 1 less */
};
/* clang-format off */
#define DS_ARCHS(X) \
    X(GPT2,      "gpt2",      .tied = true, .classic = true, .learned = true, .sees_all = true) \
    X(LLAMA,     "llama", ) \
    X(MIXTRAL,   "mixtral",   .experts = true) \
    X(QWEN2,     "qwen2", ) \
    X(QWEN3,     "qwen3",     .head_norms = true) \
    X(QWEN3_MOE, "qwen3_moe", .experts = true, .head_norms = true) \
    X(PHI3,      "phi3",      .part_turn = true) \
    X(OLMO2,     "olmo2",     .row_norms = true, .sees_all = true) \
    X(GEMMA3,    "gemma3",    .head_norms = true, .mixed = true, .tied = true, .one_more = true) \
    X(SMOLLM3,   "smollm3",   .some_still = true, .tied = true) \
    X(GRANITE,   "granite",   .scaled = true, .sees_all = true) \
    X(GPT_NEOX,  "gpt_neox",  .part_turn = true, .classic = true, .parallel = true, .sees_all = true)
/* clang-format on */
enum ds_arch {
#define X(id, text, ...) DS_ARCH_##id,
    DS_ARCHS(X)
#undef X
        DS_ARCH_COUNT
};

static inline const struct ds_arch_traits *ds_arch_traits(enum ds_arch arch)
{
    static const struct ds_arch_traits traits[] = {
#define X(id, text, ...) {.name = (text), __VA_ARGS__},
        DS_ARCHS(X)
#undef X
    };

    return &traits[arch];
}

static inline const char *ds_arch_name(enum ds_arch arch)
{
    return ds_arch_traits(arch)->name;
}

static inline bool ds_arch_has_experts(enum ds_arch arch)
{
    return ds_arch_traits(arch)->experts;
}

static inline bool ds_arch_norms_heads(enum ds_arch arch)
{
    return ds_arch_traits(arch)->head_norms;
}

static inline bool ds_arch_norms_rows(enum ds_arch arch)
{
    return ds_arch_traits(arch)->row_norms;
}

enum ds_data_format { DS_DATA_AUTO, DS_DATA_TEXT, DS_DATA_TOKENS, DS_DATA_SAMPLES };
enum ds_documents { DS_DOCUMENTS_TOGETHER, DS_DOCUMENTS_APART };
enum ds_data_order { DS_ORDER_AUTO, DS_ORDER_SHUFFLE, DS_ORDER_SEQUENTIAL };
enum ds_schedule_kind {
    DS_SCHEDULE_CONSTANT,
    DS_SCHEDULE_LINEAR,
    DS_SCHEDULE_COSINE,
    DS_SCHEDULE_WSD,
    DS_SCHEDULE_ONE_CYCLE,
    DS_SCHEDULE_WARMUP_LR,
    DS_SCHEDULE_WARMUP_DECAY_LR,
    DS_SCHEDULE_POLYNOMIAL,
    DS_SCHEDULE_INVERSE_SQRT
};
enum ds_warmup { DS_WARMUP_LINEAR, DS_WARMUP_LOG };
enum ds_anneal { DS_ANNEAL_COSINE, DS_ANNEAL_LINEAR };
enum ds_optim_kind {
    DS_OPTIM_ADAMW,
    DS_OPTIM_ADAM,
    DS_OPTIM_SGD,
    DS_OPTIM_LION,
    DS_OPTIM_ADAGRAD,
    DS_OPTIM_LAMB,
    DS_OPTIM_MUON
};
/* sqrt(max(1, outputs / inputs)); 0.2 sqrt(max(outputs, inputs)), AdamW's size of an update */
enum ds_muon_scale { DS_MUON_SCALE_SHAPE, DS_MUON_SCALE_ADAMW };
enum ds_compute { DS_COMPUTE_FP32, DS_COMPUTE_BF16, DS_COMPUTE_FP16 };
enum ds_matmul { DS_MATMUL_COMPUTE, DS_MATMUL_FP8 };
enum ds_grad_wire { DS_GRAD_WIRE_FP32, DS_GRAD_WIRE_BF16 };
enum { DS_MAX_PREFETCH = 4 };
enum ds_recompute {
    DS_RECOMPUTE_NONE,
    DS_RECOMPUTE_SELECTIVE,
    DS_RECOMPUTE_FULL,
    DS_RECOMPUTE_AUTO /* ds_plan_settle() turns it into one of the others */
};
enum ds_trace { DS_TRACE_NONE, DS_TRACE_STEP, DS_TRACE_KERNELS };
enum ds_shard_group { DS_SHARD_ALL, DS_SHARD_NODE };
enum ds_offload { DS_OFFLOAD_NONE, DS_OFFLOAD_CPU, DS_OFFLOAD_NVME };
enum ds_guard { DS_GUARD_SKIP, DS_GUARD_ABORT };
enum ds_device_kind { DS_DEVICE_AUTO, DS_DEVICE_CPU, DS_DEVICE_CUDA };
enum ds_sink { /* or'ed */
               DS_SINK_CONSOLE = 1,
               DS_SINK_JSONL = 2,
               DS_SINK_CSV = 4,
               DS_SINK_TENSORBOARD = 8
};

/* What adapters of low rank are for: a layer's matrices, gpt2's packed ones as their first. */
enum ds_adapted {
    DS_ADAPTED_QKV,
    DS_ADAPTED_K,
    DS_ADAPTED_V,
    DS_ADAPTED_PROJ,
    DS_ADAPTED_FC,
    DS_ADAPTED_UP,
    DS_ADAPTED_DOWN,
    DS_ADAPTED_COUNT
};

/* y = W x + alpha / rank * B A x in the place of y = W x (Hu et al. 2021: "LoRA"), A [rank, in], B
 * [out, rank], for the matrices of `targets` (1 << enum ds_adapted).  rank 0: there are none.  Of a
 * large rank alpha / sqrt(rank) keeps what is added alike (Kalajdzievski 2023: "rsLoRA"). */
struct ds_lora {
    uint64_t rank;
    double alpha;
    double dropout; /* share of x's elements that adapters do not see in training */
    bool by_root;   /* alpha / sqrt(rank) */
    unsigned targets;
};

/* The model's shape, whichever of job file and config.json it came from.  Plain data. */
struct ds_model_shape {
    enum ds_arch arch;
    uint64_t layers, hidden, heads, kv_heads, head_size, ffn, vocab, context;
    uint64_t window;     /* tokens that one sees, itself included; 0: all before it */
    uint64_t full_every; /* layers of which one sees all, the last; 0: window is of all layers */
    uint64_t experts, experts_each; /* of a layer, of a token; 0: one feed-forward block for all */
    bool tie_embeddings;
    bool parallel_residual; /* the feed-forward block reads the layer's input, as attention does */
    double norm_eps, rope_theta;
    uint64_t rope_dims; /* elements of a head that are turned, the first; 0: all */
    struct ds_rope_scale rope_scale;
    struct ds_numbers rope_short, rope_long; /* LONGROPE: of each pair; of rope_scale.original
                                                positions at most, and of more */
    uint64_t nope_every; /* layers of which one turns nothing, the last; 0: all turn */
    double local_theta;  /* with full_every: of the other layers, which stretch nothing */
    double query_scalar; /* attention is scaled by its root; 0: by the head size's */
    double embed_scale, residual_scale; /* factors of embeddings and of what halves of layers add */
    double attention_scale; /* of scores; 0: one over the root of query_scalar or the head size */
    double logits_scale;    /* what logits are divided by; 0 of these: there is none */
    double balance;         /* weight of the loss that asks for an even use of experts */
    struct ds_lora lora;
};

/* Tensors that the optimizer treats their own way; a row of job->optim.groups. */
struct ds_optim_group {
    const char *match; /* glob on the tensor's name */
    double lr_mult;
    double weight_decay; /* NaN: as without the group */
};

/* Files that are read as one; a row of job->data.train and data.valid, which mix their rows. */
struct ds_data_set {
    struct ds_strings path; /* paths or globs, as written */
    double weight;          /* share of the sequences, beside the other rows */
    const char *name;       /* of data.valid: rows of one name are a mixture; or NULL */
};

struct ds_job_source; /* where each key was given, for messages; in the arena */

struct ds_job {
    struct ds_arena arena;
    const struct ds_job_source *source;
    const char *name;
    uint64_t seed;
    const char *run_dir;
    struct {
        struct ds_model_shape shape; /* from the job, or from config.json of init_from */
        double init_std;
        const char *init_from; /* Hugging Face folder, or NULL: random */
        double dropout;        /* rate of the embedding and of both products added to the stream */
        double attention_dropout; /* of the weights after the softmax */
    } model;
    struct {
        struct ds_rows train, valid; /* of struct ds_data_set */
        enum ds_data_format format;
        enum ds_data_order order;
        const char *tokenizer; /* "bytes" */
        enum ds_documents documents;
        uint64_t separator; /* APART: the id that ends a document */
    } data;
    struct {
        uint64_t steps; /* 0: not known yet, by epochs */
        double epochs;  /* 0: by steps */
        uint64_t global_batch, micro_batch, sequence;
        struct ds_strings freeze; /* globs on names of tensors that stay as they are */
    } train;
    struct {
        uint64_t rank; /* 0: there are no adapters; model.shape.lora is what all of it comes to */
        double alpha, dropout;
        bool rslora;
        struct ds_strings targets; /* modules with adapters, as written; none: all */
        struct ds_strings whole;   /* globs on names of tensors that are trained beside them */
    } lora;
    struct {
        enum ds_optim_kind kind;
        double lr, beta1, beta2, eps, weight_decay, clip, momentum;
        bool nesterov;
        enum ds_muon_scale muon_scale;
        double adamw_lr;       /* muon: of what is no matrix of a layer */
        struct ds_rows groups; /* of struct ds_optim_group; the first that matches counts */
    } optim;
    struct {
        enum ds_schedule_kind kind;
        enum ds_warmup warmup_kind;
        enum ds_anneal anneal; /* one_cycle */
        uint64_t warmup, steps;
        uint64_t decay;          /* wsd: the last steps, linear from lr to min_lr */
        double power;            /* polynomial */
        uint64_t timescale;      /* inverse_sqrt: updates after which lr is divided by sqrt(2) */
        double start_lr, min_lr; /* where the warm-up starts, where the decay ends */
    } schedule;
    struct {
        enum ds_compute compute;
        enum ds_matmul matmul;       /* of products inside layers */
        enum ds_grad_wire grad_wire; /* type in which gradients are summed over ranks */
        uint64_t loss_scale;         /* 0: by the scaler; fp16 only */
        struct {
            uint64_t init_power, window, hysteresis, min;
        } scaler;
    } precision;
    struct {
        uint64_t data;     /* 0: auto, all ranks, or sets of them that share sequences */
        uint64_t sequence; /* ranks that share each sequence */
        uint64_t pipeline; /* parts of the line of layers, each with ranks of its own */
        uint64_t tensor;   /* ranks that share each layer */
        uint64_t expert;   /* ranks that divide the experts of each layer */
    } parallel;
    struct {
        uint64_t stage;           /* 0 to 3 */
        uint64_t bucket_mb;       /* 0: auto */
        uint64_t replicate_below; /* elements; 0: nothing is */
        uint64_t prefetch;        /* buckets gathered ahead at stage 3; 0: auto */
        enum ds_shard_group shard_group;
        bool once_per_host;
    } zero;
    struct {
        enum ds_offload optim, params; /* params: never NVME */
        const char *path; /* folder of every host for the states of its ranks, or NULL */
    } offload;
    struct {
        enum ds_recompute recompute;
        uint64_t layers;         /* that recompute, from the first; 0: all */
        enum ds_offload offload; /* of their inputs; never NVME */
    } activation;
    struct {
        uint64_t every, keep, keep_every;
        bool async;         /* written behind the steps */
        const char *resume; /* "auto", "never", or a path to a checkpoint or run directory */
    } checkpoint;
    struct {
        uint64_t every, batches;
    } eval;
    struct {
        uint64_t every;
        bool comm;      /* tell what collectives send */
        unsigned sinks; /* enum ds_sink */
        enum ds_trace trace;
    } log;
    struct {
        enum ds_guard nonfinite;
        uint64_t max_skips;
    } guard;
    struct {
        enum ds_device_kind device;
        uint64_t slots, threads; /* 0: auto */
        uint64_t restarts;
        unsigned restart_on;    /* enum ds_cause, or'ed */
        double restart_backoff; /* seconds */
        double heartbeat, hang; /* seconds; 0: off */
        const char *interface;  /* "auto", or what runtime/comm/address.h takes */
        struct ds_strings env;  /* "NAME=VALUE" */
    } launch;
};

void ds_job_init(struct ds_job *job);
void ds_job_release(struct ds_job *job);

/* Parse job text; `name` is what error positions show (the path).  Then apply `overrides`
 * ("train.steps=10"; their errors say "override 'train.steps=10'").  Checks every key by itself
 * and the job as a whole, except what needs data files or the number of ranks; the only files read
 * are config.json of model.init.from and, where model.vocab follows from it, data.tokenizer. */
int ds_job_parse(struct ds_job *job, const char *name, const void *text, size_t len,
                 const char *const *overrides, size_t n_overrides, struct ds_error *err)
    DS_NODISCARD;

/* Complete a job without steps: the data have `sequences` of them in an epoch.  -EINVAL, at the key
 * that should change: the schedule does not fit, or there are too many steps. */
int ds_job_settle_epochs(struct ds_job *job, uint64_t sequences, struct ds_error *err) DS_NODISCARD;

/* Read `path` (at most DS_MAX_YAML_BYTES) and parse it. */
int ds_job_load(struct ds_job *job, const char *path, const char *const *overrides,
                size_t n_overrides, struct ds_error *err) DS_NODISCARD;

/* What depends on the number of ranks: global_batch divisible by ranks x micro_batch (the message
 * lists values that would do). */
int ds_job_check_world(const struct ds_job *job, unsigned world, struct ds_error *err) DS_NODISCARD;

/* The resolved job, whose steps are known, as YAML text that ds_job_parse() reads back to an equal
 * job. */
int ds_job_write(const struct ds_job *job, struct ds_buf *out, struct ds_error *err) DS_NODISCARD;
/* The same for a person, who may give it other keys: what in optim and schedule was not given and
 * follows from others is a comment, and follows from these again. */
int ds_job_record(const struct ds_job *job, struct ds_buf *out, struct ds_error *err) DS_NODISCARD;

/* The rows of data.valid, from `*at` on, that are one mixture, as *rows; `*at`, which starts at 0,
 * moves behind them.  False: there is none left. */
bool ds_job_next_valid(const struct ds_job *job, size_t *at, struct ds_rows *rows);

/* 64-bit digest of everything that decides the bits of a run (not run_dir, train.steps, log, launch
 * ...); 0 when memory ran out. */
uint64_t ds_job_digest(const struct ds_job *job);

/* Model shape from a Hugging Face config.json in `dir` (runtime/ckpt/hf.c); used by the loader of
 * jobs with model.init.from. -ENOENT, -EBADMSG, -ENOTSUP with the key that is not supported. */
int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
    DS_NODISCARD;

#endif
