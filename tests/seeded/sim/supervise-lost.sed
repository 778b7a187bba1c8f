# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The ranks of a lost host are forgotten.
s/^    end_ranks(super, \&super->args.host\[index\], now_ns);//
