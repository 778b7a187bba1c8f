# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_comm := tests/comm/test_tree.c tests/comm/test_comm.c tests/comm/test_fault.c tests/comm/test_group.c
TESTROOMS_comm := comm base
