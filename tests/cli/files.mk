# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_cli := tests/cli/test_console.c tests/cli/test_convert.c tests/cli/test_terminal.c tests/cli/test_metrics.c tests/cli/test_env.c tests/cli/test_fold.c tests/cli/test_opt.c tests/cli/test_load_job.c tests/cli/test_page.c tests/cli/test_ps.c tests/cli/test_scarce.c \
    tests/cli/test_tail.c tests/cli/test_text_out.c tests/cli/test_tfevents.c tests/cli/test_watch.c
TESTROOMS_cli := cli launcher plan comm job ops base
$(B)/tests/cli/test_scarce: private DS_LDFLAGS += $(FAULT_WRAPS)
