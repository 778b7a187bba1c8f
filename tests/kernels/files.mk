# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_kernels := $(addprefix tests/kernels/,test_amount.c test_attention.c test_attention_cached.c test_dropout.c test_embed.c test_epilogue.c test_experts.c test_fp8.c test_head_norm.c test_lamb.c test_loss.c test_loss_part.c \
    test_matmul.c test_muon.c test_norm.c test_op.c test_op_rows.c test_optim.c test_pairs.c test_pointwise.c test_pool.c test_probe.c test_rates.c test_refused.c test_rope.c test_route.c test_scratch.c test_types.c test_update.c test_verdict.c)
TESTROOMS_kernels := cpu ops base
