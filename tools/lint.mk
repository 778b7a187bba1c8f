# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# What reads the sources instead of running them.  `make lint` is all of it but `analyze`.

LINT := check-deps check-headers check-docs tidy format-check lint-sh lint-c warnings
C_FILES  = $(shell git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.cuh')
SH_FILES = $(shell git ls-files ':!man/*' | xargs grep -lE '^\#!/(bin/sh|usr/bin/env bash|bin/bash)' 2>/dev/null)
PY_FILES = $(shell git ls-files | xargs grep -lE '^\#!/usr/bin/env python3' 2>/dev/null)

lint: $(LINT) hardening-check ## every static check of the project
	@echo "lint: all checks passed"

check-deps: | $(B)/deps-test.ok ## who may include whom: the folder table of docs/architecture.md
	$(Q)tools/check-deps

# Each header is compiled by itself: it includes all that it uses.
check-headers: | $(B)/deps-lint.ok ## every header compiles alone
	$(call say,HEADERS)
	$(Q)for h in $$(git ls-files '*.h' | grep -v '^tests/support/mini/'); do \
	    printf '#include "%s"\nextern int ds_alone;\n' $$h | $(CC) $(ALL_CPPFLAGS) $(DS_CFLAGS) -DDS_CPU_ISA=base -DDS_CPU_ISA_base \
	        -Werror -Wno-unused-macros -x c -fsyntax-only - || { echo "check-headers: $$h does not compile alone"; exit 1; }; \
	done

check-docs: all | $(B)/deps-lint.ok ## documents agree with the code: options, keys, exit codes, links, targets
	$(Q)B='$(B)' tools/check-docs

tidy: | $(B)/deps-test.ok ## the ratchets: lengths, licence lines, banned calls, stray files
	$(Q)tools/tidy $(LISTED)

LISTED = cli/dsrun.c cli/agent.c cli/worker.c $(SRC_cuda) $(PLUGIN_C) $(FAKE_C) $(CU_CUDA) tests/cudaemu/planted.cu tests/cudaemu/fake_blaslt.c $(FAKE_DNN) tests/cudaemu/no_driver.c tests/cudaemu/race.c $(foreach r,$(ROOMS),$(SRC_$(r)) $(SRC_isa_$(r))) \
    $(foreach r,$(TEST_ROOMS),$(TESTS_$(r))) $(TESTS_e2e) $(SRC_one_map) $(NO_CERTS) $(TEST_nccl)

format: | $(B)/deps-lint.ok ## rewrite the C sources with clang-format
	$(Q)clang-format -i $(C_FILES)

format-check: | $(B)/deps-lint.ok
	$(call say,FORMAT)
	$(Q)clang-format --dry-run --Werror $(C_FILES)

lint-sh: | $(B)/deps-lint.ok
	$(call say,SHELLCHECK)
	$(Q)shellcheck -x -e SC2317 $(SH_FILES)
	$(Q)for f in $(PY_FILES); do python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' $$f || exit 1; done

lint-c: | $(B)/deps-lint.ok
	$(call say,CPPCHECK)
	$(Q)mkdir -p $(B)/cppcheck; cppcheck --quiet -j2 --std=c11 --error-exitcode=2 --inline-suppr \
	    --cppcheck-build-dir=$(B)/cppcheck --enable=warning,portability --suppressions-list=tools/cppcheck.supp \
	    -I. -D_GNU_SOURCE -DDS_VERSION='"$(VERSION)"' -DDS_CPU_ISA=base -DDS_CPU_ISA_base \
	    $(filter-out tests/% bench/%,$(filter %.c,$(C_FILES)))

# Where warnings of gcc are errors in this build folder already, it is the proof.  clang finds what it warns of
# before it optimizes: its programs are linked, of the tests the objects are made.  The emulated kernels are C++,
# and of $(CXX) in every build.
GCC_DONE := $(and $(WERROR),$(filter gcc,$(CC)))
warnings: $(if $(GCC_DONE),all tests) | $(B)/deps-lint.ok ## zero warnings with gcc and with clang, tests included
	$(Q)$(if $(GCC_DONE),:,$(MAKE) B=$(B)/gcc CC=gcc WERROR=1 all tests)
	$(Q)$(MAKE) B=$(B)/clang CC=clang WERROR=1 CFLAGS='-O0 -g0' all test-objects

analyze: | $(B)/deps-lint.ok ## the slow analyzers: gcc -fanalyzer, clang-tidy
	$(Q)$(MAKE) B=$(B)/analyzer CC=gcc CFLAGS='-O1 -fanalyzer -Werror' all
	$(Q)clang-tidy --quiet $(filter-out tests/%,$(filter %.c,$(C_FILES))) -- -std=c11 $(ALL_CPPFLAGS) \
	    -DDS_CPU_ISA=v3 -DDS_CPU_ISA_v3 $(ISA_v3)

hardening-check: programs ## the programs carry their hardening: PIE, RELRO, no text relocations, ...
	$(Q)tools/hardening-check $(PROGRAMS)

hooks: ## let git run this project's hooks: checks before a commit, sign-off on its message
	git config core.hooksPath .githooks

# The same sources give the same bits in any folder.
repro: | $(B)/deps-build.ok ## build twice in two folders and compare the programs
	$(Q)tools/repro

.PHONY: lint $(LINT) format analyze hardening-check hooks repro
