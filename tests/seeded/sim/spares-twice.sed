# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A spare may be given to two places.
s/^    entry_of(spares, place)->used = true;//
