# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
# cli/dsrun.c, cli/agent.c and cli/worker.c are the mains.
SRC_cli :=
