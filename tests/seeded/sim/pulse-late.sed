# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A silent host is given twice the time.
s/heard_ns + pulse->args.silent_ns;/heard_ns + 2 * pulse->args.silent_ns;/
