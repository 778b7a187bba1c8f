# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The one make file of the graph.  Each folder lists its sources in a files.mk,
# as SRC_<room>; a room becomes build/lib<room>.a and the programs link rooms.
# Groups of targets that build nothing of the product stand in tools/*.mk.
#
# User flags (CC CFLAGS CPPFLAGS LDFLAGS LDLIBS) come last and are only added to.
# B=DIR builds elsewhere, V=1 shows the commands, WERROR=1 makes warnings errors.

B       ?= build
CC      ?= cc
Q       := $(if $(V),,@)
MAKEFLAGS += --no-print-directory
VERSION := $(shell cat VERSION)
say      = $(if $(V),,@echo "  $(1)")

all: programs man ## build the programs and the man pages

ROOMS := base ops cpu launcher job plan cost comm text data ckpt engine cli
LISTS := base/files.mk kernels/files.mk launcher/files.mk runtime/files.mk cli/files.mk
include $(LISTS)
-include $(sort $(wildcard tests/*/files.mk))
include tools/flags.mk

ALL_CPPFLAGS = -I. -D_GNU_SOURCE -DDS_VERSION='"$(VERSION)"' $(DS_CPPFLAGS) $(CPPFLAGS)
ALL_CFLAGS   = $(DS_CFLAGS) $(CFLAGS)
ALL_LDFLAGS  = $(DS_LDFLAGS) $(LDFLAGS)

# --- what must be installed -------------------------------------------------------------------
# Groups of packages (see tools/deps), probed once per build folder.  The commands of the README
# install what is missing; a plain `make` only names it.
DEPS_INSTALL := demo check bench lint deps check-% coverage fuzz fuzz-% analyze hooks
DEPS_FLAG     = $(if $(filter $(DEPS_INSTALL),$(MAKECMDGOALS)),,--check)

$(B)/deps-%.ok: tools/deps
	$(Q)mkdir -p $(@D); CC='$(CC)' tools/deps $(DEPS_FLAG) $* && touch $@

# Hosts for end-to-end tests need root in any case: without it nothing is installed, and where they cannot
# be raised the tests that use them are skipped by name.
$(B)/deps-hosts.ok: tools/deps
	$(Q)mkdir -p $(@D); if [ "$$(id -u)" -ne 0 ] || tools/deps $(DEPS_FLAG) hosts; then touch $@; fi

deps: $(B)/deps-build.ok $(B)/deps-test.ok ## install the missing packages that build and tests need

# --- objects and archives -----------------------------------------------------------------------
OBJ_OF = $(patsubst %.c,$(B)/%.o,$(1))
ISA    := base $(if $(filter x86_64-%,$(shell $(CC) -dumpmachine)),v3 v4)
ISA_base :=
ISA_v3   := -march=x86-64-v3 -mprefer-vector-width=256
ISA_v4   := -march=x86-64-v4 -mprefer-vector-width=512

# Rewritten only when the flags differ, so that a flag change rebuilds and nothing else does.
$(B)/flags: FORCE | $(B)/deps-build.ok
	$(Q)mkdir -p $(B); echo '$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS)' >$@.new; \
	cmp -s $@.new $@ && rm -f $@.new || mv -f $@.new $@

$(B)/%.o: %.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(call say,CC      $<)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(DS_CFLAGS) $(CFLAGS_$(subst /,_,$(basename $<))) $(CFLAGS) -MMD -MP -c -o $@ $<

# Kernels that are compiled once per instruction set; cpuid chooses at run time.
define isa_rule
$(B)/%.$(1).o: %.c $(B)/flags
	$$(Q)mkdir -p $$(@D)
	$$(call say,CC      $$< ($(1)))
	$$(Q)$$(CC) $$(ALL_CPPFLAGS) -DDS_CPU_ISA=$(1) -DDS_CPU_ISA_$(1) $$(DS_CFLAGS) $$(ISA_$(1)) $$(CFLAGS_kernels) $$(CFLAGS) -MMD -MP -c -o $$@ $$<
endef
$(foreach i,$(ISA),$(eval $(call isa_rule,$(i))))

define room_rule
OBJ_$(1) := $$(call OBJ_OF,$$(SRC_$(1))) $$(foreach i,$$(ISA),$$(patsubst %.c,$$(B)/%.$$(i).o,$$(SRC_isa_$(1))))
$(B)/lib$(1).a: $$(OBJ_$(1)) $(LISTS)
	$$(Q)mkdir -p $$(@D); rm -f $$@; $$(AR) rcs $$@ $$(OBJ_$(1))
-include $$(OBJ_$(1):.o=.d)
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))

LIB   = $(foreach r,$(1),$(B)/lib$(r).a)
GROUP = -Wl,--start-group $(filter %.a,$^) -Wl,--end-group
LINK  = $(CC) $(ALL_CFLAGS) -pie $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(GROUP)

# --- programs -----------------------------------------------------------------------------------
PROGRAMS := $(B)/bin/dsrun $(B)/libexec/dsrun/dsrun-agent $(B)/libexec/dsrun/dsrun-worker
programs: $(PROGRAMS)

LIBS_text   := -lpcre2-8 -lutf8proc
# libcrypto first: it looks up thousands of its own names when it is loaded, each in this order.
LIBS_dsrun  := -lcrypto -lssh2 -lsodium -lyaml -ljansson -lxxhash $(LIBS_text) -lm
# Pushed to bare hosts, so what it needs beyond libc is inside it, and what only a debugger reads is in a
# file beside it, .debug/dsrun-agent.debug: each start hashes what may be pushed, here and on every host.
LIBS_agent  := -l:libsodium.a
OBJCOPY     ?= objcopy
SPLIT_DEBUG  = mkdir -p $(@D)/.debug && $(OBJCOPY) --only-keep-debug $@ $(@D)/.debug/$(@F).debug && \
    $(OBJCOPY) --strip-all --add-gnu-debuglink=$(@D)/.debug/$(@F).debug $@
LIBS_worker := -ldnnl -lsodium -lgomp -lyaml -ljansson -lxxhash -lm -lpthread

$(B)/bin/dsrun: $(B)/cli/dsrun.o $(call LIB,cli launcher data text ckpt cost plan comm job ops base)
$(B)/bin/dsrun: LIBS = $(LIBS_dsrun)
$(B)/libexec/dsrun/dsrun-agent: $(B)/cli/agent.o $(call LIB,launcher base)
$(B)/libexec/dsrun/dsrun-agent: LIBS = $(LIBS_agent)
$(B)/libexec/dsrun/dsrun-agent: FINISH = $(if $(SAN),,$(SPLIT_DEBUG))
$(B)/libexec/dsrun/dsrun-worker: $(B)/cli/worker.o $(call LIB,engine data ckpt cost comm plan job cpu ops base)
$(B)/libexec/dsrun/dsrun-worker: LIBS = $(LIBS_worker)

# One id for the programs of a build: the version and a hash of all sources and flags.
SOURCES := $(sort $(wildcard $(foreach d,base kernels launcher runtime cli,$(d)/*.[ch] $(d)/*/*.[ch] $(d)/*/*.cu $(d)/*/*.cuh)))
$(B)/build-id: FORCE $(B)/flags
	$(Q)echo "$(VERSION)-$$(cat $(B)/flags $(SOURCES) | sha256sum | cut -c1-12)" >$@.new; \
	cmp -s $@.new $@ && rm -f $@.new || mv -f $@.new $@
$(B)/base/build.id.o: base/build.c $(B)/build-id
	$(Q)mkdir -p $(@D); id=$$(cat $(B)/build-id); \
	$(CC) -DDS_BUILD_ID="\"$$id\"" $(ALL_CPPFLAGS) $(DS_CFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(PROGRAMS): $(B)/base/build.id.o

$(PROGRAMS):
	$(Q)mkdir -p $(@D)
	$(call say,LINK    $@)
	$(Q)$(LINK) $(LIBS) $(LDLIBS)
	$(if $(FINISH),$(Q)$(FINISH))

-include $(B)/cli/dsrun.d $(B)/cli/agent.d $(B)/cli/worker.d

# --- tests --------------------------------------------------------------------------------------
# tests/<room>/files.mk lists TESTS_<room> (one Criterion program per test_*.c) and the rooms it
# links in TESTROOMS_<room>.  Every executable file right under tests/e2e/ is a test that prints TAP.
TEST_ROOMS := base kernels cuda-emu launcher job plan cost comm text data ckpt engine cli
NO_CERTS   := tests/support/no_certificates.c
TEST_LIBS  := -Wl,--export-dynamic-symbol=mbedtls_x509_crt_parse_file -lcriterion $(LIBS_worker) -lsodium -lssh2 -lcrypto $(LIBS_text)
define test_rule
TESTBIN_$(1) := $$(patsubst %.c,$$(B)/%,$$(TESTS_$(1)))
$$(TESTBIN_$(1):=.o): | $(B)/deps-test.ok
$$(TESTBIN_$(1)): $$(B)/%: $$(B)/%.o $$(call OBJ_OF,$$(NO_CERTS)) $$(call LIB,$$(TESTROOMS_$(1)))
	$$(call say,LINK    $$@)
	$$(Q)$$(LINK) $$(TEST_LIBS) $$(LDLIBS)
check-$(1): $$(TESTBIN_$(1))
	$$(Q)B='$$(B)' tests/run $$(TESTBIN_$(1))
-include $$(addsuffix .d,$$(TESTBIN_$(1)))
endef
$(foreach r,$(TEST_ROOMS),$(eval $(call test_rule,$(r))))

ALL_TESTBIN := $(foreach r,$(TEST_ROOMS),$(TESTBIN_$(r))) \
    $(foreach f,$(FUZZ),$(B)/tests/fuzz/replay_$(f))
E2E         := $(sort $(shell find tests/e2e -maxdepth 1 -type f -perm -u+x 2>/dev/null))

tests: $(ALL_TESTBIN)

check: all tests | $(B)/deps-hosts.ok ## build everything, run every test; last line: N passed, N failed, N skipped
	$(Q)B='$(B)' tests/run $(ALL_TESTBIN) $(E2E)

check-unit: all tests ## the unit tests only
	$(Q)B='$(B)' tests/run $(ALL_TESTBIN)

check-aarch64: | $(B)/deps-cross.ok ## the unit tests of a build for aarch64 under QEMU, or those that CROSS="PART ..." names
	$(Q)tools/cross '$(B)/cross' $(CROSS)

check-memory: all ## planned against measured memory, up to 350 million parameters; 1 to 4 ranks
	$(Q)DSRUN_MEMORY=full TEST_TIMEOUT=7200 B='$(B)' tests/run tests/e2e/memory.py

check-e2e: all fakes | $(B)/deps-test.ok $(B)/deps-hosts.ok ## the end-to-end tests only
	$(Q)B='$(B)' tests/run $(E2E)

demo: all ## train the small model of examples/tiny-gpt on this project's own text, 2 ranks
	$(B)/bin/dsrun examples/tiny-gpt/train.yaml

clean: ## remove the build folder
	rm -rf $(B)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

include tools/install.mk tools/lint.mk tools/sanitize.mk
include kernels/cuda/rules.mk tools/cuda.mk tests/fakes/rules.mk
-include man/rules.mk bench/rules.mk tests/fuzz/rules.mk tests/sim/rules.mk

# Test programs are many, and lld links one in half the time; the product is linked by the compiler's own linker.
# One that compiles for another machine may not find it.
ifneq ($(shell echo 'int main(void) { return 0; }' | $(CC) -fuse-ld=lld -x c -o /dev/null - 2>/dev/null && echo it),)
$(ALL_TESTBIN) $(GPU_TESTS) $(SIM) $(MUTANTS) $(SEEDED) $(RACES) $(FAKE_LIBS) $(FAKES)/dsrun-cuda.so: \
    private ALL_LDFLAGS = $(DS_LDFLAGS) -fuse-ld=lld $(LDFLAGS)
endif

# Every object that `tests` has $(CC) make, beside those of `all`.
test-objects: $(foreach r,$(TEST_ROOMS),$(addsuffix .o,$(filter-out $(NCCL_TEST),$(TESTBIN_$(r))))) \
    $(NCCL_TEST_OBJ) $(addsuffix .o,$(FAKE_WORKER) $(GPU_TESTS) $(GPU_BENCH)) $(SIM_OBJ) $(call OBJ_OF,$(NO_CERTS)) \
    $(patsubst %.c,$(B)/fakes/%.o,$(PLUGIN_C) $(FAKE_C)) $(patsubst %.c,$(B)/%.o,$(SRC_cuda) tests/cudaemu/fake_blaslt.c $(FAKE_DNN)) \
    $(B)/tests/fuzz/replay.o $(patsubst %,$(B)/tests/fuzz/fuzz_%.o,$(FUZZ))

FORCE:
.PHONY: all programs deps tests test-objects check check-aarch64 check-unit check-memory check-e2e demo man clean help FORCE
.SECONDARY:
.DELETE_ON_ERROR:
