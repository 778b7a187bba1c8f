# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# tests/fuzz/files.mk lists the targets in FUZZ and the rooms each one links in FUZZROOMS_<target>.
# A target is fuzz_<target>.c with LLVMFuzzerTestOneInput(); its seeds are corpus/<target>/*, where
# *.hex is decoded first; <target>.dict is its dictionary, if there is one.
#
# `make check` replays the seeds with any compiler (replay.c); fuzz-smoke mutates them with libFuzzer
# under AddressSanitizer and UBSan.  An input that crashes stays in build/fuzz/crashes/: mend the
# code, then keep the input as a seed (xxd -p).
#
# `fuzz-jobs` draws whole jobs; tests/e2e/random_jobs.py --only makes one that failed again, and smaller.

FUZZ_TIME ?= 60
FUZZ_SEED ?= $(shell date +%s)
FUZZ_LIBS := $(LIBS_worker) -lsodium -lcrypto $(LIBS_text)

define fuzz_rule
$(B)/tests/fuzz/fuzz_$(1): $(B)/tests/fuzz/fuzz_$(1).o $$(call LIB,$$(FUZZROOMS_$(1)))
	$$(call say,LINK    $$@)
	$$(Q)$$(LINK) -fsanitize=fuzzer $$(FUZZ_LIBS) $$(LDLIBS)
$(B)/tests/fuzz/replay_$(1): $(B)/tests/fuzz/replay.o $(B)/tests/fuzz/fuzz_$(1).o $$(call LIB,$$(FUZZROOMS_$(1)))
	$$(call say,LINK    $$@)
	$$(Q)$$(LINK) $$(FUZZ_LIBS) $$(LDLIBS)
-include $(B)/tests/fuzz/fuzz_$(1).d
endef
$(foreach f,$(FUZZ),$(eval $(call fuzz_rule,$(f))))
-include $(B)/tests/fuzz/replay.d

fuzz-smoke: | $(B)/deps-build.ok $(B)/deps-fuzz.ok ## every parser under libFuzzer, FUZZ_TIME=60 seconds each
	$(Q)$(MAKE) B=$(B)/fuzz CC=clang SAN=address,undefined CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' fuzz-run

fuzz-run: $(foreach f,$(FUZZ),$(B)/tests/fuzz/fuzz_$(f))
	$(Q)for f in $(FUZZ); do FUZZ_TIME=$(FUZZ_TIME) tools/fuzz $(B) $$f || exit 1; done

fuzz-jobs: all | $(B)/deps-hosts.ok ## random jobs in random layouts for FUZZ_TIME=60 seconds, from FUZZ_SEED
	$(Q)B='$(B)' tests/e2e/random_jobs.py --seconds $(FUZZ_TIME) --seed $(FUZZ_SEED)

.PHONY: fuzz-smoke fuzz-run fuzz-jobs
