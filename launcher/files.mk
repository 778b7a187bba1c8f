# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
SRC_launcher := launcher/agent.c launcher/bind.c launcher/cgroup.c launcher/cores.c launcher/gather.c launcher/gpulock.c \
    launcher/gpus.c launcher/guard.c launcher/helper.c launcher/loop.c launcher/oom.c launcher/probe.c launcher/program.c \
    launcher/rank.c launcher/reap.c launcher/signals.c launcher/spawn.c launcher/spec.c launcher/topology.c launcher/fleet/cause.c \
    launcher/fleet/fleet.c launcher/fleet/fleet_host.c launcher/fleet/logmux.c \
    launcher/fleet/meet.c launcher/fleet/pulse.c launcher/fleet/restart.c launcher/fleet/spares.c \
    launcher/fleet/store.c launcher/fleet/supervise.c launcher/hosts/hostfile.c \
    launcher/hosts/hostfile_yaml.c launcher/hosts/hostlist.c launcher/hosts/nodefile.c launcher/hosts/placement.c \
    launcher/hosts/range.c launcher/hosts/roster.c launcher/hosts/select.c \
    launcher/hosts/slurm_env.c launcher/remote/boot.c launcher/remote/channel.c \
    launcher/remote/door.c launcher/remote/etc_hosts.c launcher/remote/join.c launcher/remote/join_agent.c \
    launcher/remote/known_hosts.c launcher/remote/local.c launcher/remote/names.c \
    launcher/remote/openssh.c launcher/remote/pattern.c launcher/remote/seal.c launcher/remote/sealed.c \
    launcher/remote/slurm.c launcher/remote/slurm_step.c launcher/remote/ssh.c \
    launcher/remote/ssh_agent.c launcher/remote/ssh_auth.c launcher/remote/ssh_config.c \
    launcher/remote/ssh_crypto.c launcher/remote/ssh_key.c launcher/remote/ssh_link.c launcher/remote/ssh_session.c \
    launcher/remote/ssh_site.c launcher/remote/trust.c
