# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A long save is a hang.
s/pulse->steps == 0 || pulse->busy > 0)/pulse->steps == 0)/
