# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A host that does not answer the kill is waited for.
s/case CLOSE: super->deadline_ns = .*/case CLOSE: super->deadline_ns = 0; break;/
