# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# dsrun-cuda.so of the tests: the product's C sources, its kernels under emulation, and doubles of
# CUDA's runtime, cuBLASLt and NCCL, in a libexec folder of their own beside a worker and an agent.
# The emulation knows x86-64 and aarch64 only, and its fibers and sanitizers do not go together across dlopen().
FAKES     := $(B)/fakes/libexec
FAKE_LIBS := $(addprefix $(FAKES)/,libdsfakecuda.so libcuda.so.1 libnvidia-ml.so.1 libnccl.so.2 libcublasLt.so.13 libcudnn.so.9)
FAKE_OBJ  := $(patsubst %.c,$(B)/fakes/%.o,$(PLUGIN_C))
FAKE_EMU  := $(patsubst %.cu,$(B)/%.emu.o,$(CU)) $(addprefix $(B)/tests/cudaemu/,cudaemu.emu.o ptx.emu.o wgmma.emu.o)
FAKE_C    := $(addprefix tests/fakes/,calls.c cudart.c device.c graph.c libcuda.c libnvidia_ml.c nccl.c nccl_calls.c cublaslt.c cudnn.c)
fakes: $(if $(SAN)$(filter-out x86_64-% aarch64-%,$(shell $(CC) -dumpmachine)),,$(FAKES)/dsrun-cuda.so $(FAKES)/dsrun-worker $(FAKES)/dsrun-agent)

$(B)/fakes/%.o: %.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,FAKE    $<)
	$(Q)$(CC) -Itests/fakes/include $(ALL_CPPFLAGS) $(DS_CFLAGS) $(CFLAGS) -fPIC $(if $(filter tests/%,$<),-fvisibility=default) \
	    -MMD -MP -c -o $@ $<

FAKE_LINK = $(CC) -shared $(ALL_LDFLAGS) -Wl,-z,defs -Wl,-rpath,'$$ORIGIN' -L$(FAKES) -o $@ $(filter %.o,$^)
$(FAKES)/libdsfakecuda.so: $(addprefix $(B)/fakes/tests/fakes/,calls.o cudart.o device.o graph.o)
	$(Q)mkdir -p $(@D)
	$(call say,LINK    $@)
	$(Q)$(FAKE_LINK) -Wl,-soname,libdsfakecuda.so
$(FAKES)/libcuda.so.1: $(B)/fakes/tests/fakes/libcuda.o
	$(Q)mkdir -p $(@D)
	$(call say,LINK    $@)
	$(Q)$(CC) -shared $(ALL_LDFLAGS) -o $@ $<
$(FAKES)/libnvidia-ml.so.1: $(B)/fakes/tests/fakes/libnvidia_ml.o
	$(Q)mkdir -p $(@D)
	$(call say,LINK    $@)
	$(Q)$(CC) -shared $(ALL_LDFLAGS) -o $@ $<
$(FAKES)/libnccl.so.2: $(addprefix $(B)/fakes/tests/fakes/,nccl.o nccl_calls.o) $(FAKES)/libdsfakecuda.so
	$(call say,LINK    $@)
	$(Q)$(FAKE_LINK) -ldsfakecuda
$(FAKES)/libcublasLt.so.13: $(B)/fakes/tests/fakes/cublaslt.o $(B)/fakes/kernels/dtype.o $(FAKES)/libdsfakecuda.so
	$(call say,LINK    $@)
	$(Q)$(FAKE_LINK) -ldsfakecuda -lm
$(FAKES)/libcudnn.so.9: $(B)/fakes/tests/fakes/cudnn.o $(B)/fakes/tests/cudaemu/fake_cudnn_run.o $(B)/fakes/kernels/dtype.o $(FAKES)/libdsfakecuda.so
	$(call say,LINK    $@)
	$(Q)$(FAKE_LINK) -ldsfakecuda -lm
$(FAKES)/dsrun-cuda.so: $(FAKE_OBJ) $(FAKE_EMU) $(B)/plugin/build-id.o $(FAKE_LIBS)
	$(call say,LINK    $@)
	$(Q)$(FAKE_LINK) -ldsfakecuda -lm
$(FAKES)/%: $(B)/libexec/dsrun/%
	$(Q)mkdir -p $(@D); cp $< $@

tests: fakes
.PHONY: fakes

# The backend `nccl` alone, on the doubles and without a kernel, so that sanitizers can look at it.  It is
# linked with the double of NCCL: dlopen() by way of a sanitizer does not look where the program says.
NCCL_TEST     := $(patsubst %.c,$(B)/%,$(TEST_nccl))
NCCL_TEST_OBJ := $(addprefix $(B)/fakes/,$(TEST_nccl:.c=.o) $(addprefix runtime/comm/,nccl.o nccl_lib.o nccl_watch.o))
TESTBIN_comm  += $(NCCL_TEST)
ALL_TESTBIN   += $(NCCL_TEST)
TSAN_BIN      += $(NCCL_TEST)
tests check-comm tsan-check: $(NCCL_TEST)
$(NCCL_TEST): $(NCCL_TEST_OBJ) $(call OBJ_OF,$(NO_CERTS)) $(call LIB,comm cpu ops base) | $(addprefix $(FAKES)/,libdsfakecuda.so libnccl.so.2)
	$(Q)mkdir -p $(@D)
	$(call say,LINK    $@)
	$(Q)$(LINK) -L$(FAKES) -Wl,--no-as-needed -l:libnccl.so.2 -Wl,--as-needed -ldsfakecuda -Wl,-rpath,'$$ORIGIN/../../fakes/libexec' $(TEST_LIBS) $(LDLIBS)
$(B)/fakes/$(TEST_nccl:.c=.o): | $(B)/deps-test.ok
-include $(NCCL_TEST_OBJ:.o=.d)

-include $(FAKE_OBJ:.o=.d) $(patsubst %.c,$(B)/fakes/%.d,$(FAKE_C))
