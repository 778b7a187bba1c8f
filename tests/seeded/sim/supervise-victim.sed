# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A victim stays the one that is named.
s/if (super->first.victim \&\& !failure->victim)/if (false)/
