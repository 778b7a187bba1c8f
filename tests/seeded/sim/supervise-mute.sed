# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The host that is cut hides behind its victims.
s/^        blame_mute(super, now_ns);/        ;/
