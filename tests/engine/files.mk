# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_engine := $(addprefix tests/engine/,test_engine.c test_stages.c test_common.c test_worker.c test_update.c test_muon.c \
    test_alloc.c test_dropout.c test_first.c test_graphs.c test_tally.c test_link.c test_peers.c)
TESTROOMS_engine := engine data ckpt comm plan job cpu ops base
