# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
SRC_base := base/error.c
