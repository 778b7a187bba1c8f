# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# dsrun-cuda.so: `make CUDA_HOME=/usr/local/cuda`, or `make plugin` alone.  CUDA's runtime is inside
# it; cuBLASLt and NCCL are loaded when they are needed.  A build without nvcc lacks this file only.
PLUGIN_C := cli/cuda.c $(addprefix kernels/,amount.c dtype.c epilogue.c probe.c queue.c) $(addprefix kernels/cuda/,cuda.c graph.c marks.c timer.c) $(SRC_cuda) \
    $(addprefix runtime/comm/,nccl.c nccl_lib.c nccl_watch.c ops.c) base/error.c base/clock.c
PLUGIN   := $(B)/libexec/dsrun/dsrun-cuda.so
PLUGIN_OBJ = $(patsubst %.c,$(B)/plugin/%.o,$(PLUGIN_C)) $(patsubst %.cu,$(B)/%.cuda.o,$(CU)) $(B)/plugin/build-id.o

$(B)/plugin/%.o: %.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,CC      $<)
	$(Q)$(CC) -isystem $(CUDA_HOME)/include $(ALL_CPPFLAGS) $(DS_CFLAGS) $(CFLAGS) -fPIC -MMD -MP -c -o $@ $<

$(B)/plugin/build-id.o: base/build.c $(B)/build-id
	$(Q)mkdir -p $(@D); id=$$(cat $(B)/build-id); \
	$(CC) -DDS_BUILD_ID="\"$$id\"" $(ALL_CPPFLAGS) $(DS_CFLAGS) $(CFLAGS) -fPIC -MMD -MP -c -o $@ $<

# Its own symbols come first, so that none of the worker's is taken for one of CUDA's.
$(PLUGIN): $(PLUGIN_OBJ) tools/plugin.map
	$(Q)mkdir -p $(@D)
	$(call say,LINK    $@)
	$(Q)$(CC) -shared $(ALL_LDFLAGS) -Wl,-z,defs -Wl,-Bsymbolic -Wl,--version-script=tools/plugin.map -Wl,-rpath,$(CUDA_HOME)/lib64:$(CUDA_HOME)/lib -o $@ \
	    $(filter %.o,$^) -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcudart_static -lrt -ldl -lpthread -lm

# nvcc takes minutes: who wants the plug-in names CUDA_HOME on the command line.
programs: $(if $(SAN)$(COVERAGE),,$(if $(filter command,$(origin CUDA_HOME)),$(if $(NVCC),$(PLUGIN))))
plugin: $(CUDA_ABI) $(PLUGIN) ## dsrun-cuda.so alone; a part of all where nvcc is at CUDA_HOME
.PHONY: plugin
-include $(PLUGIN_OBJ:.o=.d)

# The tests of the kernels on a device, on Criterion's stand-in, so that they run on a bare machine.
GPU_TESTS := $(if $(SAN)$(COVERAGE),,$(patsubst tests/kernels/%.c,$(B)/gpu/%,$(filter-out %/test_amount.c %/test_op.c %/test_pool.c %/test_probe.c %/test_rates.c %/test_refused.c %/test_scratch.c %/test_types.c,$(TESTS_kernels))))
$(B)/gpu/%.o: tests/kernels/%.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,CC      $< for a GPU)
	$(Q)$(CC) -Itests/support/mini -include tests/gpu/on_device.h $(ALL_CPPFLAGS) $(ALL_CFLAGS) -Wno-unused-parameter -Wno-pedantic -MMD -MP -c -o $@ $<
$(GPU_TESTS): $(B)/gpu/%: $(B)/gpu/%.o $(call LIB,cpu ops base)
	$(call say,LINK    $@)
	$(Q)$(LINK) $(LIBS_worker) $(LDLIBS)
$(B)/gpu/bench_kernels.o: bench/gpu_kernels.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,CC      $<)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<
GPU_BENCH := $(if $(SAN)$(COVERAGE),,$(B)/gpu/bench_kernels)
$(GPU_BENCH): $(B)/gpu/bench_kernels.o $(call LIB,cpu ops base)
	$(call say,LINK    $@)
	$(Q)$(LINK) $(LIBS_worker) $(LDLIBS)
gpu-tests: $(GPU_TESTS) $(GPU_BENCH) ## the kernels' tests for a device, which make gpu-check runs there
tests check-e2e: gpu-tests
.PHONY: gpu-tests
-include $(addsuffix .d,$(GPU_TESTS) $(GPU_BENCH))

gpu-check: $(if $(wildcard $(PLUGIN)),,all gpu-tests) ## on a machine with a GPU: kernels, reference cases, ZeRO, NCCL, a killed rank; uses the plug-in there is
	$(Q)B='$(B)' tests/gpu/check.py

gpu-bench: $(if $(wildcard $(PLUGIN)),,all gpu-tests) ## on a machine with a GPU: training speed, PyTorch beside it; writes bench/results/
	$(Q)python3 bench/gpu.py --build '$(B)'

GPU_CARRY := $(B)/carry/dsrun-gpu.tar.xz
gpu-carry: all gpu-tests plugin ## an archive of a build for a machine that has a GPU and nothing else (docs/gpu.md)
	$(Q)tools/gpu-carry '$(B)' '$(GPU_CARRY)'

gpu-check-rehearsal: all fakes gpu-tests ## gpu-check and gpu-bench whole, on doubles of CUDA and NCCL, without a GPU
	$(Q)B='$(B)' tests/gpu/rehearse
.PHONY: gpu-check gpu-bench gpu-check-rehearsal gpu-carry
