# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Four times as many beats as a host can be behind.
s/pulse->beat_ns = now_ns + ds_pulse_interval_ns(pulse->args.silent_ns);/pulse->beat_ns = now_ns + ds_pulse_interval_ns(pulse->args.silent_ns) \/ 4;/
