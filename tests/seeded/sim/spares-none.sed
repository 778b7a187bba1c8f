# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A lost host is not replaced.
s/if (lost\[place\])/if (false)/; s/case DS_FAILURE_SILENT:/case DS_FAILURE_SILENT: return false;/; s/case DS_FAILURE_HOST:/case DS_FAILURE_HOST: return false;/
