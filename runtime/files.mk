# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
# One variable per room; rooms link upward only as docs/architecture.md draws.
# A job that leaves its vocabulary to a tokenizer asks for its size, without the rest of runtime/text/;
# one that mixes data sets asks whether their weights will do; one with adapters which tensors its model has.
SRC_job := runtime/job.c runtime/job_table.c runtime/job_check.c runtime/job_blame.c runtime/job_model.c runtime/job_ranks.c \
    runtime/job_data.c runtime/job_offload.c runtime/job_frozen.c runtime/data/mix.c \
    runtime/text/size.c $(addprefix runtime/model/,model.c model_check.c adapters.c gpt2.c gpt_neox.c llama.c)
SRC_plan := runtime/plan/plan.c \
    $(addprefix runtime/plan/,team.c meet.c pipeline.c bucket.c owner.c held.c sequence.c window.c recompute.c stash.c schedule.c \
    memory.c pieces.c wire.c cost.c describe.c timeline.c) runtime/optim.c runtime/scaler.c runtime/spec.c runtime/generate/request.c
SRC_cost := $(addprefix runtime/cost/,cluster.c spread.c ring.c talk.c work.c end.c predict.c search.c depth.c)
SRC_comm := runtime/comm/comm.c runtime/comm/host.c runtime/comm/host_shm.c runtime/comm/region.c \
    runtime/comm/sync.c runtime/comm/tree.c runtime/comm/half.c $(addprefix runtime/comm/,address.c bench.c \
    host_net.c host_swap.c net.c net_send.c net_setup.c net_sums.c mesh.c mesh_open.c greet.c layout.c ops.c)
SRC_data := $(addprefix runtime/data/,chat.c corpus.c data.c kept.c order.c pack.c reader.c source.c tokens.c valid.c write.c)
SRC_text := $(addprefix runtime/text/,added.c alphabet.c bpe.c decode.c encode.c normal.c pattern.c \
    piece.c read_model.c read_parts.c rewrite.c tokenizer.c unicode.c vocab.c)
SRC_ckpt := $(addprefix runtime/ckpt/,state.c view.c safetensors.c manifest.c manifest_tensors.c \
    manifest_write.c manifest_join.c part.c share.c reads.c store.c gather.c load.c list.c saving.c commit.c save.c saver.c \
    hf.c merge.c hf_adapters.c hf_config.c hf_export.c hf_families.c hf_packed.c hf_rope.c hf_window.c inspect.c)
SRC_engine := $(addprefix runtime/,board.c commlog.c disk.c disk_bench.c engine.c exchange.c relay.c feed.c first.c flags.c frozen.c graphs.c lines.c link.c matrix.c monitor.c muon.c \
    offload.c outcome.c peers.c plugin.c profile.c queue.c snapshot.c agree.c start.c states.c tally.c trace.c train.c trainer.c trial.c trust.c \
    update.c updater.c walk.c cost/machine.c model/adapt.c model/attend.c model/ends.c model/experts.c model/forward.c model/fp8.c model/heads.c model/layer.c model/meet.c model/net.c model/qk_norm.c model/team.c generate/sampler.c generate/serve.c generate/session.c)
