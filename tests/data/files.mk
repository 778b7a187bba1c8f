# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_data := tests/data/test_order.c tests/data/test_tokens.c tests/data/test_data.c
TESTROOMS_data := data ckpt ops base
