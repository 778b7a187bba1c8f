# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A job that fails at the same step is started again and again.
s/^    if (stuck) {/    if (false) {/
