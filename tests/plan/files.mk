# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_plan := tests/plan/test_model.c tests/plan/test_stash.c tests/plan/test_plan.c tests/plan/test_held.c tests/plan/test_logits.c \
    tests/plan/test_adapters.c tests/plan/test_fp8.c tests/plan/test_offload.c tests/plan/test_owner.c tests/plan/test_pieces.c tests/plan/test_optim.c tests/plan/test_recompute.c tests/plan/test_request.c tests/plan/test_scaler.c tests/plan/test_schedule.c tests/plan/test_spec.c tests/plan/test_stages.c tests/plan/test_pipeline.c tests/plan/test_team.c
TESTROOMS_plan := plan comm job ops base
