# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A host that is heard again keeps its place in the list.
s/if (entry->listed \&\& pulse->newest == host)/if (entry->listed)/
