# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The one make file of the graph.  Each folder lists its sources in a files.mk,
# as SRC_<room>; a room becomes build/lib<room>.a and the programs link rooms.
# User flags (CC CFLAGS CPPFLAGS LDFLAGS LDLIBS) come last and are only added to.

B      ?= build
CC     ?= cc
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
Q      := $(if $(V),,@)
VERSION := $(shell cat VERSION)

all: programs

ROOMS := base ops cpu launcher job plan comm data ckpt engine cli
include base/files.mk kernels/files.mk launcher/files.mk runtime/files.mk cli/files.mk
-include tests/*/files.mk

include tools/flags.mk

ALL_CPPFLAGS = -I. -D_GNU_SOURCE -DDS_VERSION='"$(VERSION)"' $(DS_CPPFLAGS) $(CPPFLAGS)
ALL_CFLAGS   = $(DS_CFLAGS) $(CFLAGS)
ALL_LDFLAGS  = $(DS_LDFLAGS) $(LDFLAGS)

# --- objects and archives -------------------------------------------------------------------
OBJ_OF = $(patsubst %.c,$(B)/%.o,$(1))
ISA    := base v3 v4
ISA_base :=
ISA_v3   := -march=x86-64-v3 -mprefer-vector-width=256
ISA_v4   := -march=x86-64-v4 -mprefer-vector-width=512

$(B)/flags: FORCE
	$(Q)mkdir -p $(B); echo '$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS)' > $@

$(B)/%.o: %.c $(B)/flags
	$(Q)mkdir -p $(@D)
	$(if $(V),,@echo "  CC      $<")
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(CFLAGS_$(subst /,_,$(basename $<))) -MMD -MP -c -o $@ $<

# Kernels that are compiled once per instruction set; cpuid chooses at run time.
define isa_rule
$(B)/%.$(1).o: %.c $(B)/flags
	$$(Q)mkdir -p $$(@D)
	$$(if $$(V),,@echo "  CC      $$< ($(1))")
	$$(Q)$$(CC) $$(ALL_CPPFLAGS) -DDS_CPU_ISA=$(1) -DDS_CPU_ISA_$(1) $$(ALL_CFLAGS) $$(ISA_$(1)) $$(CFLAGS_kernels) -MMD -MP -c -o $$@ $$<
endef
$(foreach i,$(ISA),$(eval $(call isa_rule,$(i))))

define room_rule
OBJ_$(1) := $$(call OBJ_OF,$$(SRC_$(1))) $$(foreach i,$$(ISA),$$(patsubst %.c,$$(B)/%.$$(i).o,$$(SRC_isa_$(1))))
$(B)/lib$(1).a: $$(OBJ_$(1))
	$$(Q)mkdir -p $$(@D); rm -f $$@; $$(AR) rcs $$@ $$^
-include $$(OBJ_$(1):.o=.d)
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))

LIB = $(foreach r,$(1),$(B)/lib$(r).a)
GROUP = -Wl,--start-group $(filter %.a,$^) -Wl,--end-group

# --- programs ---------------------------------------------------------------------------------
PROGRAMS := $(B)/bin/dsrun $(B)/libexec/dsrun/dsrun-agent $(B)/libexec/dsrun/dsrun-worker
programs: $(PROGRAMS)

LIBS_dsrun  := -lyaml -ljansson -lxxhash -lm
LIBS_agent  :=
LIBS_worker := -ldnnl -lgomp -lyaml -ljansson -lxxhash -lm -lpthread

$(B)/bin/dsrun: $(B)/cli/dsrun.o $(call LIB,cli launcher data ckpt plan job ops base)
$(B)/bin/dsrun: LIBS = $(LIBS_dsrun)
$(B)/libexec/dsrun/dsrun-agent: $(B)/cli/agent.o $(call LIB,launcher base)
$(B)/libexec/dsrun/dsrun-agent: LIBS = $(LIBS_agent)
$(B)/libexec/dsrun/dsrun-worker: $(B)/cli/worker.o $(call LIB,engine data ckpt comm plan job cpu ops base)
$(B)/libexec/dsrun/dsrun-worker: LIBS = $(LIBS_worker)

$(PROGRAMS):
	$(Q)mkdir -p $(@D)
	$(if $(V),,@echo "  LINK    $@")
	$(Q)$(CC) $(ALL_CFLAGS) -pie $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(GROUP) $(LIBS) $(LDLIBS)

-include $(B)/cli/dsrun.d $(B)/cli/agent.d $(B)/cli/worker.d

# --- unit tests -------------------------------------------------------------------------------
# tests/<room>/files.mk lists TESTS_<room> (one Criterion program per test_*.c) and the rooms it links
# in TESTROOMS_<room>.
TEST_ROOMS := base kernels launcher job plan comm data ckpt engine cli
TEST_LIBS  := -lcriterion $(LIBS_worker)
define test_rule
TESTBIN_$(1) := $$(patsubst %.c,$(B)/%,$$(TESTS_$(1)))
$$(TESTBIN_$(1)): $(B)/%: $(B)/%.o $$(call LIB,$$(TESTROOMS_$(1)))
	$$(if $$(V),,@echo "  LINK    $$@")
	$$(Q)$$(CC) $$(ALL_CFLAGS) -pie $$(ALL_LDFLAGS) -o $$@ $$(filter %.o,$$^) $$(GROUP) $$(TEST_LIBS) $$(LDLIBS)
check-$(1): $$(TESTBIN_$(1)) programs
	$$(Q)tests/run $$(TESTBIN_$(1))
-include $$(addsuffix .d,$$(TESTBIN_$(1)))
endef
$(foreach r,$(TEST_ROOMS),$(eval $(call test_rule,$(r))))
ALL_TESTBIN := $(foreach r,$(TEST_ROOMS),$(TESTBIN_$(r)))
tests: $(ALL_TESTBIN)

clean:
	rm -rf $(B)

FORCE:
.PHONY: all programs tests clean FORCE
.SECONDARY:
.DELETE_ON_ERROR:
