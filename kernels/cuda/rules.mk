# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The CUDA kernels: by the C++ compiler under the emulation of tests/cudaemu/ for the tests, and by
# nvcc, where there is one, into objects for the devices, of which tools/cuda.mk makes the plug-in.
CU   := $(addprefix kernels/cuda/,attention_bwd.cu attention_cached.cu attention_fwd.cu attention_plain.cu attention_sm90_bwd.cu attention_sm90_fwd.cu bias.cu digest.cu dropout.cu embed.cu experts_matmul.cu experts_rows.cu fp8.cu head_norm.cu lamb.cu loss.cu loss_part.cu norm.cu optim.cu pointwise.cu reorder.cu route.cu sumsq.cu verdict.cu)
CXX  ?= g++
# No C++ library is linked: no exceptions, no type information, no guards of statics.
EMU_CXXFLAGS = -std=c++17 $(EMU_OPT) $(if $(SAN),-g1,-g) -fPIC -Wall -Wextra $(if $(WERROR),-Werror) -fno-exceptions -fno-rtti \
    -fno-threadsafe-statics -fno-strict-aliasing -fno-asynchronous-unwind-tables -fcf-protection=none \
    -ffile-prefix-map=$(CURDIR)=. $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all \
    -fno-omit-frame-pointer) $(if $(COVERAGE),--coverage -fprofile-abs-path)
SRC_cuda := $(addprefix kernels/cuda/,blaslt.c choices.c choose.c cudnn.c matmul.c sdpa.c sdpa_graph.c table.c)
FAKE_DNN := tests/cudaemu/fake_cudnn.c tests/cudaemu/fake_cudnn_run.c
OBJ_emu  := $(patsubst %.c,$(B)/%.o,$(SRC_cuda)) $(B)/tests/cudaemu/fake_blaslt.o $(patsubst %.c,$(B)/%.o,$(FAKE_DNN)) $(addprefix $(B)/tests/cudaemu/,alone.emu.o cudaemu.emu.o planted.emu.o ptx.emu.o wgmma.emu.o) \
    $(patsubst %.cu,$(B)/%.emu.o,$(CU))

# Compiled once, for the tests of kernels and for the plug-in of tests/fakes, which no sanitized build has.
EMU_LAUNCH := $(if $(SAN),tests/cudaemu/cudaemu.cuh,tests/fakes/launch.cuh)
$(B)/%.emu.o: %.cu $(B)/flags | $(B)/deps-build.ok
	$(Q)mkdir -p $(@D)
	$(call say,EMU     $<)
	$(Q)$(CXX) -x c++ $(EMU_CXXFLAGS) -I. -include $(EMU_LAUNCH) -MMD -MP -c -o $@ $<

$(B)/%.emu.o: %.cc $(B)/flags | $(B)/deps-build.ok
	$(Q)mkdir -p $(@D)
	$(call say,EMU     $<)
	$(Q)$(CXX) $(EMU_CXXFLAGS) -I. -MMD -MP -c -o $@ $<

# The scheduler of the fibers tells the sanitizer what orders them, or on which stack it is; its own memory
# is not looked at: it goes by a fixed table of threads, and every switch would be checked a hundred times.
EMU_OPT := -O2
ifneq ($(SAN),)
$(B)/tests/cudaemu/cudaemu.emu.o: EMU_CXXFLAGS += -fno-sanitize=$(SAN) $(if $(findstring thread,$(SAN)),-DDS_CUDAEMU_TSAN) \
    $(if $(findstring address,$(SAN)),-DDS_CUDAEMU_ASAN)
endif

# Checks of AddressSanitizer and UBSan make these many types of few lines long to optimize: a minute of a processor
# that saves the tests of them ten seconds.  The others compute more.
ifneq ($(findstring address,$(SAN)),)
$(patsubst %.cu,$(B)/%.emu.o,$(CU)): EMU_OPT := -O1
$(patsubst %,$(B)/kernels/cuda/%.emu.o,embed loss loss_part norm optim pointwise): EMU_OPT := -O0
endif

$(B)/libemu.a: $(OBJ_emu)
	$(Q)rm -f $@; $(AR) rcs $@ $^

# Stand-ins for cuBLASLt and cuDNN, as libraries that can be loaded and as parts of the tests.
$(B)/tests/cudaemu/libfakelt.so: tests/cudaemu/fake_blaslt.c kernels/dtype.c $(B)/flags
$(B)/tests/cudaemu/libfakednn.so: $(FAKE_DNN) kernels/dtype.c $(B)/flags
$(B)/tests/cudaemu/libfake%.so:
	$(call say,LINK    $@)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -fPIC -fvisibility=default -shared -o $@ $(filter %.c,$^) -lm

# A driver without a device, so that cuDNN's own plans can be looked at.
$(B)/tests/cudaemu/libcuda.so.1: tests/cudaemu/no_driver.c $(B)/flags
	$(call say,LINK    $@)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -fPIC -fvisibility=default -shared -Wl,-soname,libcuda.so.1 -o $@ $<

# --- under instruments ----------------------------------------------------------------------------
# Every CUDA thread is a thread to ThreadSanitizer, so it sees races between the threads of a block;
# one order of threads and few shapes.  Criterion does not start there: tests/support/mini/.
EMU_TSAN := $(patsubst %.c,$(B)/%,$(filter-out %/test_emulation.c %/test_cudnn_plans.c,$(TESTS_cuda-emu)))
EMU_RACE := $(B)/tests/cudaemu/race
check-cuda-tsan: | $(B)/deps-test.ok ## the emulated CUDA kernels: races between threads of a block, by ThreadSanitizer
	$(Q)$(MAKE) B=$(B)/cudatsan SAN=thread CFLAGS='-O1 -g -fno-sanitize-recover=thread -Wno-unused-parameter' \
	    CPPFLAGS='-Itests/support/mini' TEST_LIBS='$(LIBS_worker)' cuda-tsan-check

# A part of check-asan, by itself.
check-cuda-asan: | $(B)/deps-test.ok ## the emulated CUDA kernels under AddressSanitizer, LeakSanitizer and UBSan
	$(Q)$(MAKE) $(ASAN_FLAGS) cuda-asan-check

cuda-asan-check: $(TESTBIN_cuda-emu)
	$(Q)B='$(B)' TEST_TIMEOUT=3600 tools/sanitized $(B)/reports tests/run $(TESTBIN_cuda-emu)

$(EMU_RACE): $(EMU_RACE).o $(call LIB,emu cpu ops base)
	$(call say,LINK    $@)
	$(Q)$(LINK) $(LIBS_worker) $(LDLIBS)

cuda-tsan-check: $(EMU_TSAN) $(EMU_RACE) $(B)/tests/cudaemu/libfakelt.so $(B)/tests/cudaemu/libfakednn.so
	$(Q)set -e; export B='$(B)' TSAN_OPTIONS=halt_on_error=1; setarch -R $(EMU_RACE); \
	if setarch -R $(EMU_RACE) unguarded >/dev/null 2>&1; then echo "check-cuda-tsan: the planted race was not noticed"; exit 1; fi; \
	for t in $(EMU_TSAN); do echo "$$t"; setarch -R $$t; done; \
	echo "check-cuda-tsan: 1 planted race noticed, $(words $(EMU_TSAN)) programs ran clean"

COVERAGE_MIN_cuda ?= 90
cuda-coverage: | $(B)/deps-test.ok $(B)/deps-cover.ok ## statement coverage of kernels/cuda under emulation; fails below COVERAGE_MIN_cuda (90)
	$(Q)$(MAKE) B=$(B)/cudacov COVERAGE=1 CFLAGS='-O1 -g' cuda-coverage-run
	$(Q)gcovr -r . --object-directory $(B)/cudacov --filter 'kernels/cuda/' --print-summary \
	    --txt $(B)/cuda-coverage.txt --fail-under-line $(COVERAGE_MIN_cuda)
	@cat $(B)/cuda-coverage.txt

cuda-coverage-run: $(TESTBIN_cuda-emu)
	$(Q)find $(B) -name '*.gcda' -delete; B='$(B)' TEST_TIMEOUT=1800 tests/run $(TESTBIN_cuda-emu)

# --- for devices ----------------------------------------------------------------------------------
CUDA_HOME ?= /usr/local/cuda
NVCC      := $(wildcard $(CUDA_HOME)/bin/nvcc)
NVCC_ARCH := $(foreach a,80 90 100,-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_100,code=compute_100
# blaslt.cu and cudnn.cu are compiled for what they assert.
CU_CUDA   := $(CU) kernels/cuda/blaslt.cu kernels/cuda/cudnn.cu

# An element's new value depends on that element alone, wherever a range was cut (op.h): which product of
# a sum would be fused with the addition is the compiler's choice, place by place.  These are bound by memory.
$(addprefix $(B)/kernels/cuda/,optim.cuda.o lamb.cuda.o verdict.cuda.o): NVCC_MATH := -fmad=false

comma := ,
# wgmma is in code for sm_90a alone, which is what a device of 9.0 runs of these.
$(addprefix $(B)/kernels/cuda/,attention_sm90_bwd.cuda.o attention_sm90_fwd.cuda.o): NVCC_SM90 := a

$(B)/%.cuda.o: %.cu $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,NVCC    $<)
	$(Q)$(NVCC) -std=c++17 -O3 -lineinfo -Xfatbin -compress-all $(if $(NVCC_SM90),$(subst compute_90$(comma)code=sm_90,compute_90a$(comma)code=sm_90a,$(NVCC_ARCH)),$(NVCC_ARCH)) -Werror all-warnings $(NVCC_MATH) $(NVCCFLAGS) -Xcompiler -fPIC,-fno-threadsafe-statics,-fno-exceptions,-fno-rtti \
	    -Xptxas -v -I. -MMD -MF $(@:.o=.d) -c -o $@ $< 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }

# What is written down of CUDA's runtime and of NCCL against their headers.
CUDA_ABI := $(B)/tests/fakes/abi.o
$(CUDA_ABI): tests/fakes/abi.cc $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,CXX     $<)
	$(Q)$(CXX) -std=c++17 -Wall -Wextra -Werror -isystem $(CUDA_HOME)/include -I. -MMD -MP -c -o $@ $<

ifeq ($(NVCC),)
cuda-objects: ## compile the CUDA kernels for sm_80, sm_90, sm_100 and PTX; NVCCFLAGS=
	@echo "cuda-objects: no nvcc at $(CUDA_HOME)/bin; name its folder with CUDA_HOME=" >&2; exit 1
else
cuda-objects: $(CUDA_ABI) $(patsubst %.cu,$(B)/%.cuda.o,$(CU_CUDA)) ## compile the CUDA kernels for sm_80, sm_90, sm_100 and PTX; NVCCFLAGS=
endif

cuda-report: cuda-objects ## what nvcc's assembler says of each CUDA kernel: registers, shared memory, resident warps; fails on a spill
	$(Q)tools/cuda-report $(patsubst %.cu,$(B)/%.cuda.ptxas,$(CU))

.PHONY: cuda-report cuda-objects check-cuda-asan cuda-asan-check check-cuda-tsan cuda-tsan-check cuda-coverage cuda-coverage-run
-include $(OBJ_emu:.o=.d) $(CUDA_ABI:.o=.d) $(patsubst %.cu,$(B)/%.cuda.d,$(CU_CUDA))
