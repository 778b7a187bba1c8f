# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_cost := $(addprefix tests/cost/,test_cluster.c test_depth.c test_memory.c test_offload.c test_predict.c test_pipeline.c test_search.c test_states.c test_team.c test_spread.c)
TESTROOMS_cost := cost plan comm job ops base
$(B)/tests/cost/test_memory: private DS_LDFLAGS += $(FAULT_WRAPS)
