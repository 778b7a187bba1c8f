# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_comm := tests/comm/test_tree.c tests/comm/test_half.c tests/comm/test_comm.c tests/comm/test_common.c tests/comm/test_fault.c tests/comm/test_group.c tests/comm/test_net.c \
    tests/comm/test_greet.c tests/comm/test_layout.c tests/comm/test_mesh.c tests/comm/test_address.c
TESTS_comm += tests/comm/test_interfaces.c tests/comm/test_lend.c tests/comm/test_swap.c
TESTROOMS_comm := comm base

# tests/comm/interfaces.h stands between the project's objects and these.
INTERFACE_WRAPS := $(foreach f,getifaddrs freeifaddrs getaddrinfo freeaddrinfo,-Wl,--wrap=$(f))
$(B)/tests/comm/test_interfaces: private DS_LDFLAGS += $(INTERFACE_WRAPS)

# One mapping for ranks that are threads: `make check-tsan`.
SRC_one_map := tests/support/mini/one_map.c

# On doubles of CUDA and NCCL: tests/fakes/rules.mk.
TEST_nccl := tests/comm/test_nccl.c
