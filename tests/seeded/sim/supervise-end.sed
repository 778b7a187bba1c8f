# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# A job ends again with every event after its end.
s/if (super->job == DS_JOB_DONE)/if (false)/
s/\[W_GONE\] = STAY(DONE)/[W_GONE] = FINISH/
