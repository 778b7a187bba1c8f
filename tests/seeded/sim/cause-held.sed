# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A rank that was never started for want of a GPU is one that crashed.
/if (first->held)/{n;s/DS_CAUSE_START/DS_CAUSE_RANK/;}
