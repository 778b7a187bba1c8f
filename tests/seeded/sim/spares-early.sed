# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A host is left out though a spare is there.
s/if (spare != NULL) {/if (spare != NULL \&\& !fewer) {/
