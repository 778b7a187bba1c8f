# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_ckpt := $(addprefix tests/ckpt/,test_save.c)
TESTROOMS_ckpt := ckpt plan job ops base
