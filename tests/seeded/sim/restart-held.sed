# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A GPU that another job holds is waited for once, then called a loop.
s/&& !facts->held &&/\&\&/
