# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Nobody asks whether the job can be divided among the hosts that are left.
s/&spares->args.fit)/\&(struct ds_fit){0})/
