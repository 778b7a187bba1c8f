# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Who does not listen is never killed.
s/case ABORT: super->deadline_ns = .*/case ABORT: super->deadline_ns = 0; break;/
