# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_cuda-emu := $(addprefix tests/cudaemu/,test_cuda_attention.c test_cuda_attention_cached.c test_cuda_attention_sm90.c test_cuda_dropout.c test_cuda_embed.c test_cuda_experts.c test_cuda_fp8.c test_cuda_head_norm.c test_cuda_lamb.c \
    test_cuda_loss.c test_cuda_loss_part.c test_cuda_matmul.c test_cuda_muon.c test_cuda_norm.c test_cuda_optim.c test_cuda_pairs.c test_cuda_pointwise.c test_cuda_rope.c test_cuda_route.c test_cuda_sdpa.c test_cuda_update.c test_cuda_verdict.c test_cudnn_plans.c test_emulation.c)
TESTROOMS_cuda-emu := emu cpu ops base
$(B)/tests/cudaemu/test_cuda_matmul: | $(B)/tests/cudaemu/libfakelt.so
$(B)/tests/cudaemu/test_cudnn_plans: | $(B)/tests/cudaemu/libcuda.so.1
$(B)/tests/cudaemu/test_cuda_sdpa: | $(B)/tests/cudaemu/libfakednn.so
