# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A host of which another job holds a GPU keeps its place, though a spare is there.
s/if (first->held)/if (false)/
