# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# One host more than need be is left out.
s/while (next.places > spares->args.most)/if (next.places > 1)/
