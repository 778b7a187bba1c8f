# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# What runs the tests under instruments, each in its own build folder.
#
# Criterion passes a test whose process leaked or whose sanitizer only printed; so reports go to
# files, and tools/sanitized fails when there is one.  A self-test first proves, with seeded defects,
# that the gate can go red.

ASAN_FLAGS = B=$(B)/asan SAN=address,undefined CFLAGS='-O1 -g1'
check-asan: | $(B)/deps-test.ok ## every test under AddressSanitizer, LeakSanitizer and UBSan
	$(Q)$(MAKE) $(ASAN_FLAGS) sanitized-check

asan-build: | $(B)/deps-test.ok ## what check-asan runs, built and not run
	$(Q)$(MAKE) $(ASAN_FLAGS) sanitized-build
	@echo "asan-build: all programs are built"

check-ubsan: check-asan

# Optimizing costs a test more time in the compiler than it saves in the test.  Not so where a test computes its own
# answers to compare with, of many numbers: comm, these of the kernels and of the emulated ones.  Fuzz targets are
# libFuzzer's, too.
COMPUTES  := attention attention_cached attention_sm90 embed fp8 loss loss_part matmul norm sdpa update
QUICK_OBJ := $(addsuffix .o,$(filter-out $(foreach t,$(COMPUTES),%/test_$(t) %/test_cuda_$(t)), \
    $(foreach r,$(filter-out comm,$(TEST_ROOMS)),$(TESTBIN_$(r)))))
ifneq ($(findstring address,$(SAN)),)
$(QUICK_OBJ): private override CFLAGS += -O0
endif

# Beds of hosts and long series of jobs run as built only: what they wait for has deadlines that an
# instrumented program does not keep, and their processes are covered by the scripts that are left.
# keys: libssh2 1.10 loses some bytes of every ECDSA key file and of one that is cut off, which
# LeakSanitizer reports with no frame but the library's.
UNSANITIZED   := bits campaign cgroup count cuda cuda_hosts cuda_kinds ddp elastic keys layouts memory parity replay schedulers simulator slurm spares ssh testbed valgrind
E2E_SANITIZED := $(filter-out $(foreach t,$(UNSANITIZED),tests/e2e/$(t).py tests/e2e/$(t).sh),$(E2E))

sanitized-check: sanitized-build sanitized-selftest
	@echo "sanitized-check: not run under sanitizers: $(UNSANITIZED)"
	$(Q)B='$(B)' TEST_TIMEOUT=1800 tools/sanitized $(B)/reports tests/run $(ALL_TESTBIN) $(E2E_SANITIZED)

# One program per defect; the gate must refuse each of them.
SEEDED := $(patsubst tests/seeded/%.c,$(B)/tests/seeded/%,$(sort $(wildcard tests/seeded/*.c)))
$(SEEDED): $(B)/%: $(B)/%.o
	$(call say,LINK    $@)
	$(Q)$(CC) $(ALL_CFLAGS) -pie $(ALL_LDFLAGS) -o $@ $< -lcriterion

sanitized-build: all tests $(SEEDED)

sanitized-selftest: $(SEEDED)
	$(Q)for t in $(SEEDED); do \
	    if B='$(B)' tools/sanitized $(B)/reports.selftest tests/run $$t >/dev/null 2>&1; then \
	        echo "sanitized-selftest: the gate did not notice $$t"; exit 1; fi; \
	done; echo "sanitized-selftest: $(words $(SEEDED)) seeded defects noticed"

# Criterion does not start under ThreadSanitizer: the tests of the threaded rooms are compiled against
# tests/support/mini/, a small replacement of the part of Criterion that they use.  Ranks are threads
# there, of the engine's tests and of the comm's, over shared memory and over TCP; kernels run on pools of
# one to three threads; a job then runs with every program instrumented.  Tables are smaller where a
# number takes that much longer.  Left out: what kills a rank, for a thread cannot be killed alone; and
# six programs: test_syscalls lives under ptrace, test_alloc brings a malloc() of its own, test_rates
# measures, test_broken and test_memory let calls fail one by one, which takes one order of them, and
# test_plugin stands before the dynamic loader.
TSAN_TESTS := tests/comm/test_lend.c tests/data/test_corpus.c $(filter-out %/test_rates.c,$(TESTS_kernels)) $(filter-out %/test_alloc.c %/test_broken.c %/test_memory.c %/test_plugin.c,$(TESTS_engine)) \
    $(addprefix tests/ckpt/,test_layout.c test_saver.c) \
    $(addprefix tests/comm/,test_comm.c test_common.c test_fault.c test_group.c test_layout.c test_mesh.c \
    test_net.c) tests/launcher/test_names.c
TSAN_BIN   := $(patsubst %.c,$(B)/%,$(TSAN_TESTS))
ONE_MAP    := $(call OBJ_OF,$(SRC_one_map))
# One process is all that test_disk has, and an mmap() of its own, that fails when it is told to.
TSAN_RANKS := $(filter-out %/test_disk,$(TSAN_BIN))
check-tsan: | $(B)/deps-test.ok ## everything with threads, and jobs, under ThreadSanitizer
	$(Q)$(MAKE) B=$(B)/tsan SAN=thread CFLAGS='-O1 -g -fno-sanitize-recover=thread' \
	    CPPFLAGS='-Itests/support/mini -DRANKS_AS_THREADS' TEST_LIBS='$(LIBS_worker) $(LIBS_text)' tsan-check

ifeq ($(SAN),thread)
$(TSAN_RANKS): $(ONE_MAP)
$(TSAN_RANKS): LDLIBS += -Wl,--wrap=mmap -Wl,--wrap=munmap
-include $(ONE_MAP:.o=.d)
endif

# Two that must be noticed: of a variable, and of memory that each thread maps for itself.
RACES := $(addprefix $(B)/tests/seeded/thread/,race shared)
$(RACES): %: %.o
	$(call say,LINK    $@)
	$(Q)$(CC) $(ALL_CFLAGS) -pie $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(LDLIBS)
ifeq ($(SAN),thread)
$(B)/tests/seeded/thread/shared: $(ONE_MAP)
$(B)/tests/seeded/thread/shared: LDLIBS += -Wl,--wrap=mmap -Wl,--wrap=munmap
endif

# TSAN=NAME: only the programs whose path holds it.
TSAN ?= tests/
tsan-check: $(TSAN_BIN) $(RACES) all
	$(Q)for t in $(RACES); do \
	    tools/sanitized $(B)/reports.selftest setarch -R $$t >$(B)/reports.selftest.log 2>&1 || true; \
	    grep -q 'WARNING: ThreadSanitizer: data race' $(B)/reports.selftest.log || \
	        { echo "check-tsan: the seeded race of $$t was not noticed"; exit 1; }; done
	@echo "check-tsan: $(words $(RACES)) seeded races noticed"
	$(Q)B='$(B)' TEST_TIMEOUT=1800 tools/sanitized $(B)/reports setarch -R tests/run \
	    $(foreach t,$(TSAN_BIN) tests/support/tsan_jobs.py,$(if $(findstring $(TSAN),$(t)),$(t)))

check-valgrind: all $(FAKE_WORKER) | $(B)/deps-test.ok $(B)/deps-valgrind.ok ## jobs with the agent, the workers or dsrun under memcheck
	$(Q)B='$(B)' tests/run tests/e2e/valgrind.py

# --- coverage -------------------------------------------------------------------------------------
COVERAGE_MIN ?= 90
COVERAGE_MIN_launcher ?= 90
COVERAGE_MIN_branch ?= 80
# The objects are compiled with -fexceptions, so that a thread that is ended unwinds: gcc then counts behind
# every call an edge for an exception.  No C code takes one, and --exclude-throw-branches leaves them out.  Sources in
# the build folder are the mutants of the simulator, and what is in tools/ runs before the counts begin.
coverage: | $(B)/deps-test.ok $(B)/deps-hosts.ok $(B)/deps-cover.ok ## coverage by all tests; fails below COVERAGE_MIN (90) % of lines, COVERAGE_MIN_branch (80), COVERAGE_MIN_launcher (90)
	$(Q)$(MAKE) B=$(B)/cov COVERAGE=1 CFLAGS='-O1 -g' coverage-run
	$(Q)gcovr -r . --object-directory $(B)/cov --exclude 'tests/' --exclude 'bench/' --exclude 'examples/' \
	    --exclude 'tools/' --exclude '$(B)/' \
	    --print-summary --txt $(B)/coverage.txt --csv $(B)/coverage.csv --exclude-throw-branches \
	    --fail-under-line $(COVERAGE_MIN) --fail-under-branch $(COVERAGE_MIN_branch); rc=$$?; \
	tools/coverage $(B)/coverage.csv launcher=$(COVERAGE_MIN_launcher) && exit $$rc
	@echo "per file: $(B)/coverage.txt"

# Counts are added to files beside the objects.  Tests of hosts log in as other users, who must be able to
# write there: every file is made first, by the shortest run of each program.
coverage-run: all tests
	$(Q)export TEST_SLOW=1 TEST_COUNTED=1 TEST_TIMEOUT=3600; \
	find $(B) -name '*.gcda' -delete; B='$(B)' tests/run $(ALL_TESTBIN); units=$$?; \
	for p in $(PROGRAMS) $(FAKE_WORKER); do $$p --version </dev/null >/dev/null 2>&1; done; chmod -R a+rwX $(B); \
	B='$(B)' tests/run $(E2E) && exit $$units

.PHONY: check-asan asan-build check-ubsan sanitized-build sanitized-check sanitized-selftest check-tsan tsan-check check-valgrind coverage coverage-run
