# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_base := tests/base/test_yaml.c tests/base/test_keys.c tests/base/test_error.c tests/base/test_log.c tests/base/test_buf.c tests/base/test_arena.c \
    tests/base/test_rng.c tests/base/test_fsio.c tests/base/test_wire.c tests/base/test_json.c \
    tests/base/test_faults.c tests/base/test_clock.c tests/base/test_crc32c.c
TESTROOMS_base := base

# tests/faults.h stands between the project's objects and these.
FAULT_WRAPS := $(foreach f,open close read write pread pwrite fsync rename mkdir mmap malloc calloc realloc,-Wl,--wrap=$(f))
$(B)/tests/base/test_faults: private DS_LDFLAGS += $(FAULT_WRAPS)
