# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_data := tests/data/test_chat.c tests/data/test_mix.c tests/data/test_order.c tests/data/test_pack.c tests/data/test_tokens.c tests/data/test_data.c tests/data/test_masks.c tests/data/test_faults.c \
    tests/data/test_corpus.c tests/data/test_kept.c tests/data/test_prompts.c tests/data/test_valid.c
TESTROOMS_data := data text job ckpt ops base
$(B)/tests/data/test_faults: private DS_LDFLAGS += $(FAULT_WRAPS)
