# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
SRC_base := base/error.c base/utf8.c base/log.c base/clock.c base/buf.c base/arena.c base/fsio.c base/json.c
