/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert_table.c - every key of a DeepSpeed configuration; the contract is in convert.h.
 */
#include <string.h>

#include "cli/convert.h"

/* clang-format off */
#define SECTION(path)            {path, DS_CONVERT_SECTION, NULL, NULL, NULL, NULL},
#define READ(path)               {path, DS_CONVERT_READ, NULL, NULL, NULL, NULL},
#define SAME(path, say)          {path, DS_CONVERT_SAME, NULL, say, NULL, NULL},
#define NONE(path, say)          {path, DS_CONVERT_NONE, NULL, say, NULL, NULL},
/* The same, of values that Hugging Face's integration fills in. */
#define TAKE_AUTO(path, key, trainer, usual) {path, DS_CONVERT_TAKE, key, NULL, trainer, usual},
#define READ_AUTO(path, trainer, usual)      {path, DS_CONVERT_READ, NULL, NULL, trainer, usual},
#define NONE_AUTO(path, say, trainer)        {path, DS_CONVERT_NONE, NULL, say, trainer, NULL},

#define BUCKETS "the size of the model"
#define IT_IS_SO "it is so"
#define NO_PARALLEL "expert parallelism is not there yet"
#define NO_PARAM "parameters are not offloaded; zero.stage: 3 shares them among ranks"
#define NO_1BIT "gradients are not compressed; precision.grad_wire: bf16 sends half"
#define NO_ZEROPP "weights and gradients are not quantized on the wire; precision.grad_wire: bf16 sends half, " \
    "zero.shard_group: node keeps gathers within a host"
#define NO_CURRICULUM "sequences have one length and an order by seed; sort or cut the data before training, " \
    "with data.order: sequential"
#define NO_COMPRESSION "weights are neither pruned nor quantized; do that to what 'dsrun ckpt export' writes"

static const struct ds_convert_row rows[] = {
    READ_AUTO("train_batch_size", "per_device_train_batch_size x gradient_accumulation_steps x ranks", NULL)
    READ_AUTO("train_micro_batch_size_per_gpu", "per_device_train_batch_size", "8")
    READ_AUTO("gradient_accumulation_steps", "gradient_accumulation_steps", "1")
    SAME("managed_gradient_accumulation", "the trainer counts passes itself")

    SECTION("optimizer")
    READ("optimizer.type")
    SAME("optimizer.legacy_fusion", "there is one optimizer loop")
    SECTION("optimizer.params")
    READ_AUTO("optimizer.params.lr", "learning_rate", "5e-5")
    READ_AUTO("optimizer.params.betas", "adam_beta1, adam_beta2", "[0.9, 0.999]")
    READ_AUTO("optimizer.params.eps", "adam_epsilon", "1e-8")
    READ_AUTO("optimizer.params.weight_decay", "weight_decay", "0.0")
    READ("optimizer.params.momentum")
    READ("optimizer.params.nesterov")
    READ("optimizer.params.muon_lr")
    READ("optimizer.params.adam_lr")
    READ("optimizer.params.adam_w_mode")
    READ("optimizer.params.bias_correction")
    READ("optimizer.params.torch_adam")
    NONE("optimizer.params.ns_method", "the iteration is the standard one")
    NONE("optimizer.params.dampening", "the momentum takes gradients whole; raise optim.lr")
    NONE("optimizer.params.amsgrad", "the second moment may fall again; leave it out")
    NONE("optimizer.params.max_grad_norm", "DeepSpeed refuses it too; use gradient_clipping, which is optim.clip")
    NONE("optimizer.params.max_coeff", "the ratio of Lamb is not bounded above; optim.clip bounds the gradient")
    NONE("optimizer.params.min_coeff", "the ratio of Lamb is not bounded below")
    NONE("optimizer.params.eps_inside_sqrt", "eps is added to the root")
    SAME("optimizer.params.fused", "there is one optimizer loop")
    SAME("optimizer.params.foreach", "there is one optimizer loop")
    SAME("optimizer.params.set_grad_none", "gradients have their place for the whole run")
    NONE("optimizer.params.freeze_step", NO_1BIT)
    NONE("optimizer.params.var_freeze_step", NO_1BIT)
    NONE("optimizer.params.var_update_scaler", NO_1BIT)
    NONE("optimizer.params.local_step_scaler", NO_1BIT)
    NONE("optimizer.params.local_step_clipper", NO_1BIT)
    NONE("optimizer.params.coeff_beta", NO_1BIT)
    NONE("optimizer.params.factor_max", NO_1BIT)
    NONE("optimizer.params.factor_min", NO_1BIT)
    NONE("optimizer.params.factor_threshold", NO_1BIT)
    SAME("optimizer.params.cuda_aware", "ranks meet through the launcher")
    SAME("optimizer.params.comm_backend_name", "NCCL between GPUs, memory and TCP between CPUs")

    SECTION("scheduler")
    READ("scheduler.type")
    SECTION("scheduler.params")
    READ_AUTO("scheduler.params.warmup_min_lr", "lr of the start, always 0", "0")
    READ_AUTO("scheduler.params.warmup_max_lr", "learning_rate", "5e-5")
    READ_AUTO("scheduler.params.warmup_num_steps", "warmup_steps or warmup_ratio", "0")
    READ("scheduler.params.warmup_type")
    READ_AUTO("scheduler.params.total_num_steps", "max_steps or num_train_epochs", NULL)
    READ("scheduler.params.warmup_min_ratio")
    READ("scheduler.params.cos_min_ratio")
    SAME("scheduler.params.last_batch_iteration", "a run knows its step")
    READ("scheduler.params.cycle_min_lr")
    READ("scheduler.params.cycle_max_lr")
    READ("scheduler.params.cycle_first_step_size")
    READ("scheduler.params.cycle_second_step_size")
    READ("scheduler.params.cycle_momentum")
    NONE("scheduler.params.cycle_min_mom", "momentum is constant; optim.betas or optim.momentum")
    NONE("scheduler.params.cycle_max_mom", "momentum is constant; optim.betas or optim.momentum")
    NONE("scheduler.params.decay_mom_rate", "momentum is constant; optim.betas or optim.momentum")
    NONE("scheduler.params.cycle_first_stair_count", "the rate changes with every update")
    NONE("scheduler.params.cycle_second_stair_count", "the rate changes with every update")
    NONE("scheduler.params.decay_step_size", "after the cycle the rate stays at schedule.min_lr")
    NONE("scheduler.params.decay_lr_rate", "after the cycle the rate stays at schedule.min_lr")
    READ("scheduler.params.lr_range_test_min_lr")
    NONE("scheduler.params.lr_range_test_step_size", "try rates as jobs: 'dsrun job.yaml optim.lr=...' with a run_dir each")
    NONE("scheduler.params.lr_range_test_step_rate", "try rates as jobs: 'dsrun job.yaml optim.lr=...' with a run_dir each")
    NONE("scheduler.params.lr_range_test_staircase", "try rates as jobs: 'dsrun job.yaml optim.lr=...' with a run_dir each")

    READ("communication_data_type")
    NONE("seq_parallel_communication_data_type", "ranks that share a sequence swap activations in precision.compute")
    READ("gradient_allreduce_op")
    SAME("prescale_gradients", "sums are taken in fp32, so their order of division decides nothing")
    SAME("gradient_predivide_factor", "sums are taken in fp32, so their order of division decides nothing")
    NONE("sparse_gradients", "gradients are dense")
    SAME("disable_allgather", "how parameters travel is the plan's")

    SECTION("fp16")
    READ_AUTO("fp16.enabled", "fp16", "false")
    NONE("fp16.auto_cast", "tokens are ids; there is no input to cast")
    READ("fp16.loss_scale")
    READ("fp16.initial_scale_power")
    READ("fp16.loss_scale_window")
    READ("fp16.hysteresis")
    READ("fp16.min_loss_scale")
    NONE("fp16.consecutive_hysteresis", "overflows count until the scale changes")
    NONE("fp16.fp16_master_weights_and_grads", "weights of the optimizer and sums are fp32 always")
    NONE("fp16.fp16_master_weights_and_gradients", "weights of the optimizer and sums are fp32 always")
    SAME("fp16.opt_level", "a key of apex, which DeepSpeed passes over here")
    SECTION("bf16")
    READ_AUTO("bf16.enabled", "bf16", "false")
    SAME("bf16.check_grad_overflow", "guard.nonfinite looks at every update")
    SAME("bf16.immediate_grad_update", "gradients are added up in fp32 as they come")
    NONE("bf16.bf16_master_weights_and_grads", "weights of the optimizer and sums are fp32 always")
    NONE("bf16.bf16_optimizer_states", "optimizer states are fp32 always; zero.stage shares them among ranks")
    SECTION("bfloat16")
    READ_AUTO("bfloat16.enabled", "bf16", "false")
    NONE_AUTO("amp", "apex is PyTorch's; use precision.compute: bf16 or fp16", "fp16_backend")
    SECTION("torch_autocast")
    READ("torch_autocast.enabled")
    READ("torch_autocast.dtype")
    SAME("torch_autocast.lower_precision_safe_modules", "products have the type of precision.compute, norms and the loss fp32")
    TAKE_AUTO("gradient_clipping", "optim.clip", "max_grad_norm", "1.0")
    SECTION("data_types")
    READ("data_types.grad_accum_dtype")
    NONE("data_types.param_dtype", "parameters are fp32, and of type precision.compute where they are used")
    NONE("data_types.buffer_dtype", "parameters are fp32, and of type precision.compute where they are used")

    SECTION("zero_optimization")
    READ("zero_optimization.stage")
    SAME("zero_optimization.contiguous_gradients", "gradients are made in their bucket")
    SAME("zero_optimization.reduce_scatter", IT_IS_SO)
    SAME("zero_optimization.use_multi_rank_bucket_allreduce", "every rank owns a slice of every bucket")
    READ_AUTO("zero_optimization.reduce_bucket_size", BUCKETS, NULL)
    SAME("zero_optimization.allgather_partitions", IT_IS_SO)
    SAME("zero_optimization.allgather_bucket_size", "what is gathered are the buckets of zero.bucket_mb")
    SAME("zero_optimization.overlap_comm", IT_IS_SO)
    SAME("zero_optimization.round_robin_gradients", "every rank owns a slice of every bucket")
    SAME("zero_optimization.grad_hooks", "the plan says when gradients are reduced")
    SAME("zero_optimization.legacy_stage1", "there is one stage 1")
    SAME("zero_optimization.ignore_unused_parameters", "every parameter is used")
    SAME("zero_optimization.load_from_fp32_weights", "checkpoints have fp32 weights")
    SAME("zero_optimization.elastic_checkpoint", "every checkpoint goes on with any number of ranks")
    SAME("zero_optimization.sub_group_size", "the optimizer works bucket by bucket")
    SAME("zero_optimization.stage3_max_live_parameters", "the plan says when parameters are gathered and freed; zero.prefetch")
    SAME("zero_optimization.stage3_max_reuse_distance", "the plan says when parameters are gathered and freed")
    {"zero_optimization.stage3_prefetch_bucket_size", DS_CONVERT_SAME, NULL,
     "zero.prefetch is in buckets, and auto takes what memory allows", BUCKETS, NULL},
    READ_AUTO("zero_optimization.stage3_param_persistence_threshold", BUCKETS, NULL)
    SAME("zero_optimization.stage3_model_persistence_threshold", "zero.replicate_below alone decides")
    SAME("zero_optimization.stage3_gather_16bit_weights_on_model_save", "'dsrun ckpt export' writes whole weights of any checkpoint")
    SAME("zero_optimization.stage3_gather_fp16_weights_on_model_save", "'dsrun ckpt export' writes whole weights of any checkpoint")
    SAME("zero_optimization.stage3_module_granularity_threshold", "layers are gathered whole")
    SAME("zero_optimization.stage3_use_all_reduce_for_fetch_params", "what gathers is the communication layer's")
    SAME("zero_optimization.stage3_allgather_sequential", "what gathers is the communication layer's")
    SAME("zero_optimization.leaf_module", "layers are gathered whole")
    READ("zero_optimization.zero_hpz_partition_size")
    NONE("zero_optimization.zero_quantized_weights", NO_ZEROPP)
    NONE("zero_optimization.zero_quantized_nontrainable_weights", NO_ZEROPP)
    NONE("zero_optimization.zero_quantized_gradients", NO_ZEROPP)
    NONE("zero_optimization.zeropp_loco_param", NO_ZEROPP)
    READ("zero_optimization.mics_shard_size")
    SAME("zero_optimization.mics_hierarchical_params_gather", "what gathers is the communication layer's")
    SAME("zero_optimization.memory_efficient_linear", "the plan keeps what the backward pass reads and nothing else")
    SAME("zero_optimization.override_module_apply", "there are no modules")
    SAME("zero_optimization.pipeline_loading_checkpoint", "each rank reads its own ranges")
    SAME("zero_optimization.log_trace_cache_warnings", "there is no trace: the plan is known before the run")
    SAME("zero_optimization.enable_sanity_checks", "ranks compare their plan before the first step")
    SAME("zero_optimization.save_muon_momentum_buffer_in_memory", "momentum lies where the optimizer's states lie")
    NONE("zero_optimization.zenflow", "updates are exact; offload.optim: cpu overlaps them with the next step's start")
    READ("zero_optimization.cpu_offload")
    NONE("zero_optimization.cpu_offload_params", NO_PARAM)
    NONE("zero_optimization.cpu_offload_param", NO_PARAM)
    SAME("zero_optimization.cpu_offload_use_pin_memory", "memory that a GPU copies is pinned")
    SECTION("zero_optimization.offload_optimizer")
    READ("zero_optimization.offload_optimizer.device")
    READ("zero_optimization.offload_optimizer.nvme_path")
    SAME("zero_optimization.offload_optimizer.buffer_count", "the plan says how many rooms there are")
    SAME("zero_optimization.offload_optimizer.pin_memory", "memory that a GPU copies is pinned")
    SAME("zero_optimization.offload_optimizer.pipeline", "copies and updates overlap")
    SAME("zero_optimization.offload_optimizer.pipeline_read", "copies and updates overlap")
    SAME("zero_optimization.offload_optimizer.pipeline_write", "copies and updates overlap")
    SAME("zero_optimization.offload_optimizer.fast_init", IT_IS_SO)
    READ("zero_optimization.offload_optimizer.ratio")
    NONE("zero_optimization.offload_optimizer.super_offload", "updates are exact and wait for the norm")
    SAME("zero_optimization.offload_optimizer.cpuadam_cores_perc", "updates take launch.threads")
    SECTION("zero_optimization.offload_param")
    NONE("zero_optimization.offload_param.device", NO_PARAM)
    SAME("zero_optimization.offload_param.nvme_path", "parameters are not offloaded")
    SAME("zero_optimization.offload_param.buffer_count", "parameters are not offloaded")
    SAME("zero_optimization.offload_param.buffer_size", "parameters are not offloaded")
    SAME("zero_optimization.offload_param.max_in_cpu", "parameters are not offloaded")
    SAME("zero_optimization.offload_param.pin_memory", "parameters are not offloaded")
    SAME("zero_allow_untested_optimizer", "every optimizer works at every stage")
    SAME("zero_force_ds_cpu_optimizer", "there is one optimizer loop")
    SAME("aio", "four requests of 1 MiB are under way; 'dsrun bench io' shows others beside them")

    READ("activation_checkpointing")
    READ("tensor_parallel")
    NONE("expert_parallel", NO_PARALLEL)
    READ("pipeline")
    READ("sequence_parallel_size")
    NONE("use_data_before_expert_parallelism", NO_PARALLEL)
    SAME("graph_harvesting", "on GPUs passes are launched as CUDA graphs")
    NONE("compile", "there is nothing to compile: the plan of a step is made before the run")
    NONE("hybrid_engine", "nothing is sampled while training")

    READ("steps_per_print")
    READ("wall_clock_breakdown")
    NONE("memory_breakdown", "'dsrun plan' prints what each rank takes, arena by arena")
    SAME("dump_state", "the resolved job is in job.yaml of the run directory")
    SAME("log_level", "-q and -v")
    SAME("timers", "times are taken without stopping the device")
    SAME("vocabulary_size", "model.vocab is the model's")
    SAME("dataloader_drop_last", "a step has train.global_batch sequences always")
    SECTION("tensorboard")
    READ("tensorboard.enabled")
    SAME("tensorboard.output_path", "files lie in the run directory")
    SAME("tensorboard.job_name", "the run directory has the job's name")
    SECTION("csv_monitor")
    SAME("csv_monitor.enabled", "metrics.csv is written, unless log.sinks leaves csv out")
    SAME("csv_monitor.output_path", "files lie in the run directory")
    SAME("csv_monitor.job_name", "the run directory has the job's name")
    NONE("wandb", "nothing is sent anywhere; metrics.jsonl has one line a step that a script can follow and send")
    NONE("comet", "nothing is sent anywhere; metrics.jsonl has one line a step that a script can follow and send")
    SECTION("comms_logger")
    READ("comms_logger.enabled")
    SAME("comms_logger.verbose", "events.jsonl has every collective")
    SAME("comms_logger.prof_all", "events.jsonl has every collective")
    SAME("comms_logger.prof_ops", "events.jsonl has every collective")
    SAME("comms_logger.debug", "events.jsonl has every collective")
    NONE("flops_profiler", "'dsrun plan' prints FLOPs per token, log.trace: kernels measures a step operation by operation")
    NONE("autotuning", "'dsrun tune JOB.yaml' ranks layouts and tries the best")
    NONE("elasticity", "a run goes on with any number of ranks that train.global_batch can be divided by; launch.restarts")

    SECTION("checkpoint")
    SAME("checkpoint.tag_validation", "ranks agree on a checkpoint before it gets its name")
    SAME("checkpoint.load_universal", "every checkpoint goes on with any number of ranks and any zero.stage")
    NONE("checkpoint.use_node_local_storage", "hosts of a run share its run directory, unless checkpoint.every is 0")
    SAME("checkpoint.parallel_write", "every rank writes its part")
    SAME("checkpoint.checkpoint_serialization", "checkpoints are safetensors")
    SAME("checkpoint.writer", "checkpoint.async writes behind the run")
    SAME("nebula", "checkpoint.async writes behind the run")
    SAME("datastates_ckpt", "checkpoint.async writes behind the run")

    NONE("data_efficiency", NO_CURRICULUM)
    NONE("curriculum_learning", NO_CURRICULUM)
    NONE("progressive_layer_drop", "layers are not dropped; model.dropout drops elements")
    NONE("eigenvalue", "a key of quantization, which is not there")
    NONE("sparse_attention", "attention is dense and causal")
    NONE("compression_training", NO_COMPRESSION)
    NONE("quantize_training", NO_COMPRESSION)
    NONE("weight_quantization", NO_COMPRESSION)
};
/* clang-format on */

const struct ds_convert_row *ds_convert_rows(size_t *count)
{
    *count = sizeof(rows) / sizeof(rows[0]);
    return rows;
}

size_t ds_convert_find(const char *path)
{
    size_t i = 0;

    while (i < sizeof(rows) / sizeof(rows[0]) && strcmp(rows[i].path, path) != 0)
        i++;
    return i;
}
