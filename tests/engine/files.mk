# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_engine := $(addprefix tests/engine/,test_adapt.c test_engine.c test_masked.c test_stages.c test_sharers.c test_pipeline.c test_team.c test_states.c test_common.c test_worker.c test_update.c test_muon.c \
    test_alloc.c test_disk.c test_dropout.c test_experts.c test_first.c test_fp8.c test_generate.c test_graphs.c test_late.c test_tally.c test_link.c test_meet.c test_peers.c test_broken.c test_memory.c test_norms.c test_plugin.c test_profile.c test_sampler.c test_seen.c test_serve.c)
TESTROOMS_engine := engine data ckpt comm plan job cpu ops base
$(B)/tests/engine/test_states: private DS_LDFLAGS += -Wl,--wrap=pread,--wrap=pwrite
$(B)/tests/engine/test_disk: private DS_LDFLAGS += $(FAULT_WRAPS) -Wl,--wrap=fstatfs,--wrap=fcntl,--wrap=openat
$(B)/tests/engine/test_memory: private DS_LDFLAGS += $(FAULT_WRAPS)
$(B)/tests/engine/test_plugin: private DS_LDFLAGS += $(INTERFACE_WRAPS) $(foreach f,access dlopen dlsym dlerror,-Wl,--wrap=$(f))
