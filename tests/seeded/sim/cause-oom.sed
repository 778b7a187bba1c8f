# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A rank that was killed for memory is one that crashed.
s/return DS_CAUSE_OOM;/return DS_CAUSE_RANK;/
