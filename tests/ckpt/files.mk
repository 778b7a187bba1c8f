# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_ckpt := $(addprefix tests/ckpt/,test_safetensors.c test_manifest.c test_save.c test_share.c \
    test_reads.c test_view.c test_views.c test_views_scarce.c test_layout.c test_line.c test_saver.c test_damage.c \
    test_list.c test_hf.c test_hf_config.c test_hf_packed.c test_hf_views.c test_cmd.c test_scarce.c test_torture.c \
    test_syscalls.c)
TESTROOMS_ckpt := cli text ckpt plan job ops base
# The system calls and allocations that test_torture.c fails one by one.
$(B)/tests/ckpt/test_torture: LDLIBS += $(foreach call,open pwrite write fsync rename renameat2 mkdir \
    symlink unlink unlinkat malloc calloc realloc,-Wl,--wrap=$(call))
$(B)/tests/ckpt/test_scarce $(B)/tests/ckpt/test_views_scarce: private DS_LDFLAGS += $(FAULT_WRAPS)
