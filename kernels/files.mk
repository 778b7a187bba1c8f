# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
# ops: what planner and launcher may link too (pure).  cpu: the CPU backend; SRC_isa_cpu is compiled
# once per instruction set.
SRC_ops := kernels/amount.c kernels/dtype.c kernels/op.c kernels/op_check.c kernels/op_check_experts.c kernels/probe.c kernels/scratch.c
SRC_cpu := kernels/bench.c kernels/device.c kernels/epilogue.c kernels/queue.c kernels/rates.c $(addprefix kernels/cpu/,cpu.c gemm.c pool.c)
SRC_isa_cpu := $(addprefix kernels/cpu/,attention.c attention_cached.c dropout.c embed.c experts.c experts_matmul.c fp8.c lamb.c loss.c matmul.c norm.c \
    optim.c panel.c peak.c pointwise.c reorder.c row.c sumsq.c table.c)
CFLAGS_kernels := -O3 -ffp-contract=fast
