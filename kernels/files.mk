# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
# ops: what planner and launcher may link too (pure).  cpu: the CPU backend; SRC_isa_cpu is compiled
# once per instruction set.
SRC_ops :=
SRC_cpu :=
SRC_isa_cpu :=
CFLAGS_kernels := -O3 -ffp-contract=fast
