# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A job is started again whatever it failed of.
s/(facts->on & facts->cause) == 0/false/
