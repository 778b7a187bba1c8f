# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# No time between attempts.
s/enum { FIRST_MS = 1000,/enum { FIRST_MS = 1,/
