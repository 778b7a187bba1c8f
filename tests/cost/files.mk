# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_cost := tests/cost/test_cluster.c tests/cost/test_predict.c tests/cost/test_search.c
TESTROOMS_cost := cost plan comm job ops base
