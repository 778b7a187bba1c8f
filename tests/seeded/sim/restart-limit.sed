# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# One restart too many.
s/restart->restarts >= facts->limit/restart->restarts > facts->limit/
