# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A host that is told gone twice counts twice.
s/if (host->state == DS_HOST_GONE)/if (false)/
