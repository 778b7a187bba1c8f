# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_job := tests/job/test_job.c tests/job/test_wrong.c
TESTROOMS_job := job base
