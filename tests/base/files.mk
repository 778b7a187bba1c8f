# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_base := tests/base/test_error.c tests/base/test_log.c tests/base/test_buf.c tests/base/test_arena.c \
    tests/base/test_rng.c tests/base/test_fsio.c tests/base/test_wire.c tests/base/test_json.c
TESTROOMS_base := base
