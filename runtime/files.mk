# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
# One variable per room; rooms link upward only as docs/architecture.md draws.
SRC_job :=
SRC_plan :=
SRC_comm :=
SRC_data :=
SRC_ckpt := runtime/ckpt/safetensors.c
SRC_engine :=
