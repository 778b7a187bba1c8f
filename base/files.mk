# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
SRC_base := base/build.c base/error.c base/utf8.c base/log.c base/clock.c base/buf.c base/arena.c base/fsio.c base/json.c \
    base/wire.c base/rng.c base/json_read.c base/yaml.c base/nearest.c base/keys.c base/keys_value.c base/keys_print.c \
    base/rendezvous.c base/crc32c.c \
    base/keys_rows.c
# The same bits on every machine: no fused multiply-add; sqrtf as an instruction, so it vectorises.
CFLAGS_base_rng := -O3 -ffp-contract=off -fno-math-errno
