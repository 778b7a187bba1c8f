# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_text := $(addprefix tests/text/,test_oracle.c test_pattern.c test_refused.c test_tokenizer.c test_scarce.c \
    test_unicode.c test_vocab.c)
TESTROOMS_text := text job base
$(B)/tests/text/test_scarce: private DS_LDFLAGS += $(FAULT_WRAPS)
