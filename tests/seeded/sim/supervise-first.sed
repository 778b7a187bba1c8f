# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A later failure takes the place of the first.
s/if (super->first.victim \&\& !failure->victim)/if (!failure->victim)/
