# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A host that was replaced may be used again.
s/entry_of(spares, place)->failed = true;//
