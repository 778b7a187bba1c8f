# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_job := tests/job/test_job.c tests/job/test_wrong.c tests/job/test_frozen.c tests/job/test_offload.c tests/job/test_epochs.c tests/job/test_names.c tests/job/test_memory.c \
    tests/job/test_ranks.c tests/job/test_families.c tests/job/test_record.c
TESTROOMS_job := job base
$(B)/tests/job/test_memory: private DS_LDFLAGS += $(FAULT_WRAPS)
