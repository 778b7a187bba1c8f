/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_table.c - every key of the job file, once; the contract is in job_table.h.
 */
#include "runtime/job_table.h"

#include <stddef.h>

#include "base/causes.h"

/* --- choices --------------------------------------------------------------------------------- */

/* clang-format off */
static const struct ds_choice archs[] = {
#define X(id, text, ...) {text, DS_ARCH_##id},
    DS_ARCHS(X)
#undef X
    {NULL, 0}};
static const struct ds_choice ropes[] = {
#define X(id, name) {name, DS_ROPE_##id},
    DS_ROPES(X)
#undef X
    {NULL, 0}};
static const struct ds_choice formats[] = {
    {"auto", DS_DATA_AUTO}, {"text", DS_DATA_TEXT}, {"tokens", DS_DATA_TOKENS},
    {"samples", DS_DATA_SAMPLES}, {NULL, 0}};
static const struct ds_choice documents[] = {
    {"together", DS_DOCUMENTS_TOGETHER}, {"apart", DS_DOCUMENTS_APART},
    {NULL, 0}};
static const struct ds_choice orders[] = {
    {"auto", DS_ORDER_AUTO}, {"shuffle", DS_ORDER_SHUFFLE},
    {"sequential", DS_ORDER_SEQUENTIAL},
    {NULL, 0}};
static const struct ds_choice optims[] = {
    {"adamw", DS_OPTIM_ADAMW}, {"adam", DS_OPTIM_ADAM}, {"sgd", DS_OPTIM_SGD},
    {"lion", DS_OPTIM_LION}, {"adagrad", DS_OPTIM_ADAGRAD},
    {"lamb", DS_OPTIM_LAMB}, {"muon", DS_OPTIM_MUON}, {NULL, 0}};
static const struct ds_choice muon_scales[] = {
    {"shape", DS_MUON_SCALE_SHAPE}, {"adamw", DS_MUON_SCALE_ADAMW}, {NULL, 0}};
static const struct ds_choice schedules[] = {
    {"constant", DS_SCHEDULE_CONSTANT}, {"linear", DS_SCHEDULE_LINEAR},
    {"cosine", DS_SCHEDULE_COSINE}, {"wsd", DS_SCHEDULE_WSD},
    {"one_cycle", DS_SCHEDULE_ONE_CYCLE}, {"warmup_lr", DS_SCHEDULE_WARMUP_LR},
    {"warmup_decay_lr", DS_SCHEDULE_WARMUP_DECAY_LR},
    {"polynomial", DS_SCHEDULE_POLYNOMIAL},
    {"inverse_sqrt", DS_SCHEDULE_INVERSE_SQRT}, {NULL, 0}};
static const struct ds_choice warmups[] = {
    {"linear", DS_WARMUP_LINEAR}, {"log", DS_WARMUP_LOG}, {NULL, 0}};
static const struct ds_choice anneals[] = {
    {"cosine", DS_ANNEAL_COSINE}, {"linear", DS_ANNEAL_LINEAR}, {NULL, 0}};
static const struct ds_choice computes[] = {
    {"fp32", DS_COMPUTE_FP32}, {"bf16", DS_COMPUTE_BF16}, {"fp16", DS_COMPUTE_FP16},
    {NULL, 0}};
static const struct ds_choice matmuls[] = {
    {"compute", DS_MATMUL_COMPUTE}, {"fp8", DS_MATMUL_FP8}, {NULL, 0}};
static const struct ds_choice grad_wires[] = {
    {"fp32", DS_GRAD_WIRE_FP32}, {"bf16", DS_GRAD_WIRE_BF16}, {NULL, 0}};
static const struct ds_choice shard_groups[] = {
    {"all", DS_SHARD_ALL}, {"node", DS_SHARD_NODE}, {NULL, 0}};
static const struct ds_choice offloads[] = {
    {"none", DS_OFFLOAD_NONE}, {"cpu", DS_OFFLOAD_CPU}, {"nvme", DS_OFFLOAD_NVME},
    {NULL, 0}};
static const struct ds_choice offloads_to_host[] = {
    {"none", DS_OFFLOAD_NONE}, {"cpu", DS_OFFLOAD_CPU}, {NULL, 0}};
static const struct ds_choice recomputes[] = {
    {"none", DS_RECOMPUTE_NONE}, {"selective", DS_RECOMPUTE_SELECTIVE},
    {"full", DS_RECOMPUTE_FULL}, {"auto", DS_RECOMPUTE_AUTO}, {NULL, 0}};
static const struct ds_choice traces[] = {
    {"none", DS_TRACE_NONE}, {"step", DS_TRACE_STEP},
    {"kernels", DS_TRACE_KERNELS}, {NULL, 0}};
static const struct ds_choice sinks[] = {
    {"console", DS_SINK_CONSOLE}, {"jsonl", DS_SINK_JSONL},
    {"csv", DS_SINK_CSV}, {"tensorboard", DS_SINK_TENSORBOARD}, {NULL, 0}};
static const struct ds_choice causes[] = {
#define X(id, bit, name) {name, DS_CAUSE_##id},
    DS_CAUSES(X)
#undef X
    {NULL, 0}};
static const struct ds_choice guards[] = {
    {"skip", DS_GUARD_SKIP}, {"abort", DS_GUARD_ABORT}, {NULL, 0}};
static const struct ds_choice devices[] = {
    {"auto", DS_DEVICE_AUTO}, {"cpu", DS_DEVICE_CPU}, {"cuda", DS_DEVICE_CUDA},
    {NULL, 0}};

/* --- rows ------------------------------------------------------------------------------------ */

/* Offset of a field, whose address must have this type. */
#define FIELD(type, f)                                                                             \
    (offsetof(struct ds_job, f) +                                                                  \
     0 * sizeof(char[_Generic(&((struct ds_job *)0)->f, type: 1)]))

#define BOOL(path, f, flags, def, help) \
    {path, DS_KEY_BOOL, flags, FIELD(bool *, f), def, 0, 0, NULL, help, NULL}
#define NUMBERS(path, f, flags, def, min, max, help) \
    {path, DS_KEY_NUMBERS, flags, FIELD(struct ds_numbers *, f), def, min, max, NULL, help, NULL}
#define U64(path, f, flags, def, min, max, help) \
    {path, DS_KEY_U64, flags, FIELD(uint64_t *, f), def, min, max, NULL, help, NULL}
#define F64(path, f, flags, def, min, max, help) \
    {path, DS_KEY_F64, flags, FIELD(double *, f), def, min, max, NULL, help, NULL}
#define TEXT(path, f, flags, def, max, help) \
    {path, DS_KEY_TEXT, flags, FIELD(const char **, f), def, 0, max, NULL, help, NULL}
#define ENUM(path, f, flags, def, choices, help) \
    {path, DS_KEY_ENUM, flags, FIELD(unsigned *, f), def, 0, 0, choices, help, NULL}
#define SET(path, f, flags, def, choices, help) \
    {path, DS_KEY_SET, flags, FIELD(unsigned *, f), def, 0, 0, choices, help, NULL}
#define PAIR(path, f, flags, def, min, max, help) \
    {path, DS_KEY_PAIR, flags, FIELD(double *, f), def, min, max, NULL, help, NULL}
#define LIST(path, f, flags, def, max, help) \
    {path, DS_KEY_LIST, flags, FIELD(struct ds_strings *, f), def, 0, max, NULL, help, NULL}
#define ENV(path, f, flags, def, help) \
    {path, DS_KEY_ENV, flags, FIELD(struct ds_strings *, f), def, 0, 0, NULL, help, NULL}
#define ROWS(path, f, flags, def, max, rows, help) \
    {path, DS_KEY_ROWS, flags, FIELD(struct ds_rows *, f), def, 0, max, NULL, help, rows}

_Static_assert(offsetof(struct ds_job, optim.beta2) ==
               offsetof(struct ds_job, optim.beta1) + sizeof(double), "betas are a pair");

enum {
    MUST = DS_KEY_REQUIRED,
    FROM = DS_KEY_DERIVED, /* the default follows from other keys */
    RULE = FROM | DS_KEY_BY_RULE,
    AUTO = DS_KEY_AUTO,
    SHORT = DS_KEY_SHORT,
    BITS = DS_KEY_DIGEST   /* decides the bits of a run */
};

#define MAX_EXACT 9007199254740992.0 /* 2^53: every whole number up to here is a double */
#define MAX_PATH_TEXT (DS_MAX_PATH - 1)
#define OF_CONFIG "required, unless model.init.from has it"

#define IN_GROUP(type, f) \
    (offsetof(struct ds_optim_group, f) + \
     0 * sizeof(char[_Generic(&((struct ds_optim_group *)0)->f, type: 1)]))

static const struct ds_key group_keys[] = {
    {"match", DS_KEY_TEXT, MUST, IN_GROUP(const char **, match), NULL, 0, DS_MAX_TENSOR_NAME, NULL,
     "glob on the names of tensors, as in a checkpoint: *, ? and [...]", NULL},
    {"lr_mult", DS_KEY_F64, 0, IN_GROUP(double *, lr_mult), "1", 0, 1000, NULL,
     "factor of the learning rate", NULL},
    {"weight_decay", DS_KEY_F64, FROM, IN_GROUP(double *, weight_decay), "optim.weight_decay", 0, 10,
     NULL, "weight decay of these tensors, whatever their dimensions", NULL},
};
static const struct ds_key_rows group_rows = {
    group_keys, sizeof(group_keys) / sizeof(group_keys[0]), sizeof(struct ds_optim_group)};

#define IN_SET(type, f) \
    (offsetof(struct ds_data_set, f) + \
     0 * sizeof(char[_Generic(&((struct ds_data_set *)0)->f, type: 1)]))

static const struct ds_key set_keys[] = {
    {"path", DS_KEY_LIST, MUST, IN_SET(struct ds_strings *, path), NULL, 0, MAX_PATH_TEXT, NULL,
     "a path, a glob, or a list of them", NULL},
    {"weight", DS_KEY_F64, 0, IN_SET(double *, weight), "1", 1e-6, 1e6, NULL,
     "share of the sequences, beside the weights of the other data sets", NULL},
    {"name", DS_KEY_TEXT, 0, IN_SET(const char **, name), NULL, 0, DS_MAX_NAME, NULL,
     "of what is evaluated apart from the rest: letters, digits, '.', '_' and '-'; maps of one name "
     "are a mixture", NULL},
};
enum { SET_KEYS = sizeof(set_keys) / sizeof(set_keys[0]) };
static const struct ds_key_rows set_rows = {set_keys, SET_KEYS - 1, sizeof(struct ds_data_set)};
static const struct ds_key_rows valid_rows = {set_keys, SET_KEYS, sizeof(struct ds_data_set)};

static const struct ds_key job_keys[] = {
    TEXT("name", name, MUST, NULL, DS_MAX_NAME,
         "name of the run: letters, digits, '.', '_' and '-', not starting with '.'"),
    U64("seed", seed, BITS, "1", 0, MAX_EXACT, "seed of the weights and of the data order"),
    TEXT("run_dir", run_dir, FROM, "runs/<name>", MAX_PATH_TEXT,
         "where metrics, logs and checkpoints go"),

    ENUM("model.arch", model.shape.arch, FROM | BITS, OF_CONFIG, archs, "family of the model"),
    U64("model.layers", model.shape.layers, FROM | BITS, OF_CONFIG, 1, DS_MAX_LAYERS,
        "transformer layers"),
    U64("model.hidden", model.shape.hidden, FROM | BITS, OF_CONFIG, 1, DS_MAX_HIDDEN,
        "width of the residual stream; a multiple of model.heads, unless model.head_size says more"),
    U64("model.heads", model.shape.heads, FROM | BITS, OF_CONFIG, 1, DS_MAX_HEADS,
        "attention heads"),
    U64("model.kv_heads", model.shape.kv_heads, FROM | BITS, "model.heads", 1, DS_MAX_HEADS,
        "heads of keys and values; a divisor of model.heads; not for gpt2 and gpt_neox"),
    U64("model.head_size", model.shape.head_size, FROM | BITS, "model.hidden / model.heads", 1,
        DS_MAX_HIDDEN, "width of a head; another one than that not for gpt2 and gpt_neox"),
    U64("model.ffn", model.shape.ffn, FROM | BITS, "4 x model.hidden; required but for gpt2 and gpt_neox", 1,
        DS_MAX_FFN, "width inside the feed-forward block, of each expert"),
    U64("model.experts", model.shape.experts, FROM | BITS, "with experts: 8, else 0", 0, DS_MAX_EXPERTS,
        "experts of a layer; of mixtral and qwen3_moe"),
    U64("model.experts_per_token", model.shape.experts_each, FROM | BITS, "with experts: 2, else 0", 0,
        DS_MAX_EXPERTS_EACH, "experts that each token is given to"),
    F64("model.expert_balance", model.shape.balance, FROM | BITS, "with experts: 0.01, else 0", 0, 10,
        "weight of the loss that asks for an even use of the experts, of each sequence"),
    U64("model.vocab", model.shape.vocab, FROM | BITS, "256, the tokenizer's", 1, DS_MAX_VOCAB,
        "number of token ids; at least 256 for text"),
    U64("model.context", model.shape.context, FROM | BITS, OF_CONFIG, 1, DS_MAX_CONTEXT,
        "longest sequence the model can see"),
    BOOL("model.tie_embeddings", model.shape.tie_embeddings, FROM | BITS,
         "true for gpt2, gemma3 and smollm3, else false", "use the token embedding as the classifier too"),
    F64("model.norm_eps", model.shape.norm_eps, BITS, "1e-5", 1e-12, 0.1,
        "added to the variance in every norm"),
    F64("model.rope_theta", model.shape.rope_theta, BITS, "10000", 1, 1e12,
        "base of the rotary positions; not for gpt2"),
    U64("model.rope_dims", model.shape.rope_dims, FROM | BITS, "0, config.json's", 0, DS_MAX_HIDDEN,
        "elements of a head, its first, that rotary positions turn; 0 is all; phi3 and gpt_neox only"),
    U64("model.nope_every", model.shape.nope_every, FROM | BITS, "smollm3: 4, else 0", 0, DS_MAX_LAYERS + 1,
        "smollm3: of so many layers the last has no rotary positions"),
    ENUM("model.rope_scaling.type", model.shape.rope_scale.kind, FROM | BITS, "none, config.json's", ropes,
         "how rotary positions are stretched for a longer context; not for gpt2"),
    F64("model.rope_scaling.factor", model.shape.rope_scale.factor, BITS, "1", 1, 1e6,
        "frequencies are divided by it: all for linear, for llama3 and yarn those of long waves"),
    F64("model.rope_scaling.low_freq_factor", model.shape.rope_scale.low, BITS, "1", 1e-3, 1e6,
        "llama3: waves are long that do not fit so many times into original_context"),
    F64("model.rope_scaling.high_freq_factor", model.shape.rope_scale.high, BITS, "4", 1e-3, 1e6,
        "llama3: and short, to be left alone, that fit more often than this"),
    F64("model.rope_scaling.beta_slow", model.shape.rope_scale.slow, BITS, "1", 1e-3, 1e6,
        "yarn: as low_freq_factor, but what is between goes by the numbers of pairs"),
    F64("model.rope_scaling.beta_fast", model.shape.rope_scale.fast, BITS, "32", 1e-3, 1e6,
        "yarn: as high_freq_factor"),
    F64("model.rope_scaling.attention_factor", model.shape.rope_scale.attention, FROM | BITS,
        "yarn: 0.1 ln(factor) + 1; longrope: sqrt(1 + ln(model.context / original_context) / "
        "ln(original_context)); else 1", 1e-3, 1e3,
        "yarn, longrope: factor of turned queries and keys"),
    NUMBERS("model.rope_scaling.short_factor", model.shape.rope_short, BITS, "[]", 1e-6, 1e6,
        "longrope: what the frequency of each pair of a head is divided by, of sequences of at most "
        "original_context tokens"),
    NUMBERS("model.rope_scaling.long_factor", model.shape.rope_long, BITS, "[]", 1e-6, 1e6,
        "longrope: the same of longer sequences"),
    U64("model.rope_scaling.original_context", model.shape.rope_scale.original, BITS, "8192", 1,
        DS_MAX_CONTEXT, "llama3, yarn, longrope: the context that the model was made for first"),
    U64("model.window", model.shape.window, FROM | BITS, "0, config.json's", 0, DS_MAX_CONTEXT,
        "tokens that a token sees, itself included; 0 is all before it; not for gpt2, olmo2, granite and gpt_neox"),
    U64("model.full_every", model.shape.full_every, FROM | BITS, "gemma3: 6, else 0", 0, DS_MAX_LAYERS + 1,
        "gemma3: of so many layers the last sees all, the others have model.window"),
    F64("model.rope_local_theta", model.shape.local_theta, FROM | BITS, "gemma3: 10000, else 0", 0, 1e12,
        "gemma3: base of the rotary positions of layers with the window"),
    F64("model.query_scalar", model.shape.query_scalar, FROM | BITS, "0, config.json's", 0, 1e9,
        "gemma3: attention is divided by its root; 0 is the head size"),
    BOOL("model.parallel_residual", model.shape.parallel_residual, FROM | BITS,
         "true for gpt_neox, else false",
         "gpt_neox: attention and feed-forward block both read a layer's input, and both are added to it"),
    F64("model.embedding_multiplier", model.shape.embed_scale, FROM | BITS, "granite: 1, else 0", 0, 1e6,
        "granite: factor of the embeddings"),
    F64("model.residual_multiplier", model.shape.residual_scale, FROM | BITS, "granite: 1, else 0", 0, 1e6,
        "granite: factor of what attention and feed-forward block add to the stream"),
    F64("model.attention_multiplier", model.shape.attention_scale, FROM | BITS, "0, config.json's", 0, 1e6,
        "granite: factor of the scores of attention; 0 is one over the root of the head size"),
    F64("model.logits_scaling", model.shape.logits_scale, FROM | BITS, "granite: 1, else 0", 0, 1e6,
        "granite: what logits are divided by"),
    F64("model.dropout", model.dropout, DS_KEY_BELOW | BITS, "0", 0, 1,
        "share of the elements dropped from the embedding and from what each half of a layer adds"),
    F64("model.attention_dropout", model.attention_dropout, DS_KEY_BELOW | BITS, "0", 0, 1,
        "share of the attention weights dropped after the softmax"),
    F64("model.init.std", model.init_std, BITS, "0.02", 0, 10,
        "standard deviation of random weights"),
    TEXT("model.init.from", model.init_from, BITS, NULL, MAX_PATH_TEXT,
         "folder with config.json and *.safetensors of Hugging Face to start from"),

    ROWS("data.train", data.train, MUST | BITS | SHORT, NULL, DS_MAX_DATA_SETS, &set_rows,
         "what to train on: one data set, or a mixture, see above"),
    ROWS("data.valid", data.valid, SHORT | DS_KEY_NAMED, "[]", DS_MAX_DATA_SETS, &valid_rows,
         "the same, to evaluate on, or several with names"),
    ENUM("data.format", data.format, BITS, "auto", formats, "what the files hold"),
    TEXT("data.tokenizer", data.tokenizer, BITS, "bytes", MAX_PATH_TEXT,
         "how text becomes token ids: bytes, or the path of a tokenizer.json"),
    ENUM("data.documents", data.documents, BITS, "together", documents,
         "whether tokens see what is before their document in a sequence"),
    U64("data.separator", data.separator, FROM | BITS, "data.tokenizer's", 0, DS_MAX_VOCAB - 1,
        "id of the token that ends a document, for data.documents apart"),
    ENUM("data.order", data.order, BITS, "auto", orders,
         "order of the sequences: auto is sequential for samples, else shuffle"),

    U64("train.steps", train.steps, FROM, "required, unless train.epochs is given", 1, DS_MAX_STEPS,
        "optimizer updates to make"),
    F64("train.epochs", train.epochs, 0, NULL, 1e-6, DS_MAX_EPOCHS,
        "how often to train on the sequences of data.train, in the place of train.steps"),
    U64("train.global_batch", train.global_batch, MUST | BITS, NULL, 1, DS_MAX_BATCH,
        "sequences per update, over all ranks; a multiple of ranks x train.micro_batch"),
    U64("train.micro_batch", train.micro_batch, MUST | BITS, NULL, 1, DS_MAX_BATCH,
        "sequences per rank and pass"),
    U64("train.sequence", train.sequence, FROM | BITS, "model.context", 1, DS_MAX_CONTEXT,
        "tokens per sequence; at most model.context"),

    LIST("train.freeze", train.freeze, BITS, "[]", DS_MAX_TENSOR_NAME,
         "globs on the names of tensors, as in a checkpoint, that stay as model.init.from has them: "
         "without gradients and optimizer state, and left out of checkpoints"),

    U64("lora.rank", lora.rank, BITS, "0", 0, DS_MAX_LORA_RANK,
        "above 0 adapters of this rank are trained, two small matrices beside a matrix of a layer, and "
        "nothing else but lora.whole"),
    F64("lora.alpha", lora.alpha, FROM | BITS, "lora.rank", 0, 1e6,
        "alpha / rank is the factor of what adapters add"),
    BOOL("lora.rslora", lora.rslora, BITS, "false",
        "the factor is alpha / sqrt(rank)"),
    F64("lora.dropout", lora.dropout, DS_KEY_BELOW | BITS, "0", 0, 1,
        "share of the elements dropped from what adapters read, in training"),
    LIST("lora.targets", lora.targets, FROM | BITS, "all but of experts", DS_MAX_TENSOR_NAME,
         "matrices with adapters, by names of their modules, as q_proj and v_proj of llama"),
    LIST("lora.whole", lora.whole, BITS, "[]", DS_MAX_TENSOR_NAME,
         "globs on the names of tensors, as in a checkpoint, that are trained as they are beside "
         "adapters: an embedding and a classifier"),

    ENUM("optim.name", optim.kind, BITS, "adamw", optims, "the optimizer"),
    F64("optim.lr", optim.lr, BITS, "3e-4", 0, 1000, "peak learning rate"),
    PAIR("optim.betas", optim.beta1, DS_KEY_BELOW | RULE | BITS,
         "[0.9, 0.95]; adam and lamb: [0.9, 0.999]; lion: [0.9, 0.99]", 0, 1,
         "decay of the first and of the second moment; adamw, adam, lion, lamb and muon only"),
    F64("optim.eps", optim.eps, RULE | BITS, "1e-8; adagrad: 1e-10; lamb: 1e-6", 1e-20, 1,
        "added to the root of the second moment; adamw, adam, adagrad, lamb and muon only"),
    F64("optim.momentum", optim.momentum, DS_KEY_BELOW | RULE | BITS, "0; muon: 0.95", 0, 1,
        "decay of the sum of gradients; sgd and muon only"),
    BOOL("optim.nesterov", optim.nesterov, RULE | BITS, "false; muon: true",
         "look ahead along the momentum; sgd and muon only"),
    ENUM("optim.muon_scale", optim.muon_scale, BITS, "shape", muon_scales,
         "factor of a matrix's update: shape, the root of outputs / inputs where above 1; adamw, 0.2 "
         "times the root of the longer side; muon only"),
    F64("optim.adamw_lr", optim.adamw_lr, RULE | BITS, "optim.lr", 0, 1000,
        "peak learning rate of what is no matrix of a layer; muon only"),
    F64("optim.weight_decay", optim.weight_decay, RULE | BITS,
        "0.1; adam, sgd and adagrad: 0; lamb: 0.01", 0, 10,
        "weight decay, on tensors of two or more dimensions only; decoupled in adamw, lion, "
        "lamb and muon, part of the gradient in adam, sgd and adagrad"),
    ROWS("optim.groups", optim.groups, BITS, "[]", DS_MAX_OPTIM_GROUPS, &group_rows,
         "tensors with a learning rate or decay of their own; the first map that matches counts, and "
         "each must match some tensor"),
    F64("optim.clip", optim.clip, BITS, "1", 0, 1e9,
        "largest global L2 norm of the gradient; 0 turns clipping off"),

    ENUM("schedule.kind", schedule.kind, BITS, "cosine", schedules,
         "shape of the learning rate after the warm-up"),
    U64("schedule.warmup", schedule.warmup, RULE | BITS,
        "0; one_cycle: three tenths of schedule.steps", 0, DS_MAX_STEPS,
        "updates over which the learning rate rises; at most schedule.steps"),
    ENUM("schedule.warmup_kind", schedule.warmup_kind, RULE | BITS,
         "log for warmup_lr and warmup_decay_lr, else linear", warmups,
         "how it rises; not for one_cycle, which has schedule.anneal"),
    U64("schedule.steps", schedule.steps, RULE | BITS, "train.steps", 1, DS_MAX_STEPS,
        "update at which the learning rate reaches schedule.min_lr"),
    U64("schedule.decay", schedule.decay, RULE | BITS, "a tenth of schedule.steps", 1, DS_MAX_STEPS,
        "updates of the final decay; wsd only"),
    F64("schedule.power", schedule.power, BITS, "1", 0.01, 100,
        "exponent of what is left of the schedule; polynomial only"),
    U64("schedule.timescale", schedule.timescale, RULE | BITS, "schedule.warmup, where 0 10000", 1,
        DS_MAX_STEPS, "updates after the warm-up that divide optim.lr by the root of 2; inverse_sqrt only"),
    ENUM("schedule.anneal", schedule.anneal, BITS, "cosine", anneals,
         "curve of both flanks; one_cycle only"),
    F64("schedule.start_lr", schedule.start_lr, RULE | BITS,
        "0; one_cycle: optim.lr / 25; warmup_lr and warmup_decay_lr: schedule.min_lr", 0, 1000,
        "learning rate from which the warm-up starts; at most optim.lr"),
    F64("schedule.min_lr", schedule.min_lr, RULE | BITS,
        "0; one_cycle: schedule.start_lr / 10000", 0, 1000,
        "learning rate at the end; at most optim.lr"),

    ENUM("precision.compute", precision.compute, BITS, "fp32", computes,
         "type of activations and products; weights and sums are kept in fp32"),
    ENUM("precision.matmul", precision.matmul, BITS, "compute", matmuls,
         "type of the operands of the matrix products inside layers: compute is precision.compute; "
         "fp8, with compute bf16, is E4M3 forward and for weights, E5M2 for gradients, one scale a "
         "tensor; on GPUs of compute capability 8.9 or later, or, slower than bf16, on CPUs"),
    ENUM("precision.grad_wire", precision.grad_wire, BITS, "fp32", grad_wires,
         "type in which gradients travel between ranks; sums are taken in fp32"),

    U64("precision.loss_scale", precision.loss_scale, AUTO | BITS, "auto", 1, 1 << 24,
        "factor of the loss in fp16; auto follows the overflows"),
    U64("precision.scaler.init_power", precision.scaler.init_power, BITS, "16", 0, 24,
        "loss_scale auto starts at this power of two"),
    U64("precision.scaler.window", precision.scaler.window, BITS, "1000", 1, DS_MAX_STEPS,
        "updates without overflow after which the loss scale doubles"),
    U64("precision.scaler.hysteresis", precision.scaler.hysteresis, BITS, "2", 1, 1000,
        "overflows after which the loss scale is halved"),
    U64("precision.scaler.min", precision.scaler.min, BITS, "1", 1, 1 << 24,
        "least loss scale; an overflow there ends the run"),

    U64("parallel.data", parallel.data, AUTO, "auto", 1, DS_MAX_RANKS,
        "data-parallel ranks, or sets of ranks that share a model or sequences; auto is all of them"),
    U64("parallel.tensor", parallel.tensor, BITS, "1", 1, DS_MAX_RANKS,
        "ranks that share each layer: each has a part of the heads, the columns and the vocabulary"),
    U64("parallel.pipeline", parallel.pipeline, BITS, "1", 1, DS_MAX_RANKS,
        "parts of the line of layers: ranks that have one pass activations on to the next"),
    U64("parallel.sequence", parallel.sequence, BITS, "1", 1, DS_MAX_RANKS,
        "ranks that share each sequence: each has a part of its tokens, and of the heads"),
    U64("parallel.expert", parallel.expert, BITS, "1", 1, DS_MAX_RANKS,
        "ranks that divide the experts of each layer: each has some of them whole"),

    U64("zero.stage", zero.stage, 0, "0", 0, 3,
        "what ranks share: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too"),
    U64("zero.bucket_mb", zero.bucket_mb, AUTO | BITS, "auto", 1, 4096,
        "size of a gradient bucket in MiB"),
    U64("zero.replicate_below", zero.replicate_below, BITS, "0", 0, MAX_EXACT,
        "tensors of fewer elements than this are whole on every rank at every stage"),
    U64("zero.prefetch", zero.prefetch, AUTO, "auto", 1, DS_MAX_PREFETCH,
        "buckets that stage 3 gathers ahead of their use; auto is the deepest that fits in memory and "
        "that is predicted to help"),
    ENUM("zero.shard_group", zero.shard_group, BITS, "all", shard_groups, "which ranks share"),
    BOOL("zero.once_per_host", zero.once_per_host, 0, "true",
         "on CPUs the ranks of a host hold what stages 1 to 3 gather once, not each for itself"),

    ENUM("offload.optim", offload.optim, 0, "none", offloads,
         "where optimizer state and fp32 weights live and are updated: none is the device, cpu the "
         "host's memory and processors; nvme is a file for the states on a disk of the host, the rest is "
         "as with cpu on GPUs and with none on CPUs"),
    ENUM("offload.params", offload.params, 0, "none", offloads_to_host,
         "where the weights that are computed with live: none is the device, cpu the host's memory, from "
         "where they come for each use; needs zero.stage 3"),
    TEXT("offload.path", offload.path, 0, NULL, MAX_PATH_TEXT,
         "folder on a local disk of every host, which must be there; needed for nvme, used for it alone"),
    ENUM("activation.recompute", activation.recompute, 0, "none", recomputes,
         "activations to compute again in the backward pass instead of keeping them: selective "
         "norms and the feed-forward activation, full whole layers, auto the least that fits in "
         "memory"),
    U64("activation.layers", activation.layers, AUTO, "auto", 1, DS_MAX_LAYERS,
        "layers, from the first, that compute again; auto is all of them"),
    ENUM("activation.offload", activation.offload, 0, "none", offloads_to_host,
         "where the inputs of layers wait for their backward pass: none is the device, cpu the host's memory; "
         "needs activation.recompute full"),

    U64("checkpoint.every", checkpoint.every, 0, "100", 0, DS_MAX_STEPS,
        "updates between checkpoints; the last one is always saved; 0 turns them off"),
    U64("checkpoint.keep", checkpoint.keep, 0, "3", 1, 1000000, "newest checkpoints to keep"),
    U64("checkpoint.keep_every", checkpoint.keep_every, 0, "0", 0, DS_MAX_STEPS,
        "older ones that stay, too: every so many updates, a multiple of checkpoint.every; 0: none"),
    BOOL("checkpoint.async", checkpoint.async, FROM, "true; offload.optim nvme: false",
         "write checkpoints while the run goes on, from a copy of what each rank writes; it takes "
         "that much memory"),
    TEXT("checkpoint.resume", checkpoint.resume, 0, "auto", MAX_PATH_TEXT,
         "what to go on from: auto is the newest whole checkpoint of run_dir, never is none, "
         "anything else is the path of a checkpoint or run directory"),

    U64("eval.every", eval.every, FROM, "50 with data.valid, else 0", 0, DS_MAX_STEPS,
        "updates between evaluations; 0 turns them off"),
    U64("eval.batches", eval.batches, 0, "8", 1, DS_MAX_BATCH,
        "batches of train.global_batch sequences per evaluation, of each name in data.valid"),

    U64("log.every", log.every, 0, "1", 1, DS_MAX_STEPS, "updates between lines of metrics"),
    BOOL("log.comm", log.comm, 0, "false",
         "with every line of metrics tell what each collective sent, in events.jsonl too"),
    ENUM("log.trace", log.trace, 0, "none", traces,
         "step: write the third step of a run as a Chrome trace, in run_dir/trace; kernels: its operations too, and a "
         "table of them"),
    SET("log.sinks", log.sinks, 0, "[console, jsonl, csv]", sinks, "where metrics go"),

    ENUM("guard.nonfinite", guard.nonfinite, 0, "skip", guards,
         "what to do when loss or gradient is not finite: skip the update, or abort"),
    U64("guard.max_skips", guard.max_skips, 0, "20", 0, DS_MAX_STEPS,
        "updates that a run may skip before it is aborted"),

    ENUM("launch.device", launch.device, 0, "auto", devices, "what the ranks compute on"),
    U64("launch.slots", launch.slots, AUTO, "auto", 1, DS_MAX_SLOTS,
        "ranks per host where neither hostfile, Slurm nor --slots says; auto is the GPUs found, "
        "else 1"),
    U64("launch.threads", launch.threads, AUTO, "auto", 1, DS_MAX_THREADS,
        "threads per rank; auto is the cores of the host, hyperthreads counted, divided by its ranks"),
    U64("launch.restarts", launch.restarts, 0, "0", 0, 1000000,
        "times to start again after a failure"),
    SET("launch.restart_on", launch.restart_on, 0, DS_CAUSES_DEFAULT_TEXT, causes,
        "failures to start again after; oom, disk-full and input come again, and are no default"),
    F64("launch.restart_backoff", launch.restart_backoff, 0, "1", 0, 86400,
        "seconds before it is started again; twice as long each time, up to 30"),
    F64("launch.heartbeat", launch.heartbeat, 0, "15", 0, 86400,
        "seconds without a word after which a host is lost, and for a host dsrun; 0: never"),
    F64("launch.hang", launch.hang, 0, "60", 0, 86400,
        "least seconds without a step, and ten times as long as a usual one, that are a hang; 0: "
        "never"),
    TEXT("launch.interface", launch.interface, 0, "auto", MAX_PATH_TEXT,
         "where ranks of different hosts speak to each other: an interface, an address or a "
         "network; auto is the address on which the host was reached"),
    ENV("launch.env", launch.env, 0, "{}", "environment variables of every rank"),
};
/* clang-format on */

const struct ds_key *ds_job_keys(size_t *count)
{
    *count = sizeof(job_keys) / sizeof(job_keys[0]);
    return job_keys;
}
