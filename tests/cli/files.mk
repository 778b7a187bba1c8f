# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_cli :=
TESTROOMS_cli :=
