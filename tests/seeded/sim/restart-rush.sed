# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# No time between attempts.
s/\*delay_ms = pause_ms(.*);/*delay_ms = 0 * pause_ms(1, 1);/
