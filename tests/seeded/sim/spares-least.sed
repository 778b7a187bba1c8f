# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Hosts are left out below the least number.
s/ds_placement_cut(&next, spares->args.least,/ds_placement_cut(\&next, 1,/
